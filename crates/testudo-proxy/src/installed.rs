//! What control has given this proxy and what is in force now: the snapshot, where services are, keys,
//! revocations and the proxy's own identity. The control link fills it; requests only read it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::sign::CertifiedKey;
use testudo_guard::authn::TxnSigner;
use testudo_guard::{Live, Snapshot};
use testudo_identity::MeshTls;
use tokio::sync::watch;

use crate::addresses::Addresses;

/// Everything in force. Each part is swapped whole; a request reads each at most once.
pub struct Installed {
    /// The compiled revision; empty: nothing is served (`not_ready`). Replace it with [`Installed::install_snapshot`].
    pub snapshot: Arc<ArcSwapOption<Snapshot>>,
    /// Where services are. Replace it with [`Installed::install_addresses`].
    pub addresses: ArcSwap<Addresses>,
    /// Keys, revocations and limits. Call [`Installed::changed`] after storing.
    pub live: Arc<Live>,
    /// The edge certificate from the mesh's CA, for gateways whose bundle names none.
    pub edge_key: ArcSwapOption<CertifiedKey>,
    /// The key that a gateway signs transaction tokens with, once control has published it.
    pub txn_signer: ArcSwapOption<TxnSigner>,
    mesh: OnceLock<Arc<MeshTls>>,
    changes: watch::Sender<u64>,
    retired: Mutex<Vec<Arc<Snapshot>>>,
}

impl Default for Installed {
    fn default() -> Self {
        Installed {
            snapshot: Arc::new(ArcSwapOption::empty()),
            addresses: ArcSwap::default(),
            live: Arc::new(Live::default()),
            edge_key: ArcSwapOption::empty(),
            txn_signer: ArcSwapOption::empty(),
            mesh: OnceLock::new(),
            changes: watch::Sender::new(0),
            retired: Mutex::default(),
        }
    }
}

impl Installed {
    /// Puts a snapshot in force, for all cores at once.
    pub fn install_snapshot(&self, snapshot: Arc<Snapshot>) {
        let old = self.snapshot.swap(Some(snapshot.clone()));
        self.live.forget_unused(&snapshot);
        if let Some(old) = old {
            // Dropping a snapshot takes long. Held here, it is never dropped by a data thread.
            self.retired
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(old);
        }
        self.changed();
    }

    /// Drops snapshots that no core holds any more. For the control thread, now and then.
    pub(crate) fn drop_retired(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Replaces all addresses.
    pub fn install_addresses(&self, addresses: Addresses) {
        self.addresses.store(Arc::new(addresses));
        self.changed();
    }

    /// Mutual TLS of this mesh, once the trust domain is known. The first one stays; identity, roots and
    /// revocations are swapped inside it ([`Installed::changed`] afterwards).
    pub fn set_mesh(&self, mesh: Arc<MeshTls>) {
        let _ = self.mesh.set(mesh);
        self.changed();
    }

    /// Mutual TLS of this mesh.
    pub fn mesh(&self) -> Option<&Arc<MeshTls>> {
        self.mesh.get()
    }

    /// Says that something in here changed, so that open connections are judged again.
    pub fn changed(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// Wakes on each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
