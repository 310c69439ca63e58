//! Dead ends: what a user may start at the edge and is then denied on the way.
//!
//! All that is known of who calls whom are the permits that name one service as the principal:
//! `permit (principal == Service::"orders", action == Action::"payments:charge", resource)`. Such a call
//! is a dead end where users can enter the caller, the called service judges users (`user: authorize`),
//! the caller does not act alone there, and nobody who may enter the caller may call the operation. Where
//! anyone of them may, nothing is said: not everything that enters leads on to every call. Conditions
//! count as if they held, a forbid as if it did not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy_core::ast::ActionConstraint;
use testudo_guard::authz::{ActionNames, Who, group_of_method};
use testudo_guard::snapshot::{ActsAlone, UserRule};

use super::suggest::list;
use super::{Compiled, CompiledPolicy};
use crate::api::{ApiModel, OperationModel};
use crate::config::Config;
use crate::diagnostic::Diagnostics;

type Apis = BTreeMap<Arc<str>, ApiModel>;

/// Reports `path.dead_end` for each permit of a call that no user can get through.
pub fn dead_ends(compiled: &Compiled, config: &Config, apis: &Apis, diagnostics: &mut Diagnostics) {
    if config.users.is_none() {
        return;
    }
    let mesh = Mesh {
        compiled,
        config,
        apis,
    };
    let depths = mesh.depths();
    for call in mesh.calls() {
        // A caller that users cannot enter works for nobody.
        let Some(depth) = depths.get(&call.caller) else {
            continue;
        };
        mesh.judge(&call, *depth, diagnostics);
    }
}

struct Mesh<'a> {
    compiled: &'a Compiled,
    config: &'a Config,
    apis: &'a Apis,
}

/// A permit that lets one service call operations of others.
struct Call<'a> {
    policy: &'a CompiledPolicy,
    caller: Arc<str>,
    targets: Vec<Target<'a>>,
    /// Whether it names each operation, not a group: then each must lead on.
    exact: bool,
}

#[derive(Clone)]
struct Target<'a> {
    service: &'a Arc<str>,
    operation: &'a OperationModel,
}

impl Target<'_> {
    fn names(&self) -> ActionNames {
        ActionNames::new(self.service, &self.operation.name, &self.operation.method)
    }
}

/// A way in: who may call which operation of a service.
struct Entry<'a> {
    who: Who,
    operation: &'a OperationModel,
}

impl<'a> Mesh<'a> {
    fn operations(&self) -> impl Iterator<Item = Target<'a>> + use<'a> {
        let apis = self.apis;
        apis.values().flat_map(|api| {
            let operations = api.operations.iter();
            operations.map(|operation| Target {
                service: &api.service,
                operation,
            })
        })
    }

