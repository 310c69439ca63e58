//! A level and the typical distance from it, both by exponential forgetting that is guarded: one value
//! moves them by a few spreads at most, so that an anomaly is not what the next one is measured by.

use serde::{Deserialize, Serialize};

/// Spreads by which one value may pull.
const CLIP: f64 = 3.0;
/// The guard needs a spread to guard with.
const UNGUARDED: u32 = 20;
/// Mean absolute distance to standard deviation, for normal noise.
const TO_DEVIATION: f64 = 1.253_3;
/// Least spread, as a share of the level: nothing real is quieter.
const LEAST: f64 = 0.02;

/// See the module.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub(crate) struct Level {
    count: u32,
    level: f32,
    spread: f32,
}

/// There are thousands of levels: stored as three numbers without names.
type Stored = (u32, f32, f32);

impl From<Stored> for Level {
    fn from((count, level, spread): Stored) -> Level {
        // JSON has no infinities or NaN, but a damaged record may have large numbers.
        Level {
            count,
            level,
            spread: spread.max(0.0),
        }
    }
}

impl From<Level> for Stored {
    fn from(level: Level) -> Stored {
        (level.count, level.level, level.spread)
    }
}

impl Level {
    pub(crate) fn count(self) -> u32 {
        self.count
    }

    pub(crate) fn value(self) -> f64 {
        f64::from(self.level)
    }

    /// Mean absolute distance.
    pub(crate) fn spread(self) -> f64 {
        f64::from(self.spread)
    }

    /// What distances are measured by; never 0.
    pub(crate) fn scale(self) -> f64 {
        scale(self.spread(), self.value())
    }

    /// `rate`: share by which the newest value counts, once there are more than `1 / rate`.
    pub(crate) fn learn(&mut self, value: f64, rate: f64) {
        self.count = self.count.saturating_add(1);
        if self.count == 1 {
            self.level = narrow(value);
            return;
        }
        let limit = if self.count < UNGUARDED {
            f64::INFINITY
        } else {
            CLIP * self.scale()
        };
        let rate = rate.max(1.0 / f64::from(self.count));
        let distance = (value - self.value()).clamp(-limit, limit);
        self.level = narrow(self.value() + rate * distance);
        self.spread = narrow(self.spread() + rate * (distance.abs() - self.spread()));
    }

    /// Learns the spread of distances that somebody else measured.
    pub(crate) fn learn_distance(&mut self, distance: f64, rate: f64) {
        self.count = self.count.saturating_add(1);
        let limit = if self.count <= UNGUARDED {
            f64::INFINITY
        } else {
            CLIP * (self.spread() * TO_DEVIATION).max(1e-6)
        };
        let rate = rate.max(1.0 / f64::from(self.count));
        self.spread = narrow(self.spread() + rate * (distance.abs().min(limit) - self.spread()));
    }

    /// A new level, to be refined quickly; the spread stays what it was.
    pub(crate) fn restart(&mut self, level: f64) {
        self.level = narrow(level);
        self.count = self.count.min(UNGUARDED);
    }
}

pub(crate) fn scale(spread: f64, level: f64) -> f64 {
    (spread * TO_DEVIATION).max(LEAST * level.abs()).max(1e-6)
}

/// State is kept in single precision: its noise is far below any spread.
#[expect(
    clippy::cast_possible_truncation,
    reason = "precision, not range, is given up"
)]
pub(crate) fn narrow(value: f64) -> f32 {
    value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}
