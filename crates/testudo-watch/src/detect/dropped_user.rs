//! A service that drops the user: a user came in, and the call it makes for them carries none.
//!
//! Looks for: calls of a service without a user that were refused for that (or would have been, in mode
//! report), while users do arrive at that service. State: such calls of the last minute by caller and
//! operation; when users last arrived at each service. Knob: `requests`. Needs no warm-up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use testudo_model::{Hop, Reason};

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{Counted, number};
use super::sliding::{Sliding, keep_samples};
use super::{Context, Detect};
use crate::window::{EdgeStats, MergedWindow, Name, Outcome};

const MOST: usize = 4096;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct DroppedUser {
    #[serde(skip, default = "minute")]
    minute: Sliding<Target, Counted>,
    #[serde(skip)]
    users_at: BTreeMap<Name, u64>,
}

fn minute() -> Sliding<Target, Counted> {
    Sliding::minute(MOST)
}

impl Default for DroppedUser {
    fn default() -> Self {
        DroppedUser {
            minute: minute(),
            users_at: BTreeMap::new(),
        }
    }
}

impl Detect for DroppedUser {
    const DETECTOR: Detector = Detector::DroppedUser;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        for (key, stats) in &window.counts.edges {
            if let (Hop::Mesh, Some(service), true) = (key.hop, &key.service, stats.with_user > 0)
                && (self.users_at.len() < MOST || self.users_at.contains_key(service))
            {
                self.users_at.insert(service.clone(), window.start);
            }
        }
        self.users_at
            .retain(|_, at| window.start.saturating_sub(*at) < 60);
        let mut found = Vec::new();
        for (key, stats) in &window.counts.edges {
            let (Hop::Mesh, Some(caller), Some(service)) = (key.hop, &key.caller, &key.service)
            else {
                continue;
            };
            let dropped = dropped(stats);
            if dropped == 0 || &**caller == "gateway" || !self.users_at.contains_key(caller) {
                continue;
            }
            let what = Target::new(Some(caller), Some(service), key.operation.as_ref());
            let sum = self.minute.add(what.clone(), window.start, |sum| {
                sum.count += dropped;
                keep_samples(&mut sum.samples, stats.samples.ids(is_missing));
            });
            let Some(sum) = sum else {
                continue;
            };
            let seen = number(sum.count);
            if seen < context.settings.dropped_requests {
                continue;
            }
            let place = key.operation.as_ref().unwrap_or(service);
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                who: Subject::service(caller),
                title: format!(
                    "{caller} called {place} {seen} times in a minute without the user that it works for"
                ),
                what,
                severity: Severity::Medium,
                comparison: Comparison {
                    what: "calls a minute that lost their user".to_owned(),
                    usual: Some(0.0),
                    seen,
                    unit: "requests".to_owned(),
                },
                samples: sum.samples,
            });
        }
        found
    }
}

fn is_missing(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Denied(Reason::AuthnMissing) | Outcome::Reported(Reason::AuthnMissing)
    )
}

/// Calls that were refused since no user came along: those of the anonymous user did carry one.
fn dropped(stats: &EdgeStats) -> u64 {
    let missing = [Reason::AuthnMissing];
    let missing = stats.outcomes.stopped_or_reported_for(&missing);
    missing.min(stats.without_user)
}
