//! Parameters of one request: found, decoded once, typed, checked, and handed to policies.
//!
//! Percent-encoding is undone before lists are split, as most servers do; a client that encodes the
//! comma of `ids=1%2C2` means two items to them. Nothing here allocates beyond [`Values`] as long as
//! parameters are scalars without percent-encoding.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value as Json};
use smallvec::SmallVec;
use testudo_model::{PolicyRef, Reason};

use super::parameter::{Location, Parameter, Style};
use super::scalar::Scalar;
use super::shape::{Shape, TypeSet};
use super::text::{self, TextError};
use super::validator::{Broken, Check, check_bounds, not};
use super::{Value, ValueKind, Values, Violation, json};

/// The parameters of one operation, sorted by where they are carried.
pub(super) struct Params {
    path: Vec<Parameter>,
    query: Vec<Parameter>,
    headers: Vec<(HeaderName, Parameter)>,
    cookies: Vec<Parameter>,
    /// Names in the query, sorted: parameters, and properties of exploded objects.
    names: Vec<(Arc<str>, usize)>,
    /// The exploded object that takes every name that nothing else has.
    rest: Option<usize>,
    /// Names that are allowed and not looked at (credentials in the query).
    ignored: Vec<Arc<str>>,
    /// Whether undeclared names are allowed.
    additional: bool,
    source: Option<PolicyRef>,
}

impl Default for Params {
    /// Nothing is declared, everything passes.
    fn default() -> Self {
        Params::new(Vec::new(), Vec::new(), true, None)
    }
}

/// One value of the query that belongs to a parameter.
struct Occurrence<'q> {
    parameter: usize,
    /// The property, for objects.
    name: Cow<'q, str>,
    value: Cow<'q, str>,
}

/// What a parameter's value may be, as far as decoding needs to know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Scalar,
    Array,
    Object,
    /// A scalar or a list of them.
    Either,
}

