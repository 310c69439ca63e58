//! What all threads of a proxy share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use testudo_guard::snapshot::EdgeTls;
use testudo_model::Event;
use testudo_watch::{ClosedWindow, EventSender, Metrics};
use tokio::sync::mpsc;

use crate::body::HeldBytes;
use crate::clock::Clock;
use crate::drain::{Drain, Phase};
use crate::installed::Installed;
use crate::listener::Connections;
use crate::options::ProxyOptions;
use crate::state::Secret;
use crate::tasks::Panics;
use crate::trace::OpenTraces;
use crate::upstream::HealthTable;

/// One proxy process.
pub struct Shared {
    /// How it was started.
    pub options: ProxyOptions,
    /// What is in force.
    pub installed: Installed,
    /// The proxy's name, once control has given one.
    name: OnceLock<Arc<str>>,
    /// The one clock of this process.
    pub clock: Clock,
    pub(crate) drain: Drain,
    pub(crate) panics: Panics,
    pub(crate) connections: Connections,
    pub(crate) outbound_secret: Secret,
    pub(crate) bound: ArcSwapOption<Bound>,
    /// What is counted; `/metrics` shows it.
    pub metrics: Arc<Metrics>,
    pub(crate) events: EventSender,
    uplink: Mutex<Option<Uplink>>,
    pub(crate) health: HealthTable,
    pub(crate) open_traces: OpenTraces,
    pub(crate) held_bytes: HeldBytes,
    /// Connections of other proxies.
    pub(crate) inbound: Tally,
    /// Connections to the inbound side that did not prove to be of this mesh.
    pub(crate) refused_handshakes: Counter,
    inbound_tls: OnceLock<Arc<rustls::ServerConfig>>,
}

/// Where events go.
pub(crate) struct Evidence {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: EventSender,
    pub(crate) uplink: Uplink,
}

/// What the recorder has for control.
pub struct Uplink {
    /// Events, as many as there is room for.
    pub events: mpsc::Receiver<Arc<Event>>,
    /// Windows whose time is over.
    pub windows: mpsc::Receiver<ClosedWindow>,
}

/// Counts what is open, over all cores.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<AtomicU64>);

impl Tally {
    /// How many are open.
    pub(crate) fn open(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// One more, until the guard is dropped.
    pub(crate) fn enter(&self) -> Tallied {
        self.0.fetch_add(1, Ordering::AcqRel);
        Tallied(self.clone())
    }
}

/// One that is open.
#[derive(Debug)]
pub(crate) struct Tallied(Tally);

impl Drop for Tallied {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts up.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The addresses that listeners got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    pub(crate) fn new(options: ProxyOptions, outbound_secret: Secret, evidence: Evidence) -> Self {
        let name = OnceLock::new();
        if let Some(given) = &options.name {
            let _ = name.set(Arc::from(given.as_str()));
        }
        let held_bytes = HeldBytes::new(options.caps.held_bytes);
        Shared {
            connections: Connections::new(&options.caps),
            options,
            installed: Installed::default(),
            name,
            clock: Clock::start(),
            drain: Drain::default(),
            panics: Panics::default(),
            outbound_secret,
            bound: ArcSwapOption::empty(),
            metrics: evidence.metrics,
            events: evidence.events,
            uplink: Mutex::new(Some(evidence.uplink)),
            health: HealthTable::default(),
            open_traces: OpenTraces::default(),
            held_bytes,
            inbound: Tally::default(),
            refused_handshakes: Counter::default(),
            inbound_tls: OnceLock::new(),
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
    pub fn bound(&self) -> Option<Arc<Bound>> {
        self.bound.load_full()
    }

    /// Mutual TLS of the inbound side, once there is a mesh. Identity and roots are looked up for each
    /// handshake, so that one configuration does for good.
    pub(crate) fn inbound_tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        if let Some(config) = self.inbound_tls.get() {
            return Some(config.clone());
        }
        match self.installed.mesh()?.server_config() {
            Ok(config) => Some(self.inbound_tls.get_or_init(|| config).clone()),
            Err(error) => {
                tracing::error!(%error, "mutual TLS cannot be configured");
                None
            }
        }
    }

    /// Events and windows on their way to control, for the one who takes them first.
    pub fn take_uplink(&self) -> Option<Uplink> {
        self.uplink
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// How many tasks panicked so far.
    pub fn panic_count(&self) -> u64 {
        self.panics.count()
    }

    /// Begins to stop, as SIGTERM does.
    pub fn stop(&self) {
        self.drain.advance(Phase::Leaving);
    }

    /// What keeps this proxy from serving; `None`: it is ready.
    pub fn not_ready(&self) -> Option<&'static str> {
        let snapshot = self.installed.snapshot.load();
        let Some(snapshot) = snapshot.as_deref() else {
            return Some("no snapshot is installed");
        };
        let is_gateway = snapshot.edge.is_some();
        let mesh_edge = snapshot
            .edge
            .as_ref()
            .is_some_and(|edge| matches!(edge.tls, EdgeTls::Mesh));
        let mesh_ready = self.installed.mesh().is_some_and(|mesh| mesh.is_ready());
        // A gateway whose services all have no sidecar needs no identity.
        let needs_mesh = !is_gateway || snapshot.services.values().any(|service| !service.plain);
        if self.drain.phase() > Phase::Serving {
            Some("stopping")
        } else if self.bound.load().is_none() {
            Some("not all listeners are bound")
        } else if needs_mesh && !mesh_ready {
            Some("there is no valid identity")
        } else if mesh_edge && self.installed.edge_key.load().is_none() {
            Some("there is no edge certificate")
        } else if is_gateway
            && needs_mesh
            && snapshot.users.is_some()
            && self.installed.txn_signer.load().is_none()
        {
            Some("there is no transaction-token key")
        } else {
            None
        }
    }
}
