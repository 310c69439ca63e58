//! The way to services and applications: pick an endpoint, get a connection, send, try again only where
//! that is safe.
//!
//! Nothing is sent without a permit of guard's: [`forward`] takes one.

mod endpoint;
mod groups;
mod health;
mod retry;
mod tunnel;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use smallvec::SmallVec;
use testudo_guard::outbound::{Destination, OutboundPermit};
use testudo_guard::snapshot::{Protocol, Snapshot};
use testudo_guard::{Denial, Permit};
use testudo_model::Reason;
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::core::{Core, Side};
use crate::observation::Transfer;
use crate::respond::{REASON_HEADER, Wire};

pub(crate) use endpoint::{Lease, connect_by_name};
pub(crate) use groups::Upstreams;
pub(crate) use health::HealthTable;
pub(crate) use tunnel::{Tunnel, accepts_websocket};

use endpoint::{ConnectError, Endpoint, SendError};

/// A request is sent so often at most, the first time included.
const MAX_ATTEMPTS: usize = 3;
/// Before the one endpoint that there is gets another try.
const PAUSE: Duration = Duration::from_millis(30);
/// An outbound request waits so long for the head of its response where nothing says otherwise.
const EGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Guard's permission to send a request.
pub(crate) enum Permitted {
    /// At the edge or inbound.
    Inside(Box<Permit>),
    /// From the own application.
    Outbound(OutboundPermit),
}

/// A request that may go.
pub(crate) struct Outgoing<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) request: Request<RequestBody>,
    pub(crate) wire: Wire,
    /// A connection of its own, to become a tunnel.
    pub(crate) websocket: bool,
    pub(crate) transfer: &'a Rc<Transfer>,
}

/// A response's head, and the connection that its body comes on.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    /// The other end is a sidecar of ours, so that its `x-testudo-reason` is one.
    pub(crate) from_sidecar: bool,
}

/// Sends a permitted request.
///
/// # Errors
/// `upstream.unavailable`, `upstream.timeout`, `upstream.invalid`; or what was wrong with the request's
/// body while it streamed.
pub(crate) async fn forward(
    core: &Rc<Core>,
    side: Side,
    permit: &Permitted,
    outgoing: Outgoing<'_>,
) -> Result<Answer, Denial> {
    let endpoints = core
        .upstreams
        .endpoints(core, side, permit, outgoing.snapshot)?;
    let timeout = timeout(permit);
    let plan = Plan {
        core,
        endpoints: &endpoints,
        http2: speaks_http2(permit, outgoing.wire) && !outgoing.websocket,
        fresh: outgoing.websocket,
        transfer: outgoing.transfer,
        trying: RefCell::default(),
    };
    core.upstreams.budget.earn();
    let mut deadline = Instant::now() + timeout;
    let attempts = plan.attempts(outgoing.request);
    let mut attempts = std::pin::pin!(attempts);
    loop {
        tokio::select! {
            answer = &mut attempts => return answer,
            () = tokio::time::sleep_until(deadline) => {
                // The time is for the service; a client that still sends has its own.
                if !outgoing.transfer.streaming.get() {
                    if let Some(endpoint) = &*plan.trying.borrow() {
                        plan.failed(endpoint);
                    }
                    return Err(Denial::new(
                        Reason::UpstreamTimeout,
                        format!("no response within {} ms", timeout.as_millis()),
                    ));
                }
                deadline = Instant::now() + timeout;
            }
        }
    }
}

fn timeout(permit: &Permitted) -> Duration {
    match permit {
        Permitted::Inside(permit) => permit.target().timeout,
        Permitted::Outbound(permit) => match permit.destination() {
            Destination::Service(service) => service.timeout,
            Destination::Egress { .. } | Destination::Tunnel { .. } => EGRESS_TIMEOUT,
        },
    }
}

/// HTTP/2 for gRPC, whose trailers and streams HTTP/1.1 cannot carry, and where the bundle says so.
fn speaks_http2(permit: &Permitted, wire: Wire) -> bool {
    let protocol = match permit {
        Permitted::Inside(permit) => permit.target().service.protocol,
        Permitted::Outbound(permit) => match permit.destination() {
            Destination::Service(service) => service.protocol,
            Destination::Egress { .. } | Destination::Tunnel { .. } => Protocol::Auto,
        },
    };
    match protocol {
        Protocol::Auto => wire == Wire::Grpc,
        Protocol::Http1 => false,
        Protocol::Http2 => true,
    }
}

