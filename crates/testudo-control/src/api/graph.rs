//! `GET /api/v1/graph`: who calls whom, from the windows of the last minutes.
//!
//! Edges of hop `edge` go from `clients` to a service as the gateway saw them, those of hop `mesh` from
//! caller to service as the called sidecar saw them. One request of a client is on one edge of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use testudo_model::{Hop, Mode};
use testudo_watch::window::{EdgeKey, EdgeStats, Outcome, WINDOW_SECONDS};

use super::headroom::{Headroom, headroom};
use super::{ApiState, problem};
use crate::fleet::ProxyView;
use crate::windows::{GRACE, OperationSpan, STEP, Span, Tally};
use crate::{Control, unix_now};

/// Where requests come from outside.
const CLIENTS: &str = "clients";
const GATEWAY: &str = "gateway";
/// A caller or a service that has no name here.
const UNKNOWN: &str = "unknown";

#[derive(Default, Deserialize)]
pub(super) struct Asked {
    seconds: Option<u64>,
    history: Option<bool>,
    service: Option<String>,
}

pub(super) async fn graph(
    State(state): State<Arc<ApiState>>,
    Query(asked): Query<Asked>,
) -> Response {
    let control = &state.control;
    let now = unix_now();
    let seconds = asked.seconds.unwrap_or(300);
    let spans = control.windows.recent(seconds, now);
    // A large mesh is worth some hundred milliseconds, which proxies and other requests need not wait for.
    let made = tokio::task::spawn_blocking(move || Graph::of(&spans, seconds, now, &asked)).await;
    let Ok(mut graph) = made else {
        let detail = "the graph could not be put together; the log says why";
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail);
    };
    graph.windows = control.windows.tally().into();
    graph.mark_contained(control);
    graph.limits = headroom(control, timestamp(now.saturating_sub(seconds)));
    graph.nodes = nodes(control, &graph.edges);
    Json(graph).into_response()
}

#[derive(Serialize)]
struct Graph {
    seconds: u64,
    /// Of one entry of `history`, for the last ten minutes; minutes before that.
    window_seconds: u64,
    now: Timestamp,
    /// Requests of these seconds that are on no edge, since tables were full.
    dropped_keys: u64,
    windows: TallyView,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    limits: Vec<Headroom>,
}

/// Since control started.
#[derive(Default, Serialize)]
struct TallyView {
    received: u64,
    refused: u64,
    late: u64,
    lost_events: u64,
    dropped_keys: u64,
}

impl From<Tally> for TallyView {
    fn from(tally: Tally) -> Self {
        TallyView {
            received: tally.received,
            refused: tally.refused,
            late: tally.late,
            lost_events: tally.lost_events,
            dropped_keys: tally.dropped_keys,
        }
    }
}

#[derive(Serialize)]
struct Node {
    name: String,
    kind: &'static str,
    mode: Option<Mode>,
    proxies: usize,
    ready: usize,
}

#[derive(Serialize)]
struct Edge {
    caller: String,
    service: String,
    hop: Hop,
    #[serde(flatten)]
    figures: Figures,
    rate: f64,
    guard_p50_us: Option<u64>,
    bytes_in: u64,
    bytes_out: u64,
    users: u64,
    last: Option<Timestamp>,
    contained: bool,
    /// Why requests were refused, or would have been in mode enforce.
    reasons: BTreeMap<&'static str, u64>,
    /// Of these, the ones that only would have been.
    reported_reasons: BTreeMap<&'static str, u64>,
    operations: Vec<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<Step>>,
}

#[derive(Serialize)]
struct Figures {
    requests: u64,
    denied: u64,
    reported: u64,
    errors: u64,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
}

impl Figures {
    fn of(stats: &EdgeStats) -> Figures {
        Figures {
            requests: stats.outcomes.requests(),
            denied: stats.outcomes.denied(),
            reported: stats.outcomes.reported(),
            errors: stats.errors(),
            p50_us: stats.duration_us.quantile(0.5),
            p99_us: stats.duration_us.quantile(0.99),
        }
    }

