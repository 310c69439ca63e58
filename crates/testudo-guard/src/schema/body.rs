//! Bodies: content type and coding, JSON and forms against their schemas, responses.

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value as Json};
use testudo_model::{PolicyRef, Reason};

use super::head::{MemberError, decode, member_value};
use super::media::{self, MediaRange, Specificity, Syntax};
use super::shape::{Shape, TypeSet};
use super::text::{self, TextError};
use super::validator::{Broken, Schema};
use super::{BodyRule, Value, ValueKind, Values, Violation, json};

/// A request body as the specification declares it.
pub struct RequestBody {
    /// Whether a request without one is refused.
    pub required: bool,
    /// Its media types.
    pub content: Vec<MediaType>,
    /// Top-level fields that policies read.
    pub fields: Vec<(Arc<str>, ValueKind)>,
    /// Where it stands in the specification.
    pub source: PolicyRef,
}

/// One media type of a body, or a range of them.
pub struct MediaType {
    /// The type or range.
    pub range: MediaRange,
    /// What bodies must be; `None`: not declared.
    pub schema: Option<Arc<Schema>>,
    /// Where it stands in the specification.
    pub source: PolicyRef,
}

/// The responses of an operation.
#[derive(Default)]
pub struct Responses {
    /// Those that are declared.
    pub list: Vec<ResponseRule>,
}

/// Which status a response declaration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusRange {
    /// One status.
    Exact(u16),
    /// `4XX`: all with this first digit.
    Class(u16),
    /// `default`.
    Default,
}

/// One declared response.
pub struct ResponseRule {
    /// For which status.
    pub status: StatusRange,
    /// Its media types; empty: no body is described.
    pub content: Vec<MediaType>,
    /// Where it stands in the specification.
    pub source: PolicyRef,
}

impl MediaType {
    fn admits(&self, kind: &str, subtype: &str) -> Option<Specificity> {
        let found = self.range.matches(kind, subtype)?;
        // `*/*` with an object schema means JSON or a form: under another type it would pass unread.
        let unread = media::syntax(kind, subtype) == Syntax::Opaque
            && self.range.is_wildcard()
            && self
                .schema
                .as_ref()
                .is_some_and(|schema| !schema.shape.types.has(TypeSet::STRING));
        (!unread).then_some(found)
    }
}

/// The most specific media type that admits a content type.
fn best<'a>(content: &'a [MediaType], kind: &str, subtype: &str) -> Option<(usize, &'a MediaType)> {
    let mut found: Option<(usize, &MediaType, Specificity)> = None;
    for (index, media) in content.iter().enumerate() {
        if let Some(specificity) = media.admits(kind, subtype)
            && found.is_none_or(|(_, _, known)| specificity > known)
        {
            found = Some((index, media, specificity));
        }
    }
    found.map(|(index, media, _)| (index, media))
}

