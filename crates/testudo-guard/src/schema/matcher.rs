//! Method and canonical path to operation: OpenAPI path templates as a tree of segments.
//!
//! Literal segments beat templated ones (OpenAPI 3, Path Templating Matching), leftmost segment
//! first. Within a segment `{name}.json` beats `{name}`. A segment that matches differently before
//! and after percent-decoding matches nothing, because the application may read it either way.

use std::sync::Arc;

use http::Method;
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use super::Operation;

/// The template of operations that have every path (`api: none`).
pub const ANY_PATH: &str = "*";

/// Raw (still percent-encoded) path parameter values with their names, in the order of the template.
pub type PathParams<'a> = SmallVec<[(Arc<str>, &'a str); 4]>;

/// Finds the operation for a method and a canonical path. Built once by [`OperationMatcher::new`].
#[derive(Default)]
pub struct OperationMatcher {
    root: Node,
    any: Vec<(Method, usize)>,
}

/// What [`OperationMatcher::find`] found.
#[derive(Debug)]
pub enum OperationMatch<'a> {
    /// This operation, with the path parameters in the order of the template.
    Found {
        /// Index into [`super::Api::operations`].
        index: usize,
        /// Raw (still percent-encoded) path parameter values with their names.
        path_params: PathParams<'a>,
    },
    /// The path exists with other methods; for `Allow`.
    Method(Vec<Method>),
    /// Nothing matches.
    None,
}

#[derive(Default)]
struct Node {
    /// Literal segments, as in the template and percent-decoded.
    literals: Vec<(Literal, Node)>,
    /// Segments with parameters, the most specific first.
    patterns: Vec<(Segment, Node)>,
    /// Operations that end here.
    methods: Vec<(Method, Leaf)>,
}

struct Literal {
    raw: Box<str>,
    decoded: Box<[u8]>,
}

impl Literal {
    fn new(raw: Box<str>) -> Literal {
        Literal {
            decoded: percent_decode_str(&raw).collect(),
            raw,
        }
    }
}

/// Operation and the names of its parameters (templates that differ only in names share nodes).
struct Leaf {
    index: usize,
    names: Vec<Arc<str>>,
}

/// One segment of a template with parameters: literal pieces around and between them.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    prefix: Box<str>,
    /// Between parameters, none of them empty.
    separators: Vec<Box<str>>,
    suffix: Box<str>,
}

/// Why a path template cannot be matched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It does not begin with a slash.
    #[error("a path must begin with /")]
    NoSlash,
    /// A brace without its partner, or `{}`.
    #[error("unbalanced or empty braces")]
    Braces,
    /// `{a}{b}`: where one ends cannot be told.
    #[error("two parameters without anything between them")]
    Adjacent,
    /// `?` or `#`.
    #[error("a path cannot hold a query or a fragment")]
    Query,
    /// `//`, `/./`, `/../`, or an encoded slash: such requests are refused before they are matched (DESIGN §9).
    #[error("empty, dot or slash segments are never matched")]
    Segment,
}

/// The parts of one path template: its structure, equal for templates that match the same paths,
/// and the names of its parameters.
#[derive(Debug, PartialEq, Eq)]
pub struct Template {
    segments: Vec<TemplateSegment>,
    names: Vec<Arc<str>>,
}

#[derive(Debug, PartialEq, Eq)]
enum TemplateSegment {
    Literal(Box<str>),
    Pattern(Segment),
}

impl Template {
    /// Reads a path template as OpenAPI writes it.
    ///
    /// # Errors
    /// Where no path could be matched with it unambiguously.
    pub fn parse(template: &str) -> Result<Template, TemplateError> {
        let path = template.strip_prefix('/').ok_or(TemplateError::NoSlash)?;
        if path.contains(['?', '#']) {
            return Err(TemplateError::Query);
        }
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            let inner_empty = segment.is_empty() && segments.peek().is_some();
            let slash = segment.contains('\\') || segment.to_ascii_uppercase().contains("%2F");
            if inner_empty || slash || matches!(segment, "." | "..") {
                return Err(TemplateError::Segment);
            }
        }
        let mut names = Vec::new();
        let segments = path
            .split('/')
            .map(|segment| parse_segment(segment, &mut names))
            .collect::<Result<_, _>>()?;
        Ok(Template { segments, names })
    }

    /// The names of its parameters, in order.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Whether both match the same paths.
    pub fn same_paths(&self, other: &Template) -> bool {
        self.segments == other.segments
    }
}

