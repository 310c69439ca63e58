//! Entities that policies write out: each must exist.

use std::sync::Arc;

use cedar_policy_core::ast::{EntityUID, ExprKind, Literal, Policy};

use super::{Context, Wrong};
use crate::cedar::CompiledPolicy;
use crate::cedar::suggest::{list, nearest};
use crate::diagnostic::{Diagnostic, Diagnostics, Fix, Severity, Span};

/// Reports every entity that no request can bring.
pub(in crate::cedar) fn literals(
    policies: &[CompiledPolicy],
    context: &Context<'_>,
    diagnostics: &mut Diagnostics,
) -> Wrong {
    let mut wrong = Wrong::default();
    for (index, policy) in policies.iter().enumerate() {
        for uid in written_out(&policy.rule.policy) {
            if is_of_unread_api(&uid, context) {
                wrong.add(index, uid.loc());
                continue;
            }
            let Some(problem) = judge(&uid, context) else {
                continue;
            };
            if !wrong.has_place(index, uid.loc()) {
                diagnostics.list.push(problem.at(policy, &uid));
            }
            wrong.add(index, uid.loc());
        }
    }
    wrong
}

/// The entities of a policy's scope and conditions.
fn written_out(policy: &Policy) -> Vec<Arc<EntityUID>> {
    let principal = policy.principal_constraint();
    let resource = policy.resource_constraint();
    let mut uids: Vec<Arc<EntityUID>> = Vec::new();
    uids.extend(principal.as_inner().get_euid().cloned());
    uids.extend(
        policy
            .action_constraint()
            .iter_euids()
            .map(|uid| Arc::new(uid.clone())),
    );
    uids.extend(resource.as_inner().get_euid().cloned());
    if let Some(condition) = policy.non_scope_constraints() {
        uids.extend(condition.subexpressions().filter_map(
            |expression| match expression.expr_kind() {
                ExprKind::Lit(Literal::EntityUID(uid)) => Some(uid.clone()),
                _ => None,
            },
        ));
    }
    uids
}

/// Whether it belongs to a service whose specification could not be read: that is said already, and
/// what it has nobody knows.
fn is_of_unread_api(uid: &EntityUID, context: &Context<'_>) -> bool {
    let id: &str = uid.eid().as_ref();
    let service = match uid.entity_type().to_string().as_str() {
        "Action" => id.split_once(':').map_or(id, |(service, _)| service),
        "Api" => id,
        _ => return false,
    };
    context.config.services.contains_key(service) && !context.apis.contains_key(service)
}

struct Problem {
    code: &'static str,
    message: String,
    hint: Option<String>,
    replacement: Option<Replacement>,
}

enum Replacement {
    /// Of the text between the quotes.
    Id(String),
    /// Of the type and the text.
    Whole(String),
}

