//! What control has given this proxy and what is in force now: the snapshot, where services are, keys,
//! revocations and the proxy's own identity. The control link fills it; requests only read it.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use testudo_guard::{Live, Snapshot};
use tokio::sync::watch;

use crate::addresses::Addresses;

/// Everything in force. Each part is swapped whole; a request reads each at most once.
pub struct Installed {
    /// The compiled revision; `None`: nothing is served (`not_ready`).
    pub snapshot: Arc<ArcSwapOption<Snapshot>>,
    /// Where services are.
    pub addresses: ArcSwap<Addresses>,
    /// Keys, revocations and limits.
    pub live: Arc<Live>,
    changes: watch::Sender<u64>,
}

impl Default for Installed {
    fn default() -> Self {
        Installed {
            snapshot: Arc::new(ArcSwapOption::empty()),
            addresses: ArcSwap::default(),
            live: Arc::new(Live::default()),
            changes: watch::Sender::new(0),
        }
    }
}

impl Installed {
    /// Puts a snapshot in force, for all cores at once. The old one is dropped by whoever used it last,
    /// but never on a data thread: each core hands its cached one back (see `Core::snapshot`).
    pub fn install_snapshot(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(Some(snapshot));
        self.changed();
    }

    /// Replaces all addresses.
    pub fn install_addresses(&self, addresses: Addresses) {
        self.addresses.store(Arc::new(addresses));
        self.changed();
    }

    /// Says that something in here changed, so that long-lived connections are judged again. Whoever
    /// stores into [`Live`] calls this afterwards.
    pub fn changed(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// Wakes on each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
