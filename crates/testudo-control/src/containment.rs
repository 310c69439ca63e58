//! Containments: who may add one, how far it may go, and how it ends. What proxies do with them is
//! guard's; what is unusual enough for one, the detectors say.
//!
//! A system that denies requests by itself is a weapon for whoever can make it believe things. So
//! [`plan`] holds every request to the same rules, the detectors' and an administrator's: only verified
//! principals, never the protected ones, no more of the usual traffic than `max_share`, never the last
//! one on a path, throttled before denied, for a day at most. There is none of an address (DESIGN §11).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_guard::containment::ContainedKind;
use testudo_model::mesh;

mod plan;
mod traffic;

pub use plan::{ContainError, LONGEST, MAX_AUTOMATIC, MAX_ENTRIES};
pub(crate) use traffic::keep as keep_past;
pub use traffic::{Call, Past, Traffic};

use crate::store::{Audit, Store, StoreError};
use crate::{Control, unix_now};
use plan::{Facts, Planned};

/// For so long nothing is contained again by itself where an administrator released it.
pub const HANDS_OFF: Duration = Duration::from_hours(1);

/// What is done with the principal's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// So many a second pass.
    Throttle,
    /// None passes.
    Deny,
}

/// Whom a containment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A user, `ISSUER:ID`.
    User,
    /// A calling service, by name.
    Service,
}

/// Who asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The detectors.
    Watch,
    /// An administrator.
    Admin,
}

/// One verified principal, narrowed on one operation or on all of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Containment {
    /// Names it, for example `ctn-4f1c2a9b03`.
    pub id: String,
    /// Whom it is of.
    pub kind: Kind,
    /// `ISSUER:ID`, or a service's name.
    pub principal: String,
    /// The called service.
    pub service: String,
    /// `SERVICE:OPERATION`; `None`: every operation of the service.
    pub operation: Option<String>,
    /// What is done.
    pub action: Action,
    /// Requests a second that a throttle lets pass, over the whole mesh.
    pub rate: Option<f64>,
    /// Since when, with this action or a milder one.
    pub since: jiff::Timestamp,
    /// Until when.
    pub until: jiff::Timestamp,
    /// The incident that it answers.
    pub incident: Option<String>,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub by: By,
}

/// What the store keeps of a place: the containment, or that it was released a while ago.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// As it is or was.
    pub containment: Containment,
    /// When it became as strict as it is.
    pub action_since: jiff::Timestamp,
    /// Seconds since the epoch when an administrator took it back.
    pub released: Option<u64>,
}

/// A containment that is asked for.
#[derive(Clone, Debug)]
pub struct ContainRequest {
    /// Of whom.
    pub kind: Kind,
    /// `ISSUER:ID`, or a service's name.
    pub principal: String,
    /// The called service.
    pub service: String,
    /// `SERVICE:OPERATION`; `None`: every operation of the service.
    pub operation: Option<String>,
    /// The strictest that is asked for. Detectors get a throttle first whatever they ask for, and a
    /// denial when they ask again because it goes on.
    pub action: Action,
    /// For a throttle; left out: what was usual, and at least one a second.
    pub rate: Option<f64>,
    /// For how long; left out: `watch.contain_for`.
    pub length: Option<Duration>,
    /// Why.
    pub reason: String,
    /// The incident that it answers.
    pub incident: Option<String>,
    /// Who asks.
    pub by: By,
    /// An administrator may go beyond `max_share` and cut a last path.
    pub force: bool,
    /// When the anomaly began (seconds since the epoch): what was before is the usual traffic, by which
    /// `max_share` is measured. `None`: all that is known.
    pub anomaly_since: Option<u64>,
}

/// Why there is no such containment to release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// None with this id is in force.
    #[error("there is no containment {0}")]
    Unknown(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is in force, beside the store that keeps it.
#[derive(Default)]
pub struct Containments {
    list: Mutex<Vec<Stored>>,
}

impl Kind {
    /// As guard has it.
    pub const fn of_guard(self) -> ContainedKind {
        match self {
            Kind::User => ContainedKind::User,
            Kind::Service => ContainedKind::Service,
        }
    }
}

impl Action {
    /// `throttle` or `deny`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Throttle => "throttle",
            Action::Deny => "deny",
        }
    }
}

impl By {
    /// `watch` or `admin`, as the audit log has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            By::Watch => "watch",
            By::Admin => "admin",
        }
    }
}

impl Containment {
    /// Where it holds: an operation or a service.
    pub fn place(&self) -> &str {
        self.operation.as_deref().unwrap_or(&self.service)
    }

    /// Whether it is of this caller (a service's name) on its way to this service, wholly or in part.
    pub fn is_on_edge(&self, caller: &str, service: &str) -> bool {
        self.kind == Kind::Service && self.principal == caller && self.service == service
    }

    fn key(&self) -> String {
        let kind = self.kind.of_guard().as_str();
        format!("{kind} {} {}", self.principal, self.place())
    }

    fn text(&self) -> String {
        let rate = self
            .rate
            .map_or_else(String::new, |rate| format!(" to {rate}/s"));
        let incident = self
            .incident
            .as_ref()
            .map_or_else(String::new, |incident| format!(" ({incident})"));
        format!(
            "{} {}{rate} {} {} on {} until {}: {}{incident}",
            self.id,
            self.action.as_str(),
            self.kind.of_guard().as_str(),
            self.principal,
            self.place(),
            self.until,
            self.reason,
        )
    }

