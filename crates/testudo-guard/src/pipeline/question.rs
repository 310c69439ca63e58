//! The two questions: may this user, may this caller (DESIGN §4)? Asked on the head, or, where a policy
//! reads the body, when that is complete.

use std::net::IpAddr;
use std::sync::Arc;

use testudo_model::{Hop, Reason};

use super::identity::unauthenticated;
use super::judge::Judge;
use crate::authn::User;
use crate::authz::{Decision, Facts};
use crate::now::Now;
use crate::peer::Caller;
use crate::record::Denial;
use crate::schema::{Operation, Values, Violation};
use crate::snapshot::{ActsAlone, Service, Snapshot, UserRule};

/// Who asks, and from where.
pub(super) struct Questions<'a> {
    pub(super) hop: Hop,
    pub(super) source_ip: Option<IpAddr>,
    pub(super) user: Option<&'a Arc<User>>,
    pub(super) caller: Option<&'a Caller>,
}

/// Which questions are (still) to be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    pub(super) user: UserQuestion,
    pub(super) caller: CallerQuestion,
}

/// What is asked of the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum UserQuestion {
    /// Nothing, for this reason; without one it was asked before.
    #[default]
    Nothing,
    /// Skipped, and `why` shows it.
    Skip(&'static str),
    /// A user must travel along and none does.
    Missing,
    /// Whether the user may.
    Ask,
}

/// What is asked of the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum CallerQuestion {
    /// Nothing: there is no caller at the edge, or it was asked before.
    #[default]
    Nothing,
    /// Whether a policy permits.
    Ask,
    /// Whether no policy forbids: for the gateway, which this route leads here.
    AskForbids(testudo_model::PolicyRef),
    /// The gateway has no route here.
    NoRoute,
}

impl Asked {
    pub(super) fn is_empty(&self) -> bool {
        self.user == UserQuestion::Nothing && self.caller == CallerQuestion::Nothing
    }
}

