//! Volume out (exfiltration): somebody fetches far more than they usually do.
//!
//! Looks for: bytes of responses to one verified user, one service, or one address within a minute, over
//! a floor and over what is usual for that principal and operation. What is usual is the largest minute
//! out of five; as long as a principal is new, what others of its kind fetch from the
//! same operation stands in, and without that ten times the floor. On a mesh that is watched for less than
//! ten minutes, a service that fetches for no user is held to the floor itself. State: bytes of the last minute by
//! principal and service. Knobs: `bytes`, `factor`.

use serde::{Deserialize, Serialize};

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{Counted, judged, number, samples};
use super::sliding::{Sliding, keep_samples};
use super::usual::{Pace, UsualTable, guarded};
use super::{Context, Detect};
use crate::window::MergedWindow;

const MOST: usize = 8192;
/// Periods of five minutes with traffic before a principal's own usual counts. Shorter ones would learn
/// the beginning of a job as what is usual.
const KNOWN: u32 = 3;
/// Periods before what others fetch counts.
const PEERS_KNOWN: u32 = 2;
/// Times the floor where nothing is known.
const UNKNOWN: f64 = 10.0;
/// For so long a mesh is new, in seconds: what a service fetches for nobody is then held to the floor.
const FRESH: u64 = 600;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Volume {
    usual: UsualTable,
    #[serde(skip, default = "minute")]
    minute: Sliding<(Subject, Target), Counted>,
    #[serde(skip, default = "pace")]
    pace: Pace<String>,
}

fn minute() -> Sliding<(Subject, Target), Counted> {
    Sliding::minute(MOST)
}

fn pace() -> Pace<String> {
    Pace::new(300)
}

impl Default for Volume {
    fn default() -> Self {
        Volume {
            usual: UsualTable::default(),
            minute: minute(),
            pace: pace(),
        }
    }
}

impl Detect for Volume {
    const DETECTOR: Detector = Detector::Volume;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let settings = context.settings;
        let mut found = Vec::new();
        for (key, stats) in judged(window, context) {
            let who = Subject::of(&key.principal);
            for (operation, stats) in &stats.operations {
                if stats.bytes_out == 0 {
                    continue;
                }
                let service = operation.service.as_ref();
                let mut what = Target::new(None, service, operation.operation.as_ref());
                if who.kind == super::SubjectKind::Service {
                    what.caller = Some(who.name.clone());
                }
                let sum = self
                    .minute
                    .add((who.clone(), what.clone()), window.start, |sum| {
                        sum.count = sum.count.saturating_add(stats.bytes_out);
                        keep_samples(&mut sum.samples, samples(stats.samples.iter()));
                    });
                let Some(sum) = sum else {
                    continue;
                };
                let seen = number(sum.count);
                let place = what.operation.as_deref().or(what.service.as_deref());
                let place = place.unwrap_or_default();
                let own = format!("{} {place}", who.name);
                let peers = format!("{:?} {place}", who.kind);
                let known = self
                    .usual
                    .of(&own)
                    .known(KNOWN)
                    .or_else(|| self.usual.of(&peers).known(PEERS_KNOWN));
                let expected = match known {
                    Some(level) => settings.volume_factor * level,
                    None if context.age() < FRESH && is_alone(window, &what) => 0.0,
                    None => UNKNOWN * settings.volume_bytes,
                };
                let threshold = settings.volume_bytes.max(expected);
                // What nothing was known of is learned as it is: it was let pass.
                let learned = match known {
                    None if seen < threshold => seen,
                    _ => guarded(seen, threshold, settings.volume_factor),
                };
                self.pace.note(own, learned);
                self.pace.note(peers, learned);
                if seen < threshold {
                    continue;
                }
                found.push(Anomaly {
                    detector: Self::DETECTOR,
                    at: context.now,
                    title: format!(
                        "{} fetched {} from {place} in a minute{}",
                        who.name,
                        bytes(seen),
                        known.map_or_else(String::new, |k| format!(" (usually {})", bytes(k))),
                    ),
                    who: who.clone(),
                    what,
                    severity: Severity::High,
                    comparison: Comparison {
                        what: "bytes out a minute".to_owned(),
                        usual: known,
                        seen,
                        unit: "bytes".to_owned(),
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

/// Whether a service calls this for no user at all.
fn is_alone(window: &MergedWindow, what: &Target) -> bool {
    if what.caller.is_none() {
        return false;
    }
    let same = |name: &Option<String>, key: &Option<crate::window::Name>| {
        name.as_deref() == key.as_deref()
    };
    window.counts.edges.iter().any(|(key, stats)| {
        key.hop == testudo_model::Hop::Mesh
            && same(&what.caller, &key.caller)
            && same(&what.service, &key.service)
            && same(&what.operation, &key.operation)
            && stats.with_user + stats.anonymous == 0
    })
}

/// For people.
fn bytes(count: f64) -> String {
    let mebibytes = count / 1_048_576.0;
    if mebibytes >= 1.0 {
        format!("{mebibytes:.0} MiB")
    } else {
        format!("{:.0} KiB", count / 1024.0)
    }
}
