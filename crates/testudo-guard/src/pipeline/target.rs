//! Where a permitted request goes, and what its response must be.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use testudo_model::{Hop, Reason};

use super::judge::Judge;
use crate::authn::User;
use crate::record::{Denial, Record};
use crate::schema::{Operation, Strictness};
use crate::snapshot::Service;

use testudo_model::Mode;

/// Largest response body that is held back to be judged.
const MAX_RESPONSE_BYTES: u64 = 4 * 1024 * 1024;

/// Where a permitted request goes, and with what. The canonical request is in its head.
#[derive(Clone)]
pub struct Target {
    /// The service.
    pub service: Arc<Service>,
    /// The operation; `None` for probes and undocumented paths that pass.
    pub operation: Option<Arc<Operation>>,
    /// The user that travels along.
    pub user: Option<Arc<User>>,
    /// Until the response head must have come.
    pub timeout: Duration,
    /// Response headers to add whatever the response is (CORS, `RateLimit`): see
    /// [`Target::add_response_headers`].
    pub response_headers: HeaderMap,
    /// Whether this is a WebSocket upgrade that the specification declares.
    pub websocket: bool,
    method: Method,
    hop: Hop,
    mode: Mode,
}

impl Target {
    pub(super) fn new(
        service: &Arc<Service>,
        timeout: Duration,
        method: &Method,
        hop: Hop,
    ) -> Target {
        Target {
            service: service.clone(),
            operation: None,
            user: None,
            timeout,
            response_headers: HeaderMap::new(),
            websocket: false,
            method: method.clone(),
            hop,
            mode: Mode::Enforce,
        }
    }

    pub(super) fn complete(
        self,
        operation: Option<Arc<Operation>>,
        user: Option<Arc<User>>,
        websocket: bool,
        response_headers: &mut HeaderMap,
    ) -> Target {
        Target {
            operation,
            user,
            websocket,
            response_headers: std::mem::take(response_headers),
            ..self
        }
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// A response that must be judged must be readable: it may not come compressed.
    pub(super) fn prepare_request(&self, head: &mut Parts) {
        let judged = self.service.api.responses == Strictness::Enforce
            && self.operation.as_ref().is_some_and(|operation| {
                operation
                    .schema
                    .response_needs_body(StatusCode::OK, Some("application/json"))
            });
        if judged {
            head.headers.remove(header::ACCEPT_ENCODING);
        }
    }

    /// Puts [`Target::response_headers`] into a response; they replace what the service said.
    pub fn add_response_headers(&self, headers: &mut HeaderMap) {
        add_headers(&self.response_headers, headers);
    }

    /// At most how many bytes of the response's body [`Target::check_response`] needs to see before
    /// the client may; `None`: it may stream.
    pub fn wants_response_body(&self, status: StatusCode, headers: &HeaderMap) -> Option<u64> {
        let operation = self.judged_operation(headers)?;
        let readable = self.method != Method::HEAD && !is_encoded(headers);
        (readable
            && operation
                .schema
                .response_needs_body(status, content_type(headers)))
        .then_some(MAX_RESPONSE_BYTES)
    }

    /// Judges a response. `body` is complete where [`Target::wants_response_body`] asked for it, and
    /// `None` where it did not, or where the body turned out to be larger.
    ///
    /// # Errors
    /// `schema.response`.
    pub fn check_response(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: Option<&[u8]>,
        record: &mut Record,
    ) -> Result<(), Denial> {
        let Some(operation) = self.judged_operation(headers) else {
            return Ok(());
        };
        let content_type = content_type(headers);
        let needed = self.method != Method::HEAD
            && operation.schema.response_needs_body(status, content_type);
        let mut judge = Judge::resume(record, self.mode);
        let denial = if needed && body.is_none() {
            Denial::new(
                Reason::SchemaResponse,
                "the response is too large or encoded, so it cannot be judged",
            )
        } else {
            match operation.schema.check_response(status, content_type, body) {
                Ok(()) => {
                    judge.pass("response", "", operation.source.as_ref());
                    return Ok(());
                }
                Err(violation) => {
                    Denial::new(violation.reason, violation.detail).with_policy(violation.source)
                }
            }
        };
        judge
            .fail_strictly(self.service.api.responses, "response", denial)
            .map_err(|denial| self.with_response_headers(denial))
    }

    /// A denial carries what every response does.
    pub(super) fn with_response_headers(&self, mut denial: Denial) -> Denial {
        add_headers(&self.response_headers, &mut denial.headers);
        denial
    }

    /// The operation, if its responses are judged at all. A sidecar's denial is not its application's
    /// response: the specification need not have it.
    fn judged_operation(&self, headers: &HeaderMap) -> Option<&Operation> {
        let denied_inside = self.hop == Hop::Edge
            && !self.service.plain
            && headers.contains_key("x-testudo-reason");
        if self.service.api.responses == Strictness::Off
            || self.mode == Mode::Observe
            || denied_inside
        {
            return None;
        }
        self.operation.as_deref()
    }
}

/// Adds ours to a response's headers: `Vary` grows, everything else is replaced.
pub(super) fn add_headers(ours: &HeaderMap, headers: &mut HeaderMap) {
    for name in ours.keys() {
        if name != header::VARY {
            headers.remove(name);
        }
        for value in ours.get_all(name) {
            headers.append(name, value.clone());
        }
    }
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}
