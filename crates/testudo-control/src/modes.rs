//! Modes that hold for a while (`testudo mode`): set through control for the whole mesh, or on a proxy's
//! own host while control was away, which then tells about it. They end by themselves, at the proxies
//! and here.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_model::{Mode, mesh};

use crate::store::{Audit, HostModes, Store, StoreError};
use crate::{Control, unix_now};

/// Nothing is set for longer.
pub const LONGEST: Duration = testudo_guard::modes::LONGEST;

/// Longest texts that are taken from a proxy or a person.
const MAX_TEXT: usize = 500;
/// Services that may be set on one host.
const MAX_ON_HOST: usize = 1_000;
/// Changes of one host that are written down within a minute. A proxy that tells more loses its stream,
/// and tells the others on a later one, none of them out of turn.
const CHANGES_A_MINUTE: u32 = 120;

/// A mode that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMode {
    /// What holds meanwhile.
    pub mode: Mode,
    /// Seconds since the epoch.
    pub until: u64,
    /// Who set it.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A mode that holds for a while, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModeView {
    /// Whose.
    pub service: String,
    /// What holds meanwhile.
    pub mode: Mode,
    /// Until when.
    pub until: Option<jiff::Timestamp>,
    /// What the bundle says; `None`: it has no such service (any more).
    pub configured: Option<Mode>,
    /// Who set it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The one proxy where it holds, set on its host; `None`: everywhere.
    pub proxy: Option<String>,
}

