//! YAML (and JSON) as a tree that keeps the place of every key and value.

use crate::diagnostic::Span;

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
