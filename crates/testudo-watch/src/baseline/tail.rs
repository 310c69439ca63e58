//! How rare a distance is: the far end of the distances so far, as a power law.
//!
//! The quantile [`FAR`] is followed step by step, the mean logarithm of what is beyond it gives the
//! exponent (Hill's estimator). A heavy-tailed series (spikes every day) so needs much larger spikes
//! to reach the same score than a quiet one.

use std::f64::consts::LN_10;

use serde::{Deserialize, Serialize};

use super::level::narrow;

/// Where the far end begins.
const FAR: f64 = 0.995;
/// Distances that the first estimate is made from.
const FIRST: usize = 100;
/// Least and usual step of the quantile, in logarithms.
const STEP: f64 = 0.01;
/// Excesses after which old ones are forgotten.
const MEMORY: f64 = 40.0;
/// Excess assumed before any was seen.
const PRIOR: f64 = 0.3;
/// Least mean excess: keeps scores finite where all distances are alike.
const LEAST: f64 = 0.15;

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Tail {
    /// Logarithms of the first distances; empty afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    first: Vec<f32>,
    count: u32,
    /// Logarithm of the quantile.
    edge: f64,
    /// Mean logarithm of distances beyond, over the quantile.
    excess: f64,
    excesses: f64,
}

impl Tail {
    /// The score of a distance; then learns it. 0: it is not at the far end, or nothing is known yet.
    pub(super) fn observe(&mut self, distance: f64) -> f64 {
        let distance = distance.max(1e-3).ln();
        self.count = self.count.saturating_add(1);
        if self.excesses == 0.0 {
            self.begin(distance);
            return 0.0;
        }
        let beyond = distance > self.edge;
        let score = if beyond {
            let rare = (1.0 / (1.0 - FAR)).log10();
            rare + (distance - self.edge) / LN_10 / self.excess.max(LEAST)
        } else {
            0.0
        };
        let step = (10.0 / f64::from(self.count)).max(STEP);
        if beyond {
            self.edge += step * FAR;
            let excess = distance - self.edge;
            if excess > 0.0 {
                self.excesses = (self.excesses + 1.0).min(MEMORY);
                self.excess += (excess - self.excess) / self.excesses;
            }
        } else {
            self.edge -= step * (1.0 - FAR);
        }
        score
    }

    fn begin(&mut self, distance: f64) {
        self.first.push(narrow(distance));
        if self.first.len() < FIRST {
            return;
        }
        let mut sorted = std::mem::take(&mut self.first);
        sorted.sort_unstable_by(f32::total_cmp);
        let mut largest = sorted.iter().rev().map(|value| f64::from(*value));
        let beyond: Vec<f64> = largest.by_ref().take(2).collect();
        self.edge = largest.next().unwrap_or(0.0);
        let sum: f64 = beyond.iter().map(|value| value - self.edge).sum();
        self.excess = (sum + PRIOR) / 3.0;
        self.excesses = 3.0;
    }
}
