//! What `top` knows: the decisions of the last minute, bounded, and how proxies and incidents stand.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;
use testudo_model::{Event, Hop, Verdict};

/// Rates and lists are about so many seconds.
pub(super) const WINDOW: i64 = 60;
/// Decisions that are kept at most.
const KEPT: usize = 50_000;
/// The longest filter.
const LONGEST_FILTER: usize = 64;

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    decisions: VecDeque<Decision>,
    /// What is shown while paused.
    frozen: Option<Box<State>>,
    /// Only what contains this.
    pub(super) filter: String,
    /// The filter is being written.
    pub(super) typing: bool,
    /// Whether control answers.
    pub(super) connected: bool,
    /// Decisions that came too fast to be seen here.
    pub(super) missed: u64,
    /// Decisions that proxies could not send to control.
    pub(super) dropped: u64,
    pub(super) trust_domain: String,
    pub(super) revision: u64,
    pub(super) proxies: Vec<Proxy>,
    /// `None`: this control has none.
    pub(super) incidents: Option<Vec<Incident>>,
    /// What proxies counted on each edge, all of it; `None`: this control does not know.
    pub(super) edges: Option<Vec<Edge>>,
}

/// One edge of the mesh in the last minute, busiest first.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub(super) rate: f64,
    pub(super) from_clients: bool,
    /// `orders → payments`.
    pub(super) counts: Counts,
}

/// One decision, as much of it as is shown.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) time: jiff::Timestamp,
    pub(super) edge: bool,
    pub(super) denied: bool,
    pub(super) reason: Option<&'static str>,
    pub(super) status: Option<u16>,
    pub(super) duration_us: u64,
    pub(super) service: String,
    pub(super) operation: String,
    pub(super) who: String,
    pub(super) path: String,
    pub(super) proxy: String,
    pub(super) request_id: String,
}

#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) name: String,
    pub(super) revision: u64,
    pub(super) ready: bool,
    pub(super) error: String,
}

#[derive(Clone, Debug)]
pub(super) struct Incident {
    pub(super) severity: String,
    pub(super) title: String,
}

/// Counts of one service or one operation.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) name: String,
    pub(super) requests: usize,
    pub(super) denied: usize,
    pub(super) reported: usize,
    pub(super) errors: usize,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

impl State {
    pub(super) fn new(filter: String) -> State {
        State {
            filter,
            ..State::default()
        }
    }

    /// What is to be shown: the moment of the pause, or now.
    pub(super) fn shown(&self) -> &State {
        self.frozen.as_deref().unwrap_or(self)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// Stops, or goes on with what came meanwhile.
    pub(super) fn pause(&mut self) {
        self.frozen = match self.frozen.take() {
            Some(_) => None,
            None => Some(Box::new(self.clone())),
        };
    }

    pub(super) fn type_in(&mut self, character: char) {
        if self.filter.len() < LONGEST_FILTER && !character.is_control() {
            self.filter.push(character);
        }
    }

    pub(super) fn add(&mut self, event: &Event) {
        let decision = Decision::of(event);
        let begins = decision.time.as_second() - WINDOW;
        self.decisions.push_back(decision);
        while self.decisions.len() > KEPT
            || self
                .decisions
                .front()
                .is_some_and(|first| first.time.as_second() < begins)
        {
            self.decisions.pop_front();
        }
    }

    /// Just after the newest decision that is known.
    pub(super) fn newest(&self) -> Option<jiff::Timestamp> {
        let newest = self.decisions.iter().map(|decision| decision.time).max()?;
        newest
            .checked_add(jiff::SignedDuration::from_micros(1))
            .ok()
    }

    /// Decisions of the last minute before `now` that the filter lets through, oldest first.
    pub(super) fn recent<'a>(
        &'a self,
        filter: &'a str,
        now: jiff::Timestamp,
    ) -> impl Iterator<Item = &'a Decision> + Clone {
        let begins = now.as_second() - WINDOW;
        self.decisions
            .iter()
            .filter(move |decision| decision.time.as_second() >= begins && decision.has(filter))
    }

    pub(super) fn set_status(&mut self, status: &Value) {
        self.connected = true;
        self.trust_domain = text(status, "trust_domain");
        self.revision = status
            .get("revision")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let dropped = status.pointer("/decisions/dropped").and_then(Value::as_u64);
        self.dropped = dropped.unwrap_or_default();
    }

    pub(super) fn set_proxies(&mut self, proxies: &Value) {
        let list = proxies.as_array().map(Vec::as_slice).unwrap_or_default();
        self.proxies = list
            .iter()
            .map(|proxy| Proxy {
                name: text(proxy, "name"),
                revision: proxy
                    .get("revision")
                    .and_then(Value::as_u64)
                    .unwrap_or_default(),
                ready: proxy.get("ready") == Some(&Value::Bool(true)),
                error: text(proxy, "error"),
            })
            .collect();
    }

    pub(super) fn set_graph(&mut self, graph: Option<&Value>) {
        let edges = graph.and_then(|graph| graph.get("edges")?.as_array());
        self.edges = edges.map(|list| {
            let mut edges: Vec<Edge> = list.iter().map(Edge::of).collect();
            edges.sort_by(|a, b| {
                b.rate
                    .total_cmp(&a.rate)
                    .then_with(|| a.counts.name.cmp(&b.counts.name))
            });
            edges
        });
    }

    pub(super) fn set_incidents(&mut self, incidents: Option<&Value>) {
        self.incidents = incidents.and_then(Value::as_array).map(|list| {
            let of = |incident: &Value| Incident {
                severity: text(incident, "severity"),
                title: text(incident, "title"),
            };
            list.iter().map(of).collect()
        });
    }
}

