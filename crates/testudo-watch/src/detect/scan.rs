//! Endpoint scan: somebody tries paths until one answers.
//!
//! Looks for: many different paths that lead nowhere (no route, not in the specification, the
//! application's own 404) by one user, service or address within a minute. State: distinct such paths
//! of the last minute. Knob: `paths`. Needs no warm-up. Addresses are named, never contained.

use serde::{Deserialize, Serialize};
use testudo_model::Reason;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{DistinctCounted, judged, number, samples};
use super::sliding::{Sliding, keep_samples};
use super::{Context, Detect};
use crate::window::{
    MergedWindow, OperationKey, OperationStats, Outcome, PrincipalStats, StatusClass,
};

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Scan {
    #[serde(skip, default = "minute")]
    minute: Sliding<Subject, DistinctCounted>,
}

fn minute() -> Sliding<Subject, DistinctCounted> {
    Sliding::minute(8192)
}

impl Default for Scan {
    fn default() -> Self {
        Scan { minute: minute() }
    }
}

impl Detect for Scan {
    const DETECTOR: Detector = Detector::Scan;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for (key, stats) in judged(window, context) {
            // A documented operation's 404 is an object that is not there: enumeration's business.
            if stats.unknown_paths.is_empty() || !stats.operations.iter().any(is_unknown) {
                continue;
            }
            let who = Subject::of(&key.principal);
            let sum = self.minute.add(who.clone(), window.start, |sum| {
                sum.distinct.merge(&stats.unknown_paths);
                keep_samples(&mut sum.samples, unknown_samples(stats));
            });
            let Some(sum) = sum else {
                continue;
            };
            let seen = number(sum.distinct.count());
            if seen < context.settings.scan_paths {
                continue;
            }
            let service = only_service(stats);
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                title: format!(
                    "{} tried {seen} paths that lead nowhere in a minute",
                    who.name
                ),
                severity: if who.is_verified() {
                    Severity::High
                } else {
                    Severity::Medium
                },
                who,
                what: Target {
                    service,
                    ..Target::default()
                },
                comparison: Comparison {
                    what: "distinct unknown paths a minute".to_owned(),
                    usual: None,
                    seen,
                    unit: "paths".to_owned(),
                },
                samples: sum.samples,
            });
        }
        found
    }
}

/// Whether requests led nowhere at all: to no operation, to one that is not described, or (`api: none`,
/// whose operations are methods) to the application's 404.
fn is_unknown((key, stats): (&OperationKey, &OperationStats)) -> bool {
    let name = key
        .operation
        .as_deref()
        .and_then(|name| name.split_once(':'));
    let described = name.is_some_and(|(_, name)| {
        name != "undocumented" && !name.chars().all(|c| c.is_ascii_uppercase())
    });
    let refused = [Reason::RouteNone, Reason::RouteUndocumented];
    !described
        && (stats.statuses.of(StatusClass::NotFound) > 0
            || stats.outcomes.stopped_or_reported_for(&refused) > 0)
}

/// The service that is scanned, where it is one.
fn only_service(stats: &PrincipalStats) -> Option<String> {
    let unknown = stats.operations.iter().filter(|entry| is_unknown(*entry));
    let mut services = unknown.map(|(key, _)| key.service.as_ref());
    let first = services.next()?;
    services
        .all(|other| other == first)
        .then(|| first.map(ToString::to_string))?
}

fn unknown_samples(stats: &PrincipalStats) -> Vec<String> {
    let unknown = |outcome: Outcome| match outcome {
        Outcome::Denied(reason) | Outcome::Reported(reason) => {
            matches!(reason, Reason::RouteNone | Reason::RouteUndocumented)
        }
        Outcome::Permitted => false,
    };
    let all = stats.operations.values().flat_map(|stats| {
        let own = stats.statuses.of(StatusClass::NotFound) > 0;
        let wanted = move |(outcome, _): &(Outcome, &str)| own || unknown(*outcome);
        stats.samples.iter().filter(wanted)
    });
    samples(all)
}