impl Questions<'_> {
    /// What has to be asked, by `users:`, by the service's `user:` and by the caller's `acts_alone`.
    pub(super) fn plan(
        &self,
        snapshot: &Snapshot,
        service: &Service,
        operation: &Operation,
    ) -> Asked {
        Asked {
            user: self.plan_user(snapshot, service, operation),
            caller: match self.caller {
                None => CallerQuestion::Nothing,
                Some(Caller::Gateway) => service
                    .route
                    .clone()
                    .map_or(CallerQuestion::NoRoute, CallerQuestion::AskForbids),
                Some(Caller::Service(_) | Caller::Unknown) => CallerQuestion::Ask,
            },
        }
    }

    fn plan_user(
        &self,
        snapshot: &Snapshot,
        service: &Service,
        operation: &Operation,
    ) -> UserQuestion {
        if snapshot.users.is_none() {
            return UserQuestion::Skip("the bundle has no users");
        }
        match (service.user, self.user) {
            (UserRule::Ignore, _) => UserQuestion::Skip("the service ignores users"),
            (UserRule::Optional, None) => UserQuestion::Skip("no user came along"),
            (UserRule::Optional, Some(user)) if user.is_anonymous() => {
                UserQuestion::Skip("no user came along")
            }
            (UserRule::Authorize | UserRule::Require, None) => {
                if self.acts_alone(snapshot, &operation.id) {
                    UserQuestion::Skip("the caller acts alone")
                } else {
                    UserQuestion::Missing
                }
            }
            (UserRule::Require, Some(_)) => UserQuestion::Skip("only the caller is judged"),
            (UserRule::Authorize | UserRule::Optional, Some(_)) => UserQuestion::Ask,
        }
    }

    fn acts_alone(&self, snapshot: &Snapshot, operation: &str) -> bool {
        let Some(Caller::Service(name)) = self.caller else {
            return false;
        };
        match snapshot.services.get(name).map(|caller| &caller.acts_alone) {
            Some(ActsAlone::Always) => true,
            Some(ActsAlone::Operations(operations)) => operations.contains(operation),
            Some(ActsAlone::Never) | None => false,
        }
    }

    /// Asks what the head can answer; returns what needs the body. The user comes first and so names
    /// the reason.
    pub(super) fn ask(
        &self,
        mut asked: Asked,
        operation: &Operation,
        values: &Values,
        violation: Option<&Violation>,
        judge: &mut Judge<'_>,
        now: Now,
    ) -> Result<Asked, Denial> {
        let waits = values.body.is_none();
        let policies = &operation.policies;
        if !(waits && asked.user == UserQuestion::Ask && policies.user_reads_body()) {
            let question = std::mem::take(&mut asked.user);
            self.ask_user(question, operation, values, violation, judge, now)?;
        }
        let asks_caller = matches!(
            asked.caller,
            CallerQuestion::Ask | CallerQuestion::AskForbids(_)
        );
        if !(waits && asks_caller && policies.caller_reads_body()) {
            let question = std::mem::take(&mut asked.caller);
            self.ask_caller(question, operation, values, violation, judge, now)?;
        }
        Ok(asked)
    }

    fn ask_user(
        &self,
        question: UserQuestion,
        operation: &Operation,
        values: &Values,
        violation: Option<&Violation>,
        judge: &mut Judge<'_>,
        now: Now,
    ) -> Result<(), Denial> {
        match question {
            UserQuestion::Nothing => return Ok(()),
            UserQuestion::Skip(why) => {
                judge.skip("user", why);
                return Ok(());
            }
            UserQuestion::Missing => {
                let detail = "no user came along";
                return judge.fail("user", unauthenticated(Reason::AuthnMissing, detail));
            }
            UserQuestion::Ask => {}
        }
        let (policy, detail) = match operation.policies.user(&self.facts(now), values) {
            Decision::Permit(policy) => {
                judge.pass("user", "", Some(&policy));
                judge.record().policy.get_or_insert(policy);
                return Ok(());
            }
            Decision::Forbid(policy) => (Some(policy), "a policy forbids it to the user"),
            Decision::Default => (None, "no policy permits it to the user"),
            Decision::Error { policy, detail } => {
                return judge.fail("user", failed(violation, policy, detail));
            }
        };
        let anonymous = self.user.is_none_or(|user| user.is_anonymous());
        let denial = if anonymous {
            unauthenticated(Reason::AuthnMissing, detail)
        } else {
            Denial::new(Reason::AuthzUser, detail)
        };
        judge.fail("user", denial.with_policy(policy))
    }

    fn ask_caller(
        &self,
        question: CallerQuestion,
        operation: &Operation,
        values: &Values,
        violation: Option<&Violation>,
        judge: &mut Judge<'_>,
        now: Now,
    ) -> Result<(), Denial> {
        let refuse = |detail: &'static str| Denial::new(Reason::AuthzCaller, detail);
        let route = match question {
            CallerQuestion::Nothing => return Ok(()),
            CallerQuestion::NoRoute => {
                return judge.fail("caller", refuse("no route leads the gateway here"));
            }
            CallerQuestion::Ask => None,
            CallerQuestion::AskForbids(route) => Some(route),
        };
        let denial = match (operation.policies.caller(&self.facts(now), values), route) {
            (Decision::Permit(policy), _) => {
                judge.pass("caller", "", Some(&policy));
                judge.record().policy.get_or_insert(policy);
                return Ok(());
            }
            (Decision::Default, Some(route)) => {
                judge.pass("caller", "by its route", Some(&route));
                return Ok(());
            }
            (Decision::Default, None) => refuse("no policy permits it to the caller"),
            (Decision::Forbid(policy), _) => {
                refuse("a policy forbids it to the caller").with_policy(Some(policy))
            }
            (Decision::Error { policy, detail }, _) => failed(violation, policy, detail),
        };
        judge.fail("caller", denial)
    }

    fn facts(&self, now: Now) -> Facts<'_> {
        Facts {
            source_ip: self.source_ip,
            now,
            hop: self.hop,
            user: self.user,
            caller: self.caller,
        }
    }
}

/// A policy that failed for want of a value that could not be decoded: then that is the reason.
fn failed(
    violation: Option<&Violation>,
    policy: Option<testudo_model::PolicyRef>,
    detail: String,
) -> Denial {
    match violation {
        Some(violation) => Denial::new(violation.reason, violation.detail.clone())
            .with_policy(violation.source.clone()),
        None => Denial::new(Reason::AuthzError, detail).with_policy(policy),
    }
}