    fn to_mesh(&self) -> mesh::Containment {
        mesh::Containment {
            id: self.id.clone(),
            kind: self.kind.of_guard().as_str().to_owned(),
            principal: self.principal.clone(),
            service: self.service.clone(),
            operation: self.operation.clone().unwrap_or_default(),
            action: self.action.as_str().to_owned(),
            rate: self.rate.unwrap_or_default(),
            until: u64::try_from(self.until.as_second()).unwrap_or_default(),
            reason: self.reason.clone(),
        }
    }
}

impl Stored {
    fn is_active(&self, now: u64) -> bool {
        self.released.is_none()
            && u64::try_from(self.containment.until.as_second()).is_ok_and(|until| now < until)
    }

    /// Whether it still says anything: it holds, or keeps detectors from starting over.
    fn is_remembered(&self, now: u64) -> bool {
        match self.released {
            None => self.is_active(now),
            Some(at) => now < at.saturating_add(HANDS_OFF.as_secs()),
        }
    }
}

impl Containments {
    /// What the store has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(store: &Store) -> Result<Containments, StoreError> {
        Ok(Containments {
            list: Mutex::new(store.containments()?),
        })
    }

    /// Those in force, the newest first.
    pub fn active(&self) -> Vec<Containment> {
        let now = unix_now();
        let list = self.lock();
        let active = list.iter().filter(|stored| stored.is_active(now));
        let mut active: Vec<_> = active.map(|stored| stored.containment.clone()).collect();
        drop(list);
        active.sort_by(|a, b| (b.since, &b.id).cmp(&(a.since, &a.id)));
        active
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Stored>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// Contains a principal, if the rules let it ([`ContainError`] says which does not). Every connected
    /// proxy is told before this returns.
    ///
    /// # Errors
    /// See [`ContainError`]; nothing has changed then.
    pub fn contain(&self, request: &ContainRequest) -> Result<Containment, ContainError> {
        let now = unix_now();
        let current = self.revisions.current().ok_or(ContainError::NothingRuns)?;
        let mut list = self.containments.lock();
        let facts = Facts {
            config: &current.config,
            apis: &current.apis,
            traffic: &|| self.past.with(&self.decisions, now, request.by),
            stops_now: &|containment| traffic::stops_now(containment, &self.decisions, now),
            known: &list,
            now,
        };
        let (stored, action) = match plan::plan(request, &facts)? {
            Planned::Unchanged(containment) => return Ok(containment),
            Planned::Changed { stored, action } => (stored, action),
        };
        let forced = if request.force { " (forced)" } else { "" };
        let audit = Audit {
            actor: request.by.as_str(),
            action,
            detail: &format!("{}{forced}", stored.containment.text()),
        };
        let key = stored.containment.key();
        self.store.put_containment(&key, &stored, audit)?;
        let containment = stored.containment.clone();
        tracing::warn!(
            containment = containment.text(),
            by = request.by.as_str(),
            "{action}"
        );
        list.retain(|other| other.containment.key() != key);
        list.push(stored);
        self.tell_containments(&list);
        Ok(containment)
    }

    /// Takes a containment back at once; detectors leave that place alone for [`HANDS_OFF`].
    ///
    /// # Errors
    /// See [`ReleaseError`]; nothing has changed then.
    pub fn release(&self, id: &str, by: By, reason: &str) -> Result<Containment, ReleaseError> {
        let now = unix_now();
        let mut list = self.containments.lock();
        let found = list
            .iter_mut()
            .find(|stored| stored.containment.id == id && stored.is_active(now))
            .ok_or_else(|| ReleaseError::Unknown(id.to_owned()))?;
        let stored = Stored {
            released: Some(now),
            ..found.clone()
        };
        let colon = if reason.is_empty() { "" } else { ": " };
        let audit = Audit {
            actor: by.as_str(),
            action: "containment.released",
            detail: &format!("{}{colon}{reason}", stored.containment.id),
        };
        let key = stored.containment.key();
        self.store.put_containment(&key, &stored, audit)?;
        *found = stored.clone();
        tracing::warn!(containment = id, by = by.as_str(), "containment.released");
        self.tell_containments(&list);
        Ok(stored.containment)
    }

    /// Forgets those that are over, with a line each in the audit log; proxies have ended those by their
    /// own clocks. Ends those that the bundle forbids by now, and tells the proxies.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn expire_containments(&self) -> Result<(), StoreError> {
        let now = unix_now();
        let current = self.revisions.current();
        let watch = current.as_ref().map(|current| &current.config.watch);
        let mut list = self.containments.lock();
        let mut forbidden = false;
        for stored in list.clone() {
            let why = watch.and_then(|watch| plan::forbidden_now(&stored.containment, watch));
            let (action, detail) = match why.filter(|_| stored.is_active(now)) {
                Some(why) => (
                    "containment.released",
                    format!("{}: {why}", stored.containment.id),
                ),
                None if stored.is_remembered(now) => continue,
                None => ("containment.expired", stored.containment.id.clone()),
            };
            forbidden |= stored.is_active(now);
            let audit = Audit {
                actor: "control",
                action,
                detail: &detail,
            };
            // What was released ended with a line of its own.
            let audit = stored.released.is_none().then_some(audit);
            let key = stored.containment.key();
            self.store.drop_containment(&key, audit)?;
            list.retain(|other| other.containment.key() != key);
        }
        if forbidden {
            self.tell_containments(&list);
        }
        Ok(())
    }

    /// Every proxy gets those that concern it.
    pub(crate) fn spread_containments(&self) {
        self.tell_containments(&self.containments.lock());
    }

    /// Under the list's lock, so that the last word is the newest list.
    fn tell_containments(&self, list: &[Stored]) {
        let now = unix_now();
        let active = list.iter().filter(|stored| stored.is_active(now));
        let active = active.map(|stored| stored.containment.to_mesh());
        self.fleet.publish_containments(active.collect());
    }
}
