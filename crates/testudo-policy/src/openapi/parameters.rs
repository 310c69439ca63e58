//! Parameter Objects: what guard checks of them, and what policies see.

use std::sync::Arc;

use testudo_guard::schema::{
    Location, MediaRange, Parameter, Schema, Shape, Style, TypeSet, ValueKind,
};

use super::files::Place;
use super::reader::{Reader, check_keys, policy_ref};
use crate::api::ParamModel;
use crate::diagnostic::Diagnostics;
use crate::yaml::Node;

/// Header parameters that OpenAPI says to ignore, and the header of Testudo's own API keys.
const IGNORED_HEADERS: [&str; 4] = ["accept", "content-type", "authorization", "x-api-key"];

/// Keys of a Parameter Object.
const KEYS: &[&str] = &[
    "name",
    "in",
    "description",
    "required",
    "deprecated",
    "allowEmptyValue",
    "style",
    "explode",
    "allowReserved",
    "schema",
    "example",
    "examples",
    "content",
];

/// A parameter as guard and as policies see it.
pub(super) struct ReadParameter {
    pub(super) model: ParamModel,
    pub(super) parameter: Parameter,
}

/// The parameters of an operation: its own, then those of its path that it does not replace.
pub(super) fn read_all<'a>(
    reader: &mut Reader<'a>,
    lists: [Option<Place<'a>>; 2],
    diagnostics: &mut Diagnostics,
) -> Vec<ReadParameter> {
    let mut all: Vec<ReadParameter> = Vec::new();
    for list in lists.into_iter().flatten() {
        let Some(items) = list.node.as_seq() else {
            let message = format!("parameters must be a list, not {}", list.node.kind());
            diagnostics.error("openapi.invalid", &list.node.span, message, None);
            continue;
        };
        let replaced = all.len();
        for item in items {
            let Some(place) = reader.files.follow(list.at(item), diagnostics) else {
                continue;
            };
            let Some(read) = read(reader, place, diagnostics) else {
                continue;
            };
            let same = |known: &ReadParameter| {
                known.model.name == read.model.name && known.model.location == read.model.location
            };
            let position = all.iter().position(same);
            match position {
                None => all.push(read),
                // The operation's replaces the path's (Path Item Object).
                Some(known) if known < replaced => {}
                Some(_) => {
                    let message = format!(
                        "the {} parameter {} is declared twice",
                        read.model.location.as_str(),
                        read.model.name
                    );
                    diagnostics.error("openapi.invalid", &item.span, message, None);
                }
            }
        }
    }
    hide_query_names(&mut all, diagnostics);
    all
}

/// `context.params` has one value for each name; the path's wins.
fn hide_query_names(all: &mut [ReadParameter], diagnostics: &mut Diagnostics) {
    let in_path: Vec<Arc<str>> = all
        .iter()
        .filter(|read| read.model.location == Location::Path)
        .map(|read| read.model.name.clone())
        .collect();
    for read in all {
        if read.model.location == Location::Query && in_path.contains(&read.model.name) {
            read.model.kind = None;
            read.parameter.kind = None;
            let message = format!(
                "policies cannot read the query parameter {0}: the path has a parameter {0}, too",
                read.model.name
            );
            let hint = "context.params has the one of the path".to_owned();
            diagnostics.warning("openapi.unsupported", &read.model.span, message, hint);
        }
    }
}

fn read<'a>(
    reader: &mut Reader<'a>,
    place: Place<'a>,
    diagnostics: &mut Diagnostics,
) -> Option<ReadParameter> {
    check_keys(place.node, KEYS, diagnostics);
    let name = reader.text(place, "name", diagnostics)?;
    let location = location(reader, place, diagnostics)?;
    let text = name.as_str().unwrap_or_default();
    if location == Location::Header {
        let lower = text.to_ascii_lowercase();
        if IGNORED_HEADERS.contains(&lower.as_str()) {
            return None;
        }
        if http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
            let message = format!("{text} cannot be the name of a header");
            diagnostics.error("openapi.invalid", &name.span, message, None);
            return None;
        }
        if lower.contains('_') {
            // Proxies and frameworks disagree whether `_` is `-` (DESIGN §5, §9).
            let message = format!("{text} never arrives: headers with _ are dropped");
            let hint = format!("name it {}", lower.replace('_', "-"));
            diagnostics.warning("openapi.unsupported", &name.span, message, hint);
        }
    }
    let required = flag(place, "required");
    if location == Location::Path && !required {
        let message = format!("the path parameter {text} must have required: true");
        diagnostics.error("openapi.invalid", &name.span, message, None);
    }
    let (schema, style, explode) = match (place.get("schema"), place.get("content")) {
        (Some(schema), None) => {
            let (style, explode) = style(place, location, diagnostics)?;
            (schema, style, explode)
        }
        (None, Some(content)) => {
            let (schema, style) = content_schema(content, location, diagnostics)?;
            (schema, style, false)
        }
        (None, None) => {
            let message = format!("the parameter {text} has neither schema nor content");
            let hint = "for example schema: {type: string}".to_owned();
            diagnostics.error("openapi.invalid", &name.span, message, hint);
            return None;
        }
        (Some(_), Some(_)) => {
            let message = format!("the parameter {text} has both schema and content");
            diagnostics.error("openapi.invalid", &name.span, message, None);
            return None;
        }
    };
    let schema = reader.parameter_schema(schema, diagnostics)?;
    check_shape(&schema, style, explode, location, name, diagnostics);
    let kind = value_kind(schema.shape()).filter(|_| location != Location::Cookie);
    let name_as_sent: Arc<str> = match location {
        Location::Header => text.to_ascii_lowercase().into(),
        Location::Path | Location::Query | Location::Cookie => text.into(),
    };
    let model = ParamModel {
        name: name_as_sent.clone(),
        location,
        kind,
        required: required || location == Location::Path,
        span: name.span.clone(),
    };
    let parameter = Parameter {
        name: name_as_sent,
        location,
        required: model.required,
        style,
        explode,
        allow_empty: flag(place, "allowEmptyValue"),
        kind,
        source: policy_ref(&name.span),
        schema,
    };
    Some(ReadParameter { model, parameter })
}

