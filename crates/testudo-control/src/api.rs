//! The HTTP API (DESIGN §12): bearer tokens, a Host allow-list, and our own validator in front of it.
//!
//! A request passes, in this order: Host → route and parameters by our own OpenAPI document → token →
//! handler. Nothing here decides about the mesh; handlers read the parts of [`Control`] or call them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderValue, StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Control;

mod access;
mod audit;
mod containments;
pub mod dashboard;
mod graph;
mod handlers;
mod headroom;
mod incidents;
mod modes;
mod stream;
mod validator;
mod why;

pub use validator::Validator;

/// The OpenAPI document of this API.
pub const OPENAPI: &str = include_str!("api/openapi.json");

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;

/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the API needs besides the control plane's parts.
pub struct ApiState {
    control: Arc<Control>,
    token: String,
    hosts: Vec<String>,
    validator: Validator,
}

impl ApiState {
    /// Reads our own OpenAPI document and makes the Host allow-list for `address`.
    ///
    /// # Errors
    /// When the document does not read: a fault of this program, found at start.
    pub fn new(
        control: Arc<Control>,
        token: String,
        address: SocketAddr,
    ) -> Result<Self, validator::ValidatorError> {
        let port = address.port();
        let hosts = [
            address.to_string(),
            format!("localhost:{port}"),
            format!("127.0.0.1:{port}"),
            format!("[::1]:{port}"),
        ];
        Ok(ApiState {
            control,
            token,
            hosts: hosts.to_vec(),
            validator: Validator::new()?,
        })
    }
}

/// Serves the API until `stop`; streams end then.
pub async fn serve(listener: TcpListener, state: ApiState, stop: CancellationToken) {
    let router = router(Arc::new(state), stop.clone());
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let stop = stop.clone();
        connections.spawn(async move {
            let _slot = slot;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an API connection ended early");
            }
        });
    }
    connections.close();
    let _ = tokio::time::timeout(Duration::from_secs(2), connections.wait()).await;
}

fn router(state: Arc<ApiState>, stop: CancellationToken) -> Router {
    let api = Router::new()
        .route("/api/v1/openapi.json", get(handlers::openapi))
        .route("/api/v1/status", get(handlers::status))
        .route(
            "/api/v1/revisions",
            get(handlers::revisions).post(handlers::apply),
        )
        .route("/api/v1/proxies", get(handlers::proxies))
        .route("/api/v1/services", get(handlers::services))
        .route("/api/v1/identities", get(handlers::identities))
        .route("/api/v1/identities/join", post(handlers::join))
        .route(
            "/api/v1/revocations",
            get(handlers::revocations).post(handlers::revoke),
        )
        .route(
            "/api/v1/containments",
            get(containments::list).post(containments::add),
        )
        .route(
            "/api/v1/containments/{id}",
            axum::routing::delete(containments::release),
        )
        .route("/api/v1/modes", get(modes::list).post(modes::set))
        .route(
            "/api/v1/modes/{service}",
            axum::routing::delete(modes::reset),
        )
        .route("/api/v1/trust", get(handlers::trust))
        .route("/api/v1/graph", get(graph::graph))
        .route("/api/v1/access", get(access::access))
        .route("/api/v1/reach", get(access::reached))
        .route("/api/v1/coverage", get(access::covered))
        .route("/api/v1/calls", get(access::calls))
        .route("/api/v1/audit", get(audit::entries))
        .route("/api/v1/audit/verify", get(audit::verify))
        .route("/api/v1/incidents", get(incidents::list))
        .route("/api/v1/incidents/stream", get(incidents::follow))
        .route("/api/v1/incidents/{id}", get(incidents::one))
        .route("/api/v1/incidents/{id}/ack", post(incidents::acknowledge))
        .route("/api/v1/incidents/{id}/mute", post(incidents::mute))
        .route("/api/v1/incidents/{id}/close", post(incidents::close))
        .route("/api/v1/decisions", get(handlers::decisions))
        .route("/api/v1/decisions/stream", get(stream::decisions))
        .route("/api/v1/why/last", get(why::last))
        .route("/api/v1/why/{request_id}", get(why::request))
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            check_request,
        ))
        .layer(axum::Extension(stop));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(handlers::ready))
        .merge(dashboard::routes())
        .merge(api)
        .fallback(handlers::nothing_here)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            check_host,
        ))
        .with_state(state)
}

/// Keeps web pages of other origins from reaching the API through a name that resolves to this
/// machine (DNS rebinding).
async fn check_host(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("");
    if !state
        .hosts
        .iter()
        .any(|allowed| allowed.eq_ignore_ascii_case(host))
    {
        return Ok(problem(
            StatusCode::MISDIRECTED_REQUEST,
            "host.refused",
            "this Host is not served here; use the address that control listens on, or localhost",
        ));
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // The dashboard's files bring their own.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    Ok(response)
}

async fn check_request(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let authorized = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .is_some_and(|token| token.as_bytes().ct_eq(state.token.as_bytes()).into());
    if !authorized {
        let mut response = problem(
            StatusCode::UNAUTHORIZED,
            "token.missing",
            "send `Authorization: Bearer TOKEN`; the token stands in admin.token in control's state folder",
        );
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return Ok(response);
    }
    Ok(match state.validator.check(request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal,
    })
}

/// An error as RFC 9457 problem details.
pub(crate) fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    problem_with(status, code, detail, json!({}))
}

/// The same with further members.
pub(crate) fn problem_with(
    status: StatusCode,
    code: &str,
    detail: &str,
    more: serde_json::Value,
) -> Response {
    let mut body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("error"),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    if let (Some(body), serde_json::Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        Body::from(body.to_string()),
    )
        .into_response()
}
