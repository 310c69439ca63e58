//! The windows that proxies send: taken only from who may say what is in them, put together, handed on
//! when they are complete, and kept for an hour as what the graph shows.
//!
//! Times are the proxies'; a proxy whose clock is off by more than the grace is late or early, which is
//! counted. Everything is bounded: one proxy's share of a window by [`Limits::PROXY`], the mesh's by
//! [`Limits::MESH`], and windows that are open by how far from now they may be.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use testudo_model::Hop;
use testudo_watch::window::{
    Counts, DecodeError, Limits, MergedWindow, Name, Outcome, Outcomes, Principal, WINDOW_SECONDS,
    Window, window_start,
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

mod history;

pub use history::{History, OperationSpan, STEP, Span};

/// After the end of a window, until it is complete (seconds). Proxies send theirs at its end.
pub const GRACE: u64 = 1;
/// So much of the future a proxy's clock may be in (seconds).
const EARLY: u64 = 10;
/// Complete windows that may wait for one subscriber; one that falls further behind misses some, and is
/// told how many.
const QUEUE: usize = 64;
/// How often it is looked whether a window is complete.
const LOOK: Duration = Duration::from_millis(200);
/// Proxies that are warned of by name.
const WARNED: usize = 1000;

/// Who sent a window, as TLS proved it.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The proxy's name.
    pub proxy: &'a str,
    /// Its service; `None`: a gateway.
    pub service: Option<&'a str>,
}

/// Why a window was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not read.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// It speaks of what its sender has no say in.
    #[error("a proxy's word counts only for its own service")]
    NotOwn,
    /// It has not begun yet.
    #[error("the window is in the future: the proxy's clock is wrong")]
    Early,
}

/// How many parts of windows came, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Parts that were taken, late ones included.
    pub received: u64,
    /// Parts that were not.
    pub refused: u64,
    /// Parts that came after their window was complete: the graph has them, subscribers do not.
    pub late: u64,
    /// Events in windows that proxies could not send.
    pub lost_events: u64,
    /// Requests whose key found no room, here or in a proxy.
    pub dropped_keys: u64,
}

/// The windows of the whole mesh.
pub struct Windows {
    state: Mutex<State>,
    subscribers: broadcast::Sender<Arc<MergedWindow>>,
}

#[derive(Default)]
struct State {
    /// By beginning, and by proxy.
    open: BTreeMap<u64, BTreeMap<String, Share>>,
    /// Windows that begin before this were handed on.
    complete_before: u64,
    history: History,
    tally: Tally,
    warned: HashSet<String>,
}

/// What one proxy says of one window.
struct Share {
    window: Window,
    service: Option<Name>,
}

impl Default for Windows {
    fn default() -> Self {
        Windows {
            state: Mutex::default(),
            subscribers: broadcast::Sender::new(QUEUE),
        }
    }
}

impl Windows {
    /// Complete windows from now on, one for each [`WINDOW_SECONDS`], in order; empty ones too.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<MergedWindow>> {
        self.subscribers.subscribe()
    }

    /// Takes one part of a window.
    ///
    /// # Errors
    /// It is not taken; this is counted, and the sender need not be cut off.
    pub fn take(&self, bytes: &[u8], sender: Sender<'_>, now_seconds: u64) -> Result<(), Refused> {
        let read = Window::decode(bytes).map_err(Refused::from);
        let checked = read.and_then(|window| {
            if !is_own(&window, sender) {
                Err(Refused::NotOwn)
            } else if window.start > now_seconds.saturating_add(EARLY) {
                Err(Refused::Early)
            } else {
                Ok(window)
            }
        });
        let mut state = self.lock();
        match checked {
            Ok(window) => {
                state.tally.received += 1;
                state.add(window, sender);
                Ok(())
            }
            Err(refused) => {
                state.tally.refused += 1;
                if state.warned.len() < WARNED && state.warned.insert(sender.proxy.to_owned()) {
                    let proxy = sender.proxy;
                    tracing::warn!(proxy, %refused, "a window is refused; further ones are only counted");
                }
                Err(refused)
            }
        }
    }

    /// Proxies say how many events were in windows that they could not send.
    pub fn count_lost(&self, events: u64) {
        let mut state = self.lock();
        state.tally.lost_events = state.tally.lost_events.saturating_add(events);
    }

    /// What came so far.
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    /// What the last `seconds` of the history hold (an hour at most).
    pub fn recent(&self, seconds: u64, now_seconds: u64) -> Vec<Arc<Span>> {
        self.lock().history.recent(seconds, now_seconds)
    }

    /// Hands on every window that is complete by now. One thread at a time does this; merging the shares
    /// of a large mesh takes some hundred milliseconds, in which parts can still be taken.
    pub fn complete(&self, now_seconds: u64) {
        loop {
            let Some((start, shares)) = self.lock().take_complete(now_seconds) else {
                return;
            };
            let mut merged = MergedWindow::new(start);
            for share in shares {
                merged.merge(&share.window, share.service.as_ref());
            }
            let mut state = self.lock();
            state.note_dropped(&merged.counts);
            state.history.add(start, &merged.counts);
            drop(state);
            // No subscriber is no error.
            let _ = self.subscribers.send(Arc::new(merged));
        }
    }

    fn is_one_complete(&self, now_seconds: u64) -> bool {
        self.lock().next_complete(now_seconds).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, window: Window, sender: Sender<'_>) {
        if window.start < self.complete_before {
            self.tally.late += 1;
            self.note_dropped(&window.counts);
            self.history.add(window.start, &window.counts);
            return;
        }
        let shares = self.open.entry(window.start).or_default();
        match shares.get_mut(sender.proxy) {
            Some(share) => {
                let ours = &mut share.window;
                ours.proxy_started = ours.proxy_started.max(window.proxy_started);
                ours.revision = ours.revision.max(window.revision);
                ours.counts.merge(&window.counts, &Limits::PROXY);
            }
            None => {
                let service = sender.service.map(Name::from);
                shares.insert(sender.proxy.to_owned(), Share { window, service });
            }
        }
    }

    /// The next window that is complete.
    fn next_complete(&self, now_seconds: u64) -> Option<u64> {
        let newest = window_start(now_seconds.saturating_sub(WINDOW_SECONDS + GRACE));
        // After a start, or when the clock has jumped, there is nothing to catch up with.
        let oldest = newest.saturating_sub(16 * WINDOW_SECONDS);
        let start = match self.complete_before {
            0 => newest,
            next => next.max(oldest),
        };
        (start <= newest).then_some(start)
    }

    /// That window, and what proxies say of it.
    fn take_complete(&mut self, now_seconds: u64) -> Option<(u64, Vec<Share>)> {
        let start = self.next_complete(now_seconds)?;
        self.complete_before = start.saturating_add(WINDOW_SECONDS);
        // What is older was skipped by a jump of the clock: better here than never.
        let later = self.open.split_off(&self.complete_before);
        let complete = std::mem::replace(&mut self.open, later);
        let shares = complete.into_values().flat_map(BTreeMap::into_values);
        Some((start, shares.collect()))
    }

    fn note_dropped(&mut self, counts: &Counts) {
        let dropped = counts.dropped.total();
        self.tally.dropped_keys = self.tally.dropped_keys.saturating_add(dropped);
    }
}

