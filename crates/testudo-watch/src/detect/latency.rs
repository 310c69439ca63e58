//! Slow answers.
//!
//! Looks for: the median time of an edge and operation over the last minute, over a floor and a
//! multiple of what is usual there. State: a sketch of the last minute; the usual median, learned a
//! minute at a time and guarded. Knobs: `factor`, `least`. Warms up for twenty minutes on each edge, and
//! waits two minutes after a deployment of the service. A symptom.

use serde::{Deserialize, Serialize};

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::errors::place;
use super::keyed::{number, samples};
use super::sliding::{Sliding, Sum, keep_samples};
use super::usual::{Pace, UsualTable};
use super::{Context, Detect};
use crate::window::{EdgeKey, MergedWindow, Quantiles};

const KNOWN: u32 = 20;
/// Requests in a minute below which a median says little.
const LEAST_REQUESTS: u64 = 30;
const DEPLOYED: u64 = 120;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Latency {
    usual: UsualTable,
    #[serde(skip, default = "minute")]
    minute: Sliding<EdgeKey, Times>,
    #[serde(skip, default = "pace")]
    pace: Pace<String>,
}

fn minute() -> Sliding<EdgeKey, Times> {
    Sliding::minute(8192)
}

fn pace() -> Pace<String> {
    Pace::new(60)
}

impl Default for Latency {
    fn default() -> Self {
        Latency {
            usual: UsualTable::default(),
            minute: minute(),
            pace: pace(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Times {
    microseconds: Quantiles,
    samples: Vec<String>,
}

impl Sum for Times {
    fn merge(&mut self, other: &Self) {
        self.microseconds.merge(&other.microseconds);
        keep_samples(&mut self.samples, other.samples.iter().cloned());
    }
}

impl Detect for Latency {
    const DETECTOR: Detector = Detector::Latency;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let settings = context.settings;
        let mut found = Vec::new();
        for (key, stats) in &window.counts.edges {
            let Some(service) = &key.service else {
                continue;
            };
            let sum = self.minute.add(key.clone(), window.start, |sum| {
                sum.microseconds.merge(&stats.duration_us);
                keep_samples(&mut sum.samples, samples(stats.samples.iter()));
            });
            let Some(sum) = sum.filter(|sum| sum.microseconds.count() >= LEAST_REQUESTS) else {
                continue;
            };
            let Some(median) = sum.microseconds.quantile(0.5) else {
                continue;
            };
            let seconds = number(median) / 1e6;
            let place = place(key);
            let usual = self.usual.of(&place);
            let known = usual.known(KNOWN);
            let spread = usual.spread();
            self.pace.note(place, seconds);
            let Some(usual) = known else {
                continue;
            };
            let expected = (settings.latency_factor * usual).max(usual + 4.0 * spread);
            if seconds < settings.latency_least.max(expected)
                || context
                    .deploys
                    .recent(Some(service), window.start, DEPLOYED)
            {
                continue;
            }
            let name = key.operation.as_ref().unwrap_or(service);
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                who: Subject::edge(key.caller.as_deref(), service),
                what: Target::new(key.caller.as_ref(), Some(service), key.operation.as_ref()),
                title: format!(
                    "{name} takes {:.0} ms (usually {:.0})",
                    seconds * 1e3,
                    usual * 1e3
                ),
                severity: Severity::Low,
                comparison: Comparison {
                    what: "median time".to_owned(),
                    usual: Some(usual * 1e3),
                    seen: seconds * 1e3,
                    unit: "ms".to_owned(),
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