    fn of_operation(stats: &OperationSpan) -> Figures {
        Figures {
            requests: stats.requests,
            denied: stats.denied,
            reported: stats.reported,
            errors: stats.errors,
            p50_us: stats.duration_us.quantile(0.5),
            p99_us: stats.duration_us.quantile(0.99),
        }
    }
}

#[derive(Serialize)]
struct Operation {
    operation: String,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct Step {
    at: Timestamp,
    /// How long the step is.
    seconds: u64,
    requests: u64,
    denied: u64,
    reported: u64,
    errors: u64,
    p99_us: Option<u64>,
}

/// Caller, service and hop, in words.
type Place<'s> = (&'s str, &'s str, &'static str);

/// An edge as it is put together.
#[derive(Default)]
struct Gathered<'s> {
    all: EdgeStats,
    operations: BTreeMap<&'s str, OperationSpan>,
    history: Vec<Step>,
}

impl Graph {
    fn of(spans: &[Arc<Span>], seconds: u64, now: u64, asked: &Asked) -> Graph {
        let with_history = asked.history.unwrap_or(true);
        let is_wanted = |key: &EdgeKey| {
            asked.service.as_deref().is_none_or(|service| {
                let (caller, called, _) = place(key);
                caller == service || called == service
            })
        };
        let mut edges: BTreeMap<Place, Gathered> = BTreeMap::new();
        for span in spans {
            for (key, stats) in span.edges.iter().filter(|(key, _)| is_wanted(key)) {
                let edge = edges.entry(place(key)).or_default();
                edge.all.merge(stats);
                if with_history {
                    edge.history.push(step(span, stats));
                }
            }
            for (key, stats) in span.operations.iter().filter(|(key, _)| is_wanted(key)) {
                let edge = edges.entry(place(key)).or_default();
                let operation = key.operation.as_deref().unwrap_or(UNKNOWN);
                edge.operations.entry(operation).or_default().merge(stats);
            }
        }
        let covered = covered_seconds(spans, seconds, now);
        Graph {
            seconds,
            window_seconds: STEP,
            now: timestamp(now),
            dropped_keys: spans
                .iter()
                .map(|span| span.dropped_keys)
                .fold(0, u64::saturating_add),
            windows: TallyView::default(),
            nodes: Vec::new(),
            edges: edges
                .into_iter()
                .map(|(place, gathered)| Edge::of(place, gathered, covered, with_history))
                .collect(),
            limits: Vec::new(),
        }
    }

    fn mark_contained(&mut self, control: &Control) {
        let active = control.containments.active();
        for edge in &mut self.edges {
            edge.contained = active
                .iter()
                .any(|entry| entry.is_on_edge(&edge.caller, &edge.service));
        }
    }
}

impl Edge {
    fn of(
        (caller, service, hop): Place<'_>,
        gathered: Gathered<'_>,
        covered: u64,
        with_history: bool,
    ) -> Edge {
        let stats = &gathered.all;
        let figures = Figures::of(stats);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (figures.requests as f64 / covered as f64 * 100.0).round() / 100.0;
        let mut reasons = BTreeMap::new();
        let mut reported_reasons = BTreeMap::new();
        for (outcome, count) in stats.outcomes.iter() {
            if let Outcome::Denied(reason) | Outcome::Reported(reason) = outcome {
                let so_far: &mut u64 = reasons.entry(reason.code()).or_default();
                *so_far = so_far.saturating_add(count);
            }
            if let Outcome::Reported(reason) = outcome {
                let so_far: &mut u64 = reported_reasons.entry(reason.code()).or_default();
                *so_far = so_far.saturating_add(count);
            }
        }
        Edge {
            caller: caller.to_owned(),
            service: service.to_owned(),
            hop: if hop == Hop::Edge.as_str() {
                Hop::Edge
            } else {
                Hop::Mesh
            },
            figures,
            rate,
            guard_p50_us: stats.guard_us.quantile(0.5),
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            users: stats.users.count(),
            last: microseconds(stats.last_us),
            contained: false,
            reasons,
            reported_reasons,
            operations: gathered
                .operations
                .iter()
                .map(|(operation, stats)| Operation {
                    operation: (*operation).to_owned(),
                    figures: Figures::of_operation(stats),
                })
                .collect(),
            history: with_history.then_some(gathered.history),
        }
    }
}

