//! Secrets that were written into the bundle itself.

use std::sync::LazyLock;

use regex::Regex;

use crate::bundle::Bundle;
use crate::diagnostic::{Diagnostics, Severity, Span};
use crate::yaml::{self, Node, Value};

/// What a secret looks like, and what it is.
static LOOKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"://[^/@\s:]+:[^/@\s]+@", "a password in a URL"),
        (
            r"(?i)(?:^|[\s-])(?:password|passwd|secret|token|api[-_]?key)[= ][^\s$]\S*",
            "a password or token in a command line",
        ),
        (
            r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.",
            "a signed token",
        ),
        (r"\bAKIA[0-9A-Z]{16}\b", "an access key"),
        (r"\btk_[A-Za-z0-9-]{1,64}_[A-Za-z0-9_-]{20,}", "an API key"),
    ]
    .into_iter()
    .filter_map(|(pattern, what)| Some((Regex::new(pattern).ok()?, what)))
    .collect()
});

/// Looks through all YAML files of the bundle but the specifications, whose examples look like secrets.
pub(super) fn check(bundle: &Bundle, diagnostics: &mut Diagnostics) {
    for (path, file) in &bundle.files {
        let yaml = path.ends_with(".yaml") || path.ends_with(".yml");
        let public = matches!(file.audience, testudo_model::Audience::Service(_));
        if !yaml || public {
            continue;
        }
        if let Some(tree) = yaml::parse(path, &file.content, &mut Diagnostics::default()) {
            walk(&tree, diagnostics);
        }
    }
}

fn walk(node: &Node, diagnostics: &mut Diagnostics) {
    match &node.value {
        Value::String(text) => look(text, &node.span, diagnostics),
        Value::Seq(items) => items.iter().for_each(|item| walk(item, diagnostics)),
        Value::Map(entries) => entries
            .iter()
            .for_each(|(_, value)| walk(value, diagnostics)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {}
    }
}

fn look(text: &str, span: &Span, diagnostics: &mut Diagnostics) {
    let private_key = text.contains("PRIVATE KEY-----");
    let found = LOOKS.iter().find(|(pattern, _)| pattern.is_match(text));
    let what = match found {
        _ if private_key => "a private key",
        Some((_, what)) => what,
        None => return,
    };
    let message = format!("{what} stands in the bundle, and would enter every revision");
    let hint = "keep it in a file or the environment: ${file:PATH}, ${env:NAME}; then change it";
    diagnostics.warning("secret.inline", span, message, hint.to_owned());
    if let (true, Some(last)) = (private_key, diagnostics.list.last_mut()) {
        last.severity = Severity::Error;
    }
}
