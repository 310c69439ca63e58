//! The text of lists and objects in the styles of OpenAPI (RFC 6570), and percent-decoding.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::Value as Json;

use crate::schema::parameter::{Location, Parameter, Style};
use crate::schema::shape::{Shape, TypeSet};
use crate::schema::text::{self, TextError};

/// The text is not written in the declared style.
pub(super) struct Unstyled;

/// What a parameter's value may be, as far as decoding needs to know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Scalar,
    Array,
    Object,
    /// A scalar or a list of them.
    Either,
}

pub(super) fn form(shape: &Shape) -> Form {
    let scalars = shape.types.without(TypeSet::ARRAY.or(TypeSet::OBJECT));
    if shape.types == TypeSet::ALL {
        Form::Scalar
    } else if scalars == TypeSet::NONE || scalars == TypeSet::NULL {
        if shape.types.has(TypeSet::ARRAY) {
            Form::Array
        } else if shape.types.has(TypeSet::OBJECT) {
            Form::Object
        } else {
            Form::Scalar
        }
    } else if shape.types.has(TypeSet::ARRAY) {
        Form::Either
    } else {
        Form::Scalar
    }
}

/// A scalar without the decoration of its style.
pub(super) fn scalar_text<'a>(parameter: &Parameter, text: &'a str) -> Result<&'a str, Unstyled> {
    let bare = match parameter.style {
        Style::Label => text.strip_prefix('.'),
        Style::Matrix => text
            .strip_prefix(';')
            .and_then(|text| text.strip_prefix(&*parameter.name))
            .and_then(|text| text.strip_prefix('=')),
        Style::Simple
        | Style::Form
        | Style::SpaceDelimited
        | Style::PipeDelimited
        | Style::DeepObject
        | Style::Json => Some(text),
    };
    bare.ok_or(Unstyled)
}

/// The items of a list.
pub(super) fn list<'a>(parameter: &Parameter, text: &'a str) -> Result<Vec<&'a str>, Unstyled> {
    if parameter.style == Style::Matrix && parameter.explode {
        let text = text.strip_prefix(';').ok_or(Unstyled)?;
        return text
            .split(';')
            .map(|item| match item.split_once('=') {
                Some((name, value)) if *name == *parameter.name => Ok(value),
                _ => Err(Unstyled),
            })
            .collect();
    }
    let text = scalar_text(parameter, text)?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    Ok(text
        .split(separator(parameter))
        .map(|item| trim(parameter, item))
        .collect())
}

/// Names and values of an object.
pub(super) fn pairs<'a>(
    parameter: &Parameter,
    text: &'a str,
) -> Result<Vec<(&'a str, &'a str)>, Unstyled> {
    if parameter.explode {
        let (text, separator) = match parameter.style {
            Style::Matrix => (text.strip_prefix(';'), ';'),
            Style::Label => (text.strip_prefix('.'), '.'),
            Style::Simple
            | Style::Form
            | Style::SpaceDelimited
            | Style::PipeDelimited
            | Style::DeepObject
            | Style::Json => (Some(text), ','),
        };
        let text = text.ok_or(Unstyled)?;
        return text
            .split(separator)
            .map(|pair| {
                let pair = trim(parameter, pair).split_once('=');
                pair.ok_or(Unstyled)
            })
            .collect();
    }
    let mut parts = list(parameter, text)?.into_iter();
    let mut members = Vec::new();
    while let Some(name) = parts.next() {
        let value = parts.next().ok_or(Unstyled)?;
        members.push((name, value));
    }
    Ok(members)
}

fn separator(parameter: &Parameter) -> char {
    match parameter.style {
        Style::Label if parameter.explode => '.',
        Style::SpaceDelimited => ' ',
        Style::PipeDelimited => '|',
        Style::Simple
        | Style::Label
        | Style::Matrix
        | Style::Form
        | Style::DeepObject
        | Style::Json => ',',
    }
}

/// Items of header lists may have space around them (RFC 9110 section 5.6.1).
fn trim<'a>(parameter: &Parameter, text: &'a str) -> &'a str {
    match parameter.location {
        Location::Header => text.trim(),
        Location::Path | Location::Query | Location::Cookie => text,
    }
}

pub(in crate::schema) enum MemberError {
    Duplicate,
    Text(TextError),
}

/// The typed value of a form's field or an object's property, to be inserted; `None`: it was added to
/// the list that is already there.
pub(in crate::schema) fn member_value(
    shape: &Shape,
    present: Option<&mut Json>,
    name: &str,
    text: &str,
) -> Result<Option<Json>, MemberError> {
    let property = shape.property(name);
    let types = property.map_or(TypeSet::STRING, |property| property.types);
    let is_list = property.is_some_and(|property| form(property) == Form::Array);
    if !is_list {
        if present.is_some() {
            return Err(MemberError::Duplicate);
        }
        return text::typed(text, types)
            .map(Some)
            .map_err(MemberError::Text);
    }
    let items = property.and_then(|property| property.items.as_deref());
    let items = items.map_or(TypeSet::STRING, |items| items.types);
    let item = text::typed(text, items).map_err(MemberError::Text)?;
    if let Some(Json::Array(list)) = present {
        list.push(item);
        return Ok(None);
    }
    Ok(Some(Json::Array(vec![item])))
}

/// Percent-decoding, once. `plus`: `+` is a space (forms and queries). `None`: broken or not UTF-8.
pub(in crate::schema) fn decode(raw: &str, plus: bool) -> Option<Cow<'_, str>> {
    let spaced = if plus && raw.contains('+') {
        Cow::Owned(raw.replace('+', " "))
    } else {
        Cow::Borrowed(raw)
    };
    if !spaced.contains('%') {
        return Some(spaced);
    }
    let mut escapes = spaced.split('%').skip(1);
    let complete = escapes.all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !complete {
        return None;
    }
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(Cow::Owned(decoded.into_owned()))
}
