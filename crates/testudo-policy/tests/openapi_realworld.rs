//! 105 OpenAPI documents of real APIs: each is read without an error, or what is wrong with it is
//! explained here. The corpus is outside the repository; `TESTUDO_CORPORA` names its folder.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use testudo_model::Audience;
use testudo_policy::api::ApiModel;
use testudo_policy::bundle::{Bundle, BundleFile};
use testudo_policy::diagnostic::{Diagnostics, Severity};
use testudo_policy::openapi;

/// Documents with errors, the code and a part of each distinct kind of message, and why it stays an error.
const EXPLAINED: &[(&str, &[(&str, &str)])] = &[
    // Fields stand where media types should: the bodies are described nowhere.
    ("biapi.pro", &[("openapi.invalid", "is no media type")]),
    // `{id}{mediaTypeExtension}`: where the first parameter ends cannot be told from a path.
    (
        "bufferapp.com",
        &[("openapi.invalid", "two parameters without anything")],
    ),
    (
        "healthcare.gov",
        &[("openapi.invalid", "two parameters without anything")],
    ),
    // Queries in paths (OpenAPI 3, Paths Object: a path is appended to the URL and has no query).
    ("flickr.com", &[("openapi.invalid", "cannot hold a query")]),
    ("icons8.com", &[("openapi.invalid", "cannot hold a query")]),
    // `type: array` with the enum of its items: no array is one of the strings.
    ("id4i.de", &[("openapi.invalid", "exclude each other")]),
    (
        "visagecloud.com",
        &[("openapi.invalid", "exclude each other")],
    ),
    // `type: string` with an enum of integers.
    ("probely.com", &[("openapi.invalid", "exclude each other")]),
    // `[^]…]` and the like: not regular expressions.
    (
        "ijenko.net",
        &[("openapi.unsupported", "no valid regular expression")],
    ),
    // Lists of lists or objects in the query: no style defines them.
    (
        "mastodon.local",
        &[("openapi.unsupported", "lists of lists or objects")],
    ),
    (
        "vocadb.net",
        &[("openapi.unsupported", "lists of lists or objects")],
    ),
    // `^(?!\s)(.*)(\S)$`: look-ahead needs a backtracking matcher, which a client could stall.
    (
        "openbanking.org.uk__payment-initiation-openapi",
        &[("openapi.unsupported", "look-around")],
    ),
    // Two templates that match the same requests with the same method.
    (
        "reverb.com",
        &[("openapi.invalid", "matches the same requests")],
    ),
];

fn corpora() -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = std::env::var_os("TESTUDO_CORPORA")
        .map_or_else(|| repository.join("../shared/corpora"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

fn read(content: Vec<u8>) -> (Option<ApiModel>, Diagnostics) {
    let mut bundle = Bundle::default();
    bundle.files.insert(
        "api.yaml".into(),
        BundleFile {
            content: content.into(),
            audience: Audience::All,
        },
    );
    let mut diagnostics = Diagnostics::default();
    let api = openapi::read("api.yaml", &bundle, &"service".into(), &mut diagnostics);
    (api, diagnostics)
}

#[test]
fn documents_of_real_apis() {
    let Some(corpora) = corpora() else {
        eprintln!("skipped: no corpora (set TESTUDO_CORPORA)");
        return;
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(corpora.join("openapi-realworld/specs"))
        .expect("the corpus has specs")
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert_eq!(paths.len(), 105);
    let mut failures = Vec::new();
    let mut operations = 0;
    for path in paths {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let name = file.trim_end_matches(".json.gz");
        let output = Command::new("gzip").arg("-dc").arg(&path).output();
        let output = output.expect("gzip unpacks the corpus");
        assert!(output.status.success(), "{file}");
        let (api, diagnostics) = read(output.stdout);
        operations += api.map_or(0, |api| api.operations.len());
        let expected = EXPLAINED.iter().find(|(known, _)| *known == name);
        let expected = expected.map_or(&[][..], |(_, list)| *list);
        let mut seen = BTreeSet::new();
        for error in &diagnostics.list {
            if error.severity != Severity::Error {
                continue;
            }
            assert!(error.span.line > 0 && error.span.column > 0);
            match expected
                .iter()
                .position(|(code, part)| *code == error.code && error.message.contains(part))
            {
                Some(index) => {
                    seen.insert(index);
                }
                None => failures.push(format!("{name}: {} {}", error.code, error.message)),
            }
        }
        if seen.len() != expected.len() {
            failures.push(format!("{name}: no longer wrong as explained"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Of 4,536, two of them behind references; the rest is in the broken paths above.
    assert_eq!(operations, 4_496);
}

#[test]
fn a_deliberately_vulnerable_api() {
    let Some(corpora) = corpora() else {
        eprintln!("skipped: no corpora (set TESTUDO_CORPORA)");
        return;
    };
    let content = std::fs::read(corpora.join("vampi/openapi_specs/openapi3.yml")).unwrap();
    let (api, diagnostics) = read(content);
    let errors: Vec<_> = diagnostics
        .list
        .iter()
        .filter(|known| known.severity == Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let api = api.unwrap();
    assert_eq!(api.operations.len(), 14);
    let update = api
        .operations
        .iter()
        .find(|known| *known.template == *"/users/v1/{username}/email")
        .unwrap();
    assert_eq!(update.method, http::Method::PUT);
    assert_eq!(update.params.len(), 1);
    let fields: Vec<_> = update.body.iter().map(|field| &*field.name).collect();
    assert_eq!(fields, ["email"]);
}
