//! Reads of what is not there, or may not be, said in the words of the specification.

use std::collections::BTreeSet;

use cedar_policy_core::validator::validation_errors::AttributeAccess;

use super::super::lint::Context;
use super::super::schema;
use super::super::suggest::{list, nearest};
use super::id_of;
use crate::api::{Location, OperationModel, ValueKind};
use crate::diagnostic::Span;

/// What `context` has.
const PARTS: [&str; 8] = [
    "params",
    "headers",
    "body",
    "source_ip",
    "time",
    "hop",
    "user",
    "caller",
];

/// One read of an attribute that is missing, or may be.
pub(super) struct Access {
    of: Of,
    /// From the outermost: `["params", "customerId"]`.
    path: Vec<String>,
    optional: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Operation(String),
    Entity(String),
    Other,
}

/// What is wrong and what to write instead.
pub(super) struct Explained {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// Instead of the attribute's name.
    pub(super) replacement: Option<String>,
}

impl Explained {
    fn new(message: String) -> Self {
        Explained {
            message,
            hint: None,
            replacement: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The name that was meant, with more about it for people.
    fn meant(self, name: &str, about: &str) -> Self {
        Explained {
            replacement: Some(name.to_owned()),
            ..self.hint(format!("{name}{about}"))
        }
    }
}

impl Access {
    /// As Cedar reports it.
    pub(super) fn new(access: &AttributeAccess, optional: bool) -> Self {
        let (of, path) = match access {
            AttributeAccess::Context(action, path) => (Of::Operation(id_of(action)), path),
            AttributeAccess::EntityLUB(lub, path) => {
                let name = lub.get_single_entity().map(ToString::to_string);
                (Of::Entity(name.unwrap_or_default()), path)
            }
            AttributeAccess::Other(path) => (Of::Other, path),
        };
        let path = path.iter().rev().map(ToString::to_string).collect();
        Access { of, path, optional }
    }

    /// The attribute's own name.
    pub(super) fn attribute(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    fn group(&self) -> &str {
        self.path.first().map_or("", String::as_str)
    }
}

/// Explains the reads of one place: the same one for several operations and kinds of principals.
pub(super) fn explain(mut accesses: Vec<Access>, context: &Context<'_>) -> Option<Explained> {
    accesses.sort_by(|a, b| (a.optional, &a.of).cmp(&(b.optional, &b.of)));
    let first = accesses.first()?;
    Some(match &first.of {
        Of::Operation(_) => explain_context(first, &accesses, context),
        Of::Entity(kind) if first.optional => explain_optional(first, kind),
        Of::Entity(kind) => explain_entity(first, kind, context),
        Of::Other => Explained::new(format!("there is no attribute {}", first.path.join("."))),
    })
}

fn explain_context(first: &Access, all: &[Access], context: &Context<'_>) -> Explained {
    let name = first.attribute();
    let operations: BTreeSet<&str> = all
        .iter()
        .filter(|access| access.optional == first.optional)
        .filter_map(|access| match &access.of {
            Of::Operation(id) => Some(id.as_str()),
            Of::Entity(_) | Of::Other => None,
        })
        .collect();
    let who = list(operations.iter().copied());
    if first.optional {
        let what = if first.path.len() == 1 {
            format!("context.{name}")
        } else {
            format!("{name} of {who}")
        };
        let test = format!("context{} has {}", dotted(&first.path), quoted(name));
        return Explained::new(format!("{what} is optional"))
            .hint(format!("test it first: {test} && …"));
    }
    let has = if operations.len() == 1 { "has" } else { "have" };
    if first.path.len() == 1 {
        return explain_part(name, &format!("{who} {has}"));
    }
    let what = match first.group() {
        "headers" => "declared header",
        "body" => "body field",
        _ => "parameter",
    };
    let message = format!("{who} {has} no {what} {name}");
    let operation = operations.first().and_then(|id| operation(id, context));
    if let Some(reason) = operation.and_then(|known| unreadable(known, first.group(), name)) {
        return Explained::new(format!("{message}: {reason}"));
    }
    let known = operation.map_or(Vec::new(), |operation| readable(operation, first.group()));
    let explained = Explained::new(message);
    let names = || known.iter().map(|(name, _)| *name);
    match nearest(name, names()) {
        Some(near) => {
            let about = known.iter().find(|(name, _)| *name == near);
            explained.meant(near, about.map_or("", |(_, about)| about))
        }
        None if known.is_empty() => explained,
        None => explained.hint(format!("there are: {}", list(names()))),
    }
}

/// A part of `context` that does not exist.
fn explain_part(name: &str, who_has: &str) -> Explained {
    if name == "body" {
        return Explained::new(format!("{who_has} no JSON body with top-level scalars"));
    }
    let explained = Explained::new(format!("context has no {name}"));
    match nearest(name, PARTS) {
        Some(near) => explained.meant(near, ""),
        None => explained.hint(format!(
            "there are: {}; parameters are in context.params",
            PARTS.join(", ")
        )),
    }
}

fn operation<'a>(id: &str, context: &Context<'a>) -> Option<&'a OperationModel> {
    let (service, name) = id.split_once(':')?;
    let operations = &context.apis.get(service)?.operations;
    operations.iter().find(|known| &*known.name == name)
}

/// What policies can read there: the name, and type and place for people.
fn readable<'a>(operation: &'a OperationModel, group: &str) -> Vec<(&'a str, String)> {
    if group == "body" {
        let fields = operation.body.iter();
        return fields
            .map(|field| (&*field.name, about("body", field.kind, &field.span)))
            .collect();
    }
    operation
        .params
        .iter()
        .filter(|param| (param.location == Location::Header) == (group == "headers"))
        .filter(|param| schema::is_readable(param, &operation.params))
        .filter_map(|param| {
            let location = match param.location {
                Location::Path => "path",
                Location::Query => "query",
                Location::Header => "header",
                Location::Cookie => "cookie",
            };
            Some((&*param.name, about(location, param.kind?, &param.span)))
        })
        .collect()
}

