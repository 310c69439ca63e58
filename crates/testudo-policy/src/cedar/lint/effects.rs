//! Policies that are well-formed and do nothing, or more than they seem to.

use cedar_policy_core::ast::{ActionConstraint, EntityReference, PrincipalOrResourceConstraint};
use testudo_guard::authz::{ActionNames, GATEWAY, Who};
use testudo_guard::schema::Undocumented;
use testudo_guard::snapshot::UserRule;

use super::{Context, Wrong};
use crate::api::{ApiModel, OperationModel};
use crate::cedar::CompiledPolicy;
use crate::cedar::suggest::list;
use crate::diagnostic::{Diagnostics, Fix};

/// Reports them; nothing is said about policies that have a mistake already.
pub(in crate::cedar) fn effects(
    policies: &[CompiledPolicy],
    context: &Context<'_>,
    wrong: &Wrong,
    diagnostics: &mut Diagnostics,
) {
    for (index, policy) in policies.iter().enumerate() {
        if wrong.has_policy(index) {
            continue;
        }
        let covered = context.covered(&policy.rule);
        if outside_its_folder(policy, context, diagnostics)
            || never(policy, context, &covered, diagnostics)
        {
            continue;
        }
        reads_streamed_body(policy, &covered, diagnostics);
        never_asked(policy, context, &covered, diagnostics);
        if policy.rule.who == Who::Everyone && !policy.rule.forbids() {
            diagnostics.warning(
                "policy.unconstrained",
                &policy.head(),
                "this permits everyone: users in any role, anonymous users and every service",
                "write `principal is User`, `principal is Anonymous`, `principal is Service` or a role".to_owned(),
            );
        }
    }
}

/// `policies/SERVICE/*.cedar` may name that service's operations only: other proxies never see it.
fn outside_its_folder(
    policy: &CompiledPolicy,
    context: &Context<'_>,
    diagnostics: &mut Diagnostics,
) -> bool {
    let Some(only) = &policy.rule.only else {
        return false;
    };
    if !context.config.services.contains_key(only) {
        return true; // `source` says so.
    }
    let others = |api: &ApiModel| {
        let undocumented = ActionNames::undocumented(&api.service);
        let operation = api
            .operations
            .iter()
            .map(|operation| ActionNames::new(&api.service, &operation.name, &operation.method));
        operation
            .chain([undocumented])
            .any(|names| policy.rule.scope_covers(&names))
    };
    let reached: Vec<&str> = context
        .apis
        .values()
        .filter(|api| api.service != *only && others(api))
        .map(|api| &*api.service)
        .collect();
    if reached.is_empty() {
        return false;
    }
    diagnostics.error(
        "policy.never",
        &policy.head(),
        format!(
            "a policy in the folder of {only} cannot apply to {}",
            list(reached)
        ),
        format!(
            "write `action in Action::\"{only}:*\"` or `resource == Api::\"{only}\"`, or move it up one folder"
        ),
    );
    true
}

/// The scope contradicts itself.
fn never(
    policy: &CompiledPolicy,
    context: &Context<'_>,
    covered: &[(&ApiModel, &OperationModel)],
    diagnostics: &mut Diagnostics,
) -> bool {
    if is_with_group(policy, diagnostics) {
        return true;
    }
    if policy.rule.who == Who::Nobody {
        diagnostics.error(
            "policy.never",
            &policy.head(),
            "no principal can match: users are in Role, services in ServiceRole",
            "write `principal in Role::\"…\"` or `principal in ServiceRole::\"…\"`".to_owned(),
        );
        return true;
    }
    if !covered.is_empty() {
        return false;
    }
    let undocumented: Vec<&str> = context
        .apis
        .keys()
        .filter(|service| policy.rule.covers(&ActionNames::undocumented(service)))
        .map(AsRef::as_ref)
        .collect();
    let reachable = undocumented.iter().any(|service| {
        context
            .config
            .services
            .get(*service)
            .is_some_and(|service| {
                service.api.openapi.is_some() && service.api.undocumented != Undocumented::Deny
            })
    });
    if reachable {
        return false;
    }
    let (message, hint) = match undocumented.first() {
        Some(service) => (
            format!(
                "{service} refuses what its specification does not have: this can match nothing"
            ),
            format!("set services.{service}.api.undocumented to report or allow"),
        ),
        None => (
            "no operation has this action on this resource".to_owned(),
            "the operations of a service have that service's Api as their resource".to_owned(),
        ),
    };
    diagnostics.error("policy.never", &policy.head(), message, hint);
    true
}

