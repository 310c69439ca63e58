//! Who called what, over restarts: the memory that `policy learn` and the access matrix read.
//!
//! Windows say how often; the events that come here, of which there may be fewer, say what the requests looked like.
//! Kept in memory and written to the store rarely: a crash loses what came since. Bounded by
//! [`MAX_CALLS`](testudo_policy::learn::observed::MAX_CALLS) and by age.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use testudo_model::{Event, Hop};
use testudo_policy::learn::observed::{Call, CallKey, Calls, Counts, Identity};
use testudo_watch::window::{self, MergedWindow, Who};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

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

    /// Looks at a request. A proxy whose clock is ahead cannot make a call look newer than now.
    pub fn look_at(&self, event: &Event, template: Option<&str>) {
        let at = event.time.min(Timestamp::now());
        self.lock().look_at(event, template, at);
    }

    /// Counts what a complete window says.
    pub fn count(&self, window: &MergedWindow) {
        if window.counts.calls.is_empty() {
            return;
        }
        let now = Timestamp::now();
        let at = |seconds: u64| {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            Timestamp::from_second(seconds).unwrap_or(now).min(now)
        };
        let mut calls = self.lock();
        for (key, stats) in window.counts.calls.iter() {
            // A caller that was not proven is nobody that a policy could permit.
            if key.hop == Hop::Mesh && key.caller.is_none() {
                continue;
            }
            let counts = Counts {
                permitted: stats.permitted,
                denied: stats.denied,
                reported: stats.reported,
                unfit: stats.unfit,
            };
            calls.count(
                key_of(key),
                counts,
                at(window.start),
                at(stats.last_us / 1_000_000),
            );
        }
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

fn key_of(key: &window::CallKey) -> CallKey {
    let identity = match &key.who {
        Who::Roles(roles) => Identity::Roles(roles.iter().map(|role| role.to_string()).collect()),
        Who::Anonymous => Identity::Anonymous,
        Who::Nobody => Identity::None,
    };
    CallKey {
        service: key.service.to_string(),
        operation: key.operation.to_string(),
        caller: key.caller.as_deref().map(str::to_owned),
        identity,
    }
}

/// Counts complete windows until `stop`.
pub async fn count_windows(control: Arc<crate::Control>, stop: CancellationToken) {
    let mut windows = control.windows.subscribe();
    loop {
        let window = tokio::select! {
            window = windows.recv() => window,
            () = stop.cancelled() => return,
        };
        match window {
            Ok(window) => control.observed.count(&window),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(
                    missed,
                    "windows came too fast to be counted for policy learn"
                );
            }
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::tests::event;

    /// What proxies counted of these requests in one window.
    fn merged(events: &[Event], start: u64) -> MergedWindow {
        let mut aggregator = window::Aggregator::new(Some("orders".into()), start);
        for event in events {
            aggregator.count(event, start);
        }
        let mut merged = MergedWindow::new(start);
        merged.merge(&aggregator.finish().unwrap(), Some(&"orders".into()));
        merged
    }

    #[test]
    fn calls_outlive_a_restart_and_old_ones_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Observed::open(Store::open(&dir.path().join("store.redb")).unwrap()).unwrap();
        let seen = |second| Event {
            hop: Hop::Mesh,
            caller: Some("gateway".into()),
            operation: Some("orders:getOrder".into()),
            roles: vec!["customer".into()],
            ..event("orders", None, second)
        };
        let now = Timestamp::now().as_second();
        let window = merged(&[seen(now), seen(now)], u64::try_from(now).unwrap());
        let observed = open();
        observed.count(&window);
        // Looked at, and by a clock that is ahead.
        observed.look_at(&seen(now + 10_000), None);
        let old = Event {
            operation: Some("orders:old".into()),
            ..seen(now - 31 * 24 * 3600)
        };
        observed.look_at(&old, None);
        observed.flush().unwrap();
        drop(observed);

        let observed = open();
        let list = observed.list(Some("orders"), None);
        assert_eq!(list.len(), 1, "{list:?}");
        let (key, call) = &list[0];
        assert_eq!(key.operation, "orders:getOrder");
        assert_eq!(key.identity, Identity::Roles(vec!["customer".into()]));
        assert_eq!((call.counts.permitted, call.looked_at), (2, 1));
        assert!(call.last <= Timestamp::now(), "{call:?}");
        observed.count(&window);
        observed.flush().unwrap();
        assert_eq!(observed.store.calls().unwrap()[0].1.counts.permitted, 4);
        assert!(observed.list(Some("payments"), None).is_empty());
        let later = Timestamp::now()
            .checked_add(Duration::from_secs(1))
            .unwrap();
        assert!(observed.list(None, Some(later)).is_empty());
    }

    #[test]
    fn a_caller_that_was_not_proven_is_nobody_to_permit() {
        let dir = tempfile::tempdir().unwrap();
        let observed =
            Observed::open(Store::open(&dir.path().join("store.redb")).unwrap()).unwrap();
        let unproven = Event {
            hop: Hop::Mesh,
            caller: None,
            operation: Some("orders:getOrder".into()),
            ..event("orders", None, 4)
        };
        observed.count(&merged(&[unproven], 4));
        assert!(observed.list(None, None).is_empty());
    }
}
