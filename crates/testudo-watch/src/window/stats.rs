//! What is counted of one edge, one principal, one credential, one call.

use std::sync::Arc;

use indexmap::{Equivalent, IndexMap};
use testudo_model::{Event, Reason, Verdict};

use super::Name;
use super::sketch::{Distinct, Quantiles};

/// How a request ended, as far as Testudo decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// It passed, and nothing spoke against it.
    Permitted,
    /// It was stopped.
    Denied(Reason),
    /// It passed since the service is in mode report; in mode enforce it would have been stopped.
    Reported(Reason),
}

impl Outcome {
    /// Of an event.
    pub fn of(event: &Event) -> Outcome {
        match (event.verdict, event.reason) {
            (Verdict::Permit, None) => Outcome::Permitted,
            (Verdict::Permit, Some(reason)) => Outcome::Reported(reason),
            (Verdict::Deny, Some(reason)) => Outcome::Denied(reason),
            // A denial always has a reason; one without is not taken for a permit.
            (Verdict::Deny, None) => Outcome::Denied(Reason::RequestMalformed),
        }
    }
}

/// How many requests ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Few different ones come together: a list, in order.
    counts: Vec<(Outcome, u64)>,
}

impl Outcomes {
    /// Counts requests that ended so.
    pub fn add(&mut self, outcome: Outcome, count: u64) {
        match self.counts.binary_search_by_key(&outcome, |entry| entry.0) {
            Ok(place) => {
                if let Some(entry) = self.counts.get_mut(place) {
                    entry.1 = entry.1.saturating_add(count);
                }
            }
            Err(place) => self.counts.insert(place, (outcome, count)),
        }
    }

    /// Takes in what another one counted.
    pub fn merge(&mut self, other: &Outcomes) {
        for (outcome, count) in &other.counts {
            self.add(*outcome, *count);
        }
    }

    /// Every outcome that there was.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> {
        self.counts.iter().copied()
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.sum(|_| true)
    }

    /// Those that passed and that nothing spoke against.
    pub fn permitted(&self) -> u64 {
        self.sum(|outcome| outcome == Outcome::Permitted)
    }

    /// Those that were refused to the caller (4xx): what policy, schema, limits and so on stopped.
    pub fn denied(&self) -> u64 {
        self.sum(|outcome| matches!(outcome, Outcome::Denied(reason) if is_refusal(reason)))
    }

    /// Those that would have been refused in mode enforce.
    pub fn reported(&self) -> u64 {
        self.sum(|outcome| matches!(outcome, Outcome::Reported(_)))
    }

    /// Those that failed for a reason of ours that is not the caller's fault (5xx: `upstream.…`,
    /// `overloaded`, `not_ready`, …).
    pub fn failed(&self) -> u64 {
        self.sum(|outcome| matches!(outcome, Outcome::Denied(reason) if !is_refusal(reason)))
    }

    /// Those that were stopped for this reason.
    pub fn denied_for(&self, reason: Reason) -> u64 {
        self.sum(|outcome| outcome == Outcome::Denied(reason))
    }

    /// Those that were stopped, or would have been, for one of these reasons.
    pub fn stopped_or_reported_for(&self, reasons: &[Reason]) -> u64 {
        self.sum(|outcome| match outcome {
            Outcome::Permitted => false,
            Outcome::Denied(reason) | Outcome::Reported(reason) => reasons.contains(&reason),
        })
    }

    fn sum(&self, is_wanted: impl Fn(Outcome) -> bool) -> u64 {
        let wanted = self
            .counts
            .iter()
            .filter(|(outcome, _)| is_wanted(*outcome));
        wanted.map(|(_, count)| *count).fold(0, u64::saturating_add)
    }
}

/// Whether a reason is the caller's fault rather than a failure of a service or of ours.
pub fn is_refusal(reason: Reason) -> bool {
    reason.status().is_client_error()
}

