//! The rules, as a pure function: what is asked for, what is known and the time go in; a containment or
//! the rule that forbids it comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use testudo_guard::containment::may_be_contained;
use testudo_model::Hop;
use testudo_policy::api::ApiModel;
use testudo_policy::config::{Config, Respond, Watch};

use super::traffic::Usual;
use super::{Action, By, ContainRequest, Containment, Kind, Stored, Traffic};
use crate::store::StoreError;

/// Nothing is contained for longer, prolonged or not.
pub const LONGEST: Duration = Duration::from_hours(24);
/// Containments by detectors at one time.
pub const MAX_AUTOMATIC: usize = 64;
/// Containments at one time.
pub const MAX_ENTRIES: usize = 512;

/// A throttle must have failed to end an anomaly for so long before its principal is denied.
const ESCALATE_AFTER: i64 = 6;
/// The longest principal and the longest reason.
const MAX_PRINCIPAL: usize = 256;
const MAX_REASON: usize = 500;

/// Why somebody is not contained.
#[derive(Debug, thiserror::Error)]
pub enum ContainError {
    /// There is no revision.
    #[error("the mesh has no revision yet")]
    NothingRuns,
    /// Anonymous users, gateways and control.
    #[error("{0} is never contained: nobody is told apart by that name")]
    Never(String),
    /// A name that nobody can have.
    #[error("{0}")]
    Unknown(String),
    /// `watch.protect`.
    #[error("{0} is protected (watch.protect in testudo.yaml)")]
    Protected(String),
    /// A detector asked for somebody whom no proxy has verified lately.
    #[error(
        "{principal} was not verified at {place} in the last minutes: only verified principals are contained"
    )]
    NotVerified {
        /// Who.
        principal: String,
        /// Where.
        place: String,
    },
    /// `watch.respond`.
    #[error("watch.respond is alert: detectors contain nobody")]
    AlertOnly,
    /// `watch.max_share`.
    #[error(
        "automatic containments would touch {share:.1}% of the usual traffic, and watch.max_share is {max:.1}%"
    )]
    Share {
        /// What they would touch, in percent.
        share: f64,
        /// What they may.
        max: f64,
    },
    /// The same for an administrator's.
    #[error(
        "this would touch {share:.1}% of the usual traffic, and watch.max_share is {max:.1}% (force goes beyond)"
    )]
    AdminShare {
        /// What it would touch, in percent.
        share: f64,
        /// What it may.
        max: f64,
    },
    /// Everybody who uses a path would be denied.
    #[error(
        "{principal} is the last one that uses {place}: denying it would cut the path (throttle it, or force)"
    )]
    LastPath {
        /// Who.
        principal: String,
        /// Where.
        place: String,
    },
    /// An administrator took it back a while ago.
    #[error(
        "an administrator released {principal} at {place}; detectors leave it alone until {until}"
    )]
    Released {
        /// Who.
        principal: String,
        /// Where.
        place: String,
        /// Until when.
        until: jiff::Timestamp,
    },
    /// There are as many as there may be.
    #[error("there are {0} containments already, and no more are added")]
    TooMany(usize),
    /// The request itself.
    #[error("{0}")]
    Invalid(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is known when a containment is asked for.
pub(super) struct Facts<'a> {
    pub(super) config: &'a Config,
    pub(super) apis: &'a BTreeMap<Arc<str>, ApiModel>,
    /// The traffic of the last minutes; only asked for where it matters.
    pub(super) traffic: &'a dyn Fn() -> Arc<Traffic>,
    pub(super) known: &'a [Stored],
    /// Whether a containment stops somebody at this moment.
    pub(super) stops_now: &'a dyn Fn(&Containment) -> bool,
    /// Seconds since the epoch.
    pub(super) now: u64,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Planned {
    /// It is so already.
    Unchanged(Containment),
    /// This is to be kept, audited and told.
    Changed {
        stored: Stored,
        /// For the audit log.
        action: &'static str,
    },
}

/// Holds a request to the rules.
pub(super) fn plan(request: &ContainRequest, facts: &Facts<'_>) -> Result<Planned, ContainError> {
    check_request(request)?;
    check_names(request, facts)?;
    if request.by == By::Watch && facts.config.watch.respond == Respond::Alert {
        return Err(ContainError::AlertOnly);
    }
    let now = facts.now;
    let same = |stored: &&Stored| is_same_place(&stored.containment, request);
    let existing = facts.known.iter().find(same);
    if request.by == By::Watch {
        check_released(request, facts)?;
    }
    if let (By::Watch, Some(stored)) = (request.by, existing) {
        // What an administrator wanted, no detector changes.
        if stored.is_active(now) && stored.containment.by == By::Admin {
            return Ok(Planned::Unchanged(stored.containment.clone()));
        }
    }
    let existing = existing.filter(|stored| stored.is_active(now));
    let repeated = match (request.by, existing) {
        (By::Watch, Some(stored)) => Some(again(request, stored, facts)),
        (By::Watch | By::Admin, _) => None,
    };
    if let Some(unchanged @ Planned::Unchanged(_)) = repeated {
        return Ok(unchanged);
    }
    check_room(request, existing, facts)?;
    let traffic = (facts.traffic)();
    let usual = traffic.usual(request.anomaly_since);
    let planned = repeated.unwrap_or_else(|| new(request, existing, &usual, facts));
    if let Planned::Changed { stored, .. } = &planned {
        check_verified(request, &traffic)?;
        check_harm(request, &stored.containment, (&traffic, &usual), facts)?;
    }
    Ok(planned)
}

/// Why a bundle that came later forbids a containment.
pub(super) fn forbidden_now(containment: &Containment, watch: &Watch) -> Option<&'static str> {
    if watch.protects(&containment.principal) {
        Some("protected by now (watch.protect)")
    } else if containment.by == By::Watch && watch.respond == Respond::Alert {
        Some("watch.respond is alert by now")
    } else {
        None
    }
}

