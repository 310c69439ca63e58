//! What is usual at this time of day, or in this hour of the week (UTC).

use serde::{Deserialize, Serialize};

use super::level::{Level, scale};

const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;
/// Share by which the newest value of a slot counts.
const SLOT_RATE: f64 = 1.0 / 21.0;
/// Share by which the newest residual counts.
const RESIDUAL_RATE: f64 = 1.0 / 288.0;
/// Values that a slot needs before it is compared with.
const SLOT_READY: u32 = 3;
/// Residuals before their spread means something.
const READY: u32 = 30;

/// A cycle in slots, each with a level of its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Season {
    cycle: i64,
    slots: Vec<Level>,
    residuals: Level,
    /// When the first value came: a slot is compared with only in a later cycle.
    first: Option<i64>,
}

impl Season {
    /// The day in quarters of an hour.
    pub(super) fn day() -> Season {
        Season::new(DAY, 96)
    }

    /// The week in hours.
    pub(super) fn week() -> Season {
        Season::new(WEEK, 168)
    }

    fn new(cycle: i64, slots: usize) -> Season {
        Season {
            cycle,
            slots: vec![Level::default(); slots],
            residuals: Level::default(),
            first: None,
        }
    }

    /// The value's distance from what is usual at `at`; `None`: not known yet. Learns how large these
    /// distances are.
    pub(super) fn residual(&mut self, at: i64, value: f64) -> Option<f64> {
        // Within the first cycle a slot would only repeat the last few minutes.
        if at.saturating_sub(self.first?) < self.cycle {
            return None;
        }
        let slot = self.slots.get(self.slot(at)?)?;
        if slot.count() < SLOT_READY {
            return None;
        }
        let residual = value - slot.value();
        self.residuals.learn_distance(residual, RESIDUAL_RATE);
        Some(residual)
    }

    /// Whether enough residuals were seen.
    pub(super) fn is_ready(&self) -> bool {
        self.residuals.count() >= READY
    }

    /// Mean absolute residual; infinite until known.
    pub(super) fn spread(&self) -> f64 {
        if self.is_ready() {
            self.residuals.spread()
        } else {
            f64::INFINITY
        }
    }

    /// What residuals are measured by, where `expected` is expected.
    pub(super) fn scale(&self, expected: f64) -> f64 {
        scale(self.residuals.spread(), expected)
    }

    pub(super) fn learn(&mut self, at: i64, value: f64) {
        self.first.get_or_insert(at);
        let slot = self.slot(at);
        if let Some(slot) = slot.and_then(|slot| self.slots.get_mut(slot)) {
            slot.learn(value, SLOT_RATE);
        }
    }

    fn slot(&self, at: i64) -> Option<usize> {
        let slots = i64::try_from(self.slots.len()).ok()?;
        // The epoch was a Thursday; which slot is first does not matter.
        let slot = at.rem_euclid(self.cycle.max(1)) * slots / self.cycle.max(1);
        usize::try_from(slot).ok()
    }
}
