//! The decisions that proxies sent: the newest are kept in memory, denials apart from permits so that
//! a flood of one does not push out the other; followers get them as they come.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use testudo_model::{Event, Reason, Verdict};
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
    /// HTTP status.
    pub status: Option<u16>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// Trace id.
    pub trace_id: Option<String>,
    /// As many of the newest (1 to 1000; 100 if left out). Followers get this many of the past first (0).
    pub limit: Option<usize>,
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
                .is_none_or(|status| event.status == Some(status))
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
    use testudo_model::{Hop, Mode};

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
    }
}