fn form(shape: &Shape) -> Form {
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

fn is_exploded_object(parameter: &Parameter) -> bool {
    parameter.style == Style::Form
        && parameter.explode
        && form(&parameter.schema.shape) == Form::Object
}

impl Params {
    pub(super) fn new(
        parameters: Vec<Parameter>,
        ignored: Vec<Arc<str>>,
        additional: bool,
        source: Option<PolicyRef>,
    ) -> Params {
        let mut params = Params {
            path: Vec::new(),
            query: Vec::new(),
            headers: Vec::new(),
            cookies: Vec::new(),
            names: Vec::new(),
            rest: None,
            ignored,
            additional,
            source,
        };
        for parameter in parameters {
            match parameter.location {
                Location::Path => params.path.push(parameter),
                Location::Query => params.query.push(parameter),
                Location::Cookie => params.cookies.push(parameter),
                Location::Header => {
                    // Names that HTTP cannot carry were refused when the specification was read.
                    if let Ok(name) = HeaderName::from_bytes(parameter.name.as_bytes()) {
                        params.headers.push((name, parameter));
                    }
                }
            }
        }
        for (index, parameter) in params.query.iter().enumerate() {
            if is_exploded_object(parameter) {
                let properties = &parameter.schema.shape.properties;
                let names = properties.iter().map(|(name, _)| (name.clone(), index));
                params.names.extend(names);
                if parameter.schema.shape.additional {
                    params.rest = params.rest.or(Some(index));
                }
            } else if parameter.style != Style::DeepObject {
                params.names.push((parameter.name.clone(), index));
            }
        }
        params.names.sort();
        params
    }

    /// Whether a path parameter is written in matrix style, so that `;` may stand in the path.
    pub(super) fn allows_semicolons(&self) -> bool {
        self.path.iter().any(|param| param.style == Style::Matrix)
    }

    pub(super) fn check(
        &self,
        path_params: &[(Arc<str>, &str)],
        raw_query: Option<&str>,
        headers: &HeaderMap,
        values: &mut Values,
    ) -> Result<(), Violation> {
        let mut outcome = Ok(());
        let mut note = |result: Result<(), Violation>| {
            if outcome.is_ok() {
                outcome = result;
            }
        };
        for parameter in &self.path {
            let raw = path_params
                .iter()
                .find(|(name, _)| *name == parameter.name)
                .map(|(_, raw)| *raw);
            note(check_path(parameter, raw, values));
        }
        let open = self.query.is_empty() && self.additional;
        if !open {
            note(self.check_query(raw_query.unwrap_or_default(), values));
        }
        for (name, parameter) in &self.headers {
            note(check_header(parameter, name, headers, values));
        }
        if !self.cookies.is_empty() {
            note(self.check_cookies(headers, values));
        }
        outcome
    }

    fn check_query(&self, raw: &str, values: &mut Values) -> Result<(), Violation> {
        let mut found: SmallVec<[Occurrence<'_>; 8]> = SmallVec::new();
        let mut outcome = Ok(());
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            match self.occurrence(pair) {
                Ok(Some(occurrence)) => found.push(occurrence),
                Ok(None) => {}
                Err(violation) => {
                    if outcome.is_ok() {
                        outcome = Err(violation);
                    }
                }
            }
        }
        // Stable, so that values of one parameter stay in order.
        found.sort_by_key(|occurrence| occurrence.parameter);
        let mut rest = found.as_slice();
        for (index, parameter) in self.query.iter().enumerate() {
            let count = rest
                .iter()
                .take_while(|occurrence| occurrence.parameter == index)
                .count();
            let (own, others) = rest.split_at_checked(count).unwrap_or((&[], rest));
            rest = others;
            let result = check_occurrences(parameter, own, values);
            if outcome.is_ok() {
                outcome = result;
            }
        }
        outcome
    }

    /// Whose value a pair of the query is; `None`: nobody's, and allowed.
    fn occurrence<'q>(&self, pair: &'q str) -> Result<Option<Occurrence<'q>>, Violation> {
        let (raw_name, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
        let undecodable = || Violation {
            reason: Reason::RequestMalformed,
            detail: "query: percent-encoding that cannot be decoded to UTF-8".into(),
            source: self.source.clone(),
        };
        let name = decode(raw_name, true).ok_or_else(undecodable)?;
        let by_name = self
            .names
            .binary_search_by(|(known, _)| (**known).cmp(&name));
        let target = by_name.ok().and_then(|at| self.names.get(at));
        let (parameter, property) = if let Some((_, index)) = target {
            (*index, name)
        } else if let Some((index, property)) = self.deep_property(&name) {
            (index, Cow::Owned(property))
        } else if self.ignored.iter().any(|known| **known == *name) {
            return Ok(None);
        } else if let Some(index) = self.rest {
            (index, name)
        } else if self.additional {
            return Ok(None);
        } else {
            return Err(Violation {
                reason: Reason::SchemaParams,
                detail: format!(
                    "query parameter {} is not declared",
                    super::printable(&name)
                ),
                source: self.source.clone(),
            });
        };
        Ok(Some(Occurrence {
            parameter,
            name: property,
            value: decode(raw_value, true).ok_or_else(undecodable)?,
        }))
    }

    /// `filter[size]`: the deepObject parameter `filter` and its property `size`.
    fn deep_property(&self, name: &str) -> Option<(usize, String)> {
        let (object, property) = name.strip_suffix(']')?.split_once('[')?;
        if property.contains(['[', ']']) {
            return None;
        }
        let index = self.query.iter().position(|parameter| {
            parameter.style == Style::DeepObject && *parameter.name == *object
        })?;
        Some((index, property.to_owned()))
    }

    fn check_cookies(&self, headers: &HeaderMap, values: &mut Values) -> Result<(), Violation> {
        let mut outcome = Ok(());
        for parameter in &self.cookies {
            let result = check_cookie(parameter, headers, values);
            if outcome.is_ok() {
                outcome = result;
            }
        }
        outcome
    }
}

