//! Request bodies and responses: media types, their schemas, and the fields that policies read.

use std::sync::Arc;

use testudo_guard::schema::{
    MediaRange, MediaType, RequestBody, ResponseRule, Responses, Shape, StatusRange, TypeSet,
};

use super::files::Place;
use super::parameters::value_kind;
use super::reader::{Reader, check_keys, policy_ref};
use super::schema::Direction;
use crate::api::FieldModel;
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::Node;

/// Keys of a Response Object.
const RESPONSE_KEYS: &[&str] = &["description", "headers", "content", "links"];
/// Keys of a Media Type Object.
const MEDIA_KEYS: &[&str] = &["schema", "example", "examples", "encoding"];

/// A request body as guard and as policies see it.
#[derive(Default)]
pub(super) struct ReadBody {
    pub(super) body: Option<RequestBody>,
    pub(super) fields: Vec<FieldModel>,
    /// Whether it cannot be buffered.
    pub(super) streamed: bool,
}

/// What the responses of an operation say.
#[derive(Default)]
pub(super) struct ReadResponses {
    pub(super) responses: Responses,
    /// Whether a 101 is declared.
    pub(super) websocket: bool,
}

pub(super) fn read_request<'a>(
    reader: &mut Reader<'a>,
    place: Place<'a>,
    diagnostics: &mut Diagnostics,
) -> ReadBody {
    let span = &place.node.span;
    let Some(place) = reader.files.follow(place, diagnostics) else {
        return ReadBody::default();
    };
    check_keys(
        place.node,
        &["description", "content", "required"],
        diagnostics,
    );
    let Some(content) = place.get("content") else {
        let message = "a request body must have content";
        let hint = "for example content: {application/json: {schema: …}}".to_owned();
        diagnostics.error("openapi.invalid", span, message, hint);
        return ReadBody::default();
    };
    let mut fields: Option<Vec<FieldModel>> = None;
    let media = read_content(
        reader,
        content,
        Direction::Request,
        diagnostics,
        &mut fields,
    );
    let fields = fields.unwrap_or_default();
    let streamed = content
        .node
        .as_map()
        .unwrap_or_default()
        .iter()
        .any(|(key, _)| {
            key.name
                .to_ascii_lowercase()
                .starts_with("application/grpc")
        });
    let required = place.node.get("required").and_then(Node::as_bool) == Some(true);
    let body = RequestBody {
        required,
        content: media,
        fields: fields
            .iter()
            .map(|field| (field.name.clone(), field.kind))
            .collect(),
        source: policy_ref(span),
    };
    ReadBody {
        body: Some(body),
        fields,
        streamed,
    }
}

pub(super) fn read_responses<'a>(
    reader: &mut Reader<'a>,
    responses: Place<'a>,
    diagnostics: &mut Diagnostics,
) -> ReadResponses {
    let mut read = ReadResponses::default();
    let Some(entries) = responses.node.as_map() else {
        let message = format!("responses must be a mapping, not {}", responses.node.kind());
        diagnostics.error("openapi.invalid", &responses.node.span, message, None);
        return read;
    };
    for (key, node) in entries {
        if key.name.starts_with("x-") {
            continue;
        }
        let Some(status) = status_range(&key.name) else {
            let message = format!("{} is no status", key.name);
            let hint = "a status such as 200, a class such as 4XX, or default".to_owned();
            diagnostics.error("openapi.invalid", &key.span, message, hint);
            continue;
        };
        read.websocket |= status == StatusRange::Exact(101);
        let Some(place) = reader.files.follow(responses.at(node), diagnostics) else {
            continue;
        };
        check_keys(place.node, RESPONSE_KEYS, diagnostics);
        let content = match place.get("content") {
            Some(content) => {
                read_content(reader, content, Direction::Response, diagnostics, &mut None)
            }
            None => Vec::new(),
        };
        read.responses.list.push(ResponseRule {
            status,
            content,
            source: policy_ref(&key.span),
        });
    }
    read
}

fn status_range(text: &str) -> Option<StatusRange> {
    if text == "default" {
        return Some(StatusRange::Default);
    }
    let first = text
        .chars()
        .next()?
        .to_digit(10)
        .filter(|digit| (1..=5).contains(digit))?;
    let first = u16::try_from(first).ok()?;
    match text.get(1..)? {
        "XX" | "xx" => Some(StatusRange::Class(first)),
        rest if rest.len() == 2 => text.parse().ok().map(StatusRange::Exact),
        _ => None,
    }
}

