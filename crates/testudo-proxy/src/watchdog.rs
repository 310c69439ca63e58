//! When a connection must end: idle, a head that does not arrive, a client that does not read, a peer
//! that is not to be believed any more, a proxy that stops.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;

use crate::connection::Connection;
use crate::core::Core;
use crate::drain::Phase;

/// While a proxy stops, a connection without a request is closed after this time: long enough for a
/// request that was sent before the client could know, and for clients that will never know.
const LAST_CALL: Duration = Duration::from_secs(1);

/// A client that does not take a byte of what is sent for so long is gone.
const BLOCKED: Duration = Duration::from_secs(60);

/// What to do with the connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Finish what is begun, begin nothing.
    Finish,
    /// Answer 408 and close.
    HeadTimeout,
    /// Close.
    Close,
}

/// Watches one connection. Wakes a few times in the longest time that it measures, and on changes.
pub(crate) struct Watchdog {
    core: Rc<Core>,
    connection: Rc<Connection>,
    http2: bool,
    changes: watch::Receiver<u64>,
    phase: watch::Receiver<Phase>,
    finishing: bool,
}

impl Watchdog {
    pub(crate) fn new(core: &Rc<Core>, connection: Rc<Connection>, http2: bool) -> Self {
        let mut phase = core.shared.drain.watch();
        phase.mark_changed();
        Watchdog {
            changes: core.shared.installed.changes(),
            phase,
            core: core.clone(),
            connection,
            http2,
            finishing: false,
        }
    }

    /// Waits until something must be done. Cancel safe.
    pub(crate) async fn wait(&mut self) -> Act {
        loop {
            let pause = self.pause();
            tokio::select! {
                _ = self.changes.changed() => {}
                _ = self.phase.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            if let Some(act) = self.judge() {
                return act;
            }
        }
    }

    /// Often enough that no time is missed by more than a quarter.
    fn pause(&self) -> Duration {
        let caps = &self.core.shared.options.caps;
        let leaving = *self.phase.borrow() >= Phase::Closing;
        let shortest = if leaving {
            LAST_CALL
        } else {
            caps.head.min(caps.idle)
        };
        (shortest / 4).max(Duration::from_millis(20))
    }

    fn judge(&mut self) -> Option<Act> {
        let phase = *self.phase.borrow_and_update();
        let caps = &self.core.shared.options.caps;
        let activity = &self.connection.activity;
        if phase == Phase::Forced || !self.is_believed() {
            return Some(Act::Close);
        }
        if activity.blocked().is_some_and(|blocked| blocked > BLOCKED) {
            return Some(Act::Close);
        }
        if !self.http2 && activity.head().is_some_and(|since| since > caps.head) {
            return Some(Act::HeadTimeout);
        }
        if self.finishing {
            return None;
        }
        let last_call = if phase >= Phase::Closing {
            self.connection.closing.set(true);
            // GOAWAY tells an HTTP/2 client which requests were taken; no request is lost by it.
            if self.http2 {
                Duration::ZERO
            } else {
                LAST_CALL
            }
        } else {
            caps.idle
        };
        let idle = activity.idle().is_some_and(|idle| idle >= last_call);
        let goaway = self.http2 && phase >= Phase::Closing;
        if (idle && activity.head().is_none_or(|_| self.http2)) || goaway {
            self.finishing = true;
            return Some(Act::Finish);
        }
        None
    }

    /// Revocation, expiry and change of trust end a connection at once, requests and all.
    fn is_believed(&self) -> bool {
        let Some(session) = &self.connection.session else {
            return true;
        };
        let now = self.core.shared.clock.wall().unix_seconds();
        match session.check(now) {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(%error, "closing a connection");
                false
            }
        }
    }
}
