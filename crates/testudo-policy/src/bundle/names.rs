//! Which files a bundle has: what `testudo.yaml` and its includes name, the specifications' `$ref` files, the
//! policies, the tests; and which proxies need each.

use std::collections::BTreeSet;

use testudo_model::Audience;

use super::folder::{ReadError, Source, resolve};
use super::{Bundle, BundleFile, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES, ROOT_FILE, glob};
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::{self, Node};

/// Folder of policies where `policies:` is left out.
pub(crate) const DEFAULT_POLICIES: &str = "policies";
/// Folder of specifications.
const APIS: &str = "apis";
/// Folder of policy tests.
const TESTS: &str = "tests";

pub(super) fn collect(source: &dyn Source) -> Result<Bundle, Diagnostics> {
    let start = Span::start_of(ROOT_FILE);
    let mut collector = Collector {
        source,
        bundle: Bundle::default(),
        problems: Diagnostics::default(),
        total_bytes: 0,
    };
    collector.take(ROOT_FILE, Audience::All, &start);
    if !collector.bundle.files.contains_key(ROOT_FILE) {
        return Err(collector.problems);
    }
    collector.root();
    collector.bundle.problems = collector.problems.list;
    Ok(collector.bundle)
}

struct Collector<'a> {
    source: &'a dyn Source,
    bundle: Bundle,
    problems: Diagnostics,
    total_bytes: u64,
}

