//! The JSON Schema test suite through the whole path of an API: the schema stands in a file that an
//! OpenAPI document refers to, each instance is sent as a body. Draft 2020-12 is OpenAPI 3.1, draft 4
//! is what 3.0 builds on. Each difference is explained here, and each schema that is not supported
//! must be refused with an error. The corpus is outside the repository; `TESTUDO_CORPORA` names its folder.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testudo_guard::schema::{BodyRule, Values};
use testudo_model::Audience;
use testudo_policy::api::ApiModel;
use testudo_policy::bundle::{Bundle, BundleFile};
use testudo_policy::diagnostic::{Diagnostics, Severity};
use testudo_policy::openapi;

/// Schemas that are refused: a part of the message, and why.
const REFUSED: &[&str] = &[
    // Identifiers and anchors: OpenAPI documents refer by place (`#/components/schemas/…`, `file.yaml#/…`).
    "is not supported in schemas",
    "leads to nothing",
    "references by anchor are not supported",
    // Nothing is fetched, and the files of this corpus that are meant by URI are not in the bundle.
    "is on another host; nothing is fetched",
    "the bundle has no file",
    "leads out of the bundle",
];

/// The same for draft 4 alone: OpenAPI 3.0 has no lists of schemas under `items`.
const REFUSED_IN_DRAFT_4: &str = "a schema must be a mapping, not a list";

/// Files (or single tests) that are judged otherwise than the suite says, and why.
const DIFFERENT: &[&str] = &[
    // Formats are checked; to the suite they are annotations by default.
    "draft2020-12/format.json",
    // Integers beyond 64 bits are refused wherever a schema reads them.
    "draft2020-12/optional/bignum.json",
    "draft4/optional/bignum.json",
    // `dependencies` is no keyword of OpenAPI 3.0 or of 2020-12: a warning says that it is not enforced.
    "draft2020-12/optional/dependencies-compatibility.json",
    "draft4/dependencies.json",
    // 1.0 is an integer, as in all later drafts: to most applications it is the same number.
    "draft4/optional/zeroTerminatedFloats.json",
    // `ab--cd` looks like an A-label that it is not (RFC 5891 section 4.2.3.1).
    "draft4/optional/format/hostname.json: hostname with consecutive hyphens (RFC1123)",
];

#[derive(Default)]
struct Counts {
    agreed: usize,
    different: usize,
    refused: usize,
    failures: Vec<String>,
}

#[test]
fn drafts_2020_12_and_4() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let corpora = std::env::var_os("TESTUDO_CORPORA")
        .map_or_else(|| repository.join("../shared/corpora"), PathBuf::from);
    let suite = corpora.join("json-schema-test-suite/tests");
    if !suite.is_dir() {
        eprintln!("skipped: no corpora (set TESTUDO_CORPORA)");
        return;
    }
    let mut counts = Counts::default();
    for (draft, version) in [("draft2020-12", "3.1.0"), ("draft4", "3.0.3")] {
        for folder in ["", "optional/", "optional/format/"] {
            for file in json_files(&suite.join(draft).join(folder)) {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                let groups: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
                for group in groups.as_array().unwrap() {
                    judge(
                        &format!("{draft}/{folder}{name}"),
                        version,
                        group,
                        &mut counts,
                    );
                }
            }
        }
    }
    assert!(counts.failures.is_empty(), "{}", counts.failures.join("\n"));
    let Counts {
        agreed,
        different,
        refused,
        ..
    } = counts;
    assert_eq!((agreed, different, refused), (2_183, 37, 96));
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    files
}

fn judge(name: &str, version: &str, group: &Value, counts: &mut Counts) {
    let (api, diagnostics) = read(version, &group["schema"]);
    let about = &group["description"];
    let errors: Vec<&str> = diagnostics
        .list
        .iter()
        .filter(|known| known.severity == Severity::Error)
        .map(|known| known.message.as_str())
        .collect();
    if !errors.is_empty() {
        counts.refused += 1;
        let explained = errors.iter().all(|error| {
            REFUSED.iter().any(|part| error.contains(part))
                || (version == "3.0.3" && *error == REFUSED_IN_DRAFT_4)
        });
        if !explained {
            counts.failures.push(format!("{name}: {about}: {errors:?}"));
        }
        return;
    }
    let api = api.unwrap();
    for test in group["tests"].as_array().unwrap() {
        let body = serde_json::to_vec(&test["data"]).unwrap();
        let mut values = Values::default();
        let schema = &api.operations[0].schema;
        let result = schema.check_body(BodyRule::Json(0), &body, &mut values);
        if result.is_ok() == test["valid"].as_bool().unwrap() {
            counts.agreed += 1;
            continue;
        }
        counts.different += 1;
        let case = format!("{name}: {}", test["description"].as_str().unwrap());
        if !DIFFERENT
            .iter()
            .any(|known| *known == name || *known == case)
        {
            counts
                .failures
                .push(format!("{case} ({about}): {result:?}"));
        }
    }
}

fn read(version: &str, schema: &Value) -> (Option<ApiModel>, Diagnostics) {
    let body = json!({"content": {"application/json": {"schema": {"$ref": "schema.json"}}}});
    let document = json!({
        "openapi": version,
        "info": {"title": "suite", "version": "1"},
        "paths": {"/": {"post": {"requestBody": body, "responses": {}}}},
    });
    let mut bundle = Bundle::default();
    for (name, content) in [("api.json", &document), ("schema.json", schema)] {
        let file = BundleFile {
            content: serde_json::to_vec(content).unwrap().into(),
            audience: Audience::All,
        };
        bundle.files.insert(name.into(), file);
    }
    let mut diagnostics = Diagnostics::default();
    let api = openapi::read("api.json", &bundle, &"suite".into(), &mut diagnostics);
    (api, diagnostics)
}
