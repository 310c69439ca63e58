//! The one place of the data plane that reads clocks.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use testudo_guard::Now;

/// Both clocks of this process.
#[derive(Debug)]
pub struct Clock {
    started: (Duration, Duration),
}

impl Clock {
    /// Starts from the system's clock.
    pub fn start() -> Self {
        Clock {
            started: (wall(), monotonic()),
        }
    }

    /// Both times, as guard wants them.
    pub fn now(&self) -> Now {
        let (started, since) = self.started;
        let monotonic = monotonic();
        Now {
            // Setting the clock back must not bring expired credentials back to life.
            wall: wall().max(started + monotonic.saturating_sub(since)),
            monotonic,
        }
    }
}

#[allow(clippy::disallowed_methods)] // the edge of the program, where `Now` is made
fn wall() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Since this process first asked. Also guard's stopwatch.
pub fn monotonic() -> Duration {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed()
}
