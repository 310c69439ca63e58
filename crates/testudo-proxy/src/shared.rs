//! What all threads of a proxy share.

use std::sync::Arc;
use std::sync::OnceLock;

use crate::clock::Clock;
use crate::drain::{Drain, Phase};
use crate::events::EventQueue;
use crate::installed::Installed;
use crate::listener::Connections;
use crate::options::ProxyOptions;
use crate::state::Secret;
use crate::tasks::Panics;

/// One proxy process.
pub struct Shared {
    /// How it was started.
    pub options: ProxyOptions,
    /// What is in force.
    pub installed: Installed,
    /// The proxy's name, once control has given one.
    name: OnceLock<Arc<str>>,
    pub(crate) clock: Clock,
    pub(crate) drain: Drain,
    pub(crate) panics: Panics,
    pub(crate) connections: Connections,
    pub(crate) outbound_secret: Secret,
    pub(crate) bound: OnceLock<Bound>,
    pub(crate) events: EventQueue,
}

/// The addresses that listeners got.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    /// Gateway: where clients connect.
    pub listen: Option<String>,
    /// Sidecar: mTLS side.
    pub inbound: Option<String>,
    /// Sidecar: side for its application.
    pub outbound: Option<String>,
    /// Administration.
    pub admin: String,
}

impl Shared {
    pub(crate) fn new(options: ProxyOptions, outbound_secret: Secret, events: EventQueue) -> Self {
        let name = OnceLock::new();
        if let Some(given) = &options.name {
            let _ = name.set(Arc::from(given.as_str()));
        }
        Shared {
            connections: Connections::new(&options.caps),
            options,
            installed: Installed::default(),
            name,
            clock: Clock::start(),
            drain: Drain::default(),
            panics: Panics::default(),
            outbound_secret,
            bound: OnceLock::new(),
            events,
        }
    }

    /// The proxy's name; before control has given one, its role's.
    pub fn name(&self) -> Arc<str> {
        match self.name.get() {
            Some(name) => name.clone(),
            None => Arc::from(self.options.role_name()),
        }
    }

    /// Takes the name that control chose. The first one stays.
    pub fn set_name(&self, name: &str) {
        let _ = self.name.set(Arc::from(name));
    }

    /// The addresses that listeners got, once all are bound.
    pub fn bound(&self) -> Option<&Bound> {
        self.bound.get()
    }

    /// Begins to stop, as SIGTERM does.
    pub fn stop(&self) {
        self.drain.advance(Phase::Leaving);
    }

    /// What keeps this proxy from serving; `None`: it is ready.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.drain.phase() > Phase::Serving {
            Some("stopping")
        } else if self.bound.get().is_none() {
            Some("not all listeners are bound")
        } else if self.installed.snapshot.load().is_none() {
            Some("no snapshot is installed")
        } else {
            None
        }
    }
}
