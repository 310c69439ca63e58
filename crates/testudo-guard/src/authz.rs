//! The two questions: may this caller, may this user (DESIGN §4). Cedar, default deny; an evaluation
//! error of any policy denies.
//!
//! Cedar's own authorizer costs time for every policy of a bundle. Here each operation has its policies
//! sliced in advance, by action and resource, and indexed by principal: `role`, user, service. A scope
//! (`principal`, `action`, `resource`) is thus decided by a look-up; only a `when` or `unless` is left to
//! Cedar's evaluator, on typed values and on the few entities that the conditions can reach. Tests hold
//! every answer against Cedar's authorizer over all policies.

mod claims;
mod context;
mod directory;
mod names;
mod outlook;
mod rule;
mod slice;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy_core::ast::{Entity, EntityUID};
use cedar_policy_core::entities::Entities;
use testudo_model::{Hop, PolicyRef};

use crate::authn::User;
use crate::now::Now;
use crate::peer::Caller;
use crate::schema::Values;

pub use claims::{ClaimKind, claim_kinds};
pub use directory::{Directory, DirectoryError};
pub use names::{ActionNames, ENTITY_TYPES, GATEWAY, group_of_method};
pub use outlook::{Outcome, Outlook};
pub use rule::{Reads, Rule, RuleError, Who};

use context::{Asked, Question};
use slice::Slice;

/// The policies that can apply to one operation, sliced by question; built by `testudo-policy`.
///
/// The default holds none and so permits nothing.
#[derive(Default)]
pub struct OperationPolicies {
    inner: Option<Box<Inner>>,
}

struct Inner {
    directory: Arc<Directory>,
    action: Arc<EntityUID>,
    /// The action with its groups.
    action_entity: Arc<Entity>,
    resource: Arc<EntityUID>,
    /// The action and all services.
    entities: Entities,
    users: Slice,
    anonymous: Slice,
    callers: Slice,
    /// Whether the body is ever complete before it is decided.
    has_body: bool,
}

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Slices `rules`, which are in the order of the bundle, for one operation.
    ///
    /// # Errors
    /// [`DirectoryError`] where Cedar refuses the operation's name or its groups.
    pub fn new<'a>(
        names: &ActionNames,
        rules: impl IntoIterator<Item = &'a Arc<Rule>>,
        directory: &Arc<Directory>,
    ) -> Result<Self, DirectoryError> {
        let rules: Vec<&Rule> = rules
            .into_iter()
            .map(Arc::as_ref)
            .filter(|rule| rule.covers(names))
            .collect();
        let action_entity = directory.action_entity(names);
        Ok(OperationPolicies {
            inner: Some(Box::new(Inner {
                entities: directory.entities_with(&action_entity)?,
                action_entity,
                action: Arc::new(directory.types().action(&names.operation)),
                resource: Arc::new(directory.types().api(&names.service)),
                users: Slice::of_users(&rules),
                anonymous: Slice::of_anonymous(&rules),
                callers: Slice::of_callers(&rules, directory),
                has_body: true,
                directory: directory.clone(),
            })),
        })
    }

    /// For operations whose body streams or is not looked at: no question waits for it. To policies the
    /// request has no body: `has` is false, and reading it is an error, which denies.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        if let Some(inner) = &mut self.inner {
            inner.has_body = false;
        }
        self
    }

    /// Whether a policy that applies to either question reads `context.body`, so that it must wait for
    /// the complete body.
    pub fn reads_body(&self) -> bool {
        self.user_reads_body() || self.caller_reads_body()
    }

    /// Whether a policy of the user question reads `context.body`.
    pub fn user_reads_body(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| {
            inner.has_body && (inner.users.reads().body || inner.anonymous.reads().body)
        })
    }

    /// Whether a policy of the caller question reads `context.body`.
    pub fn caller_reads_body(&self) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|inner| inner.has_body && inner.callers.reads().body)
    }

    /// May this user, anonymous included, call the operation? `Default` where no user travels along.
    pub fn user(&self, facts: &Facts<'_>, values: &Values) -> Decision {
        let (Some(inner), Some(user)) = (self.inner.as_deref(), facts.user) else {
            return Decision::Default;
        };
        if user.is_anonymous() {
            let principal = inner.directory.anonymous();
            let asked = Asked::new(inner, principal, Question::User, facts, values);
            inner.anonymous.decide(inner.anonymous.everyone(), &asked)
        } else {
            let principal = Arc::new(inner.directory.types().user(&user.id));
            let asked = Asked::new(inner, &principal, Question::User, facts, values);
            let candidates = inner.users.candidates_of_user(user);
            inner.users.decide(&candidates, &asked)
        }
    }

    /// May this caller call the operation? For the gateway a route answers this question: the answer is
    /// `Default` unless a `forbid` applies or a policy fails. `Default` for identities that the bundle
    /// does not know, and at the edge.
    pub fn caller(&self, facts: &Facts<'_>, values: &Values) -> Decision {
        let (Some(inner), Some(caller)) = (self.inner.as_deref(), facts.caller) else {
            return Decision::Default;
        };
        let (name, gateway) = match caller {
            Caller::Gateway => (GATEWAY, true),
            Caller::Service(name) => (name.as_ref(), false),
            Caller::Unknown => return Decision::Default,
        };
        let Some(service) = inner.directory.service(name) else {
            return Decision::Default;
        };
        let asked = Asked::new(inner, &service.uid, Question::Caller, facts, values);
        match inner
            .callers
            .decide(inner.callers.candidates_of_service(name), &asked)
        {
            Decision::Permit(_) if gateway => Decision::Default,
            decision => decision,
        }
    }

    /// How many policies each question looks at, at most: users, anonymous, callers.
    pub fn sizes(&self) -> (usize, usize, usize) {
        self.inner.as_ref().map_or((0, 0, 0), |inner| {
            (
                inner.users.len(),
                inner.anonymous.len(),
                inner.callers.len(),
            )
        })
    }
}