/// Why a mode is not set.
#[derive(Debug, thiserror::Error)]
pub enum ModeError {
    /// The mesh has no such service.
    #[error("there is no service {0}")]
    Unknown(String),
    /// Too long, too short.
    #[error("{0}")]
    Invalid(&'static str),
    /// There is nothing to take back.
    #[error("nothing is set for {0}: the bundle's mode holds")]
    NotSet(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a host's change is not written down yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostChangeError {
    /// It tells too many.
    #[error("more than {CHANGES_A_MINUTE} changes of modes within a minute; the others later")]
    TooMany,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is set, beside the store that keeps it.
#[derive(Default)]
pub struct Modes {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    set: BTreeMap<String, SetMode>,
    on_hosts: BTreeMap<String, HostModes>,
    /// The minute and how many changes each proxy told in it.
    told: BTreeMap<String, (u64, u32)>,
}

impl Modes {
    /// What the store has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(store: &Store) -> Result<Modes, StoreError> {
        Ok(Modes {
            state: Mutex::new(State {
                set: store.modes()?,
                on_hosts: store.host_modes()?,
                told: BTreeMap::new(),
            }),
        })
    }

    /// What holds for a service in the whole mesh, and until when; `None`: what the bundle says.
    pub fn of(&self, service: &str) -> Option<(Mode, u64)> {
        let now = unix_now();
        let state = self.lock();
        let set = state.set.get(service).filter(|set| now < set.until)?;
        Some((set.mode, set.until))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// Sets a service's mode for a while, everywhere. Every connected proxy is told before this returns.
    ///
    /// # Errors
    /// See [`ModeError`]; nothing has changed then.
    pub fn set_mode(
        &self,
        service: &str,
        mode: Mode,
        length: Duration,
        reason: &str,
    ) -> Result<ModeView, ModeError> {
        if self.configured_mode(service).is_none() {
            return Err(ModeError::Unknown(service.to_owned()));
        }
        if length > LONGEST {
            let what = "a mode is set for 24 h at most; what should last belongs into testudo.yaml";
            return Err(ModeError::Invalid(what));
        }
        if length.as_secs() == 0 {
            return Err(ModeError::Invalid("a mode is set for 1 s at least"));
        }
        if reason.len() > MAX_TEXT {
            return Err(ModeError::Invalid("the reason is too long"));
        }
        let set = SetMode {
            mode,
            until: unix_now().saturating_add(length.as_secs()),
            by: "admin".to_owned(),
            reason: reason.to_owned(),
        };
        let audit = Audit {
            actor: "admin",
            action: "mode.set",
            detail: &text(service, &set),
        };
        let mut state = self.modes.lock();
        self.store.put_mode(service, &set, audit)?;
        state.set.insert(service.to_owned(), set.clone());
        tracing::warn!(mode = text(service, &set), "mode.set");
        self.fleet.publish_modes(state.to_mesh());
        drop(state);
        Ok(self.view(service, &set, None))
    }

    /// Takes back what was set through control.
    ///
    /// # Errors
    /// See [`ModeError`]; nothing has changed then.
    pub fn reset_mode(&self, service: &str) -> Result<(), ModeError> {
        let mut state = self.modes.lock();
        if !state.set.contains_key(service) {
            return Err(ModeError::NotSet(service.to_owned()));
        }
        let audit = Audit {
            actor: "admin",
            action: "mode.reset",
            detail: service,
        };
        self.store.drop_mode(service, audit)?;
        state.set.remove(service);
        tracing::warn!(service, "mode.reset");
        self.fleet.publish_modes(state.to_mesh());
        Ok(())
    }

    /// All modes that hold for a while, by service: those for the whole mesh, and those on one host.
    pub fn mode_views(&self) -> Vec<ModeView> {
        let now = unix_now();
        let state = self.modes.lock();
        let everywhere = state.set.iter().map(|(service, set)| (service, set, None));
        let on_hosts = state.on_hosts.iter().flat_map(|(proxy, modes)| {
            let set = modes.set.iter();
            set.map(move |(service, set)| (service, set, Some(proxy.as_str())))
        });
        let mut views: Vec<ModeView> = everywhere
            .chain(on_hosts)
            .filter(|(_, set, _)| now < set.until)
            .map(|(service, set, proxy)| self.view(service, set, proxy))
            .collect();
        drop(state);
        views.sort_by(|a, b| (&a.service, &a.proxy).cmp(&(&b.service, &b.proxy)));
        views
    }

    fn view(&self, service: &str, set: &SetMode, proxy: Option<&str>) -> ModeView {
        ModeView {
            service: service.to_owned(),
            mode: set.mode,
            until: i64::try_from(set.until)
                .ok()
                .and_then(|until| jiff::Timestamp::from_second(until).ok()),
            configured: self.configured_mode(service),
            by: set.by.clone(),
            reason: set.reason.clone(),
            proxy: proxy.map(str::to_owned),
        }
    }

    /// What the bundle says at this moment.
    pub fn configured_mode(&self, service: &str) -> Option<Mode> {
        let current = self.revisions.current()?;
        let service = current.config.services.get(service)?;
        Some(match service.mode_until {
            Some(until) if unix_now() >= until => Mode::Enforce,
            Some(_) | None => service.mode,
        })
    }

    /// What holds for a service: what was set for a while, or what the bundle says.
    pub fn mode_of(&self, service: &str) -> Option<Mode> {
        let configured = self.configured_mode(service)?;
        Some(self.modes.of(service).map_or(configured, |(mode, _)| mode))
    }

    /// A proxy's host changed a mode: written down once, and shown. What the proxy knows to be written
    /// down, it does not tell again.
    ///
    /// # Errors
    /// When it is not written down; the proxy is to tell it again, on its next stream.
    pub(crate) fn mode_changed(
        &self,
        proxy: &str,
        may_speak_of: impl Fn(&str) -> bool,
        change: &mesh::ModeChanged,
    ) -> Result<(), HostChangeError> {
        let now = unix_now();
        let mut state = self.modes.lock();
        let mut known = state.on_hosts.get(proxy).cloned().unwrap_or_default();
        if change.sequence <= known.audited {
            return Ok(());
        }
        let told = state.told.entry(proxy.to_owned()).or_default();
        *told = match *told {
            (minute, count) if minute == now / 60 => (minute, count.saturating_add(1)),
            _ => (now / 60, 1),
        };
        if told.1 > CHANGES_A_MINUTE {
            return Err(HostChangeError::TooMany);
        }
        known.audited = change.sequence;
        let mode = match change.mode.as_str() {
            "enforce" => Some(Mode::Enforce),
            "report" => Some(Mode::Report),
            "observe" => Some(Mode::Observe),
            _ => None,
        };
        let service = cut(&change.service);
        let set = mode.map(|mode| SetMode {
            mode,
            until: change.until.min(now.saturating_add(LONGEST.as_secs())),
            by: format!("{proxy}: {}", cut(&change.by)),
            reason: cut(&change.reason),
        });
        let (action, mut detail) = match &set {
            Some(set) => ("mode.set_on_host", text(&service, set)),
            None => ("mode.reset_on_host", service.clone()),
        };
        if !may_speak_of(&service) {
            detail.push_str(" (not its own service: of no effect)");
        }
        known.set.retain(|_, set| now < set.until);
        match set {
            Some(set) if may_speak_of(&service) && known.set.len() < MAX_ON_HOST => {
                known.set.insert(service, set);
            }
            Some(_) | None => _ = known.set.remove(&service),
        }
        let audit = Audit {
            actor: proxy,
            action,
            detail: &detail,
        };
        self.store.put_host_modes(proxy, &known, audit)?;
        state.on_hosts.insert(proxy.to_owned(), known);
        drop(state);
        tracing::warn!(proxy, detail, "{action}");
        Ok(())
    }

    /// What a proxy is told: all modes, and which of its own changes are written down.
    pub(crate) fn modes_for(&self, proxy: &str) -> mesh::Modes {
        let state = self.modes.lock();
        let audited = state.on_hosts.get(proxy).map_or(0, |modes| modes.audited);
        mesh::Modes {
            entries: state.to_mesh(),
            audited: Some(audited),
        }
    }

    /// Forgets modes that are over, with a line each in the audit log. Proxies have ended them by their
    /// own clocks.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn expire_modes(&self) -> Result<(), StoreError> {
        let now = unix_now();
        let mut state = self.modes.lock();
        let over: Vec<String> = state
            .set
            .iter()
            .filter(|(_, set)| now >= set.until)
            .map(|(service, _)| service.clone())
            .collect();
        for service in over {
            let audit = Audit {
                actor: "control",
                action: "mode.expired",
                detail: &service,
            };
            self.store.drop_mode(&service, audit)?;
            state.set.remove(&service);
        }
        Ok(())
    }

    /// Every proxy gets all of them.
    pub(crate) fn spread_modes(&self) {
        self.fleet.publish_modes(self.modes.lock().to_mesh());
    }
}

impl State {
    /// As every proxy gets it.
    fn to_mesh(&self) -> Vec<mesh::ModeOverride> {
        let now = unix_now();
        let holding = self.set.iter().filter(|(_, set)| now < set.until);
        holding
            .map(|(service, set)| mesh::ModeOverride {
                service: service.clone(),
                mode: word(set.mode).to_owned(),
                until: set.until,
                ..mesh::ModeOverride::default()
            })
            .collect()
    }
}

fn text(service: &str, set: &SetMode) -> String {
    let until = i64::try_from(set.until)
        .ok()
        .and_then(|until| jiff::Timestamp::from_second(until).ok());
    let until = until.map_or_else(String::new, |until| format!(" until {until}"));
    let reason = match set.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!("{service} {}{until} by {}{reason}", word(set.mode), set.by)
}

/// A text of bounded length.
fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

const fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Report => "report",
        Mode::Observe => "observe",
    }
}
