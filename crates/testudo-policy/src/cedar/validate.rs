//! Cedar's strict validation against the generated schema, said in the words of the APIs.

mod access;

use std::collections::{BTreeMap, HashMap};

use cedar_policy_core::ast::EntityUID;
use cedar_policy_core::extensions::Extensions;
use cedar_policy_core::parser::Loc;
use cedar_policy_core::validator::{
    ValidationError, ValidationMode, ValidationWarning, Validator, ValidatorSchema,
    confusable_string_checks,
    typecheck::{PolicyCheck, Typechecker},
    types::RequestEnv,
    validation_errors::{AttributeAccess, UnsafeAttributeAccess, UnsafeOptionalAttributeAccess},
};
use miette::Diagnostic as _;
use testudo_guard::authz::{ActionNames, Who};

use super::CompiledPolicy;
use super::lint::{Context, Wrong};
use super::schema;
use crate::diagnostic::{Diagnostic, Diagnostics, Fix, Severity, Span};
use access::Access;

/// Validates all policies. What `wrong` knows of is not said again; what is found is added to it.
///
/// Cedar's own validator types every policy for every operation of the mesh; here only for those that
/// its scope admits, which is the same and takes a fraction of the time where APIs are large.
pub(super) fn types(
    policies: &[CompiledPolicy],
    context: &Context<'_>,
    mut wrong: Wrong,
    diagnostics: &mut Diagnostics,
) -> Wrong {
    let Some(schema) = cedar_schema(context, diagnostics) else {
        return wrong;
    };
    let typechecker = Typechecker::new(&schema, ValidationMode::Strict);
    let environments = environments(&schema, context);
    for (index, policy) in policies.iter().enumerate() {
        let mut reporter = Reporter {
            policy,
            index,
            context,
            accesses: BTreeMap::new(),
            found: BTreeMap::new(),
        };
        let template = policy.rule.policy.template();
        for error in Validator::validate_entity_types_and_literals(&schema, template) {
            reporter.error(&error, &wrong);
        }
        let mut may_hold = false;
        let covered = environments
            .iter()
            .filter(|(names, _)| policy.rule.covers(names))
            .flat_map(|(_, environments)| environments)
            .filter(|environment| admits(&policy.rule.who, environment));
        for environment in covered {
            match typechecker.typecheck_by_single_request_env(template, environment) {
                PolicyCheck::Success(_) => may_hold = true,
                PolicyCheck::Irrelevant(errors, _) => reporter.errors(&errors, &wrong),
                PolicyCheck::Fail(errors) => {
                    may_hold = true;
                    reporter.errors(&errors, &wrong);
                }
            }
        }
        reporter.finish(&mut wrong, diagnostics);
        if !may_hold {
            never_holds(policy, index, context, &mut wrong, diagnostics);
        }
        for warning in confusable_string_checks(std::iter::once(template)) {
            let place = policy.source.span_of(place_of_warning(&warning));
            diagnostics.warning(
                "policy.syntax",
                &place,
                without_policy(&warning.to_string()),
                None,
            );
        }
    }
    wrong
}

/// The typed requests that each operation can get.
fn environments<'s>(
    schema: &'s ValidatorSchema,
    context: &Context<'_>,
) -> Vec<(ActionNames, Vec<RequestEnv<'s>>)> {
    let mut by_action: HashMap<String, Vec<RequestEnv<'s>>> = HashMap::new();
    for environment in schema.unlinked_request_envs(ValidationMode::Strict) {
        if let Some(action) = environment.action_entity_uid() {
            by_action
                .entry(id_of(action))
                .or_default()
                .push(environment);
        }
    }
    let operations = context
        .operations()
        .map(|(api, operation)| ActionNames::new(&api.service, &operation.name, &operation.method));
    let undocumented = context.apis.keys().map(ActionNames::undocumented);
    operations
        .chain(undocumented)
        .filter_map(|names| {
            let environments = by_action.remove(&*names.operation)?;
            Some((names, environments))
        })
        .collect()
}

/// Whether a scope's principal can be of the environment's type.
fn admits(who: &Who, environment: &RequestEnv<'_>) -> bool {
    let expected = match who {
        Who::Everyone | Who::Nobody => return true,
        Who::Users | Who::User(_) | Who::Role(_) => "User",
        Who::Anonymous => "Anonymous",
        Who::Services | Who::Service(_) | Who::ServiceRole(_) => "Service",
    };
    environment
        .principal_entity_type()
        .is_none_or(|kind| kind.to_string() == expected)
}