fn parse_segment(
    segment: &str,
    names: &mut Vec<Arc<str>>,
) -> Result<TemplateSegment, TemplateError> {
    let Some((prefix, mut rest)) = segment.split_once('{') else {
        if segment.contains('}') {
            return Err(TemplateError::Braces);
        }
        return Ok(TemplateSegment::Literal(canonical(segment)));
    };
    if prefix.contains('}') {
        return Err(TemplateError::Braces);
    }
    let mut separators = Vec::new();
    loop {
        let (name, after) = rest.split_once('}').ok_or(TemplateError::Braces)?;
        if name.is_empty() || name.contains('{') {
            return Err(TemplateError::Braces);
        }
        names.push(Arc::from(name));
        match after.split_once('{') {
            Some(("", _)) => return Err(TemplateError::Adjacent),
            Some((separator, next)) if !separator.contains('}') => {
                separators.push(canonical(separator));
                rest = next;
            }
            None if !after.contains('}') => {
                return Ok(TemplateSegment::Pattern(Segment {
                    prefix: canonical(prefix),
                    separators,
                    suffix: canonical(after),
                }));
            }
            Some(_) | None => return Err(TemplateError::Braces),
        }
    }
}

/// Literal text as normalization writes paths: unreserved characters plain, what a path cannot hold
/// percent-encoded, hexadecimal digits in upper case (RFC 3986 section 6.2.2).
fn canonical(text: &str) -> Box<str> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let encoded = (byte == b'%').then(|| hex_pair(after)).flatten();
        let (byte, escaped) = encoded.map_or((byte, false), |byte| (byte, true));
        if escaped {
            rest = after.get(2..).unwrap_or_default();
        }
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let reserved = b"!$&'()*+,;=:@%".contains(&byte);
        if unreserved || (reserved && !escaped) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out.into()
}

fn hex_pair(digits: &[u8]) -> Option<u8> {
    let digit = |index: usize| {
        let byte = *digits.get(index)?;
        char::from(byte).to_digit(16)
    };
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

impl Segment {
    /// The values of the parameters, if the segment matches in exactly one way; none of them is empty.
    fn split<'a>(&self, text: &'a str) -> Option<SmallVec<[&'a str; 2]>> {
        let inner = text
            .strip_prefix(&*self.prefix)?
            .strip_suffix(&*self.suffix)?;
        let mut values = SmallVec::new();
        let mut rest = inner;
        for separator in &self.separators {
            let (value, after) = rest.split_once(&**separator)?;
            values.push(value);
            rest = after;
        }
        values.push(rest);
        if values.iter().any(|value: &&str| value.is_empty()) {
            return None;
        }
        // `{a}-{b}` on `x-y-z` has two readings: it matches nothing.
        let mut rest = inner;
        for (separator, value) in self.separators.iter().rev().zip(values.iter().rev()) {
            let (before, after) = rest.rsplit_once(&**separator)?;
            if after != *value {
                return None;
            }
            rest = before;
        }
        Some(values)
    }

    /// More literal text first.
    fn weight(&self) -> usize {
        let between: usize = self.separators.iter().map(|text| text.len()).sum();
        self.prefix.len() + self.suffix.len() + between
    }
}

impl OperationMatcher {
    /// A matcher over [`Operation::template`]s. Templates that [`Template::parse`] refuses match nothing.
    pub fn new(operations: &[Arc<Operation>]) -> OperationMatcher {
        OperationMatcher::from_templates(
            operations
                .iter()
                .map(|operation| (operation.method.clone(), &*operation.template)),
        )
    }

    /// The same over methods and templates; indexes count from zero.
    pub fn from_templates<'a>(
        operations: impl IntoIterator<Item = (Method, &'a str)>,
    ) -> OperationMatcher {
        let mut matcher = OperationMatcher::default();
        for (index, (method, template)) in operations.into_iter().enumerate() {
            if template == ANY_PATH {
                matcher.any.push((method, index));
            } else if let Ok(template) = Template::parse(template) {
                let names = template.names;
                let leaf = Leaf { index, names };
                matcher
                    .root
                    .insert(template.segments.into_iter(), method, leaf);
            }
        }
        matcher.root.sort();
        matcher
    }

    /// The operation for a method and a canonical path (percent-encoding normalized, no dot segments,
    /// no encoded slash). HEAD is its GET, unless the specification declares it.
    pub fn find<'a>(&self, method: &Method, path: &'a str) -> OperationMatch<'a> {
        if !self.any.is_empty() {
            let found = pick(&self.any, method).map(|(_, index)| *index);
            return match found {
                Some(index) => OperationMatch::Found {
                    index,
                    path_params: PathParams::new(),
                },
                None => OperationMatch::Method(allowed(&self.any)),
            };
        }
        let Some(path) = path.strip_prefix('/') else {
            return OperationMatch::None;
        };
        let mut values = SmallVec::new();
        let Some(node) = self.root.descend(path, &mut values) else {
            return OperationMatch::None;
        };
        match pick(&node.methods, method) {
            Some((_, leaf)) => OperationMatch::Found {
                index: leaf.index,
                path_params: leaf.names.iter().cloned().zip(values).collect(),
            },
            None => OperationMatch::Method(allowed(&node.methods)),
        }
    }
}