fn check_cookie(
    parameter: &Parameter,
    headers: &HeaderMap,
    values: &mut Values,
) -> Result<(), Violation> {
    let mut found = None;
    for line in headers.get_all(COOKIE) {
        let line = std::str::from_utf8(line.as_bytes())
            .map_err(|_| malformed(parameter, "is not UTF-8"))?;
        for pair in line.split(';') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if name.trim() == &*parameter.name && found.replace(value.trim()).is_some() {
                return Err(malformed(parameter, "comes more than once"));
            }
        }
    }
    let Some(raw) = found else {
        return missing(parameter);
    };
    let text = decode(raw, false).ok_or_else(|| malformed(parameter, "cannot be decoded"))?;
    check_text(parameter, &text, values)
}

fn check_path(
    parameter: &Parameter,
    raw: Option<&str>,
    values: &mut Values,
) -> Result<(), Violation> {
    let Some(raw) = raw else {
        return missing(parameter);
    };
    let text = decode(raw, false).ok_or_else(|| malformed(parameter, "cannot be decoded"))?;
    check_text(parameter, &text, values)
}

fn check_header(
    parameter: &Parameter,
    name: &HeaderName,
    headers: &HeaderMap,
    values: &mut Values,
) -> Result<(), Violation> {
    let mut lines = headers.get_all(name).iter();
    let Some(first) = lines.next() else {
        return missing(parameter);
    };
    let text = |value: &'_ http::HeaderValue| {
        std::str::from_utf8(value.as_bytes())
            .map(|text| text.trim().to_owned())
            .map_err(|_| malformed(parameter, "is not UTF-8"))
    };
    let Some(second) = lines.next() else {
        let first = std::str::from_utf8(first.as_bytes())
            .map_err(|_| malformed(parameter, "is not UTF-8"))?;
        return check_text(parameter, first.trim(), values);
    };
    if form(&parameter.schema.shape) != Form::Array {
        return Err(malformed(parameter, "comes more than once"));
    }
    // Lines of a list are one list (RFC 9110 section 5.3).
    let mut joined = format!("{},{}", text(first)?, text(second)?);
    for line in lines {
        joined.push(',');
        joined.push_str(&text(line)?);
    }
    check_text(parameter, &joined, values)
}

