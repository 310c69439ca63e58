//! What was asked of what by whom in the last minutes: the measure of what a containment would touch.
//! Complete windows say it of everything; what came since the last one, the decisions say.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use testudo_model::{Event, Hop, Reason, Verdict};
use testudo_watch::window::{MergedWindow, Name, Principal, WINDOW_SECONDS};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{By, Containment, Kind};
use crate::Control;
use crate::decisions::{Decisions, Filter};

/// What was usual is looked for in so much of the past (seconds).
const LOOK_BACK: u64 = 600;
/// The past is kept in steps of so many seconds: an anomaly may begin soon after the mesh did.
const STEP: u64 = WINDOW_SECONDS;
/// Principals and places of one step; what finds no room is part of the total alone.
const KEYS: usize = 1024;
/// Decisions that are looked at.
const EVENTS: usize = 8192;
/// So many requests, in so many seconds, are enough to say what is usual.
const ENOUGH: u64 = 50;
const ENOUGH_SECONDS: u64 = 60;
/// A detector may need so many seconds to see what is plain.
const DETECTED_AFTER: u64 = 6;
/// Stopped within so many seconds is stopped now.
const RECENT: i64 = 6;

/// Requests that were alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When at the latest, in seconds since the epoch.
    pub at: u64,
    /// Where it was judged.
    pub hop: Hop,
    /// A user (anonymous ones too) or a caller (gateways too).
    pub kind: Kind,
    /// Who, as a proxy verified it.
    pub principal: Name,
    /// The called service.
    pub service: Name,
    /// `SERVICE:OPERATION`.
    pub operation: Option<Name>,
    /// How many.
    pub count: u64,
    /// How many of them were let through, and not only because of mode report.
    pub served: u64,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// By principal and place, in no order.
    pub calls: Vec<Call>,
    /// Requests that were served: when, and how many.
    pub served: Vec<(u64, u64)>,
    /// When it begins, in seconds since the epoch.
    pub from: u64,
    /// When it ends.
    pub until: u64,
}

/// What is usual, in parts of the past: of what is asked of each, the lower quartile counts.
pub(super) struct Usual {
    parts: Vec<Traffic>,
}

impl Usual {
    /// The lower quartile over the parts.
    pub(super) fn measure(&self, of: impl Fn(&Traffic) -> f64) -> f64 {
        let mut found: Vec<f64> = self.parts.iter().map(of).collect();
        found.sort_by(f64::total_cmp);
        found.get(found.len() / 4).copied().unwrap_or(0.0)
    }
}

impl Traffic {
    /// What is usual apart from an anomaly that began about `moment`: what was before it, as a whole.
    /// Where the mesh is too young for that, every step that is known, of which an anomaly that is as
    /// young fills the smaller part. Without an anomaly, everything.
    pub(super) fn usual(&self, moment: Option<u64>) -> Usual {
        let Some(moment) = moment else {
            return Usual {
                parts: vec![self.clone()],
            };
        };
        let before = self.between(0, moment.saturating_sub(DETECTED_AFTER));
        if before.seconds() >= ENOUGH_SECONDS && before.total() >= ENOUGH {
            return Usual {
                parts: vec![before],
            };
        }
        let steps: BTreeSet<u64> = self.served.iter().map(|(at, _)| at - at % STEP).collect();
        let parts = steps
            .into_iter()
            .map(|start| self.between(start, start + STEP));
        Usual {
            parts: parts.collect(),
        }
    }

    /// From one moment to before another.
    fn between(&self, from: u64, until: u64) -> Traffic {
        let is_in = |at: u64| (from..until).contains(&at);
        let calls = self.calls.iter().filter(|call| is_in(call.at));
        let served = self.served.iter().filter(|(at, _)| is_in(*at));
        Traffic {
            calls: calls.cloned().collect(),
            served: served.copied().collect(),
            from: self.from.max(from),
            until: self.until.min(until),
        }
    }

    /// Requests that were served.
    pub(super) fn total(&self) -> u64 {
        self.served.iter().map(|(_, count)| count).sum()
    }

    /// How long it is, in seconds; at least one.
    pub(super) fn seconds(&self) -> u64 {
        self.until.saturating_sub(self.from).max(1)
    }
}

impl Call {
    /// Whether it goes to this operation, or to this service.
    pub(super) fn is_at(&self, service: &str, operation: Option<&str>) -> bool {
        *self.service == *service
            && operation.is_none_or(|operation| self.operation.as_deref() == Some(operation))
    }

    /// Whether it is this principal's.
    pub(super) fn is_of(&self, kind: Kind, principal: &str) -> bool {
        self.kind == kind && *self.principal == *principal
    }

