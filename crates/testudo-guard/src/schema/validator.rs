//! A compiled schema: its scalar fast path or the general validator, and the shape of its values.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use regex::Regex;
use serde_json::Value as Json;

use super::explain::Explanation;
use super::scalar::Scalar;
use super::shape::Shape;

/// A schema of the specification, ready to judge values.
#[derive(Debug)]
pub struct Schema {
    pub(super) shape: Shape,
    pub(super) check: Check,
}

#[derive(Debug)]
pub(super) enum Check {
    Scalar(Scalar),
    General(Box<General>),
}

/// The general validator, and what its explanations cost.
#[derive(Debug)]
pub(super) struct General {
    validator: Validator,
    explanation: Explanation,
}

/// Why a schema cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SchemaError {
    /// JSON Pointer into the schema.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

/// What a value breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// JSON Pointer into the value; empty for the value itself.
    pub(super) pointer: String,
    /// The rule; never the value.
    pub(super) rule: String,
}

impl Schema {
    /// Compiles a self-contained JSON Schema (2020-12; references within it only).
    ///
    /// # Errors
    /// An invalid keyword, a reference without a target, a pattern that cannot be matched in linear time.
    pub fn compile(schema: &Json) -> Result<Schema, SchemaError> {
        let check = match Scalar::compile(referent(schema)) {
            Some(scalar) => Check::Scalar(scalar),
            None => Check::General(Box::new(General {
                validator: general(schema)?,
                explanation: Explanation::of(schema),
            })),
        };
        Ok(Schema {
            shape: Shape::of(schema),
            check,
        })
    }

    /// A schema that admits everything.
    pub fn any() -> Result<Schema, SchemaError> {
        Schema::compile(&Json::Bool(true))
    }

    /// The types that it admits, as far as they can be told from its text.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The first rule that a value breaks.
    pub(super) fn check(&self, value: &Json) -> Result<(), Broken> {
        let rule = match (&self.check, value) {
            (Check::General(general), value) => return general.check(value),
            (Check::Scalar(Scalar::String(rules)), Json::String(text)) => rules.check(text),
            (Check::Scalar(Scalar::Boolean), Json::Bool(_)) => Ok(()),
            (Check::Scalar(Scalar::Number(range)), Json::Number(number)) => {
                range.check(number.as_f64().unwrap_or(f64::NAN))
            }
            (Check::Scalar(Scalar::Integer { min, max }), Json::Number(number)) => {
                check_integer(number, *min, *max)
            }
            (Check::Scalar(Scalar::String(_)), _) => Err(not("string")),
            (Check::Scalar(Scalar::Boolean), _) => Err(not("boolean")),
            (Check::Scalar(Scalar::Number(_)), _) => Err(not("number")),
            (Check::Scalar(Scalar::Integer { .. }), _) => Err(not("integer")),
        };
        rule.map_err(|rule| Broken {
            pointer: String::new(),
            rule,
        })
    }

    /// Whether a value is valid; for the tests of the schema suites.
    pub fn is_valid(&self, value: &Json) -> bool {
        self.check(value).is_ok()
    }
}

impl General {
    fn check(&self, value: &Json) -> Result<(), Broken> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let error = if self.explanation.is_cheap(value) {
            self.validator.validate(value).err()
        } else {
            None
        };
        Err(error.map_or_else(
            || Broken {
                pointer: String::new(),
                rule: "does not match the schema".into(),
            },
            |error| broken(&error),
        ))
    }
}

/// What a schema that only refers to one of its own definitions means; else the schema itself.
fn referent(schema: &Json) -> &Json {
    const LONGEST_CHAIN: usize = 8;
    let target = |current: &Json| {
        let keywords = current.as_object()?;
        let only = keywords.keys().all(|key| key == "$ref" || key == "$defs");
        let reference = keywords.get("$ref").filter(|_| only)?;
        schema.pointer(reference.as_str()?.strip_prefix('#')?)
    };
    std::iter::successors(Some(schema), |current| target(current))
        .take(LONGEST_CHAIN)
        .last()
        .unwrap_or(schema)
}

pub(super) fn not(kind: &str) -> String {
    format!("type: {kind} expected")
}

fn check_integer(number: &serde_json::Number, min: i64, max: i64) -> Result<(), String> {
    let value = match number.as_i64() {
        Some(value) => value,
        None => match number.as_f64() {
            Some(value) if value.fract() == 0.0 => {
                // Beyond i64 a saturated value still falls on the right side of every bound.
                #[allow(clippy::cast_possible_truncation, reason = "saturates")]
                let value = value as i64;
                value
            }
            Some(_) | None => return Err(not("integer")),
        },
    };
    check_bounds(value, min, max)
}

