//! How endpoints are doing, known to all cores: requests at this moment, failures in a row, ejections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// So many failures in a row eject an endpoint.
const FAILURES: u32 = 5;
/// First ejection; each further one without a success in between is twice as long.
const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// Longest ejection.
const LONGEST_EJECTION: Duration = Duration::from_secs(60);

/// How one endpoint is doing.
#[derive(Debug, Default)]
pub(crate) struct Health {
    in_flight: AtomicU32,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds of the process's monotonic clock.
    ejected_until: AtomicU64,
}

impl Health {
    /// Requests at this moment, from all cores.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// One more request, until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Whether it should be left alone at `now`.
    pub(crate) fn is_ejected(&self, now: Duration) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > millis(now)
    }

    /// It answered.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.ejections.load(Ordering::Relaxed) != 0 {
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// It could not be reached, broke off, or did not answer in time.
    pub(crate) fn failed(&self, now: Duration) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 < FAILURES {
            return;
        }
        self.failures.store(0, Ordering::Relaxed);
        let before = self.ejections.fetch_add(1, Ordering::Relaxed).min(16);
        let time = FIRST_EJECTION
            .saturating_mul(1 << before)
            .min(LONGEST_EJECTION);
        self.ejected_until
            .store(millis(now + time), Ordering::Relaxed);
    }
}

/// A request that an endpoint is working on.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Health>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All endpoints that some core knows. Asked when a core meets an endpoint, not for each request.
#[derive(Debug, Default)]
pub(crate) struct HealthTable {
    endpoints: Mutex<HashMap<Arc<str>, Arc<Health>>>,
}

impl HealthTable {
    /// The health of the endpoint of this name, shared with every other core that asked for it.
    pub(crate) fn of(&self, endpoint: &Arc<str>) -> Arc<Health> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if endpoints.len() > 1024 {
            endpoints.retain(|_, health| Arc::strong_count(health) > 1);
        }
        endpoints.entry(endpoint.clone()).or_default().clone()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(100);

    fn fail(health: &Health, times: u32, now: Duration) {
        for _ in 0..times {
            health.failed(now);
        }
    }

    #[test]
    fn failures_in_a_row_eject_for_longer_each_time() {
        let health = Health::default();
        fail(&health, FAILURES - 1, START);
        assert!(!health.is_ejected(START));
        health.succeeded();
        fail(&health, FAILURES - 1, START);
        assert!(!health.is_ejected(START), "a success in between");
        health.failed(START);
        assert!(health.is_ejected(START));
        let later = START + FIRST_EJECTION;
        assert!(!health.is_ejected(later));
        fail(&health, FAILURES, later);
        assert!(health.is_ejected(later + FIRST_EJECTION));
        assert!(!health.is_ejected(later + 2 * FIRST_EJECTION));
    }

    #[test]
    fn an_ejection_is_bounded() {
        let health = Health::default();
        for _ in 0..40 {
            fail(&health, FAILURES, START);
        }
        assert!(health.is_ejected(START + LONGEST_EJECTION - Duration::from_millis(1)));
        assert!(!health.is_ejected(START + LONGEST_EJECTION));
    }

    #[test]
    fn cores_share_the_health_of_an_endpoint() {
        let table = HealthTable::default();
        let (one, two) = (table.of(&"a".into()), table.of(&"a".into()));
        let entered = one.enter();
        assert_eq!(two.in_flight(), 1);
        drop(entered);
        assert_eq!(two.in_flight(), 0);
    }
}
