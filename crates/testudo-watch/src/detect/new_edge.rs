//! New edges: a service calls what it never called before (lateral movement, a stolen key).
//!
//! Looks for: a caller and a called service that were not seen together while the mesh was learned. A
//! caller whose workload was started lately may bring new edges with it: those are learned in silence. A refused
//! call teaches nothing. State: known edges and when they were last seen. Knob: `learn`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use testudo_model::Hop;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{number, samples};
use super::{Context, Detect};
use crate::window::{MergedWindow, Outcomes, Samples, Table};

/// Edges that are remembered.
const MOST: usize = 16_384;
/// Edges that were not used for as long are forgotten: a quarter, in seconds.
const FORGET: u64 = 90 * 86_400;
/// How long after a workload of the caller started its new edges are part of the new code, in seconds.
const DEPLOYED: u64 = 900;
/// How long a new edge is news, in seconds.
const NEWS: u64 = 30;

/// See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct NewEdge {
    /// `CALLER SERVICE` to when it was last used.
    known: BTreeMap<String, u64>,
    /// Edges that were said: when, so that one that goes on is one finding.
    #[serde(skip)]
    said: BTreeMap<String, u64>,
}

impl Detect for NewEdge {
    const DETECTOR: Detector = Detector::NewEdge;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let at = window.start;
        let learning = context.age() < seconds(context.settings.new_edge_learn);
        let mut found = Vec::new();
        for ((caller, service), (outcomes, kept, operation)) in edges(window) {
            let key = format!("{caller} {service}");
            if let Some(last) = self.known.get_mut(&key) {
                *last = at;
                continue;
            }
            let said = self.said.get(&key).copied();
            let deployed = context.deploys.restarted(&caller, at, DEPLOYED);
            let passed = outcomes.permitted() > 0;
            if learning || deployed || said.is_some_and(|said| at.saturating_sub(said) > NEWS) {
                if passed && self.known.len() < MOST {
                    self.known.insert(key, at);
                }
                continue;
            }
            // Refused ones are said too, while the mesh is not being learned any more.
            if said.is_none() && self.said.len() < MOST {
                self.said.insert(key, at);
            }
            let place = operation.clone().unwrap_or_else(|| service.clone());
            let verb = if passed { "called" } else { "tried to call" };
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                who: Subject::service(&caller),
                title: format!("{caller} {verb} {place}; it never called {service} before"),
                what: Target {
                    caller: Some(caller),
                    service: Some(service),
                    operation,
                },
                severity: if passed {
                    Severity::High
                } else {
                    Severity::Medium
                },
                comparison: Comparison {
                    what: "requests over this edge".to_owned(),
                    usual: Some(0.0),
                    seen: number(outcomes.requests()),
                    unit: "requests".to_owned(),
                },
                samples: samples(kept.iter()),
            });
        }
        self.known
            .retain(|_, last| at.saturating_sub(*last) < FORGET);
        self.said.retain(|_, said| at.saturating_sub(*said) < 3600);
        found
    }
}

type Edge = (Outcomes, Samples, Option<String>);

/// Edges between services, over their operations; the operation where it is one.
fn edges(window: &MergedWindow) -> Table<(String, String), Edge> {
    let mut edges: Table<(String, String), Edge> = Table::default();
    for (key, stats) in &window.counts.edges {
        let (Hop::Mesh, Some(caller), Some(service)) = (key.hop, &key.caller, &key.service) else {
            continue;
        };
        // The gateway's edges are routes of the bundle: people put them there.
        if &**caller == "gateway" {
            continue;
        }
        let operation = key.operation.as_ref().map(ToString::to_string);
        let edge = edges
            .entry((caller.to_string(), service.to_string()))
            .or_insert_with(|| (Outcomes::default(), Samples::default(), operation.clone()));
        edge.0.merge(&stats.outcomes);
        edge.1.merge(&stats.samples);
        if edge.2 != operation {
            edge.2 = None;
        }
    }
    edges
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a duration of the bundle"
)]
pub(super) fn seconds(value: f64) -> u64 {
    value.max(0.0) as u64
}