/// How the body of a request with this head is to be judged. `None` for `declared`: the operation has none.
pub(super) fn check_content_type(
    declared: Option<&RequestBody>,
    source: Option<&PolicyRef>,
    headers: &HeaderMap,
    has_body: bool,
) -> Result<BodyRule, Violation> {
    let violation = |reason, detail: String, source: Option<&PolicyRef>| Violation {
        reason,
        detail,
        source: source.cloned(),
    };
    let Some(body) = declared else {
        let announced = headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length.as_bytes() != b"0");
        if has_body && announced {
            let detail = "body: the operation takes none".to_owned();
            return Err(violation(Reason::SchemaBody, detail, source));
        }
        return Ok(if has_body {
            BodyRule::Empty
        } else {
            BodyRule::Unchecked
        });
    };
    let source = Some(&body.source);
    if !has_body {
        if body.required {
            let detail = "body: required and missing".to_owned();
            return Err(violation(Reason::SchemaBody, detail, source));
        }
        return Ok(BodyRule::Unchecked);
    }
    let unsupported = |detail: String| violation(Reason::SchemaContentType, detail, source);
    for coding in headers.get_all(CONTENT_ENCODING) {
        if !coding.as_bytes().eq_ignore_ascii_case(b"identity") {
            return Err(unsupported(
                "content-encoding: only identity is supported".into(),
            ));
        }
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let content_type = types
        .next()
        .ok_or_else(|| unsupported("content-type: missing".into()))?;
    if types.next().is_some() {
        let detail = "content-type: comes more than once".to_owned();
        return Err(violation(Reason::RequestMalformed, detail, source));
    }
    let content_type = content_type.to_str().unwrap_or_default();
    let (kind, subtype, parameters) = media::split(content_type)
        .ok_or_else(|| unsupported("content-type: not a media type".into()))?;
    let (index, media) = best(&body.content, kind, subtype).ok_or_else(|| {
        let given = super::printable(&format!("{kind}/{subtype}"));
        unsupported(format!("content-type: {given} is not declared"))
    })?;
    let syntax = media::syntax(kind, subtype);
    if syntax != Syntax::Opaque && media::has_foreign_charset(parameters) {
        return Err(unsupported("content-type: only UTF-8 is supported".into()));
    }
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    Ok(match (syntax, &media.schema) {
        (Syntax::Json, Some(_)) => BodyRule::Json(index),
        (Syntax::Form, Some(_)) => BodyRule::Form(index),
        (Syntax::Json | Syntax::Form, None) | (Syntax::Opaque, _) => BodyRule::Unchecked,
    })
}

/// Judges a complete request body and reads the declared fields.
pub(super) fn check_request(
    body: &RequestBody,
    rule: BodyRule,
    bytes: &[u8],
    values: &mut Values,
) -> Result<(), Violation> {
    let (index, value) = match rule {
        BodyRule::Unchecked | BodyRule::Empty => return Ok(()),
        BodyRule::Json(index) | BodyRule::Form(index) if bytes.is_empty() => {
            // Announced (HTTP/2, chunked) but not there.
            let _ = index;
            return if body.required {
                Err(broken_body(&body.source, "required and missing"))
            } else {
                Ok(())
            };
        }
        BodyRule::Json(index) => (index, read_json(bytes, &body.source)?),
        BodyRule::Form(index) => {
            let schema = schema_at(body, index);
            let shape = schema.map(|schema| &schema.shape);
            (index, read_form(bytes, shape, &body.source)?)
        }
    };
    read_fields(body, &value, values)?;
    let Some(schema) = schema_at(body, index) else {
        return Ok(());
    };
    schema
        .check(&value)
        .map_err(|broken| broken_body(&body.source, &describe(broken)))
}

fn schema_at(body: &RequestBody, index: u16) -> Option<&Schema> {
    body.content.get(usize::from(index))?.schema.as_deref()
}

fn read_fields(body: &RequestBody, value: &Json, values: &mut Values) -> Result<(), Violation> {
    let Json::Object(members) = value else {
        return Ok(());
    };
    let fields: &mut Vec<(Arc<str>, Value)> = values.body.get_or_insert_default();
    for (name, kind) in &body.fields {
        let Some(member) = members.get(&**name) else {
            continue;
        };
        match text::readable(member, *kind) {
            Ok(Some(value)) => fields.push((name.clone(), value)),
            Ok(None) => {}
            Err(TextError::Type | TextError::Range) => {
                return Err(Violation {
                    reason: Reason::RequestMalformed,
                    detail: format!("body: integer outside 64 bits at /{name}"),
                    source: Some(body.source.clone()),
                });
            }
        }
    }
    Ok(())
}

fn read_json(bytes: &[u8], source: &PolicyRef) -> Result<Json, Violation> {
    json::parse(bytes).map_err(|error| Violation {
        reason: if error.is_ambiguous() {
            Reason::RequestMalformed
        } else {
            Reason::SchemaBody
        },
        detail: format!("body: {error}"),
        source: Some(source.clone()),
    })
}

