//! The files of one specification as trees, and `$ref` between them (RFC 3986, RFC 6901).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::bundle::{Bundle, resolve};
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::{self, Node};

/// References followed one after another before a chain counts as endless.
const MAX_HOPS: usize = 32;

/// The document and every file that its references lead to, as far as the bundle has them.
pub(super) struct Files {
    trees: BTreeMap<Arc<str>, Node>,
}

/// A node and the file that it is in, against which its references are resolved.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) node: &'a Node,
}

impl<'a> Place<'a> {
    /// The value under a key.
    pub(super) fn get(self, key: &str) -> Option<Place<'a>> {
        self.node.get(key).map(|node| self.at(node))
    }

    /// Another node of the same file.
    pub(super) fn at(self, node: &'a Node) -> Place<'a> {
        Place { node, ..self }
    }

    /// The text of a `$ref`, if this is a reference.
    pub(super) fn reference(self) -> Option<&'a Node> {
        self.node.get("$ref").filter(|node| node.as_str().is_some())
    }

    /// Tells nodes apart: trees are not changed while places exist.
    pub(super) fn identity(self) -> usize {
        std::ptr::from_ref(self.node).addr()
    }
}

impl Files {
    /// Reads the document and what it refers to. `None`: the document itself cannot be read, which is reported.
    pub(super) fn load(
        file: &str,
        bundle: &Bundle,
        diagnostics: &mut Diagnostics,
    ) -> Option<Files> {
        let mut trees = BTreeMap::new();
        let mut open = vec![Arc::<str>::from(file)];
        while let Some(path) = open.pop() {
            if trees.contains_key(&path) {
                continue;
            }
            // Where a reference leads to nothing, the reader says so if what it is in matters.
            let Some(content) = bundle.content(&path) else {
                continue;
            };
            let Some(tree) = yaml::parse(&path, content, diagnostics) else {
                continue;
            };
            let mut targets = BTreeSet::new();
            collect_targets(&path, &tree, &mut targets);
            open.extend(targets);
            trees.insert(path, tree);
        }
        trees.contains_key(file).then_some(Files { trees })
    }

    /// The top of a file.
    pub(super) fn root(&self, file: &str) -> Option<Place<'_>> {
        let (file, node) = self.trees.get_key_value(file)?;
        Some(Place { file, node })
    }

    /// What a reference leads to, one step.
    ///
    /// # Errors
    /// Code, message and hint.
    pub(super) fn target<'a>(
        &'a self,
        from: Place<'a>,
        reference: &str,
    ) -> Result<Place<'a>, RefError> {
        let (file, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        if file.contains("://") {
            return Err(RefError::Remote);
        }
        let root = if file.is_empty() {
            self.root(from.file)
        } else {
            let file = percent_decode_str(file)
                .decode_utf8()
                .map_err(|_| RefError::Outside)?;
            let path = resolve(from.file, &file).ok_or(RefError::Outside)?;
            match self.root(&path) {
                Some(root) => Some(root),
                None => return Err(RefError::NoFile(path)),
            }
        };
        let root = root.ok_or(RefError::NoTarget)?;
        let pointer = percent_decode_str(fragment)
            .decode_utf8()
            .map_err(|_| RefError::NoTarget)?;
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(RefError::Anchor);
        }
        let node = root.node.pointer(&pointer).ok_or(RefError::NoTarget)?;
        Ok(root.at(node))
    }

    /// Follows references to what is meant. Reports what leads nowhere.
    pub(super) fn follow<'a>(
        &'a self,
        place: Place<'a>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Place<'a>> {
        let mut current = place;
        for _ in 0..MAX_HOPS {
            let Some(reference) = current.reference() else {
                return Some(current);
            };
            let text = reference.as_str().unwrap_or_default();
            match self.target(current, text) {
                Ok(target) => current = target,
                Err(error) => {
                    error.report(text, &reference.span, diagnostics);
                    return None;
                }
            }
        }
        diagnostics.error(
            "openapi.invalid",
            &place.node.span,
            "these references lead around in a circle",
            None,
        );
        None
    }

    /// The same where errors are reported elsewhere.
    pub(super) fn follow_quietly<'a>(&'a self, place: Place<'a>) -> Option<Place<'a>> {
        self.follow(place, &mut Diagnostics::default())
    }
}

fn collect_targets(file: &str, node: &Node, targets: &mut BTreeSet<Arc<str>>) {
    match &node.value {
        yaml::Value::Map(entries) => {
            for (key, value) in entries {
                if key.name == "$ref"
                    && let Some(text) = value.as_str()
                    && let Some((path, _)) = text.split_once('#').or(Some((text, "")))
                    && !path.is_empty()
                    && let Ok(path) = percent_decode_str(path).decode_utf8()
                    && let Some(path) = resolve(file, &path)
                {
                    targets.insert(path.into());
                }
                collect_targets(file, value, targets);
            }
        }
        yaml::Value::Seq(items) => {
            for item in items {
                collect_targets(file, item, targets);
            }
        }
        yaml::Value::Null
        | yaml::Value::Bool(_)
        | yaml::Value::Int(_)
        | yaml::Value::Float(_)
        | yaml::Value::String(_) => {}
    }
}

/// Why a reference leads nowhere.
pub(super) enum RefError {
    /// Another host.
    Remote,
    /// Out of the bundle.
    Outside,
    /// A file that the bundle does not have.
    NoFile(String),
    /// A file without such a place.
    NoTarget,
    /// `#name`.
    Anchor,
}

impl RefError {
    pub(super) fn report(&self, reference: &str, span: &Span, diagnostics: &mut Diagnostics) {
        let (code, message, hint) = match self {
            RefError::Remote => (
                "openapi.unsupported",
                format!("{reference} is on another host; nothing is fetched"),
                "copy it into the bundle and refer to the file",
            ),
            RefError::Outside => (
                "path.outside",
                format!("{reference} leads out of the bundle"),
                "references are relative to the file that they are in",
            ),
            RefError::NoFile(path) => (
                "file.missing",
                format!("the bundle has no file {path}"),
                "references are relative to the file that they are in",
            ),
            RefError::NoTarget => (
                "openapi.invalid",
                format!("{reference} leads to nothing"),
                "for example '#/components/schemas/Order'",
            ),
            RefError::Anchor => (
                "openapi.unsupported",
                format!("{reference}: references by anchor are not supported"),
                "refer to the place: '#/components/schemas/Order'",
            ),
        };
        diagnostics.error(code, span, message, hint.to_owned());
    }
}
