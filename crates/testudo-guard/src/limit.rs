//! Rate limits: GCRA over a bounded, shared table; one compare-and-swap a key.

use std::sync::Arc;
use std::time::Duration;

use testudo_model::PolicyRef;

use crate::now::Now;
use crate::record::LimitState;

/// One limit of the bundle.
pub struct LimitRule {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands in the bundle.
    pub source: PolicyRef,
    /// What it counts.
    pub matches: LimitMatch,
    /// By what it tells requests apart.
    pub per: LimitKey,
    /// One request each so long, in the long run.
    pub interval: Duration,
    /// As many at once.
    pub burst: u32,
    /// Who counts together.
    pub scope: LimitScope,
}

/// What a limit counts; all given conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct LimitMatch {
    /// Service name.
    pub service: Option<Arc<str>>,
    /// Operation id, as `SERVICE:OPERATION`.
    pub operation: Option<Arc<str>>,
    /// Method.
    pub method: Option<http::Method>,
    /// Path prefix of whole segments, as the service sees it.
    pub path: Option<Arc<str>>,
}

/// By what a limit tells requests apart; what a request lacks is replaced by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// The user.
    User,
    /// The calling service.
    Service,
    /// The client's address (IPv6: its /64).
    Address,
    /// A header's value.
    Header(http::HeaderName),
    /// A declared claim.
    Claim(Arc<str>),
    /// Everything together.
    All,
}

/// Who counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitScope {
    /// Each proxy alone.
    Proxy,
    /// The rate is divided by the number of live proxies that see the traffic.
    Fleet,
}

/// Rate-limit state of all limits, shared by all cores and kept over snapshots.
#[derive(Default)]
pub struct Limiter {}

impl Limiter {
    /// Counts one request under `key` (already hashed together with the limit's name) and says whether it may pass.
    ///
    /// # Errors
    /// The state with the time until a request is possible.
    pub fn count(
        &self,
        _rule: &LimitRule,
        _key: u128,
        _now: Now,
    ) -> Result<LimitState, LimitState> {
        Err(LimitState {
            name: Arc::from(""),
            burst: 0,
            window: Duration::ZERO,
            remaining: 0,
            retry_after: Duration::ZERO,
        })
    }

    /// Live proxies that see the same traffic, for scope `fleet` (at least 1).
    pub fn set_fleet(&self, _proxies: u32) {}
}
