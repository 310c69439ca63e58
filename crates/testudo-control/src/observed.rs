//! Who called what, over restarts: the memory that `policy learn` and the access matrix read.
//!
//! Counted in memory and written to the store rarely; a crash loses what came since. Bounded by
//! [`MAX_CALLS`](testudo_policy::learn::observed::MAX_CALLS) and by age.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use testudo_model::Event;
use testudo_policy::learn::observed::{Call, CallKey, Calls};

use crate::store::{Store, StoreError};

/// How often the store is written.
pub const FLUSH: Duration = Duration::from_secs(30);

/// Calls that were not seen for so long are forgotten.
const MEMORY: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The calls of the whole mesh.
pub struct Observed {
    store: Store,
    calls: Mutex<Calls>,
}

impl Observed {
    /// With what the store has kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(store: Store) -> Result<Observed, StoreError> {
        let mut calls = Calls::default();
        for (key, call) in store.calls()? {
            calls.merge(key, &call);
        }
        calls.take_changed();
        Ok(Observed {
            store,
            calls: Mutex::new(calls),
        })
    }

    /// Counts a request and looks at it. A proxy whose clock is ahead cannot make a call look newer than now.
    pub fn add(&self, event: &Event, template: Option<&str>) {
        let at = event.time.min(Timestamp::now());
        self.lock().add(event, template, at);
    }

    /// Writes what changed and forgets what is old.
    ///
    /// # Errors
    /// When the store cannot be written; what changed is tried again when it changes again.
    pub fn flush(&self) -> Result<(), StoreError> {
        let (changed, gone) = {
            let mut calls = self.lock();
            let oldest = Timestamp::now().checked_sub(MEMORY);
            let gone = oldest.map_or_else(|_| Vec::new(), |oldest| calls.forget_before(oldest));
            (calls.take_changed(), gone)
        };
        if changed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.store.put_calls(&changed, &gone)
    }

    /// Reads them.
    pub fn with<T>(&self, read: impl FnOnce(&Calls) -> T) -> T {
        read(&self.lock())
    }

    /// Those of a service (or all) that were seen since a moment, by key.
    pub fn list(&self, service: Option<&str>, since: Option<Timestamp>) -> Vec<(CallKey, Call)> {
        let mut list: Vec<(CallKey, Call)> = self.with(|calls| {
            let calls = calls.iter().filter(|(key, call)| {
                service.is_none_or(|service| {
                    key.service == service || key.caller.as_deref() == Some(service)
                }) && since.is_none_or(|since| call.last >= since)
            });
            calls
                .map(|(key, call)| (key.clone(), call.clone()))
                .collect()
        });
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        list
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::tests::event;

    #[test]
    fn calls_outlive_a_restart_and_old_ones_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Observed::open(Store::open(&dir.path().join("store.redb")).unwrap()).unwrap();
        let seen = |second| Event {
            operation: Some("orders:getOrder".into()),
            roles: vec!["customer".into()],
            ..event("orders", None, second)
        };
        let now = Timestamp::now().as_second();
        let observed = open();
        for second in [now - 5, now, now + 10_000] {
            observed.add(&seen(second), None);
        }
        let old = Event {
            operation: Some("orders:old".into()),
            ..seen(now - 31 * 24 * 3600)
        };
        observed.add(&old, None);
        observed.flush().unwrap();
        drop(observed);

        let observed = open();
        let list = observed.list(Some("orders"), None);
        assert_eq!(list.len(), 1, "{list:?}");
        let (key, call) = &list[0];
        assert_eq!(key.operation, "orders:getOrder");
        assert_eq!(call.counts.permitted, 3);
        assert!(call.last <= Timestamp::now(), "{call:?}");
        // Nothing changed, so nothing is written: the store could be anywhere.
        observed.flush().unwrap();
        observed.add(&seen(now), None);
        observed.flush().unwrap();
        assert_eq!(observed.store.calls().unwrap()[0].1.counts.permitted, 4);
        assert!(observed.list(Some("payments"), None).is_empty());
        assert!(observed.list(None, Some(Timestamp::now())).is_empty());
    }
}
