//! Paths and operations.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use testudo_guard::schema::{Location, OperationParts, OperationSchema, Template, TemplateError};

use super::bodies::{self, ReadBody, ReadResponses};
use super::files::Place;
use super::parameters::{self, ReadParameter};
use super::reader::{ADDITIONAL_QUERY, Reader, check_keys, nearest, policy_ref};
use super::servers;
use crate::api::OperationModel;
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::{Key, Node};

/// Names that groups of actions have (DESIGN §4).
const RESERVED: [&str; 4] = ["read", "write", "*", "undocumented"];
/// Other keys of a Path Item Object.
const PATH_KEYS: [&str; 5] = ["$ref", "summary", "description", "servers", "parameters"];
/// Keys of an Operation Object.
const OPERATION_KEYS: &[&str] = &[
    "tags",
    "summary",
    "description",
    "externalDocs",
    "operationId",
    "parameters",
    "requestBody",
    "responses",
    "callbacks",
    "deprecated",
    "security",
    "servers",
];

/// One path of the document.
struct PathItem<'a> {
    key: &'a Key,
    place: Place<'a>,
    template: Template,
}

/// Reads every operation of the document.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    paths: Place<'a>,
    diagnostics: &mut Diagnostics,
) -> Vec<OperationModel> {
    let Some(entries) = paths.node.as_map() else {
        let message = format!("paths must be a mapping, not {}", paths.node.kind());
        diagnostics.error("openapi.invalid", &paths.node.span, message, None);
        return Vec::new();
    };
    let mut items: Vec<PathItem<'a>> = Vec::new();
    for (key, node) in entries {
        if key.name.starts_with("x-") {
            continue;
        }
        let template = match Template::parse(&key.name) {
            Ok(template) => template,
            Err(error) => {
                report_template(&error, key, diagnostics);
                continue;
            }
        };
        let Some(place) = reader.files.follow(paths.at(node), diagnostics) else {
            continue;
        };
        items.push(PathItem {
            key,
            place,
            template,
        });
    }
    check_ambiguity(&items, diagnostics);
    let mut operations = Vec::new();
    let mut names: BTreeMap<Arc<str>, Span> = BTreeMap::new();
    for item in &items {
        read_path(reader, item, &mut names, &mut operations, diagnostics);
    }
    operations
}

fn report_template(error: &TemplateError, key: &Key, diagnostics: &mut Diagnostics) {
    let hint = match error {
        TemplateError::NoSlash | TemplateError::Braces | TemplateError::Segment => None,
        TemplateError::Query => {
            Some("declare what stands behind the question mark under parameters".to_owned())
        }
        TemplateError::Adjacent => {
            Some("where the first one ends cannot be told; put something between them".to_owned())
        }
    };
    let message = format!("{}: {error}", key.name);
    diagnostics.error("openapi.invalid", &key.span, message, hint);
}

