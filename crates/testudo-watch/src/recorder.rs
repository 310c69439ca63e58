//! From requests to evidence: a bounded queue, and the one thread that empties it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use testudo_model::{Event, Verdict};
use tokio::sync::mpsc;

use crate::decision_log::{DecisionLog, LogOptions};
use crate::metrics::Metrics;
use crate::ring::{Ring, RingOptions};
use crate::window::{Aggregator, WINDOW_SECONDS, Window};

/// Events that may wait; beyond that they are dropped and counted.
const QUEUE: usize = 16_384;
/// Events that are written at once.
const BATCH: usize = 512;
/// Between batches, so that a request rarely has to wake the thread.
const PAUSE: Duration = Duration::from_millis(5);

/// What is done with events.
pub struct RecorderOptions {
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// The decision log's file; `None`: none is kept.
    pub decision_log: Option<(PathBuf, LogOptions)>,
    /// The ring's folder; `None`: none is kept.
    pub ring: Option<(PathBuf, RingOptions)>,
    /// Where events go on to: towards the control plane. When it is over half full only every eighth
    /// permit is sent, and the rest of its room is left to denials.
    pub forward: Option<mpsc::Sender<Arc<Event>>>,
    /// How windows are counted; `None`: not at all.
    pub windows: Option<WindowOptions>,
}

/// How windows are counted.
pub struct WindowOptions {
    /// The sidecar's service; `None`: a gateway.
    pub service: Option<Arc<str>>,
    /// Where closed windows go on to.
    pub closed: mpsc::Sender<ClosedWindow>,
}

/// A window whose time is over, ready to be sent.
#[derive(Debug)]
pub struct ClosedWindow {
    /// Its parts ([`Window::encode`]).
    pub parts: Vec<Vec<u8>>,
    /// How many events it counts.
    pub events: u64,
}

/// Boxed: the queue's slots are allocated at once, and an event is large. `None` only wakes the thread,
/// which otherwise sleeps until there is something to do.
type Item = Option<Box<Event>>;

/// The end of the queue that requests see.
#[derive(Clone)]
pub struct EventSender {
    sender: SyncSender<Item>,
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    dropped: AtomicU64,
    uncounted: AtomicU64,
    stopping: AtomicBool,
}

/// The thread that empties the queue. Dropping it stops the thread after everything that waits.
pub struct Recorder {
    wake: SyncSender<Item>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Sinks {
    log: Option<DecisionLog>,
    ring: Option<Ring>,
    forward: Option<mpsc::Sender<Arc<Event>>>,
    windows: Option<(Aggregator, mpsc::Sender<ClosedWindow>)>,
    permits: u64,
    lost_on_disk: u64,
}

impl Recorder {
    /// Opens the files and starts the thread.
    ///
    /// # Errors
    /// A file cannot be opened, or the thread not be started.
    pub fn start(options: RecorderOptions) -> io::Result<(EventSender, Recorder)> {
        let log = options
            .decision_log
            .map(|(path, options)| DecisionLog::open(&path, options))
            .transpose()?;
        let ring = options
            .ring
            .map(|(folder, options)| Ring::open(&folder, options))
            .transpose()?;
        let (sender, receiver) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            metrics: options.metrics,
            dropped: AtomicU64::new(0),
            uncounted: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        let sinks = Sinks {
            log,
            ring,
            forward: options.forward,
            windows: options.windows.map(|windows| {
                let aggregator = Aggregator::new(windows.service, unix_seconds());
                (aggregator, windows.closed)
            }),
            permits: 0,
            lost_on_disk: 0,
        };
        let thread = std::thread::Builder::new()
            .name(String::from("testudo-events"))
            .spawn({
                let shared = shared.clone();
                move || run(&receiver, &shared, sinks)
            })?;
        let recorder = Recorder {
            wake: sender.clone(),
            shared: shared.clone(),
            thread: Some(thread),
        };
        Ok((EventSender { sender, shared }, recorder))
    }

    /// Records everything that waits, and ends.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // A full queue is being emptied, and a thread that ended has closed it: this ends either way.
        let _ = self.wake.send(None);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that records events panicked");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.join();
    }
}