    fn calls(&self) -> Vec<Call<'a>> {
        let compiled = self.compiled;
        let permits = compiled
            .policies
            .iter()
            .filter(|policy| !policy.rule.forbids());
        permits
            .filter_map(|policy| {
                let Who::Service(caller) = &policy.rule.who else {
                    return None;
                };
                self.config.services.get(caller)?;
                let targets = self
                    .operations()
                    .filter(|target| {
                        target.service != caller
                            && policy.rule.may_cover(target.service)
                            && policy.rule.covers(&target.names())
                    })
                    .collect();
                Some(Call {
                    policy,
                    caller: caller.clone(),
                    targets,
                    exact: self.names_each_operation(policy),
                })
            })
            .collect()
    }

    fn names_each_operation(&self, policy: &CompiledPolicy) -> bool {
        let known = |id: &str| {
            id.split_once(':').is_some_and(|(service, name)| {
                self.apis.get(service).is_some_and(|api| {
                    api.operations
                        .iter()
                        .any(|operation| &*operation.name == name)
                })
            })
        };
        match policy.rule.policy.action_constraint() {
            ActionConstraint::Any => false,
            ActionConstraint::Eq(uid) => known(uid.eid().as_ref()),
            ActionConstraint::In(uids) => uids.iter().all(|uid| known(uid.eid().as_ref())),
        }
    }

    /// Services that a user's request can reach, with the number of hops from the gateway.
    fn depths(&self) -> BTreeMap<Arc<str>, usize> {
        let routes = self
            .config
            .gateway
            .iter()
            .flat_map(|gateway| &gateway.routes);
        let mut depths: BTreeMap<Arc<str>, usize> = routes
            .filter_map(|route| route.service())
            .map(|service| (service.clone(), 1))
            .collect();
        let calls = self.calls();
        let mut depth = 1;
        loop {
            let callers: BTreeSet<&Arc<str>> = depths
                .iter()
                .filter(|(_, known)| **known == depth)
                .map(|(service, _)| service)
                .collect();
            let next: Vec<Arc<str>> = calls
                .iter()
                .filter(|call| callers.contains(&call.caller))
                .flat_map(|call| call.targets.iter().map(|target| target.service.clone()))
                .filter(|service| !depths.contains_key(service))
                .collect();
            if next.is_empty() {
                return depths;
            }
            depth += 1;
            depths.extend(next.into_iter().map(|service| (service, depth)));
        }
    }

    fn judge(&self, call: &Call<'_>, depth: usize, diagnostics: &mut Diagnostics) {
        let entries = self.entries(&call.caller);
        if entries.is_empty() {
            return;
        }
        let judged: Vec<&Target<'_>> = call
            .targets
            .iter()
            .filter(|target| self.judges_users(&call.caller, target))
            .collect();
        let dead: Vec<&Target<'_>> = judged
            .iter()
            .copied()
            .filter(|target| {
                let admitted = self.admitted(target);
                !entries
                    .iter()
                    .any(|entry| admitted.iter().any(|who| overlap(&entry.who, who)))
            })
            .collect();
        if dead.is_empty() || (!call.exact && dead.len() < judged.len()) {
            return;
        }
        let nobody = dead.iter().all(|target| self.admitted(target).is_empty());
        let ids: Vec<String> = dead
            .iter()
            .map(|target| format!("{}:{}", target.service, target.operation.name))
            .collect();
        let ids_text = list(ids.iter().map(String::as_str));
        let caller = &call.caller;
        let message = if nobody {
            format!("{caller} calls {ids_text} for users, but no role may")
        } else {
            format!("{caller} calls {ids_text} for users, but nobody who may enter {caller} may")
        };
        let hint = hint(&entries, &dead, &ids, depth);
        diagnostics.error("path.dead_end", &call.policy.head(), message, hint);
    }

    /// Whether the called service asks for the user of this call.
    fn judges_users(&self, caller: &str, target: &Target<'_>) -> bool {
        let asks = self
            .config
            .services
            .get(target.service)
            .is_some_and(|service| service.user == UserRule::Authorize);
        let id = target.names().operation;
        let alone = match self
            .config
            .services
            .get(caller)
            .map(|caller| &caller.acts_alone)
        {
            Some(ActsAlone::Always) => true,
            Some(ActsAlone::Operations(operations)) => operations.contains(&id),
            Some(ActsAlone::Never) | None => false,
        };
        asks && !alone
    }

    /// Who may call an operation, as far as scopes say.
    fn admitted(&self, target: &Target<'_>) -> Vec<Who> {
        let names = target.names();
        let permits = self.compiled.policies.iter().map(|policy| &policy.rule);
        permits
            .filter(|rule| !rule.forbids() && is_user(&rule.who) && rule.covers(&names))
            .map(|rule| rule.who.clone())
            .collect()
    }

    /// How users can enter a service. One that does not judge them lets everyone in; one that ignores
    /// them does not send them on.
    fn entries(&self, service: &Arc<str>) -> Vec<Entry<'a>> {
        let rule = self
            .config
            .services
            .get(service)
            .map(|service| service.user);
        let own = self.operations().filter(|target| target.service == service);
        match rule {
            Some(UserRule::Authorize) => own
                .flat_map(|target| {
                    let admitted = self.admitted(&target);
                    admitted.into_iter().map(move |who| Entry {
                        who,
                        operation: target.operation,
                    })
                })
                .collect(),
            Some(UserRule::Require | UserRule::Optional) => own
                .map(|target| Entry {
                    who: Who::Everyone,
                    operation: target.operation,
                })
                .collect(),
            Some(UserRule::Ignore) | None => Vec::new(),
        }
    }
}

fn is_user(who: &Who) -> bool {
    matches!(
        who,
        Who::Everyone | Who::Users | Who::User(_) | Who::Role(_) | Who::Anonymous
    )
}

/// Whether somebody can be both. Two roles count as apart: who has one of them alone is stuck.
fn overlap(one: &Who, other: &Who) -> bool {
    match (one, other) {
        (Who::Everyone, _) | (_, Who::Everyone) => true,
        (Who::Anonymous, other) | (other, Who::Anonymous) => *other == Who::Anonymous,
        (Who::Role(one), Who::Role(other)) => one == other,
        (Who::User(one), Who::User(other)) => one == other,
        // A user may have any role.
        _ => true,
    }
}

/// Who gets stuck where, and the policy that would let them through.
fn hint(entries: &[Entry<'_>], dead: &[&Target<'_>], ids: &[String], depth: usize) -> String {
    let group = dead
        .first()
        .map(|target| group_of_method(&target.operation.method));
    let rank = |entry: &&Entry<'_>| {
        let role = !matches!(entry.who, Who::Role(_));
        (
            Some(group_of_method(&entry.operation.method)) != group,
            role,
        )
    };
    let Some(entry) = entries.iter().min_by_key(rank) else {
        return String::new();
    };
    let (who, principal) = match &entry.who {
        Who::Role(role) => (format!("{role}s"), format!("principal in Role::\"{role}\"")),
        Who::User(id) => (id.to_string(), format!("principal == User::\"{id}\"")),
        Who::Anonymous => (
            "anonymous users".to_owned(),
            "principal is Anonymous".to_owned(),
        ),
        _ => ("users".to_owned(), "principal is User".to_owned()),
    };
    let action = match ids {
        [only] => format!("action == Action::\"{only}\""),
        several => {
            let actions: Vec<String> = several
                .iter()
                .map(|id| format!("Action::\"{id}\""))
                .collect();
            format!("action in [{}]", actions.join(", "))
        }
    };
    let start = if depth == 1 {
        format!("{who} pass the edge at {}", entry.operation.name)
    } else {
        format!("{who} pass at {}", entry.operation.name)
    };
    format!(
        "{start}, then fail {} in. Add:\npermit ({principal}, {action}, resource);",
        hops(depth + 1)
    )
}

fn hops(number: usize) -> String {
    let words = ["no hops", "one hop", "two hops", "three hops", "four hops"];
    words
        .get(number)
        .map_or_else(|| format!("{number} hops"), |word| (*word).to_owned())
}
