//! Undocumented endpoints in use: requests that a service answered although its specification does not
//! have the operation (services with `undocumented: report` or `allow`).
//!
//! Looks for: such requests that were answered with success. Refused ones are a scan's business. State:
//! the last minute by service; what is usual for each. Knob: `requests`.

use serde::{Deserialize, Serialize};
use testudo_model::Reason;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{Counted, number, samples};
use super::sliding::{Sliding, keep_samples};
use super::usual::{Pace, UsualTable, guarded};
use super::{Context, Detect};
use crate::window::{EdgeKey, EdgeStats, MergedWindow, Outcome, StatusClass};

const KNOWN: u32 = 6;
const FACTOR: f64 = 3.0;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Undocumented {
    usual: UsualTable,
    #[serde(skip, default = "minute")]
    minute: Sliding<String, Counted>,
    #[serde(skip, default = "pace")]
    pace: Pace<String>,
}

fn minute() -> Sliding<String, Counted> {
    Sliding::minute(4096)
}

fn pace() -> Pace<String> {
    Pace::new(300)
}

impl Default for Undocumented {
    fn default() -> Self {
        Undocumented {
            usual: UsualTable::default(),
            minute: minute(),
            pace: pace(),
        }
    }
}

impl Detect for Undocumented {
    const DETECTOR: Detector = Detector::Undocumented;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for (key, stats) in &window.counts.edges {
            let Some(service) = &key.service else {
                continue;
            };
            let answered = answered(key, stats);
            // Once, at the hop where users are judged.
            if answered == 0 || key.hop != context.user_hop() {
                continue;
            }
            let sum = self.minute.add(service.to_string(), window.start, |sum| {
                sum.count += answered;
                keep_samples(&mut sum.samples, samples(stats.samples.iter()));
            });
            let Some(sum) = sum else {
                continue;
            };
            let seen = number(sum.count);
            let known = self.usual.of(service).known(KNOWN);
            let expected = known.map_or(0.0, |level| FACTOR * level);
            let threshold = context.settings.undocumented_requests.max(expected);
            self.pace
                .note(service.to_string(), guarded(seen, threshold, FACTOR));
            if seen < threshold {
                continue;
            }
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                who: Subject::edge(None, service),
                what: Target::new(None, Some(service), None),
                title: format!(
                    "{service} answered {seen} requests in a minute to operations that its specification does not have"
                ),
                severity: Severity::Medium,
                comparison: Comparison {
                    what: "answered undocumented requests a minute".to_owned(),
                    usual: known,
                    seen,
                    unit: "requests".to_owned(),
                },
                samples: sum.samples,
            });
        }
        for (service, largest) in self.pace.due(window.start) {
            self.usual.learn(&service, window.start, largest);
        }
        found
    }
}

/// Requests to what the specification does not have that had an answer worth having.
fn answered(key: &EdgeKey, stats: &EdgeStats) -> u64 {
    let named = key.operation.as_deref();
    let undocumented = named.is_some_and(|name| name.ends_with(":undocumented"));
    let passed: u64 = stats
        .outcomes
        .iter()
        .filter(|(outcome, _)| match outcome {
            Outcome::Reported(Reason::RouteUndocumented) => true,
            Outcome::Permitted | Outcome::Reported(_) => undocumented,
            Outcome::Denied(_) => false,
        })
        .map(|(_, count)| count)
        .sum();
    let success = [StatusClass::Success, StatusClass::Redirect];
    let success = success
        .into_iter()
        .map(|class| stats.statuses.of(class))
        .sum();
    passed.min(success)
}
