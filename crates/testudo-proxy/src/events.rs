//! The bounded queue between requests and everything that is done with their events.

use std::sync::atomic::{AtomicU64, Ordering};

use testudo_model::Event;
use tokio::sync::mpsc;

/// Events that may wait. Beyond that they are dropped and counted: a request never waits for its evidence.
const CAPACITY: usize = 16_384;

/// The end that requests see.
pub(crate) struct EventQueue {
    sender: mpsc::Sender<Event>,
    dropped: AtomicU64,
}

impl EventQueue {
    /// The queue and the end that is read.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let queue = EventQueue {
            sender,
            dropped: AtomicU64::new(0),
        };
        (queue, receiver)
    }

    /// Queues an event, or counts it as dropped.
    pub(crate) fn send(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
