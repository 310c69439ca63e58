//! Refusals: somebody is denied again and again, or an edge suddenly is.
//!
//! Looks for: refusals of one user, service or address within a minute, over a floor and over what is
//! usual for them; real ones and those of mode report alike. Those that other detectors know the meaning
//! of (limits, unknown paths, wrong credentials of addresses) do not count here. State: the last minute by
//! principal and service; what is usual. Knobs: `requests`, `factor`. A symptom: where a more specific
//! detector speaks of the same principal this makes no incident.

use serde::{Deserialize, Serialize};
use testudo_model::Reason;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{Counted, judged, number};
use super::sliding::{Sliding, keep_samples};
use super::usual::{Pace, UsualTable, guarded};
use super::{Context, Detect};
use crate::window::{MergedWindow, Outcome, is_refusal};

const KNOWN: u32 = 6;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Denials {
    usual: UsualTable,
    #[serde(skip, default = "minute")]
    minute: Sliding<(Subject, Option<String>), Counted>,
    #[serde(skip, default = "pace")]
    pace: Pace<String>,
}

fn minute() -> Sliding<(Subject, Option<String>), Counted> {
    Sliding::minute(8192)
}

fn pace() -> Pace<String> {
    Pace::new(300)
}

impl Default for Denials {
    fn default() -> Self {
        Denials {
            usual: UsualTable::default(),
            minute: minute(),
            pace: pace(),
        }
    }
}

impl Detect for Denials {
    const DETECTOR: Detector = Detector::Denials;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let settings = context.settings;
        let mut found = Vec::new();
        for (key, stats) in judged(window, context) {
            let who = Subject::of(&key.principal);
            for (operation, stats) in &stats.operations {
                let refused: u64 = stats
                    .outcomes
                    .iter()
                    .filter(|(outcome, _)| counts(*outcome))
                    .map(|(_, count)| count)
                    .sum();
                if refused == 0 {
                    continue;
                }
                let service = operation.service.as_ref().map(ToString::to_string);
                let place = (who.clone(), service.clone());
                let sum = self.minute.add(place, window.start, |sum| {
                    sum.count += refused;
                    keep_samples(&mut sum.samples, stats.samples.ids(counts));
                });
                let Some(sum) = sum else {
                    continue;
                };
                let seen = number(sum.count);
                let name = service.as_deref().unwrap_or("the gateway");
                let usual_key = format!("{} {name}", who.name);
                let known = self.usual.of(&usual_key).known(KNOWN);
                let expected = known.map_or(0.0, |level| settings.denials_factor * level);
                let threshold = settings.denials_requests.max(expected);
                let learned = guarded(seen, threshold, settings.denials_factor);
                self.pace.note(usual_key, learned);
                if seen < threshold {
                    continue;
                }
                found.push(Anomaly {
                    detector: Self::DETECTOR,
                    at: context.now,
                    title: format!(
                        "{} was refused {seen} times in a minute at {name}",
                        who.name
                    ),
                    who: who.clone(),
                    what: Target {
                        service,
                        ..Target::default()
                    },
                    severity: Severity::Medium,
                    comparison: Comparison {
                        what: "refusals a minute".to_owned(),
                        usual: known,
                        seen,
                        unit: "requests".to_owned(),
                    },
                    samples: sum.samples,
                });
            }
        }
        for (key, largest) in self.pace.due(window.start) {
            self.usual.learn(&key, window.start, largest);
        }
        found
    }
}

/// Refusals that mean something by themselves; what is already contained is known.
fn counts(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Permitted => false,
        Outcome::Denied(reason) | Outcome::Reported(reason) => {
            is_refusal(reason)
                && !matches!(
                    reason,
                    Reason::LimitExceeded
                        | Reason::RouteNone
                        | Reason::RouteUndocumented
                        | Reason::AuthnInvalid
                        | Reason::AuthnExpired
                        | Reason::Contained
                )
        }
    }
}
