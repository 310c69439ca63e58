//! Rate: many more, or many fewer, requests over an edge than usual at this time.
//!
//! Looks for: requests of ten seconds whose [`Baseline`] (recent level, time of day, hour of the week)
//! calls them unusual, and that differ by a factor. It must hold for three periods in a row: a short
//! burst is no news. State: one baseline for each caller and service. Knobs: `factor`, `requests`. Warms
//! up for twenty minutes; waits two minutes after a deployment of the service. A symptom.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use testudo_model::Hop;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{number, samples};
use super::sliding::keep_samples;
use super::{Context, Detect};
use crate::baseline::{Baseline, Reading, UNUSUAL};
use crate::window::{MergedWindow, Name, Table};

/// Edges with a baseline.
const MOST: usize = 1024;
const PERIOD: u64 = 10;
const IN_A_ROW: u32 = 3;
const DEPLOYED: u64 = 120;
/// An edge that was idle for as long is forgotten: two weeks.
const FORGET: u64 = 14 * 86_400;

/// See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Rate {
    edges: BTreeMap<String, Series>,
    #[serde(skip)]
    period: u64,
    #[serde(skip)]
    current: Table<Edge, (u64, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Edge {
    hop: Hop,
    caller: Option<Name>,
    service: Name,
}

#[derive(Debug, Serialize, Deserialize)]
struct Series {
    baseline: Baseline,
    last: u64,
    /// Periods in a row that were unusual.
    #[serde(default)]
    run: u32,
    /// What was expected before the first of them.
    #[serde(default)]
    expected: f64,
}

impl Edge {
    fn key(&self) -> String {
        format!(
            "{} {} {}",
            self.hop.as_str(),
            self.caller.as_deref().unwrap_or("-"),
            self.service
        )
    }
}

impl Detect for Rate {
    const DETECTOR: Detector = Detector::Rate;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let period = window.start - window.start % PERIOD;
        let found = if self.period != 0 && period > self.period {
            self.close(context)
        } else {
            Vec::new()
        };
        self.period = period;
        for (key, stats) in &window.counts.edges {
            let Some(service) = &key.service else {
                continue;
            };
            let edge = Edge {
                hop: key.hop,
                caller: key.caller.clone(),
                service: service.clone(),
            };
            if self.current.len() >= MOST && !self.current.contains_key(&edge) {
                continue;
            }
            let (count, kept) = self.current.entry(edge).or_default();
            *count += stats.outcomes.requests();
            keep_samples(kept, samples(stats.samples.iter()));
        }
        found
    }
}

impl Rate {
    /// A period is over: every known edge is judged, also those on which nothing came.
    fn close(&mut self, context: &Context<'_>) -> Vec<Anomaly> {
        let at = self.period;
        for edge in self.current.keys() {
            if self.edges.len() < MOST {
                self.edges.entry(edge.key()).or_insert_with(|| Series {
                    baseline: Baseline::new(),
                    last: at,
                    run: 0,
                    expected: 0.0,
                });
            }
        }
        let mut current: BTreeMap<String, (Option<Edge>, u64, Vec<String>)> = BTreeMap::new();
        for (edge, (count, kept)) in self.current.drain(..) {
            current.insert(edge.key(), (Some(edge), count, kept));
        }
        let mut found = Vec::new();
        for (key, series) in &mut self.edges {
            let (edge, count, kept) = current.remove(key).unwrap_or((None, 0, Vec::new()));
            if edge.is_some() {
                series.last = at;
            }
            let time = i64::try_from(at).unwrap_or(i64::MAX);
            let reading = series.baseline.observe(time, number(count));
            let Some(edge) = edge.or_else(|| parse(key)) else {
                continue;
            };
            let deployed = context.deploys.recent(Some(&edge.service), at, DEPLOYED);
            // What goes on being unusual stretches the tail it is measured by: the first one's expectation
            // holds until the end.
            if series.run == 0 {
                series.expected = reading.expected;
            }
            let scored = series.run > 0 || reading.score >= UNUSUAL;
            let differs = differs(series.expected, &reading, number(count), context);
            if !scored || !differs || deployed {
                series.run = 0;
                continue;
            }
            series.run += 1;
            if series.run >= IN_A_ROW {
                found.push(anomaly(
                    &edge,
                    number(count),
                    series.expected,
                    kept,
                    context,
                ));
            }
        }
        self.edges
            .retain(|_, series| at.saturating_sub(series.last) < FORGET);
        found
    }
}

/// An edge on which nothing came, from its key.
fn parse(key: &str) -> Option<Edge> {
    let mut parts = key.split(' ');
    let hop = match parts.next()? {
        "edge" => Hop::Edge,
        _ => Hop::Mesh,
    };
    let caller = parts.next().filter(|caller| *caller != "-").map(Name::from);
    let service = Name::from(parts.next()?);
    Some(Edge {
        hop,
        caller,
        service,
    })
}

fn differs(expected: f64, reading: &Reading, count: f64, context: &Context<'_>) -> bool {
    let settings = context.settings;
    let periods = number(60 / PERIOD);
    let (more, fewer) = (count.max(expected), count.min(expected));
    more * periods >= settings.rate_requests
        && more >= settings.rate_factor * fewer.max(0.0)
        && more - fewer >= 4.0 * reading.spread
}

fn anomaly(
    edge: &Edge,
    count: f64,
    expected: f64,
    kept: Vec<String>,
    context: &Context<'_>,
) -> Anomaly {
    let periods = number(60 / PERIOD);
    let (seen, usual) = (count * periods, expected.max(0.0) * periods);
    let caller = edge.caller.as_deref();
    Anomaly {
        detector: Detector::Rate,
        at: context.now,
        who: Subject::edge(caller, &edge.service),
        what: Target::new(edge.caller.as_ref(), Some(&edge.service), None),
        title: format!(
            "{seen:.0} requests a minute from {} to {} (usually {usual:.0})",
            caller.unwrap_or("clients"),
            edge.service
        ),
        severity: Severity::Low,
        comparison: Comparison {
            what: "requests a minute".to_owned(),
            usual: Some(usual),
            seen,
            unit: "requests".to_owned(),
        },
        samples: kept,
    }
}