fn pick<'a, T>(methods: &'a [(Method, T)], method: &Method) -> Option<&'a (Method, T)> {
    let of = |wanted: &Method| methods.iter().find(|(method, _)| method == wanted);
    of(method).or_else(|| {
        (*method == Method::HEAD)
            .then(|| of(&Method::GET))
            .flatten()
    })
}

fn allowed<T>(methods: &[(Method, T)]) -> Vec<Method> {
    let mut list: Vec<Method> = methods.iter().map(|(method, _)| method.clone()).collect();
    if list.contains(&Method::GET) && !list.contains(&Method::HEAD) {
        list.push(Method::HEAD);
    }
    list
}

impl Node {
    fn insert(
        &mut self,
        mut segments: std::vec::IntoIter<TemplateSegment>,
        method: Method,
        leaf: Leaf,
    ) {
        match segments.next() {
            None => {
                if !self.methods.iter().any(|(known, _)| *known == method) {
                    self.methods.push((method, leaf));
                }
            }
            Some(TemplateSegment::Literal(raw)) => {
                let known = self
                    .literals
                    .iter()
                    .position(|(literal, _)| literal.raw == raw);
                let (key, mut node) = match known {
                    Some(position) => self.literals.swap_remove(position),
                    None => (Literal::new(raw), Node::default()),
                };
                node.insert(segments, method, leaf);
                self.literals.push((key, node));
            }
            Some(TemplateSegment::Pattern(segment)) => {
                let known = self
                    .patterns
                    .iter()
                    .position(|(known, _)| *known == segment);
                let (key, mut node) = match known {
                    Some(position) => self.patterns.swap_remove(position),
                    None => (segment, Node::default()),
                };
                node.insert(segments, method, leaf);
                self.patterns.push((key, node));
            }
        }
    }

    fn sort(&mut self) {
        self.literals.sort_by(|(a, _), (b, _)| a.raw.cmp(&b.raw));
        self.patterns
            .sort_by_key(|(segment, _)| std::cmp::Reverse(segment.weight()));
        for (_, node) in &mut self.patterns {
            node.sort();
        }
        for (_, node) in &mut self.literals {
            node.sort();
        }
    }