fn place(key: &EdgeKey) -> Place<'_> {
    let caller = match (key.hop, key.caller.as_deref()) {
        (_, Some(caller)) => caller,
        (Hop::Edge, None) => CLIENTS,
        (Hop::Mesh, None) => UNKNOWN,
    };
    let service = match (key.hop, key.service.as_deref()) {
        (_, Some(service)) => service,
        // No route led further than to the gateway.
        (Hop::Edge, None) => GATEWAY,
        (Hop::Mesh, None) => UNKNOWN,
    };
    (caller, service, key.hop.as_str())
}

fn step(span: &Span, stats: &EdgeStats) -> Step {
    Step {
        at: timestamp(span.start),
        seconds: span.seconds,
        requests: stats.outcomes.requests(),
        denied: stats.outcomes.denied(),
        reported: stats.outcomes.reported(),
        errors: stats.errors(),
        p99_us: stats.duration_us.quantile(0.99),
    }
}

/// The seconds that the spans tell of: less than was asked for after a start.
fn covered_seconds(spans: &[Arc<Span>], seconds: u64, now: u64) -> u64 {
    let end = now.saturating_sub(WINDOW_SECONDS + GRACE);
    let since = now.saturating_sub(seconds);
    let first = spans.first().map_or(end, |span| span.start);
    // The first span may have begun before what was asked for; its requests are counted whole.
    let begin = if first < since {
        first
    } else {
        first.max(since)
    };
    end.saturating_sub(begin).max(WINDOW_SECONDS)
}

/// What the bundle names, and what edges lead to or from besides.
fn nodes(control: &Control, edges: &[Edge]) -> Vec<Node> {
    let proxies = control.fleet.proxies();
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    let mut add = |name: &str, kind, mode, is_its: &dyn Fn(&ProxyView) -> bool| {
        let own = proxies.iter().filter(|proxy| is_its(proxy));
        let node = Node {
            name: name.to_owned(),
            kind,
            mode,
            proxies: own.clone().count(),
            ready: own.filter(|proxy| proxy.ready).count(),
        };
        nodes.entry(name.to_owned()).or_insert(node);
    };
    if let Some(current) = control.revisions.current() {
        if current.config.gateway.is_some() {
            add(CLIENTS, "client", None, &|_| false);
            add(GATEWAY, "gateway", None, &|proxy| proxy.role == GATEWAY);
        }
        for name in current.config.services.keys() {
            add(name, "service", control.mode_of(name), &|proxy| {
                proxy.service.as_deref() == Some(&**name)
            });
        }
    }
    for name in edges.iter().flat_map(|edge| [&edge.caller, &edge.service]) {
        let kind = match name.as_str() {
            CLIENTS => "client",
            GATEWAY => "gateway",
            UNKNOWN => "external",
            _ => "service",
        };
        add(name, kind, None, &|_| false);
    }
    nodes.into_values().collect()
}

fn timestamp(unix_seconds: u64) -> Timestamp {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or_default()
}