impl EventSender {
    /// Queues an event, or counts it as dropped: a request never waits for its evidence.
    pub fn send(&self, event: Event) {
        if self.sender.try_send(Some(Box::new(event))).is_err() {
            self.shared.drop_events(1);
        }
    }

    /// How many events were lost so far, here or on the way to the control plane.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// How many events were counted in windows that nobody took.
    pub fn uncounted(&self) -> u64 {
        self.shared.uncounted.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn drop_events(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        self.metrics.events_dropped(count);
    }
}

fn run(receiver: &Receiver<Item>, shared: &Shared, mut sinks: Sinks) {
    while let Some(first) = sinks.wait(receiver, shared) {
        let now_seconds = unix_seconds();
        sinks.close_window(now_seconds, shared);
        let mut taken = 0;
        let rest = std::iter::from_fn(|| receiver.try_recv().ok());
        for item in std::iter::once(first).chain(rest).take(BATCH) {
            taken += 1;
            if let Some(event) = item {
                sinks.record(*event, now_seconds, shared);
            }
        }
        sinks.flush(shared);
        if taken < BATCH {
            // The queue is empty: the end, if it is to be, or a pause.
            if shared.stopping.load(Ordering::Acquire) {
                sinks.finish_window(shared);
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this thread is the edge of the program; it asks once a batch, for the window that events belong to"
)]
fn unix_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

impl Sinks {
    /// The next event. Sleeps until there is one, but a window that is open is closed in time.
    fn wait(&mut self, receiver: &Receiver<Item>, shared: &Shared) -> Option<Item> {
        loop {
            let end = self.windows.as_ref().and_then(|(open, _)| open.end());
            let Some(end) = end else {
                return receiver.recv().ok();
            };
            let now_seconds = unix_seconds();
            if end <= now_seconds {
                self.close_window(now_seconds, shared);
                continue;
            }
            // A clock that was set back must not keep a window open for hours.
            let wait = Duration::from_secs((end - now_seconds).min(WINDOW_SECONDS));
            match receiver.recv_timeout(wait) {
                Ok(item) => return Some(item),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.close_window(unix_seconds(), shared),
            }
        }
    }

    /// Sends the window on if it is over.
    fn close_window(&mut self, now_seconds: u64, shared: &Shared) {
        let closed = self
            .windows
            .as_mut()
            .and_then(|(open, _)| open.close(now_seconds));
        self.send_window(closed, shared);
    }

    fn finish_window(&mut self, shared: &Shared) {
        let last = self.windows.as_mut().and_then(|(open, _)| open.finish());
        self.send_window(last, shared);
    }

    fn send_window(&self, window: Option<Window>, shared: &Shared) {
        let (Some(window), Some((_, sender))) = (window, &self.windows) else {
            return;
        };
        let events = window.counts.events;
        let closed = ClosedWindow {
            parts: window.encode(),
            events,
        };
        if sender.try_send(closed).is_err() {
            shared.uncounted.fetch_add(events, Ordering::Relaxed);
        }
    }

    fn record(&mut self, event: Event, now_seconds: u64, shared: &Shared) {
        shared.metrics.record(&event);
        if let Some((window, _)) = &mut self.windows {
            window.count(&event, now_seconds);
        }
        if let Some(log) = &mut self.log {
            log.add(&event);
        }
        if let Some(ring) = &mut self.ring {
            ring.add(&event);
        }
        self.send_on(event, shared);
    }

    /// Denials first: when the way is getting full they alone may use what is left.
    fn send_on(&mut self, event: Event, shared: &Shared) {
        let Some(forward) = &self.forward else {
            return;
        };
        if event.verdict == Verdict::Permit && event.reason.is_none() {
            self.permits = self.permits.wrapping_add(1);
            let crowded = forward.capacity() < forward.max_capacity() / 2;
            let reserved = forward.capacity() <= forward.max_capacity() / 8;
            if reserved || (crowded && !self.permits.is_multiple_of(8)) {
                shared.drop_events(1);
                return;
            }
        }
        if forward.try_send(Arc::new(event)).is_err() {
            shared.drop_events(1);
        }
    }

    fn flush(&mut self, shared: &Shared) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        if let Some(ring) = &mut self.ring {
            ring.flush();
        }
        let lost = self.log.as_ref().map_or(0, DecisionLog::failed)
            + self.ring.as_ref().map_or(0, Ring::failed);
        shared.drop_events(lost.saturating_sub(self.lost_on_disk));
        self.lost_on_disk = lost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::RingReader;
    use crate::ring::tests::event;

    #[test]
    fn everything_that_waits_is_recorded_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new());
        let log = folder.path().join("decisions.jsonl");
        let ring = folder.path().join("ring");
        let (forward, mut forwarded) = mpsc::channel(4_096);
        let (sender, recorder) = Recorder::start(RecorderOptions {
            metrics: metrics.clone(),
            decision_log: Some((log.clone(), LogOptions::default())),
            ring: Some((ring.clone(), RingOptions::default())),
            forward: Some(forward),
            windows: None,
        })
        .unwrap();
        for number in 0..1_000 {
            sender.send(event(&format!("r{number}"), Verdict::Permit));
        }
        recorder.stop();
        assert_eq!(
            std::fs::read_to_string(&log).unwrap().lines().count(),
            1_000
        );
        assert_eq!(
            RingReader::new(&ring).find_request("r999").unwrap().len(),
            1
        );
        assert!(
            metrics
                .encode()
                .contains("verdict=\"permit\",reason=\"none\"} 1000")
        );
        assert_eq!(
            std::iter::from_fn(|| forwarded.try_recv().ok()).count(),
            1_000
        );
        assert_eq!(sender.dropped(), 0);
        // After the end events are counted as lost, and nobody waits.
        for _ in 0..QUEUE + 1 {
            sender.send(event("late", Verdict::Permit));
        }
        assert!(sender.dropped() > 0);
    }

    #[test]
    fn windows_are_sent_when_they_are_over_and_counted_when_nobody_takes_them() {
        let (closed, mut windows) = mpsc::channel(1);
        let (sender, recorder) = Recorder::start(RecorderOptions {
            metrics: Arc::new(Metrics::new()),
            decision_log: None,
            ring: None,
            forward: None,
            windows: Some(WindowOptions {
                service: Some("orders".into()),
                closed,
            }),
        })
        .unwrap();
        // No further event comes: the window is closed by the clock alone.
        sender.send(event("first", Verdict::Permit));
        let first = windows.blocking_recv().unwrap();
        assert_eq!((first.events, first.parts.len()), (1, 1));
        let window = Window::decode(&first.parts[0]).unwrap();
        assert_eq!(window.start % WINDOW_SECONDS, 0);
        assert_eq!(window.counts.edges.len(), 1);
        // The end closes the open window; the channel is gone by then.
        drop(windows);
        sender.send(event("second", Verdict::Permit));
        recorder.stop();
        assert_eq!(sender.uncounted(), 1);
    }

    #[test]
    fn the_way_to_control_is_kept_open_for_denials() {
        let metrics = Arc::new(Metrics::new());
        let (forward, mut forwarded) = mpsc::channel(80);
        let (sender, recorder) = Recorder::start(RecorderOptions {
            metrics: metrics.clone(),
            decision_log: None,
            ring: None,
            forward: Some(forward),
            windows: None,
        })
        .unwrap();
        for _ in 0..1_000 {
            sender.send(event("p", Verdict::Permit));
        }
        for number in 0..10 {
            sender.send(event(&format!("d{number}"), Verdict::Deny));
        }
        recorder.stop();
        let denied = std::iter::from_fn(|| forwarded.try_recv().ok())
            .filter(|event| event.verdict == Verdict::Deny)
            .count();
        assert_eq!(denied, 10);
        assert!(sender.dropped() > 900);
        let text = metrics.encode();
        assert!(text.contains(&format!(
            "testudo_events_dropped_total {}",
            sender.dropped()
        )));
    }
}
