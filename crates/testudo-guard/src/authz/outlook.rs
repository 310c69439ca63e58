//! What the scopes of the policies of one operation say before any request is known: the access matrix, the blast
//! radius and `policy learn` are made of it. The candidates are chosen by the code that decides requests.

use std::sync::Arc;

use testudo_model::PolicyRef;

use super::GATEWAY;
use super::directory::Directory;
use super::names::ActionNames;
use super::rule::Rule;
use super::slice::Slice;
use crate::authn::User;

/// What is certain of a question whatever the request holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every request is permitted, by this line. Only a condition that cannot be evaluated could still deny one.
    Permit(PolicyRef),
    /// It depends on the conditions of this line.
    Depends(PolicyRef),
    /// No request is permitted: by this `forbid`, or for want of any permit.
    Deny(Option<PolicyRef>),
}

impl Outcome {
    /// Whether some request could be permitted.
    pub const fn is_possible(&self) -> bool {
        !matches!(self, Outcome::Deny(_))
    }
}

/// The policies of one operation, indexed by principal as [`OperationPolicies`](super::OperationPolicies) has them,
/// without what evaluating conditions takes.
///
/// The default holds none and so permits nothing.
#[derive(Default)]
pub struct Outlook {
    users: Slice,
    anonymous: Slice,
    callers: Slice,
}

impl Outlook {
    /// Slices `rules`, which are in the order of the bundle, for one operation.
    pub fn new<'a>(
        names: &ActionNames,
        rules: impl IntoIterator<Item = &'a Arc<Rule>>,
        directory: &Directory,
    ) -> Outlook {
        let rules: Vec<&Rule> = rules
            .into_iter()
            .map(Arc::as_ref)
            .filter(|rule| rule.covers(names))
            .collect();
        Outlook {
            users: Slice::of_users(&rules),
            anonymous: Slice::of_anonymous(&rules),
            callers: Slice::of_callers(&rules, directory),
        }
    }

    /// May this user, anonymous included, call the operation?
    pub fn user(&self, user: &User) -> Outcome {
        if user.is_anonymous() {
            self.anonymous.outcome(self.anonymous.everyone())
        } else {
            self.users.outcome(&self.users.candidates_of_user(user))
        }
    }

    /// May this service call the operation? What a policy permits the gateway does not count: see
    /// [`Outlook::gateway`].
    pub fn caller(&self, name: &str, directory: &Directory) -> Outcome {
        if name == GATEWAY || directory.service(name).is_none() {
            return Outcome::Deny(None);
        }
        self.callers
            .outcome(self.callers.candidates_of_service(name))
    }

    /// The same for the gateway, which this route leads here: only a `forbid` speaks against it.
    pub fn gateway(&self, route: &PolicyRef) -> Outcome {
        let candidates = self.callers.candidates_of_service(GATEWAY);
        self.callers.outcome_of_forbids(candidates, route)
    }
}
