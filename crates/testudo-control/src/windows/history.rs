//! The last hour of the mesh's edges: ten minutes in steps of ten seconds, the rest in minutes.
//!
//! A mesh of 200 services has some 10,000 operations that are called over edges, in each of 115 spans: what is kept
//! of an operation is what the graph shows of it and no more.

use std::collections::VecDeque;
use std::sync::Arc;

use testudo_watch::window::{
    Counts, Distinct, EdgeKey, EdgeStats, Limits, Quantiles, Samples, Table,
};

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
    /// By hop, caller and service (the operation is `None`); without paths, addresses and samples.
    pub edges: Table<EdgeKey, EdgeStats>,
    /// By operation, too.
    pub operations: Table<EdgeKey, OperationSpan>,
    /// Requests whose key found no room.
    pub dropped_keys: u64,
}

/// What was asked of an operation over one edge.
#[derive(Clone, Debug, Default)]
pub struct OperationSpan {
    /// All requests.
    pub requests: u64,
    /// Those that were refused to the caller.
    pub denied: u64,
    /// Those that would have been, in mode enforce.
    pub reported: u64,
    /// Those that failed.
    pub errors: u64,
    /// From the first byte judged to the last byte sent, in microseconds; of what was not denied.
    pub duration_us: Quantiles,
}

impl OperationSpan {
    fn of(stats: &EdgeStats) -> OperationSpan {
        OperationSpan {
            requests: stats.outcomes.requests(),
            denied: stats.outcomes.denied(),
            reported: stats.outcomes.reported(),
            errors: stats.errors(),
            duration_us: stats.duration_us.clone(),
        }
    }

    /// Takes in another one.
    pub fn merge(&mut self, other: &OperationSpan) {
        self.requests = self.requests.saturating_add(other.requests);
        self.denied = self.denied.saturating_add(other.denied);
        self.reported = self.reported.saturating_add(other.reported);
        self.errors = self.errors.saturating_add(other.errors);
        self.duration_us.merge(&other.duration_us);
    }
}

impl Span {
    fn add(&mut self, key: &EdgeKey, stats: &EdgeStats) {
        let edge = EdgeKey {
            operation: None,
            ..key.clone()
        };
        self.add_edge(&edge, &without_detail(stats));
        self.add_operation(key, &OperationSpan::of(stats));
    }

    fn merge(&mut self, other: &Span) {
        for (key, stats) in &other.edges {
            self.add_edge(key, stats);
        }
        for (key, stats) in &other.operations {
            self.add_operation(key, stats);
        }
        self.dropped_keys = self.dropped_keys.saturating_add(other.dropped_keys);
    }

    fn add_edge(&mut self, key: &EdgeKey, stats: &EdgeStats) {
        if let Some(ours) = self.edges.get_mut(key) {
            ours.merge(stats);
        } else if self.edges.len() < Limits::MESH.edges {
            self.edges.insert(key.clone(), stats.clone());
        } else {
            let requests = stats.outcomes.requests();
            self.dropped_keys = self.dropped_keys.saturating_add(requests);
        }
    }

    /// There are no more of these than the mesh's window has edges; an operation that finds no room is still
    /// part of its edge.
    fn add_operation(&mut self, key: &EdgeKey, stats: &OperationSpan) {
        if let Some(ours) = self.operations.get_mut(key) {
            ours.merge(stats);
        } else if self.operations.len() < Limits::MESH.edges {
            self.operations.insert(key.clone(), stats.clone());
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
                span.add(key, stats);
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
            span.merge(&oldest);
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