    /// The node where the path ends. Tries children in order of preference and comes back from dead
    /// ends; each node of the tree is visited once at most, so the cost is bounded by the specification.
    fn descend<'n, 'a>(
        &'n self,
        path: &'a str,
        values: &mut SmallVec<[&'a str; 4]>,
    ) -> Option<&'n Node> {
        let (segment, rest) = match path.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (path, None),
        };
        if segment.contains('%') && !self.reads_alike(segment) {
            return None;
        }
        let end = |node: &'n Node, values: &mut SmallVec<[&'a str; 4]>| match rest {
            Some(rest) => node.descend(rest, values),
            None => (!node.methods.is_empty()).then_some(node),
        };
        let literal = self
            .literals
            .binary_search_by(|(literal, _)| (*literal.raw).cmp(segment))
            .ok()
            .and_then(|position| self.literals.get(position));
        if let Some(found) = literal.and_then(|(_, node)| end(node, values)) {
            return Some(found);
        }
        for (pattern, node) in &self.patterns {
            let Some(parts) = pattern.split(segment) else {
                continue;
            };
            let depth = values.len();
            values.extend(parts);
            if let Some(found) = end(node, values) {
                return Some(found);
            }
            values.truncate(depth);
        }
        None
    }

    /// Whether the same children match a segment before and after percent-decoding.
    fn reads_alike(&self, segment: &str) -> bool {
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        let literals = self
            .literals
            .iter()
            .all(|(literal, _)| (*literal.raw == *segment) == (*literal.decoded == *decoded));
        let Ok(text) = std::str::from_utf8(&decoded) else {
            return literals;
        };
        let patterns = self.patterns.iter().all(|(pattern, _)| {
            pattern.split(segment).map(|parts| parts.len())
                == pattern.split(text).map(|parts| parts.len())
        });
        literals && patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(templates: &[&str]) -> OperationMatcher {
        OperationMatcher::from_templates(templates.iter().map(|line| {
            let (method, template) = line.split_once(' ').unwrap();
            (method.parse().unwrap(), template)
        }))
    }

    /// `INDEX name=value …`, `405 GET,HEAD` or `-`.
    fn find(matcher: &OperationMatcher, method: &str, path: &str) -> String {
        match matcher.find(&method.parse().unwrap(), path) {
            OperationMatch::Found { index, path_params } => {
                let params = path_params
                    .iter()
                    .map(|(name, value)| format!(" {name}={value}"));
                format!("{index}{}", params.collect::<String>())
            }
            OperationMatch::Method(methods) => {
                let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
                format!("405 {}", methods.join(","))
            }
            OperationMatch::None => "-".into(),
        }
    }

    #[test]
    fn literal_beats_template_and_head_is_its_get() {
        let orders = matcher(&[
            "GET /orders",
            "POST /orders",
            "GET /orders/{id}",
            "GET /orders/mine",
            "DELETE /orders/{id}",
            "GET /orders/{id}/items/{item}",
            "GET /orders/mine/special",
            "GET /",
        ]);
        for (method, path, expected) in [
            ("GET", "/orders", "0"),
            ("HEAD", "/orders", "0"),
            ("POST", "/orders", "1"),
            ("PUT", "/orders", "405 GET,POST,HEAD"),
            ("GET", "/orders/17", "2 id=17"),
            ("GET", "/orders/mine", "3"),
            // The concrete path is the one that exists (OpenAPI), so it fails closed.
            ("DELETE", "/orders/mine", "405 GET,HEAD"),
            ("DELETE", "/orders/17", "4 id=17"),
            // Comes back from the literal branch.
            ("GET", "/orders/mine/items/3", "5 id=mine item=3"),
            ("GET", "/orders/", "-"),
            ("GET", "/orders//items/3", "-"),
            ("GET", "/Orders", "-"),
            ("GET", "/", "7"),
            ("GET", "", "-"),
            ("GET", "/nothing", "-"),
        ] {
            assert_eq!(find(&orders, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn segments_with_literal_pieces() {
        let files = matcher(&[
            "GET /files/{name}",
            "GET /files/{name}.json",
            "GET /compare/{base}...{head}",
            "POST /jobs/{id}:cancel",
            "GET /range/{from}-{to}.{format}",
        ]);
        for (method, path, expected) in [
            ("GET", "/files/a.json", "1 name=a"),
            ("GET", "/files/a.b.json", "1 name=a.b"),
            ("GET", "/files/.json", "0 name=.json"),
            ("GET", "/files/a.xml", "0 name=a.xml"),
            ("GET", "/compare/main...dev", "2 base=main head=dev"),
            ("GET", "/compare/a...b...c", "-"),
            ("POST", "/jobs/7:cancel", "3 id=7"),
            // An application may decode before or after it routes: neither reading is taken.
            ("POST", "/jobs/7%3Acancel", "-"),
            ("GET", "/range/1-2.csv", "4 from=1 to=2 format=csv"),
            ("GET", "/range/1-2-3.csv", "-"),
            ("GET", "/files/a%20b", "0 name=a%20b"),
        ] {
            assert_eq!(find(&files, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn literals_are_compared_in_canonical_form() {
        let paths = matcher(&["GET /caf\u{e9}", "GET /a%7eb/x", "GET /{any}"]);
        assert_eq!(find(&paths, "GET", "/caf%C3%A9"), "0");
        assert_eq!(find(&paths, "GET", "/a~b/x"), "1");
        assert_eq!(find(&paths, "GET", "/tea"), "2 any=tea");
    }

    #[test]
    fn any_path() {
        let any = matcher(&["GET *", "POST *"]);
        assert_eq!(find(&any, "HEAD", "/what/ever"), "0");
        assert_eq!(find(&any, "POST", "/"), "1");
        assert_eq!(find(&any, "DELETE", "/"), "405 GET,POST,HEAD");
    }

    #[test]
    fn templates_that_cannot_be_matched() {
        for (template, error) in [
            ("orders", TemplateError::NoSlash),
            ("/a?b={c}", TemplateError::Query),
            ("/{a}{b}", TemplateError::Adjacent),
            ("/{a", TemplateError::Braces),
            ("/a}", TemplateError::Braces),
            ("/{}", TemplateError::Braces),
            ("/{a}}", TemplateError::Braces),
            ("/x}{a}", TemplateError::Braces),
            ("/a//b", TemplateError::Segment),
            ("/a/../b", TemplateError::Segment),
            ("/a%2fb", TemplateError::Segment),
        ] {
            assert_eq!(Template::parse(template), Err(error), "{template}");
        }
        let template = |text| Template::parse(text).unwrap();
        assert!(template("/a/{b}").same_paths(&template("/a/{c}")));
        assert!(!template("/a/{b}").same_paths(&template("/a/b")));
    }
}
