//! Cedar's strict validation against the generated schema, said in the words of the APIs.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy_core::ast::{EntityUID, PolicyID, PolicySet};
use cedar_policy_core::extensions::Extensions;
use cedar_policy_core::parser::Loc;
use cedar_policy_core::validator::{
    ValidationError, ValidationMode, ValidationWarning, Validator, ValidatorSchema,
    validation_errors::{AttributeAccess, UnsafeAttributeAccess, UnsafeOptionalAttributeAccess},
};
use miette::Diagnostic as _;

use super::CompiledPolicy;
use super::lint::{Context, Wrong};
use super::schema;
use super::suggest::{list, nearest};
use crate::api::{ApiModel, Location, OperationModel, ValueKind};
use crate::diagnostic::{Diagnostic, Diagnostics, Fix, Severity, Span};

/// Validates all policies. What `wrong` knows of is not said again; what is found is added to it.
pub(super) fn types(
    policies: &[CompiledPolicy],
    context: &Context<'_>,
    mut wrong: Wrong,
    diagnostics: &mut Diagnostics,
) -> Wrong {
    let Some(schema) = cedar_schema(context, diagnostics) else {
        return wrong;
    };
    let result = Validator::new(schema).validate(&policy_set(policies), ValidationMode::Strict);
    let (errors, warnings) = result.into_errors_and_warnings();
    let mut reporter = Reporter {
        policies,
        context,
        accesses: BTreeMap::new(),
        found: BTreeMap::new(),
    };
    for error in errors {
        reporter.error(&error, &wrong);
    }
    reporter.add_accesses();
    for (key, diagnostic) in std::mem::take(&mut reporter.found) {
        wrong.add(key.0, None);
        diagnostics.list.push(diagnostic);
    }
    for warning in warnings {
        reporter.warning(&warning, &mut wrong, diagnostics);
    }
    wrong
}

fn cedar_schema(context: &Context<'_>, diagnostics: &mut Diagnostics) -> Option<ValidatorSchema> {
    let json = schema::generate(context.vocabulary, context.apis);
    match ValidatorSchema::from_json_value(json, Extensions::all_available()) {
        Ok(schema) => Some(schema),
        Err(error) => {
            let policies = context.config.policies.as_ref();
            diagnostics.error(
                "policy.type",
                &policies.map(|(_, span)| span.clone()).unwrap_or_default(),
                format!("Cedar refuses the schema that the APIs make: {error}"),
                None,
            );
            None
        }
    }
}

/// All policies, each with its index as its id.
fn policy_set(policies: &[CompiledPolicy]) -> PolicySet {
    let mut set = PolicySet::new();
    for (index, policy) in policies.iter().enumerate() {
        let id = PolicyID::from_string(index.to_string());
        // The ids differ, which is all that `add` asks for.
        let _ = set.add(policy.rule.policy.new_id(id));
    }
    set
}

fn index_of(id: &PolicyID) -> usize {
    id.as_ref().parse().unwrap_or(usize::MAX)
}

/// Policy, start and end of a place.
type Key = (usize, usize, usize);

struct Reporter<'a> {
    policies: &'a [CompiledPolicy],
    context: &'a Context<'a>,
    /// Reads of what is not there, by place: the same one for several actions and principals.
    accesses: BTreeMap<Key, Vec<Access>>,
    found: BTreeMap<Key, Diagnostic>,
}

/// One read of an attribute that is missing, or may be.
struct Access {
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

impl Reporter<'_> {
    fn error(&mut self, error: &ValidationError, wrong: &Wrong) {
        match error {
            ValidationError::UnsafeAttributeAccess(UnsafeAttributeAccess {
                source_loc,
                policy_id,
                attribute_access,
                ..
            }) => self.access(policy_id, source_loc.as_ref(), attribute_access, false),
            ValidationError::UnsafeOptionalAttributeAccess(UnsafeOptionalAttributeAccess {
                source_loc,
                policy_id,
                attribute_access,
            }) => self.access(policy_id, source_loc.as_ref(), attribute_access, true),
            other => self.other(other, wrong),
        }
    }

    fn access(
        &mut self,
        id: &PolicyID,
        loc: Option<&Loc>,
        access: &AttributeAccess,
        optional: bool,
    ) {
        let (of, path) = match access {
            AttributeAccess::Context(action, path) => (Of::Operation(id_of(action)), path),
            AttributeAccess::EntityLUB(lub, path) => {
                let name = lub.get_single_entity().map(ToString::to_string);
                (Of::Entity(name.unwrap_or_default()), path)
            }
            AttributeAccess::Other(path) => (Of::Other, path),
        };
        let path = path.iter().rev().map(ToString::to_string).collect();
        self.accesses
            .entry(key(id, loc))
            .or_default()
            .push(Access { of, path, optional });
    }