/// A parameter of the query, from all its values.
fn check_occurrences(
    parameter: &Parameter,
    found: &[Occurrence<'_>],
    values: &mut Values,
) -> Result<(), Violation> {
    let Some(first) = found.first() else {
        return missing(parameter);
    };
    let shape = &parameter.schema.shape;
    let exploded = parameter.explode && parameter.style == Style::Form;
    match form(shape) {
        Form::Object if exploded || parameter.style == Style::DeepObject => {
            let mut members = Map::new();
            for occurrence in found {
                add_member(parameter, &mut members, &occurrence.name, &occurrence.value)?;
            }
            check_json(parameter, &Json::Object(members), values)
        }
        Form::Array | Form::Either
            if exploded && (found.len() > 1 || form(shape) == Form::Array) =>
        {
            let items = found.iter().map(|occurrence| &*occurrence.value);
            let items = typed_items(parameter, items)?;
            check_json(parameter, &items, values)
        }
        Form::Scalar | Form::Array | Form::Object | Form::Either => {
            if found.len() > 1 {
                return Err(malformed(parameter, "comes more than once"));
            }
            check_text(parameter, &first.value, values)
        }
    }
}

/// A parameter from one text, percent-decoded.
fn check_text(parameter: &Parameter, text: &str, values: &mut Values) -> Result<(), Violation> {
    if parameter.style == Style::Json {
        let value = json::parse(text.as_bytes()).map_err(|error| {
            let reason = if error.is_ambiguous() {
                Reason::RequestMalformed
            } else {
                Reason::SchemaParams
            };
            violation(parameter, reason, &error.to_string())
        })?;
        return check_json(parameter, &value, values);
    }
    if text.is_empty() && parameter.allow_empty {
        if parameter.kind == Some(ValueKind::String) {
            keep(parameter, Value::String(Arc::from("")), values);
        }
        return Ok(());
    }
    match form(&parameter.schema.shape) {
        Form::Scalar => check_scalar(parameter, scalar_text(parameter, text)?, values),
        Form::Either => {
            let scalar = scalar_text(parameter, text)?;
            if let Ok(value) = text::typed(scalar, parameter.schema.shape.types)
                && parameter.schema.is_valid(&value)
            {
                return check_json(parameter, &value, values);
            }
            let items = list(parameter, text)?;
            let items = typed_items(parameter, items.into_iter())?;
            check_json(parameter, &items, values)
        }
        Form::Array => {
            let items = list(parameter, text)?;
            let items = typed_items(parameter, items.into_iter())?;
            check_json(parameter, &items, values)
        }
        Form::Object => {
            let mut members = Map::new();
            for (name, value) in pairs(parameter, text)? {
                add_member(parameter, &mut members, name, value)?;
            }
            check_json(parameter, &Json::Object(members), values)
        }
    }
}

fn check_scalar(parameter: &Parameter, text: &str, values: &mut Values) -> Result<(), Violation> {
    let Check::Scalar(scalar) = &parameter.schema.check else {
        return check_general_scalar(parameter, text, values);
    };
    let broken = |rule: String| violation(parameter, Reason::SchemaParams, &rule);
    let (value, result) = match scalar {
        Scalar::String(rules) => {
            let result = rules.check(text);
            if parameter.kind.is_none() {
                return result.map_err(broken);
            }
            (Value::String(Arc::from(text)), result)
        }
        Scalar::Integer { min, max } => {
            let value = text::integer(text).map_err(|error| untyped(parameter, error))?;
            (Value::Long(value), check_bounds(value, *min, *max))
        }
        Scalar::Number(range) => {
            let value = text::number(text).map_err(|error| untyped(parameter, error))?;
            let result = range.check(value.as_f64().unwrap_or(f64::NAN));
            (text::decimal(&value), result)
        }
        Scalar::Boolean => match text {
            "true" => (Value::Bool(true), Ok(())),
            "false" => (Value::Bool(false), Ok(())),
            _ => return Err(broken(not("boolean"))),
        },
    };
    if parameter.kind.is_some() {
        keep(parameter, value, values);
    }
    result.map_err(broken)
}

/// Through JSON. Text that could be several types is tried as a string last.
fn check_general_scalar(
    parameter: &Parameter,
    text: &str,
    values: &mut Values,
) -> Result<(), Violation> {
    let types = parameter.schema.shape.types;
    let value = text::typed(text, types).map_err(|error| untyped(parameter, error))?;
    if !value.is_string() && types.has(TypeSet::STRING) && !parameter.schema.is_valid(&value) {
        return check_json(parameter, &Json::String(text.to_owned()), values);
    }
    check_json(parameter, &value, values)
}

fn check_json(parameter: &Parameter, value: &Json, values: &mut Values) -> Result<(), Violation> {
    if let Some(kind) = parameter.kind {
        match text::readable(value, kind) {
            Ok(Some(value)) => keep(parameter, value, values),
            Ok(None) => {}
            Err(error) => return Err(untyped(parameter, error)),
        }
    }
    parameter.schema.check(value).map_err(|broken| {
        let Broken { pointer, rule } = broken;
        let place = super::printable(&pointer);
        let space = if place.is_empty() { "" } else { " at " };
        violation(
            parameter,
            Reason::SchemaParams,
            &format!("{rule}{space}{place}"),
        )
    })
}

fn keep(parameter: &Parameter, value: Value, values: &mut Values) {
    let list = match parameter.location {
        Location::Path | Location::Query => &mut values.params,
        Location::Header => &mut values.headers,
        Location::Cookie => return,
    };
    list.push((parameter.name.clone(), value));
}

/// A scalar without the decoration of its style.
fn scalar_text<'a>(parameter: &Parameter, text: &'a str) -> Result<&'a str, Violation> {
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
    bare.ok_or_else(|| unstyled(parameter))
}

