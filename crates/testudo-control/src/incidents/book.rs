//! Grouping: anomalies of one cause become one incident whose count grows; symptoms go to the incident
//! that explains them; what is quiet for a while closes itself. Knows no clock and no store.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use testudo_watch::detect::{Anomaly, Detector, Subject, Target};

use super::{Incident, State, advice};

/// Incidents that are kept; the oldest closed ones go first.
const MOST: usize = 1000;
/// Symptoms that may wait for a cause.
const MOST_PENDING: usize = 1000;
/// Quiet for as long closes an incident by itself.
const QUIET: SignedDuration = SignedDuration::from_mins(10);
/// The same again within this time after it closed by itself is the same incident.
const REOPEN: SignedDuration = SignedDuration::from_hours(1);
/// After somebody closed it, sums over the last minutes still show it: for so long that is no news.
const CLOSED_BY_HAND: SignedDuration = SignedDuration::from_mins(2);
/// Incidents this close in time may have one cause.
const TOGETHER: SignedDuration = SignedDuration::from_mins(3);
/// Windows in a row that a symptom must be there before it is an incident: its cause may still show.
const PERSISTENT: u32 = 3;
const SAMPLES: usize = 10;
const RELATED: usize = 10;
const CONTEXT: usize = 10;

/// What is new of a changed incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is new, came back, or is not muted any more.
    Opened,
    /// It goes on.
    Grew,
    /// It is over.
    Closed,
}

type Key = (Detector, Subject, Target);

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    incidents: BTreeMap<String, Incident>,
    pending: HashMap<Key, (u32, Timestamp)>,
    gone: Vec<String>,
}

impl Book {
    /// With incidents of before.
    pub fn new(incidents: Vec<Incident>) -> Book {
        let incidents = incidents.into_iter().map(|i| (i.id.clone(), i)).collect();
        Book {
            incidents,
            ..Book::default()
        }
    }