impl Collector<'_> {
    fn root(&mut self) {
        let Some(root) = self.tree(ROOT_FILE) else {
            return;
        };
        self.names(ROOT_FILE, &root);
        for path in self.includes(&root) {
            if let Some(tree) = self.tree(&path) {
                self.names(&path, &tree);
            }
        }
        let policies = root.get("policies").filter(|node| node.as_str().is_some());
        match policies.map(|node| (node.as_str().unwrap_or_default(), &node.span)) {
            Some((path, span)) => self.policies(path, Some(span)),
            None => self.policies(DEFAULT_POLICIES, None),
        }
        self.tests(&root);
        self.unused_apis();
    }

    /// A specification beside the others that no service names protects nothing.
    fn unused_apis(&mut self) {
        for path in self.source.list(APIS).unwrap_or_default() {
            let is_spec = [".yaml", ".yml", ".json"]
                .iter()
                .any(|ending| path.ends_with(ending));
            if is_spec && !self.bundle.files.contains_key(&path) {
                let message = format!("{path} is not read: no service names it");
                let hint =
                    format!("write `api: {{openapi: {path}}}` at its service, or move it away");
                let start = Span::start_of(ROOT_FILE);
                self.problems.warning("file.unused", &start, message, hint);
            }
        }
    }

    /// Policy tests are not run yet: whoever wrote some must not believe that they pass.
    fn tests(&mut self, root: &Node) {
        let mut paths = self.source.list(TESTS).unwrap_or_default();
        paths.retain(|path| path.ends_with(".yaml") || path.ends_with(".yml"));
        // What the bundle names for another purpose is no policy test.
        paths.retain(|path| !self.bundle.files.contains_key(path));
        let Some(first) = paths.first().cloned() else {
            return;
        };
        for path in &paths {
            self.take(path, Audience::Control, &root.span);
        }
        let more = match paths.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let message = format!("{first}{more}: not available yet; policy tests are not run");
        let hint = format!("move what is in {TESTS}/ elsewhere: it would do nothing");
        let start = Span::start_of(&first);
        self.problems.error("feature.absent", &start, message, hint);
    }

    /// A file that was taken, as a tree. Its syntax errors are `config`'s to report.
    fn tree(&self, path: &str) -> Option<Node> {
        let content = self.bundle.content(path)?;
        yaml::parse(path, content, &mut Diagnostics::default())
    }

    fn includes(&mut self, root: &Node) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for item in root.get("include").and_then(Node::as_seq).unwrap_or(&[]) {
            let Some(pattern) = item.as_str() else {
                continue;
            };
            let Some(pattern) = resolve(ROOT_FILE, pattern) else {
                self.outside(pattern, &item.span);
                continue;
            };
            let paths = include_paths(&pattern, self.source);
            if paths.is_empty() {
                let message = format!("{pattern} matches no file");
                self.problems
                    .error("file.missing", &item.span, message, None);
            }
            for path in paths {
                if path != ROOT_FILE {
                    self.take(&path, Audience::All, &item.span);
                    found.insert(path);
                }
            }
        }
        found
    }

    /// The files that the main file or an included one names.
    fn names(&mut self, file: &str, tree: &Node) {
        for (name, service) in tree.get("services").and_then(Node::as_map).unwrap_or(&[]) {
            if let Some(node) = service.pointer("/api/openapi")
                && let Some(path) = self.named(file, node, Audience::Service(name.name.clone()))
            {
                self.references(&path, &name.name);
            }
        }
        for (_, issuer) in tree
            .pointer("/users/jwt")
            .and_then(Node::as_map)
            .unwrap_or(&[])
        {
            if let Some(node) = issuer.get("jwks") {
                self.named(file, node, Audience::Gateway);
            }
        }
        if let Some(node) = tree.pointer("/users/api_keys") {
            self.named(file, node, Audience::Gateway);
        }
        for item in tree
            .pointer("/gateway/tls")
            .and_then(Node::as_seq)
            .unwrap_or(&[])
        {
            for key in ["certificate", "key"] {
                if let Some(node) = item.get(key) {
                    self.named(file, node, Audience::Gateway);
                }
            }
        }
    }

    /// Takes the file that a value names, unless it is a URL or a secret's reference.
    fn named(&mut self, file: &str, node: &Node, audience: Audience) -> Option<String> {
        let written = node.as_str()?;
        if written.contains("://") || written.starts_with("${") || written.contains('\n') {
            return None;
        }
        let Some(path) = resolve(file, written) else {
            self.outside(written, &node.span);
            return None;
        };
        self.take(&path, audience, &node.span);
        Some(path)
    }

    /// Local files that a specification's `$ref`s lead to, and theirs.
    fn references(&mut self, path: &str, service: &str) {
        let mut done: BTreeSet<String> = BTreeSet::new();
        let mut open = vec![path.to_owned()];
        while let Some(file) = open.pop() {
            if !done.insert(file.clone()) {
                continue;
            }
            let Some(text) = self.bundle.text(&file).map(std::borrow::Cow::into_owned) else {
                continue;
            };
            for (target, span) in reference_files(&file, &text) {
                match resolve(&file, &target) {
                    // What is missing is the specification reader's to report: it knows whether it matters.
                    Some(path) => {
                        if self.source.read(&path) != Err(ReadError::Missing) {
                            self.take(&path, Audience::Service(service.to_owned()), &span);
                            open.push(path);
                        }
                    }
                    None => self.outside(&target, &span),
                }
            }
        }
    }

    fn policies(&mut self, folder: &str, span: Option<&Span>) {
        let resolved = resolve(ROOT_FILE, folder);
        let Some(resolved) = resolved else {
            if let Some(span) = span {
                self.outside(folder, span);
            }
            return;
        };
        let Some(paths) = self.source.list(&resolved) else {
            if let Some(span) = span {
                let message = format!("there is no folder {folder}");
                self.problems.error("file.missing", span, message, None);
            }
            return;
        };
        let root = Span::start_of(ROOT_FILE);
        for path in &paths {
            if !path.ends_with(".cedar") {
                self.unused_policy(path, span);
                continue;
            }
            let inside = path.strip_prefix(&resolved).unwrap_or(path);
            let inside = inside.trim_start_matches('/');
            let audience = match inside.split_once('/') {
                Some((service, _)) => Audience::Service(service.to_owned()),
                None => Audience::All,
            };
            self.take(path, audience, span.unwrap_or(&root));
        }
    }

    /// `orders.ceder` would silently permit and forbid nothing.
    fn unused_policy(&mut self, path: &str, span: Option<&Span>) {
        let notes = [".md", ".txt"].iter().any(|suffix| path.ends_with(suffix));
        if !notes {
            let message = format!("{path} is not read: policies are *.cedar files");
            let hint = "rename it, or move it out of the folder".to_owned();
            let start = Span::start_of(ROOT_FILE);
            let span = span.unwrap_or(&start);
            self.problems.warning("file.unused", span, message, hint);
        }
    }

    fn take(&mut self, path: &str, audience: Audience, span: &Span) {
        if let Some(file) = self.bundle.files.get_mut(path) {
            if file.audience != audience {
                file.audience = wider(&file.audience, audience);
            }
            return;
        }
        if self.bundle.files.len() >= MAX_FILES {
            let message = format!("a bundle has at most {MAX_FILES} files");
            self.once("file.unreadable", span, message);
            return;
        }
        match self.source.read(path) {
            Ok(content) => {
                let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
                self.total_bytes = self.total_bytes.saturating_add(size);
                if self.total_bytes > MAX_TOTAL_BYTES {
                    let message = format!("a bundle has at most {MAX_TOTAL_BYTES} bytes in all");
                    self.once("file.unreadable", span, message);
                    return;
                }
                let file = BundleFile { content, audience };
                self.bundle.files.insert(path.to_owned(), file);
            }
            Err(error) => self.failed(path, span, error),
        }
    }

    fn failed(&mut self, path: &str, span: &Span, error: ReadError) {
        match error {
            ReadError::Missing => {
                let hint = (path == ROOT_FILE)
                    .then(|| "testudo init NAME=ADDR writes one to start from".to_owned());
                let message = format!("there is no file {path}");
                self.problems.error("file.missing", span, message, hint);
            }
            ReadError::Outside => self.outside(path, span),
            ReadError::TooLarge(_) => {
                let message = format!("{path} is larger than {MAX_FILE_BYTES} bytes");
                self.problems.error("file.unreadable", span, message, None);
            }
            ReadError::Unreadable(why) => {
                let message = format!("{path} cannot be read: {why}");
                self.problems.error("file.unreadable", span, message, None);
            }
        }
    }

    fn outside(&mut self, path: &str, span: &Span) {
        let message = format!("{path} leads out of the bundle");
        let hint = "move the file into the bundle; for secrets write ${file:PATH}".to_owned();
        self.problems.error("path.outside", span, message, hint);
    }

    fn once(&mut self, code: &'static str, span: &Span, message: String) {
        if !self.problems.list.iter().any(|d| d.message == message) {
            self.problems.error(code, span, message, None);
        }
    }
}

