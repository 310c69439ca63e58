//! YAML (and JSON) as a tree that keeps the place of every key and value.
//!
//! YAML 1.2 with the core schema: `yes` and `on` are strings, `0o17` is 15. One document a file.
//! Everything is bounded, aliases included. Knows nothing of what the values mean.

mod build;
mod messages;
mod scalar;

use std::sync::Arc;

use crate::diagnostic::{Diagnostics, Span};

pub use scalar::resolve_plain;

/// Files beyond this are refused unread.
pub const MAX_BYTES: usize = 16 << 20;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 128;
/// Most keys and values of one file, expanded aliases included.
pub const MAX_NODES: usize = 1_000_000;
/// Most keys and values that aliases may add.
pub const MAX_ALIAS_NODES: usize = 50_000;

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub span: Span,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false` (YAML 1.2 core schema).
    Bool(bool),
    /// An integer within i64.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A string.
    String(String),
    /// A sequence.
    Seq(Vec<Node>),
    /// A mapping, in the order of the file; duplicate keys are a diagnostic.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key and its place.
#[derive(Clone, Debug)]
pub struct Key {
    /// The key; other scalars are kept as their text (`200:` in OpenAPI).
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// Reads one document. An empty file is `null`. `None`: it could not be read at all (`yaml.syntax`).
/// A duplicate key is an error too (`yaml.duplicate`); the first one stays in the tree.
pub fn parse(file: &str, text: &[u8], diagnostics: &mut Diagnostics) -> Option<Node> {
    build::parse(&Arc::from(file), text, diagnostics)
}

impl Node {
    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        match self.value {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self.value {
            #[allow(
                clippy::cast_precision_loss,
                reason = "JSON numbers are f64 to most readers"
            )]
            Value::Int(value) => Some(value as f64),
            Value::Float(value) => Some(value),
            _ => None,
        }
    }

    /// The entries, if it is a mapping.
    pub fn as_map(&self) -> Option<&[(Key, Node)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items, if it is a sequence.
    pub fn as_seq(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Seq(items) => Some(items),
            _ => None,
        }
    }

    /// Whether it is `null` (or nothing was written).
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value under a key, if it is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// Key and value, if it is a mapping that has the key.
    pub fn entry(&self, key: &str) -> Option<(&Key, &Node)> {
        self.as_map()?
            .iter()
            .find(|(k, _)| k.name == key)
            .map(|(k, node)| (k, node))
    }

    /// The node at a JSON Pointer (RFC 6901); the empty pointer is this node.
    pub fn pointer(&self, pointer: &str) -> Option<&Node> {
        if pointer.is_empty() {
            return Some(self);
        }
        let mut node = self;
        for token in pointer.strip_prefix('/')?.split('/') {
            let token = token.replace("~1", "/").replace("~0", "~");
            node = match &node.value {
                Value::Map(_) => node.get(&token)?,
                Value::Seq(items) => items.get(token.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(node)
    }

    /// What it is, in words: `a string`, `a list` …
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::String(_) => "a string",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The same as JSON; infinities and NaN, which JSON lacks, become null.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::String(text) => text.clone().into(),
            Value::Seq(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => serde_json::Value::Object(
                entries
                    .iter()
                    .map(|(key, node)| (key.name.clone(), node.to_json()))
                    .collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
