//! Diagnostics: what is wrong, where, and what to do.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The bundle is not applied.
    Error,
    /// It is applied; somebody should look.
    Warning,
}

/// A stretch of one file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Path in the bundle.
    pub file: std::sync::Arc<str>,
    /// First line.
    pub line: u32,
    /// First column.
    pub column: u32,
    /// Characters on the first line (at least 1).
    pub length: u32,
}

impl Span {
    /// The first character of a file, for what concerns the whole of it.
    pub fn start_of(file: &str) -> Span {
        Span {
            file: file.into(),
            line: 1,
            column: 1,
            length: 1,
        }
    }
}

/// A replacement that `check --fix` makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What is replaced.
    pub span: Span,
    /// By what.
    pub replacement: String,
}

/// One thing that is wrong. `code` is stable and known to `testudo explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// For example `limit.never`.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do.
    pub hint: Option<String>,
    /// What `--fix` would do.
    pub fix: Option<Fix>,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// In the order found; [`Diagnostics::sorted`] orders by place.
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds an error.
    pub fn error(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(Severity::Error, code, span, message.into(), hint.into());
    }

    /// Adds a warning.
    pub fn warning(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.push(Severity::Warning, code, span, message.into(), hint.into());
    }

    fn push(
        &mut self,
        severity: Severity,
        code: &'static str,
        span: &Span,
        message: String,
        hint: Option<String>,
    ) {
        self.list.push(Diagnostic {
            severity,
            code,
            message,
            span: span.clone(),
            hint,
            fix: None,
        });
    }

    /// Whether anything keeps the bundle from being applied.
    pub fn has_errors(&self) -> bool {
        self.list
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Ordered by file, line and column.
    #[must_use]
    pub fn sorted(mut self) -> Vec<Diagnostic> {
        self.list
            .sort_by(|a, b| (&a.span, a.code).cmp(&(&b.span, b.code)));
        self.list
    }
}
