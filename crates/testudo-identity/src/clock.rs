//! The time by which certificates are judged.
//!
//! An expired certificate must not come back to life because somebody sets the clock back, and
//! certificates that were just issued must not fail because of it either. So the wall clock is
//! believed only forwards: within one process time never runs behind the time at its start plus what
//! the monotonic clock measured since.

use std::time::{Duration, Instant};

use rustls_pki_types::UnixTime;

/// A wall clock that cannot be set back while the process runs. Share one.
#[derive(Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Debug)]
enum Source {
    System {
        wall_at_start: Duration,
        started: Instant,
    },
    /// Seconds since the epoch, for tests.
    Fixed(std::sync::atomic::AtomicU64),
}

impl Clock {
    /// Starts from the system's clock.
    pub fn system() -> Self {
        Clock {
            source: Source::System {
                wall_at_start: system_time(),
                started: Instant::now(),
            },
        }
    }

    /// Stands still at this many seconds since the epoch, until [`Clock::set`].
    pub fn fixed(seconds: u64) -> Self {
        Clock {
            source: Source::Fixed(seconds.into()),
        }
    }

    /// Moves a fixed clock; a system clock cannot be moved.
    pub fn set(&self, seconds: u64) {
        if let Source::Fixed(now) = &self.source {
            now.store(seconds, std::sync::atomic::Ordering::Release);
        }
    }

    /// Since the Unix epoch.
    pub fn now(&self) -> Duration {
        match &self.source {
            Source::System {
                wall_at_start,
                started,
            } => never_back(*wall_at_start, started.elapsed(), system_time()),
            Source::Fixed(seconds) => {
                Duration::from_secs(seconds.load(std::sync::atomic::Ordering::Acquire))
            }
        }
    }

    /// Whole seconds since the Unix epoch.
    pub fn unix_seconds(&self) -> u64 {
        self.now().as_secs()
    }
}

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.now()))
    }
}

/// With microseconds, which events show; `UnixTime::now` has whole seconds only.
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
fn system_time() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Forward jumps of the wall clock count (a machine that slept), backward ones do not.
fn never_back(wall_at_start: Duration, elapsed: Duration, wall: Duration) -> Duration {
    wall.max(wall_at_start.saturating_add(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_the_clock_back_changes_nothing() {
        let seconds = Duration::from_secs;
        let at = |elapsed, wall| never_back(seconds(1_000), seconds(elapsed), seconds(wall));
        assert_eq!(at(50, 1_050), seconds(1_050));
        assert_eq!(at(50, 20), seconds(1_050), "set back");
        assert_eq!(at(50, 9_000), seconds(9_000), "slept");
        assert_eq!(
            at(60, 1_060),
            seconds(1_060),
            "a jump forward does not stick"
        );
    }
}
