//! Errors: a service answers with 5xx, or cannot be reached, more often than usual.
//!
//! Looks for: a share of errors on one edge and operation over the last minute, over a floor and five
//! times the usual share. State: requests and errors of the last minute; the usual share, learned a
//! minute at a time and guarded. Knobs: `share`, `requests`. Waits two minutes after the mesh is first
//! watched and thirty seconds after a workload of the service started. A symptom.

use serde::{Deserialize, Serialize};

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::number;
use super::sliding::{Sliding, Sum, keep_samples};
use super::usual::{Pace, UsualTable, guarded};
use super::{Context, Detect};
use crate::window::{EdgeKey, MergedWindow, Outcome, StatusClass, is_refusal};

const KNOWN: u32 = 10;
const FACTOR: f64 = 5.0;
const START: u64 = 120;
const RESTART: u64 = 30;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Errors {
    usual: UsualTable,
    #[serde(skip, default = "minute")]
    minute: Sliding<EdgeKey, Shares>,
    #[serde(skip, default = "pace")]
    pace: Pace<String>,
}

fn minute() -> Sliding<EdgeKey, Shares> {
    Sliding::minute(8192)
}

fn pace() -> Pace<String> {
    Pace::new(60)
}

impl Default for Errors {
    fn default() -> Self {
        Errors {
            usual: UsualTable::default(),
            minute: minute(),
            pace: pace(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Shares {
    requests: u64,
    errors: u64,
    samples: Vec<String>,
}

impl Sum for Shares {
    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        keep_samples(&mut self.samples, other.samples.iter().cloned());
    }
}

impl Detect for Errors {
    const DETECTOR: Detector = Detector::Errors;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let settings = context.settings;
        let mut found = Vec::new();
        for (key, stats) in &window.counts.edges {
            let Some(service) = &key.service else {
                continue;
            };
            let errors = stats.errors();
            let sum = self.minute.add(key.clone(), window.start, |sum| {
                sum.requests += stats.outcomes.requests();
                sum.errors += errors;
                let own = stats.statuses.of(StatusClass::ServerError) > 0;
                keep_samples(&mut sum.samples, stats.samples.ids(|o| is_error(o, own)));
            });
            let Some(sum) = sum else {
                continue;
            };
            let share = number(sum.errors) / number(sum.requests).max(1.0);
            let place = place(key);
            let usual = self.usual.of(&place).known(KNOWN);
            let expected = usual.map_or(0.0, |level| FACTOR * level);
            let threshold = settings.errors_share.max(expected);
            self.pace.note(place, guarded(share, threshold, FACTOR));
            if errors == 0
                || number(sum.errors) < settings.errors_requests
                || share < threshold
                || context.age() < START
                || context.deploys.recent(Some(service), window.start, RESTART)
            {
                continue;
            }
            let name = key.operation.as_ref().unwrap_or(service);
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                who: Subject::edge(key.caller.as_deref(), service),
                what: Target::new(key.caller.as_ref(), Some(service), key.operation.as_ref()),
                title: format!("{:.0} % of the answers of {name} are errors", share * 100.0),
                severity: if share > 0.5 {
                    Severity::High
                } else {
                    Severity::Medium
                },
                comparison: Comparison {
                    what: "share of errors".to_owned(),
                    usual: usual.map(|usual| usual * 100.0),
                    seen: share * 100.0,
                    unit: "%".to_owned(),
                },
                samples: sum.samples,
            });
        }
        for (key, largest) in self.pace.due(window.start) {
            self.usual.learn(&key, window.start, largest);
        }
        found
    }
}

/// `own`: the application itself answered with 5xx, so a permitted request may be one of those.
fn is_error(outcome: Outcome, own: bool) -> bool {
    match outcome {
        Outcome::Denied(reason) => !is_refusal(reason),
        Outcome::Permitted | Outcome::Reported(_) => own,
    }
}

pub(super) fn place(key: &EdgeKey) -> String {
    format!(
        "{} {} {} {}",
        key.hop.as_str(),
        key.caller.as_deref().unwrap_or("-"),
        key.service.as_deref().unwrap_or("-"),
        key.operation.as_deref().unwrap_or("-"),
    )
}