pub(super) fn check_bounds(value: i64, min: i64, max: i64) -> Result<(), String> {
    if value < min {
        return Err(format!("below the minimum {min}"));
    }
    if value > max {
        return Err(format!("above the maximum {max}"));
    }
    Ok(())
}

fn general(schema: &Json) -> Result<Validator, SchemaError> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(PatternOptions::regex())
        .with_format("byte", is_base64)
        .should_validate_formats(true)
        .should_ignore_unknown_formats(true)
        .offline()
        .build(schema)
        .map_err(|error| SchemaError {
            pointer: error.instance_path().to_string(),
            message: rule(&error),
        })
}

/// `format: byte` (OpenAPI 3.0): base64, RFC 4648 section 4.
fn is_base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .is_ok()
}

/// A pattern of a schema (ECMA-262) as a regex that matches in linear time.
///
/// # Errors
/// Look-around, back references, invalid syntax.
pub fn pattern(text: &str) -> Result<Regex, SchemaError> {
    let error = |message: &str| SchemaError {
        pointer: String::new(),
        message: message.to_owned(),
    };
    let translated = jsonschema_regex::to_rust_regex(text)
        .map_err(|()| error("it is no valid regular expression"))?;
    Regex::new(&translated).map_err(|failure| match failure {
        regex::Error::CompiledTooBig(_) => error("it is too large"),
        _ => error("look-around, back references or invalid syntax"),
    })
}

/// Of alternatives that all failed, the one that got furthest into the value says most.
fn broken(error: &ValidationError<'_>) -> Broken {
    use ValidationErrorKind as Kind;
    if let Kind::AnyOf { context } | Kind::OneOfNotValid { context } = error.kind() {
        let own = error.instance_path().as_str().len();
        let deepest = context
            .iter()
            .filter_map(|errors| errors.first())
            .max_by_key(|error| error.instance_path().as_str().len())
            .filter(|error| error.instance_path().as_str().len() > own);
        if let Some(deepest) = deepest {
            return broken(deepest);
        }
    }
    Broken {
        pointer: error.instance_path().to_string(),
        rule: rule(error),
    }
}

/// What a validation error says, without the value.
fn rule(error: &ValidationError<'_>) -> String {
    use ValidationErrorKind as Kind;
    match error.kind() {
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            format!("undeclared field {}", names(unexpected))
        }
        Kind::AdditionalItems { .. } | Kind::UnevaluatedItems { .. } => "undeclared items".into(),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => {
            "none of the alternatives matches".into()
        }
        Kind::OneOfMultipleValid { .. } => "more than one alternative of oneOf matches".into(),
        Kind::Constant { .. } | Kind::Enum { .. } => "not one of the declared values".into(),
        Kind::Contains => "no item is as contains says".into(),
        Kind::ExclusiveMaximum { limit } => format!("not below {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("not above {limit}"),
        Kind::Maximum { limit } => format!("above the maximum {limit}"),
        Kind::Minimum { limit } => format!("below the minimum {limit}"),
        Kind::MultipleOf { multiple_of } => format!("not a multiple of {multiple_of}"),
        Kind::FalseSchema => {
            "may not be sent (readOnly or writeOnly, or the schema is false)".into()
        }
        Kind::Format { format } => format!("not in format {format}"),
        Kind::MaxItems { limit } => format!("more than {limit} items"),
        Kind::MinItems { limit } => format!("fewer than {limit} items"),
        Kind::MaxLength { limit } => format!("longer than {limit} characters"),
        Kind::MinLength { limit } => format!("shorter than {limit} characters"),
        Kind::MaxProperties { limit } => format!("more than {limit} fields"),
        Kind::MinProperties { limit } => format!("fewer than {limit} fields"),
        Kind::Not { .. } => "matches what not excludes".into(),
        Kind::Pattern { .. } => "does not match the declared pattern".into(),
        Kind::PropertyNames { .. } => "a field's name is not allowed".into(),
        Kind::Required { property } => match property.as_str() {
            Some(name) => format!("required field {} is missing", names(&[name.to_owned()])),
            None => "a required field is missing".into(),
        },
        Kind::Type { kind } => format!("type: {} expected", type_names(kind)),
        Kind::UniqueItems => "items are not unique".into(),
        Kind::Referencing(error) => format!("reference: {error}"),
        Kind::Custom { keyword, .. } => format!("breaks {keyword}"),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "the pattern cannot be evaluated".into()
        }
        Kind::ContentEncoding { .. } | Kind::ContentMediaType { .. } | Kind::FromUtf8 { .. } => {
            "the content is not encoded as declared".into()
        }
    }
}

fn names(names: &[String]) -> String {
    super::printable(&names.join(", "))
}

fn type_names(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(kind) => kind.to_string(),
        TypeKind::Multiple(kinds) => {
            let kinds: Vec<String> = kinds.iter().map(|kind| kind.to_string()).collect();
            kinds.join(" or ")
        }
    }
}