    /// All of them.
    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values()
    }

    /// One by its id.
    pub fn find(&self, id: &str) -> Option<&Incident> {
        self.incidents.get(id)
    }

    /// Puts a changed one in its place.
    pub fn replace(&mut self, incident: Incident) {
        self.incidents.insert(incident.id.clone(), incident);
    }

    /// Ids that were dropped to make room since the last call.
    pub fn take_gone(&mut self) -> Vec<String> {
        std::mem::take(&mut self.gone)
    }

    /// Takes in what one window showed. `context`: what changed lately for a service.
    pub fn take(
        &mut self,
        anomalies: Vec<Anomaly>,
        context: &dyn Fn(Option<&str>) -> Vec<String>,
    ) -> Vec<(Incident, News)> {
        let mut changed = Vec::new();
        for anomaly in anomalies {
            let at = timestamp(anomaly.at);
            let id = if let Some(id) = self.current(&anomaly, at) {
                id
            } else if anomaly.detector.is_symptom() {
                if self.explain(&anomaly, at) || !self.is_persistent(&anomaly, at) {
                    continue;
                }
                self.begin(anomaly, at, context, &mut changed);
                continue;
            } else {
                self.begin(anomaly, at, context, &mut changed);
                continue;
            };
            if let Some(incident) = self.incidents.get_mut(&id)
                && let Some(news) = grow(incident, anomaly, at)
            {
                changed.push((incident.clone(), news));
            }
        }
        changed
    }

    /// Lets time pass.
    pub fn pass(&mut self, now: Timestamp) -> Vec<(Incident, News)> {
        let mut changed = Vec::new();
        for incident in self.incidents.values_mut() {
            let quiet = now.duration_since(incident.last);
            match incident.state {
                State::Muted if incident.muted_until.is_none_or(|until| until <= now) => {
                    incident.muted_until = None;
                    if quiet >= QUIET {
                        close(incident, now);
                        changed.push((incident.clone(), News::Closed));
                    } else {
                        incident.state = State::Open;
                        changed.push((incident.clone(), News::Opened));
                    }
                }
                State::Open | State::Acknowledged if quiet >= QUIET => {
                    close(incident, now);
                    changed.push((incident.clone(), News::Closed));
                }
                State::Open | State::Acknowledged | State::Muted | State::Closed => {}
            }
        }
        self.pending
            .retain(|_, (_, last)| now.duration_since(*last) < SignedDuration::from_secs(10));
        changed
    }

    /// The incident that an anomaly belongs to: one that is not over, or was until lately.
    fn current(&self, anomaly: &Anomaly, at: Timestamp) -> Option<String> {
        let same = |incident: &&Incident| {
            incident.detector == anomaly.detector
                && incident.who == anomaly.who
                && (is_about_who(anomaly.detector) || incident.what == anomaly.what)
        };
        let lately = |incident: &&Incident| match (incident.state, incident.closed) {
            (State::Closed, Some(closed)) => at.duration_since(closed) < REOPEN,
            (State::Closed, None) => false,
            (State::Open | State::Acknowledged | State::Muted, _) => true,
        };
        let mut all = self.incidents.values().filter(same).filter(lately);
        let first = all.next()?;
        let newest = all.fold(first, |a, b| if b.last > a.last { b } else { a });
        Some(newest.id.clone())
    }

    /// Gives a symptom to the incident that explains it, if there is one.
    fn explain(&mut self, symptom: &Anomaly, at: Timestamp) -> bool {
        let explains = |incident: &&mut Incident| {
            !incident.detector.is_symptom()
                && incident.state != State::Closed
                && is_near(incident, at)
                && is_same_cause(incident, &symptom.who, &symptom.what)
        };
        let Some(incident) = self.incidents.values_mut().find(explains) else {
            return false;
        };
        let prefix = format!("{}: ", symptom.detector);
        if !incident
            .context
            .iter()
            .any(|line| line.starts_with(&prefix))
        {
            add_context(incident, format!("{prefix}{}", symptom.title));
        }
        true
    }

    fn is_persistent(&mut self, symptom: &Anomaly, at: Timestamp) -> bool {
        let key = (symptom.detector, symptom.who.clone(), symptom.what.clone());
        if self.pending.len() >= MOST_PENDING && !self.pending.contains_key(&key) {
            return false;
        }
        let (count, last) = self.pending.entry(key).or_insert((0, at));
        *count += 1;
        *last = at;
        // Rate looks at longer periods and waits by itself.
        *count >= PERSISTENT || symptom.detector == Detector::Rate
    }

    /// A new incident; symptoms of the same cause that became one before are part of it.
    fn begin(
        &mut self,
        anomaly: Anomaly,
        at: Timestamp,
        context: &dyn Fn(Option<&str>) -> Vec<String>,
        changed: &mut Vec<(Incident, News)>,
    ) {
        self.make_room();
        let service = anomaly
            .what
            .service
            .as_deref()
            .or(anomaly.what.caller.as_deref());
        let mut incident = incident(&anomaly, at, context(service));
        if !anomaly.detector.is_symptom() {
            self.absorb(&mut incident, at, changed);
        }
        for other in self.incidents.values_mut() {
            let related = other.state != State::Closed
                && is_near(other, at)
                && is_same_cause(other, &incident.who, &incident.what);
            if related && incident.related.len() < RELATED && other.related.len() < RELATED {
                incident.related.push(other.id.clone());
                other.related.push(incident.id.clone());
            }
        }
        self.incidents.insert(incident.id.clone(), incident.clone());
        changed.push((incident, News::Opened));
    }

    fn absorb(
        &mut self,
        incident: &mut Incident,
        at: Timestamp,
        changed: &mut Vec<(Incident, News)>,
    ) {
        let symptoms: Vec<String> = self
            .incidents
            .values()
            .filter(|other| {
                other.detector.is_symptom()
                    && other.state == State::Open
                    && other.who == incident.who
                    && at.duration_since(other.first) <= TOGETHER
            })
            .map(|other| other.id.clone())
            .collect();
        for id in symptoms {
            if let Some(mut symptom) = self.incidents.remove(&id) {
                add_context(incident, format!("{}: {}", symptom.detector, symptom.title));
                incident.first = incident.first.min(symptom.first);
                close(&mut symptom, at);
                symptom.note = Some(format!("part of {}", incident.id));
                self.gone.push(id);
                changed.push((symptom, News::Closed));
            }
        }
    }

    fn make_room(&mut self) {
        while self.incidents.len() >= MOST {
            let oldest = self
                .incidents
                .values()
                .min_by_key(|i| (i.state != State::Closed, i.severity, i.last));
            let Some(id) = oldest.map(|incident| incident.id.clone()) else {
                return;
            };
            self.incidents.remove(&id);
            self.gone.push(id);
        }
    }
}

