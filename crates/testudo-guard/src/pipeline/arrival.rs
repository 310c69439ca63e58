//! What a request is: who brings it, which service and which operation it means.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use testudo_model::{Hop, Reason};

use super::judge::Judge;
use super::target;
use crate::live::Live;
use crate::normalize::{self, Canonical};
use crate::now::Now;
use crate::peer::{Caller, Peer};
use crate::record::Denial;
use crate::route::{self, Route, RouteTarget};
use crate::schema::{
    BodyRule, Operation, OperationMatch, PathParams, Strictness, Undocumented, Values, Violation,
};
use crate::snapshot::{Edge, Role, Service, Snapshot};

/// Where a request turned out to go.
pub(super) enum Arrival {
    /// To this service.
    Called(Called),
    /// Nowhere: this is the answer.
    Answer {
        status: StatusCode,
        headers: HeaderMap,
    },
}

/// The service that a request means.
pub(super) struct Called {
    pub(super) service: Arc<Service>,
    pub(super) timeout: Duration,
    /// The route that led here; none inside the mesh.
    pub(super) route: Option<Arc<Route>>,
}

/// The operation that a request means.
pub(super) struct Matched<'a> {
    pub(super) operation: Arc<Operation>,
    service: &'a Service,
    /// `None`: the specification does not have it.
    params: Option<PathParams<'a>>,
}

