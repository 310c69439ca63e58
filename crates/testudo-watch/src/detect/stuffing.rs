//! Credential stuffing and password spraying.
//!
//! Looks for: many different wrong credentials from one address within a minute, or as many refused
//! logins there (the application's own 401); and wrong credentials from many addresses at once. Whose
//! names stand in them does not matter: a forged token counts for the address it came from, and for
//! nobody else. State: by address, the last minute. Knobs: `credentials`, `addresses`. Needs no warm-up.

use serde::{Deserialize, Serialize};
use testudo_model::Reason;

use super::anomaly::{Anomaly, Comparison, Detector, Severity, Subject, Target};
use super::keyed::{number, samples};
use super::sliding::{Sliding, Sum, keep_samples};
use super::{Context, Detect};
use crate::window::{
    Distinct, MergedWindow, Outcome, Principal, PrincipalStats, StatusClass, Table,
};

const MOST: usize = 16_384;
const WRONG: [Reason; 2] = [Reason::AuthnInvalid, Reason::AuthnExpired];

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Stuffing {
    #[serde(skip, default = "minute")]
    minute: Sliding<Subject, Tried>,
}

fn minute() -> Sliding<Subject, Tried> {
    Sliding::minute(MOST)
}

impl Default for Stuffing {
    fn default() -> Self {
        Stuffing { minute: minute() }
    }
}

/// What one address tried, and where most of it.
#[derive(Clone, Debug, Default)]
struct Tried {
    distinct: Distinct,
    count: u64,
    service: Option<String>,
    samples: Vec<String>,
}

impl Sum for Tried {
    fn merge(&mut self, other: &Self) {
        self.distinct.merge(&other.distinct);
        self.count += other.count;
        self.service.clone_from(&other.service);
        keep_samples(&mut self.samples, other.samples.iter().cloned());
    }
}

impl Detect for Stuffing {
    const DETECTOR: Detector = Detector::Stuffing;

    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly> {
        let mut found = Vec::new();
        for (key, stats) in &window.counts.principals {
            let Principal::Address(_) = key.principal else {
                continue;
            };
            let (wrong, service) = wrong_attempts(stats);
            if wrong == 0 {
                continue;
            }
            let who = Subject::of(&key.principal);
            let sum = self.minute.add(who.clone(), window.start, |sum| {
                sum.distinct.merge(&stats.credentials_wrong);
                sum.count += logins(stats);
                sum.service.clone_from(&service);
                keep_samples(&mut sum.samples, wrong_samples(stats));
            });
            let Some(sum) = sum else {
                continue;
            };
            let seen = number(sum.distinct.count().max(sum.count));
            if seen < context.settings.stuffing_credentials {
                continue;
            }
            found.push(Anomaly {
                detector: Self::DETECTOR,
                at: context.now,
                title: format!(
                    "{} tried {seen} credentials in a minute, none right",
                    who.name
                ),
                who,
                what: Target {
                    service,
                    ..Target::default()
                },
                severity: Severity::High,
                comparison: comparison("distinct wrong credentials a minute", seen, "credentials"),
                samples: sum.samples,
            });
        }
        found.extend(self.sprayed(window, context));
        found
    }
}

impl Stuffing {
    /// Few attempts each, from many addresses. Addresses that stand out by themselves are left to what was
    /// found of them.
    fn sprayed(&mut self, window: &MergedWindow, context: &Context<'_>) -> Option<Anomaly> {
        let mut targets: Table<Option<String>, u64> = Table::default();
        let mut kept = Vec::new();
        let mut addresses = 0;
        for (_, sum) in self.minute.sums(window.start) {
            if number(sum.distinct.count().max(sum.count)) < context.settings.stuffing_credentials {
                addresses += 1;
                *targets.entry(sum.service).or_default() += 1;
                keep_samples(&mut kept, sum.samples.into_iter().take(1));
            }
        }
        let seen = number(addresses);
        if seen < context.settings.stuffing_addresses {
            return None;
        }
        let service = targets.into_iter().max_by_key(|(_, count)| *count)?.0;
        let name = service.as_deref().unwrap_or("gateway");
        Some(Anomaly {
            detector: Self::DETECTOR,
            at: context.now,
            who: Subject::edge(None, name),
            title: format!("{seen} addresses tried wrong credentials at {name} in a minute"),
            what: Target {
                service,
                ..Target::default()
            },
            severity: Severity::High,
            comparison: comparison(
                "addresses with wrong credentials a minute",
                seen,
                "addresses",
            ),
            samples: kept,
        })
    }
}

fn comparison(what: &str, seen: f64, unit: &str) -> Comparison {
    Comparison {
        what: what.to_owned(),
        usual: None,
        seen,
        unit: unit.to_owned(),
    }
}

/// Refused credentials and logins, and the service that most of them were for.
fn wrong_attempts(stats: &PrincipalStats) -> (u64, Option<String>) {
    let mut all = 0;
    let mut most = (0, None);
    for (key, stats) in &stats.operations {
        let wrong = stats.outcomes.stopped_or_reported_for(&WRONG)
            + stats.statuses.of(StatusClass::Unauthorized);
        all += wrong;
        if wrong > most.0 {
            most = (wrong, key.service.as_ref().map(ToString::to_string));
        }
    }
    (all, most.1)
}

/// The application's own 401: a login that failed.
fn logins(stats: &PrincipalStats) -> u64 {
    let operations = stats.operations.values();
    operations
        .map(|stats| stats.statuses.of(StatusClass::Unauthorized))
        .sum()
}

fn wrong_samples(stats: &PrincipalStats) -> Vec<String> {
    let wrong = |outcome: Outcome| match outcome {
        Outcome::Denied(reason) | Outcome::Reported(reason) => WRONG.contains(&reason),
        Outcome::Permitted => false,
    };
    samples(stats.operations.values().flat_map(|stats| {
        let own = stats.statuses.of(StatusClass::Unauthorized) > 0;
        let wanted = move |(outcome, _): &(Outcome, &str)| own || wrong(*outcome);
        stats.samples.iter().filter(wanted)
    }))
}
