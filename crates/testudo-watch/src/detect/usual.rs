//! What is usual for one principal or edge where a whole [`Baseline`](crate::baseline) would be too much:
//! a guarded level, and whether there is enough of it.

use serde::{Deserialize, Serialize};

use crate::baseline::Level;
use crate::window::Table;

/// Share by which the newest observation counts.
const RATE: f64 = 1.0 / 60.0;

/// See the module.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Usual {
    level: Level,
    last: u64,
}

impl Usual {
    /// The level, once there were `least` observations.
    pub(super) fn known(&self, least: u32) -> Option<f64> {
        (self.level.count() >= least).then(|| self.level.value())
    }

    /// How far values usually are from the level.
    pub(super) fn spread(&self) -> f64 {
        self.level.scale()
    }

    fn learn(&mut self, at: u64, value: f64) {
        self.last = at;
        self.level.learn(value, RATE);
    }
}

/// What is learned of a value that is judged by `factor` times the usual one: what is over the threshold
/// teaches a little more than the threshold would have it, so that an attack does not become usual, and
/// what goes on for days does.
pub(super) fn guarded(seen: f64, threshold: f64, factor: f64) -> f64 {
    seen.min(1.2 * threshold / factor.max(1.0))
}

/// Usual values by key; where there is no room, the key that was idle for longest makes some.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct UsualTable {
    entries: std::collections::BTreeMap<String, Usual>,
}

impl UsualTable {
    /// Keys that are remembered.
    const MOST: usize = 8192;

    /// What is usual for a key.
    pub(super) fn of(&self, key: &str) -> Usual {
        self.entries.get(key).copied().unwrap_or_default()
    }

    /// Learns a value.
    pub(super) fn learn(&mut self, key: &str, at: u64, value: f64) {
        if let Some(usual) = self.entries.get_mut(key) {
            usual.learn(at, value);
            return;
        }
        if self.entries.len() >= UsualTable::MOST {
            self.make_room();
        }
        let mut usual = Usual::default();
        usual.learn(at, value);
        self.entries.insert(key.to_owned(), usual);
    }

    /// Forgets the eighth that was idle for longest, so that this is rarely needed.
    fn make_room(&mut self) {
        let mut times: Vec<u64> = self.entries.values().map(|usual| usual.last).collect();
        let place = times.len() / 8;
        let (_, edge, _) = times.select_nth_unstable(place);
        let edge = *edge;
        let mut room = place + 1;
        self.entries.retain(|_, usual| {
            let goes = usual.last <= edge && room > 0;
            room -= usize::from(goes);
            !goes
        });
    }
}

/// Numbers by key that are learned once in a while: what came since the last time.
#[derive(Clone, Debug)]
pub(super) struct Pace<K> {
    every: u64,
    started: u64,
    values: Table<K, f64>,
}

impl<K: std::hash::Hash + Eq> Pace<K> {
    /// Learns every so many seconds.
    pub(super) fn new(every: u64) -> Self {
        Pace {
            every,
            started: 0,
            values: Table::default(),
        }
    }

    /// Remembers the largest value of a key.
    pub(super) fn note(&mut self, key: K, value: f64) {
        if self.values.len() < UsualTable::MOST {
            let kept = self.values.entry(key).or_insert(value);
            *kept = kept.max(value);
        }
    }

    /// What is to be learned now, if it is time.
    pub(super) fn due(&mut self, at: u64) -> Vec<(K, f64)> {
        if self.started == 0 {
            self.started = at;
        }
        if at.saturating_sub(self.started) < self.every {
            return Vec::new();
        }
        self.started = at;
        self.values.drain(..).collect()
    }
}