/// A first one: a detector's is a throttle.
fn new(
    request: &ContainRequest,
    existing: Option<&Stored>,
    usual: &Usual,
    facts: &Facts<'_>,
) -> Planned {
    let action = match request.by {
        By::Watch => Action::Throttle,
        By::Admin => request.action,
    };
    let since = timestamp(facts.now);
    let rate = request.rate.unwrap_or_else(|| usual_rate(request, usual));
    let containment = Containment {
        // Of one principal at one place there is one: its id stays.
        id: existing.map_or_else(new_id, |stored| stored.containment.id.clone()),
        kind: request.kind,
        principal: request.principal.clone(),
        service: request.service.clone(),
        operation: request.operation.clone(),
        action,
        rate: (action == Action::Throttle).then_some(rate),
        since,
        until: timestamp(facts.now.saturating_add(length(request, facts).as_secs())),
        incident: request.incident.clone(),
        reason: request.reason.clone(),
        by: request.by,
    };
    Planned::Changed {
        stored: Stored {
            containment,
            action_since: since,
            released: None,
        },
        action: match existing {
            Some(_) => "containment.changed",
            None => "containment.added",
        },
    }
}

/// A detector asks again: the anomaly goes on. It lasts longer, and a throttle that did not end it
/// becomes a denial.
fn again(request: &ContainRequest, stored: &Stored, facts: &Facts<'_>) -> Planned {
    let old = &stored.containment;
    let now = timestamp(facts.now);
    let length = length(request, facts);
    let last = old
        .since
        .as_second()
        .saturating_add(i64::try_from(LONGEST.as_secs()).unwrap_or(i64::MAX));
    let wanted = now
        .as_second()
        .saturating_add(i64::try_from(length.as_secs()).unwrap_or(i64::MAX));
    let until = jiff::Timestamp::from_second(wanted.min(last)).unwrap_or(old.until);
    let escalates = request.action == Action::Deny
        && old.action == Action::Throttle
        && now.as_second() - stored.action_since.as_second() >= ESCALATE_AFTER
        // Who keeps to the throttle is not denied for what detectors still remember.
        && (facts.stops_now)(old);
    // Each window of an anomaly asks; the audit log need not hear of every one.
    let half = i64::try_from(length.as_secs() / 2).unwrap_or(i64::MAX);
    let prolongs = until > old.until && old.until.as_second() - now.as_second() < half;
    if !escalates && !prolongs {
        return Planned::Unchanged(old.clone());
    }
    let containment = Containment {
        action: if escalates { Action::Deny } else { old.action },
        rate: old.rate.filter(|_| !escalates),
        until: until.max(old.until),
        incident: request.incident.clone().or_else(|| old.incident.clone()),
        reason: request.reason.clone(),
        ..old.clone()
    };
    Planned::Changed {
        stored: Stored {
            containment,
            action_since: if escalates { now } else { stored.action_since },
            released: None,
        },
        action: match escalates {
            true => "containment.escalated",
            false => "containment.prolonged",
        },
    }
}

