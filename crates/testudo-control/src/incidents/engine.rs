//! The task that runs the detectors over every complete window, and everything that follows from it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use testudo_policy::config::{Respond, Watch};
use testudo_watch::detect::{Anomaly, Detectors, Settings};
use testudo_watch::window::MergedWindow;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Incident, News, respond, settings};
use crate::Control;
use crate::store::with_cause;

/// Under which name the store keeps what the detectors learned.
const LEARNED: &str = "detectors";
/// How often that is written.
const KEEP_LEARNED: Duration = Duration::from_mins(5);
/// How often incidents that only grew are written.
const KEEP_GROWN: Duration = Duration::from_secs(10);

struct Engine {
    control: Arc<Control>,
    /// `None` only while a window is judged on another thread.
    detectors: Option<Detectors>,
    settings: Arc<Settings>,
    /// The revision whose settings these are.
    revision: u64,
    grown: Vec<String>,
    kept_grown: Instant,
    kept_learned: Instant,
}

/// Watches until `stop`; what was learned is kept then.
pub(crate) async fn run(
    control: Arc<Control>,
    mut windows: broadcast::Receiver<Arc<MergedWindow>>,
    stop: CancellationToken,
) {
    let learned = read(&control);
    let mut engine = Engine {
        control,
        detectors: Some(learned),
        settings: Arc::new(Settings::default()),
        revision: 0,
        grown: Vec::new(),
        kept_grown: Instant::now(),
        kept_learned: Instant::now(),
    };
    loop {
        let received = tokio::select! {
            received = windows.recv() => received,
            () = stop.cancelled() => break,
        };
        match received {
            Ok(window) => engine.take(window).await,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "detectors are behind: windows were not judged");
                let counter = &engine.control.incidents.missed;
                counter.fetch_add(missed, Ordering::Relaxed);
            }
            Err(RecvError::Closed) => break,
        }
    }
    engine.keep_grown().await;
    engine.keep_learned().await;
}

fn read(control: &Control) -> Detectors {
    match control.store.learned(LEARNED) {
        Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "what detectors learned does not read (another version?); they start anew");
            Detectors::new()
        }),
        Ok(None) => Detectors::new(),
        Err(error) => {
            tracing::error!(error = %with_cause(&error), "what detectors learned cannot be read; they start anew");
            Detectors::new()
        }
    }
}

impl Engine {
    async fn take(&mut self, window: Arc<MergedWindow>) {
        let Some(current) = self.control.revisions.current() else {
            return;
        };
        if current.number != self.revision {
            self.revision = current.number;
            self.settings = Arc::new(settings(&current.config.watch));
            let notifier = &self.control.incidents.notifier;
            notifier.configure(&current.config.watch, &self.control.bundle_dir);
        }
        let anomalies = self.detect(Arc::clone(&window)).await;
        let now = i64::try_from(window.end()).unwrap_or(i64::MAX);
        let now = Timestamp::from_second(now).unwrap_or(Timestamp::MAX);
        let deploys = self.detectors.as_ref().map(Detectors::deploys);
        let context = |service: Option<&str>| {
            deploys.map_or_else(Vec::new, |deploys| deploys.context(service))
        };
        let changed = self.control.incidents.take(anomalies, now, &context);
        self.follow_up(changed, &current.config.watch).await;
        if self.kept_grown.elapsed() >= KEEP_GROWN {
            self.keep_grown().await;
        }
        if self.kept_learned.elapsed() >= KEEP_LEARNED {
            self.keep_learned().await;
        }
    }

    /// On another thread: a large mesh's window takes some milliseconds, and this one serves everybody.
    async fn detect(&mut self, window: Arc<MergedWindow>) -> Vec<Anomaly> {
        let mut detectors = self.detectors.take().unwrap_or_default();
        let settings = Arc::clone(&self.settings);
        let judged = tokio::task::spawn_blocking(move || {
            let found = detectors.detect(&window, &settings);
            (detectors, found)
        });
        match judged.await {
            Ok((detectors, found)) => {
                self.detectors = Some(detectors);
                found
            }
            Err(error) => {
                tracing::error!(%error, "a detector panicked; all start from what was kept last");
                self.detectors = Some(read(&self.control));
                Vec::new()
            }
        }
    }

    async fn follow_up(&mut self, changed: Vec<(Incident, News)>, watch: &Watch) {
        let mut keep = Vec::new();
        for (incident, news) in changed {
            let notifier = &self.control.incidents.notifier;
            match news {
                News::Opened => {
                    tracing::warn!(id = incident.id, title = incident.title, "incident");
                    notifier.tell("incident.opened", &incident);
                }
                News::Closed => notifier.tell("incident.closed", &incident),
                News::Grew => {}
            }
            let contained = if watch.respond == Respond::Contain && news != News::Closed {
                self.contain(&incident)
            } else {
                None
            };
            if news == News::Grew && contained.is_none() {
                if !self.grown.contains(&incident.id) {
                    self.grown.push(incident.id);
                }
            } else {
                keep.push(contained.unwrap_or(incident));
            }
        }
        self.keep(keep).await;
    }

    /// Narrows who did it; what is new of the incident then.
    fn contain(&self, incident: &Incident) -> Option<Incident> {
        if !respond::wants_containment(incident) {
            return None;
        }
        let containment = respond::contain(&self.control, incident)?;
        if incident.containment.as_ref() == Some(&containment) {
            return None;
        }
        let first = incident.containment.is_none();
        let changed = self
            .control
            .incidents
            .contained(&incident.id, containment)?;
        if first {
            let notifier = &self.control.incidents.notifier;
            notifier.tell("incident.contained", &changed);
        }
        Some(changed)
    }

    async fn keep_grown(&mut self) {
        self.kept_grown = Instant::now();
        let ids = std::mem::take(&mut self.grown);
        let incidents = &self.control.incidents;
        let grown = ids.iter().filter_map(|id| incidents.find(id)).collect();
        self.keep(grown).await;
    }

    async fn keep(&self, changed: Vec<Incident>) {
        let gone = self.control.incidents.take_gone();
        if changed.is_empty() && gone.is_empty() {
            return;
        }
        let store = self.control.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.put_incidents(&changed, &gone, None));
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %with_cause(&error), "incidents cannot be kept");
            }
            Err(error) => tracing::error!(%error, "keeping incidents panicked"),
        }
    }

    async fn keep_learned(&mut self) {
        self.kept_learned = Instant::now();
        let Some(detectors) = self.detectors.take() else {
            return;
        };
        let store = self.control.store.clone();
        // Up to some megabytes.
        let kept = tokio::task::spawn_blocking(move || {
            let kept = match serde_json::to_vec(&detectors) {
                Ok(bytes) => store
                    .put_learned(LEARNED, &bytes)
                    .map_err(|error| with_cause(&error)),
                Err(error) => Err(error.to_string()),
            };
            (detectors, kept)
        });
        match kept.await {
            Ok((detectors, kept)) => {
                self.detectors = Some(detectors);
                if let Err(error) = kept {
                    tracing::warn!(error, "what detectors learned cannot be kept");
                }
            }
            Err(error) => {
                tracing::error!(%error, "keeping what detectors learned panicked");
                self.detectors = Some(read(&self.control));
            }
        }
    }
}
