//! The reference pages of the user's guide, from the same tables that the code runs on. A test keeps
//! `docs/reference/` up to date.

use std::fmt::Write;

use crate::config::keys::{API_KEYS, INCLUDED, ROOT};
use crate::config::shape::{Kind, Need, Object, words};
use crate::config::{defaults, keys};
use crate::explain;

const GENERATED: &str =
    "<!-- Written by a test of testudo-policy from the tables in its sources: edit those. -->\n\n";

/// `docs/reference/configuration.md`: every key of `testudo.yaml`.
pub fn configuration() -> String {
    let mut out = String::from("# testudo.yaml\n\n");
    out.push_str(GENERATED);
    out.push_str(
        "`testudo schema > testudo.schema.json` gives editors the same. Paths are relative to the file that names \
         them and stay inside of the bundle. Unknown keys are errors; so are names that refer to nothing.\n",
    );
    let sections: [(&str, &Object); 21] = [
        ("The file", &ROOT),
        ("Included files (`include:`)", &INCLUDED),
        ("`control:`", &keys::CONTROL),
        ("`identity:`", &keys::IDENTITY),
        ("`gateway:`", &keys::GATEWAY),
        ("`gateway.tls[]`", &keys::CERTIFICATE),
        ("`gateway.routes[]`", &keys::ROUTE),
        ("`redirect:` of a route", &keys::REDIRECT),
        ("`cors:` of a route", &keys::CORS),
        ("`users:`", &keys::USERS),
        ("`users.jwt.NAME`", &keys::ISSUER),
        ("`roles:` of an issuer", &keys::ROLES),
        ("`services.NAME`", &keys::SERVICE_KEYS),
        ("`sidecar:` of a service", &keys::SIDECAR),
        ("`api:` of a service", &keys::API),
        ("`limits[]`", &keys::LIMIT),
        ("`match:` of a limit", &keys::LIMIT_MATCH),
        ("`watch:`", &keys::watch::WATCH),
        ("`watch.notify[]`", &keys::watch::NOTIFY),
        ("`watch.detectors`", &keys::watch::DETECTORS),
        ("The file of `users.api_keys`", &API_KEYS),
    ];
    for (title, object) in sections {
        section(&mut out, title, object);
    }
    section(&mut out, "`keys[]` of that file", &keys::API_KEY);
    for detector in keys::watch::DETECTORS.keys {
        if let Kind::Object(object) = detector.kind {
            let title = format!("`watch.detectors.{}`", detector.name);
            section(&mut out, &title, object);
        }
    }
    out
}

fn section(out: &mut String, title: &str, object: &Object) {
    let _ = write!(
        out,
        "\n## {title}\n\n| key | value | left out | |\n|---|---|---|---|\n"
    );
    for key in object.keys {
        let left_out = match (key.need, defaults::shown(object.title, key.name)) {
            (Need::Required, _) => "mandatory".to_owned(),
            (Need::Absent(_), _) => "not available yet".to_owned(),
            (Need::Optional, Some(default)) => format!("`{default}`"),
            (Need::Optional, None) => String::new(),
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {left_out} | {} |",
            key.name,
            value(key.kind).replace('|', "\\|"),
            key.doc.replace('|', "\\|")
        );
    }
}

fn value(kind: Kind) -> String {
    match kind {
        Kind::Text(text) => match text.examples {
            [] => text.title.to_owned(),
            examples => {
                let examples: Vec<String> = examples.iter().map(|e| format!("`{e}`")).collect();
                format!("{}: {}", text.title, examples.join(", "))
            }
        },
        Kind::List(item) => format!("list: {}", value(*item)),
        Kind::Map(name, item) => format!("{} to {}", name.title, value(*item)),
        Kind::Object(object) => format!("{} (below)", object.title),
        Kind::Integer(low, high) if low == high => format!("`{low}`"),
        Kind::Integer(low, high) => format!("{low} to {high}"),
        Kind::Word(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            words.join(", ")
        }
        Kind::Either(kinds) => {
            let kinds: Vec<String> = kinds
                .iter()
                .map(|kind| value(*kind))
                .filter(|text| !text.is_empty())
                .collect();
            kinds.join("; or ")
        }
        Kind::Bool | Kind::Null | Kind::Any | Kind::Later(_) => words(kind),
    }
}

/// `docs/reference/codes.md`: every diagnostic, reason and metric.
pub fn codes() -> String {
    let mut out = String::from("# Diagnostics, reasons and metrics\n\n");
    out.push_str(GENERATED);
    out.push_str("`testudo explain CODE` prints the same.\n");
    for explanation in explain::all() {
        let text = explanation.text().replace("\n## ", "\n### ");
        let text = text.strip_prefix("# ").unwrap_or(&text);
        let _ = write!(out, "\n## {text}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `TESTUDO_UPDATE_DOCS=1 cargo test -p testudo-policy reference` writes them anew.
    #[test]
    fn the_reference_is_up_to_date() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
        for (name, text) in [("configuration.md", configuration()), ("codes.md", codes())] {
            let path = folder.join(name);
            if std::env::var_os("TESTUDO_UPDATE_DOCS").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(written == text, "{} is out of date", path.display());
        }
    }
}