/// What all attempts to send one request have in common.
struct Plan<'a> {
    core: &'a Rc<Core>,
    endpoints: &'a [Rc<Endpoint>],
    http2: bool,
    fresh: bool,
    transfer: &'a Rc<Transfer>,
    /// The endpoint of the attempt that is running.
    trying: RefCell<Option<Rc<Endpoint>>>,
}

/// How one attempt failed.
enum Failure {
    /// There is no connection to be had; nothing of the request left.
    Refused(Box<Request<RequestBody>>, Denial),
    /// The connection was closed meanwhile; nothing of the request left.
    Stale(Box<Request<RequestBody>>, Denial),
    /// The application may have seen it; a copy, where it may be sent again.
    Sent(Option<Box<Request<RequestBody>>>, Denial),
}

impl Plan<'_> {
    async fn attempts(&self, mut request: Request<RequestBody>) -> Result<Answer, Denial> {
        let mut tried: SmallVec<[*const Endpoint; MAX_ATTEMPTS]> = SmallVec::new();
        let mut fresh = self.fresh;
        loop {
            let now = self.core.shared.clock.now().monotonic;
            let Some(endpoint) = pick(self.endpoints, &tried, now) else {
                return Err(unavailable("the service has no address"));
            };
            self.trying.replace(Some(endpoint.clone()));
            let failure = match self.attempt(endpoint, request, fresh).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let more = tried.len() + 1 < MAX_ATTEMPTS;
            let budget = &self.core.upstreams.budget;
            request = match failure {
                // The same endpoint at once, on a connection of its own: it did nothing wrong.
                Failure::Stale(request, _) if more => {
                    fresh = true;
                    tried.push(std::ptr::null());
                    *request
                }
                Failure::Refused(request, _) if more && budget.spend() => {
                    tried.push(Rc::as_ptr(endpoint));
                    if self.endpoints.len() == 1 {
                        tokio::time::sleep(PAUSE).await;
                    }
                    *request
                }
                Failure::Sent(Some(request), _) if more && budget.spend() => {
                    fresh = true;
                    tried.push(Rc::as_ptr(endpoint));
                    *request
                }
                Failure::Stale(_, denial)
                | Failure::Refused(_, denial)
                | Failure::Sent(_, denial) => return Err(denial),
            };
        }
    }

    async fn attempt(
        &self,
        endpoint: &Rc<Endpoint>,
        mut request: Request<RequestBody>,
        fresh: bool,
    ) -> Result<Answer, Failure> {
        let wall = self.core.shared.clock.wall().unix_seconds();
        let connected = if self.http2 {
            endpoint.http2(wall).await
        } else {
            endpoint.http1(wall, fresh).await
        };
        let mut lease = match connected {
            Ok(lease) => lease,
            Err(error) => {
                self.failed(endpoint);
                let denial = connect_denial(endpoint, &error);
                return Err(Failure::Refused(Box::new(request), denial));
            }
        };
        // A copy is only made where it is likely to be needed and allowed: the connection was idle, so
        // that the other end may have closed it meanwhile, or there is somewhere else to go.
        let copy = (lease.is_reused() || self.endpoints.len() > 1)
            .then(|| replay(&request).map(Box::new))
            .flatten();
        address(&mut request, self.http2);
        match lease.send(request).await {
            Ok(response) => self.judge(endpoint, lease, response, copy),
            Err(SendError {
                unsent: Some(unsent),
                ..
            }) => Err(Failure::Stale(
                unsent,
                unavailable("the connection was closed"),
            )),
            Err(SendError { error, .. }) => {
                // The client's own fault comes first: it broke the body off.
                if let Some(reason) = self.transfer.failure.get() {
                    return Err(Failure::Sent(
                        None,
                        Denial::new(reason, "the request body ended early"),
                    ));
                }
                self.failed(endpoint);
                Err(Failure::Sent(copy, send_denial(endpoint, &error)))
            }
        }
    }

    /// A sidecar that says it did not take the request is as good as one that cannot be reached.
    fn judge(
        &self,
        endpoint: &Rc<Endpoint>,
        lease: Lease,
        response: Response<Incoming>,
        copy: Option<Box<Request<RequestBody>>>,
    ) -> Result<Answer, Failure> {
        let from_sidecar = endpoint.is_sidecar();
        let untaken = from_sidecar
            .then(|| response.headers().get(REASON_HEADER))
            .flatten()
            .and_then(|reason| Reason::from_code(reason.to_str().ok()?));
        match untaken {
            Some(
                reason @ (Reason::NotReady | Reason::Overloaded | Reason::UpstreamUnavailable),
            ) => {
                self.failed(endpoint);
                if copy.is_some() && self.endpoints.len() > 1 {
                    return Err(Failure::Sent(
                        copy,
                        Denial::new(reason, "its sidecar says so"),
                    ));
                }
            }
            Some(Reason::UpstreamTimeout) => self.failed(endpoint),
            _ => endpoint.health.succeeded(),
        }
        Ok(Answer {
            response,
            lease,
            from_sidecar,
        })
    }

    fn failed(&self, endpoint: &Endpoint) {
        endpoint
            .health
            .failed(self.core.shared.clock.now().monotonic);
    }
}