/// Detectors that look at all that somebody does: what exactly may change while it goes on.
fn is_about_who(detector: Detector) -> bool {
    matches!(
        detector,
        Detector::Scan
            | Detector::Stuffing
            | Detector::TokenSharing
            | Detector::Probing
            | Detector::Denials
    )
}

fn is_near(incident: &Incident, at: Timestamp) -> bool {
    at.duration_since(incident.last) <= TOGETHER
}

/// Whether what was found of `who` on `what` may come from the same cause: the same principal, or the
/// called service of an edge.
fn is_same_cause(incident: &Incident, who: &Subject, what: &Target) -> bool {
    let edge = !who.is_verified() && who.kind == testudo_watch::detect::SubjectKind::Edge;
    incident.who == *who
        || (edge && incident.what.service.is_some() && incident.what.service == what.service)
        || (edge && what.caller.is_some() && what.caller.as_ref() == Some(&incident.who.name))
}

fn incident(anomaly: &Anomaly, at: Timestamp, context: Vec<String>) -> Incident {
    let (suggestion, policy) = advice::advice(anomaly);
    let unique = uuid::Uuid::new_v4().simple().to_string();
    Incident {
        id: format!("inc-{}", unique.get(..10).unwrap_or(&unique)),
        detector: anomaly.detector,
        title: anomaly.title.clone(),
        severity: anomaly.severity,
        state: State::Open,
        first: at,
        last: at,
        count: 1,
        who: anomaly.who.clone(),
        what: anomaly.what.clone(),
        baseline: anomaly.comparison.clone(),
        samples: anomaly.samples.clone(),
        mitre: anomaly.detector.mitre(),
        owasp: anomaly.detector.owasp(),
        suggestion,
        policy,
        containment: None,
        context,
        related: Vec::new(),
        acknowledged_by: None,
        note: None,
        muted_until: None,
        closed: None,
    }
}

/// Takes one more anomaly in. `None`: nobody need know.
fn grow(incident: &mut Incident, anomaly: Anomaly, at: Timestamp) -> Option<News> {
    let mut news = News::Grew;
    if incident.state == State::Closed {
        let since = incident
            .closed
            .map_or(REOPEN, |closed| at.duration_since(closed));
        // Closed by hand while it was going on.
        let by_hand = incident
            .closed
            .is_some_and(|closed| closed.duration_since(incident.last) < QUIET);
        if by_hand && since < CLOSED_BY_HAND {
            return None;
        }
        incident.state = State::Open;
        incident.closed = None;
        incident.acknowledged_by = None;
        news = News::Opened;
    }
    incident.count += 1;
    incident.last = incident.last.max(at);
    incident.severity = incident.severity.max(anomaly.severity);
    if distance(&anomaly.comparison) > distance(&incident.baseline) {
        incident.title = anomaly.title;
        incident.baseline = anomaly.comparison;
    }
    if incident.what.service != anomaly.what.service {
        incident.what = Target::default();
    }
    for id in anomaly.samples {
        if incident.samples.len() < SAMPLES && !incident.samples.contains(&id) {
            incident.samples.push(id);
        }
    }
    Some(news)
}

fn distance(comparison: &testudo_watch::detect::Comparison) -> f64 {
    (comparison.seen - comparison.usual.unwrap_or(0.0)).abs()
}

fn close(incident: &mut Incident, now: Timestamp) {
    incident.state = State::Closed;
    incident.closed = Some(now);
}

fn add_context(incident: &mut Incident, line: String) {
    if incident.context.len() < CONTEXT {
        incident.context.push(line);
    }
}

fn timestamp(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
