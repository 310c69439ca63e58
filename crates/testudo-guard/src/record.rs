//! What is remembered about a request while it is judged: the source of its event and of `why`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;
use testudo_model::{Check, Finding, Mode, PolicyRef, Reason};

/// Everything that the checks found out about one request. Grows as they run; never holds a
/// credential or a body.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The called service.
    pub service: Option<Arc<str>>,
    /// `SERVICE:OPERATION`.
    pub operation: Option<Arc<str>>,
    /// The caller: a service's name or `gateway`; `None` at the edge.
    pub caller: Option<Arc<str>>,
    /// `ISSUER:ID` or `anonymous`; `None` where no user travels along.
    pub user: Option<Arc<str>>,
    /// The user's roles.
    pub roles: Option<Arc<[Arc<str>]>>,
    /// The client's address, after `trusted_proxies` or from the transaction token.
    pub source_ip: Option<IpAddr>,
    /// Names the credential that came at the edge, right or wrong; never tells it.
    pub credential: Option<u64>,
    /// The mode of the service.
    pub mode: Mode,
    /// The line that decided.
    pub policy: Option<PolicyRef>,
    /// The reason of the denial, or of the first one that report mode let pass.
    pub reason: Option<Reason>,
    /// What checks noticed.
    pub findings: Vec<Finding>,
    /// Each check in order.
    pub checks: SmallVec<[Check; 10]>,
    /// Reads a monotonic clock, to say how long each check took; without one they say zero. Nothing
    /// is decided by it.
    pub stopwatch: Option<fn() -> Duration>,
}

/// A refusal. What clients see of it is the reason and the request id alone.
#[derive(Clone, Debug)]
pub struct Denial {
    /// The stable code.
    pub reason: Reason,
    /// The HTTP status: [`Reason::status`], or a more exact one (414, 431).
    pub status: StatusCode,
    /// For the decision log. Never holds a credential or a body.
    pub detail: Cow<'static, str>,
    /// Response headers that belong to it: `WWW-Authenticate`, `Retry-After`, `RateLimit`, `Allow`, CORS.
    pub headers: Box<HeaderMap>,
    /// The line that decided, where one did.
    pub policy: Option<PolicyRef>,
}

impl Denial {
    /// A denial with its reason's own status and no further headers.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Denial {
            reason,
            status: reason.status(),
            detail: detail.into(),
            headers: Box::default(),
            policy: None,
        }
    }

    /// The same with a more exact status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same with the line that decided.
    #[must_use]
    pub fn with_policy(mut self, policy: Option<PolicyRef>) -> Self {
        self.policy = policy;
        self
    }
}

/// A rate limit's answer, for `RateLimit` headers (draft-ietf-httpapi-ratelimit-headers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// The limit's name.
    pub name: Arc<str>,
    /// Requests that the limit allows at once.
    pub burst: u32,
    /// How long a whole burst takes to come back.
    pub window: Duration,
    /// Requests left in the burst.
    pub remaining: u64,
    /// Until a request is possible again (zero when permitted).
    pub retry_after: Duration,
    /// Until the whole burst is there again.
    pub reset_after: Duration,
}
