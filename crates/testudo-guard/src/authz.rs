//! The two questions: may this caller, may this user (DESIGN §4). Cedar, default deny; an evaluation
//! error of any policy denies.

use std::net::IpAddr;
use std::sync::Arc;

use testudo_model::{Hop, PolicyRef};

use crate::authn::User;
use crate::now::Now;
use crate::peer::Caller;
use crate::schema::Values;

/// The policies that can apply to one operation, sliced by question; built by `testudo-policy`.
#[derive(Default)]
pub struct OperationPolicies {}

/// What a policy may know of a request besides its values.
pub struct Facts<'a> {
    /// The client's address.
    pub source_ip: Option<IpAddr>,
    /// `context.time`.
    pub now: Now,
    /// `context.hop`.
    pub hop: Hop,
    /// `context.user`, and the principal of the user question; `None` where no user travels along.
    pub user: Option<&'a Arc<User>>,
    /// `context.caller`, and the principal of the caller question; `None` at the edge.
    pub caller: Option<&'a Caller>,
}

/// The answer to one question.
#[derive(Clone, Debug)]
pub enum Decision {
    /// By this line.
    Permit(PolicyRef),
    /// A `forbid`, by this line.
    Forbid(PolicyRef),
    /// No permit applies.
    Default,
    /// A policy could not be evaluated: denies as `authz.error`.
    Error {
        /// The policy that failed.
        policy: Option<PolicyRef>,
        /// Why.
        detail: String,
    },
}

impl OperationPolicies {
    /// Whether a policy that applies to the user question (`caller` false) or the caller question
    /// reads `context.body`, so that it must wait for the complete body.
    pub fn reads_body(&self) -> bool {
        false
    }

    /// May this user call the operation?
    pub fn user(&self, _facts: &Facts<'_>, _values: &Values) -> Decision {
        Decision::Default
    }

    /// May this caller call the operation? For the gateway a route has answered, but a `forbid` counts.
    pub fn caller(&self, _facts: &Facts<'_>, _values: &Values) -> Decision {
        Decision::Default
    }
}
