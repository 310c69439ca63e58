//! Incidents: what detectors found, grouped by cause, with evidence; kept over restarts, told to people,
//! and answered with a containment where the bundle asks for it.
//!
//! [`Book`] groups and is pure; [`Incidents`] is what the API and the engine share; the engine runs the
//! detectors over every complete window. Nothing here can hold up a request: all of it happens in control,
//! on what proxies have counted.

mod advice;
mod book;
mod engine;
mod replay;
mod respond;
mod settings;
mod webhooks;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use testudo_watch::detect::{Anomaly, Comparison, Detector, Reference, Severity, Subject, Target};
use tokio::sync::broadcast;

use crate::store::{Audit, Store, StoreError};

pub use book::{Book, News};
pub(crate) use engine::run;
pub use replay::{Replay, Replayed};
pub use respond::wants_containment;
pub use settings::settings;
pub use webhooks::{Notifier, WebhookStatus, signature};

/// Changed incidents that may wait for one follower.
const FOLLOW_QUEUE: usize = 256;

/// What is done about an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has looked at it.
    Open,
    /// Somebody has.
    Acknowledged,
    /// Counted, but neither told nor contained, for a time.
    Muted,
    /// Over: it was quiet for a while, or somebody said so.
    Closed,
}

impl State {
    /// As in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Acknowledged => "acknowledged",
            State::Muted => "muted",
            State::Closed => "closed",
        }
    }
}

/// Anomalies of one cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// `inc-` and ten hex digits.
    pub id: String,
    /// Which detector.
    pub detector: Detector,
    /// One line for people, of the worst window.
    pub title: String,
    /// The worst so far.
    pub severity: Severity,
    /// What is done about it.
    pub state: State,
    /// When it was first seen.
    pub first: Timestamp,
    /// When it was last seen.
    pub last: Timestamp,
    /// In how many windows it was seen.
    pub count: u64,
    /// Who does it.
    pub who: Subject,
    /// On what.
    pub what: Target,
    /// What is usual, and the most that was seen.
    pub baseline: Comparison,
    /// Request ids to ask `why` about.
    pub samples: Vec<String>,
    /// MITRE ATT&CK techniques.
    pub mitre: Vec<Reference>,
    /// OWASP API Security Top 10 (2023).
    pub owasp: Vec<Reference>,
    /// What to do.
    pub suggestion: String,
    /// A line of Cedar that would close it, where there is one.
    pub policy: Option<String>,
    /// What was done about it by itself, as the containment's JSON.
    pub containment: Option<serde_json::Value>,
    /// Deployments and symptoms around it.
    pub context: Vec<String>,
    /// Ids of other incidents about the same one, or the same service, at the time.
    #[serde(default)]
    pub related: Vec<String>,
    /// Who acknowledged it.
    pub acknowledged_by: Option<String>,
    /// What they wrote.
    pub note: Option<String>,
    /// Until when it is muted.
    pub muted_until: Option<Timestamp>,
    /// When it was closed.
    #[serde(default)]
    pub closed: Option<Timestamp>,
}

/// What somebody does with an incident.
#[derive(Clone, Debug)]
pub enum Step {
    /// It was seen.
    Acknowledge,
    /// It is not to be told or contained until then.
    Mute(Timestamp),
    /// It is over.
    Close,
}

impl Step {
    const fn audited(&self) -> &'static str {
        match self {
            Step::Acknowledge => "incident.acknowledged",
            Step::Mute(_) => "incident.muted",
            Step::Close => "incident.closed",
        }
    }
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// None has this id.
    #[error("there is no incident {0}")]
    Unknown(String),
    /// It is over already.
    #[error("incident {0} is closed")]
    Closed(String),
    /// The store cannot be written; the incident is as it was.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The incidents of the mesh, for the API and the engine.
pub struct Incidents {
    store: Store,
    book: Mutex<Book>,
    followers: broadcast::Sender<Arc<Incident>>,
    /// Windows that the detectors missed since they were too slow.
    missed: std::sync::atomic::AtomicU64,
    notifier: Notifier,
}

