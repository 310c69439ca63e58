//! From the parser's events to the tree, within bounds.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as Marks, Tag};

use super::messages;
use super::{Key, MAX_ALIAS_NODES, MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, Value, resolve_plain};
use crate::diagnostic::{Diagnostics, Span};

pub(super) fn parse(file: &Arc<str>, text: &[u8], diagnostics: &mut Diagnostics) -> Option<Node> {
    let mut builder = Builder::new(file, text);
    let result = readable(file, text).and_then(|text| builder.run(&joined_surrogates(text)));
    diagnostics.list.append(&mut builder.duplicates.list);
    match result {
        Ok(node) => Some(node),
        Err(failure) => {
            diagnostics.error("yaml.syntax", &failure.span, failure.message, failure.hint);
            None
        }
    }
}

/// Why a file could not be read.
struct Failure {
    span: Span,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(span: Span, message: impl Into<String>, hint: Option<&str>) -> Self {
        Failure {
            span,
            message: message.into(),
            hint: hint.map(str::to_owned),
        }
    }
}

/// UTF-8 without control characters: the scanner takes NUL for the end, and would hide what follows.
fn readable<'a>(file: &Arc<str>, text: &'a [u8]) -> Result<&'a str, Failure> {
    let place = |before: &[u8]| {
        let before = String::from_utf8_lossy(before);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Span {
            file: file.clone(),
            line: clamp(line),
            column: clamp(column),
            length: 1,
        }
    };
    if text.len() > MAX_BYTES {
        return Err(Failure::new(
            place(&[]),
            format!(
                "the file has {} bytes; at most {MAX_BYTES} are read",
                text.len()
            ),
            None,
        ));
    }
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
    let text = std::str::from_utf8(text).map_err(|error| {
        let before = text.get(..error.valid_up_to()).unwrap_or_default();
        Failure::new(
            place(before),
            "this is not UTF-8",
            Some("save the file as UTF-8"),
        )
    })?;
    let odd = |c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r');
    if let Some((at, c)) = text.char_indices().find(|(_, c)| odd(*c)) {
        let before = text.get(..at).unwrap_or_default().as_bytes();
        let message = format!("control character U+{:04X}", u32::from(c));
        return Err(Failure::new(place(before), message, Some("remove it")));
    }
    Ok(text)
}

/// JSON writes characters beyond U+FFFF as two escapes (RFC 8259 §7), YAML as one. Columns after such a pair are
/// two less than in the file.
fn joined_surrogates(text: &str) -> Cow<'_, str> {
    let json = text.trim_start().starts_with(['{', '[']);
    if !json || !text.contains("\\ud") && !text.contains("\\uD") {
        return Cow::Borrowed(text);
    }
    let half = |at: usize| -> Option<u32> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = 0;
    while let Some(at) = text
        .get(rest..)
        .and_then(|t| t.find('\\'))
        .map(|at| rest + at)
    {
        out.push_str(text.get(rest..at).unwrap_or_default());
        let pair = match (half(at), half(at + 6)) {
            (Some(high @ 0xD800..=0xDBFF), Some(low @ 0xDC00..=0xDFFF)) => {
                Some(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00))
            }
            _ => None,
        };
        rest = match pair {
            Some(c) => {
                let _ = write!(out, "\\U{c:08X}");
                at + 12
            }
            None => {
                // The backslash and what it escapes.
                let escaped = text.get(at + 1..).and_then(|t| t.chars().next());
                let end = at + 1 + escaped.map_or(0, char::len_utf8);
                out.push_str(text.get(at..end).unwrap_or_default());
                end
            }
        };
    }
    out.push_str(text.get(rest..).unwrap_or_default());
    Cow::Owned(out)
}