/// A scope without a match is explained by `lint::effects`; here it is the conditions.
fn never_holds(
    policy: &CompiledPolicy,
    index: usize,
    context: &Context<'_>,
    wrong: &mut Wrong,
    diagnostics: &mut Diagnostics,
) {
    let no_match = policy.rule.who == Who::Nobody || context.covered(&policy.rule).is_empty();
    if no_match || wrong.has_policy(index) || policy.rule.condition().is_none() {
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

/// Start and end of a place.
type Key = (usize, usize);

/// Collects what is wrong with one policy.
struct Reporter<'a> {
    policy: &'a CompiledPolicy,
    index: usize,
    context: &'a Context<'a>,
    /// Reads of what is not there, by place: the same one for several actions and principals.
    accesses: BTreeMap<Key, Vec<Access>>,
    found: BTreeMap<Key, Diagnostic>,
}

impl Reporter<'_> {
    fn errors(&mut self, errors: &[ValidationError], wrong: &Wrong) {
        for error in errors {
            self.error(error, wrong);
        }
    }

    fn finish(mut self, wrong: &mut Wrong, diagnostics: &mut Diagnostics) {
        self.add_accesses();
        for diagnostic in self.found.into_values() {
            wrong.add(self.index, None);
            diagnostics.list.push(diagnostic);
        }
    }

    fn error(&mut self, error: &ValidationError, wrong: &Wrong) {
        match error {
            ValidationError::UnsafeAttributeAccess(UnsafeAttributeAccess {
                source_loc,
                attribute_access,
                ..
            }) => self.access(source_loc.as_ref(), attribute_access, false),
            ValidationError::UnsafeOptionalAttributeAccess(UnsafeOptionalAttributeAccess {
                source_loc,
                attribute_access,
                ..
            }) => self.access(source_loc.as_ref(), attribute_access, true),
            other => self.other(other, wrong),
        }
    }

    fn access(&mut self, loc: Option<&Loc>, access: &AttributeAccess, optional: bool) {
        let accesses = self.accesses.entry(key(loc)).or_default();
        accesses.push(Access::new(access, optional));
    }

    fn add_accesses(&mut self) {
        for (key, accesses) in std::mem::take(&mut self.accesses) {
            let attribute = accesses.first().map_or("", Access::attribute);
            let whole = || self.policy.source.span(key.0, key.1);
            let span = attribute_span(self.policy, key, attribute).unwrap_or_else(whole);
            let Some(explained) = access::explain(accesses, self.context) else {
                continue;
            };
            let fix = explained.replacement.map(|replacement| Fix {
                span: span.clone(),
                replacement,
            });
            self.found.insert(
                key,
                Diagnostic {
                    severity: Severity::Error,
                    code: "policy.type",
                    message: explained.message,
                    span,
                    hint: explained.hint,
                    fix,
                },
            );
        }
    }

    /// Everything else in Cedar's words, without its policy ids.
    fn other(&mut self, error: &ValidationError, wrong: &Wrong) {
        let loc = place_of_error(error);
        if wrong.has_place(self.index, loc) {
            return;
        }
        let hint = error.help().map(|help| without_policy(&help.to_string()));
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            code: "policy.type",
            message: without_policy(&error.to_string()),
            span: self.policy.source.span_of(loc),
            hint,
            fix: None,
        };
        self.found.entry(key(loc)).or_insert(diagnostic);
    }
}

fn key(loc: Option<&Loc>) -> Key {
    (loc.map_or(0, Loc::start), loc.map_or(0, Loc::end))
}

fn id_of(action: &EntityUID) -> String {
    let id: &str = action.eid().as_ref();
    id.to_owned()
}

/// Where the attribute's own name stands in `context.params.customerId`.
fn attribute_span(policy: &CompiledPolicy, key: Key, attribute: &str) -> Option<Span> {
    let (start, end) = key;
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

fn place_of_warning(warning: &ValidationWarning) -> Option<&Loc> {
    match warning {
        ValidationWarning::ImpossiblePolicy(inner) => inner.source_loc.as_ref(),
        ValidationWarning::InvalidActionApplication(inner) => inner.source_loc.as_ref(),
        ValidationWarning::MixedScriptString(inner) => inner.source_loc.as_ref(),
        ValidationWarning::BidiCharsInString(inner) => inner.source_loc.as_ref(),
        ValidationWarning::BidiCharsInIdentifier(inner) => inner.source_loc.as_ref(),
        ValidationWarning::MixedScriptIdentifier(inner) => inner.source_loc.as_ref(),
        ValidationWarning::ConfusableIdentifier(inner) => inner.source_loc.as_ref(),
    }
}

fn place_of_error(error: &ValidationError) -> Option<&Loc> {
    macro_rules! place {
        ($($variant:ident),+) => {
            match error {
                $(ValidationError::$variant(inner) => inner.source_loc.as_ref(),)+
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
