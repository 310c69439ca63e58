//! State that outlives snapshots: keys, revocations, limits (shared by all cores), and each core's caches.

use std::collections::HashSet;

use arc_swap::ArcSwap;
use testudo_model::Mode;

use crate::authn::{Fingerprints, KeyRing, Revocations, TokenBook, TokenCache, TxnKeys, TxnMinter};
use crate::containment::Containments;
use crate::limit::Limiter;
use crate::modes::Modes;
use crate::now::Now;
use crate::seldom::Seldom;
use crate::snapshot::{Service, Snapshot};

/// Shared by all cores of a proxy; kept over snapshot swaps.
#[derive(Default)]
pub struct Live {
    /// JSON Web Key Sets by issuer name, as last fetched or read.
    pub keys: ArcSwap<KeyRing>,
    /// Public keys that verify transaction tokens.
    pub txn_keys: ArcSwap<TxnKeys>,
    /// Revoked workloads, users, keys and tokens.
    pub revocations: ArcSwap<Revocations>,
    /// Rate-limit state.
    pub limiter: Limiter,
    /// Transaction tokens that this workload's inbound side verified (sidecars only).
    pub token_book: TokenBook,
    /// Principals that are narrowed for a while.
    pub containments: Seldom<Containments>,
    /// Names for wrong credentials in events.
    pub fingerprints: Fingerprints,
    /// Modes that hold for a while instead of the bundle's.
    pub modes: Seldom<Modes>,
}

impl Live {
    /// The mode of a service at this moment: the one set for a while, or the bundle's.
    pub fn mode_of(&self, service: &Service, now: Now) -> Mode {
        let set = self.modes.get();
        set.and_then(|modes| modes.of(&service.name, now))
            .unwrap_or_else(|| service.mode_at(now))
    }

    /// Forgets the counts of limits that this snapshot lacks. Call it when the snapshot is in force.
    pub fn forget_unused(&self, snapshot: &Snapshot) {
        let used: HashSet<&str> = snapshot
            .services
            .values()
            .flat_map(|service| &service.limits)
            .map(|limit| &*limit.name)
            .collect();
        self.limiter.retain(|name| used.contains(name));
    }
}

/// One core's caches; used by one thread only.
#[derive(Default)]
pub struct Local {
    /// Verified user credentials and transaction tokens.
    pub tokens: TokenCache,
    /// Transaction tokens that this core made a moment ago (gateways only).
    pub minter: TxnMinter,
}
