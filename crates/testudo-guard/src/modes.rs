//! Modes that hold for a while instead of those of the bundle (`testudo mode`). They end by
//! themselves, on whichever clock comes first: one that is set back prolongs nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use testudo_model::Mode;

use crate::now::Now;
use crate::seldom::Emptiness;

/// Nothing is set for longer.
pub const LONGEST: Duration = Duration::from_hours(24);

/// A service's mode for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModeOverride {
    /// What holds meanwhile.
    pub mode: Mode,
    /// Seconds since the epoch.
    pub until: u64,
    /// The same on the monotonic clock of this process.
    pub ends: Duration,
    /// Set on the proxy's own host, not by control.
    pub on_host: bool,
}

impl ModeOverride {
    /// Until this moment of the wall clock; never longer than [`LONGEST`] from now.
    pub fn until(mode: Mode, until: u64, now: Now) -> ModeOverride {
        let left = until.saturating_sub(now.unix_seconds());
        let left = Duration::from_secs(left).min(LONGEST);
        ModeOverride {
            mode,
            until,
            ends: now.monotonic.saturating_add(left),
            on_host: false,
        }
    }

    /// Whether it still holds.
    pub fn holds(&self, now: Now) -> bool {
        now.unix_seconds() < self.until && now.monotonic < self.ends
    }
}

/// All of them, by service; replaced when one comes or goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    by_service: HashMap<Arc<str>, ModeOverride, RandomState>,
}

impl Modes {
    /// These; the last one of a service counts.
    pub fn new(entries: impl IntoIterator<Item = (Arc<str>, ModeOverride)>) -> Modes {
        Modes {
            by_service: entries.into_iter().collect(),
        }
    }

    /// What holds for this service instead of its own mode.
    pub fn of(&self, service: &str, now: Now) -> Option<Mode> {
        let found = self.by_service.get(service)?;
        found.holds(now).then_some(found.mode)
    }

    /// All that still hold, in no order.
    pub fn active(&self, now: Now) -> impl Iterator<Item = (&Arc<str>, &ModeOverride)> {
        self.by_service
            .iter()
            .filter(move |(_, entry)| entry.holds(now))
    }
}

impl Emptiness for Modes {
    fn is_empty(&self) -> bool {
        self.by_service.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: u64, monotonic: u64) -> Now {
        Now {
            wall: Duration::from_secs(wall),
            monotonic: Duration::from_secs(monotonic),
        }
    }

    #[test]
    fn it_ends_on_either_clock() {
        let entry = ModeOverride::until(Mode::Report, 2_000, at(1_000, 50));
        let modes = Modes::new([(Arc::from("orders"), entry)]);
        let of = |now| modes.of("orders", now);
        assert_eq!(of(at(1_000, 50)), Some(Mode::Report));
        assert_eq!(of(at(1_999, 1_049)), Some(Mode::Report));
        assert_eq!(of(at(2_000, 60)), None, "the wall clock says so");
        assert_eq!(of(at(900, 1_050)), None, "set back, it ends all the same");
        assert_eq!(modes.of("payments", at(1_000, 50)), None);
        assert_eq!(modes.active(at(1_000, 50)).count(), 1);
        assert_eq!(modes.active(at(2_000, 50)).count(), 0);
    }

    #[test]
    fn nothing_holds_for_longer_than_a_day() {
        let entry = ModeOverride::until(Mode::Observe, u64::MAX, at(0, 0));
        assert!(entry.holds(at(86_399, 86_399)));
        assert!(!entry.holds(at(86_400, 86_400)));
    }
}