    fn add_accesses(&mut self) {
        for (key, mut accesses) in std::mem::take(&mut self.accesses) {
            accesses.sort_by(|a, b| (a.optional, &a.of).cmp(&(b.optional, &b.of)));
            let Some(policy) = self.policies.get(key.0) else {
                continue;
            };
            let Some(first) = accesses.first() else {
                continue;
            };
            let attribute = first.path.last().map_or("", String::as_str);
            let whole = policy.source.span(key.1, key.2);
            let span = attribute_span(policy, key, attribute).unwrap_or(whole);
            let (message, hint, replacement) = self.explain(first, &accesses);
            let fix = replacement.map(|replacement| Fix {
                span: span.clone(),
                replacement,
            });
            self.found.insert(
                key,
                Diagnostic {
                    severity: Severity::Error,
                    code: "policy.type",
                    message,
                    span,
                    hint,
                    fix,
                },
            );
        }
    }

    fn explain(&self, first: &Access, all: &[Access]) -> (String, Option<String>, Option<String>) {
        match &first.of {
            Of::Operation(_) => self.explain_context(first, all),
            Of::Entity(kind) => self.explain_entity(first, kind),
            Of::Other => (
                format!("there is no attribute {}", first.path.join(".")),
                None,
                None,
            ),
        }
    }

    fn explain_context(
        &self,
        first: &Access,
        all: &[Access],
    ) -> (String, Option<String>, Option<String>) {
        let name = first.path.last().map_or("", String::as_str);
        let group = first.path.first().map_or("", String::as_str);
        let operations: BTreeSet<&str> = all
            .iter()
            .filter(|access| access.optional == first.optional)
            .filter_map(|access| match &access.of {
                Of::Operation(id) => Some(id.as_str()),
                Of::Entity(_) | Of::Other => None,
            })
            .collect();
        let who = list(operations.iter().copied());
        let has = if operations.len() == 1 { "has" } else { "have" };
        if first.optional {
            let of = if first.path.len() == 1 {
                format!("context.{name}")
            } else {
                format!("{name} of {who}")
            };
            let test = format!("context{} has {}", dotted(&first.path), quoted(name));
            return (
                format!("{of} is optional"),
                Some(format!("test it first: {test} && …")),
                None,
            );
        }
        if first.path.len() == 1 {
            return context_part(name, &who, has);
        }
        let what = match group {
            "headers" => "declared header",
            "body" => "body field",
            _ => "parameter",
        };
        let known = self.known(&operations, group);
        let message = format!("{who} {has} no {what} {name}");
        if let Some(reason) = self.unreadable(&operations, group, name) {
            return (
                format!("{who} {has} no {what} {name}: {reason}"),
                None,
                None,
            );
        }
        match nearest(name, known.iter().map(|(name, _)| name.as_str())) {
            Some(near) => {
                let place = known.iter().find(|(name, _)| name == near);
                let place = place.map_or("", |(_, place)| place);
                (
                    message,
                    Some(format!("{near}{place}")),
                    Some(near.to_owned()),
                )
            }
            None if known.is_empty() => (message, None, None),
            None => {
                let names = list(known.iter().map(|(name, _)| name.as_str()));
                (message, Some(format!("there are: {names}")), None)
            }
        }
    }

    /// What the first of these operations has there: name, and type and place for people.
    fn known(&self, operations: &BTreeSet<&str>, group: &str) -> Vec<(String, String)> {
        let Some((_, operation)) = operations.first().and_then(|id| self.operation(id)) else {
            return Vec::new();
        };
        if group == "body" {
            let fields = operation.body.iter();
            return fields
                .map(|field| {
                    (
                        field.name.to_string(),
                        place("body", field.kind, &field.span),
                    )
                })
                .collect();
        }
        operation
            .params
            .iter()
            .filter(|param| (param.location == Location::Header) == (group == "headers"))
            .filter(|param| schema::is_readable(param, &operation.params))
            .filter_map(|param| {
                let kind = place(location(param.location), param.kind?, &param.span);
                Some((param.name.to_string(), kind))
            })
            .collect()
    }

