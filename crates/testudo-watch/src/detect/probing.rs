//! Limits being probed: somebody runs into rate limits again and again.
//!
//! Looks for: many requests of one user, service or address within a minute that a limit stopped (or
//! would have, in mode report). State: such requests of the last minute. Knob: `requests`. Needs no
//! warm-up. The limit already does its work, so this is told and not contained.

use serde::{Deserialize, Serialize};
use testudo_model::Reason;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{Counted, judged, number};
use super::sliding::{Sliding, keep_samples};
use super::{Context, Detect};
use crate::window::{MergedWindow, Outcome, PrincipalStats};

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Probing {
    #[serde(skip, default = "minute")]
    minute: Sliding<Subject, Counted>,
}

fn minute() -> Sliding<Subject, Counted> {
    Sliding::minute(8192)
}

impl Default for Probing {
    fn default() -> Self {
        Probing { minute: minute() }
    }
}

impl Detect for Probing {
    const DETECTOR: Detector = Detector::Probing;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for (key, stats) in judged(window, context) {
            let limited = stats.limited();
            if limited == 0 {
                continue;
            }
            let who = Subject::of(&key.principal);
            let sum = self.minute.add(who.clone(), window.start, |sum| {
                sum.count += limited;
                let all = stats.operations.values();
                let ids = all.flat_map(|stats| stats.samples.ids(is_limited));
                keep_samples(&mut sum.samples, ids);
            });
            let Some(sum) = sum else {
                continue;
            };
            let seen = number(sum.count);
            if seen < context.settings.probing_requests {
                continue;
            }
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                title: format!("{} ran into rate limits {seen} times in a minute", who.name),
                who,
                what: most_limited(stats),
                severity: Severity::Low,
                comparison: Comparison {
                    what: "requests a minute over a limit".to_owned(),
                    usual: None,
                    seen,
                    unit: "requests".to_owned(),
                },
                samples: sum.samples,
            });
        }
        found
    }
}

fn is_limited(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Denied(Reason::LimitExceeded) | Outcome::Reported(Reason::LimitExceeded)
    )
}

/// The service whose limit it mostly ran into.
fn most_limited(stats: &PrincipalStats) -> Target {
    let limited = [Reason::LimitExceeded];
    let most = stats
        .operations
        .iter()
        .max_by_key(|(_, stats)| stats.outcomes.stopped_or_reported_for(&limited));
    Target {
        service: most
            .and_then(|(key, _)| key.service.as_ref())
            .map(ToString::to_string),
        ..Target::default()
    }
}
