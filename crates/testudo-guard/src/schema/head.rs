//! Parameters of one request: found, decoded once, typed, checked, and handed to policies.
//!
//! Percent-encoding is undone before lists are split, as most servers do; a client that encodes the
//! comma of `ids=1%2C2` means two items to them. Nothing here allocates beyond [`Values`] as long as
//! parameters are scalars without percent-encoding.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};
use serde_json::{Map, Value as Json};
use smallvec::SmallVec;
use testudo_model::{PolicyRef, Reason};

use super::parameter::{Location, Parameter, Style};
use super::scalar::Scalar;
use super::shape::TypeSet;
use super::text::{self, TextError};
use super::validator::{Broken, Check, check_bounds, not};
use super::{Value, ValueKind, Values, Violation, json};

mod styles;

use styles::{Form, form, list, pairs, scalar_text};
pub(super) use styles::{MemberError, decode, member_value};

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
        values.params.reserve(self.path.len() + self.query.len());
        values.headers.reserve(self.headers.len());
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
            let items = typed_items(parameter, items, values)?;
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
        Form::Scalar => check_scalar(
            parameter,
            scalar_text(parameter, text).map_err(|_| unstyled(parameter))?,
            values,
        ),
        Form::Either => {
            let scalar = scalar_text(parameter, text).map_err(|_| unstyled(parameter))?;
            if let Ok(value) = text::typed(scalar, parameter.schema.shape.types)
                && parameter.schema.is_valid(&value)
            {
                return check_json(parameter, &value, values);
            }
            let items = list(parameter, text).map_err(|_| unstyled(parameter))?;
            let items = typed_items(parameter, items.into_iter(), values)?;
            check_json(parameter, &items, values)
        }
        Form::Array => {
            let items = list(parameter, text).map_err(|_| unstyled(parameter))?;
            let items = typed_items(parameter, items.into_iter(), values)?;
            check_json(parameter, &items, values)
        }
        Form::Object => {
            let mut members = Map::new();
            for (name, value) in pairs(parameter, text).map_err(|_| unstyled(parameter))? {
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
            let value = text::integer(text).map_err(|error| unread(parameter, error, values))?;
            (Value::Long(value), check_bounds(value, *min, *max))
        }
        Scalar::Number(range) => {
            let value = text::number(text).map_err(|error| unread(parameter, error, values))?;
            let result = range.check(value.as_f64().unwrap_or(f64::NAN));
            (text::decimal(&value), result)
        }
        Scalar::Boolean => match text {
            "true" => (Value::Bool(true), Ok(())),
            "false" => (Value::Bool(false), Ok(())),
            _ => (Value::Unreadable, Err(not("boolean"))),
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
    let value = text::typed(text, types).map_err(|error| unread(parameter, error, values))?;
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

/// A value of another type than declared: policies must not take it for absent.
fn unread(parameter: &Parameter, error: TextError, values: &mut Values) -> Violation {
    if parameter.kind.is_some() {
        keep(parameter, Value::Unreadable, values);
    }
    untyped(parameter, error)
}

fn typed_items<'a>(
    parameter: &Parameter,
    items: impl Iterator<Item = &'a str>,
    values: &mut Values,
) -> Result<Json, Violation> {
    let types = match &parameter.schema.shape.items {
        Some(items) => items.types,
        None => TypeSet::STRING,
    };
    let typed = items.map(|item| text::typed(item, types));
    let typed: Result<Vec<_>, _> = typed.collect();
    typed
        .map(Json::Array)
        .map_err(|error| unread(parameter, error, values))
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
