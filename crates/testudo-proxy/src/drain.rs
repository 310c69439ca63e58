//! How a proxy stops without failing a request: not ready, wait, close politely, deadline, force.

use tokio::sync::watch;

/// How far stopping has come. Only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Serving,
    /// Still serving everything, but telling everyone to look elsewhere.
    Leaving,
    /// Responses close their connection; when nothing is queued any more, nothing is accepted.
    Closing,
    /// What still runs is cut off.
    Forced,
}

/// The one switch that everything which stops is connected to.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
}

impl Default for Drain {
    fn default() -> Self {
        Drain {
            phase: watch::Sender::new(Phase::Serving),
        }
    }
}

impl Drain {
    /// Moves on; never back.
    pub(crate) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let moves = to > *phase;
            if moves {
                *phase = to;
            }
            moves
        });
    }

    /// How far it is.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// For a task that stops in several steps.
    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits until stopping has come this far.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut watch = self.phase.subscribe();
        // The sender lives as long as `self`, so that this ends only by the phase.
        let _ = watch.wait_for(|now| *now >= phase).await;
    }
}