/// The workload that mTLS proved: its certificate must still hold at this moment, whatever it was when
/// the connection began. `None` at the edge, where nothing is proven.
pub(super) fn identify(
    peer: &Peer,
    snapshot: &Snapshot,
    live: &Live,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<Option<Caller>, Denial> {
    let refuse = |detail: &'static str| Denial::new(Reason::AuthzCaller, detail);
    let (spiffe_id, serial, not_after) = match (peer, snapshot.hop()) {
        (_, Hop::Edge) => return Ok(None),
        (Peer::Client { .. }, Hop::Mesh) => {
            return Err(judge.refuse("mtls", refuse("no workload identity was proven")));
        }
        (
            Peer::Workload {
                spiffe_id,
                serial,
                not_after,
                ..
            },
            Hop::Mesh,
        ) => (spiffe_id, serial, *not_after),
    };
    if now.unix_seconds() >= not_after {
        return Err(judge.refuse("mtls", refuse("the caller's certificate has expired")));
    }
    let revocations = live.revocations.load();
    if revocations.workload(spiffe_id) || revocations.workload(serial) {
        return Err(judge.refuse("mtls", refuse("the caller's identity is revoked")));
    }
    judge.pass("mtls", spiffe_id.to_string(), None);
    let caller = snapshot.caller_of(spiffe_id);
    judge.record().caller = match &caller {
        Caller::Gateway => Some(Arc::from("gateway")),
        Caller::Service(name) => Some(name.clone()),
        Caller::Unknown => Some(spiffe_id.clone()),
    };
    Ok(Some(caller))
}

/// The service: by route at the edge; inside, a sidecar serves its own whatever Host says.
pub(super) fn find_service(
    snapshot: &Snapshot,
    canonical: &Canonical,
    head: &mut Parts,
    judge: &mut Judge<'_>,
    response_headers: &mut HeaderMap,
) -> Result<Arrival, Denial> {
    let none = |detail: &'static str| Denial::new(Reason::RouteNone, detail);
    match (&snapshot.role, &snapshot.edge) {
        (Role::Gateway, Some(edge)) => {
            by_route(snapshot, edge, canonical, head, judge, response_headers)
        }
        (Role::Gateway, None) => Err(judge.refuse("route", none("there are no routes"))),
        (Role::Sidecar(_), _) => match snapshot.own_service() {
            Some(service) => Ok(Arrival::Called(Called {
                timeout: service.timeout,
                service: service.clone(),
                route: None,
            })),
            None => Err(judge.refuse("route", none("the revision has no such service"))),
        },
    }
}

fn by_route(
    snapshot: &Snapshot,
    edge: &Edge,
    canonical: &Canonical,
    head: &mut Parts,
    judge: &mut Judge<'_>,
    response_headers: &mut HeaderMap,
) -> Result<Arrival, Denial> {
    let none = |detail: &'static str| Denial::new(Reason::RouteNone, detail);
    let Some(route) = edge.routes.find(canonical.host.name(), head.uri.path()) else {
        return Err(judge.refuse("route", none("no route has this host and path")));
    };
    judge.pass("route", "", Some(&route.source));
    let (name, timeout) = match &route.target {
        RouteTarget::Service {
            service, timeout, ..
        } => (service, *timeout),
        RouteTarget::Redirect { status, location } => return redirect(*status, location),
    };
    let Some(service) = snapshot.services.get(name) else {
        return Err(judge.refuse("route", none("the route's service is not there")));
    };
    // The path as the service and its specification know it.
    if let Some(path) = route.stripped_path(head.uri.path()) {
        let rest = match head.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        normalize::set_target(head, rest)?;
    }
    if let Some(cors) = &route.cors {
        if let Some((origin, method)) = route::preflight(&head.method, &head.headers) {
            let methods = methods_at(service, method, &head.uri);
            judge.record().service = Some(service.name.clone());
            judge.pass("cors", "a preflight, answered here", Some(&route.source));
            return Ok(Arrival::Answer {
                status: StatusCode::NO_CONTENT,
                headers: cors.preflight_headers(origin, &methods),
            });
        }
        let headers = cors.response_headers(route::origin(&head.headers));
        target::add_headers(&headers, response_headers);
    }
    Ok(Arrival::Called(Called {
        timeout: timeout.unwrap_or(service.timeout),
        service: service.clone(),
        route: Some(route.clone()),
    }))
}

fn redirect(status: u16, location: &str) -> Result<Arrival, Denial> {
    let broken = || Denial::new(Reason::RouteNone, "the route's redirect cannot be sent");
    let status = StatusCode::from_u16(status).map_err(|_| broken())?;
    let location = HeaderValue::from_str(location).map_err(|_| broken())?;
    let mut headers = HeaderMap::new();
    headers.insert(header::LOCATION, location);
    Ok(Arrival::Answer { status, headers })
}

/// The methods that a preflight may be told about.
fn methods_at(service: &Service, wanted: Method, uri: &Uri) -> Vec<Method> {
    match service.api.matcher.find(&wanted, uri.path()) {
        OperationMatch::Found { .. } => vec![wanted],
        OperationMatch::Method(methods) => methods,
        OperationMatch::None => Vec::new(),
    }
}

/// Whether this is a health check: a declared path, read only (DESIGN §3, `probes`).
pub(super) fn is_probe(service: &Service, head: &Parts) -> bool {
    matches!(head.method, Method::GET | Method::HEAD)
        && service.probes.iter().any(|path| **path == *head.uri.path())
}

/// The operation, or the one that stands for all that the specification lacks. `None` where such is let
/// pass by the mode alone: then there is nothing that could be asked about it.
pub(super) fn find_operation<'a>(
    service: &'a Service,
    canonical: &Canonical,
    method: &Method,
    path: &'a str,
    judge: &mut Judge<'_>,
) -> Result<Option<Matched<'a>>, Denial> {
    let (denial, undocumented) = match service.api.matcher.find(method, path) {
        OperationMatch::Found { index, path_params } => {
            if let Some(operation) = service.api.operations.get(index) {
                return documented(service, operation, path_params, canonical, judge);
            }
            (
                Denial::new(Reason::RouteUndocumented, ""),
                service.api.undocumented,
            )
        }
        OperationMatch::Method(methods) => (not_this_method(&methods), service.api.undocumented),
        OperationMatch::None => {
            let detail = "the specification has no such path";
            (
                Denial::new(Reason::RouteUndocumented, detail),
                service.api.undocumented,
            )
        }
    };
    // No template can ask for it.
    refuse_path_parameters(canonical, judge)?;
    let stand_in = service.api.undocumented_operation.as_ref();
    match (undocumented, stand_in) {
        (Undocumented::Deny, _) | (_, None) => {
            judge.fail("operation", denial)?;
            return Ok(None);
        }
        (Undocumented::Report, Some(_)) => {
            judge.fail_strictly(Strictness::Report, "operation", denial)?;
        }
        (Undocumented::Allow, Some(_)) => judge.skip("operation", "undocumented"),
    }
    Ok(stand_in.map(|operation| {
        judge.record().operation = Some(operation.id.clone());
        Matched {
            operation: operation.clone(),
            service,
            params: None,
        }
    }))
}

fn documented<'a>(
    service: &'a Service,
    operation: &Arc<Operation>,
    params: PathParams<'a>,
    canonical: &Canonical,
    judge: &mut Judge<'_>,
) -> Result<Option<Matched<'a>>, Denial> {
    judge.record().operation = Some(operation.id.clone());
    if !operation.schema.allows_semicolons() {
        refuse_path_parameters(canonical, judge)?;
    }
    judge.pass("operation", "", operation.source.as_ref());
    Ok(Some(Matched {
        operation: operation.clone(),
        service,
        params: Some(params),
    }))
}

