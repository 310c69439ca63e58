//! Time as the caller saw it: guard never reads a clock.

use std::time::Duration;

/// Both clocks, read once for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the Unix epoch. For `exp`, `nbf`, `iat` and `context.time`.
    pub wall: Duration,
    /// Since some fixed moment of this process; never goes back. For limits and caches.
    pub monotonic: Duration,
}

impl Now {
    /// Whole seconds since the Unix epoch.
    pub const fn unix_seconds(&self) -> u64 {
        self.wall.as_secs()
    }
}
