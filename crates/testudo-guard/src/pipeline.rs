//! The whole order of the checks, for one request.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, request::Parts};

use crate::live::{Live, Local};
use crate::now::Now;
use crate::peer::Peer;
use crate::record::{Denial, Record};
use crate::snapshot::{Service, Snapshot};

use std::sync::Arc;
use std::time::Duration;

use crate::authn::User;
use crate::schema::Operation;

/// What the checks of the head came to.
pub enum HeadOutcome {
    /// Refused.
    Deny(Denial),
    /// Answered at this proxy: a CORS preflight, a redirect.
    Answer {
        /// Status of the answer.
        status: StatusCode,
        /// Its headers.
        headers: HeaderMap,
    },
    /// The body is next.
    Continue(Box<BodyCheck>),
}

/// A request as it came, before anything is believed.
pub struct Incoming<'a> {
    /// Who is at the other end of the connection.
    pub peer: &'a Peer,
    /// Its head; rewritten into the one canonical request that goes upstream.
    pub head: &'a mut Parts,
    /// Whether a body follows: not `Body::is_end_stream` at this moment.
    pub has_body: bool,
}

/// Judges a request's head. `incoming.head` is rewritten into the one canonical request that goes
/// upstream. Everything found out is put into `record`, whatever the outcome.
pub fn check_head(
    _snapshot: &Arc<Snapshot>,
    _live: &Live,
    _local: &mut Local,
    _incoming: Incoming<'_>,
    _record: &mut Record,
    _now: Now,
) -> HeadOutcome {
    HeadOutcome::Deny(Denial::new(testudo_model::Reason::NotReady, "no checks"))
}

/// A request whose head was permitted; its body is still to be judged.
pub struct BodyCheck {
    target: Target,
}

/// Where a permitted request goes, and with what.
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
    /// Response headers to add whatever the response is (CORS, `RateLimit`).
    pub response_headers: HeaderMap,
    /// Whether this is a WebSocket upgrade that the specification declares.
    pub websocket: bool,
}

impl Target {
    /// At most how many bytes of the response's body [`Target::check_response`] needs to see before
    /// the client may; `None`: it may stream.
    pub fn wants_response_body(&self, _status: StatusCode, _headers: &HeaderMap) -> Option<u64> {
        None
    }

    /// Judges a response. `body` is complete where [`Target::wants_response_body`] asked for it.
    ///
    /// # Errors
    /// `schema.response`.
    pub fn check_response(
        &self,
        _status: StatusCode,
        _headers: &HeaderMap,
        _body: &[u8],
        _record: &mut Record,
    ) -> Result<(), Denial> {
        Ok(())
    }
}

/// How the body must be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// Nothing reaches upstream before all of it was judged; at most so many bytes.
    Buffer(u64),
    /// It may stream; at most so many bytes (`request.too_large` ends it).
    Stream(u64),
}

impl BodyCheck {
    /// How the body must be handled.
    pub fn plan(&self) -> BodyPlan {
        BodyPlan::Buffer(0)
    }

    /// Where it goes if permitted.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Judges a complete body ([`BodyPlan::Buffer`]).
    ///
    /// # Errors
    /// The denial.
    pub fn finish(self, _body: &Bytes, _record: &mut Record, _now: Now) -> Result<Permit, Denial> {
        Err(Denial::new(testudo_model::Reason::NotReady, "no checks"))
    }

    /// Permits streaming ([`BodyPlan::Stream`]); the caller enforces the cap as bytes pass.
    ///
    /// # Errors
    /// The denial, if the plan is not to stream.
    pub fn stream(self, _record: &mut Record) -> Result<Permit, Denial> {
        Err(Denial::new(testudo_model::Reason::NotReady, "no checks"))
    }
}

/// Proof that guard permitted this request. Only guard can make one.
pub struct Permit {
    target: Target,
}

impl Permit {
    /// Where the request goes.
    pub fn target(&self) -> &Target {
        &self.target
    }
}
