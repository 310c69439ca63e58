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

/// Set where undeclared names in the query are to pass: on an operation, a path, or the document.
pub(super) const ADDITIONAL_QUERY: &str = "x-testudo-additional-query";
/// Set at the top of the document where the service sees other paths than `servers` says.
pub(super) const BASE_PATH: &str = "x-testudo-base-path";
const EXTENSIONS: [&str; 2] = [ADDITIONAL_QUERY, BASE_PATH];

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

/// The known name that a misspelt one was probably meant to be.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = name.to_ascii_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&known.to_ascii_lowercase(), &lower);
    let best = known.iter().min_by_key(|known| distance(known))?;
    // One slip in short names, two in long ones.
    let allowed = if best.len() < 6 { 1 } else { 2 };
    (distance(best) <= allowed).then_some(best)
}

/// Reports keys that are misspelt ones of this object: what they say would silently not be enforced.
/// Other unknown keys mean nothing to OpenAPI, and nothing here.
pub(super) fn check_keys(node: &Node, known: &[&str], diagnostics: &mut Diagnostics) {
    for (key, _) in node.as_map().unwrap_or_default() {
        let name = key.name.as_str();
        let own = name.starts_with("x-testudo-");
        if known.contains(&name) || EXTENSIONS.contains(&name) || (name.starts_with("x-") && !own) {
            continue;
        }
        let known = if own { &EXTENSIONS } else { known };
        let meant = nearest(name, known);
        if meant.is_none() && !own {
            continue;
        }
        let message = format!("unknown key {name}");
        // Shared parts are read once for each operation.
        let reported = diagnostics
            .list
            .iter()
            .any(|known| known.span == key.span && known.message == message);
        if !reported {
            let hint = meant.map(|meant| format!("did you mean {meant}?"));
            diagnostics.error("openapi.invalid", &key.span, message, hint);
        }
    }
}

/// A place in the specification as guard names it.
pub(super) fn policy_ref(span: &Span) -> PolicyRef {
    PolicyRef {
        file: span.file.to_string().into(),
        line: span.line,
    }
}
