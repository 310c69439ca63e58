//! One proxy's counting: events go in, a window comes out when its time is over.

use testudo_model::Event;

use super::counts::{Counter, Counts, Limits};
use super::{Name, WINDOW_SECONDS, Window, window_start};

/// Counts the events of one proxy. Knows no clock: the caller says what time it is.
pub struct Aggregator {
    proxy_started: u64,
    counter: Counter,
    current: Option<Window>,
}

impl Aggregator {
    /// For the sidecar of a service, or (`None`) a gateway, that started at this time, in seconds since
    /// the epoch.
    pub fn new(service: Option<Name>, started: u64) -> Aggregator {
        Aggregator {
            proxy_started: started,
            counter: Counter::new(service),
            current: None,
        }
    }

    /// Counts an event in the current window; [`Aggregator::close`] comes first, where that is over.
    pub fn count(&mut self, event: &Event, now_seconds: u64) {
        let window = self.current.get_or_insert_with(|| Window {
            start: window_start(now_seconds),
            proxy: event.proxy.as_str().into(),
            proxy_started: self.proxy_started,
            revision: 0,
            counts: Counts::default(),
        });
        window.revision = window.revision.max(event.revision);
        self.counter
            .count(&mut window.counts, event, &Limits::PROXY);
    }

    /// The window that was open, if it is over. (Or if the clock was set back to before it.)
    pub fn close(&mut self, now_seconds: u64) -> Option<Window> {
        self.current
            .take_if(|window| window.start != window_start(now_seconds))
    }

    /// The window that is open, whether or not it is over: for the end of the proxy.
    pub fn finish(&mut self) -> Option<Window> {
        self.current.take()
    }

    /// When the open window is over, in seconds since the epoch; `None` where none is open.
    pub fn end(&self) -> Option<u64> {
        let window = self.current.as_ref()?;
        Some(window.start.saturating_add(WINDOW_SECONDS))
    }
}
