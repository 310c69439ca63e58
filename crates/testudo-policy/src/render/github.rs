//! Workflow commands of GitHub Actions: annotations beside the lines of a pull request.

use std::fmt::Write;

use super::Report;
use super::text::visible;
use crate::diagnostic::Severity;

/// One command a line.
pub fn github(report: Report<'_>) -> String {
    let mut out = String::new();
    for diagnostic in report.diagnostics {
        let command = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let span = &diagnostic.span;
        let mut message = diagnostic.message.clone();
        if let Some(hint) = &diagnostic.hint {
            message.push_str("\nfix: ");
            message.push_str(hint);
        }
        let _ = writeln!(
            out,
            "::{command} file={},line={},col={},endColumn={},title={}::{}",
            property(&span.file),
            span.line,
            span.column,
            span.column.saturating_add(span.length),
            property(diagnostic.code),
            data(&message)
        );
    }
    out
}

fn data(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(visible).collect();
    lines
        .join("\n")
        .replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
