//! From scores to things worth saying: once, and again only when it gets clearly worse.

use serde::{Deserialize, Serialize};

use super::UNUSUAL;

/// How much worse, as a factor of the score, is worth saying again.
const WORSE: f64 = 1.2;

/// Says each excursion once.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Alarm {
    /// Observations for which nothing of the same size is said again.
    quiet: u32,
    since: u32,
    said: f64,
}

impl Alarm {
    /// `quiet`: observations after something was said during which only worse is said.
    pub fn new(quiet: u32) -> Alarm {
        Alarm {
            quiet,
            since: u32::MAX,
            said: 0.0,
        }
    }

    /// The score if it is worth saying, else 0. Scores below [`UNUSUAL`] pass: they are not said, but
    /// a reader with a threshold of its own can see them.
    pub fn admit(&mut self, score: f64) -> f64 {
        self.since = self.since.saturating_add(1);
        if self.since < self.quiet && score <= self.said * WORSE {
            return 0.0;
        }
        if score >= UNUSUAL {
            self.since = 0;
            self.said = score;
        }
        score
    }
}
