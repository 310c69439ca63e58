//! A gateway's own keys for transaction tokens: made here, kept here (0600), announced to control, and
//! used only once control says that every proxy knows them (DESIGN §5).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use testudo_guard::authn::{Revocations, TxnKeys, TxnSigner};
use testudo_identity::files;
use testudo_model::mesh;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::store::{Store, StoreError};

const FILE: &str = "txn.key";
/// How long a key lives; the next one is made at half of it. Control grants no longer.
const LIFETIME_SECONDS: u64 = 7 * 24 * 3600;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenKeyError {
    /// It cannot be read or kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be made.
    #[error("no transaction-token key could be made")]
    Make,
}

/// The keys that this gateway has; the newest last.
pub(super) struct OwnKeys {
    store: Store,
    keys: Vec<OwnKey>,
}

struct OwnKey {
    signer: Arc<TxnSigner>,
    not_after: u64,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
struct StoredKey {
    pkcs8: String,
    not_after: u64,
}

fn read(text: &[u8]) -> Option<Vec<OwnKey>> {
    let stored: Stored = serde_json::from_slice(text).ok()?;
    let keys = stored.keys.iter().map(|key| {
        let der = Zeroizing::new(STANDARD.decode(key.pkcs8.as_bytes()).ok()?);
        Some(OwnKey {
            signer: Arc::new(TxnSigner::from_pkcs8(&der).ok()?),
            not_after: key.not_after,
        })
    });
    keys.collect()
}

impl OwnKeys {
    /// Reads the keys, or makes the first.
    pub(super) fn load_or_make(store: &Store, now: u64) -> Result<Self, TokenKeyError> {
        let mut own = OwnKeys {
            store: store.clone(),
            keys: Vec::new(),
        };
        let path = store.path(FILE);
        if let Some(text) = files::read_private(&path).map_err(StoreError::File)? {
            match read(&text) {
                Some(keys) => own.keys = keys,
                // A new key does as well: control tells everybody.
                None => {
                    let error = StoreError::Damaged(path);
                    tracing::error!(%error, "a new transaction-token key takes its place");
                }
            }
        }
        own.rotate_if_due(now, &Revocations::default())?;
        Ok(own)
    }

    /// Makes the next key at half of the newest one's life, or at once where that is revoked. Says
    /// whether it did: then it is to be announced.
    pub(super) fn rotate_if_due(
        &mut self,
        now: u64,
        revocations: &Revocations,
    ) -> Result<bool, TokenKeyError> {
        let good = self.keys.last().is_some_and(|key| {
            key.not_after > now + LIFETIME_SECONDS / 2 && !revocations.key(key.signer.kid())
        });
        if good {
            return Ok(false);
        }
        let signer = TxnSigner::generate().map_err(|_| TokenKeyError::Make)?;
        self.keys
            .retain(|key| key.not_after > now && !revocations.key(key.signer.kid()));
        self.keys.push(OwnKey {
            signer: Arc::new(signer),
            not_after: now + LIFETIME_SECONDS,
        });
        self.save()?;
        Ok(true)
    }

    /// What control is to tell everybody.
    pub(super) fn announcements(&self, gateway: &str, now: u64) -> Vec<mesh::TokenKey> {
        self.keys
            .iter()
            .filter(|key| key.not_after > now)
            .map(|key| mesh::TokenKey {
                kid: key.signer.kid().to_owned(),
                public_key: key.signer.public_key().to_vec(),
                gateway: gateway.to_owned(),
                not_after: key.not_after,
            })
            .collect()
    }

    /// The newest key that everybody knows: what control sends to a gateway, all others have.
    pub(super) fn usable(&self, published: &TxnKeys, now: u64) -> Option<Arc<TxnSigner>> {
        self.keys
            .iter()
            .rev()
            .find(|key| key.not_after > now && published.contains(key.signer.kid()))
            .map(|key| Arc::clone(&key.signer))
    }

    fn save(&self) -> Result<(), TokenKeyError> {
        let mut keys = Vec::new();
        for key in &self.keys {
            let der = key.signer.to_pkcs8().map_err(|_| TokenKeyError::Make)?;
            keys.push(StoredKey {
                pkcs8: STANDARD.encode(&*der),
                not_after: key.not_after,
            });
        }
        let text = serde_json::to_vec(&Stored { keys }).map_err(|_| TokenKeyError::Make)?;
        files::write_private(&self.store.path(FILE), &Zeroizing::new(text))
            .map_err(StoreError::File)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use testudo_guard::authn::{Revocation, RevocationKind, TxnKeyEntry};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn published(keys: &[mesh::TokenKey]) -> TxnKeys {
        let entries = keys.iter().map(|key| TxnKeyEntry {
            kid: Arc::from(key.kid.as_str()),
            public_key: key.public_key.clone(),
            gateway: Arc::from(key.gateway.as_str()),
            not_after: key.not_after,
        });
        let (keys, refused) = TxnKeys::new(entries);
        assert!(refused.is_empty());
        keys
    }

    #[test]
    fn a_key_is_used_once_it_is_published_and_survives_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        let own = OwnKeys::load_or_make(&store, NOW).unwrap();
        let announced = own.announcements("gateway-1", NOW);
        assert_eq!(announced.len(), 1);
        assert!(own.usable(&TxnKeys::default(), NOW).is_none());
        let signer = own.usable(&published(&announced), NOW).unwrap();
        assert_eq!(signer.kid(), announced[0].kid);
        let again = OwnKeys::load_or_make(&store, NOW + 60).unwrap();
        assert_eq!(again.announcements("gateway-1", NOW + 60), announced);
    }

    #[test]
    fn the_next_key_takes_over_only_when_published() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        let mut own = OwnKeys::load_or_make(&store, NOW).unwrap();
        let old = own.announcements("gateway-1", NOW);
        let later = NOW + LIFETIME_SECONDS / 2 + 1;
        assert!(own.rotate_if_due(later, &Revocations::default()).unwrap());
        assert!(!own.rotate_if_due(later, &Revocations::default()).unwrap());
        let both = own.announcements("gateway-1", later);
        assert_eq!(both.len(), 2);
        assert_eq!(
            own.usable(&published(&old), later).unwrap().kid(),
            old[0].kid
        );
        assert_eq!(
            own.usable(&published(&both), later).unwrap().kid(),
            both[1].kid
        );

        let revoked = Revocations::new([Revocation {
            kind: RevocationKind::Key,
            value: Arc::from(both[1].kid.as_str()),
        }]);
        assert!(own.rotate_if_due(later, &revoked).unwrap());
        assert!(
            own.announcements("gateway-1", later)
                .iter()
                .all(|key| key.kid != both[1].kid)
        );
    }
}