/// Paths that differ in names of parameters only match the same requests (OpenAPI 3, Paths Object).
fn check_ambiguity(items: &[PathItem<'_>], diagnostics: &mut Diagnostics) {
    let mut groups: BTreeMap<String, Vec<&PathItem<'_>>> = BTreeMap::new();
    for item in items {
        groups
            .entry(skeleton(&item.key.name))
            .or_default()
            .push(item);
    }
    for group in groups.values() {
        for (index, item) in group.iter().enumerate() {
            let others = group.iter().take(index);
            let Some(first) = others
                .into_iter()
                .find(|other| other.template.same_paths(&item.template))
            else {
                continue;
            };
            let shared = METHODS.iter().any(|(name, _)| {
                item.place.node.get(name).is_some() && first.place.node.get(name).is_some()
            });
            let message = format!(
                "{} matches the same requests as {} (line {})",
                item.key.name, first.key.name, first.key.span.line
            );
            if shared {
                let hint = "give both one path, or tell them apart by a literal segment".to_owned();
                diagnostics.error("openapi.invalid", &item.key.span, message, hint);
            } else {
                let hint = "OpenAPI wants one path for both; their methods differ, so both work";
                diagnostics.warning("openapi.invalid", &item.key.span, message, hint.to_owned());
            }
        }
    }
}

/// A template without the names of its parameters.
fn skeleton(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        out.push('{');
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    out
}

const METHODS: [(&str, Method); 8] = [
    ("get", Method::GET),
    ("put", Method::PUT),
    ("post", Method::POST),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
    ("head", Method::HEAD),
    ("patch", Method::PATCH),
    ("trace", Method::TRACE),
];

fn read_path<'a>(
    reader: &mut Reader<'a>,
    item: &PathItem<'a>,
    names: &mut BTreeMap<Arc<str>, Span>,
    operations: &mut Vec<OperationModel>,
    diagnostics: &mut Diagnostics,
) {
    let Some(entries) = item.place.node.as_map() else {
        let message = format!("a path must be a mapping, not {}", item.place.node.kind());
        diagnostics.error("openapi.invalid", &item.place.node.span, message, None);
        return;
    };
    check_keys(item.place.node, &[], diagnostics);
    for (key, node) in entries {
        let method = METHODS.iter().find(|(name, _)| *name == key.name);
        if let Some((_, method)) = method {
            let operation = Unread {
                item,
                key,
                place: item.place.at(node),
                method: method.clone(),
            };
            operations.extend(operation.read(reader, names, diagnostics));
        } else if !PATH_KEYS.contains(&key.name.as_str()) && !key.name.starts_with("x-") {
            let message = format!("{} is no key of a path", key.name);
            let known: Vec<&str> = METHODS
                .iter()
                .map(|(name, _)| *name)
                .chain(PATH_KEYS)
                .collect();
            let hint = match nearest(&key.name, &known) {
                Some(name) => format!("did you mean {name}?"),
                None => {
                    "a method in lower case, parameters, servers, summary or description".into()
                }
            };
            diagnostics.error("openapi.invalid", &key.span, message, hint);
        }
    }
}

/// An operation that is to be read.
struct Unread<'a, 'p> {
    item: &'p PathItem<'a>,
    key: &'a Key,
    place: Place<'a>,
    method: Method,
}

