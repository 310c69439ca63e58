//! From the text of a parameter or form field to typed JSON, and from JSON to what policies read.

use std::sync::Arc;

use serde_json::{Number, Value as Json};

use super::json::number_length;
use super::shape::TypeSet;
use super::{Value, ValueKind};

/// Why text has none of the wanted types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextError {
    /// It is none of them.
    Type,
    /// An integer outside i64 or a number beyond f64.
    Range,
}

/// Text as a JSON number; integers stay exact.
pub(super) fn number(text: &str) -> Result<Number, TextError> {
    let (length, integer) = number_length(text);
    if length == 0 || length != text.len() {
        return Err(TextError::Type);
    }
    if integer {
        let value = text.parse::<i64>().map_err(|_| TextError::Range)?;
        return Ok(Number::from(value));
    }
    let value = text.parse::<f64>().ok().and_then(Number::from_f64);
    value.ok_or(TextError::Range)
}

/// Text as an i64; only the canonical form (no plus sign, no leading zero, no exponent).
pub(super) fn integer(text: &str) -> Result<i64, TextError> {
    match number_length(text) {
        (length, true) if length == text.len() => text.parse().map_err(|_| TextError::Range),
        _ => Err(TextError::Type),
    }
}

/// Text as the first of the wanted types that it can be: boolean, number, string; empty text may be null.
pub(super) fn typed(text: &str, types: TypeSet) -> Result<Json, TextError> {
    if types.has(TypeSet::BOOLEAN) {
        match text {
            "true" => return Ok(Json::Bool(true)),
            "false" => return Ok(Json::Bool(false)),
            _ => {}
        }
    }
    let mut error = TextError::Type;
    if types.has(TypeSet::INTEGER) {
        let wanted = if types.has(TypeSet::NUMBER) {
            number(text)
        } else {
            integer(text).map(Number::from)
        };
        match wanted {
            Ok(number) => return Ok(Json::Number(number)),
            Err(found) => error = found,
        }
    }
    if types.has(TypeSet::STRING) {
        return Ok(Json::String(text.to_owned()));
    }
    if types.has(TypeSet::NULL) && text.is_empty() {
        return Ok(Json::Null);
    }
    Err(error)
}

/// What policies read of a JSON value; `Ok(None)` for null, which is nothing to them. Another type
/// than declared cannot be read: where schemas are only reported, a policy must not take it for absent.
///
/// # Errors
/// An integer outside i64.
pub(super) fn readable(value: &Json, kind: ValueKind) -> Result<Option<Value>, TextError> {
    Ok(match (kind, value) {
        (ValueKind::String, Json::String(text)) => Some(Value::String(Arc::from(text.as_str()))),
        (ValueKind::Bool, Json::Bool(value)) => Some(Value::Bool(*value)),
        (ValueKind::Long, Json::Number(number)) => {
            Some(whole(number)?.map_or(Value::Unreadable, Value::Long))
        }
        (ValueKind::Decimal, Json::Number(number)) => Some(decimal(number)),
        (ValueKind::Strings, Json::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(Arc::from))
            .collect::<Option<Vec<_>>>()
            .map_or(Some(Value::Unreadable), |items| Some(Value::Strings(items))),
        (_, Json::Null) => None,
        (
            ValueKind::String
            | ValueKind::Bool
            | ValueKind::Long
            | ValueKind::Decimal
            | ValueKind::Strings,
            _,
        ) => Some(Value::Unreadable),
    })
}

/// An integer, also where it is written as `1.0` or `1e3` (JSON Schema 2020-12 section 6.1.1).
fn whole(number: &Number) -> Result<Option<i64>, TextError> {
    if let Some(value) = number.as_i64() {
        return Ok(Some(value));
    }
    let value = number.as_f64().ok_or(TextError::Range)?;
    if value.fract() != 0.0 {
        return Ok(None);
    }
    // Exact: every f64 in this range is an integer that i64 holds.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&value) {
        #[allow(clippy::cast_possible_truncation, reason = "checked just above")]
        return Ok(Some(value as i64));
    }
    Err(TextError::Range)
}