/// The files that an `include` entry means, given the bundle's files.
fn include_paths(pattern: &str, source: &dyn Source) -> Vec<String> {
    if !glob::is_pattern(pattern) {
        return vec![pattern.to_owned()];
    }
    let all = source
        .list(&glob::fixed_folder(pattern))
        .unwrap_or_default();
    all.into_iter()
        .filter(|path| glob::matches(pattern, path))
        .collect()
}

/// The included files among a bundle's own, for `config`.
pub(crate) fn included<'a>(bundle: &'a Bundle, pattern: &str) -> Vec<&'a str> {
    bundle
        .files
        .keys()
        .map(String::as_str)
        .filter(|path| *path != ROOT_FILE)
        .filter(|path| *path == pattern || glob::matches(pattern, path))
        .collect()
}

/// Whoever needs either needs the file.
fn wider(one: &Audience, other: Audience) -> Audience {
    match (one, other) {
        (Audience::Control, other) => other,
        (one, Audience::Control) => one.clone(),
        // Gateways get what services get.
        (Audience::Gateway, service @ Audience::Service(_)) => service,
        (service @ Audience::Service(_), Audience::Gateway) => service.clone(),
        _ => Audience::All,
    }
}

/// Files that `$ref`s of a document name, found in its text: `$ref: 'common.yaml#/X'`, `"$ref": "common.json"`.
pub(crate) fn reference_files(file: &str, text: &str) -> Vec<(String, Span)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut offset = 0;
        while let Some(at) = line.get(offset..).and_then(|rest| rest.find("$ref")) {
            offset += at + "$ref".len();
            let rest = line.get(offset..).unwrap_or_default();
            let value = rest.trim_start_matches(['"', '\'', ' ', '\t', ':']);
            let end = value
                .find(['"', '\'', ' ', ',', '}'])
                .unwrap_or(value.len());
            let target = value.get(..end).unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || !rest.contains(':') {
                continue;
            }
            let start = line.len() - value.len();
            let column = line.get(..start).unwrap_or_default().chars().count() + 1;
            let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let span = Span {
                file: file.into(),
                line: clamp(index + 1),
                column: clamp(column),
                length: clamp(end).max(1),
            };
            found.push((target.to_owned(), span));
        }
    }
    found
}
