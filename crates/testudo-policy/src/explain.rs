//! What a diagnostic, a reason or a metric means, what causes it and what to do: `testudo explain CODE`.
//!
//! Every code has an entry; a test finds those that have none.

mod diagnostics;
mod metrics;
mod reasons;

use crate::config::did_you_mean;

/// The text for one code.
#[derive(Debug)]
pub struct Explanation {
    /// The code: `limit.never`, `authz.user`, `testudo_decisions_total`.
    pub code: &'static str,
    /// One line.
    pub title: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What usually causes it.
    pub causes: &'static [&'static str],
    /// What to do.
    pub action: &'static str,
}

impl Explanation {
    /// As Markdown.
    pub fn text(&self) -> String {
        let mut text = format!("# {}\n\n{}.\n\n{}\n", self.code, self.title, self.meaning);
        if !self.causes.is_empty() {
            text.push_str("\n## Common causes\n\n");
            for cause in self.causes {
                text.push_str("- ");
                text.push_str(cause);
                text.push('\n');
            }
        }
        text.push_str("\n## What to do\n\n");
        text.push_str(self.action);
        text.push('\n');
        text
    }
}

/// All entries: diagnostics, reasons, metrics.
pub fn all() -> impl Iterator<Item = &'static Explanation> {
    diagnostics::ALL
        .iter()
        .chain(reasons::ALL)
        .chain(metrics::ALL)
}

/// The codes of diagnostics alone.
pub fn diagnostic_codes() -> impl Iterator<Item = &'static str> {
    diagnostics::ALL.iter().map(|explanation| explanation.code)
}

/// The entry of a code.
pub fn explain(code: &str) -> Option<&'static Explanation> {
    all().find(|explanation| explanation.code == code)
}

/// The code that somebody may have meant.
pub fn closest(code: &str) -> Option<&'static str> {
    let codes: Vec<&str> = all().map(|explanation| explanation.code).collect();
    did_you_mean(code, &codes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use testudo_model::Reason;

    use super::*;

    /// The codes in `error("…"`, `warning("…"` and `suggest("…"` of all sources of this crate.
    fn codes_in(folder: &Path, code: &regex::Regex, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                codes_in(&path, code, found);
                continue;
            }
            if path.extension().is_none_or(|e| e != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for capture in code.captures_iter(&text) {
                found.insert(capture[1].to_owned());
            }
        }
    }

    #[test]
    fn every_diagnostic_is_explained() {
        let mut found = BTreeSet::new();
        let code = regex::Regex::new(r#"[\s(]"([a-z]+\.[a-z_]+)",?\s"#).unwrap();
        codes_in(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &code,
            &mut found,
        );
        // Names of files and hosts look like codes.
        let codes: Vec<_> = found
            .iter()
            .filter(|code| {
                let (family, rest) = code.split_once('.').unwrap();
                ![
                    "yaml", "json", "cedar", "test", "rs", "pem", "key", "com", "sock", "txt",
                ]
                .contains(&rest)
                    && diagnostics::ALL
                        .iter()
                        .any(|e| e.code.starts_with(&format!("{family}.")))
            })
            .collect();
        assert!(codes.len() > 15, "{codes:?}");
        for code in codes {
            assert!(explain(code).is_some(), "{code} is not explained");
        }
    }

    #[test]
    fn every_reason_is_explained() {
        for reason in Reason::ALL {
            assert!(explain(reason.code()).is_some(), "{reason}");
        }
        assert_eq!(reasons::ALL.len(), Reason::ALL.len());
    }

    #[test]
    fn every_metric_of_the_design_is_explained() {
        for metric in [
            "testudo_decisions_total",
            "http_server_request_duration_seconds",
            "http_server_active_requests",
            "testudo_guard_duration_seconds",
            "testudo_events_dropped_total",
            "testudo_revision",
            "testudo_svid_expiry_seconds",
            "testudo_connections",
        ] {
            assert!(explain(metric).is_some(), "{metric}");
        }
    }

    /// Nothing sends people to a command that does not exist.
    #[test]
    fn commands_in_texts_exist() {
        let known = [
            "check", "explain", "up", "observe", "can", "identity", "proxy", "doctor", "schema",
            "why", "control", "watch", "mode", "policy", "audit",
        ];
        let command = regex::Regex::new(r"`testudo ([a-z-]+)").unwrap();
        for explanation in all() {
            let text = explanation.text();
            for capture in command.captures_iter(&text) {
                assert!(
                    known.contains(&&capture[1]),
                    "{}: {}",
                    explanation.code,
                    &capture[0]
                );
            }
        }
    }

    #[test]
    fn codes_are_unique_and_texts_whole() {
        let mut codes = BTreeSet::new();
        for explanation in all() {
            assert!(codes.insert(explanation.code), "{}", explanation.code);
            assert!(!explanation.title.ends_with('.'), "{}", explanation.code);
            for text in [explanation.meaning, explanation.action] {
                assert!(
                    text.ends_with(['.', ';', '`']),
                    "{}: {text}",
                    explanation.code
                );
            }
            assert!(explanation.text().len() > 100);
        }
        assert_eq!(closest("limit.nevr"), Some("limit.never"));
        assert_eq!(closest("completely different"), None);
    }
}
