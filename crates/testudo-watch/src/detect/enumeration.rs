//! One user walks through objects (broken object level authorization, or a copy of everything).
//!
//! Looks for: many different paths of one operation by one verified user within a minute. Refused ones
//! count threefold: somebody who is refused object after object is not browsing.
//! State: distinct paths of the last minute by user and operation; what is usual for each, learned from
//! the largest minute out of five. Knobs: `objects`, `factor`. Needs no warm-up.

use serde::{Deserialize, Serialize};
use testudo_model::Reason;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{judged, number, samples};
use super::sliding::{Sliding, Sum, keep_samples};
use super::usual::{Pace, UsualTable, guarded};
use super::{Context, Detect};
use crate::window::{Distinct, MergedWindow, OperationStats, Principal};

const MOST: usize = 8192;
/// Periods of five minutes in which a user was there before their own usual counts.
const KNOWN: u32 = 3;
const REFUSED_WEIGHT: f64 = 3.0;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Enumeration {
    usual: UsualTable,
    #[serde(skip, default = "minute")]
    minute: Sliding<(String, Target), Walk>,
    #[serde(skip, default = "pace")]
    pace: Pace<String>,
}

fn minute() -> Sliding<(String, Target), Walk> {
    Sliding::minute(MOST)
}

fn pace() -> Pace<String> {
    Pace::new(300)
}

impl Default for Enumeration {
    fn default() -> Self {
        Enumeration {
            usual: UsualTable::default(),
            minute: minute(),
            pace: pace(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Walk {
    paths: Distinct,
    refused: u64,
    samples: Vec<String>,
}

impl Sum for Walk {
    fn merge(&mut self, other: &Self) {
        self.paths.merge(&other.paths);
        self.refused += other.refused;
        keep_samples(&mut self.samples, other.samples.iter().cloned());
    }
}

impl Walk {
    fn take_in(&mut self, stats: &OperationStats) {
        self.paths.merge(&stats.paths);
        let by_policy = [Reason::AuthzUser, Reason::Contained];
        self.refused += stats.outcomes.stopped_or_reported_for(&by_policy);
        // The application's own refusals say the same.
        self.refused += stats.statuses.of(crate::window::StatusClass::Forbidden);
        keep_samples(&mut self.samples, samples(stats.samples.iter()));
    }

    /// How many objects, refused ones counting more; a path that is refused again is one object.
    fn weight(&self) -> f64 {
        let paths = number(self.paths.count());
        let refused = number(self.refused).min(paths);
        paths + (REFUSED_WEIGHT - 1.0) * refused
    }
}

impl Detect for Enumeration {
    const DETECTOR: Detector = Detector::Enumeration;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let settings = context.settings;
        let mut found = Vec::new();
        for (key, stats) in judged(window, context) {
            let Principal::User(user) = &key.principal else {
                continue;
            };
            for (operation, stats) in &stats.operations {
                let (Some(service), Some(name)) = (&operation.service, &operation.operation) else {
                    continue;
                };
                let what = Target::new(None, Some(service), Some(name));
                let key = (user.to_string(), what.clone());
                let Some(walk) = self.minute.add(key, window.start, |w| w.take_in(stats)) else {
                    continue;
                };
                let seen = walk.weight();
                let usual_key = format!("{user} {name}");
                let usual = self.usual.of(&usual_key);
                let known = usual.known(KNOWN);
                let expected = known.map_or(0.0, |level| {
                    settings.enumeration_factor * level + 3.0 * usual.spread()
                });
                let threshold = settings.enumeration_objects.max(expected);
                let learned = guarded(seen, threshold, settings.enumeration_factor);
                self.pace.note(usual_key, learned);
                if seen < threshold {
                    continue;
                }
                let paths = number(walk.paths.count());
                found.push(Anomaly {
                    detector: Self::DETECTOR,
                    at: context.now,
                    who: Subject::of(&crate::window::Principal::User(user.clone())),
                    what,
                    title: title(user, name, &walk, known),
                    severity: Severity::High,
                    comparison: Comparison {
                        what: "distinct paths a minute".to_owned(),
                        usual: known,
                        seen: paths,
                        unit: "paths".to_owned(),
                    },
                    samples: walk.samples,
                });
            }
        }
        for (key, largest) in self.pace.due(window.start) {
            self.usual.learn(&key, window.start, largest);
        }
        found
    }
}

fn title(user: &str, operation: &str, walk: &Walk, usual: Option<f64>) -> String {
    let paths = walk.paths.count();
    let refused = match walk.refused {
        0 => String::new(),
        refused => format!(", {} refused", refused.min(paths)),
    };
    let usual = usual.map_or_else(String::new, |usual| format!(" (usually {usual:.0})"));
    format!("{user} asked {operation} for {paths} different objects in a minute{refused}{usual}")
}
