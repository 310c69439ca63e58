//! The decisions that proxies sent: the newest are kept in memory, denials apart from permits so that
//! a flood of one does not push out the other; followers get them as they come.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use testudo_model::{Event, Hop, Reason, Verdict};
use tokio::sync::broadcast;

/// Events kept of each verdict.
const KEPT: usize = 4096;

/// Events that may wait for one follower; one that falls further behind misses some and is told.
const FOLLOW_QUEUE: usize = 1024;

/// What a reader of decisions asks for; everything given must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Called service.
    pub service: Option<String>,
    /// `SERVICE:OPERATION`.
    pub operation: Option<String>,
    /// `permit` or `deny`.
    pub verdict: Option<Verdict>,
    /// A reason code.
    pub reason: Option<Reason>,
    /// `ISSUER:ID` or `anonymous`; a bare id matches any issuer.
    pub user: Option<String>,
    /// Calling service, or `gateway`.
    pub caller: Option<String>,
    /// Proxy name.
    pub proxy: Option<String>,
    /// HTTP status, or a class of them.
    pub status: Option<StatusRange>,
    /// `edge` or `mesh`.
    pub hop: Option<Hop>,
    /// Requests that arrived from then on.
    pub since: Option<jiff::Timestamp>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// Trace id.
    pub trace_id: Option<String>,
    /// As many of the newest (1 to 1000; 100 if left out). Followers get this many of the past first (0).
    pub limit: Option<usize>,
}

/// `404`, or `4xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StatusRange {
    low: u16,
    high: u16,
}

/// Not a status, and no class of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a status is 100 to 599, or a class such as 4xx")]
pub struct NoStatus;

impl StatusRange {
    const fn contains(self, status: u16) -> bool {
        self.low <= status && status <= self.high
    }
}

impl TryFrom<String> for StatusRange {
    type Error = NoStatus;

    fn try_from(text: String) -> Result<Self, NoStatus> {
        text.parse()
    }
}

impl std::str::FromStr for StatusRange {
    type Err = NoStatus;

    fn from_str(text: &str) -> Result<Self, NoStatus> {
        let parsed = match text.strip_suffix("xx") {
            Some(class) => class.parse().ok().map(|class: u16| {
                let low = class.saturating_mul(100);
                (low, low.saturating_add(99))
            }),
            None => text.parse().ok().map(|status| (status, status)),
        };
        match parsed {
            Some((low, high)) if (100..600).contains(&low) => Ok(StatusRange { low, high }),
            _ => Err(NoStatus),
        }
    }
}

impl Filter {
    /// Whether an event is one of those asked for.
    pub fn matches(&self, event: &Event) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        same(&self.service, event.service.as_deref())
            && same(&self.operation, event.operation.as_deref())
            && self.verdict.is_none_or(|verdict| verdict == event.verdict)
            && self
                .reason
                .is_none_or(|reason| event.reason == Some(reason))
            && self
                .user
                .as_deref()
                .is_none_or(|wanted| is_user(wanted, event.user.as_deref()))
            && same(&self.caller, event.caller.as_deref())
            && same(&self.proxy, Some(&event.proxy))
            && self
                .status
                .is_none_or(|range| event.status.is_some_and(|status| range.contains(status)))
            && self.hop.is_none_or(|hop| event.hop == hop)
            && self.since.is_none_or(|since| event.time >= since)
            && same(&self.request_id, Some(&event.request_id))
            && same(&self.trace_id, Some(&event.trace_id))
    }
}

fn is_user(wanted: &str, found: Option<&str>) -> bool {
    found.is_some_and(|found| {
        found == wanted || found.split_once(':').is_some_and(|(_, id)| id == wanted)
    })
}

/// The newest decisions of the whole mesh.
pub struct Decisions {
    kept: Mutex<Kept>,
    followers: broadcast::Sender<Arc<Event>>,
}

#[derive(Default)]
struct Kept {
    permits: VecDeque<Arc<Event>>,
    denials: VecDeque<Arc<Event>>,
    received: u64,
    dropped: u64,
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions {
            kept: Mutex::default(),
            followers: broadcast::Sender::new(FOLLOW_QUEUE),
        }
    }
}

