//! Printing: colour only on a terminal, tables, JSON and YAML; what comes from traffic is escaped.

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::failure::Failure;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// Colour where standard output is a terminal and `NO_COLOR` is not set.
    pub(crate) fn for_stdout() -> Style {
        Style {
            colour: io::stdout().is_terminal() && colour_wanted(),
        }
    }

    /// The same for standard error.
    pub(crate) fn for_stderr() -> Style {
        Style {
            colour: io::stderr().is_terminal() && colour_wanted(),
        }
    }

    /// No colours, whatever the terminal.
    pub(crate) const NONE: Style = Style { colour: false };

    #[cfg(test)]
    pub(crate) const PLAIN: Style = Style::NONE;

    pub(crate) fn is_colour(self) -> bool {
        self.colour
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Writes text as it is.
///
/// # Errors
/// When standard output cannot be written; silently where nobody reads any more.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::output(&error))
}

/// Writes one line.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints data as JSON or YAML; `None`: as a table, which the caller does.
pub(crate) fn print_data(format: Format, data: &Value) -> Option<Result<(), Failure>> {
    match format {
        Format::Table => None,
        Format::Json => Some(line(&format!("{data:#}"))),
        Format::Yaml => Some(print(&yaml(data))),
    }
}

/// Rows under a header, aligned.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(header: [&str; N]) -> Table {
        Table {
            rows: vec![header.map(str::to_owned).to_vec()],
        }
    }

    /// Cells may come from traffic: control characters are escaped.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let cells = cells.map(|cell| escape(&cell));
        self.rows.push(cells.to_vec());
    }

    pub(crate) fn render(&self, style: Style) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut rendered = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                rendered.push_str(&format!("{cell:<width$}  "));
            }
            let rendered = rendered.trim_end();
            if number == 0 {
                text.push_str(&style.dim(rendered));
            } else {
                text.push_str(rendered);
            }
            text.push('\n');
        }
        text
    }
}

/// Makes text from traffic safe to show.
pub(crate) fn escape(text: &str) -> String {
    testudo_watch::escape_for_terminal(text).into_owned()
}

/// JSON data as YAML 1.2, block style; strings that could be read as something else are quoted.
pub(crate) fn yaml(data: &Value) -> String {
    let mut text = String::new();
    write_yaml(&mut text, data, 0, false);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn write_yaml(text: &mut String, data: &Value, depth: usize, inline: bool) {
    let indent = "  ".repeat(depth);
    match data {
        Value::Object(map) if !map.is_empty() => {
            for (number, (key, value)) in map.iter().enumerate() {
                if number > 0 || !inline {
                    text.push_str(&indent);
                }
                text.push_str(&yaml_scalar(key));
                text.push(':');
                write_yaml_child(text, value, depth + 1);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (number, value) in list.iter().enumerate() {
                if number > 0 || !inline {
                    text.push_str(&indent);
                }
                text.push_str("- ");
                match value {
                    Value::Object(map) if !map.is_empty() => {
                        write_yaml(text, value, depth + 1, true)
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        write_yaml(text, value, depth + 1, true)
                    }
                    scalar => text.push_str(&format!("{}\n", yaml_leaf(scalar))),
                }
            }
        }
        leaf => text.push_str(&format!("{indent}{}\n", yaml_leaf(leaf))),
    }
}

fn write_yaml_child(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            write_yaml(text, value, depth, false);
        }
        Value::Array(list) if !list.is_empty() => {
            text.push('\n');
            write_yaml(text, value, depth, false);
        }
        leaf => text.push_str(&format!(" {}\n", yaml_leaf(leaf))),
    }
}

fn yaml_leaf(value: &Value) -> String {
    match value {
        Value::String(string) => yaml_scalar(string),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

fn yaml_scalar(string: &str) -> String {
    let plain = !string.is_empty()
        && string
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !matches!(
            string.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if plain {
        string.to_owned()
    } else {
        // JSON strings are YAML strings.
        Value::from(string).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_align() {
        let mut table = Table::new(["NAME", "READY"]);
        table.row(["gateway-1".to_owned(), "yes".to_owned()]);
        table.row(["o".to_owned(), "no \u{1b}[2J".to_owned()]);
        assert_eq!(
            table.render(Style::PLAIN),
            "NAME       READY\ngateway-1  yes\no          no \\x1b[2J\n"
        );
    }

    #[test]
    fn yaml_reads_back() {
        let data = json!({"name": "orders", "n": 1, "on": ["yes", {"a": 1, "b": []}, [1, 2]], "e": {}, "q": "a: b"});
        assert_eq!(
            yaml(&data),
            "name: orders\n\"n\": 1\n\"on\":\n  - \"yes\"\n  - a: 1\n    b: []\n  - - 1\n    - 2\ne: {}\nq: \"a: b\"\n"
        );
    }
}
