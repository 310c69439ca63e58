//! Schema Objects of OpenAPI 3.0 and 3.1 as self-contained JSON Schemas (draft 2020-12).
//!
//! Requests and responses are translated apart: a `readOnly` property may not be sent in a request, a
//! `writeOnly` one not in a response, and neither is then required (OpenAPI 3.0, Schema Object).
//! Each schema that references lead to is translated once and becomes one of `$defs`, so that
//! recursive schemas work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use testudo_guard::schema::{Schema, SchemaError};

use super::files::{Files, Place};
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::{Node, Value};

mod keywords;

use keywords::{
    FORMATS, Keyword, check_pattern, check_types, enum_misses_type, keyword, nearest_keyword,
};

/// Which way a schema is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Direction {
    Request,
    Response,
}

/// The dialect of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAPI 3.0: an extended subset of draft 5.
    V30,
    /// OpenAPI 3.1: draft 2020-12.
    V31,
}

/// Translates the schemas of one document.
pub(super) struct Translator<'a> {
    files: &'a Files,
    dialect: Dialect,
    /// Schemas that references lead to, by direction and place.
    known: HashMap<(Direction, usize), usize>,
    definitions: Vec<Definition<'a>>,
    /// Definitions that are still to be translated: a queue, so that long chains need no stack.
    pending: Vec<(Direction, usize)>,
    /// Compiled schemas by their text: an API names the same few again and again.
    compiled: HashMap<String, Option<Arc<Schema>>>,
    /// Keywords that are not enforced, reported once each.
    reported: BTreeSet<String>,
}

/// A schema that references lead to.
struct Definition<'a> {
    place: Place<'a>,
    schema: Json,
    /// Other definitions that it refers to.
    uses: BTreeSet<usize>,
}

/// A translated schema and what it needs.
pub(super) struct Translated<'a> {
    place: Place<'a>,
    pub(super) schema: Json,
    uses: BTreeSet<usize>,
}

/// One translation in progress.
struct Scope {
    direction: Direction,
    uses: BTreeSet<usize>,
    /// Names that enclosing `allOf`s hide in this direction.
    hidden: Vec<BTreeSet<String>>,
    depth: usize,
}

const MAX_DEPTH: usize = 64;

impl<'a> Translator<'a> {
    pub(super) fn new(files: &'a Files, dialect: Dialect) -> Translator<'a> {
        Translator {
            files,
            dialect,
            known: HashMap::new(),
            definitions: Vec::new(),
            pending: Vec::new(),
            compiled: HashMap::new(),
            reported: BTreeSet::new(),
        }
    }

    /// Translates the schema at a place, and what it refers to.
    pub(super) fn translate(
        &mut self,
        place: Place<'a>,
        direction: Direction,
        diagnostics: &mut Diagnostics,
    ) -> Translated<'a> {
        let translated = self.translate_one(place, direction, diagnostics);
        while let Some((direction, index)) = self.pending.pop() {
            let Some(target) = self.definitions.get(index).map(|known| known.place) else {
                continue;
            };
            let definition = self.translate_one(target, direction, diagnostics);
            if let Some(known) = self.definitions.get_mut(index) {
                known.schema = definition.schema;
                known.uses = definition.uses;
            }
        }
        translated
    }