    /// Why a parameter that is declared cannot be read.
    fn unreadable(
        &self,
        operations: &BTreeSet<&str>,
        group: &str,
        name: &str,
    ) -> Option<&'static str> {
        let (_, operation) = operations.first().and_then(|id| self.operation(id))?;
        let declared = operation.params.iter().filter(|param| &*param.name == name);
        let mut reason = None;
        for param in declared {
            reason = match param.location {
                Location::Cookie => Some("cookies cannot be read by policies"),
                Location::Header if group == "params" => Some("it is a header: context.headers"),
                Location::Path | Location::Query if group == "headers" => {
                    Some("it is a parameter: context.params")
                }
                _ if param.kind.is_none() => Some("its type is not one that policies can read"),
                _ => Some("two parameters are called so"),
            };
        }
        if reason.is_none() && group == "body" && operation.body.is_empty() {
            reason = Some("its body has no top-level scalars");
        }
        reason
    }

    fn operation(&self, id: &str) -> Option<(&ApiModel, &OperationModel)> {
        let (service, name) = id.split_once(':')?;
        let api = self.context.apis.get(service)?;
        let operation = api.operations.iter().find(|known| &*known.name == name)?;
        Some((api, operation))
    }

    fn explain_entity(
        &self,
        access: &Access,
        kind: &str,
    ) -> (String, Option<String>, Option<String>) {
        let name = access.path.last().map_or("", String::as_str);
        let vocabulary = self.context.vocabulary;
        if access.optional {
            let (base, label) = match access.path.first().map(String::as_str) {
                Some("claims") => ("claims", "the claim"),
                _ => ("labels", "the label"),
            };
            let test = format!("{base} has {}", quoted(name));
            return (
                format!("{label} {name} may be missing"),
                Some(format!("test it first: … .{test} && …")),
                None,
            );
        }
        let known: Vec<&str> = match (kind, access.path.as_slice()) {
            ("User", [first, _]) if first == "claims" => {
                vocabulary.claims.iter().map(AsRef::as_ref).collect()
            }
            ("Service", [first, _]) if first == "labels" => {
                vocabulary.labels.iter().map(AsRef::as_ref).collect()
            }
            ("User", _) => vec!["id", "issuer", "claims"],
            ("Service", _) => vec!["name", "labels"],
            _ => Vec::new(),
        };
        let message = match (kind, access.path.as_slice()) {
            ("User", [first, _]) if first == "claims" => {
                format!("no issuer declares the claim {name}")
            }
            ("Service", [first, _]) if first == "labels" => {
                format!("no service has the label {name}")
            }
            _ => format!("{kind} has no attribute {name}"),
        };
        if let Some(near) = nearest(name, known.iter().copied()) {
            return (message, Some(near.to_owned()), Some(near.to_owned()));
        }
        let of_users = matches!(name, "id" | "issuer" | "claims");
        let of_services = matches!(name, "name" | "labels");
        let hint = match kind {
            "Anonymous" | "Service" if of_users => Some("the principal may be no user here: write `principal is User` in the scope, or first in the condition".to_owned()),
            "Anonymous" | "User" if of_services => Some("the principal may be no service here: write `principal is Service` in the scope, or first in the condition".to_owned()),
            _ if known.is_empty() => None,
            _ => Some(format!("there are: {}", list(known))),
        };
        (message, hint, None)
    }

    /// Everything else in Cedar's words, without its policy ids.
    fn other(&mut self, error: &ValidationError, wrong: &Wrong) {
        let (id, loc) = place_of_error(error);
        let index = index_of(id);
        if wrong.has_place(index, loc) {
            return;
        }
        let Some(policy) = self.policies.get(index) else {
            return;
        };
        let hint = error.help().map(|help| without_policy(&help.to_string()));
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            code: "policy.type",
            message: without_policy(&error.to_string()),
            span: policy.source.span_of(loc),
            hint,
            fix: None,
        };
        self.found.entry(key(id, loc)).or_insert(diagnostic);
    }

    fn warning(
        &self,
        warning: &ValidationWarning,
        wrong: &mut Wrong,
        diagnostics: &mut Diagnostics,
    ) {
        let (id, loc, never) = match warning {
            ValidationWarning::ImpossiblePolicy(inner) => {
                (&inner.policy_id, &inner.source_loc, true)
            }
            // Said better by `lint::effects`.
            ValidationWarning::InvalidActionApplication(_) => return,
            ValidationWarning::MixedScriptString(inner) => {
                (&inner.policy_id, &inner.source_loc, false)
            }
            ValidationWarning::BidiCharsInString(inner) => {
                (&inner.policy_id, &inner.source_loc, false)
            }
            ValidationWarning::BidiCharsInIdentifier(inner) => {
                (&inner.policy_id, &inner.source_loc, false)
            }
            ValidationWarning::MixedScriptIdentifier(inner) => {
                (&inner.policy_id, &inner.source_loc, false)
            }
            ValidationWarning::ConfusableIdentifier(inner) => {
                (&inner.policy_id, &inner.source_loc, false)
            }
        };
        let index = index_of(id);
        let Some(policy) = self.policies.get(index) else {
            return;
        };
        if !never {
            diagnostics.warning(
                "policy.syntax",
                &policy.source.span_of(loc.as_ref()),
                without_policy(&warning.to_string()),
                None,
            );
            return;
        }
        // A scope without a match is explained by `lint::effects`; here it is the conditions.
        if wrong.has_policy(index)
            || policy.rule.condition().is_none()
            || self.context.covered(&policy.rule).is_empty()
        {
            return;
        }
        diagnostics.error(
            "policy.never",
            &policy.head(),
            "the conditions can never hold together with the scope",
            "a part of them is false for every request that the scope admits".to_owned(),
        );
        wrong.add(index, None);
    }
}

