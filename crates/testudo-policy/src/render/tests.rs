use std::collections::BTreeMap;

use super::*;
use crate::diagnostic::{Diagnostics, Fix, Span};

fn report(run: impl Fn(Report<'_>)) {
    let long = format!("key: {}wrong{}\n", "x".repeat(120), "y".repeat(120));
    let files = [
        (
            "testudo.yaml",
            "limits:\n  - match: {service: orders, path: /order}\n  - {secret: hunter2}\n",
        ),
        (
            "policies/customers.cedar",
            "when { context.params.customerID == principal.id };\n",
        ),
        ("policies/long.cedar", &long),
    ];
    let mut files: BTreeMap<String, Vec<u8>> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect();
    files.insert("policies/esc.cedar".to_owned(), b"a \x1b[31mred b".to_vec());
    let bundle = Bundle::from_files(files).unwrap();
    let mut found = Diagnostics::default();
    let span = |file: &str, line, column, length| Span {
        file: file.into(),
        line,
        column,
        length,
    };
    let at = span("policies/customers.cedar", 1, 23, 10);
    let hint = "customerId (path, string; apis/orders.yaml:38)".to_owned();
    found.error(
        "policy.type",
        &at,
        "orders:getOrder has no parameter customerID",
        hint,
    );
    found.list.last_mut().unwrap().fix = Some(Fix {
        span: at,
        replacement: "customerId".to_owned(),
    });
    let at = span("testudo.yaml", 2, 36, 6);
    let hint = "/orders matches 4: listOrders createOrder getOrder cancelOrder".to_owned();
    found.error("limit.never", &at, "matches 0 of 6 operations", hint);
    let at = span("policies/long.cedar", 1, 126, 5);
    found.warning("policy.unconstrained", &at, "a message that is so long that it cannot possibly fit on the right of the mark and has to be wrapped over several lines", None);
    let at = span("policies/esc.cedar", 1, 10, 1);
    found.warning("policy.never", &at, "never \u{1b}[0m applies", None);
    found.warning(
        "secret.inline",
        &span("testudo.yaml", 3, 14, 7),
        "a secret stands in the bundle",
        None,
    );
    // Something else is wrong on the line of the secret.
    found.error(
        "key.unknown",
        &span("testudo.yaml", 3, 6, 6),
        "secret is not a key",
        None,
    );
    found.error(
        "file.missing",
        &span("gone.yaml", 1, 1, 1),
        "there is no file gone.yaml",
        "first line\nsecond line".to_owned(),
    );
    let counts = Counts {
        services: 4,
        operations: 21,
        policies: 1,
        limits: 3,
        milliseconds: 41,
    };
    run(Report {
        diagnostics: &found.list,
        bundle: &bundle,
        counts,
    });
}

#[test]
fn people_see_the_line_the_place_and_the_fix() {
    report(|report| {
        let text = human(report, Style::default());
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'));
        assert!(!text.contains("hunter2"));
        insta::assert_snapshot!(text);
        let coloured = human(
            report,
            Style {
                colour: true,
                columns: 100,
            },
        );
        assert!(coloured.contains("\u{1b}[31m✗\u{1b}[0m"));
    });
}

#[test]
fn nothing_wrong_says_what_is_next() {
    report(|report| {
        let report = Report {
            diagnostics: &[],
            ..report
        };
        insta::assert_snapshot!(human(report, Style::default()), @r"
        0 errors, 0 warnings   4 services  21 operations  1 policy  3 limits  41 ms
        can be applied     next: testudo up
        ");
    });
}

#[test]
fn programs_get_the_contract() {
    report(|report| {
        let json = json(report);
        assert_eq!(json["ok"], false);
        assert_eq!(
            json["diagnostics"][0],
            serde_json::json!({
                "severity": "error", "code": "policy.type",
                "message": "orders:getOrder has no parameter customerID",
                "file": "policies/customers.cedar", "line": 1, "column": 23,
                "hint": "customerId (path, string; apis/orders.yaml:38)",
            })
        );
        assert_eq!(json["diagnostics"][2]["hint"], Value::Null);
    });
}

#[test]
fn code_scanning_gets_regions_rules_and_fixes() {
    report(|report| {
        let sarif = sarif(report);
        let run = &sarif["runs"][0];
        let results = run["results"].as_array().unwrap();
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[index]["id"], result["ruleId"]);
        }
        insta::assert_json_snapshot!(results[0]);
    });
}

#[test]
fn pull_requests_get_escaped_commands() {
    report(|report| insta::assert_snapshot!(github(report)));
}
