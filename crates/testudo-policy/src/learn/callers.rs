//! What services did: which calls between them become permits.
//!
//! Calls for users who may not call the operation do not count: they are what an attacker at the edge made the caller do.

use std::collections::BTreeMap;

use testudo_guard::authz::GATEWAY;
use testudo_guard::snapshot::UserRule;
use testudo_model::Reason;

use super::evidence::times;
use super::gather::{Gatherer, Wanted};
use super::observed::{Call, CallKey, Calls, Identity};
use super::render::subject;
use super::{LeftOut, Principal};

/// Operation and caller.
type Edge<'c> = (&'c str, &'c str);

/// The calls between services.
#[derive(Default)]
struct Edges<'c> {
    calls: BTreeMap<Edge<'c>, Call>,
    /// Requests that lacked a user.
    without_user: BTreeMap<Edge<'c>, u64>,
    /// Requests for users who may not call the operation.
    for_nobody: BTreeMap<Edge<'c>, u64>,
}

impl<'a> Gatherer<'a> {
    /// What is to be permitted to services. Comes after the users: see the head of this file.
    pub(super) fn callers(&mut self, calls: &Calls, wanted: &mut Vec<Wanted<'a>>) {
        let edges = self.edges(calls);
        for ((id, caller), count) in &edges.for_nobody {
            if !edges.calls.contains_key(&(*id, *caller)) {
                let why = format!(
                    "{}, only for users who may not do it (see there)",
                    times(*count)
                );
                self.left_out_edge((id, caller), why);
            }
        }
        for ((id, caller), count) in edges.without_user {
            self.left_out_edge(
                (id, caller),
                format!(
                    "{} no user came along: {caller} must pass Txn-Token on; for jobs of its own: services.{caller}.acts_alone: [{id}]",
                    times(count)
                ),
            );
        }
        for ((id, caller), call) in edges.calls {
            let Some((service, operation)) = self.find(id) else {
                self.left_out_unknown(id, call.counts.total());
                continue;
            };
            let count = call.counts.total();
            if !self.config.services.contains_key(caller) {
                let why = format!(
                    "{}, by an identity that is no service of the bundle",
                    times(count)
                );
                self.left_out_edge((id, caller), why);
                continue;
            }
            let principal = Principal::Service(caller.to_owned());
            let policies = self.policies;
            let outcome = self.outlook(service, operation, |outlook| {
                policies.caller_outcome(outlook, caller)
            });
            if self.is_learnable(service, operation, &principal, &call, outcome) {
                wanted.push(Wanted {
                    principal,
                    service,
                    operation,
                    call,
                    notes: Vec::new(),
                });
            }
        }
    }

    fn edges<'c>(&self, calls: &'c Calls) -> Edges<'c> {
        let mut edges = Edges::default();
        for (key, call) in calls.iter().filter(|(key, _)| self.is_asked_for(key)) {
            let Some(caller) = key.caller.as_deref().filter(|caller| *caller != GATEWAY) else {
                continue;
            };
            let edge = (key.operation.as_str(), caller);
            if self.is_for_nobody(key) {
                *edges.for_nobody.entry(edge).or_default() += call.counts.total();
                continue;
            }
            let known = edges.calls.entry(edge);
            known
                .and_modify(|known| known.merge(call))
                .or_insert_with(|| call.clone());
            let missing = [&call.reported_for, &call.denied_for];
            let missing = missing.map(|reasons| reasons.get(&Reason::AuthnMissing));
            let missing: u64 = missing.into_iter().flatten().sum();
            if key.identity == Identity::None && missing > 0 {
                *edges.without_user.entry(edge).or_default() += missing;
            }
        }
        edges
    }

    /// Whether a call is for users whom the called service would refuse.
    fn is_for_nobody(&self, key: &CallKey) -> bool {
        let Some((service, _)) = self.find(&key.operation) else {
            return false;
        };
        let judged = match (&key.identity, service.user) {
            _ if self.config.users.is_none() => false,
            (Identity::None, _) => false,
            (Identity::Anonymous, rule) => rule == UserRule::Authorize,
            (Identity::Roles(_), rule) => {
                matches!(rule, UserRule::Authorize | UserRule::Optional)
            }
        };
        let asked = (key.operation.clone(), key.identity.clone());
        judged && !self.passing.contains(&asked)
    }

    fn left_out_edge(&mut self, (id, caller): Edge<'_>, why: String) {
        self.left_out(LeftOut {
            service: id.split(':').next().unwrap_or_default().to_owned(),
            what: subject(&Principal::Service(caller.to_owned()), id),
            why,
            permit: None,
        });
    }
}
