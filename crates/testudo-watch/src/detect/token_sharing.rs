//! One credential from many places: it was stolen, or is passed around.
//!
//! Looks for: a verified credential that is used from many addresses, or by many user agents, within
//! five minutes. State: distinct addresses and agents by credential (its hash); what is usual for each
//! user, so that a key which a whole fleet shares is learned. Knobs: `addresses`, `agents`. Needs no
//! warm-up.

use serde::{Deserialize, Serialize};
use testudo_model::Hop;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::number;
use super::sliding::{Sliding, Sum, keep_samples};
use super::usual::{Pace, UsualTable, guarded};
use super::{Context, Detect};
use crate::window::{Distinct, MergedWindow, Name, Principal, PrincipalKey};

const KNOWN: u32 = 12;
/// Times the usual number.
const FACTOR: f64 = 3.0;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct TokenSharing {
    usual: UsualTable,
    #[serde(skip, default = "five_minutes")]
    five_minutes: Sliding<u64, Places>,
    #[serde(skip, default = "pace")]
    pace: Pace<String>,
}

fn five_minutes() -> Sliding<u64, Places> {
    Sliding::new(50, 6, 16_384)
}

fn pace() -> Pace<String> {
    Pace::new(600)
}

impl Default for TokenSharing {
    fn default() -> Self {
        TokenSharing {
            usual: UsualTable::default(),
            five_minutes: five_minutes(),
            pace: pace(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Places {
    user: Option<Name>,
    addresses: Distinct,
    agents: Distinct,
    samples: Vec<String>,
}

impl Sum for Places {
    fn merge(&mut self, other: &Self) {
        if self.user.is_none() {
            self.user.clone_from(&other.user);
        }
        self.addresses.merge(&other.addresses);
        self.agents.merge(&other.agents);
        keep_samples(&mut self.samples, other.samples.iter().cloned());
    }
}

impl Detect for TokenSharing {
    const DETECTOR: Detector = Detector::TokenSharing;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let settings = context.settings;
        let mut found = Vec::new();
        for (credential, stats) in &window.counts.credentials {
            let places = self.five_minutes.add(*credential, window.start, |places| {
                places.user.clone_from(&stats.user);
                places.addresses.merge(&stats.addresses);
                places.agents.merge(&stats.agents);
                keep_samples(
                    &mut places.samples,
                    stats.sample.iter().map(|id| id.to_string()),
                );
            });
            let Some(places) = places else {
                continue;
            };
            let Some(user) = places.user else {
                continue;
            };
            let (addresses, agents) = (
                number(places.addresses.count()),
                number(places.agents.count()),
            );
            let known = self.usual.of(&user).known(KNOWN);
            let expected = known.map_or(0.0, |level| FACTOR * level);
            let threshold = settings
                .token_addresses
                .min(settings.token_agents)
                .max(expected);
            let learned = guarded(addresses.max(agents), threshold, FACTOR);
            self.pace.note(user.to_string(), learned);
            let (seen, unit) = if addresses >= settings.token_addresses.max(expected) {
                (addresses, "addresses")
            } else if agents >= settings.token_agents.max(expected) {
                (agents, "user agents")
            } else {
                continue;
            };
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                title: format!(
                    "one credential of {user} was used from {seen} {unit} in five minutes"
                ),
                who: Subject::of(&Principal::User(user.clone())),
                what: most_used(window, &user),
                severity: Severity::High,
                comparison: Comparison {
                    what: format!("{unit} of one credential in five minutes"),
                    usual: known,
                    seen,
                    unit: unit.to_owned(),
                },
                samples: places.samples,
            });
        }
        for (user, largest) in self.pace.due(window.start) {
            self.usual.learn(&user, window.start, largest);
        }
        found
    }
}

/// The service that the user called most: windows know credentials and services apart.
fn most_used(window: &MergedWindow, user: &Name) -> Target {
    let key = PrincipalKey {
        hop: Hop::Edge,
        principal: Principal::User(user.clone()),
    };
    let stats = window.counts.principals.get(&key);
    let most = stats.and_then(|stats| {
        let named = stats
            .operations
            .iter()
            .filter(|(key, _)| key.service.is_some());
        named.max_by_key(|(_, stats)| stats.outcomes.requests())
    });
    Target::new(None, most.and_then(|(key, _)| key.service.as_ref()), None)
}