    pub(super) fn is_touched(&self, containment: &Containment) -> bool {
        self.is_of(containment.kind, &containment.principal)
            && self.is_at(&containment.service, containment.operation.as_deref())
    }
}

/// The last minutes, from complete windows.
#[derive(Default)]
pub struct Past {
    kept: Mutex<Kept>,
    /// What was said last, and in which second: every incident asks after every window.
    said: Mutex<(u64, Arc<Traffic>)>,
}

#[derive(Default)]
struct Kept {
    steps: VecDeque<Step>,
    /// The end of the newest window.
    until: u64,
}

struct Step {
    start: u64,
    calls: HashMap<Key, (u64, u64)>,
    served: u64,
}

type Key = (Hop, Kind, Name, Name, Option<Name>);

impl Past {
    /// Takes in a complete window.
    pub fn add(&self, window: &MergedWindow) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.until = kept.until.max(window.end());
        let start = window.start - window.start % STEP;
        if kept.steps.back().is_none_or(|step| step.start < start) {
            kept.steps.push_back(Step {
                start,
                calls: HashMap::new(),
                served: 0,
            });
        }
        let oldest = start.saturating_sub(LOOK_BACK);
        while kept.steps.front().is_some_and(|step| step.start <= oldest) {
            kept.steps.pop_front();
        }
        // A window from before the newest step is late; its step's neighbour has it.
        if let Some(step) = kept.steps.back_mut() {
            step.add(window);
        }
    }

    /// With the decisions since the last window. What was said within the same second is good enough for
    /// detectors, of which every incident asks after every window; a person has just seen what came last.
    pub(super) fn with(&self, decisions: &Decisions, now: u64, by: By) -> Arc<Traffic> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.0 == now && by == By::Watch {
            return Arc::clone(&said.1);
        }
        let (mut traffic, since) = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            (kept.traffic(now), kept.until)
        };
        let oldest = since.max(now.saturating_sub(LOOK_BACK));
        for event in decisions.newest(&Filter::default(), EVENTS) {
            traffic.add(&event, oldest);
        }
        // What is known of a step is known at its end.
        let first = traffic.served.iter().map(|(at, _)| *at).min();
        traffic.from = first.map_or(now, |first| first - first % STEP);
        *said = (now, Arc::new(traffic));
        Arc::clone(&said.1)
    }
}

impl Kept {
    fn traffic(&self, now: u64) -> Traffic {
        let mut traffic = Traffic {
            until: now,
            ..Traffic::default()
        };
        for step in &self.steps {
            // The end, so that what is before an anomaly holds nothing of it.
            let at = (step.start + STEP - 1).min(self.until);
            traffic.served.push((at, step.served));
            for ((hop, kind, principal, service, operation), (count, served)) in &step.calls {
                traffic.calls.push(Call {
                    at,
                    hop: *hop,
                    kind: *kind,
                    principal: Arc::clone(principal),
                    service: Arc::clone(service),
                    operation: operation.clone(),
                    count: *count,
                    served: *served,
                });
            }
        }
        traffic
    }
}

impl Step {
    fn add(&mut self, window: &MergedWindow) {
        let counts = &window.counts;
        for (key, stats) in counts.edges.iter() {
            let (count, served) = (stats.outcomes.requests(), stats.outcomes.permitted());
            self.served += served;
            let Some(service) = &key.service else {
                continue;
            };
            let place = (service, &key.operation);
            if stats.anonymous > 0 {
                let anonymous = stats.anonymous;
                let name = Arc::from("anonymous");
                self.count(
                    key.hop,
                    Kind::User,
                    name,
                    place,
                    (anonymous, anonymous.min(served)),
                );
            }
            if let Some(caller) = key.caller.as_ref().filter(|_| key.hop == Hop::Mesh) {
                self.count(
                    key.hop,
                    Kind::Service,
                    Arc::clone(caller),
                    place,
                    (count, served),
                );
            }
        }
        for (key, stats) in counts.principals.iter() {
            // Callers are counted by edge, addresses are never contained.
            let Principal::User(user) = &key.principal else {
                continue;
            };
            for (place, stats) in stats.operations.iter() {
                if let Some(service) = &place.service {
                    let (count, served) = (stats.outcomes.requests(), stats.outcomes.permitted());
                    let place = (service, &place.operation);
                    self.count(
                        key.hop,
                        Kind::User,
                        Arc::clone(user),
                        place,
                        (count, served),
                    );
                }
            }
        }
    }

    fn count(
        &mut self,
        hop: Hop,
        kind: Kind,
        principal: Name,
        (service, operation): (&Name, &Option<Name>),
        (count, served): (u64, u64),
    ) {
        let key = (hop, kind, principal, Arc::clone(service), operation.clone());
        if self.calls.len() >= KEYS && !self.calls.contains_key(&key) {
            return;
        }
        let entry = self.calls.entry(key).or_default();
        entry.0 += count;
        entry.1 += served;
    }
}

