//! OpenAPI 3.0 and 3.1 documents, read with the place of everything that is enforced.
//!
//! Only what is enforced is looked at: paths, parameters, bodies, responses, `security` and `$ref`.
//! Descriptions and examples may hold anything. What cannot be enforced is an error at its line, or a
//! warning where the standard lets it be ignored; nothing is left unchecked without saying so.

mod bodies;
mod files;
mod operations;
mod parameters;
mod reader;
mod schema;
mod servers;

use std::sync::Arc;

use http::Method;
use testudo_guard::schema::{ANY_PATH, OperationSchema};

use crate::api::{ApiModel, OperationModel};
use crate::bundle::Bundle;
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::Node;
use files::{Files, Place};
use reader::{Reader, check_keys};
use schema::Dialect;

/// Keys of an OpenAPI Object.
const ROOT_KEYS: &[&str] = &[
    "openapi",
    "info",
    "jsonSchemaDialect",
    "servers",
    "paths",
    "webhooks",
    "components",
    "security",
    "tags",
    "externalDocs",
];

/// Reads the document `file` of a bundle for a service. `None`: it cannot be used, which is reported.
pub fn read(
    file: &str,
    bundle: &Bundle,
    service: &Arc<str>,
    diagnostics: &mut Diagnostics,
) -> Option<ApiModel> {
    let files = Files::load(file, bundle, diagnostics)?;
    let root = files.root(file)?;
    let dialect = dialect(root, diagnostics)?;
    check_keys(root.node, ROOT_KEYS, diagnostics);
    let Some(paths) = root.get("paths") else {
        let message = "the document has no paths";
        diagnostics.error("openapi.invalid", &root.node.span, message, None);
        return None;
    };
    let before = diagnostics.list.len();
    let mut reader = Reader::new(&files, root, dialect);
    let operations = operations::read(&mut reader, paths, diagnostics);
    warn_of_unread(&reader, diagnostics);
    let own = diagnostics.list.get(before..).unwrap_or_default();
    if operations.is_empty() && own.is_empty() {
        let message = "the document has no operations: every request would be refused";
        diagnostics.warning("openapi.invalid", &paths.node.span, message, None);
    }
    Some(ApiModel {
        service: service.clone(),
        operations,
        title: title(root),
    })
}

/// One operation for each method, on any path, with nothing to check (`api: none`).
pub fn none(service: &Arc<str>) -> ApiModel {
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let operations = methods
        .into_iter()
        .map(|method| OperationModel {
            name: method.as_str().into(),
            method,
            template: ANY_PATH.into(),
            span: Span::default(),
            params: Vec::new(),
            body: Vec::new(),
            // Bodies pass unread, so policies cannot see them.
            streamed: true,
            websocket: false,
            schema: OperationSchema::default(),
        })
        .collect();
    ApiModel {
        service: service.clone(),
        operations,
        title: String::new(),
    }
}

/// The dialect that `openapi:` names.
fn dialect(root: Place<'_>, diagnostics: &mut Diagnostics) -> Option<Dialect> {
    if root.node.as_map().is_none() {
        let message = format!(
            "an OpenAPI document must be a mapping, not {}",
            root.node.kind()
        );
        diagnostics.error("openapi.invalid", &root.node.span, message, None);
        return None;
    }
    let Some(version) = root.node.get("openapi") else {
        let (span, message) = match root.node.get("swagger") {
            Some(node) => (&node.span, "Swagger 2.0 is not supported"),
            None => (
                &root.node.span,
                "this is no OpenAPI document: openapi is missing",
            ),
        };
        let hint = "openapi: 3.0.3 or 3.1.0; converters from 2.0 exist".to_owned();
        diagnostics.error("openapi.unsupported", span, message, hint);
        return None;
    };
    let text = match version.as_str() {
        Some(text) => text.to_owned(),
        // Unquoted `3.1` is a number.
        None => version.to_json().to_string(),
    };
    let mut parts = text.split('.');
    let dialect = match (parts.next(), parts.next()) {
        (Some("3"), Some("0")) => Some(Dialect::V30),
        (Some("3"), Some("1")) => Some(Dialect::V31),
        _ => None,
    };
    if dialect.is_none() {
        let message = format!("OpenAPI {text} is not supported");
        let hint = "3.0 and 3.1 are".to_owned();
        diagnostics.error("openapi.unsupported", &version.span, message, hint);
    }
    check_schema_dialect(root, diagnostics);
    dialect
}

fn check_schema_dialect(root: Place<'_>, diagnostics: &mut Diagnostics) {
    const KNOWN: [&str; 3] = [
        "https://spec.openapis.org/oas/3.1/dialect/base",
        "https://spec.openapis.org/oas/3.1/dialect/2024-11-10",
        "https://json-schema.org/draft/2020-12/schema",
    ];
    let Some(node) = root.node.get("jsonSchemaDialect") else {
        return;
    };
    if !node
        .as_str()
        .is_some_and(|dialect| KNOWN.contains(&dialect))
    {
        let message = "only JSON Schema 2020-12 is supported";
        diagnostics.error("openapi.unsupported", &node.span, message, None);
    }
}

fn title(root: Place<'_>) -> String {
    let info = root.node.get("info");
    let text = |key: &str| info.and_then(|info| info.get(key)).and_then(Node::as_str);
    [text("title"), text("version")]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Bodies that have a schema but a type that nothing here reads.
fn warn_of_unread(reader: &Reader<'_>, diagnostics: &mut Diagnostics) {
    for (name, (span, count)) in &reader.unread {
        let message = format!(
            "{name} bodies pass unread within max_body; their schema is not enforced ({count} places)"
        );
        let hint = "JSON and application/x-www-form-urlencoded are validated".to_owned();
        diagnostics.warning("openapi.unsupported", span, message, hint);
    }
}

#[cfg(test)]
mod tests;