/// The statuses that are told apart, of requests that Testudo let through *here*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StatusClass {
    /// 1xx and 2xx.
    Success,
    /// 3xx.
    Redirect,
    /// The application's own 401.
    Unauthorized,
    /// The application's own 403.
    Forbidden,
    /// The application's own 404.
    NotFound,
    /// The application's own 429.
    TooMany,
    /// Other 4xx of the application.
    OtherClientError,
    /// The application's own 5xx.
    ServerError,
    /// The connection broke before an answer.
    None,
    /// A proxy further inside refused it (4xx); nothing of the application's.
    RefusedInside,
    /// A proxy further inside failed it (5xx: `upstream.unavailable`, for example).
    FailedInside,
}

impl StatusClass {
    /// Every class, in order.
    pub const ALL: [StatusClass; 11] = [
        StatusClass::Success,
        StatusClass::Redirect,
        StatusClass::Unauthorized,
        StatusClass::Forbidden,
        StatusClass::NotFound,
        StatusClass::TooMany,
        StatusClass::OtherClientError,
        StatusClass::ServerError,
        StatusClass::None,
        StatusClass::RefusedInside,
        StatusClass::FailedInside,
    ];

    /// Of a denial by a proxy further inside.
    pub fn inside(reason: Reason) -> StatusClass {
        if is_refusal(reason) {
            StatusClass::RefusedInside
        } else {
            StatusClass::FailedInside
        }
    }

    /// Of a status of the application.
    pub const fn of(status: Option<u16>) -> StatusClass {
        match status {
            None => StatusClass::None,
            Some(0..=299) => StatusClass::Success,
            Some(300..=399) => StatusClass::Redirect,
            Some(401) => StatusClass::Unauthorized,
            Some(403) => StatusClass::Forbidden,
            Some(404) => StatusClass::NotFound,
            Some(429) => StatusClass::TooMany,
            Some(400..=499) => StatusClass::OtherClientError,
            Some(500..) => StatusClass::ServerError,
        }
    }
}

/// How many answers of the application had which class of status. What Testudo denied at this proxy is
/// not in here; what it denied further inside has classes of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses {
    counts: [u64; StatusClass::ALL.len()],
}

impl Statuses {
    /// Counts answers.
    pub fn add(&mut self, class: StatusClass, count: u64) {
        if let Some(ours) = self.counts.get_mut(class as usize) {
            *ours = ours.saturating_add(count);
        }
    }

    /// How many were of this class.
    pub fn of(&self, class: StatusClass) -> u64 {
        self.counts.get(class as usize).copied().unwrap_or(0)
    }

    /// Takes in what another one counted.
    pub fn merge(&mut self, other: &Statuses) {
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours = ours.saturating_add(*theirs);
        }
    }
}

/// Request ids of each outcome that are kept as examples.
const SAMPLES: usize = 3;
/// Request ids that are kept of all outcomes together.
const ALL_SAMPLES: usize = 12;

/// A few request ids of each outcome, to look at with `why`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    ids: Vec<(Outcome, Box<str>)>,
}

impl Samples {
    /// Keeps an id if there are fewer than three of this outcome (of permits: one).
    pub fn add(&mut self, outcome: Outcome, id: &str) {
        let most = if outcome == Outcome::Permitted {
            1
        } else {
            SAMPLES
        };
        let same = self.ids.iter().filter(|(kept, _)| *kept == outcome);
        if same.count() < most && self.ids.len() < ALL_SAMPLES && id.len() <= 64 {
            self.ids.push((outcome, id.into()));
        }
    }

    /// Takes in what another one keeps.
    pub fn merge(&mut self, other: &Samples) {
        for (outcome, id) in &other.ids {
            self.add(*outcome, id);
        }
    }

    /// Each outcome and request id.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, &str)> {
        self.ids.iter().map(|(outcome, id)| (*outcome, &**id))
    }

    /// The ids whose outcome is wanted.
    pub fn ids(&self, is_wanted: impl Fn(Outcome) -> bool) -> Vec<String> {
        let wanted = self.iter().filter(|(outcome, _)| is_wanted(*outcome));
        wanted.map(|(_, id)| id.to_owned()).collect()
    }
}

