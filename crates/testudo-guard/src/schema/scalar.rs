//! Checks of scalar schemas that are common in parameters, without building JSON.
//!
//! A schema that uses anything else is left to the general validator. Both must agree: a test runs
//! them against each other.

use regex::Regex;
use serde_json::{Map, Value as Json};

/// A scalar schema, compiled.
#[derive(Debug)]
pub(super) enum Scalar {
    /// `type: string`.
    String(Text),
    /// `type: integer`, with inclusive bounds.
    Integer { min: i64, max: i64 },
    /// `type: number`.
    Number(Range),
    /// `type: boolean`.
    Boolean,
}

/// Rules of a string.
#[derive(Debug, Default)]
pub(super) struct Text {
    min: u64,
    max: Option<u64>,
    pattern: Option<Regex>,
    one_of: Option<Box<[Box<str>]>>,
    uuid: bool,
}

/// Rules of a number.
#[derive(Debug, Default)]
pub(super) struct Range {
    min: Option<f64>,
    above: Option<f64>,
    max: Option<f64>,
    below: Option<f64>,
}

/// Keywords that say nothing about validity.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$comment",
    "$defs",
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
];

impl Scalar {
    /// `None`: the schema needs the general validator (which also reports what is wrong with it).
    pub(super) fn compile(schema: &Json) -> Option<Scalar> {
        let keywords = schema.as_object()?;
        match keywords.get("type")?.as_str()? {
            "string" => text(keywords),
            "integer" => integer(keywords),
            "number" => number(keywords),
            "boolean" => only(keywords, &[]).then_some(Scalar::Boolean),
            _ => None,
        }
    }
}

fn only(keywords: &Map<String, Json>, known: &[&str]) -> bool {
    keywords.keys().all(|key| {
        key == "type"
            || known.contains(&key.as_str())
            || ANNOTATIONS.contains(&key.as_str())
            || key.starts_with("x-")
    })
}

fn text(keywords: &Map<String, Json>) -> Option<Scalar> {
    if !only(
        keywords,
        &["minLength", "maxLength", "pattern", "enum", "format"],
    ) {
        return None;
    }
    let mut rules = Text::default();
    if let Some(length) = keywords.get("minLength") {
        rules.min = length.as_u64()?;
    }
    if let Some(length) = keywords.get("maxLength") {
        rules.max = Some(length.as_u64()?);
    }
    if let Some(pattern) = keywords.get("pattern") {
        rules.pattern = Some(super::validator::pattern(pattern.as_str()?).ok()?);
    }
    if let Some(values) = keywords.get("enum") {
        let values = values.as_array()?.iter();
        rules.one_of = Some(
            values
                .map(|value| value.as_str().map(Box::from))
                .collect::<Option<_>>()?,
        );
    }
    if let Some(format) = keywords.get("format") {
        rules.uuid = format.as_str()? == "uuid";
        if !rules.uuid {
            return None;
        }
    }
    Some(Scalar::String(rules))
}

fn integer(keywords: &Map<String, Json>) -> Option<Scalar> {
    if !only(
        keywords,
        &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
    ) {
        return None;
    }
    let bound = |name: &str, missing: i64| match keywords.get(name) {
        None => Some(missing),
        Some(limit) => limit.as_i64(),
    };
    let above = bound("exclusiveMinimum", i64::MIN)?;
    let below = bound("exclusiveMaximum", i64::MAX)?;
    let exclusive = |name: &str| keywords.contains_key(name);
    let mut min = bound("minimum", i64::MIN)?;
    let mut max = bound("maximum", i64::MAX)?;
    if exclusive("exclusiveMinimum") {
        min = min.max(above.checked_add(1)?);
    }
    if exclusive("exclusiveMaximum") {
        max = max.min(below.checked_sub(1)?);
    }
    Some(Scalar::Integer { min, max })
}

fn number(keywords: &Map<String, Json>) -> Option<Scalar> {
    if !only(
        keywords,
        &["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
    ) {
        return None;
    }
    let bound = |name: &str| match keywords.get(name) {
        None => Some(None),
        Some(limit) => limit.as_f64().map(Some),
    };
    Some(Scalar::Number(Range {
        min: bound("minimum")?,
        above: bound("exclusiveMinimum")?,
        max: bound("maximum")?,
        below: bound("exclusiveMaximum")?,
    }))
}

impl Text {
    /// The broken rule, if any.
    pub(super) fn check(&self, text: &str) -> Result<(), String> {
        // Bytes bound characters on both sides, so most texts need no counting.
        let bytes = text.len() as u64;
        let characters = || text.chars().count() as u64;
        if self.min > 0 && (bytes < self.min || (bytes < self.min * 4 && characters() < self.min)) {
            return Err(format!("shorter than {} characters", self.min));
        }
        if let Some(max) = self.max
            && bytes > max
            && characters() > max
        {
            return Err(format!("longer than {max} characters"));
        }
        if let Some(values) = &self.one_of
            && !values.iter().any(|value| **value == *text)
        {
            return Err("not one of the declared values".into());
        }
        if self.uuid && !is_uuid(text) {
            return Err("not a uuid".into());
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(text) => {
                Err("does not match the declared pattern".into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Range {
    /// The broken rule, if any.
    pub(super) fn check(&self, value: f64) -> Result<(), String> {
        if let Some(limit) = self.min.filter(|limit| value < *limit) {
            return Err(format!("below the minimum {limit}"));
        }
        if let Some(limit) = self.above.filter(|limit| value <= *limit) {
            return Err(format!("not above {limit}"));
        }
        if let Some(limit) = self.max.filter(|limit| value > *limit) {
            return Err(format!("above the maximum {limit}"));
        }
        if let Some(limit) = self.below.filter(|limit| value >= *limit) {
            return Err(format!("not below {limit}"));
        }
        Ok(())
    }
}

/// RFC 9562 section 4, in either case.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