    fn translate_one(
        &mut self,
        place: Place<'a>,
        direction: Direction,
        diagnostics: &mut Diagnostics,
    ) -> Translated<'a> {
        let mut scope = Scope {
            direction,
            uses: BTreeSet::new(),
            hidden: Vec::new(),
            depth: 0,
        };
        let schema = self.schema(place, &mut scope, diagnostics);
        Translated {
            place,
            schema,
            uses: scope.uses,
        }
    }

    /// The translated schema with all definitions that it needs.
    pub(super) fn self_contained(&self, translated: &Translated<'_>) -> Json {
        let mut needed = BTreeMap::new();
        let mut open: Vec<usize> = translated.uses.iter().copied().collect();
        while let Some(index) = open.pop() {
            let Some(definition) = self.definitions.get(index) else {
                continue;
            };
            if needed.insert(index, &definition.schema).is_none() {
                open.extend(&definition.uses);
            }
        }
        if needed.is_empty() {
            return translated.schema.clone();
        }
        let definitions: Map<String, Json> = needed
            .into_iter()
            .map(|(index, schema)| (index.to_string(), schema.clone()))
            .collect();
        let mut whole = match &translated.schema {
            Json::Object(keywords) => keywords.clone(),
            other => return other.clone(),
        };
        whole.insert("$defs".into(), Json::Object(definitions));
        Json::Object(whole)
    }

    /// Compiles a translated schema; equal ones once. `None`: it is invalid, which is reported.
    pub(super) fn compile(
        &mut self,
        translated: &Translated<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Arc<Schema>> {
        // References are numbered, so equal text means equal schemas.
        let key = translated.schema.to_string();
        if let Some(known) = self.compiled.get(&key) {
            return known.clone();
        }
        let compiled = match Schema::compile(&self.self_contained(translated)) {
            Ok(schema) => Some(Arc::new(schema)),
            Err(error) => {
                self.report(translated.place, &error, diagnostics);
                None
            }
        };
        self.compiled.insert(key, compiled.clone());
        compiled
    }

    /// At the keyword that is wrong, as far as its place is known.
    fn report(&self, place: Place<'_>, error: &SchemaError, diagnostics: &mut Diagnostics) {
        let (base, pointer) = self.origin(place, &error.pointer);
        let span = deepest(base, pointer);
        let message = format!("invalid schema: {}", error.message);
        // The same definition is part of many schemas: say it once.
        let known = diagnostics
            .list
            .iter()
            .any(|known| known.span == span && known.message == message);
        if !known {
            diagnostics.error("openapi.invalid", &span, message, None);
        }
    }

    /// The node that a pointer into a self-contained schema starts from, and the rest of the pointer.
    fn origin<'p>(&self, place: Place<'a>, pointer: &'p str) -> (&'a Node, &'p str)
    where
        'a: 'p,
    {
        let definition = pointer.strip_prefix("/$defs/").and_then(|rest| {
            let (index, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let index: usize = index.parse().ok()?;
            Some((self.definitions.get(index)?.place.node, rest))
        });
        definition.unwrap_or((place.node, pointer))
    }

    fn schema(
        &mut self,
        place: Place<'a>,
        scope: &mut Scope,
        diagnostics: &mut Diagnostics,
    ) -> Json {
        if let (Dialect::V31, Some(value)) = (self.dialect, place.node.as_bool()) {
            return Json::Bool(value);
        }
        let Some(entries) = place.node.as_map() else {
            let message = format!("a schema must be a mapping, not {}", place.node.kind());
            diagnostics.error("openapi.invalid", &place.node.span, message, None);
            return Json::Bool(false);
        };
        if scope.depth >= MAX_DEPTH {
            let message = format!("schemas nested deeper than {MAX_DEPTH} levels");
            diagnostics.error("openapi.unsupported", &place.node.span, message, None);
            return Json::Bool(false);
        }
        scope.depth += 1;
        let mut out = Map::new();
        if let Some(reference) = place.reference() {
            self.reference(place, reference, &mut out, scope, diagnostics);
        }
        // OpenAPI 3.0 ignores what stands beside a reference (Reference Object).
        if out.is_empty() || self.dialect == Dialect::V31 {
            let hidden = self.hidden(place, scope.direction, 0);
            scope.hidden.push(hidden);
            for (key, node) in entries {
                self.keyword(
                    &key.name,
                    &key.span,
                    place.at(node),
                    &mut out,
                    scope,
                    diagnostics,
                );
            }
            scope.hidden.pop();
            if enum_misses_type(&out) {
                let span = place
                    .node
                    .get("enum")
                    .map_or(&place.node.span, |node| &node.span);
                let message = "no value of this enum has the declared type: nothing can be valid";
                let hint = "quote what should be strings; in lists, enum belongs under items";
                diagnostics.warning("openapi.invalid", span, message, hint.to_owned());
            }
            self.adjust(place, &mut out);
        }
        scope.depth -= 1;
        Json::Object(out)
    }

    fn reference(
        &mut self,
        place: Place<'a>,
        reference: &'a Node,
        out: &mut Map<String, Json>,
        scope: &mut Scope,
        diagnostics: &mut Diagnostics,
    ) {
        let text = reference.as_str().unwrap_or_default();
        let target = match self.files.target(place, text) {
            Ok(target) => target,
            Err(error) => {
                error.report(text, &reference.span, diagnostics);
                out.insert("not".into(), json!({}));
                return;
            }
        };
        let key = (scope.direction, target.identity());
        let index = match self.known.get(&key) {
            Some(index) => *index,
            None => {
                let index = self.definitions.len();
                self.known.insert(key, index);
                self.definitions.push(Definition {
                    place: target,
                    schema: Json::Bool(false),
                    uses: BTreeSet::new(),
                });
                self.pending.push((scope.direction, index));
                index
            }
        };
        scope.uses.insert(index);
        out.insert("$ref".into(), format!("#/$defs/{index}").into());
    }

    fn keyword(
        &mut self,
        name: &str,
        span: &Span,
        value: Place<'a>,
        out: &mut Map<String, Json>,
        scope: &mut Scope,
        diagnostics: &mut Diagnostics,
    ) {
        match keyword(name) {
            Keyword::Annotation => {}
            Keyword::Unknown => {
                if let Some(meant) = nearest_keyword(name) {
                    let hint = format!("did you mean {meant}?");
                    let message = format!("unknown keyword {name}");
                    diagnostics.error("openapi.invalid", span, message, hint);
                } else if self.reported.insert(name.to_owned()) {
                    let message = format!("{name} is no keyword of schemas and is not enforced");
                    diagnostics.warning("openapi.unsupported", span, message, None);
                }
            }
            Keyword::Unsupported => {
                let message = format!("{name} is not supported in schemas");
                let hint = "refer to schemas by place: '#/components/schemas/Order'".to_owned();
                diagnostics.error("openapi.unsupported", span, message, hint);
            }
            Keyword::Plain => self.plain(name, value, out, scope, diagnostics),
            Keyword::One => {
                // `additionalProperties: false` and the like are booleans in 3.0, too.
                let schema = match value.node.as_bool() {
                    Some(allowed) => Json::Bool(allowed),
                    None => self.part(value, scope, diagnostics),
                };
                out.insert(name.to_owned(), schema);
            }
            Keyword::List => {
                let Some(items) = value.node.as_seq() else {
                    let message = format!("{name} must be a list, not {}", value.node.kind());
                    diagnostics.error("openapi.invalid", &value.node.span, message, None);
                    return;
                };
                let mut list = Vec::new();
                for item in items {
                    list.push(self.schema(value.at(item), scope, diagnostics));
                }
                out.insert(name.to_owned(), Json::Array(list));
            }
            Keyword::Map => {
                let Some(entries) = value.node.as_map() else {
                    let message = format!("{name} must be a mapping, not {}", value.node.kind());
                    diagnostics.error("openapi.invalid", &value.node.span, message, None);
                    return;
                };
                let mut map = Map::new();
                for (key, node) in entries {
                    if name == "patternProperties"
                        && !check_pattern(&key.name, &key.span, diagnostics)
                    {
                        continue;
                    }
                    let hides = name == "properties" && self.hides(value.at(node), scope.direction);
                    let schema = if hides {
                        Json::Bool(false)
                    } else {
                        self.part(value.at(node), scope, diagnostics)
                    };
                    map.insert(key.name.clone(), schema);
                }
                out.insert(name.to_owned(), Json::Object(map));
            }
        }
    }

    /// A schema for another value than the one around it: what is hidden there is not hidden here.
    fn part(&mut self, place: Place<'a>, scope: &mut Scope, diagnostics: &mut Diagnostics) -> Json {
        let hidden = std::mem::take(&mut scope.hidden);
        let schema = self.schema(place, scope, diagnostics);
        scope.hidden = hidden;
        schema
    }

    fn plain(
        &mut self,
        name: &str,
        value: Place<'a>,
        out: &mut Map<String, Json>,
        scope: &Scope,
        diagnostics: &mut Diagnostics,
    ) {
        let mut json = value.node.to_json();
        match name {
            "required" => {
                if let Json::Array(names) = &mut json {
                    let hidden = |name: &Json| {
                        let name = name.as_str().unwrap_or_default();
                        scope.hidden.iter().any(|names| names.contains(name))
                    };
                    names.retain(|name| !hidden(name));
                    if names.is_empty() {
                        return;
                    }
                }
            }
            "type" if !check_types(value.node, diagnostics) => return,
            "pattern" => {
                if let Some(text) = json.as_str()
                    && !check_pattern(text, &value.node.span, diagnostics)
                {
                    return;
                }
            }
            "format" => {
                let known = json
                    .as_str()
                    .is_some_and(|format| FORMATS.contains(&format) || format == "int32");
                if json.is_string() && !known {
                    return;
                }
            }
            _ => {}
        }
        out.insert(name.to_owned(), json);
    }

    /// What 3.0 says in other words than JSON Schema, and formats of numbers.
    fn adjust(&self, place: Place<'_>, out: &mut Map<String, Json>) {
        if out.get("format").and_then(Json::as_str) == Some("int32") {
            out.remove("format");
            bound(out, "minimum", f64::from(i32::MIN), f64::max);
            bound(out, "maximum", f64::from(i32::MAX), f64::min);
        }
        for (exclusive, inclusive) in [
            ("exclusiveMinimum", "minimum"),
            ("exclusiveMaximum", "maximum"),
        ] {
            match out.get(exclusive) {
                Some(Json::Bool(true)) if self.dialect == Dialect::V30 => {
                    if let Some(limit) = out.remove(inclusive) {
                        out.insert(exclusive.to_owned(), limit);
                    } else {
                        out.remove(exclusive);
                    }
                }
                Some(Json::Bool(false)) if self.dialect == Dialect::V30 => {
                    out.remove(exclusive);
                }
                Some(_) | None => {}
            }
        }
        let nullable = place.get("nullable").and_then(|place| place.node.as_bool());
        if self.dialect == Dialect::V30 && nullable == Some(true) {
            admit_null(out);
        }
    }

    /// Names of properties that are hidden in this direction, those of `allOf` included.
    fn hidden(&self, place: Place<'a>, direction: Direction, depth: usize) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let Some(place) = self.files.follow_quietly(place).filter(|_| depth < 8) else {
            return names;
        };
        if let Some(properties) = place.get("properties") {
            for (key, node) in properties.node.as_map().unwrap_or_default() {
                if self.hides(properties.at(node), direction) {
                    names.insert(key.name.clone());
                }
            }
        }
        for part in place
            .node
            .get("allOf")
            .and_then(Node::as_seq)
            .unwrap_or_default()
        {
            names.extend(self.hidden(place.at(part), direction, depth + 1));
        }
        names
    }

    /// Whether a property may not be sent in this direction.
    fn hides(&self, property: Place<'a>, direction: Direction) -> bool {
        let flag = match direction {
            Direction::Request => "readOnly",
            Direction::Response => "writeOnly",
        };
        let says = |place: Place<'_>| place.get(flag).and_then(|value| value.node.as_bool());
        if says(property) == Some(true) {
            return true;
        }
        let Some(target) = self.files.follow_quietly(property) else {
            return false;
        };
        let parts = target.node.get("allOf").and_then(Node::as_seq);
        says(target) == Some(true)
            || parts.unwrap_or_default().iter().any(|part| {
                let part = self.files.follow_quietly(target.at(part));
                part.and_then(says) == Some(true)
            })
    }
}