impl Decisions {
    /// Keeps an event and hands it to the followers.
    pub fn add(&self, event: Event) {
        let event = Arc::new(event);
        let mut kept = self.lock();
        kept.received += 1;
        // A would-be denial (report mode) is as worth keeping as a real one.
        let ring = if event.reason.is_some() {
            &mut kept.denials
        } else {
            &mut kept.permits
        };
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(&event));
        drop(kept);
        // No follower is no error.
        let _ = self.followers.send(event);
    }

    /// Proxies say how many events they could not send.
    pub fn count_dropped(&self, dropped: u64) {
        self.lock().dropped += dropped;
    }

    /// How many events came and how many proxies dropped.
    pub fn counts(&self) -> (u64, u64) {
        let kept = self.lock();
        (kept.received, kept.dropped)
    }

    /// The newest events that match, oldest first.
    pub fn newest(&self, filter: &Filter, limit: usize) -> Vec<Arc<Event>> {
        let kept = self.lock();
        let newest = |ring: &VecDeque<Arc<Event>>| -> Vec<Arc<Event>> {
            ring.iter()
                .rev()
                .filter(|event| filter.matches(event))
                .take(limit)
                .cloned()
                .collect()
        };
        let mut found = newest(&kept.permits);
        found.extend(newest(&kept.denials));
        drop(kept);
        found.sort_by_key(|event| event.time);
        found.split_off(found.len().saturating_sub(limit))
    }

    /// The newest denial or would-be denial; with `any` the newest at all.
    pub fn last(&self, any: bool) -> Option<Arc<Event>> {
        let kept = self.lock();
        let denied = kept.denials.back();
        let permitted = kept.permits.back().filter(|_| any);
        let both = denied.into_iter().chain(permitted);
        both.max_by_key(|event| event.time).cloned()
    }

    /// Events from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.followers.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use testudo_model::Mode;

    use super::*;

    pub(crate) fn event(service: &str, reason: Option<Reason>, second: i64) -> Event {
        Event {
            time: jiff::Timestamp::from_second(second).unwrap(),
            request_id: format!("r{second}"),
            trace_id: String::new(),
            trace_guessed: false,
            proxy: "gateway-1".into(),
            hop: Hop::Edge,
            revision: 1,
            caller: None,
            user: Some("shop:bob".into()),
            roles: vec![],
            source_ip: None,
            credential: None,
            agent: None,
            service: Some(service.into()),
            operation: None,
            method: "GET".into(),
            host: String::new(),
            path: "/".into(),
            status: Some(200),
            inside: None,
            verdict: if reason.is_some() {
                Verdict::Deny
            } else {
                Verdict::Permit
            },
            reason,
            mode: Mode::Enforce,
            policy: None,
            findings: vec![],
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 0,
            guard_us: 0,
            checks: vec![],
        }
    }

    #[test]
    fn a_flood_of_permits_leaves_the_denials() {
        let decisions = Decisions::default();
        decisions.add(event("orders", Some(Reason::AuthzUser), 1));
        for second in 0..10_000 {
            decisions.add(event("orders", None, second));
        }
        let filter = Filter {
            verdict: Some(Verdict::Deny),
            ..Filter::default()
        };
        assert_eq!(decisions.newest(&filter, 10).len(), 1);
    }

    #[test]
    fn filters_hold_together_and_the_newest_win() {
        let decisions = Decisions::default();
        for second in 0..5 {
            decisions.add(event("orders", None, second));
            decisions.add(event("payments", None, second));
        }
        let filter = Filter {
            service: Some("orders".into()),
            user: Some("bob".into()),
            ..Filter::default()
        };
        let found = decisions.newest(&filter, 2);
        assert_eq!(
            found
                .iter()
                .map(|event| event.request_id.as_str())
                .collect::<Vec<_>>(),
            ["r3", "r4"]
        );
        let nobody = Filter {
            user: Some("alice".into()),
            ..Filter::default()
        };
        assert!(decisions.newest(&nobody, 2).is_empty());
        let young = Filter {
            since: Some(jiff::Timestamp::from_second(4).unwrap()),
            hop: Some(Hop::Edge),
            status: "2xx".parse().ok(),
            ..Filter::default()
        };
        assert_eq!(decisions.newest(&young, 100).len(), 2);
        let inside = Filter {
            hop: Some(Hop::Mesh),
            ..Filter::default()
        };
        assert!(decisions.newest(&inside, 100).is_empty());
    }

    #[test]
    fn statuses_and_classes() {
        let range = |text: &str| text.parse::<StatusRange>().ok();
        assert!(range("404").unwrap().contains(404) && !range("404").unwrap().contains(405));
        assert!(range("5xx").unwrap().contains(599) && !range("5xx").unwrap().contains(499));
        for bad in ["", "xx", "0xx", "9xx", "99", "600", "4x"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
