//! Diagnostics for people (`table`), programs (`json`), code scanning (`sarif`) and pull requests (`github`).
//!
//! Everything is made from the diagnostics and the bundle's text; nothing is found out here. Text of bundles is
//! escaped before it reaches a terminal.

mod github;
mod human;
mod sarif;
mod text;

use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::diagnostic::{Diagnostic, Severity};

pub use github::github;
pub use human::{Style, human};
pub use sarif::sarif;

/// What was checked, for the last lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services of the bundle.
    pub services: usize,
    /// Their operations.
    pub operations: usize,
    /// Cedar policies.
    pub policies: usize,
    /// Rate limits.
    pub limits: usize,
    /// Time that it took, in milliseconds.
    pub milliseconds: u64,
}

/// What is rendered.
#[derive(Clone, Copy)]
pub struct Report<'a> {
    /// In the order in which they are shown.
    pub diagnostics: &'a [Diagnostic],
    /// For the lines that are quoted.
    pub bundle: &'a Bundle,
    /// For the last lines.
    pub counts: Counts,
}

impl Report<'_> {
    fn count(&self, severity: Severity) -> usize {
        let of = |diagnostic: &&Diagnostic| diagnostic.severity == severity;
        self.diagnostics.iter().filter(of).count()
    }

    /// Whether the bundle may be applied: no errors.
    pub fn is_ok(&self) -> bool {
        self.count(Severity::Error) == 0
    }
}

/// `{ok, diagnostics: [{severity, code, message, file, line, column, hint}]}` (DESIGN §12).
pub fn json(report: Report<'_>) -> Value {
    let diagnostics: Vec<Value> = report
        .diagnostics
        .iter()
        .map(|diagnostic| {
            json!({
                "severity": diagnostic.severity,
                "code": diagnostic.code,
                "message": diagnostic.message,
                "file": diagnostic.span.file,
                "line": diagnostic.span.line,
                "column": diagnostic.span.column,
                "hint": diagnostic.hint,
            })
        })
        .collect();
    json!({"ok": report.is_ok(), "diagnostics": diagnostics})
}

#[cfg(test)]
mod tests;