fn microseconds(us: u64) -> Option<Timestamp> {
    if us == 0 {
        return None;
    }
    Timestamp::from_microsecond(i64::try_from(us).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use testudo_model::{Event, Reason, Verdict};
    use testudo_watch::window::Counts;

    use super::*;
    use crate::windows::History;
    use serde_json::json;

    const NOW: u64 = 1_800_000_000;

    fn event(caller: Option<&str>, service: Option<&str>) -> Event {
        Event {
            hop: if caller.is_some() {
                Hop::Mesh
            } else {
                Hop::Edge
            },
            caller: caller.map(str::to_owned),
            service: service.map(str::to_owned),
            operation: service.map(|service| format!("{service}:read")),
            duration_us: 2_000,
            guard_us: 10,
            ..crate::decisions::tests::event("", None, 1_800_000_000)
        }
    }

    #[test]
    fn edges_are_who_called_whom_with_what_became_of_it() {
        let mut history = History::default();
        let mut counts = Counts::default();
        for _ in 0..9 {
            counts.add(&event(None, Some("orders")));
            counts.add(&event(Some("gateway"), Some("orders")));
        }
        counts.add(&Event {
            verdict: Verdict::Deny,
            reason: Some(Reason::AuthzUser),
            operation: Some(String::from("orders:write")),
            ..event(None, Some("orders"))
        });
        counts.add(&Event {
            reason: Some(Reason::SchemaResponse),
            ..event(Some("orders"), Some("payments"))
        });
        counts.add(&Event {
            verdict: Verdict::Deny,
            reason: Some(Reason::RouteNone),
            ..event(None, None)
        });
        counts.add(&Event {
            status: Some(500),
            ..event(Some("orders"), Some("payments"))
        });
        history.add(NOW, &counts);
        history.add(NOW + 10, &counts);
        let spans = history.recent(300, NOW + 23);
        let graph =
            serde_json::to_value(Graph::of(&spans, 300, NOW + 23, &Asked::default())).unwrap();
        let edges = graph["edges"].as_array().unwrap();
        let names: Vec<_> = edges
            .iter()
            .map(|edge| {
                (
                    edge["hop"].as_str().unwrap(),
                    edge["caller"].as_str().unwrap(),
                    edge["service"].as_str().unwrap(),
                    edge["requests"].as_u64().unwrap(),
                    edge["denied"].as_u64().unwrap(),
                    edge["errors"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            names,
            [
                ("edge", "clients", "gateway", 2, 2, 0),
                ("edge", "clients", "orders", 20, 2, 0),
                ("mesh", "gateway", "orders", 18, 0, 0),
                ("mesh", "orders", "payments", 4, 0, 2),
            ]
        );
        let orders = &edges[1];
        assert_eq!(orders["reasons"]["authz.user"], 2);
        assert_eq!(orders["reported_reasons"], json!({}));
        let payments = edges
            .iter()
            .find(|edge| edge["service"] == "payments")
            .unwrap();
        assert_eq!(payments["reported_reasons"], json!({"schema.response": 2}));
        assert_eq!(orders["operations"].as_array().unwrap().len(), 2);
        assert_eq!(orders["operations"][0]["operation"], "orders:read");
        assert_eq!(orders["operations"][0]["requests"], 18);
        assert_eq!(orders["users"], 1);
        assert_eq!(orders["rate"], 1.0, "20 requests in 20 seconds");
        assert_eq!(orders["last"], "2027-01-15T08:00:00Z");
        let history = orders["history"].as_array().unwrap();
        assert_eq!(history.len(), 2);
        assert_eq!(history[0]["at"], "2027-01-15T08:00:00Z");
        assert_eq!(history[0]["requests"], 10);
        assert_eq!(
            (&history[0]["seconds"], &history[0]["reported"]),
            (&json!(10), &json!(0))
        );
        assert_eq!(payments["history"][0]["reported"], 1);
        let p50 = orders["p50_us"].as_u64().unwrap();
        assert!((1_960..=2_000).contains(&p50), "{p50}");
        let asked = Asked {
            history: Some(false),
            service: Some(String::from("payments")),
            ..Asked::default()
        };
        let bare = serde_json::to_value(Graph::of(&spans, 300, NOW + 23, &asked)).unwrap();
        assert_eq!(bare["edges"].as_array().unwrap().len(), 1);
        assert!(bare["edges"][0].get("history").is_none());
    }
}
