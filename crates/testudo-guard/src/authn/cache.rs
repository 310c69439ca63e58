//! Bounded maps of one core: verified credentials, freshly made transaction tokens.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use smallvec::SmallVec;

use super::User;
use super::revocation::Revocations;

/// Verified credentials of one core, bounded, until they expire or keys or revocations change.
///
/// Only what was verified is kept, under SHA-256 of the credential; forged tokens push nothing out.
pub struct TokenCache {
    entries: Clock<[u8; 32], Entry>,
}

/// A verified credential, and everything that its being valid rests on.
pub(super) struct Entry {
    pub(super) user: Arc<User>,
    /// Accepted before this second, leeway included.
    pub(super) until: u64,
    pub(super) basis: Basis,
    pub(super) names: RevocableNames,
    /// [`Revocations::stamp`] of the list that it was last held against.
    pub(super) checked: u128,
}

/// The rules and keys that a verification rests on: when they change, it counts no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// A JWT, under these rules and these keys of its issuer.
    Jwt {
        /// Stamp of the authenticators.
        rules: u128,
        /// Index of the issuer there.
        issuer: usize,
        /// Stamp of its key set.
        keys: u128,
    },
    /// A transaction token. The `kid` is a digest of the key, so it names one key for ever.
    Txn {
        kid: Arc<str>,
        trust_domain: Arc<str>,
    },
}

/// By what a credential can be revoked, besides its user and its digest.
#[derive(Clone, Debug, Default)]
pub(super) struct RevocableNames {
    /// `kid` and thumbprint.
    pub(super) keys: SmallVec<[Arc<str>; 2]>,
    /// `jti` or `txn`, and the digest of what was signed.
    pub(super) tokens: SmallVec<[Arc<str>; 2]>,
}

impl Default for TokenCache {
    fn default() -> Self {
        TokenCache {
            entries: Clock::new(4096),
        }
    }
}

impl TokenCache {
    /// A credential that was verified on a basis that `holds`, has not expired and is not revoked. What
    /// fails any of these is dropped, so that the full verification says why.
    pub(super) fn find(
        &mut self,
        digest: &[u8; 32],
        revocations: &Revocations,
        unix_seconds: u64,
        holds: impl FnOnce(&Basis) -> bool,
    ) -> Option<Arc<User>> {
        let entry = self.entries.find(digest)?;
        let current = unix_seconds < entry.until && holds(&entry.basis);
        let revoked = entry.checked != revocations.stamp()
            && revocations.credential(&entry.user, &entry.names);
        if !current || revoked {
            self.entries.remove(digest);
            return None;
        }
        entry.checked = revocations.stamp();
        Some(entry.user.clone())
    }

    pub(super) fn insert(&mut self, digest: [u8; 32], entry: Entry) {
        self.entries.insert(digest, entry);
    }

    /// How many credentials are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A map of bounded size. When it is full, what was not used since the hand last passed goes first (the
/// CLOCK algorithm: as good as LRU here, without a list to keep in order).
pub(super) struct Clock<K, V> {
    index: HashMap<K, usize, ahash::RandomState>,
    slots: Vec<Slot<K, V>>,
    hand: usize,
    capacity: usize,
}

struct Slot<K, V> {
    key: K,
    value: V,
    used: bool,
}

impl<K: Hash + Eq + Clone, V> Clock<K, V> {
    /// An empty map that grows to at most `capacity` (at least one) entries.
    pub(super) fn new(capacity: usize) -> Self {
        Clock {
            index: HashMap::default(),
            slots: Vec::new(),
            hand: 0,
            capacity: capacity.max(1),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.slots.get_mut(*self.index.get(key)?)?;
        slot.used = true;
        Some(&mut slot.value)
    }

    /// Without counting as use.
    #[cfg(test)]
    pub(super) fn peek(&self, key: &K) -> Option<&V> {
        Some(&self.slots.get(*self.index.get(key)?)?.value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if let Some(known) = self.find(&key) {
            *known = value;
            return;
        }
        let slot = Slot {
            key: key.clone(),
            value,
            used: false,
        };
        let at = if self.slots.len() < self.capacity {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let at = self.victim();
            if let Some(old) = self.slots.get_mut(at) {
                let old = std::mem::replace(old, slot);
                self.index.remove(&old.key);
            }
            at
        };
        self.index.insert(key, at);
    }

    pub(super) fn remove(&mut self, key: &K) {
        let Some(at) = self.index.remove(key) else {
            return;
        };
        if at < self.slots.len() {
            self.slots.swap_remove(at);
        }
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.key.clone(), at);
        }
    }

    /// The slot to give up; at most two rounds of the hand.
    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand % self.slots.len().max(1);
            self.hand = at + 1;
            match self.slots.get_mut(at) {
                Some(slot) if slot.used => slot.used = false,
                Some(_) | None => return at,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_used_stays() {
        let mut map = Clock::new(3);
        for key in 0..3 {
            map.insert(key, key * 10);
        }
        assert_eq!(map.find(&0), Some(&mut 0));
        map.insert(3, 30);
        assert_eq!(map.len(), 3);
        assert!(map.find(&0).is_some(), "used since the hand last passed");
        assert!(map.find(&1).is_none(), "the first unused one went");
        assert!(map.find(&3).is_some());
    }

    proptest! {
        #[test]
        fn a_clock_is_a_bounded_map(steps in proptest::collection::vec((0u8..3, 0u16..40), 0..400)) {
            let mut map = Clock::new(16);
            let mut last = std::collections::HashMap::new();
            for (step, (kind, key)) in steps.into_iter().enumerate() {
                match kind {
                    0 => {
                        map.insert(key, step);
                        last.insert(key, step);
                        prop_assert_eq!(map.peek(&key), Some(&step));
                    }
                    1 => {
                        map.remove(&key);
                        last.remove(&key);
                        prop_assert_eq!(map.peek(&key), None);
                    }
                    _ => {
                        let found = map.find(&key).map(|value| *value);
                        prop_assert!(found.is_none() || found == last.get(&key).copied());
                    }
                }
                prop_assert!(map.len() <= 16 && map.index.len() == map.len());
            }
        }
    }
}