impl Problem {
    fn new(code: &'static str, message: String) -> Self {
        Problem {
            code,
            message,
            hint: None,
            replacement: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn replace(mut self, replacement: Replacement) -> Self {
        self.replacement = Some(replacement);
        self
    }

    /// Suggests one name, or lists all of them.
    fn suggest<'a>(self, written: &str, known: impl Iterator<Item = &'a str> + Clone) -> Self {
        match nearest(written, known.clone()) {
            Some(name) => self.hint(name).replace(Replacement::Id(name.to_owned())),
            None => {
                let names = list(known);
                if names.is_empty() {
                    self
                } else {
                    self.hint(format!("there are: {names}"))
                }
            }
        }
    }

    fn at(self, policy: &CompiledPolicy, uid: &EntityUID) -> Diagnostic {
        let whole = policy.source.span_of(uid.loc());
        let id = id_span(policy, uid).unwrap_or_else(|| whole.clone());
        let fix = self.replacement.map(|replacement| match replacement {
            Replacement::Id(text) => Fix {
                span: id.clone(),
                replacement: text,
            },
            Replacement::Whole(text) => Fix {
                span: whole.clone(),
                replacement: text,
            },
        });
        let span = match &fix {
            Some(fix) if fix.span == whole => whole,
            _ => id,
        };
        Diagnostic {
            severity: Severity::Error,
            code: self.code,
            message: self.message,
            span,
            hint: self.hint,
            fix,
        }
    }
}

/// Where the text between the quotes of `Type::"text"` stands.
fn id_span(policy: &CompiledPolicy, uid: &EntityUID) -> Option<Span> {
    let loc = uid.loc()?;
    let text = policy.source.text_of(Some(loc));
    let start = text.find('"')? + 1;
    let end = text.rfind('"')?;
    (start < end).then(|| policy.source.span(loc.start() + start, loc.start() + end))
}

fn judge(uid: &EntityUID, context: &Context<'_>) -> Option<Problem> {
    let id: &str = uid.eid().as_ref();
    match uid.entity_type().to_string().as_str() {
        "Action" => action(id, context),
        "Role" => role(id, context),
        "ServiceRole" => service_role(id, context),
        "Service" => {
            let known = context.vocabulary.services.iter().map(AsRef::as_ref);
            (!context.vocabulary.services.contains(id)).then(|| {
                Problem::new("ref.unknown", format!("there is no service {id}")).suggest(id, known)
            })
        }
        "Api" => {
            let known = context.apis.keys().map(AsRef::as_ref);
            (!context.apis.contains_key(id)).then(|| {
                Problem::new("ref.unknown", format!("there is no service {id}")).suggest(id, known)
            })
        }
        "User" => user(id, context),
        "Anonymous" => (id != "anonymous").then(|| {
            Problem::new("policy.never", "there is one Anonymous".into())
                .hint("Anonymous::\"anonymous\"")
                .replace(Replacement::Id("anonymous".into()))
        }),
        // Cedar says that there is no such type.
        _ => None,
    }
}

fn role(id: &str, context: &Context<'_>) -> Option<Problem> {
    let known = context.vocabulary.roles.as_ref()?;
    if known.contains(id) {
        return None;
    }
    let problem = Problem::new("role.never", format!("no user can have the role {id}"));
    if context.vocabulary.service_roles.contains(id) {
        let meant = format!("ServiceRole::\"{id}\"");
        return Some(
            problem
                .hint(format!("{meant}: {id} is a role of services"))
                .replace(Replacement::Whole(meant)),
        );
    }
    if known.is_empty() {
        return Some(
            problem.hint("no issuer and no API key gives a role; see users: in testudo.yaml"),
        );
    }
    Some(problem.suggest(id, known.iter().map(AsRef::as_ref)))
}

fn service_role(id: &str, context: &Context<'_>) -> Option<Problem> {
    let known = &context.vocabulary.service_roles;
    if known.contains(id) {
        return None;
    }
    let problem = Problem::new("role.never", format!("no service has the role {id}"));
    let users = context.vocabulary.roles.as_ref();
    if users.is_some_and(|roles| roles.contains(id)) {
        let meant = format!("Role::\"{id}\"");
        return Some(
            problem
                .hint(format!("{meant}: {id} is a role of users"))
                .replace(Replacement::Whole(meant)),
        );
    }
    if known.is_empty() {
        return Some(problem.hint("give it to a service: roles: in testudo.yaml"));
    }
    Some(problem.suggest(id, known.iter().map(AsRef::as_ref)))
}

fn user(id: &str, context: &Context<'_>) -> Option<Problem> {
    let issuers = &context.vocabulary.issuers;
    let issuer = id.split_once(':').map(|(issuer, _)| issuer);
    if issuer.is_some_and(|issuer| issuers.contains(issuer)) {
        return None;
    }
    let problem = Problem::new("policy.never", format!("no user can be {id}"));
    let mut known = issuers.iter();
    Some(match (known.next(), known.next()) {
        (Some(only), None) if issuer.is_none() => problem
            .hint(format!("{only}:{id} (users are written ISSUER:ID)"))
            .replace(Replacement::Id(format!("{only}:{id}"))),
        (None, _) => problem.hint("the bundle has no issuer; see users: in testudo.yaml"),
        _ => problem.hint(format!(
            "users are written ISSUER:ID; issuers: {}",
            list(issuers.iter().map(AsRef::as_ref))
        )),
    })
}

fn action(id: &str, context: &Context<'_>) -> Option<Problem> {
    if matches!(id, "read" | "write" | "*") {
        return None;
    }
    let Some((service, name)) = id.split_once(':') else {
        return Some(bare_action(id, context));
    };
    let Some(api) = context.apis.get(service) else {
        let known = context.apis.keys().map(AsRef::as_ref);
        let problem = Problem::new("policy.type", format!("there is no service {service}"));
        return Some(match nearest(service, known.clone()) {
            Some(near) => problem
                .hint(format!("{near}:{name}"))
                .replace(Replacement::Id(format!("{near}:{name}"))),
            None => problem.hint(format!("there are: {}", list(known))),
        });
    };
    let exists = matches!(name, "read" | "write" | "*" | "undocumented")
        || api.operations.iter().any(|known| &*known.name == name);
    if exists {
        return None;
    }
    let groups = ["read", "write", "*", "undocumented"];
    let names = api.operations.iter().map(|known| &*known.name);
    let problem = Problem::new("policy.type", format!("{service} has no operation {name}"));
    Some(match nearest(name, names.clone().chain(groups)) {
        Some(near) => {
            let place = api
                .operations
                .iter()
                .find(|known| &*known.name == near)
                .map(|known| {
                    format!(
                        " ({} {}; {}:{})",
                        known.method, known.template, known.span.file, known.span.line
                    )
                })
                .unwrap_or_default();
            problem
                .hint(format!("{service}:{near}{place}"))
                .replace(Replacement::Id(format!("{service}:{near}")))
        }
        None => problem.hint(format!("it has: {}", list(names.chain(groups)))),
    })
}

/// An action without its service.
fn bare_action(id: &str, context: &Context<'_>) -> Problem {
    let problem = Problem::new("policy.type", format!("there is no action {id}"));
    let called_so: Vec<String> = context
        .operations()
        .filter(|(_, operation)| &*operation.name == id)
        .map(|(api, _)| format!("{}:{id}", api.service))
        .collect();
    match called_so.as_slice() {
        [] => problem.hint("actions are written SERVICE:OPERATION"),
        [only] => problem
            .hint(only.clone())
            .replace(Replacement::Id(only.clone())),
        several => problem.hint(list(several.iter().map(String::as_str))),
    }
}
