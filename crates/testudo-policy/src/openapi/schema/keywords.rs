//! The keywords of schemas: which hold schemas, which are enforced, and what is wrong with their values.

use serde_json::{Map, Value as Json, json};
use testudo_guard::schema::{Schema, pattern};

use crate::diagnostic::{Diagnostics, Span};
use crate::openapi::reader::nearest;
use crate::yaml::Node;

/// How a keyword's value holds schemas.
pub(super) enum Keyword {
    One,
    List,
    Map,
    /// Copied as it is.
    Plain,
    /// Says nothing about validity.
    Annotation,
    /// Must not be ignored, but cannot be enforced.
    Unsupported,
    Unknown,
}

/// One schema.
const ONE: &[&str] = &[
    "not",
    "items",
    "additionalProperties",
    "contains",
    "if",
    "then",
    "else",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// A list of schemas.
const LIST: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems"];
/// Schemas by name.
const MAP: &[&str] = &["properties", "patternProperties", "dependentSchemas"];
/// Copied as they are.
const PLAIN: &[&str] = &[
    "type",
    "enum",
    "const",
    "multipleOf",
    "maximum",
    "minimum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "maxContains",
    "minContains",
    "maxProperties",
    "minProperties",
    "required",
    "dependentRequired",
    "format",
];
/// Must not be ignored, but cannot be enforced.
const UNSUPPORTED: &[&str] = &[
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$anchor",
    "$id",
];
/// Say nothing about validity, or are read elsewhere.
const ANNOTATIONS: &[&str] = &[
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "nullable",
    "discriminator",
    "xml",
    "externalDocs",
    "$comment",
    "$schema",
    "$defs",
    "definitions",
    "$ref",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "$vocabulary",
    "id",
];
const TYPES: &[&str] = &[
    "null", "boolean", "object", "array", "number", "string", "integer",
];

pub(super) fn keyword(name: &str) -> Keyword {
    if ONE.contains(&name) {
        Keyword::One
    } else if LIST.contains(&name) {
        Keyword::List
    } else if MAP.contains(&name) {
        Keyword::Map
    } else if PLAIN.contains(&name) {
        Keyword::Plain
    } else if UNSUPPORTED.contains(&name) {
        Keyword::Unsupported
    } else if ANNOTATIONS.contains(&name) || name.starts_with("x-") {
        Keyword::Annotation
    } else {
        Keyword::Unknown
    }
}

/// Formats that are checked; others are annotations (JSON Schema 2020-12 section 7.2.3).
pub(super) const FORMATS: [&str; 20] = [
    "byte",
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "idn-email",
    "idn-hostname",
    "ipv4",
    "ipv6",
    "iri",
    "iri-reference",
    "json-pointer",
    "regex",
    "relative-json-pointer",
    "time",
    "uri",
    "uri-reference",
    "uri-template",
    "uuid",
];

/// What an unknown keyword was probably meant to be.
pub(super) fn nearest_keyword(name: &str) -> Option<&'static str> {
    nearest(name, &[ONE, LIST, MAP, PLAIN, ANNOTATIONS].concat())
}

/// Whether types are names of types; otherwise that is reported.
pub(super) fn check_types(node: &Node, diagnostics: &mut Diagnostics) -> bool {
    let names = node.as_seq().unwrap_or(std::slice::from_ref(node));
    for name in names {
        let text = match name.as_str() {
            Some(text) if TYPES.contains(&text) => continue,
            Some(text) => text.to_owned(),
            // Unquoted `null` is nothing.
            None => name.to_json().to_string(),
        };
        let hint = match nearest(&text, TYPES) {
            Some("null") => "quote it: 'null'".to_owned(),
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("one of {}", TYPES.join(", ")),
        };
        let message = format!("{text} is no type");
        diagnostics.error("openapi.invalid", &name.span, message, hint);
        return false;
    }
    true
}

/// Whether a pattern can be matched; otherwise that is reported.
pub(super) fn check_pattern(text: &str, span: &Span, diagnostics: &mut Diagnostics) -> bool {
    let Err(error) = pattern(text) else {
        return true;
    };
    let hint = "patterns are matched in linear time: no look-around, no back references";
    let message = format!("this pattern cannot be used: {}", error.message);
    diagnostics.error("openapi.unsupported", span, message, hint.to_owned());
    false
}

/// Whether no value of an enum has the declared type, so that nothing can be valid.
pub(super) fn enum_misses_type(keywords: &Map<String, Json>) -> bool {
    let types = keywords.get("type");
    let (Some(types), Some(Json::Array(values))) = (types, keywords.get("enum")) else {
        return false;
    };
    !values.is_empty()
        && Schema::compile(&json!({"type": types}))
            .is_ok_and(|schema| values.iter().all(|value| !schema.is_valid(value)))
}