fn check_request(request: &ContainRequest) -> Result<(), ContainError> {
    let invalid = |what: &str| Err(ContainError::Invalid(what.to_owned()));
    if request.reason.trim().is_empty() {
        return invalid("a containment needs a reason");
    }
    if request.reason.len() > MAX_REASON || request.principal.len() > MAX_PRINCIPAL {
        return invalid("the reason or the principal's name is too long");
    }
    if request
        .rate
        .is_some_and(|rate| !rate.is_finite() || rate <= 0.0 || rate > 1e6)
    {
        return invalid("a throttle's rate is over 0 and at most 1,000,000 a second");
    }
    match request.length {
        Some(length) if length > LONGEST => {
            invalid("a containment lasts for 24 h at most; what should last belongs into a policy")
        }
        Some(length) if length.as_secs() == 0 => invalid("a containment lasts for 1 s at least"),
        Some(_) | None => Ok(()),
    }
}

/// Whether such a principal can be, and such a place.
fn check_names(request: &ContainRequest, facts: &Facts<'_>) -> Result<(), ContainError> {
    let principal = &request.principal;
    let unknown = |what: String| Err(ContainError::Unknown(what));
    if may_be_contained(principal).is_err() {
        return Err(ContainError::Never(principal.clone()));
    }
    match request.kind {
        Kind::Service if !facts.config.services.contains_key(principal.as_str()) => {
            return unknown(format!("there is no service {principal}"));
        }
        Kind::User => {
            let users = facts.config.users.as_ref();
            let issuer = principal.split_once(':').map(|(issuer, _)| issuer);
            let known = issuer.is_some_and(|issuer| {
                issuer == "key"
                    || users.is_some_and(|users| users.jwt.iter().any(|jwt| &*jwt.name == issuer))
            });
            if !known {
                return unknown(format!(
                    "{principal} is no user: users are written ISSUER:ID, with an issuer of testudo.yaml"
                ));
            }
        }
        Kind::Service => {}
    }
    if facts.config.watch.protects(principal) {
        return Err(ContainError::Protected(principal.clone()));
    }
    let Some(service) = facts.config.services.get(request.service.as_str()) else {
        return unknown(format!("there is no service {}", request.service));
    };
    let Some(operation) = &request.operation else {
        return Ok(());
    };
    let name = operation.strip_prefix(&format!("{}:", service.name));
    let known = name.is_some_and(|name| {
        name == "undocumented"
            || facts
                .apis
                .get(&service.name)
                .is_some_and(|api| api.operations.iter().any(|other| &*other.name == name))
    });
    match known {
        true => Ok(()),
        false => unknown(format!("{} has no operation {operation}", service.name)),
    }
}

/// Another detector, or another operation of the service, is no way around an administrator's word.
fn check_released(request: &ContainRequest, facts: &Facts<'_>) -> Result<(), ContainError> {
    let released = facts.known.iter().filter_map(|stored| {
        let other = &stored.containment;
        let same = other.kind == request.kind
            && other.principal == request.principal
            && other.service == request.service;
        stored
            .released
            .filter(|_| same && stored.is_remembered(facts.now))
    });
    match released.max() {
        None => Ok(()),
        Some(at) => Err(ContainError::Released {
            principal: request.principal.clone(),
            place: request.service.clone(),
            until: timestamp(at.saturating_add(super::HANDS_OFF.as_secs())),
        }),
    }
}

fn check_room(
    request: &ContainRequest,
    existing: Option<&Stored>,
    facts: &Facts<'_>,
) -> Result<(), ContainError> {
    if existing.is_some() {
        return Ok(());
    }
    let active = || {
        facts
            .known
            .iter()
            .filter(|stored| stored.is_active(facts.now))
    };
    let all = active().count();
    let automatic = active()
        .filter(|stored| stored.containment.by == By::Watch)
        .count();
    if all >= MAX_ENTRIES {
        return Err(ContainError::TooMany(all));
    }
    if request.by == By::Watch && automatic >= MAX_AUTOMATIC {
        return Err(ContainError::TooMany(automatic));
    }
    Ok(())
}

/// Proxies name a user or caller in their events only once they verified it.
fn check_verified(request: &ContainRequest, traffic: &Traffic) -> Result<(), ContainError> {
    let seen = || {
        traffic.calls.iter().any(|call| {
            call.is_of(request.kind, &request.principal)
                && call.is_at(&request.service, request.operation.as_deref())
        })
    };
    // An administrator may know what is coming.
    if request.by == By::Admin || seen() {
        return Ok(());
    }
    Err(ContainError::NotVerified {
        principal: request.principal.clone(),
        place: place(request).to_owned(),
    })
}