/// The items of a list.
fn list<'a>(parameter: &Parameter, text: &'a str) -> Result<Vec<&'a str>, Violation> {
    if parameter.style == Style::Matrix && parameter.explode {
        let text = text.strip_prefix(';').ok_or_else(|| unstyled(parameter))?;
        return text
            .split(';')
            .map(|item| match item.split_once('=') {
                Some((name, value)) if *name == *parameter.name => Ok(value),
                _ => Err(unstyled(parameter)),
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
fn pairs<'a>(parameter: &Parameter, text: &'a str) -> Result<Vec<(&'a str, &'a str)>, Violation> {
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
        let text = text.ok_or_else(|| unstyled(parameter))?;
        return text
            .split(separator)
            .map(|pair| {
                let pair = trim(parameter, pair).split_once('=');
                pair.ok_or_else(|| unstyled(parameter))
            })
            .collect();
    }
    let mut parts = list(parameter, text)?.into_iter();
    let mut members = Vec::new();
    while let Some(name) = parts.next() {
        let value = parts.next().ok_or_else(|| unstyled(parameter))?;
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

fn typed_items<'a>(
    parameter: &Parameter,
    items: impl Iterator<Item = &'a str>,
) -> Result<Json, Violation> {
    let types = match &parameter.schema.shape.items {
        Some(items) => items.types,
        None => TypeSet::STRING,
    };
    let typed = items.map(|item| text::typed(item, types));
    let typed: Result<Vec<_>, _> = typed.collect();
    typed
        .map(Json::Array)
        .map_err(|error| untyped(parameter, error))
}

/// Adds a property of an object; a second value is a list where the schema has one, else a duplicate.
fn add_member(
    parameter: &Parameter,
    members: &mut Map<String, Json>,
    name: &str,
    text: &str,
) -> Result<(), Violation> {
    let value = member_value(&parameter.schema.shape, members.get_mut(name), name, text).map_err(
        |error| match error {
            MemberError::Duplicate => malformed(
                parameter,
                &format!("has {} more than once", super::printable(name)),
            ),
            MemberError::Text(error) => untyped(parameter, error),
        },
    )?;
    if let Some(value) = value {
        members.insert(name.to_owned(), value);
    }
    Ok(())
}

pub(super) enum MemberError {
    Duplicate,
    Text(TextError),
}

/// The typed value of a form's field or an object's property, to be inserted; `None`: it was added to
/// the list that is already there.
pub(super) fn member_value(
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
pub(super) fn decode(raw: &str, plus: bool) -> Option<Cow<'_, str>> {
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

fn missing(parameter: &Parameter) -> Result<(), Violation> {
    if !parameter.required {
        return Ok(());
    }
    Err(violation(
        parameter,
        Reason::SchemaParams,
        "is required and missing",
    ))
}

fn untyped(parameter: &Parameter, error: TextError) -> Violation {
    match error {
        TextError::Type => violation(
            parameter,
            Reason::SchemaParams,
            "has another type than declared",
        ),
        TextError::Range => malformed(parameter, "is a number out of range"),
    }
}

fn unstyled(parameter: &Parameter) -> Violation {
    violation(
        parameter,
        Reason::SchemaParams,
        "is not written in the declared style",
    )
}

fn malformed(parameter: &Parameter, what: &str) -> Violation {
    violation(parameter, Reason::RequestMalformed, what)
}

fn violation(parameter: &Parameter, reason: Reason, what: &str) -> Violation {
    Violation {
        reason,
        detail: format!(
            "{} parameter {}: {what}",
            parameter.location.as_str(),
            parameter.name
        ),
        source: Some(parameter.source.clone()),
    }
}
