//! The last hour of the mesh's edges: ten minutes in steps of ten seconds, the rest in minutes.

use std::collections::VecDeque;
use std::sync::Arc;

use testudo_watch::window::{Counts, Distinct, EdgeKey, EdgeStats, Limits, Samples, Table};

/// A fine step, in seconds.
pub const STEP: u64 = 10;
/// A coarse step, in seconds.
const COARSE: u64 = 60;
/// So long fine steps are kept, in seconds.
const FINE_FOR: u64 = 600;
/// So long coarse steps are kept, in seconds.
const KEPT_FOR: u64 = 3600;

/// What went over the edges in some seconds.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// When it begins, in seconds since the epoch.
    pub start: u64,
    /// How long it is, in seconds.
    pub seconds: u64,
    /// By edge; without paths, addresses and samples.
    pub edges: Table<EdgeKey, EdgeStats>,
    /// Requests whose key found no room.
    pub dropped_keys: u64,
}

impl Span {
    fn merge(&mut self, key: &EdgeKey, stats: &EdgeStats) {
        if let Some(ours) = self.edges.get_mut(key) {
            ours.merge(stats);
        } else if self.edges.len() < Limits::MESH.edges {
            self.edges.insert(key.clone(), stats.clone());
        } else {
            let requests = stats.outcomes.requests();
            self.dropped_keys = self.dropped_keys.saturating_add(requests);
        }
    }
}

/// Spans, oldest first. They are shared with readers, and copied only when one is still read while it
/// grows.
#[derive(Debug, Default)]
pub struct History {
    fine: VecDeque<Arc<Span>>,
    coarse: VecDeque<Arc<Span>>,
}

impl History {
    /// Adds a window's edges. What is older than everything kept is left out.
    pub fn add(&mut self, start: u64, counts: &Counts) {
        let newest = self.fine.back().map_or(start, |span| span.start.max(start));
        if start.saturating_add(KEPT_FOR) < newest {
            return;
        }
        let is_fine = start.saturating_add(FINE_FOR) >= newest;
        let (spans, seconds) = if is_fine {
            (&mut self.fine, STEP)
        } else {
            (&mut self.coarse, COARSE)
        };
        if let Some(span) = span_at(spans, start - start % seconds, seconds) {
            for (key, stats) in &counts.edges {
                span.merge(key, &without_detail(stats));
            }
            let dropped = counts.dropped.edges;
            span.dropped_keys = span.dropped_keys.saturating_add(dropped);
        }
        self.age(newest);
    }

    /// The spans that ended within the last `seconds`, oldest first.
    pub fn recent(&self, seconds: u64, now_seconds: u64) -> Vec<Arc<Span>> {
        let since = now_seconds.saturating_sub(seconds);
        let all = self.coarse.iter().chain(&self.fine);
        all.filter(|span| span.start + span.seconds > since)
            .cloned()
            .collect()
    }

    /// Fine spans become part of coarse ones, coarse ones go.
    fn age(&mut self, newest: u64) {
        while let Some(oldest) = self
            .fine
            .pop_front_if(|span| span.start + FINE_FOR < newest)
        {
            let start = oldest.start - oldest.start % COARSE;
            let Some(span) = span_at(&mut self.coarse, start, COARSE) else {
                continue;
            };
            for (key, stats) in &oldest.edges {
                span.merge(key, stats);
            }
            span.dropped_keys = span.dropped_keys.saturating_add(oldest.dropped_keys);
        }
        while self
            .coarse
            .pop_front_if(|span| span.start + KEPT_FOR < newest)
            .is_some()
        {}
    }
}

/// The span that begins there, made if need be; in order.
fn span_at(spans: &mut VecDeque<Arc<Span>>, start: u64, seconds: u64) -> Option<&mut Span> {
    let place = spans.partition_point(|span| span.start < start);
    if spans.get(place).is_none_or(|span| span.start != start) {
        let span = Span {
            start,
            seconds,
            ..Span::default()
        };
        spans.insert(place, Arc::new(span));
    }
    spans.get_mut(place).map(Arc::make_mut)
}

fn without_detail(stats: &EdgeStats) -> EdgeStats {
    EdgeStats {
        outcomes: stats.outcomes.clone(),
        statuses: stats.statuses.clone(),
        duration_us: stats.duration_us.clone(),
        guard_us: stats.guard_us.clone(),
        users: stats.users.clone(),
        paths: Distinct::default(),
        addresses: Distinct::default(),
        samples: Samples::default(),
        ..*stats
    }
}