fn about(location: &str, kind: ValueKind, span: &Span) -> String {
    let kind = match kind {
        ValueKind::String => "string",
        ValueKind::Long => "integer",
        ValueKind::Decimal => "decimal",
        ValueKind::Bool => "boolean",
        ValueKind::Strings => "list of strings",
    };
    format!(" ({location}, {kind}; {}:{})", span.file, span.line)
}

/// Why something that is declared cannot be read.
fn unreadable(operation: &OperationModel, group: &str, name: &str) -> Option<&'static str> {
    if group == "body" {
        return (operation.body.is_empty()).then_some("its body has no top-level scalars");
    }
    let mut declared = operation.params.iter().filter(|param| &*param.name == name);
    let param = declared.next()?;
    Some(match param.location {
        Location::Cookie => "cookies cannot be read by policies",
        Location::Header if group == "params" => "it is a header: context.headers",
        Location::Path | Location::Query if group == "headers" => {
            "it is a parameter: context.params"
        }
        _ if param.kind.is_none() => "its type is not one that policies can read",
        _ => "two parameters are called so",
    })
}

fn explain_optional(access: &Access, kind: &str) -> Explained {
    let name = access.attribute();
    let (base, what) = match (kind, access.group()) {
        ("User", _) => ("claims", "the claim"),
        _ => ("labels", "the label"),
    };
    Explained::new(format!("{what} {name} may be missing")).hint(format!(
        "test it first: … .{base} has {} && …",
        quoted(name)
    ))
}

fn explain_entity(access: &Access, kind: &str, context: &Context<'_>) -> Explained {
    let name = access.attribute();
    let vocabulary = context.vocabulary;
    let inner = (access.path.len() == 2).then(|| access.group());
    let (message, known): (String, Vec<&str>) = match (kind, inner) {
        ("User", Some("claims")) => (
            format!("no issuer declares the claim {name}"),
            vocabulary.claims.keys().map(AsRef::as_ref).collect(),
        ),
        ("Service", Some("labels")) => (
            format!("no service has the label {name}"),
            vocabulary.labels.iter().map(AsRef::as_ref).collect(),
        ),
        _ => (
            format!("{kind} has no attribute {name}"),
            match kind {
                "User" => vec!["id", "issuer", "claims"],
                "Service" => vec!["name", "labels"],
                _ => Vec::new(),
            },
        ),
    };
    let explained = Explained::new(message);
    if let Some(near) = nearest(name, known.iter().copied()) {
        return explained.meant(near, "");
    }
    match (kind, name) {
        ("Anonymous" | "Service", "id" | "issuer" | "claims") => explained.hint(
            "the principal may be no user here: write `principal is User` in the scope, or first in the condition",
        ),
        ("Anonymous" | "User", "name" | "labels") => explained.hint(
            "the principal may be no service here: write `principal is Service` in the scope, or first in the condition",
        ),
        _ if known.is_empty() => explained,
        _ => explained.hint(format!("there are: {}", list(known))),
    }
}

/// `.params` of `["params", "customerId"]`.
fn dotted(path: &[String]) -> String {
    path.split_last().map_or(String::new(), |(_, rest)| {
        rest.iter().map(|part| format!(".{part}")).collect()
    })
}

fn quoted(name: &str) -> String {
    let plain = name
        .chars()
        .all(|character| character.is_ascii_alphanumeric() || character == '_')
        && !name.starts_with(|character: char| character.is_ascii_digit());
    if plain {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}