/// What honest requests would suffer.
fn check_harm(
    request: &ContainRequest,
    planned: &Containment,
    (traffic, usual): (&Traffic, &Usual),
    facts: &Facts<'_>,
) -> Result<(), ContainError> {
    if request.force && request.by == By::Admin {
        return Ok(());
    }
    let others = facts.known.iter().filter(|stored| {
        stored.is_active(facts.now) && !is_same_place(&stored.containment, request)
    });
    let others: Vec<&Containment> = others.map(|stored| &stored.containment).collect();
    let share = match request.by {
        By::Watch => {
            let automatic = others.iter().filter(|other| other.by == By::Watch);
            let all: Vec<_> = automatic.copied().chain([planned]).collect();
            usual.measure(|part| touched(&all, part))
        }
        By::Admin => usual.measure(|part| touched(&[planned], part)),
    };
    let max = facts.config.watch.max_share;
    if share > max {
        let (share, max) = (share * 100.0, max * 100.0);
        return Err(match request.by {
            By::Watch => ContainError::Share { share, max },
            By::Admin => ContainError::AdminShare { share, max },
        });
    }
    if planned.action == Action::Deny && is_last(planned, &others, traffic) {
        return Err(ContainError::LastPath {
            principal: request.principal.clone(),
            place: place(request).to_owned(),
        });
    }
    Ok(())
}

/// The share of the usual traffic (0 to 1) that these stop: all of a denied principal's, and of a
/// throttled one's what is over the rate. So a throttle to what is usual touches nothing.
fn touched(containments: &[&Containment], usual: &Traffic) -> f64 {
    let total = usual.total();
    if total == 0 {
        return 0.0;
    }
    let seconds = as_f64(usual.seconds());
    let mut counted = BTreeSet::new();
    let mut stopped = 0.0;
    for containment in containments {
        // A request is seen at each hop, and counts in the total as often.
        for hop in [Hop::Edge, Hop::Mesh] {
            let mut count = 0;
            for (index, call) in usual.calls.iter().enumerate() {
                if call.hop == hop && call.is_touched(containment) && counted.insert(index) {
                    count += call.served;
                }
            }
            let passed = containment.rate.map_or(0.0, |rate| rate * seconds);
            stopped += (as_f64(count) - passed).max(0.0);
        }
    }
    stopped / as_f64(total)
}

/// Whether nobody is left at that place who is served and not denied.
fn is_last(planned: &Containment, others: &[&Containment], traffic: &Traffic) -> bool {
    let here = || {
        traffic
            .calls
            .iter()
            .filter(|call| call.is_at(&planned.service, planned.operation.as_deref()))
    };
    let denied = |call: &super::Call| {
        let denies = |other: &Containment| other.action == Action::Deny && call.is_touched(other);
        denies(planned) || others.iter().any(|other| denies(other))
    };
    let uses = here().any(|call| call.is_touched(planned));
    let left = here().any(|call| call.served > 0 && call.kind == planned.kind && !denied(call));
    uses && !left
}

/// What the principal usually asks for there, in requests a second; at least one.
fn usual_rate(request: &ContainRequest, usual: &Usual) -> f64 {
    // Only what was before an anomaly says what is usual.
    if request.anomaly_since.is_none() {
        return 1.0;
    }
    let rate = usual.measure(|part| {
        let own = |hop| -> u64 {
            let calls = part.calls.iter().filter(|call| {
                call.hop == hop
                    && call.is_of(request.kind, &request.principal)
                    && call.is_at(&request.service, request.operation.as_deref())
            });
            calls.map(|call| call.served).sum()
        };
        as_f64(own(Hop::Edge).max(own(Hop::Mesh))) / as_f64(part.seconds())
    });
    rate.max(1.0).ceil()
}

fn length(request: &ContainRequest, facts: &Facts<'_>) -> Duration {
    let length = request.length.unwrap_or(facts.config.watch.contain_for);
    length.min(LONGEST)
}

fn is_same_place(containment: &Containment, request: &ContainRequest) -> bool {
    containment.kind == request.kind
        && containment.principal == request.principal
        && containment.service == request.service
        && containment.operation == request.operation
}

fn place(request: &ContainRequest) -> &str {
    request.operation.as_deref().unwrap_or(&request.service)
}

fn new_id() -> String {
    format!("ctn-{:010x}", rand::random::<u64>() >> 24)
}

fn timestamp(seconds: u64) -> jiff::Timestamp {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .unwrap_or(jiff::Timestamp::MAX)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts of requests in ten minutes are far below 2^52"
)]
const fn as_f64(count: u64) -> f64 {
    count as f64
}
#[cfg(test)]
mod tests;