impl Traffic {
    /// A decision that no window has counted yet.
    fn add(&mut self, event: &Event, oldest: u64) {
        let at = u64::try_from(event.time.as_second()).unwrap_or_default();
        let Some(service) = event.service.as_deref().filter(|_| at >= oldest) else {
            return;
        };
        let served = u64::from(event.verdict == Verdict::Permit && event.reason.is_none());
        self.served.push((at, served));
        let caller = event.caller.as_deref().filter(|_| event.hop == Hop::Mesh);
        let user = event.user.as_deref().map(|user| (Kind::User, user));
        for (kind, principal) in user.into_iter().chain(caller.map(|c| (Kind::Service, c))) {
            self.calls.push(Call {
                at,
                hop: event.hop,
                kind,
                principal: Arc::from(principal),
                service: Arc::from(service),
                operation: event.operation.as_deref().map(Arc::from),
                count: 1,
                served,
            });
        }
    }
}

/// Whether a containment stops (or in mode report would stop) its principal at this moment.
pub(super) fn stops_now(containment: &Containment, decisions: &Decisions, now: u64) -> bool {
    let mut filter = Filter {
        service: Some(containment.service.clone()),
        operation: containment.operation.clone(),
        reason: Some(Reason::Contained),
        ..Filter::default()
    };
    match containment.kind {
        Kind::User => filter.user = Some(containment.principal.clone()),
        Kind::Service => filter.caller = Some(containment.principal.clone()),
    }
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let newest = decisions.newest(&filter, 1);
    newest
        .first()
        .is_some_and(|event| now - event.time.as_second() <= RECENT)
}

/// Keeps the past up to date until `stop`.
pub(crate) async fn keep(
    control: Arc<Control>,
    mut windows: broadcast::Receiver<Arc<MergedWindow>>,
    stop: CancellationToken,
) {
    loop {
        let window = tokio::select! {
            window = windows.recv() => window,
            () = stop.cancelled() => return,
        };
        match window {
            Ok(window) => control.past.add(&window),
            // What is missing here is missing from what is usual, and nothing else.
            Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "windows were missed"),
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use testudo_watch::window::{EdgeKey, EdgeStats, Outcome};

    use super::*;

    fn window(start: u64, requests: u64) -> MergedWindow {
        let mut window = MergedWindow::new(start);
        let mut stats = EdgeStats::default();
        stats.outcomes.add(Outcome::Permitted, requests);
        stats.anonymous = 1;
        let key = EdgeKey {
            hop: Hop::Mesh,
            caller: Some(Arc::from("storefront")),
            service: Some(Arc::from("catalog")),
            operation: None,
        };
        window.counts.edges.insert(key, stats);
        window
    }

    #[test]
    fn windows_say_what_was_and_decisions_what_is() {
        let past = Past::default();
        let now = 1_000_000;
        for start in (now - 1_000..now - 10).step_by(2) {
            past.add(&window(start, 3));
        }
        let decisions = Decisions::default();
        let second = i64::try_from(now).unwrap() - 5;
        decisions.add(crate::decisions::tests::event("orders", None, second));
        // One that a window has counted already.
        decisions.add(crate::decisions::tests::event("orders", None, second - 60));
        let traffic = past.with(&decisions, now, By::Admin);
        assert_eq!(traffic.total(), 3 * 300 + 1, "ten minutes, and one");
        assert!((600..=612).contains(&traffic.seconds()));
        let of = |kind, name: &str| -> u64 {
            let calls = traffic.calls.iter().filter(|call| call.is_of(kind, name));
            calls.map(|call| call.served).sum()
        };
        assert_eq!(of(Kind::Service, "storefront"), 900);
        assert_eq!(of(Kind::User, "anonymous"), 300);
        assert_eq!(of(Kind::User, "shop:bob"), 1);
        // What is usual ends before an anomaly began.
        let whole = |traffic: &Traffic| (traffic.until - traffic.from) as f64;
        let usual = traffic.usual(Some(now - 100));
        assert_eq!(usual.parts.len(), 1);
        assert_eq!(usual.parts[0].until, now - 106);
        assert!(usual.measure(whole) >= 60.0);
        assert!(usual.parts[0].calls.iter().all(|call| call.at < now - 106));
        // With too little before it, steps are looked at one by one.
        let usual = traffic.usual(Some(now - 600));
        assert_eq!(usual.parts.len(), 301);
        assert!((usual.measure(|step| step.total() as f64) - 3.0).abs() < 0.1);
        assert_eq!(traffic.usual(None).parts[0].total(), traffic.total());
    }
}