fn clamp(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A collection whose end has not come yet.
struct Open {
    anchor: usize,
    span: Span,
    nodes_before: usize,
    content: Content,
}

enum Content {
    Seq(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        seen: HashMap<String, Span>,
        key: Option<Key>,
    },
}

struct Builder {
    file: Arc<str>,
    line_lengths: Vec<u32>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    alias_nodes: usize,
    anchored_nodes: usize,
    documents: usize,
    duplicates: Diagnostics,
}

impl Builder {
    fn new(file: &Arc<str>, text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text.get(..MAX_BYTES).unwrap_or(text));
        Builder {
            file: file.clone(),
            line_lengths: text.lines().map(|l| clamp(l.chars().count())).collect(),
            open: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            nodes: 0,
            alias_nodes: 0,
            anchored_nodes: 0,
            documents: 0,
            duplicates: Diagnostics::default(),
        }
    }

    fn run(&mut self, text: &str) -> Result<Node, Failure> {
        let start = Marks::default();
        for next in Parser::new_from_str(text) {
            let (event, marks) = next.map_err(|error| {
                let marks = Marks::empty(*error.marker());
                let (message, hint) = messages::explained(error.info());
                Failure::new(self.span(marks), message, hint)
            })?;
            self.event(event, marks)?;
        }
        if !self.open.is_empty() {
            return Err(Failure::new(
                self.span(start),
                "the file ends too early",
                None,
            ));
        }
        let empty = Node {
            value: Value::Null,
            span: Span {
                file: self.file.clone(),
                line: 1,
                column: 1,
                length: 1,
            },
        };
        Ok(self.root.take().unwrap_or(empty))
    }

    fn event(&mut self, event: Event<'_>, marks: Marks) -> Result<(), Failure> {
        let span = self.span(marks);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let hint = Some("one document a file: split the file, or use `include`");
                    return Err(Failure::new(span, "a second document begins here", hint));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, &span)?;
                let text = text.into_owned();
                if self.wants_key() {
                    self.anchor_key(anchor, &text, &span);
                    return self.key(text, span);
                }
                let value = self.scalar(text, style, tag.as_deref(), &span)?;
                let node = Node { value, span };
                if anchor != 0 {
                    self.anchors.insert(anchor, (node.clone(), 1));
                }
                self.place(node)
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", &span)?;
                self.begin(anchor, span, Content::Seq(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", &span)?;
                let content = Content::Map {
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                };
                self.begin(anchor, span, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(&span),
            Event::Alias(anchor) => self.alias(anchor, &span),
        }
    }

    fn alias(&mut self, anchor: usize, span: &Span) -> Result<(), Failure> {
        let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
            let message = "this alias stands inside of what it stands for";
            return Err(Failure::new(span.clone(), message, None));
        };
        self.alias_nodes += size;
        if self.alias_nodes > MAX_ALIAS_NODES {
            let message = format!("aliases expand to more than {MAX_ALIAS_NODES} values");
            return Err(Failure::new(span.clone(), message, None));
        }
        self.count(size, span)?;
        if self.wants_key() {
            let Some(text) = node.as_str() else {
                let message = format!("a key must be a string, not {}", node.kind());
                return Err(Failure::new(span.clone(), message, None));
            };
            return self.key(text.to_owned(), span.clone());
        }
        // Expanded values keep the place where they are written; the depth stays bounded because
        // an alias is only as deep as its anchor was.
        if self.open.len() + depth(&node) > MAX_DEPTH {
            return Err(too_deep(span));
        }
        self.place(node)
    }

    fn anchor_key(&mut self, anchor: usize, text: &str, span: &Span) {
        if anchor != 0 {
            let node = Node {
                value: Value::String(text.to_owned()),
                span: span.clone(),
            };
            self.anchors.insert(anchor, (node, 1));
        }
    }

    fn begin(&mut self, anchor: usize, span: Span, content: Content) -> Result<(), Failure> {
        if self.wants_key() {
            let message = "a key must be a string, not a list or a mapping";
            let hint = Some("quote values that begin with { or [ or *");
            return Err(Failure::new(span, message, hint));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(&span));
        }
        self.count(1, &span)?;
        self.open.push(Open {
            anchor,
            span,
            nodes_before: self.nodes - 1,
            content,
        });
        Ok(())
    }

    fn end(&mut self, span: &Span) -> Result<(), Failure> {
        let Some(open) = self.open.pop() else {
            return Err(Failure::new(span.clone(), "nothing is open here", None));
        };
        let value = match open.content {
            Content::Seq(items) => Value::Seq(items),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        let node = Node {
            value,
            span: open.span,
        };
        if open.anchor != 0 {
            let size = self.nodes - open.nodes_before;
            // Nested anchors would copy the same values once for each level.
            self.anchored_nodes += size;
            if self.anchored_nodes > 4 * MAX_ALIAS_NODES {
                let message = format!("more than {} anchored values", 4 * MAX_ALIAS_NODES);
                return Err(Failure::new(node.span, message, None));
            }
            self.anchors.insert(open.anchor, (node.clone(), size));
        }
        self.place(node)
    }

    fn wants_key(&self) -> bool {
        matches!(
            self.open.last().map(|open| &open.content),
            Some(Content::Map { key: None, .. })
        )
    }

    fn key(&mut self, name: String, span: Span) -> Result<(), Failure> {
        if let Some(Open {
            content: Content::Map { key, .. },
            ..
        }) = self.open.last_mut()
        {
            *key = Some(Key { name, span });
        }
        Ok(())
    }

    fn place(&mut self, node: Node) -> Result<(), Failure> {
        match self.open.last_mut().map(|open| &mut open.content) {
            None => {
                self.root = Some(node);
                Ok(())
            }
            Some(Content::Seq(items)) => {
                items.push(node);
                Ok(())
            }
            Some(Content::Map { entries, seen, key }) => {
                let Some(key) = key.take() else {
                    return Err(Failure::new(node.span, "a value without a key", None));
                };
                if let Some(first) = seen.get(&key.name) {
                    let message = format!("the key {} stands twice", key.name);
                    let hint = format!("the first one is on line {}", first.line);
                    self.duplicates
                        .error("yaml.duplicate", &key.span, message, hint);
                } else {
                    seen.insert(key.name.clone(), key.span.clone());
                    entries.push((key, node));
                }
                Ok(())
            }
        }
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), Failure> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = format!("the file has more than {MAX_NODES} keys and values");
            return Err(Failure::new(span.clone(), message, None));
        }
        Ok(())
    }

    fn scalar(
        &self,
        text: String,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: &Span,
    ) -> Result<Value, Failure> {
        let Some(tag) = tag else {
            return Ok(if style == ScalarStyle::Plain {
                resolve_plain(&text)
            } else {
                Value::String(text)
            });
        };
        let suffix = tag.suffix.as_str();
        let non_specific = tag.handle == "!" && suffix.is_empty();
        if !tag.is_yaml_core_schema() && !non_specific {
            return Err(unknown_tag(tag, span));
        }
        let value = resolve_plain(&text);
        let fits = match suffix {
            "str" | "" => return Ok(Value::String(text)),
            "null" => matches!(value, Value::Null),
            "bool" => matches!(value, Value::Bool(_)),
            "int" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Int(_) | Value::Float(_)),
            _ => return Err(unknown_tag(tag, span)),
        };
        if !fits {
            let message = format!("the value is not what its tag !!{suffix} says");
            return Err(Failure::new(span.clone(), message, None));
        }
        Ok(value)
    }

    fn collection_tag(&self, tag: Option<&Tag>, kind: &str, span: &Span) -> Result<(), Failure> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == kind) => {
                Err(unknown_tag(tag, span))
            }
            _ => Ok(()),
        }
    }

    /// The parser's columns count from 0, ours from 1; both in characters.
    fn span(&self, marks: Marks) -> Span {
        let line = marks.start.line().max(1);
        let column = marks.start.col();
        let end = if marks.end.line() == marks.start.line() {
            marks.end.col()
        } else {
            let length = self.line_lengths.get(line - 1).copied().unwrap_or(0);
            usize::try_from(length).unwrap_or(usize::MAX)
        };
        Span {
            file: self.file.clone(),
            line: clamp(line),
            column: clamp(column + 1),
            length: clamp(end.saturating_sub(column)).max(1),
        }
    }
}

fn too_deep(span: &Span) -> Failure {
    let message = format!("nested deeper than {MAX_DEPTH} levels");
    Failure::new(span.clone(), message, None)
}

fn unknown_tag(tag: &Tag, span: &Span) -> Failure {
    let message = format!("the tag {}{} has no meaning here", tag.handle, tag.suffix);
    Failure::new(span.clone(), message, Some("remove the tag"))
}

/// Levels of nesting; at most [`MAX_DEPTH`] by construction.
fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Seq(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|(_, n)| depth(n)).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => 0,
    }
}