/// A number as Cedar's decimal: i64 in units of 0.0001.
pub(super) fn decimal(number: &Number) -> Value {
    const LARGEST_WHOLE: i64 = 922_337_203_685_476;
    let text = match (number.as_i64(), number.as_f64()) {
        (Some(value), _) => format!("{value}.0"),
        (None, Some(value)) => {
            let text = format!("{value}");
            if text.contains('.') {
                text
            } else {
                format!("{text}.0")
            }
        }
        (None, None) => return Value::Unreadable,
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    let fits = whole
        .parse::<i64>()
        .is_ok_and(|whole| (-LARGEST_WHOLE..=LARGEST_WHOLE).contains(&whole));
    if !fits || fraction.len() > 4 {
        return Value::Unreadable;
    }
    Value::Decimal(Arc::from(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_becomes_the_declared_type() {
        let nullable = TypeSet::INTEGER.or(TypeSet::NULL);
        let mixed = TypeSet::INTEGER.or(TypeSet::STRING);
        for (text, types, expected) in [
            ("17", TypeSet::INTEGER, Ok(json!(17))),
            ("-3", TypeSet::INTEGER, Ok(json!(-3))),
            ("017", TypeSet::INTEGER, Err(TextError::Type)),
            ("+1", TypeSet::INTEGER, Err(TextError::Type)),
            ("1.0", TypeSet::INTEGER, Err(TextError::Type)),
            (" 1", TypeSet::INTEGER, Err(TextError::Type)),
            ("", TypeSet::INTEGER, Err(TextError::Type)),
            ("", nullable, Ok(Json::Null)),
            (
                "9223372036854775808",
                TypeSet::INTEGER,
                Err(TextError::Range),
            ),
            (
                "9223372036854775808",
                TypeSet::NUMBER,
                Err(TextError::Range),
            ),
            ("2.50", TypeSet::NUMBER, Ok(json!(2.5))),
            ("7", TypeSet::NUMBER, Ok(json!(7))),
            ("1e400", TypeSet::NUMBER, Err(TextError::Range)),
            ("NaN", TypeSet::NUMBER, Err(TextError::Type)),
            ("true", TypeSet::BOOLEAN, Ok(json!(true))),
            ("True", TypeSet::BOOLEAN, Err(TextError::Type)),
            ("1", TypeSet::BOOLEAN, Err(TextError::Type)),
            ("17", TypeSet::STRING, Ok(json!("17"))),
            ("17", mixed, Ok(json!(17))),
            ("x17", mixed, Ok(json!("x17"))),
            ("{}", TypeSet::OBJECT, Err(TextError::Type)),
        ] {
            assert_eq!(typed(text, types), expected, "{text:?} as {types:?}");
        }
    }

    #[test]
    fn what_policies_read() {
        let decimal = |text: &str| Ok(Some(Value::Decimal(text.into())));
        for (value, kind, expected) in [
            (json!(17), ValueKind::Long, Ok(Some(Value::Long(17)))),
            (json!(17.0), ValueKind::Long, Ok(Some(Value::Long(17)))),
            (json!(17.5), ValueKind::Long, Ok(Some(Value::Unreadable))),
            (json!(1e30), ValueKind::Long, Err(TextError::Range)),
            (json!("17"), ValueKind::Long, Ok(Some(Value::Unreadable))),
            (json!(17), ValueKind::Decimal, decimal("17.0")),
            (json!(-0.25), ValueKind::Decimal, decimal("-0.25")),
            (json!(1e3), ValueKind::Decimal, decimal("1000.0")),
            (
                json!(52.520_008),
                ValueKind::Decimal,
                Ok(Some(Value::Unreadable)),
            ),
            (json!(1e20), ValueKind::Decimal, Ok(Some(Value::Unreadable))),
            (json!(null), ValueKind::String, Ok(None)),
            (json!(true), ValueKind::Bool, Ok(Some(Value::Bool(true)))),
            (
                json!(["a", "b"]),
                ValueKind::Strings,
                Ok(Some(Value::Strings(vec!["a".into(), "b".into()]))),
            ),
            (
                json!(["a", 1]),
                ValueKind::Strings,
                Ok(Some(Value::Unreadable)),
            ),
        ] {
            assert_eq!(readable(&value, kind), expected, "{value} as {kind:?}");
        }
    }
}
