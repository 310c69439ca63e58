//! Transaction tokens that a workload's inbound side verified.

use std::sync::Arc;

use crate::now::Now;

/// Transaction tokens that a workload's inbound side verified, by token and by trace id; bounded.
#[derive(Default)]
pub struct TokenBook {}

impl TokenBook {
    /// Remembers a token that inbound verified. `trace_id`: 32 hex digits; `exp`: of the token, in
    /// seconds since the epoch.
    pub fn saw(&self, _trace_id: &str, _token: &Arc<str>, _exp: u64, _now: Now) {}

    /// Whether inbound verified this very token and it has not expired: only such may leave.
    pub fn knows(&self, _token: &str, _now: Now) -> bool {
        false
    }

    /// The token to re-attach to a call of this trace: the only one seen with it. `None` if there was
    /// none or more than one.
    pub fn reattach(&self, _trace_id: &str, _now: Now) -> Option<Arc<str>> {
        None
    }
}
