//! Diagnostics with the line that they are about, a mark under it, and what to do.

use std::fmt::Write;

use super::Report;
use super::text::{visible, window, wrap};
use crate::diagnostic::{Diagnostic, Severity};

/// How it looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether to colour (ANSI); only on a terminal.
    pub colour: bool,
    /// Widest line, in characters.
    pub columns: usize,
}

impl Default for Style {
    fn default() -> Self {
        Style {
            colour: false,
            columns: 100,
        }
    }
}

/// Characters before the text of a quoted line: `    5 │ `.
const GUTTER: usize = 8;
/// Diagnostics that are shown in full; of more only the number is.
const MOST: usize = 50;

const RED: &str = "31";
const YELLOW: &str = "33";
const GREEN: &str = "32";
const DIM: &str = "2";
const BOLD: &str = "1";

impl Style {
    fn paint(self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The whole output of `testudo check`.
pub fn human(report: Report<'_>, style: Style) -> String {
    let mut out = String::new();
    for diagnostic in report.diagnostics.iter().take(MOST) {
        one(&mut out, report, diagnostic, style);
    }
    if let Some(more) = report
        .diagnostics
        .len()
        .checked_sub(MOST)
        .filter(|n| *n > 0)
    {
        let _ = writeln!(out, "… and {more} more; all of them: testudo check -o json");
    }
    summary(&mut out, report, style);
    out
}

fn one(out: &mut String, report: Report<'_>, diagnostic: &Diagnostic, style: Style) {
    let (mark, colour) = match diagnostic.severity {
        Severity::Error => ("✗", RED),
        Severity::Warning => ("!", YELLOW),
    };
    let span = &diagnostic.span;
    let widest = report.diagnostics.iter().map(|d| d.code.len()).max();
    let width = widest.unwrap_or(0).max(15);
    let code = format!("{:<width$}", diagnostic.code);
    let _ = writeln!(
        out,
        "{} {} {}:{}:{}",
        style.paint(colour, mark),
        style.paint(BOLD, &code),
        visible(&span.file),
        span.line,
        span.column
    );
    match quoted(report, diagnostic) {
        Some(line) => snippet(out, &line, diagnostic, colour, style),
        None => {
            for line in wrap(&diagnostic.message, style.columns.saturating_sub(4)) {
                let _ = writeln!(out, "    {line}");
            }
        }
    }
    if let Some(hint) = &diagnostic.hint {
        fix(out, hint, diagnostic.fix.is_some(), style);
    }
}

/// The line that it is about; never one that holds a secret.
fn quoted(report: Report<'_>, diagnostic: &Diagnostic) -> Option<String> {
    let here = &diagnostic.span;
    let secret = |other: &Diagnostic| {
        other.code == "secret.inline"
            && (&other.span.file, other.span.line) == (&here.file, here.line)
    };
    if report.diagnostics.iter().any(secret) {
        return None;
    }
    let text = report.bundle.text(&diagnostic.span.file)?;
    let index = usize::try_from(diagnostic.span.line.checked_sub(1)?).ok()?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    text.lines().nth(index).map(str::to_owned)
}

fn snippet(out: &mut String, line: &str, diagnostic: &Diagnostic, colour: &str, style: Style) {
    let width = style.columns.saturating_sub(GUTTER).max(20);
    let column = usize::try_from(diagnostic.span.column.saturating_sub(1)).unwrap_or(0);
    let length = usize::try_from(diagnostic.span.length).unwrap_or(1);
    let (shown, at, length) = window(line.trim_end(), column, length, width);
    let gutter = style.paint(DIM, "      │");
    let number = style.paint(DIM, &format!("{:>5} │", diagnostic.span.line));
    let _ = writeln!(out, "{number} {shown}");

    // ────┬─────  with the tick in the middle, the message hanging from it.
    let middle = (length - 1) / 2;
    let run: String = (0..length)
        .map(|i| if i == middle { '┬' } else { '─' })
        .collect();
    let _ = writeln!(
        out,
        "{gutter} {}{}",
        " ".repeat(at),
        style.paint(colour, &run)
    );
    let tick = at + middle;
    let right = width.saturating_sub(tick + 2);
    let message = visible(&diagnostic.message);
    if message.chars().count() <= right || right >= 48 {
        for (index, text) in wrap(&message, right).iter().enumerate() {
            let lead = if index == 0 {
                style.paint(colour, "╰")
            } else {
                " ".to_owned()
            };
            let _ = writeln!(out, "{gutter} {}{lead} {text}", " ".repeat(tick));
        }
    } else {
        // Too far to the right: the message ends at the tick.
        let lines = wrap(&message, tick.saturating_sub(1).max(40));
        let widest = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
        let indent = tick.saturating_sub(widest + 1);
        for (index, text) in lines.iter().enumerate() {
            let pad = " ".repeat(indent + widest - text.chars().count());
            let (pad, tail) = match index {
                0 => (pad, format!(" {}", style.paint(colour, "╯"))),
                _ => (" ".repeat(indent), String::new()),
            };
            let _ = writeln!(out, "{gutter} {pad}{text}{tail}");
        }
    }
}

fn fix(out: &mut String, hint: &str, automatic: bool, style: Style) {
    let lines = wrap(hint, style.columns.saturating_sub(9));
    let last = lines.len().saturating_sub(1);
    for (index, line) in lines.iter().enumerate() {
        let lead = if index == 0 {
            format!("    {}  ", style.paint(GREEN, "fix"))
        } else {
            " ".repeat(9)
        };
        let tail = match automatic && index == last {
            true if line.chars().count() + 32 <= style.columns => "        --fix does it",
            true => "\n         --fix does it",
            false => "",
        };
        let _ = writeln!(out, "{lead}{line}{}", style.paint(DIM, tail));
    }
}

fn summary(out: &mut String, report: Report<'_>, style: Style) {
    let errors = report.count(Severity::Error);
    let warnings = report.count(Severity::Warning);
    let counts = report.counts;
    let verdict = format!(
        "{}, {}",
        plural(errors, "error"),
        plural(warnings, "warning")
    );
    let colour = match (errors, warnings) {
        (0, 0) => GREEN,
        (0, _) => YELLOW,
        _ => RED,
    };
    let _ = writeln!(
        out,
        "{}   {}  {}  {}  {}  {} ms",
        style.paint(colour, &verdict),
        plural(counts.services, "service"),
        plural(counts.operations, "operation"),
        match counts.policies {
            1 => "1 policy".to_owned(),
            n => format!("{n} policies"),
        },
        plural(counts.limits, "limit"),
        counts.milliseconds
    );
    let named = report
        .diagnostics
        .iter()
        .rev()
        .find(|d| errors == 0 || d.severity == Severity::Error);
    let _ = match named {
        Some(named) if errors > 0 => writeln!(
            out,
            "nothing applied, exit 1     more: testudo explain {}",
            named.code
        ),
        Some(named) => writeln!(
            out,
            "can be applied     more: testudo explain {}",
            named.code
        ),
        None => writeln!(out, "can be applied     next: testudo up"),
    };
}

fn plural(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}