/// What went over one edge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeStats {
    /// By verdict and reason.
    pub outcomes: Outcomes,
    /// The application's answers.
    pub statuses: Statuses,
    /// From the first byte judged to the last byte sent, in microseconds; of what was not denied.
    pub duration_us: Quantiles,
    /// Time in the guard, in microseconds; of everything.
    pub guard_us: Quantiles,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// Requests with a verified user.
    pub with_user: u64,
    /// Requests of the anonymous user (a credential that did not hold, in mode report, is no user either).
    pub anonymous: u64,
    /// Requests with which no user travelled.
    pub without_user: u64,
    /// Distinct verified users.
    pub users: Distinct,
    /// Distinct paths: objects, where the path names them.
    pub paths: Distinct,
    /// Distinct source addresses.
    pub addresses: Distinct,
    /// The newest revision that decided.
    pub revision: u64,
    /// When the last request arrived, in microseconds since the epoch.
    pub last_us: u64,
    /// Request ids to look at.
    pub samples: Samples,
}

impl EdgeStats {
    /// Takes in what another proxy counted.
    pub fn merge(&mut self, other: &EdgeStats) {
        self.outcomes.merge(&other.outcomes);
        self.statuses.merge(&other.statuses);
        self.duration_us.merge(&other.duration_us);
        self.guard_us.merge(&other.guard_us);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.with_user = self.with_user.saturating_add(other.with_user);
        self.anonymous = self.anonymous.saturating_add(other.anonymous);
        self.without_user = self.without_user.saturating_add(other.without_user);
        self.users.merge(&other.users);
        self.paths.merge(&other.paths);
        self.addresses.merge(&other.addresses);
        self.revision = self.revision.max(other.revision);
        self.last_us = self.last_us.max(other.last_us);
        self.samples.merge(&other.samples);
    }

    /// Answers with 5xx, the application's and ours.
    pub fn errors(&self) -> u64 {
        [
            self.statuses.of(StatusClass::ServerError),
            self.statuses.of(StatusClass::FailedInside),
            self.outcomes.failed(),
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// An operation that somebody called, or tried to: `service` is `None` where no route led to one,
/// `operation` where none was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationKey {
    /// The called service.
    pub service: Option<Name>,
    /// `SERVICE:OPERATION`.
    pub operation: Option<Name>,
}

#[derive(Hash)]
pub(super) struct OperationRef<'a> {
    pub(super) service: Option<&'a str>,
    pub(super) operation: Option<&'a str>,
}

impl Equivalent<OperationKey> for OperationRef<'_> {
    fn equivalent(&self, key: &OperationKey) -> bool {
        self.service == key.service.as_deref() && self.operation == key.operation.as_deref()
    }
}

/// What one principal did with one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationStats {
    /// By verdict and reason.
    pub outcomes: Outcomes,
    /// The application's answers.
    pub statuses: Statuses,
    /// Distinct paths: objects, where the path names them.
    pub paths: Distinct,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// Request ids to look at.
    pub samples: Samples,
}

impl OperationStats {
    /// Takes in what another proxy counted.
    pub fn merge(&mut self, other: &OperationStats) {
        self.outcomes.merge(&other.outcomes);
        self.statuses.merge(&other.statuses);
        self.paths.merge(&other.paths);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.samples.merge(&other.samples);
    }
}

/// A map of a window.
pub type Table<K, V> = IndexMap<K, V, ahash::RandomState>;

/// What one principal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrincipalStats {
    /// By operation.
    pub operations: Table<OperationKey, OperationStats>,
    /// Distinct paths that led nowhere: no route, not in the specification, or the application's 404.
    pub unknown_paths: Distinct,
    /// Distinct source addresses.
    pub addresses: Distinct,
    /// Distinct `User-Agent`s (edge only).
    pub agents: Distinct,
    /// Distinct credentials that held (edge only).
    pub credentials_right: Distinct,
    /// Distinct credentials that did not hold, expired ones left out (edge only, and of addresses only:
    /// whom they name is not known).
    pub credentials_wrong: Distinct,
    /// Of a service: distinct verified users it acted for. Of an address: distinct verified users who
    /// came from there; nothing else of theirs is counted for the address.
    pub users: Distinct,
}