impl<'a> Unread<'a, '_> {
    fn read(
        &self,
        reader: &mut Reader<'a>,
        names: &mut BTreeMap<Arc<str>, Span>,
        diagnostics: &mut Diagnostics,
    ) -> Option<OperationModel> {
        if self.place.node.as_map().is_none() {
            let message = format!(
                "an operation must be a mapping, not {}",
                self.place.node.kind()
            );
            diagnostics.error("openapi.invalid", &self.place.node.span, message, None);
            return None;
        }
        check_keys(self.place.node, OPERATION_KEYS, diagnostics);
        let name = self.name(reader, names, diagnostics);
        if self.method == Method::TRACE {
            let message = "TRACE is always refused: nobody can call this operation";
            diagnostics.warning("openapi.unsupported", &self.key.span, message, None);
        }
        let lists = [
            self.place.get("parameters"),
            self.item.place.get("parameters"),
        ];
        let parameters = parameters::read_all(reader, lists, diagnostics);
        self.check_path_parameters(&parameters, diagnostics);
        let ReadBody {
            body,
            fields,
            streamed,
        } = match self.place.get("requestBody") {
            Some(place) => bodies::read_request(reader, place, diagnostics),
            None => ReadBody::default(),
        };
        let ReadResponses {
            responses,
            websocket,
        } = match self.place.get("responses") {
            Some(place) => bodies::read_responses(reader, place, diagnostics),
            None => ReadResponses::default(),
        };
        let levels = [self.place, self.item.place, reader.root];
        let base = servers::base_path(levels, diagnostics);
        let (params, enforced): (Vec<_>, Vec<_>) = parameters
            .into_iter()
            .map(|read| (read.model, read.parameter))
            .unzip();
        let schema = OperationSchema::new(OperationParts {
            parameters: enforced,
            ignored_query: query_credentials(reader, self.place, diagnostics),
            additional_query: additional_query(levels, diagnostics),
            body,
            responses,
            source: policy_ref(&self.key.span),
        });
        Some(OperationModel {
            name,
            method: self.method.clone(),
            template: format!("{base}{}", self.item.key.name).into(),
            span: self.key.span.clone(),
            params,
            body: fields,
            streamed: streamed || websocket,
            websocket,
            schema,
        })
    }

    /// The operationId, or method and path.
    fn name(
        &self,
        reader: &Reader<'a>,
        names: &mut BTreeMap<Arc<str>, Span>,
        diagnostics: &mut Diagnostics,
    ) -> Arc<str> {
        let node = match self.place.node.get("operationId") {
            Some(_) => reader.text(self.place, "operationId", diagnostics),
            None => None,
        };
        let Some((node, text)) = node.and_then(|node| Some((node, node.as_str()?))) else {
            return format!("{} {}", self.method, self.item.key.name).into();
        };
        let name: Arc<str> = text.into();
        if RESERVED.contains(&text) {
            let message = format!("operationId {text} is the name of a group of actions");
            diagnostics.error("name.reserved", &node.span, message, None);
        }
        if let Some(first) = names.get(&name) {
            let message = format!("operationId {text} is taken by line {}", first.line);
            let hint = "policies name operations by it: make each unique".to_owned();
            diagnostics.error("openapi.invalid", &node.span, message, hint);
        } else {
            names.insert(name.clone(), node.span.clone());
        }
        name
    }

    /// Every name in the template is a path parameter and the other way round.
    fn check_path_parameters(&self, parameters: &[ReadParameter], diagnostics: &mut Diagnostics) {
        let template = &self.item.template;
        let declared = |read: &&ReadParameter| read.model.location == Location::Path;
        let mut missing: Vec<&str> = Vec::new();
        for (index, name) in template.names().iter().enumerate() {
            let mut declared = parameters.iter().filter(declared);
            if !declared.any(|read| read.model.name == *name) {
                missing.push(name);
            }
            let mut before = template.names().iter().take(index);
            if before.any(|other| other == name) {
                let message = format!("{} names {name} twice", self.item.key.name);
                diagnostics.error("openapi.invalid", &self.item.key.span, message, None);
            }
        }
        for read in parameters.iter().filter(declared) {
            if template.names().contains(&read.model.name) {
                continue;
            }
            let message = format!("{} has no {{{}}}", self.item.key.name, read.model.name);
            let meant = nearest(&read.model.name, &missing);
            // One mistake, one message.
            missing.retain(|name| Some(*name) != meant);
            let hint = meant.map(|name| format!("did you mean {name}?"));
            diagnostics.error("openapi.invalid", &read.model.span, message, hint);
        }
        for name in missing {
            let method = &self.key.name;
            let message = format!("{method} has no declaration of the path parameter {name}");
            let hint =
                format!("add {{name: {name}, in: path, required: true, schema: {{type: string}}}}");
            diagnostics.error("openapi.invalid", &self.key.span, message, hint);
        }
    }
}

fn additional_query(levels: [Place<'_>; 3], diagnostics: &mut Diagnostics) -> bool {
    let declared = levels
        .iter()
        .find_map(|place| place.node.get(ADDITIONAL_QUERY));
    match declared {
        None => false,
        Some(node) => node.as_bool().unwrap_or_else(|| {
            let message = format!(
                "{ADDITIONAL_QUERY} must be true or false, not {}",
                node.kind()
            );
            diagnostics.error("openapi.invalid", &node.span, message, None);
            false
        }),
    }
}

/// Names of API keys that `security` puts into the query: the client sends them, no parameter declares them.
fn query_credentials<'a>(
    reader: &Reader<'a>,
    operation: Place<'a>,
    diagnostics: &mut Diagnostics,
) -> Vec<Arc<str>> {
    let security = operation
        .get("security")
        .or_else(|| reader.root.get("security"));
    let Some(requirements) = security.and_then(|place| place.node.as_seq()) else {
        return Vec::new();
    };
    let schemes = reader
        .root
        .get("components")
        .and_then(|components| components.get("securitySchemes"));
    let mut names: Vec<Arc<str>> = Vec::new();
    for (key, _) in requirements.iter().filter_map(Node::as_map).flatten() {
        let Some(scheme) = schemes.and_then(|schemes| schemes.get(&key.name)) else {
            let message = format!("there is no security scheme {}", key.name);
            diagnostics.warning("openapi.invalid", &key.span, message, None);
            continue;
        };
        let Some(scheme) = reader.files.follow(scheme, diagnostics) else {
            continue;
        };
        let text = |key: &str| scheme.node.get(key).and_then(Node::as_str);
        if let (Some("apiKey"), Some("query"), Some(name)) =
            (text("type"), text("in"), text("name"))
        {
            names.push(name.into());
        }
    }
    names
}
