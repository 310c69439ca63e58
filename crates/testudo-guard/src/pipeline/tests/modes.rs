//! Report and observe: what is written down instead of denied, and what is refused all the same.

use testudo_model::Reason;

use super::fixture::*;
use crate::limit::LimitKey;
use crate::pipeline::*;
use crate::schema::{Strictness, Undocumented};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Reason, method, target, credential or `-`, content type and body or nothing.
const REPORTED: &str = r#"
route.undocumented   GET     /nowhere                 -
route.method         DELETE  /orders                  -
authn.missing        GET     /orders                  -
authn.invalid        GET     /orders                  nonsense
authz.user           GET     /orders/17?owner=x       alice
schema.params        GET     /orders?limit=x          alice
request.malformed    GET     /orders?limit=1&limit=2  alice
schema.content_type  POST    /orders                  alice  text/plain        x
schema.body          POST    /orders                  alice  application/json  {}
"#;

#[test]
fn report_lets_pass_what_policy_would_deny() {
    let mut mesh = Setup {
        mode: Mode::Report,
        ..Setup::gateway()
    }
    .mesh();
    let alice = mesh.key("alice");
    for line in REPORTED.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let key = match words[3] {
            "-" => None,
            "alice" => Some(("x-api-key", alice.as_str())),
            other => Some(("x-api-key", other)),
        };
        let kind = words.get(4).map(|kind| ("content-type", *kind));
        let headers: Vec<_> = key.into_iter().chain(kind).collect();
        let body = words.get(5).unwrap_or(&"");
        let outcome = mesh.edge(&mut request(words[1], words[2], &headers), body);
        assert!(outcome.is_ok(), "{line}");
        assert_eq!(mesh.record.reason, Reason::from_code(words[0]), "{line}");
        assert_eq!(mesh.record.mode, Mode::Report);
        let findings = &mesh.record.findings;
        assert!(findings.iter().any(|finding| finding.code == words[0]));
        assert!(mesh.checks().iter().any(|check| check.ends_with('-')));
    }
}

#[test]
fn report_counts_what_it_lets_pass() {
    let limits = vec![limit("all", LimitKey::All, 1)];
    let mut mesh = Setup {
        mode: Mode::Report,
        limits,
        ..Setup::gateway()
    }
    .mesh();
    mesh.edge(&mut request("GET", "/health", &[]), "").unwrap();
    assert_eq!(mesh.record.reason, None);
    // The first reason is the one that would have denied.
    mesh.edge(&mut request("GET", "/orders", &[]), "").unwrap();
    assert_eq!(mesh.record.reason, Some(Reason::LimitExceeded));
    assert_eq!(mesh.record.policy, Some(line("testudo.yaml", 40)));
}

#[test]
fn what_is_not_safe_to_forward_is_refused_in_every_mode() {
    for mode in [Mode::Report, Mode::Observe] {
        let mut mesh = Setup {
            mode,
            ..Setup::gateway()
        }
        .mesh();
        for uri in ["/orders/..;/x", "/a%2fb", "/nowhere;a"] {
            let denial = mesh.edge(&mut request("GET", uri, &[]), "").err().unwrap();
            assert_eq!(denial.reason, Reason::RequestMalformed, "{uri}");
        }
    }
    let mut mesh = Setup {
        mode: Mode::Report,
        ..Setup::gateway()
    }
    .mesh();
    let body = "x".repeat(65);
    let denial = mesh
        .edge(&mut request("POST", "/orders", &[JSON]), &body)
        .err()
        .unwrap();
    assert_eq!(denial.reason, Reason::RequestTooLarge);
}

#[test]
fn observe_decides_nothing() {
    let mut mesh = Setup {
        mode: Mode::Observe,
        limits: vec![limit("all", LimitKey::All, 1)],
        ..Setup::gateway()
    }
    .mesh();
    for _ in 0..3 {
        for uri in ["/orders?limit=x", "/nowhere", "/orders"] {
            let permit = mesh
                .edge(&mut request("GET", uri, &[("x-api-key", "nonsense")]), "")
                .unwrap();
            assert_eq!(mesh.record.reason, None, "{uri}");
            assert_eq!(mesh.record.mode, Mode::Observe);
            assert!(permit.target().response_headers.is_empty());
        }
    }
    assert_eq!(mesh.record.operation.as_deref(), Some("orders:listOrders"));
    assert!(
        mesh.record
            .findings
            .iter()
            .any(|finding| finding.code == "authn.invalid")
    );
}

#[test]
fn a_mode_ends_when_the_bundle_says_so() {
    for (until, permitted) in [(NOW + 1, true), (NOW, false)] {
        let mut mesh = Setup {
            mode: Mode::Report,
            mode_until: Some(until),
            ..Setup::gateway()
        }
        .mesh();
        assert_eq!(
            mesh.edge(&mut request("GET", "/orders", &[]), "").is_ok(),
            permitted
        );
    }
}

#[test]
fn a_reported_specification_softens_the_schema_and_nothing_else() {
    for strictness in [Strictness::Report, Strictness::Off] {
        let mut mesh = Setup {
            requests: strictness,
            ..Setup::gateway()
        }
        .mesh();
        let alice = mesh.key("alice");
        let alice = ("x-api-key", alice.as_str());
        let reported = (strictness == Strictness::Report).then_some(Reason::SchemaParams);
        mesh.edge(&mut request("GET", "/orders?limit=x", &[alice]), "")
            .unwrap();
        assert_eq!(mesh.record.reason, reported);
        let reported = (strictness == Strictness::Report).then_some(Reason::SchemaBody);
        mesh.edge(
            &mut request("POST", "/orders", &[alice, JSON]),
            r#"{"item":"a","paid":1}"#,
        )
        .unwrap();
        assert_eq!(mesh.record.reason, reported);
        // A policy still reads the body, and two readings of a parameter are never let pass.
        let outcome = mesh.edge(
            &mut request("POST", "/orders", &[alice, JSON]),
            r#"{"item":"forbidden"}"#,
        );
        assert_eq!(outcome.err().unwrap().reason, Reason::AuthzUser);
        let outcome = mesh.edge(&mut request("GET", "/orders?limit=1&limit=2", &[alice]), "");
        assert_eq!(outcome.err().unwrap().reason, Reason::RequestMalformed);
        // A value that a policy needs and that is not there denies.
        let outcome = mesh.edge(&mut request("GET", "/fragile?limit=x", &[alice]), "");
        assert!(outcome.is_err());
    }
    let mut mesh = Setup {
        undocumented: Undocumented::Report,
        ..Setup::gateway()
    }
    .mesh();
    let alice = mesh.key("alice");
    let outcome = mesh.edge(
        &mut request("GET", "/nowhere", &[("x-api-key", &alice)]),
        "",
    );
    assert_eq!(outcome.err().unwrap().reason, Reason::AuthzUser);
    assert!(
        mesh.record
            .findings
            .iter()
            .any(|finding| finding.code == "route.undocumented")
    );
}

#[test]
fn reported_responses_reach_the_client() {
    let mut mesh = Setup {
        responses: Strictness::Report,
        ..Setup::gateway()
    }
    .mesh();
    let alice = mesh.key("alice");
    let mut head = request("GET", "/orders/17?owner=alice", &[("x-api-key", &alice)]);
    let target = mesh.edge(&mut head, "").unwrap().into_target();
    let mut headers = HeaderMap::new();
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    target
        .check_response(StatusCode::OK, &headers, Some(b"{}"), &mut mesh.record)
        .unwrap();
    assert_eq!(mesh.record.reason, Some(Reason::SchemaResponse));
}
