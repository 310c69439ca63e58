//! What reading any part of a document needs: its files, its dialect, its schemas.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use testudo_guard::schema::{Schema, TypeSet};
use testudo_model::PolicyRef;

use super::files::{Files, Place};
use super::schema::{Dialect, Direction, Translator};
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::Node;

/// Reads one document.
pub(super) struct Reader<'a> {
    pub(super) files: &'a Files,
    pub(super) root: Place<'a>,
    pub(super) schemas: Translator<'a>,
    /// Media types with schemas that are not enforced, each with its first place and how often it comes.
    pub(super) unread: BTreeMap<String, (Span, usize)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(files: &'a Files, root: Place<'a>, dialect: Dialect) -> Reader<'a> {
        Reader {
            files,
            root,
            schemas: Translator::new(files, dialect),
            unread: BTreeMap::new(),
        }
    }

    /// The string under a key that must be there.
    pub(super) fn text(
        &self,
        place: Place<'a>,
        key: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<&'a Node> {
        match place.node.get(key) {
            Some(node) if node.as_str().is_some_and(|text| !text.is_empty()) => Some(node),
            Some(node) => {
                let message = format!("{key} must be a string, not {}", node.kind());
                diagnostics.error("openapi.invalid", &node.span, message, None);
                None
            }
            None => {
                let message = format!("{key} is missing");
                diagnostics.error("openapi.invalid", &place.node.span, message, None);
                None
            }
        }
    }

    /// The compiled schema of a parameter. Without a type it is a string, which is what comes over the wire.
    pub(super) fn parameter_schema(
        &mut self,
        place: Place<'a>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Arc<Schema>> {
        let mut translated = self
            .schemas
            .translate(place, Direction::Request, diagnostics);
        if let Json::Object(keywords) = &mut translated.schema
            && keywords
                .keys()
                .all(|key| ["minLength", "maxLength", "pattern", "format"].contains(&key.as_str()))
        {
            keywords.insert("type".into(), "string".into());
        }
        let schema = self.schemas.compile(&translated, diagnostics)?;
        if schema.shape().types == TypeSet::NONE {
            let message = "no value is valid: types and enum of this schema exclude each other";
            diagnostics.error("openapi.invalid", &place.node.span, message, None);
        }
        Some(schema)
    }
}

/// A place in the specification as guard names it.
pub(super) fn policy_ref(span: &Span) -> PolicyRef {
    PolicyRef {
        file: span.file.to_string().into(),
        line: span.line,
    }
}
