//! Whatever somebody does to a bundle, `check`, `compile` and every output end in diagnostics, never in a panic.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use testudo_guard::snapshot::Role;
use testudo_policy::bundle::{Bundle, load};
use testudo_policy::check::{CheckOptions, check};
use testudo_policy::compile::compile;
use testudo_policy::{fix, render};

fn shop() -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let bundle = load(&dir).unwrap();
    let files = bundle.files.into_iter();
    files
        .map(|(path, file)| (path, file.content.to_vec()))
        .collect()
}

/// What a change does to one file.
#[derive(Clone, Debug)]
enum Change {
    /// A line is put somewhere else.
    MoveLine(usize, usize),
    /// A line is removed.
    DropLine(usize),
    /// A stretch of bytes becomes something else.
    Replace(usize, usize, Vec<u8>),
    /// The rest of the file is lost.
    Cut(usize),
    /// The file is lost.
    Remove,
}

fn change() -> impl Strategy<Value = Change> {
    let piece = prop_oneof![
        "[a-z0-9:{}\\[\\],.$/\" \\n-]{0,12}".prop_map(String::into_bytes),
        prop::sample::select(vec![
            "null",
            "[]",
            "{}",
            "-1",
            "99999999999999999999",
            "&a [*a]",
            "*x",
            "\u{202e}",
            "\t",
            "'",
            "orders:",
            "unix:",
            "http://",
            "${env:X}",
            "/{id}",
            "$ref: '#'",
            "\n\n",
            "é",
            "true",
            "0/s",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop_oneof![
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Change::MoveLine(a, b)),
        any::<usize>().prop_map(Change::DropLine),
        (any::<usize>(), 0..24_usize, piece).prop_map(|(at, n, by)| Change::Replace(at, n, by)),
        any::<usize>().prop_map(Change::Cut),
        Just(Change::Remove),
    ]
}

fn apply(files: &mut BTreeMap<String, Vec<u8>>, index: usize, change: &Change) {
    let Some(path) = files.keys().nth(index % files.len().max(1)).cloned() else {
        return;
    };
    let content = files.get_mut(&path).unwrap();
    let mut lines: Vec<Vec<u8>> = content
        .split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    match change {
        Change::MoveLine(from, to) if !lines.is_empty() => {
            let line = lines.remove(from % lines.len());
            lines.insert(to % (lines.len() + 1), line);
            *content = lines.concat();
        }
        Change::DropLine(at) if !lines.is_empty() => {
            lines.remove(at % lines.len());
            *content = lines.concat();
        }
        Change::Replace(at, length, by) if !content.is_empty() => {
            let start = at % content.len();
            let end = (start + length).min(content.len());
            content.splice(start..end, by.iter().copied());
        }
        Change::Cut(at) if !content.is_empty() => content.truncate(at % content.len()),
        Change::Remove if path != "testudo.yaml" => {
            files.remove(&path);
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_changed_bundle_never_panics(
        changes in prop::collection::vec((any::<usize>(), change()), 1..4),
        main_only in any::<bool>(),
    ) {
        let mut files = shop();
        let main = files.keys().position(|path| path == "testudo.yaml").unwrap();
        for (index, change) in &changes {
            let index = if main_only { main } else { *index };
            apply(&mut files, index, change);
        }
        let Ok(bundle) = Bundle::from_files(files) else {
            return Ok(());
        };
        let checked = check(&bundle, &CheckOptions { now: Some(1_800_000_000) });
        for diagnostic in &checked.diagnostics {
            prop_assert!(diagnostic.span.line >= 1 && diagnostic.span.column >= 1, "{diagnostic:?}");
            prop_assert!(!diagnostic.span.file.is_empty(), "{diagnostic:?}");
            prop_assert!(testudo_policy::explain::explain(diagnostic.code).is_some());
        }
        let report = checked.report(&bundle);
        render::human(report, render::Style::default());
        render::json(report);
        render::sarif(report);
        render::github(report);
        fix::apply(&bundle, &checked.diagnostics);
        // What `check` calls good can be compiled for everybody.
        let config = checked.config.as_ref();
        let mut roles: Vec<Role> = config
            .iter()
            .flat_map(|config| config.services.keys().cloned().map(Role::Sidecar))
            .collect();
        roles.extend(config.and_then(|config| config.gateway.as_ref()).map(|_| Role::Gateway));
        for role in roles {
            let compiled = compile(&bundle, 1, "", &role, Path::new("/base"));
            prop_assert!(compiled.is_ok() || !checked.is_ok(), "{:?}", compiled.err());
        }
    }
}
