//! Tasks have names, and their panics are counted: one request that panics ends its connection, is seen
//! in `testudo_panics_total`, and nothing else.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinHandle;
use tracing::Instrument;

/// Counts panics of tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panics(Arc<AtomicU64>);

impl Panics {
    /// How many so far.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn guard(&self, name: &'static str) -> PanicGuard {
        PanicGuard {
            panics: self.clone(),
            name,
        }
    }

    /// Runs a future on this thread, under a name.
    pub(crate) fn spawn_local<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let guard = self.guard(name);
        tokio::task::spawn_local(async move {
            let _guard = guard;
            future.await
        })
    }

    /// Runs a future of the control thread, under a name that its log lines carry.
    pub(crate) fn spawn_named<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let span = tracing::debug_span!("task", name);
        self.spawn_local(name, future.instrument(span))
    }
}

struct PanicGuard {
    panics: Panics,
    name: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.panics.0.fetch_add(1, Ordering::Relaxed);
            tracing::error!(task = self.name, "a task panicked");
        }
    }
}