/// Completes windows in time, until `stop`.
pub async fn keep_complete(control: Arc<crate::Control>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let now_seconds = crate::unix_now();
        if !control.windows.is_one_complete(now_seconds) {
            continue;
        }
        let control = Arc::clone(&control);
        let merging =
            tokio::task::spawn_blocking(move || control.windows.complete(now_seconds)).await;
        if let Err(error) = merging {
            tracing::error!(%error, "windows could not be put together; they are lost");
        }
    }
}

/// A proxy's word counts only for itself, as with events: a gateway speaks of the edge, a sidecar of calls
/// to its own service, and of calls of its own application that its outbound side refused. Only the edge
/// knows credentials and addresses.
fn is_own(window: &Window, sender: Sender<'_>) -> bool {
    if *window.proxy != *sender.proxy {
        return false;
    }
    let counts = &window.counts;
    match sender.service {
        None => is_of_the_edge(counts),
        Some(own) => is_of_service(counts, own),
    }
}

fn is_of_the_edge(counts: &Counts) -> bool {
    let edges = counts
        .edges
        .keys()
        .all(|key| key.hop == Hop::Edge && key.caller.is_none());
    let principals = counts.principals.keys().all(|key| {
        key.hop == Hop::Edge && matches!(key.principal, Principal::User(_) | Principal::Address(_))
    });
    let calls = counts
        .calls
        .keys()
        .all(|key| key.hop == Hop::Edge && key.caller.is_none());
    edges && principals && calls
}

fn is_of_service(counts: &Counts, own: &str) -> bool {
    let edges = counts.edges.iter().all(|(key, stats)| {
        key.hop == Hop::Mesh
            && (is_at(own, key.service.as_deref(), key.operation.as_deref())
                || (key.caller.as_deref() == Some(own) && only_stopped(&stats.outcomes)))
    });
    let principals = counts.principals.iter().all(|(key, stats)| {
        let is_itself = matches!(&key.principal, Principal::Service(name) if **name == *own);
        key.hop == Hop::Mesh
            && matches!(key.principal, Principal::User(_) | Principal::Service(_))
            && stats.operations.iter().all(|(key, stats)| {
                is_at(own, key.service.as_deref(), key.operation.as_deref())
                    || (is_itself && only_stopped(&stats.outcomes))
            })
    });
    let calls = counts.calls.iter().all(|(key, stats)| {
        key.hop == Hop::Mesh
            && (is_at(own, Some(&key.service), Some(&key.operation))
                || (key.caller.as_deref() == Some(own)
                    && stats.permitted == 0
                    && stats.reported == 0))
    });
    let edge_only = [&counts.paths, &counts.addresses, &counts.users];
    edges
        && principals
        && calls
        && counts.credentials.is_empty()
        && edge_only.iter().all(|heavy| heavy.top(1).is_empty())
}

/// Whether a call went to this service, or to none.
fn is_at(own: &str, service: Option<&str>, operation: Option<&str>) -> bool {
    service.is_none_or(|service| service == own)
        && operation.is_none_or(|operation| {
            operation
                .strip_prefix(own)
                .is_some_and(|rest| rest.starts_with(':'))
        })
}

/// A sidecar's outbound side counts what it refused and nothing else.
fn only_stopped(outcomes: &Outcomes) -> bool {
    outcomes
        .iter()
        .all(|(outcome, _)| matches!(outcome, Outcome::Denied(_)))
}

#[cfg(test)]
mod tests;
