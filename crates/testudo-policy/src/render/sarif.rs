//! SARIF 2.1.0, for code scanning.

use serde_json::{Value, json};

use super::Report;
use crate::diagnostic::{Diagnostic, Severity};
use crate::explain;

/// One run with its results.
pub fn sarif(report: Report<'_>) -> Value {
    let mut codes: Vec<&str> = report.diagnostics.iter().map(|d| d.code).collect();
    codes.sort_unstable();
    codes.dedup();
    let rules: Vec<Value> = codes.iter().map(|code| rule(code)).collect();
    let results: Vec<Value> = report
        .diagnostics
        .iter()
        .map(|diagnostic| result(diagnostic, &codes))
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "testudo",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "originalUriBaseIds": {"BUNDLE": {"description": {"text": "The folder of testudo.yaml"}}},
            "results": results,
        }],
    })
}

fn rule(code: &str) -> Value {
    let explanation = explain::explain(code);
    let title = explanation.map_or(code, |explanation| explanation.title);
    json!({
        "id": code,
        "shortDescription": {"text": title},
        "help": {"text": explanation.map(explain::Explanation::text).unwrap_or_default()},
    })
}

fn result(diagnostic: &Diagnostic, codes: &[&str]) -> Value {
    let span = &diagnostic.span;
    let mut text = diagnostic.message.clone();
    if let Some(hint) = &diagnostic.hint {
        text.push_str(". Fix: ");
        text.push_str(hint);
    }
    let region = |line: u32, column: u32, length: u32| {
        json!({
            "startLine": line,
            "startColumn": column,
            "endColumn": column.saturating_add(length),
        })
    };
    let artifact = json!({"uri": uri(&span.file), "uriBaseId": "BUNDLE"});
    let mut result = json!({
        "ruleId": diagnostic.code,
        "ruleIndex": codes.iter().position(|code| *code == diagnostic.code),
        "level": match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "message": {"text": text},
        "locations": [{"physicalLocation": {
            "artifactLocation": artifact,
            "region": region(span.line, span.column, span.length),
        }}],
    });
    if let (Some(fix), Some(fields)) = (&diagnostic.fix, result.as_object_mut()) {
        let fix = json!([{
            "artifactChanges": [{
                "artifactLocation": {"uri": uri(&fix.span.file), "uriBaseId": "BUNDLE"},
                "replacements": [{
                    "deletedRegion": region(fix.span.line, fix.span.column, fix.span.length),
                    "insertedContent": {"text": fix.replacement},
                }],
            }],
        }]);
        fields.insert("fixes".to_owned(), fix);
    }
    result
}

/// A relative URI reference (RFC 3986 §4.2).
fn uri(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(&b);
    path.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}