/// `application/x-www-form-urlencoded` (WHATWG URL section 5.1) as an object.
fn read_form(bytes: &[u8], shape: Option<&Shape>, source: &PolicyRef) -> Result<Json, Violation> {
    let malformed = |detail: String| Violation {
        reason: Reason::RequestMalformed,
        detail,
        source: Some(source.clone()),
    };
    let undecodable = || malformed("body: form that cannot be decoded to UTF-8".into());
    let text = std::str::from_utf8(bytes).map_err(|_| undecodable())?;
    let any = Shape::any();
    let shape = shape.unwrap_or(&any);
    let mut members = Map::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name, true).ok_or_else(undecodable)?;
        let value = decode(value, true).ok_or_else(undecodable)?;
        let added = member_value(shape, members.get_mut(&*name), &name, &value);
        let added = added.map_err(|error| {
            let name = super::printable(&name);
            match error {
                MemberError::Duplicate => malformed(format!("body: duplicate field {name}")),
                MemberError::Text(TextError::Range) => {
                    malformed(format!("body: field {name} is a number out of range"))
                }
                MemberError::Text(TextError::Type) => broken_body(
                    source,
                    &format!("field {name} has another type than declared"),
                ),
            }
        })?;
        if let Some(value) = added {
            members.insert(name.into_owned(), value);
        }
    }
    Ok(Json::Object(members))
}

fn describe(broken: Broken) -> String {
    let Broken { pointer, rule } = broken;
    if pointer.is_empty() {
        return rule;
    }
    format!("{rule} at {}", super::printable(&pointer))
}

pub(super) fn broken_body(source: &PolicyRef, what: &str) -> Violation {
    Violation {
        reason: Reason::SchemaBody,
        detail: format!("body: {what}"),
        source: Some(source.clone()),
    }
}

impl Responses {
    /// The declaration for a status: exact, then its class, then `default`.
    fn find(&self, status: StatusCode) -> Option<&ResponseRule> {
        let of = |wanted: StatusRange| self.list.iter().find(|rule| rule.status == wanted);
        of(StatusRange::Exact(status.as_u16()))
            .or_else(|| of(StatusRange::Class(status.as_u16() / 100)))
            .or_else(|| of(StatusRange::Default))
    }

    /// The schema that a response's body must be checked against.
    fn schema(
        &self,
        status: StatusCode,
        content_type: Option<&str>,
    ) -> Option<(&Schema, &MediaType)> {
        let (kind, subtype, _) = media::split(content_type?)?;
        if media::syntax(kind, subtype) != Syntax::Json {
            return None;
        }
        let (_, media) = best(&self.find(status)?.content, kind, subtype)?;
        Some((media.schema.as_deref()?, media))
    }

    pub(super) fn needs_body(&self, status: StatusCode, content_type: Option<&str>) -> bool {
        self.schema(status, content_type).is_some()
    }

    pub(super) fn check(
        &self,
        status: StatusCode,
        content_type: Option<&str>,
        body: Option<&[u8]>,
        source: Option<&PolicyRef>,
    ) -> Result<(), Violation> {
        if self.list.is_empty() {
            return Ok(());
        }
        let violation = |detail: String, source: Option<&PolicyRef>| Violation {
            reason: Reason::SchemaResponse,
            detail,
            source: source.cloned(),
        };
        let Some(rule) = self.find(status) else {
            let detail = format!("response: status {} is not declared", status.as_u16());
            return Err(violation(detail, source));
        };
        let source = Some(&rule.source);
        if let Some(content_type) = content_type
            && !rule.content.is_empty()
        {
            let declared = media::split(content_type)
                .is_some_and(|(kind, subtype, _)| best(&rule.content, kind, subtype).is_some());
            if !declared {
                let given = super::printable(content_type);
                let detail = format!("response: content-type {given} is not declared");
                return Err(violation(detail, source));
            }
        }
        let (Some((schema, media)), Some(body)) = (self.schema(status, content_type), body) else {
            return Ok(());
        };
        let source = Some(&media.source);
        let value =
            json::parse(body).map_err(|error| violation(format!("response: {error}"), source))?;
        schema
            .check(&value)
            .map_err(|broken| violation(format!("response: {}", describe(broken)), source))
    }
}
