//! The same windows, detectors and grouping over events of the past: what incidents there would have been,
//! and who would have been contained. For `watch simulate` and for measuring the detectors.
//!
//! What the events do not hold cannot be seen: a sampled log shows less traffic than there was, and when
//! workloads started is not in it. How much of the usual traffic a containment would have touched
//! (`max_share`) is not judged here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use testudo_model::{Event, Hop};
use testudo_watch::detect::{Detectors, Settings};
use testudo_watch::window::{Aggregator, MergedWindow, Name, WINDOW_SECONDS, window_start};

use super::{Book, Incident, News, wants_containment};

/// Seconds for which a window waits for events that were written late.
const GRACE: u64 = 30;
/// A gap in the events longer than this is not walked through window by window.
const LONGEST_GAP: u64 = 3600;

/// What a replay showed.
#[derive(Debug)]
pub struct Replayed {
    /// In the order in which they began.
    pub incidents: Vec<Incident>,
    /// Ids of incidents whose principal would have been contained, and when.
    pub contained: BTreeMap<String, Timestamp>,
    /// Events that were looked at.
    pub events: u64,
    /// Events that came so late that their window was over.
    pub late: u64,
    /// The first and the last event.
    pub span: Option<(Timestamp, Timestamp)>,
    /// When each incident was seen, if [`Replay::recording`] asked for it: window's end and id.
    pub sightings: Vec<(Timestamp, String)>,
}

/// See the module. Give it events in order of time; it forgives [`GRACE`] seconds of disorder.
pub struct Replay {
    settings: Settings,
    protected: Vec<String>,
    detectors: Detectors,
    book: Book,
    open: BTreeMap<u64, BTreeMap<String, (Aggregator, Option<Name>)>>,
    next: u64,
    seen: BTreeMap<String, Incident>,
    replayed: Replayed,
    recording: bool,
}

impl Replay {
    /// Nothing replayed yet. `protected`: who is never contained.
    pub fn new(settings: Settings, protected: Vec<String>) -> Replay {
        Replay {
            settings,
            protected,
            detectors: Detectors::new(),
            book: Book::default(),
            open: BTreeMap::new(),
            next: 0,
            seen: BTreeMap::new(),
            replayed: Replayed {
                incidents: Vec::new(),
                contained: BTreeMap::new(),
                events: 0,
                late: 0,
                span: None,
                sightings: Vec::new(),
            },
            recording: false,
        }
    }

    /// Also records when each incident was seen: for measuring, since a long log has many sightings.
    #[must_use]
    pub fn recording(mut self) -> Replay {
        self.recording = true;
        self
    }

    /// Takes an event in.
    pub fn add(&mut self, event: &Event) {
        let at = u64::try_from(event.time.as_second()).unwrap_or(0);
        let start = window_start(at);
        if start < self.next {
            self.replayed.late += 1;
            return;
        }
        self.replayed.events += 1;
        let span = self.replayed.span.get_or_insert((event.time, event.time));
        span.0 = span.0.min(event.time);
        span.1 = span.1.max(event.time);
        let proxies = self.open.entry(start).or_default();
        if !proxies.contains_key(&event.proxy) {
            let service = service_of(event);
            let aggregator = Aggregator::new(service.clone(), 0);
            proxies.insert(event.proxy.clone(), (aggregator, service));
        }
        if let Some((aggregator, _)) = proxies.get_mut(&event.proxy) {
            aggregator.count(event, at);
        }
        self.complete(start.saturating_sub(GRACE));
    }

    /// Judges what is left, and says what was found.
    pub fn finish(mut self) -> Replayed {
        if let Some(last) = self.open.keys().next_back().copied() {
            self.complete(last + WINDOW_SECONDS);
        }
        let mut incidents: Vec<Incident> = self.seen.into_values().collect();
        incidents.sort_by(|a, b| a.first.cmp(&b.first).then_with(|| a.id.cmp(&b.id)));
        Replayed {
            incidents,
            ..self.replayed
        }
    }

    /// Judges every window that begins before `until`, empty ones too.
    fn complete(&mut self, until: u64) {
        while let Some(first) = self.open.keys().next().copied() {
            if first >= until {
                return;
            }
            if self.next == 0 || first.saturating_sub(self.next) > LONGEST_GAP {
                self.next = first;
            }
            while self.next <= first {
                let start = self.next;
                let mut merged = MergedWindow::new(start);
                for (_, (mut aggregator, service)) in self.open.remove(&start).unwrap_or_default() {
                    if let Some(window) = aggregator.finish() {
                        merged.merge(&window, service.as_ref());
                    }
                }
                self.judge(&merged);
                self.next = start + WINDOW_SECONDS;
            }
        }
    }

    fn judge(&mut self, window: &MergedWindow) {
        let found = self.detectors.detect(window, &self.settings);
        let deploys = self.detectors.deploys();
        let mut changed = self.book.take(found, &|service| deploys.context(service));
        let end = i64::try_from(window.end()).unwrap_or(i64::MAX);
        let end = Timestamp::from_second(end).unwrap_or(Timestamp::MAX);
        changed.extend(self.book.pass(end));
        for (incident, news) in changed {
            let contained = news != News::Closed
                && wants_containment(&incident)
                && !self.protected.contains(&incident.who.name);
            if contained {
                let contained = &mut self.replayed.contained;
                contained.entry(incident.id.clone()).or_insert(end);
            }
            if self.recording && news != News::Closed {
                self.replayed.sightings.push((end, incident.id.clone()));
            }
            self.seen.insert(incident.id.clone(), incident);
        }
        // A symptom that turned out to be part of something is not one of them.
        for id in self.book.take_gone() {
            let absorbed = self.seen.get(&id).is_some_and(|i| {
                i.note
                    .as_deref()
                    .is_some_and(|note| note.starts_with("part of "))
            });
            if absorbed {
                self.seen.remove(&id);
            }
        }
    }
}

/// The service of the sidecar that wrote an event, by its name (`orders-1`): a refusal on the way out
/// names the called service, and is written by the caller's.
fn service_of(event: &Event) -> Option<Name> {
    match event.hop {
        Hop::Edge => None,
        Hop::Mesh => event
            .proxy
            .rsplit_once('-')
            .map(|(service, _)| service.into()),
    }
}