/// The less busy one of two, picked at random among those that are well and were not tried yet; if none
/// is left, among those that were not tried; then any. Never none while there is one: ejecting all of
/// them would turn a partial failure into a complete one.
fn pick<'a>(
    endpoints: &'a [Rc<Endpoint>],
    tried: &[*const Endpoint],
    now: Duration,
) -> Option<&'a Rc<Endpoint>> {
    if let [only] = endpoints {
        return Some(only);
    }
    let untried = |endpoint: &&Rc<Endpoint>| !tried.contains(&Rc::as_ptr(endpoint));
    let well: SmallVec<[&Rc<Endpoint>; 16]> = endpoints
        .iter()
        .filter(|endpoint| untried(endpoint) && !endpoint.health.is_ejected(now))
        .collect();
    let rest: SmallVec<[&Rc<Endpoint>; 16]> = if well.is_empty() {
        endpoints.iter().filter(untried).collect()
    } else {
        well
    };
    if rest.is_empty() {
        return endpoints.get(rand::random_range(0..endpoints.len().max(1)));
    }
    let one = rest.get(rand::random_range(0..rest.len()))?;
    let two = rest.get(rand::random_range(0..rest.len()))?;
    if two.health.in_flight() < one.health.in_flight() {
        Some(two)
    } else {
        Some(one)
    }
}

/// A copy to send again: only of what may be repeated (RFC 9110 §9.2.2) and is still there.
fn replay(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
    );
    if !idempotent {
        return None;
    }
    let mut copy = Request::new(request.body().replay()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

/// HTTP/1.1 wants the path and `Host`, HTTP/2 `:scheme` and `:authority` (RFC 9113 §8.3.1).
fn address(request: &mut Request<RequestBody>, http2: bool) {
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    if http2 {
        let host = request.headers_mut().remove(header::HOST);
        let authority = host.and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok());
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority =
            Some(authority.unwrap_or_else(|| http::uri::Authority::from_static("localhost")));
        // RFC 9113 §8.2.2: of `TE`, only this.
        request
            .headers_mut()
            .insert(header::TE, http::HeaderValue::from_static("trailers"));
    }
    *request.version_mut() = if http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

fn unavailable(detail: &'static str) -> Denial {
    Denial::new(Reason::UpstreamUnavailable, detail)
}

fn connect_denial(endpoint: &Endpoint, error: &ConnectError) -> Denial {
    let detail = format!("{}: {}", endpoint.name, crate::error_text(error));
    let reason = match error {
        ConnectError::Handshake(_) => Reason::UpstreamInvalid,
        ConnectError::TooMany => Reason::Overloaded,
        ConnectError::Connect(_)
        | ConnectError::Resolve(_)
        | ConnectError::Tls(_)
        | ConnectError::Peer(_)
        | ConnectError::Timeout => Reason::UpstreamUnavailable,
    };
    Denial::new(reason, detail)
}

fn send_denial(endpoint: &Endpoint, error: &hyper::Error) -> Denial {
    let detail = format!("{}: {}", endpoint.name, crate::error_text(error));
    let invalid = error.is_parse() || error.is_parse_too_large();
    let reason = if invalid {
        Reason::UpstreamInvalid
    } else {
        Reason::UpstreamUnavailable
    };
    Denial::new(reason, detail)
}
