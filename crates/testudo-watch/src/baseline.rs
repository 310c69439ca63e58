//! What is usual for one number over time, learned while it is watched: constant state, constant work.
//!
//! A [`Baseline`] keeps three predictions side by side: the recent [`Level`], the time of day and the
//! hour of the week ([`Season`]). How far a value is from them becomes a score by comparing with how far
//! values were before ([`Tail`]): a score of 3 is "one in a thousand", whatever the number is and
//! however noisy. So one threshold fits requests, errors, bytes and microseconds.
//!
//! Anomalies hardly teach: what is learned from one value is bounded by the spread so far. A change that
//! stays is learned all the same, and said ([`Reading::shift`]); drift is followed by forgetting. This
//! module knows nothing of windows or requests.

mod alarm;
mod level;
mod season;
mod tail;

use serde::{Deserialize, Serialize};

pub use alarm::Alarm;
pub(crate) use level::Level;
use season::Season;
use tail::Tail;

/// Score from which something is worth saying: one observation in a thousand is as far off.
pub const UNUSUAL: f64 = 3.0;

/// Observations before the first score.
pub const WARM_UP: u32 = 130;

/// Observations after which a level that is learned from has half forgotten: a day of 5 minutes.
const MEMORY: f64 = 288.0;
/// Observations that the level needs before distances to it mean something.
const LEVEL_READY: u32 = 30;
/// Observations averaged to see small shifts.
const SHORT: usize = 6;
/// Spread of a season's residuals, as a share of the level's, below which it explains the series.
const EXPLAINS: f64 = 0.9;
/// Consecutive observations far off on one side that make a change point.
const SHIFT_RUN: u32 = 60;
/// How far is far, in spreads.
const SHIFT_FAR: f64 = 3.0;

/// Which prediction a value was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predictor {
    /// The recent level.
    Level,
    /// This time of day.
    Day,
    /// This hour of the week.
    Week,
}

/// A change that stayed: a new level rather than an anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// The level before.
    pub from: f64,
    /// The value it settled on.
    pub to: f64,
}

/// What a baseline says of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// What was expected.
    pub expected: f64,
    /// Typical distance from it.
    pub spread: f64,
    /// Negative decimal logarithm of how often a value is this far off; 0 while warming up.
    pub score: f64,
    /// Whether the value is over what was expected.
    pub above: bool,
    /// Whose expectation it was.
    pub predictor: Predictor,
    /// The series has settled on another level; said once.
    pub shift: Option<Shift>,
}

/// One series: about 2 KiB, however long it is watched.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Baseline {
    level: Level,
    day: Season,
    week: Season,
    recent: Recent,
    recent_residuals: Recent,
    previous: f64,
    /// Now, short mean, step; and now and short mean against the season.
    tails: [Tail; 5],
    far_run: u32,
    far_above: bool,
}

impl Baseline {
    /// Nothing learned yet.
    pub fn new() -> Baseline {
        Baseline {
            day: Season::day(),
            week: Season::week(),
            ..Baseline::default()
        }
    }

    /// How many values were learned from.
    pub fn observations(&self) -> u32 {
        self.level.count()
    }

    /// Whether scores mean something by now.
    pub fn is_warm(&self) -> bool {
        self.level.count() >= WARM_UP
    }

    /// The recent level.
    pub fn usual(&self) -> f64 {
        self.level.value()
    }

    /// Judges a value, then learns from it. `at`: seconds since the epoch. Values that are no numbers
    /// are taken for what was expected.
    pub fn observe(&mut self, at: i64, value: f64) -> Reading {
        let value = if value.is_finite() {
            value
        } else {
            self.level.value()
        };
        self.recent.push(value);
        let mut reading = Reading {
            expected: self.level.value(),
            spread: self.level.scale(),
            score: 0.0,
            above: value >= self.level.value(),
            predictor: Predictor::Level,
            shift: None,
        };
        if self.level.count() >= LEVEL_READY {
            self.judge_level(value, &mut reading);
            self.judge_season(at, value, &mut reading);
            reading.shift = self.change_point(value);
        }
        self.level.learn(value, 1.0 / MEMORY);
        self.day.learn(at, value);
        self.week.learn(at, value);
        self.previous = value;
        reading
    }

    fn judge_level(&mut self, value: f64, reading: &mut Reading) {
        let (level, scale) = (self.level.value(), self.level.scale());
        let distances = [
            (value - level).abs(),
            (self.recent.mean() - level).abs(),
            (value - self.previous).abs(),
        ];
        for (tail, distance) in self.tails.iter_mut().zip(distances) {
            reading.score = reading.score.max(tail.observe(distance / scale));
        }
    }

    /// The season whose residuals are smallest speaks, if it explains more than the level does.
    fn judge_season(&mut self, at: i64, value: f64, reading: &mut Reading) {
        let day = self.day.residual(at, value);
        let week = self.week.residual(at, value);
        let (season, residual, predictor) = match (day, week) {
            (_, Some(residual)) if self.week.spread() < self.day.spread() => {
                (&self.week, residual, Predictor::Week)
            }
            (Some(residual), _) => (&self.day, residual, Predictor::Day),
            (None, Some(residual)) => (&self.week, residual, Predictor::Week),
            (None, None) => return,
        };
        self.recent_residuals.push(residual);
        if !season.is_ready() || season.spread() >= EXPLAINS * self.level.spread() {
            return;
        }
        let expected = value - residual;
        let scale = season.scale(expected);
        let mean = self.recent_residuals.mean();
        let mut score: f64 = 0.0;
        for (tail, distance) in self.tails.iter_mut().skip(3).zip([residual, mean]) {
            score = score.max(tail.observe(distance.abs() / scale));
        }
        reading.score = reading.score.max(score);
        reading.expected = expected;
        reading.spread = scale;
        reading.above = residual >= 0.0;
        reading.predictor = predictor;
    }

    /// Far off on one side for long is a new level: it is learned afresh, and said once.
    fn change_point(&mut self, value: f64) -> Option<Shift> {
        let distance = value - self.level.value();
        let above = distance > 0.0;
        if distance.abs() < SHIFT_FAR * self.level.scale() || above != self.far_above {
            self.far_run = 0;
            self.far_above = above;
            return None;
        }
        self.far_run += 1;
        if self.far_run < SHIFT_RUN {
            return None;
        }
        self.far_run = 0;
        let shift = Shift {
            from: self.level.value(),
            to: self.recent.mean(),
        };
        self.level.restart(shift.to);
        Some(shift)
    }
}

/// The last few values.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Recent {
    values: std::collections::VecDeque<f64>,
}

impl Recent {
    fn push(&mut self, value: f64) {
        if self.values.len() >= SHORT {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    fn mean(&self) -> f64 {
        let count = u32::try_from(self.values.len()).unwrap_or(1).max(1);
        self.values.iter().sum::<f64>() / f64::from(count)
    }
}

#[cfg(test)]
mod tests;
