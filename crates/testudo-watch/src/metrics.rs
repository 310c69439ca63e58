//! Prometheus metrics (DESIGN §12), with labels that no client can multiply.

use std::collections::HashSet;
use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use testudo_model::{Event, Hop, Reason, Verdict};

/// Operations that get a series of their own; further ones count as [`OTHER`].
const MAX_OPERATIONS: usize = 300;
/// What is not known here.
const OTHER: &str = "other";
/// What a request did not get as far as.
const NONE: &str = "none";

/// OpenTelemetry's advice for `http.server.request.duration`.
const REQUEST_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 10.0,
];
const GUARD_SECONDS: [f64; 11] = [
    2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 5e-2,
];

/// All metrics of one process.
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    durations: Family<RequestLabels, Histogram, fn() -> Histogram>,
    guard: Family<StageLabels, Histogram, fn() -> Histogram>,
    active: Gauge,
    connections: Family<ConnectionLabels, Gauge>,
    events_dropped: Counter,
    revision: Gauge<i64, AtomicI64>,
    svid_expiry: Gauge<i64, AtomicI64>,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    services: HashSet<String>,
    operations: HashSet<String>,
}

/// Which side of a proxy a connection is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "these are the label's values")]
pub enum ConnectionKind {
    /// From clients, at a gateway.
    edge,
    /// From other workloads.
    inbound,
    /// From the sidecar's own application.
    outbound,
    /// To services and applications.
    upstream,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    service: String,
    hop: &'static str,
    verdict: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    service: String,
    operation: String,
    http_request_method: &'static str,
    http_response_status_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    side: ConnectionKind,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// A registry with every metric in it.
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::default(),
            decisions: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            guard: Family::new_with_constructor(|| Histogram::new(GUARD_SECONDS)),
            active: Gauge::default(),
            connections: Family::default(),
            events_dropped: Counter::default(),
            revision: Gauge::default(),
            svid_expiry: Gauge::default(),
            names: Mutex::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "testudo_decisions",
            "Decisions by service, hop, verdict and reason",
            self.decisions.clone(),
        );
        registry.register_with_unit(
            "http_server_request_duration",
            "From the first byte judged to the last byte sent",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "http_server_active_requests",
            "Requests that are being served",
            self.active.clone(),
        );
        registry.register_with_unit(
            "testudo_guard_duration",
            "Time spent in each check, and altogether as stage total",
            Unit::Seconds,
            self.guard.clone(),
        );
        registry.register(
            "testudo_events_dropped",
            "Events lost because the queue or the way to the control plane was full",
            self.events_dropped.clone(),
        );
        registry.register(
            "testudo_revision",
            "The revision that decides; 0: none",
            self.revision.clone(),
        );
        registry.register_with_unit(
            "testudo_svid_expiry",
            "When the workload certificate expires, since the Unix epoch",
            Unit::Seconds,
            self.svid_expiry.clone(),
        );
        registry.register(
            "testudo_connections",
            "Open connections by side",
            self.connections.clone(),
        );
    }

    /// The services that get series of their own: those of the snapshot.
    pub fn set_services<'a>(&self, services: impl IntoIterator<Item = &'a str>) {
        let mut names = self.names();
        names.services = services.into_iter().map(str::to_owned).collect();
    }

    /// Counts one request.
    pub fn record(&self, event: &Event) {
        let (service, operation) = self.bounded_names(event);
        let (verdict, hop) = (verdict_label(event.verdict), hop_label(event.hop));
        let reason = event.reason.map_or(NONE, Reason::code);
        self.decisions
            .get_or_create(&DecisionLabels {
                service: service.clone(),
                hop,
                verdict,
                reason,
            })
            .inc();
        if let Some(status) = event.status {
            self.durations
                .get_or_create(&RequestLabels {
                    service,
                    operation,
                    http_request_method: method_label(&event.method),
                    http_response_status_code: status_label(status),
                })
                .observe(seconds(event.duration_us));
        }
        self.guard_stage("total", event.guard_us);
        for check in &event.checks {
            if let Some(stage) = stage_label(&check.name) {
                self.guard_stage(stage, u64::from(check.us));
            }
        }
    }

    fn guard_stage(&self, stage: &'static str, us: u64) {
        self.guard
            .get_or_create(&StageLabels { stage })
            .observe(seconds(us));
    }

    /// A request began to be served; the end is [`Metrics::request_ended`].
    pub fn request_began(&self) {
        self.active.inc();
    }

    /// See [`Metrics::request_began`].
    pub fn request_ended(&self) {
        self.active.dec();
    }

    /// A connection was opened; the end is [`Metrics::connection_closed`].
    pub fn connection_opened(&self, side: ConnectionKind) {
        self.connections
            .get_or_create(&ConnectionLabels { side })
            .inc();
    }

    /// See [`Metrics::connection_opened`].
    pub fn connection_closed(&self, side: ConnectionKind) {
        self.connections
            .get_or_create(&ConnectionLabels { side })
            .dec();
    }

    /// Events were lost.
    pub fn events_dropped(&self, count: u64) {
        self.events_dropped.inc_by(count);
    }

    /// This revision decides from now on.
    pub fn set_revision(&self, revision: u64) {
        self.revision
            .set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    /// When the workload certificate expires, in seconds since the epoch.
    pub fn set_svid_expiry(&self, unix_seconds: u64) {
        self.svid_expiry
            .set(i64::try_from(unix_seconds).unwrap_or(i64::MAX));
    }

    /// OpenMetrics text, for `application/openmetrics-text; version=1.0.0; charset=utf-8`.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail; were it to, half a page is better than none.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bounded_names(&self, event: &Event) -> (String, String) {
        let mut names = self.names();
        let service = match event.service.as_deref() {
            None => NONE,
            Some(name) if names.services.contains(name) => name,
            Some(_) => OTHER,
        };
        let operation = match event.operation.as_deref() {
            None => NONE,
            Some(name) if names.operations.contains(name) => name,
            Some(name) if service != OTHER && names.operations.len() < MAX_OPERATIONS => {
                names.operations.insert(name.to_owned());
                name
            }
            Some(_) => OTHER,
        };
        (service.to_owned(), operation.to_owned())
    }
}

fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

const fn verdict_label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Permit => "permit",
        Verdict::Deny => "deny",
    }
}

const fn hop_label(hop: Hop) -> &'static str {
    match hop {
        Hop::Edge => "edge",
        Hop::Mesh => "mesh",
    }
}

/// The methods that OpenTelemetry knows; a client can make up others.
fn method_label(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
    ];
    KNOWN
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("_OTHER")
}

/// A service can answer with any number; those that mean nothing count as their class.
const fn status_label(status: u16) -> u16 {
    match status {
        100..=599 if status % 100 < 52 => status,
        _ => status / 100 * 100,
    }
}

fn stage_label(check: &str) -> Option<&'static str> {
    const KNOWN: [&str; 14] = [
        "normalize",
        "mtls",
        "route",
        "cors",
        "operation",
        "limit",
        "authn",
        "user",
        "caller",
        "schema",
        "websocket",
        "body",
        "response",
        "egress",
    ];
    KNOWN.into_iter().find(|known| *known == check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::tests::event;

    #[test]
    fn names_are_those_of_the_design() {
        let metrics = Metrics::new();
        metrics.set_services(["orders"]);
        let mut event = event("r1", Verdict::Deny);
        event.reason = Some(Reason::AuthzUser);
        metrics.record(&event);
        metrics.connection_opened(ConnectionKind::inbound);
        metrics.set_revision(42);
        metrics.set_svid_expiry(1_900_000_000);
        metrics.events_dropped(3);
        metrics.request_began();
        let text = metrics.encode();
        for line in [
            r#"testudo_decisions_total{service="orders",hop="mesh",verdict="deny",reason="authz.user"} 1"#,
            r#"http_server_request_duration_seconds_count{service="orders",operation="orders:getOrder",http_request_method="GET",http_response_status_code="403"} 1"#,
            "http_server_active_requests 1",
            r#"testudo_guard_duration_seconds_count{stage="total"} 1"#,
            r#"testudo_guard_duration_seconds_count{stage="user"} 1"#,
            "testudo_events_dropped_total 3",
            "testudo_revision 42",
            "testudo_svid_expiry_seconds 1900000000",
            r#"testudo_connections{side="inbound"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn clients_cannot_multiply_series() {
        let metrics = Metrics::new();
        metrics.set_services(["orders"]);
        for number in 0..2_000 {
            let mut event = event("r", Verdict::Permit);
            event.method = format!("M{number}");
            event.operation = Some(format!("orders:op{number}"));
            event.status = Some(200 + number % 800);
            metrics.record(&event);
            event.service = Some(format!("service{number}"));
            metrics.record(&event);
        }
        let series = metrics
            .encode()
            .lines()
            .filter(|line| line.starts_with("http_server_request_duration_seconds_count"))
            .count();
        assert!(series < 1_500, "{series}");
        assert!(metrics.encode().contains(r#"service="other""#));
        assert!(metrics.encode().contains(r#"operation="other""#));
    }
}