/// The media types of a Content Object. `fields`: what policies may read of every one of them that is read.
fn read_content<'a>(
    reader: &mut Reader<'a>,
    content: Place<'a>,
    direction: Direction,
    diagnostics: &mut Diagnostics,
    fields: &mut Option<Vec<FieldModel>>,
) -> Vec<MediaType> {
    let Some(entries) = content.node.as_map() else {
        let message = format!("content must be a mapping, not {}", content.node.kind());
        diagnostics.error("openapi.invalid", &content.node.span, message, None);
        return Vec::new();
    };
    let mut list = Vec::new();
    for (key, node) in entries {
        let Some(range) = MediaRange::parse(&key.name) else {
            let message = format!("{} is no media type", key.name);
            let hint = "for example application/json".to_owned();
            diagnostics.error("openapi.invalid", &key.span, message, hint);
            continue;
        };
        check_keys(node, MEDIA_KEYS, diagnostics);
        let schema = content.at(node).get("schema");
        let is_read = range.is_json() || range.is_form() || range.is_wildcard();
        if schema.is_some() && !is_read {
            note_unread(reader, &key.name, &key.span, schema);
        }
        if direction == Direction::Request && (schema.is_none() || !is_read) {
            // Under this type fields would pass policies unseen, so they cannot be read under any.
            *fields = Some(Vec::new());
        }
        let compiled = schema.filter(|_| is_read).and_then(|place| {
            let translated = reader.schemas.translate(place, direction, diagnostics);
            let schema = reader.schemas.compile(&translated, diagnostics)?;
            if direction == Direction::Request {
                let own = body_fields(reader, place, schema.shape());
                *fields = Some(match fields.take() {
                    Some(known) => common(known, &own),
                    None => own,
                });
            }
            Some(schema)
        });
        list.push(MediaType {
            range,
            schema: compiled,
            source: policy_ref(&key.span),
        });
    }
    list
}

/// Remembers that a schema is there but bodies of its type are not read (text and binary need none).
fn note_unread(reader: &mut Reader<'_>, name: &str, span: &Span, schema: Option<Place<'_>>) {
    let plain = schema.is_some_and(|schema| {
        let kind = schema.node.get("type").and_then(Node::as_str);
        kind == Some("string") || schema.node.as_map().is_some_and(<[_]>::is_empty)
    });
    if !plain {
        let entry = reader.unread.entry(name.to_owned());
        entry.or_insert_with(|| (span.clone(), 0)).1 += 1;
    }
}

/// A field is readable if all media types that are read agree on it.
fn common(known: Vec<FieldModel>, other: &[FieldModel]) -> Vec<FieldModel> {
    known
        .into_iter()
        .filter_map(|mut field| {
            let same = other
                .iter()
                .find(|other| other.name == field.name && other.kind == field.kind)?;
            field.required &= same.required;
            Some(field)
        })
        .collect()
}

/// Top-level scalars (and lists of strings) of a body.
fn body_fields(reader: &Reader<'_>, place: Place<'_>, shape: &Shape) -> Vec<FieldModel> {
    let mut declared = Vec::new();
    collect_fields(reader, place, true, 0, &mut declared);
    let required: Vec<String> = declared
        .iter()
        .flat_map(|part| part.required.iter().cloned())
        .collect();
    let mut fields: Vec<FieldModel> = Vec::new();
    for (name, span) in declared.into_iter().flat_map(|part| part.properties) {
        if fields.iter().any(|known| *known.name == *name) {
            continue;
        }
        let Some(property) = shape.property(&name) else {
            continue;
        };
        let Some(kind) = value_kind(property) else {
            continue;
        };
        let is_null = property.types.has(TypeSet::NULL);
        fields.push(FieldModel {
            required: required.contains(&name) && !is_null && shape.types == TypeSet::OBJECT,
            name: Arc::from(name),
            kind,
            span,
        });
    }
    fields
}

/// Properties and required names of one part of a schema.
struct Part {
    properties: Vec<(String, Span)>,
    required: Vec<String>,
}

/// Parts of a schema that describe the same object. What alternatives require is not required of all.
fn collect_fields(
    reader: &Reader<'_>,
    place: Place<'_>,
    certain: bool,
    depth: usize,
    parts: &mut Vec<Part>,
) {
    if depth > 8 || parts.len() > 256 {
        return;
    }
    let Some(place) = reader.files.follow_quietly(place) else {
        return;
    };
    let mut part = Part {
        properties: Vec::new(),
        required: Vec::new(),
    };
    if let Some(properties) = place.node.get("properties").and_then(Node::as_map) {
        let names = properties.iter();
        part.properties = names
            .map(|(key, _)| (key.name.clone(), key.span.clone()))
            .collect();
    }
    if certain {
        let names = place.node.get("required").and_then(Node::as_seq);
        let names = names.unwrap_or_default().iter().filter_map(Node::as_str);
        part.required = names.map(str::to_owned).collect();
    }
    parts.push(part);
    for (keyword, certain) in [("allOf", certain), ("anyOf", false), ("oneOf", false)] {
        let list = place.node.get(keyword).and_then(Node::as_seq);
        for item in list.unwrap_or_default() {
            collect_fields(reader, place.at(item), certain, depth + 1, parts);
        }
    }
}
