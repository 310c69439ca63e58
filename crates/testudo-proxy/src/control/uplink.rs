//! Decision events on their way to control, in batches. The recorder's thread decides what is worth
//! sending and never waits; here a second's worth is capped, so that control can keep up with a fleet.
//!
//! Denials are worth more than permits: every denial goes up, and as many permits as control can use.
//! How many were left out is said. The proxy's own decision log has them all. Windows count all of them,
//! and go up whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use testudo_model::mesh::{self, Events};
use testudo_model::{Event, Verdict};
use testudo_watch::ClosedWindow;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events of one message.
const BATCH: usize = 256;
/// Permits a second; beyond that only denials go up.
const PERMITS_A_SECOND: u32 = 2000;
/// Between two batches.
const LINGER: Duration = Duration::from_millis(25);

/// Puts batches together.
pub(super) struct Batches {
    receiver: mpsc::Receiver<Arc<Event>>,
    not_before: Instant,
    window: Instant,
    permits: u32,
    left_out: u64,
    /// Of the recorder's drops, those that control was told.
    told: u64,
}

impl Batches {
    pub(super) fn new(receiver: mpsc::Receiver<Arc<Event>>) -> Self {
        Batches {
            receiver,
            not_before: Instant::now(),
            window: Instant::now(),
            permits: 0,
            left_out: 0,
            told: 0,
        }
    }

    /// The next batch; waits for a first event. Cancelling it loses nothing: after an event is taken
    /// there is nothing to wait for. `dropped`: how many the recorder has dropped so far.
    pub(super) async fn next(&mut self, dropped: impl Fn() -> u64) -> Events {
        loop {
            tokio::time::sleep_until(self.not_before).await;
            let Some(first) = self.receiver.recv().await else {
                return std::future::pending().await;
            };
            let now = Instant::now();
            self.not_before = now + LINGER;
            let json = self.batch(first, now);
            if !json.is_empty() {
                let total = dropped();
                let earlier = total.saturating_sub(std::mem::replace(&mut self.told, total));
                let dropped = earlier + std::mem::take(&mut self.left_out);
                return Events { json, dropped };
            }
        }
    }

    fn batch(&mut self, first: Arc<Event>, now: Instant) -> Vec<Vec<u8>> {
        if now.duration_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.permits = 0;
        }
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(event) = next {
            next = match batch.len() + 1 < BATCH {
                true => self.receiver.try_recv().ok(),
                false => None,
            };
            if event.verdict == Verdict::Permit && event.reason.is_none() {
                if self.permits >= PERMITS_A_SECOND {
                    self.left_out += 1;
                    continue;
                }
                self.permits += 1;
            }
            match serde_json::to_vec(&*event) {
                Ok(json) => batch.push(json),
                Err(_) => self.left_out += 1,
            }
        }
        batch
    }
}

/// Closed windows, part by part: a message must not grow too large.
pub(super) struct Windows {
    receiver: mpsc::Receiver<ClosedWindow>,
    parts: VecDeque<Vec<u8>>,
    /// Of the events that the recorder could not send in a window, those that control was told.
    told: u64,
}

impl Windows {
    pub(super) fn new(receiver: mpsc::Receiver<ClosedWindow>) -> Self {
        Windows {
            receiver,
            parts: VecDeque::new(),
            told: 0,
        }
    }

    /// The next part. Cancelling it loses nothing. `uncounted`: how many events were in windows that
    /// found no room so far.
    pub(super) async fn next(&mut self, uncounted: impl Fn() -> u64) -> mesh::Windows {
        loop {
            if let Some(part) = self.parts.pop_front() {
                let total = uncounted();
                let dropped = total.saturating_sub(std::mem::replace(&mut self.told, total));
                return mesh::Windows {
                    windows: vec![part],
                    dropped,
                };
            }
            match self.receiver.recv().await {
                Some(window) => self.parts.extend(window.parts),
                None => return std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::event;

    #[tokio::test]
    async fn windows_go_up_part_by_part_with_what_was_lost() {
        let (sender, receiver) = mpsc::channel(2);
        let mut windows = Windows::new(receiver);
        let parts = vec![vec![1], vec![2]];
        sender.try_send(ClosedWindow { parts, events: 9 }).unwrap();
        let first = windows.next(|| 5).await;
        assert_eq!((first.windows, first.dropped), (vec![vec![1]], 5));
        let second = windows.next(|| 5).await;
        assert_eq!((second.windows, second.dropped), (vec![vec![2]], 0));
    }

    #[test]
    fn denials_always_go_up_and_what_is_left_out_is_counted() {
        let (sender, receiver) = mpsc::channel(8192);
        let mut batches = Batches::new(receiver);
        let now = batches.window;
        for _ in 0..PERMITS_A_SECOND + 100 {
            sender.try_send(event(Verdict::Permit)).unwrap();
        }
        sender.try_send(event(Verdict::Deny)).unwrap();
        let (mut permits, mut denials) = (0, 0);
        while let Ok(first) = batches.receiver.try_recv() {
            let batch = batches.batch(first, now);
            assert!(batch.len() <= BATCH);
            for json in &batch {
                match serde_json::from_slice::<Event>(json).unwrap().verdict {
                    Verdict::Permit => permits += 1,
                    Verdict::Deny => denials += 1,
                }
            }
        }
        assert_eq!((permits, denials), (PERMITS_A_SECOND, 1));
        assert_eq!(batches.left_out, 100);
        let later = now + Duration::from_secs(1);
        assert_eq!(batches.batch(event(Verdict::Permit), later).len(), 1);
    }
}
