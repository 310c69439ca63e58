//! The one place of the data plane that reads clocks.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use testudo_guard::Now;

/// Both clocks of this process. The wall clock never runs back while the process lives.
#[derive(Clone, Debug)]
pub struct Clock {
    wall: Arc<testudo_identity::Clock>,
}

impl Clock {
    /// Starts from the system's clock.
    pub fn start() -> Self {
        Clock {
            wall: Arc::new(testudo_identity::Clock::system()),
        }
    }

    /// The wall clock alone; the one by which certificates are judged too.
    pub fn wall(&self) -> &Arc<testudo_identity::Clock> {
        &self.wall
    }

    /// Both times, as guard wants them.
    pub fn now(&self) -> Now {
        Now {
            wall: self.wall.now(),
            monotonic: monotonic(),
        }
    }
}

/// Since this process first asked. Also guard's stopwatch.
pub fn monotonic() -> Duration {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed()
}