fn key(id: &PolicyID, loc: Option<&Loc>) -> Key {
    (
        index_of(id),
        loc.map_or(0, Loc::start),
        loc.map_or(0, Loc::end),
    )
}

fn id_of(action: &EntityUID) -> String {
    let id: &str = action.eid().as_ref();
    id.to_owned()
}

/// Where the attribute's own name stands in `context.params.customerId`.
fn attribute_span(policy: &CompiledPolicy, key: Key, attribute: &str) -> Option<Span> {
    let (_, start, end) = key;
    let loc = policy
        .rule
        .policy
        .loc()?
        .span((start, end.saturating_sub(start)));
    let text = policy.source.text_of(Some(&loc));
    let offset = text.rfind(attribute)?;
    Some(
        policy
            .source
            .span(start + offset, start + offset + attribute.len()),
    )
}

fn context_part(name: &str, who: &str, has: &str) -> (String, Option<String>, Option<String>) {
    let parts = [
        "params",
        "headers",
        "body",
        "source_ip",
        "time",
        "hop",
        "user",
        "caller",
    ];
    if name == "body" {
        return (
            format!("{who} {has} no JSON body with top-level scalars"),
            None,
            None,
        );
    }
    let message = format!("context has no {name}");
    match nearest(name, parts) {
        Some(near) => (message, Some(near.to_owned()), Some(near.to_owned())),
        None => (
            message,
            Some(format!(
                "there are: {}; parameters are in context.params",
                parts.join(", ")
            )),
            None,
        ),
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

fn location(location: Location) -> &'static str {
    match location {
        Location::Path => "path",
        Location::Query => "query",
        Location::Header => "header",
        Location::Cookie => "cookie",
    }
}

fn place(location: &str, kind: ValueKind, span: &Span) -> String {
    let kind = match kind {
        ValueKind::String => "string",
        ValueKind::Long => "integer",
        ValueKind::Decimal => "decimal",
        ValueKind::Bool => "boolean",
        ValueKind::Strings => "list of strings",
    };
    format!(" ({location}, {kind}; {}:{})", span.file, span.line)
}

fn place_of_error(error: &ValidationError) -> (&PolicyID, Option<&Loc>) {
    macro_rules! place {
        ($($variant:ident),+) => {
            match error {
                $(ValidationError::$variant(inner) => (&inner.policy_id, inner.source_loc.as_ref()),)+
            }
        };
    }
    place!(
        UnrecognizedEntityType,
        UnrecognizedActionId,
        UnexpectedType,
        IncompatibleTypes,
        UnsafeAttributeAccess,
        UnsafeOptionalAttributeAccess,
        UnsafeTagAccess,
        NoTagsAllowed,
        UndefinedFunction,
        WrongNumberArguments,
        FunctionArgumentValidation,
        EmptySetForbidden,
        NonLitExtConstructor,
        InternalInvariantViolation,
        InvalidEnumEntity,
        EntityDerefLevelViolation,
        IncompleteSchema
    )
}

/// Cedar begins its messages with the policy's id, which here is a number of ours.
fn without_policy(message: &str) -> String {
    let rest = message
        .strip_prefix("for policy `")
        .and_then(|rest| rest.split_once('`'))
        .map(|(_, rest)| rest.trim_start_matches([',', ':', ' ']));
    rest.unwrap_or(message)
        .replace("__cedar::internal::AnyEntity", "an entity")
}