fn bound(out: &mut Map<String, Json>, name: &str, limit: f64, stricter: fn(f64, f64) -> f64) {
    let own = out.get(name).and_then(Json::as_f64);
    let bound = own.map_or(limit, |own| stricter(own, limit));
    if own != Some(bound) {
        #[allow(clippy::cast_possible_truncation, reason = "a bound of i32")]
        let bound = bound as i64;
        out.insert(name.to_owned(), bound.into());
    }
}

/// `nullable: true`: null besides what the schema says, also where that is a reference or an enum.
fn admit_null(out: &mut Map<String, Json>) {
    if let Some(Json::Array(values)) = out.get_mut("enum")
        && !values.contains(&Json::Null)
    {
        values.push(Json::Null);
    }
    match out.get("type") {
        Some(Json::String(name)) => {
            let types = json!([name, "null"]);
            out.insert("type".into(), types);
        }
        Some(_) => {}
        None if out.is_empty() => {}
        None => {
            let rest = Json::Object(std::mem::take(out));
            out.insert("anyOf".into(), json!([{"type": "null"}, rest]));
        }
    }
}

/// The span of the deepest node that a pointer reaches.
fn deepest(node: &Node, pointer: &str) -> Span {
    let mut node = node;
    let mut span = &node.span;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let next = match &node.value {
            Value::Map(_) => node.get(&token),
            Value::Seq(items) => token.parse().ok().and_then(|index: usize| items.get(index)),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {
                None
            }
        };
        let Some(next) = next else {
            break;
        };
        node = next;
        span = &node.span;
    }
    span.clone()
}