fn refuse_path_parameters(canonical: &Canonical, judge: &mut Judge<'_>) -> Result<(), Denial> {
    if canonical.path_parameters {
        let detail = "the path has parameters that the specification lacks";
        return Err(judge.refuse("operation", Denial::new(Reason::RequestMalformed, detail)));
    }
    Ok(())
}

/// 405 with `Allow` (RFC 9110 §15.5.6).
fn not_this_method(methods: &[Method]) -> Denial {
    let mut denial = Denial::new(
        Reason::RouteMethod,
        "the specification has this path without this method",
    );
    let list: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if let Ok(allow) = HeaderValue::from_str(&list.join(", ")) {
        denial.headers.insert(header::ALLOW, allow);
    }
    denial
}

impl Matched<'_> {
    /// Reads the values that policies and the specification look at.
    pub(super) fn decode(&self, head: &Parts, values: &mut Values) -> Result<(), Violation> {
        let Some(params) = &self.params else {
            return Ok(());
        };
        self.operation
            .schema
            .check_head(params, head.uri.query(), &head.headers, values)
    }

    /// Parameters, content type and upgrade, as the specification has them.
    pub(super) fn check_head(
        &self,
        called: &Called,
        canonical: &Canonical,
        head: &Parts,
        has_body: bool,
        violation: Option<Violation>,
        judge: &mut Judge<'_>,
    ) -> Result<BodyRule, Denial> {
        if canonical.websocket {
            check_upgrade(&self.operation, called, canonical, head, judge)?;
        }
        if self.params.is_none() {
            judge.skip("schema", "undocumented");
            return Ok(BodyRule::Unchecked);
        }
        let strictness = self.service.api.requests;
        let failed = violation.is_some();
        if let Some(violation) = violation {
            report_violation(strictness, "schema", violation, judge)?;
        }
        match self
            .operation
            .schema
            .check_content_type(&head.headers, has_body)
        {
            Ok(rule) => {
                if strictness == Strictness::Off {
                    judge.skip("schema", "off");
                } else if !failed {
                    judge.pass("schema", "", self.operation.source.as_ref());
                }
                Ok(rule)
            }
            Err(violation) => {
                report_violation(strictness, "schema", violation, judge)?;
                Ok(BodyRule::Unchecked)
            }
        }
    }
}

/// Applies `api.requests` to a violation. What two readers could understand differently is not a
/// question of the specification's strictness: only the mode lets it pass.
pub(super) fn report_violation(
    strictness: Strictness,
    name: &'static str,
    violation: Violation,
    judge: &mut Judge<'_>,
) -> Result<(), Denial> {
    let reason = violation.reason;
    let denial = Denial::new(reason, violation.detail).with_policy(violation.source);
    if reason == Reason::RequestMalformed {
        return judge.fail(name, denial);
    }
    match strictness {
        Strictness::Off => Ok(()),
        Strictness::Enforce | Strictness::Report => judge.fail_strictly(strictness, name, denial),
    }
}

/// Only declared upgrades pass, and at the edge only from pages that may (RFC 6455 §10.2): a browser
/// sends cookies along whatever page asks, and asks nobody first.
fn check_upgrade(
    operation: &Operation,
    called: &Called,
    canonical: &Canonical,
    head: &Parts,
    judge: &mut Judge<'_>,
) -> Result<(), Denial> {
    let malformed = |detail: &'static str| Denial::new(Reason::RequestMalformed, detail);
    if !operation.websocket {
        judge.fail(
            "websocket",
            malformed("the operation is not declared as a WebSocket"),
        )?;
    }
    let (Some(route), Some(origin)) = (&called.route, head.headers.get(header::ORIGIN)) else {
        return Ok(());
    };
    let allowed = origin.to_str().is_ok_and(|origin| {
        let named = route.cors.as_ref().is_some_and(|cors| cors.names(origin));
        named || is_same_host(origin, canonical)
    });
    if !allowed {
        judge.fail("websocket", malformed("a WebSocket from a foreign origin"))?;
    }
    Ok(())
}

fn is_same_host(origin: &str, canonical: &Canonical) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else {
        return false;
    };
    let default = match origin.scheme_str() {
        Some("https") => 443,
        Some("http") => 80,
        _ => return false,
    };
    let same_port = match (origin.port_u16(), canonical.host.port()) {
        (None, None) => true,
        (origin, host) => origin.unwrap_or(default) == host.unwrap_or(default),
    };
    same_port
        && origin
            .host()
            .is_some_and(|host| host.eq_ignore_ascii_case(canonical.host.name()))
}