/// `==` with something that has members: only `in` reaches them.
fn is_with_group(policy: &CompiledPolicy, diagnostics: &mut Diagnostics) -> bool {
    let rule = &policy.rule.policy;
    let principal = rule.principal_constraint();
    let role = match principal.as_inner() {
        PrincipalOrResourceConstraint::Eq(EntityReference::EUID(uid)) => Some(uid).filter(|uid| {
            matches!(
                uid.entity_type().to_string().as_str(),
                "Role" | "ServiceRole"
            )
        }),
        _ => None,
    };
    let group = match rule.action_constraint() {
        ActionConstraint::Eq(uid) => Some(uid).filter(|uid| {
            let id: &str = uid.eid().as_ref();
            matches!(id.rsplit(':').next(), Some("read" | "write" | "*"))
        }),
        _ => None,
    };
    let Some(uid) = role.or(group) else {
        return false;
    };
    let place = uid
        .loc()
        .and_then(|loc| policy.source.operator_before(loc.start(), "=="));
    diagnostics.error(
        "policy.never",
        &place.clone().unwrap_or_else(|| policy.head()),
        format!("nothing is {uid} itself: it has members"),
        format!("in {uid}"),
    );
    if let (Some(last), Some(span)) = (diagnostics.list.last_mut(), place) {
        last.fix = Some(Fix {
            span,
            replacement: "in".to_owned(),
        });
    }
    true
}

fn reads_streamed_body(
    policy: &CompiledPolicy,
    covered: &[(&ApiModel, &OperationModel)],
    diagnostics: &mut Diagnostics,
) {
    if !policy.rule.reads.body {
        return;
    }
    let streamed: Vec<String> = covered
        .iter()
        // Without fields in the specification there is no `context.body` at all: the types say so.
        .filter(|(_, operation)| operation.streamed && !operation.body.is_empty())
        .map(|(api, operation)| format!("{}:{}", api.service, operation.name))
        .collect();
    if !streamed.is_empty() {
        diagnostics.error(
            "policy.type",
            &policy.head(),
            format!(
                "this reads the body of {}, which is streamed and never complete",
                list(streamed.iter().map(String::as_str))
            ),
            "decide by params or headers there".to_owned(),
        );
    }
}

/// The policy could match, but nobody asks the question that it answers.
fn never_asked(
    policy: &CompiledPolicy,
    context: &Context<'_>,
    covered: &[(&ApiModel, &OperationModel)],
    diagnostics: &mut Diagnostics,
) {
    let rule = &policy.rule;
    let about_users = matches!(
        rule.who,
        Who::Users | Who::User(_) | Who::Role(_) | Who::Anonymous
    );
    if rule.who == Who::Service(GATEWAY.into()) && !rule.forbids() {
        diagnostics.warning(
            "policy.never",
            &policy.head(),
            "a route permits the gateway already; only a forbid on it counts",
            "remove the policy".to_owned(),
        );
    }
    if !about_users || covered.is_empty() {
        return;
    }
    if context.config.users.is_none() {
        diagnostics.warning(
            "policy.never",
            &policy.head(),
            "the bundle has no users: this is never asked",
            "add `users:` to testudo.yaml, or write `principal is Service`".to_owned(),
        );
        return;
    }
    let unasked = |api: &ApiModel| {
        context
            .config
            .services
            .get(&api.service)
            .is_some_and(|service| matches!(service.user, UserRule::Require | UserRule::Ignore))
    };
    if covered.iter().all(|(api, _)| unasked(api)) {
        let mut services: Vec<&str> = covered.iter().map(|(api, _)| &*api.service).collect();
        services.dedup();
        diagnostics.warning(
            "policy.never",
            &policy.head(),
            format!(
                "users are not judged at {}: this is never asked",
                list(services)
            ),
            "set `user: authorize` there, or remove the policy".to_owned(),
        );
    }
}