impl Incidents {
    /// With what the store has kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: Store) -> Result<Incidents, StoreError> {
        let book = Book::new(store.incidents()?);
        Ok(Incidents {
            store,
            book: Mutex::new(book),
            followers: broadcast::Sender::new(FOLLOW_QUEUE),
            missed: std::sync::atomic::AtomicU64::new(0),
            notifier: Notifier::default(),
        })
    }

    /// Those in a state, newest first; `None`: all.
    pub fn list(&self, state: Option<State>) -> Vec<Incident> {
        let mut list: Vec<Incident> = self
            .lock()
            .incidents()
            .filter(|incident| state.is_none_or(|state| incident.state == state))
            .cloned()
            .collect();
        list.sort_by(|a, b| b.last.cmp(&a.last).then_with(|| a.id.cmp(&b.id)));
        list
    }

    /// One by its id.
    pub fn find(&self, id: &str) -> Option<Incident> {
        self.lock().find(id).cloned()
    }

    /// Changed incidents from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Incident>> {
        self.followers.subscribe()
    }

    /// Takes a step for somebody; audited in the same transaction.
    ///
    /// # Errors
    /// See [`StepError`]; nothing has changed then.
    pub fn step(
        &self,
        id: &str,
        step: &Step,
        note: Option<&str>,
        by: &str,
    ) -> Result<Incident, StepError> {
        let mut book = self.lock();
        let mut changed = book
            .find(id)
            .cloned()
            .ok_or_else(|| StepError::Unknown(id.to_owned()))?;
        if changed.state == State::Closed {
            return Err(StepError::Closed(id.to_owned()));
        }
        match step {
            Step::Acknowledge => {
                changed.state = State::Acknowledged;
                changed.acknowledged_by = Some(by.to_owned());
                changed.muted_until = None;
            }
            Step::Mute(until) => {
                changed.state = State::Muted;
                changed.muted_until = Some(*until);
            }
            Step::Close => {
                changed.state = State::Closed;
                changed.closed = Some(Timestamp::now());
                changed.muted_until = None;
            }
        }
        if let Some(note) = note {
            changed.note = Some(note.to_owned());
        }
        let detail = format!("{id} {} {}", changed.title, note.unwrap_or_default());
        let audit = Audit {
            actor: by,
            action: step.audited(),
            detail: detail.trim_end(),
        };
        self.store
            .put_incidents(std::slice::from_ref(&changed), &[], Some(audit))?;
        book.replace(changed.clone());
        drop(book);
        self.tell(&changed);
        Ok(changed)
    }

    /// Groups what a window showed and lets time pass: incidents that changed, with what is new of them.
    fn take(
        &self,
        anomalies: Vec<Anomaly>,
        now: Timestamp,
        context: &dyn Fn(Option<&str>) -> Vec<String>,
    ) -> Vec<(Incident, News)> {
        let mut book = self.lock();
        let mut changed = book.take(anomalies, context);
        changed.extend(book.pass(now));
        drop(book);
        for (incident, _) in &changed {
            self.tell(incident);
        }
        changed
    }

    /// Notes what was done about an incident.
    fn contained(&self, id: &str, containment: serde_json::Value) -> Option<Incident> {
        let mut book = self.lock();
        let mut incident = book.find(id)?.clone();
        incident.containment = Some(containment);
        book.replace(incident.clone());
        drop(book);
        self.tell(&incident);
        Some(incident)
    }

    /// Ids that the book has dropped since it was last asked: the store drops them, too.
    fn take_gone(&self) -> Vec<String> {
        self.lock().take_gone()
    }

    fn tell(&self, incident: &Incident) {
        // No follower is no error.
        let _ = self.followers.send(Arc::new(incident.clone()));
    }

    /// How many are open, and how many windows the detectors missed.
    pub fn counts(&self) -> (usize, u64) {
        let book = self.lock();
        let open = book.incidents().filter(|i| i.state == State::Open).count();
        let missed = self.missed.load(std::sync::atomic::Ordering::Relaxed);
        (open, missed)
    }

    /// How deliveries go.
    pub fn webhooks(&self) -> Vec<WebhookStatus> {
        self.notifier.status()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