impl PrincipalStats {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.sum(Outcomes::requests)
    }

    /// A sum over the operations' outcomes, for example `stats.sum(Outcomes::denied)`.
    pub fn sum(&self, of: impl Fn(&Outcomes) -> u64) -> u64 {
        self.operations
            .values()
            .map(|stats| of(&stats.outcomes))
            .fold(0, u64::saturating_add)
    }

    /// Bytes of response bodies.
    pub fn bytes_out(&self) -> u64 {
        let bytes = self.operations.values().map(|stats| stats.bytes_out);
        bytes.fold(0, u64::saturating_add)
    }

    /// How often a rate limit stopped it, or would have.
    pub fn limited(&self) -> u64 {
        self.sum(|outcomes| outcomes.stopped_or_reported_for(&[Reason::LimitExceeded]))
    }

    /// Distinct paths over all operations.
    pub fn paths(&self) -> Distinct {
        let mut all = Distinct::default();
        for stats in self.operations.values() {
            all.merge(&stats.paths);
        }
        all
    }

    /// All but the operations.
    pub(super) fn merge_own(&mut self, other: &PrincipalStats) {
        self.unknown_paths.merge(&other.unknown_paths);
        self.addresses.merge(&other.addresses);
        self.agents.merge(&other.agents);
        self.credentials_right.merge(&other.credentials_right);
        self.credentials_wrong.merge(&other.credentials_wrong);
        self.users.merge(&other.users);
    }
}

/// Where one verified credential was used (edge only): a stolen one is used from many places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialStats {
    /// Whose it is.
    pub user: Option<Name>,
    /// Requests with it.
    pub requests: u64,
    /// Distinct source addresses.
    pub addresses: Distinct,
    /// Distinct `User-Agent`s.
    pub agents: Distinct,
    /// The last request with it.
    pub sample: Option<Box<str>>,
}

impl CredentialStats {
    /// Takes in what another proxy counted.
    pub fn merge(&mut self, other: &CredentialStats) {
        if self.user.is_none() {
            self.user.clone_from(&other.user);
        }
        self.requests = self.requests.saturating_add(other.requests);
        self.addresses.merge(&other.addresses);
        self.agents.merge(&other.agents);
        // Whichever is larger, so that the order of merging changes nothing.
        if other.sample > self.sample {
            self.sample.clone_from(&other.sample);
        }
    }
}

/// How often a call was made, for policies that permit what is done and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    /// It passed.
    pub permitted: u64,
    /// It was stopped since no policy permits it (`authz.…`, `authn.missing`).
    pub denied: u64,
    /// The same, but it passed in mode report.
    pub reported: u64,
    /// Something else spoke against it (a malformed body, a bad credential, a limit …): nothing to learn
    /// a permit from.
    pub unfit: u64,
    /// When the last one arrived, in microseconds since the epoch.
    pub last_us: u64,
}

impl CallStats {
    pub(super) fn add(&mut self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Permitted => &mut self.permitted,
            Outcome::Denied(reason) if is_about_policy(reason) => &mut self.denied,
            Outcome::Reported(reason) if is_about_policy(reason) => &mut self.reported,
            Outcome::Denied(_) | Outcome::Reported(_) => &mut self.unfit,
        };
        *count = count.saturating_add(1);
    }

    /// Takes in what another proxy counted.
    pub fn merge(&mut self, other: &CallStats) {
        self.permitted = self.permitted.saturating_add(other.permitted);
        self.denied = self.denied.saturating_add(other.denied);
        self.reported = self.reported.saturating_add(other.reported);
        self.unfit = self.unfit.saturating_add(other.unfit);
        self.last_us = self.last_us.max(other.last_us);
    }
}

const fn is_about_policy(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AuthzUser | Reason::AuthzCaller | Reason::AuthzError | Reason::AuthnMissing
    )
}

/// Names that come again and again, each allocated once.
#[derive(Default)]
pub(super) struct Names {
    known: std::collections::HashSet<Name, ahash::RandomState>,
}

impl Names {
    /// Beyond so many names the memory is begun anew.
    const MAX: usize = 8192;

    pub(super) fn of(&mut self, text: &str) -> Name {
        if let Some(name) = self.known.get(text) {
            return Arc::clone(name);
        }
        if self.known.len() >= Names::MAX {
            self.known.clear();
        }
        let name: Name = Arc::from(text);
        self.known.insert(Arc::clone(&name));
        name
    }
}