fn flag(place: Place<'_>, key: &str) -> bool {
    place.node.get(key).and_then(Node::as_bool) == Some(true)
}

fn location<'a>(
    reader: &Reader<'a>,
    place: Place<'a>,
    diagnostics: &mut Diagnostics,
) -> Option<Location> {
    let node = reader.text(place, "in", diagnostics)?;
    match node.as_str().unwrap_or_default() {
        "path" => Some(Location::Path),
        "query" => Some(Location::Query),
        "header" => Some(Location::Header),
        "cookie" => Some(Location::Cookie),
        other => {
            let message = format!("a parameter cannot be in {other}");
            let hint = "path, query, header or cookie".to_owned();
            diagnostics.error("openapi.invalid", &node.span, message, hint);
            None
        }
    }
}

/// Style and explode with their defaults (OpenAPI 3, Parameter Object).
fn style(
    place: Place<'_>,
    location: Location,
    diagnostics: &mut Diagnostics,
) -> Option<(Style, bool)> {
    let declared = place.node.get("style");
    let style = match (location, declared.and_then(Node::as_str)) {
        (Location::Path | Location::Header, None | Some("simple")) => Style::Simple,
        (Location::Path, Some("label")) => Style::Label,
        (Location::Path, Some("matrix")) => Style::Matrix,
        (Location::Query | Location::Cookie, None | Some("form")) => Style::Form,
        (Location::Query, Some("spaceDelimited")) => Style::SpaceDelimited,
        (Location::Query, Some("pipeDelimited")) => Style::PipeDelimited,
        (Location::Query, Some("deepObject")) => Style::DeepObject,
        (_, Some(other)) => {
            let message = format!("a {} parameter has no style {other}", location.as_str());
            let span = declared.map_or(&place.node.span, |node| &node.span);
            diagnostics.error("openapi.invalid", span, message, None);
            return None;
        }
    };
    let explode = place.node.get("explode").and_then(Node::as_bool);
    Some(match (style, explode) {
        // Exploded lists look the same in all three.
        (Style::SpaceDelimited | Style::PipeDelimited, Some(true)) => (Style::Form, true),
        (style, explode) => (style, explode.unwrap_or(style == Style::Form)),
    })
}

/// The schema of a parameter with `content`, which has one media type.
fn content_schema<'a>(
    content: Place<'a>,
    location: Location,
    diagnostics: &mut Diagnostics,
) -> Option<(Place<'a>, Style)> {
    let Some([(key, media)]) = content.node.as_map() else {
        let message = "content of a parameter must have exactly one media type";
        diagnostics.error("openapi.invalid", &content.node.span, message, None);
        return None;
    };
    let Some(schema) = content.at(media).get("schema") else {
        let message = format!("{} of this parameter has no schema", key.name);
        diagnostics.error("openapi.invalid", &key.span, message, None);
        return None;
    };
    let style = match MediaRange::parse(&key.name) {
        Some(range) if range.is_json() => Style::Json,
        Some(_) | None => match location {
            Location::Path | Location::Header => Style::Simple,
            Location::Query | Location::Cookie => Style::Form,
        },
    };
    Some((schema, style))
}

/// Refuses what no style can carry.
fn check_shape(
    schema: &Schema,
    style: Style,
    explode: bool,
    location: Location,
    name: &Node,
    diagnostics: &mut Diagnostics,
) {
    let shape = schema.shape();
    if style == Style::Json || shape.types == TypeSet::ALL {
        return;
    }
    let structured = TypeSet::ARRAY.or(TypeSet::OBJECT);
    let is_structured = |shape: &Shape| shape.types.without(structured) == TypeSet::NONE;
    let items = shape.items.as_deref();
    let problem = if is_structured(shape) && items.is_some_and(is_structured) {
        Some("lists of lists or objects have no defined form")
    } else if style == Style::DeepObject && !shape.types.has(TypeSet::OBJECT) {
        Some("deepObject is for objects")
    } else if location == Location::Cookie && explode && shape.types == TypeSet::OBJECT {
        Some("exploded objects in cookies have no defined form")
    } else {
        None
    };
    if let Some(problem) = problem {
        let text = name.as_str().unwrap_or_default();
        let hint = "use content: {application/json: {schema: …}}".to_owned();
        let message = format!("the parameter {text} cannot be read: {problem}");
        diagnostics.error("openapi.unsupported", &name.span, message, hint);
    }
}

/// As what policies read values of this shape; null is nothing to them.
pub(super) fn value_kind(shape: &Shape) -> Option<ValueKind> {
    let types = shape.types.without(TypeSet::NULL);
    let strings = |items: &Shape| items.types == TypeSet::STRING;
    if types == TypeSet::STRING {
        Some(ValueKind::String)
    } else if types == TypeSet::INTEGER {
        Some(ValueKind::Long)
    } else if types == TypeSet::NUMBER {
        Some(ValueKind::Decimal)
    } else if types == TypeSet::BOOLEAN {
        Some(ValueKind::Bool)
    } else if types == TypeSet::ARRAY && shape.items.as_deref().is_some_and(strings) {
        Some(ValueKind::Strings)
    } else {
        None
    }
}