impl Edge {
    fn of(edge: &Value) -> Edge {
        let number = |name: &str| edge.get(name).and_then(Value::as_u64).unwrap_or_default();
        let count = |name: &str| usize::try_from(number(name)).unwrap_or(usize::MAX);
        Edge {
            rate: edge.get("rate").and_then(Value::as_f64).unwrap_or_default(),
            from_clients: text(edge, "hop") == "edge",
            counts: Counts {
                name: format!("{} → {}", text(edge, "caller"), text(edge, "service")),
                requests: count("requests"),
                denied: count("denied"),
                reported: count("reported"),
                errors: count("errors"),
                p50_us: number("p50_us"),
                p99_us: number("p99_us"),
            },
        }
    }
}

impl Decision {
    fn of(event: &Event) -> Decision {
        let who = match (&event.caller, &event.user) {
            (Some(caller), Some(user)) => format!("{caller} for {user}"),
            (Some(who), None) | (None, Some(who)) => who.clone(),
            (None, None) => event.source_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        };
        Decision {
            time: event.time,
            edge: event.hop == Hop::Edge,
            denied: event.verdict == Verdict::Deny,
            reason: event.reason.map(testudo_model::Reason::code),
            status: event.status,
            duration_us: event.duration_us,
            service: event.service.clone().unwrap_or_default(),
            operation: event.operation.clone().unwrap_or_default(),
            who,
            path: format!("{} {}", event.method, event.path),
            proxy: event.proxy.clone(),
            request_id: event.request_id.clone(),
        }
    }

    fn has(&self, filter: &str) -> bool {
        filter.is_empty()
            || [
                &self.service,
                &self.operation,
                &self.who,
                &self.path,
                &self.proxy,
                &self.request_id,
            ]
            .iter()
            .any(|text| text.contains(filter))
            || self.reason.is_some_and(|reason| reason.contains(filter))
    }
}

/// Counts by a name, the busiest first.
pub(super) fn counted<'a>(
    decisions: impl Iterator<Item = &'a Decision>,
    name: impl Fn(&'a Decision) -> &'a str,
) -> Vec<Counts> {
    let mut groups: BTreeMap<&str, (Counts, Vec<u64>)> = BTreeMap::new();
    for decision in decisions {
        let (counts, durations) = groups.entry(name(decision)).or_default();
        counts.requests += 1;
        counts.denied += usize::from(decision.denied);
        counts.reported += usize::from(!decision.denied && decision.reason.is_some());
        let failed = decision.status.is_none_or(|status| status >= 500);
        counts.errors += usize::from(failed && !decision.denied);
        durations.push(decision.duration_us);
    }
    let mut list: Vec<Counts> = groups
        .into_iter()
        .map(|(name, (counts, mut durations))| {
            durations.sort_unstable();
            Counts {
                name: name.to_owned(),
                p50_us: percentile(&durations, 50),
                p99_us: percentile(&durations, 99),
                ..counts
            }
        })
        .collect();
    list.sort_by(|a, b| {
        b.requests
            .cmp(&a.requests)
            .then_with(|| a.name.cmp(&b.name))
    });
    list
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(last * percent / 100)
        .copied()
        .unwrap_or_default()
}

fn text(value: &Value, name: &str) -> String {
    let text = value.get(name).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}
