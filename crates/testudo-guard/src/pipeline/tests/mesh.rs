//! At a sidecar's inbound port.

use std::collections::BTreeSet;
use std::net::IpAddr;

use testudo_model::{Finding, Reason};

use super::fixture::*;
use crate::authn::{Revocation, RevocationKind, Revocations};
use crate::limit::LimitKey;
use crate::peer::Peer;
use crate::pipeline::*;
use crate::snapshot::{ActsAlone, UserRule};

const TRACE: (&str, &str) = (
    "traceparent",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
);
const GATEWAY: &str = "gateway";
const STOREFRONT: &str = "service/storefront";

fn reason(outcome: Result<Permit, Denial>) -> Option<Reason> {
    outcome.err().map(|denial| denial.reason)
}

/// Reason or `ok`, caller, target, user's token or `-`, and how checks must have ended.
const BOTH_QUESTIONS: &str = r#"
ok             gateway             /orders                 alice      user+ caller+
ok             service/storefront  /orders                 alice      user+ caller+
ok             service/storefront  /orders/17?owner=alice  alice      user+ caller+
ok             service/storefront  /health                 anonymous  user+ caller+
ok             service/storefront  /healthz                -
authn.missing  service/storefront  /orders                 -          user-
authn.missing  service/storefront  /orders                 anonymous  user-
authn.invalid  service/storefront  /orders                 forged     authn-
authz.user     service/payments    /orders/17?owner=bob    alice      user-
authz.caller   service/payments    /orders                 alice      user+ caller-
authz.caller   service/jobs        /orders/17?owner=alice  alice      user+ caller-
authz.caller   gateway             /fragile?limit=1        alice      user+ caller-
authz.caller   service/removed     /orders                 alice      user+ caller-
authz.caller   control             /orders                 alice      user+ caller-
"#;

#[test]
fn both_questions_are_asked_the_users_first() {
    let mut mesh = Setup::sidecar().mesh();
    for line in BOTH_QUESTIONS.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let token = match words[3] {
            "-" => None,
            "forged" => Some(String::from("forged")),
            user => Some(mesh.token(user)),
        };
        let headers: Vec<_> = token
            .iter()
            .map(|token| ("txn-token", token.as_str()))
            .collect();
        let outcome = mesh.request(
            &workload(words[1]),
            &mut request("GET", words[2], &headers),
            "",
        );
        assert_eq!(reason(outcome), Reason::from_code(words[0]), "{line}");
        let found = mesh.checks();
        for check in &words[4..] {
            assert!(
                found.iter().any(|found| found == check),
                "{line}: {found:?}"
            );
        }
    }
}

#[test]
fn the_record_knows_who_called_for_whom_and_by_which_line() {
    let mut mesh = Setup::sidecar().mesh();
    let alice = mesh.token("alice");
    let mut head = request("GET", "/orders", &[("txn-token", &alice), TRACE]);
    mesh.request(&workload(STOREFRONT), &mut head, "").unwrap();
    assert_eq!(mesh.record.caller.as_deref(), Some("storefront"));
    assert_eq!(mesh.record.user.as_deref(), Some("key:alice"));
    assert_eq!(mesh.record.source_ip, Some(IpAddr::from([192, 0, 2, 9])));
    assert_eq!(mesh.record.policy, Some(line("policies/all.cedar", 2)));
    assert_eq!(
        mesh.checks(),
        [
            "normalize+",
            "mtls+",
            "operation+",
            "authn+",
            "user+",
            "caller+",
            "schema+",
        ]
    );
    // The application forwards the token itself, or only the trace.
    assert_eq!(head.headers["txn-token"], alice);
    assert!(mesh.live.token_book.knows(&alice, now()));
    assert_eq!(
        mesh.live
            .token_book
            .reattach(&TRACE.1[3..35], now())
            .as_deref(),
        Some(&*alice)
    );
}

#[test]
fn only_living_identities_of_the_mesh_are_served() {
    let mut mesh = Setup::sidecar().mesh();
    let nobody = Peer::Client {
        address: IpAddr::from([127, 0, 0, 1]),
        tls: false,
        server_name: None,
    };
    assert_eq!(
        reason(mesh.request(&nobody, &mut request("GET", "/healthz", &[]), "")),
        Some(Reason::AuthzCaller)
    );
    let mut expired = workload(STOREFRONT);
    if let Peer::Workload { not_after, .. } = &mut expired {
        *not_after = NOW;
    }
    assert_eq!(
        reason(mesh.request(&expired, &mut request("GET", "/healthz", &[]), "")),
        Some(Reason::AuthzCaller)
    );
    for value in ["spiffe://shop.test/service/storefront", "0a1b"] {
        mesh.live
            .revocations
            .store(Arc::new(Revocations::new([Revocation {
                kind: RevocationKind::Workload,
                value: Arc::from(value),
            }])));
        let outcome = mesh.request(
            &workload(STOREFRONT),
            &mut request("GET", "/healthz", &[]),
            "",
        );
        assert_eq!(reason(outcome), Some(Reason::AuthzCaller), "{value}");
    }
}

#[test]
fn without_a_route_the_gateway_may_not_call() {
    let mut mesh = Setup {
        routed: false,
        ..Setup::sidecar()
    }
    .mesh();
    let alice = mesh.token("alice");
    let outcome = mesh.request(
        &workload(GATEWAY),
        &mut request("GET", "/orders", &[("txn-token", &alice)]),
        "",
    );
    assert_eq!(reason(outcome), Some(Reason::AuthzCaller));
}

#[test]
fn user_rules_say_whose_question_is_asked() {
    for (rule, token, expected) in [
        (UserRule::Authorize, "", Some(Reason::AuthnMissing)),
        (UserRule::Require, "", Some(Reason::AuthnMissing)),
        (UserRule::Require, "anonymous", None),
        (UserRule::Optional, "", None),
        (UserRule::Optional, "anonymous", None),
        (UserRule::Ignore, "", None),
    ] {
        let mut mesh = Setup {
            user: rule,
            ..Setup::sidecar()
        }
        .mesh();
        let token = if token.is_empty() {
            String::new()
        } else {
            mesh.token(token)
        };
        let headers: Vec<_> = (!token.is_empty())
            .then_some(("txn-token", token.as_str()))
            .into_iter()
            .collect();
        let outcome = mesh.request(
            &workload(STOREFRONT),
            &mut request("GET", "/orders", &headers),
            "",
        );
        assert_eq!(reason(outcome), expected, "{rule:?}");
    }
    let mut mesh = Setup {
        user: UserRule::Optional,
        ..Setup::sidecar()
    }
    .mesh();
    let alice = mesh.token("alice");
    let others = request("GET", "/orders/17?owner=bob", &[("txn-token", &alice)]);
    let outcome = mesh.request(&workload(STOREFRONT), &mut others.clone(), "");
    assert_eq!(reason(outcome), Some(Reason::AuthzUser));
    let mut mesh = Setup {
        user: UserRule::Ignore,
        ..Setup::sidecar()
    }
    .mesh();
    let outcome = mesh.request(&workload(STOREFRONT), &mut others.clone(), "");
    assert_eq!(reason(outcome), None);
    let mut mesh = Setup {
        users: false,
        ..Setup::sidecar()
    }
    .mesh();
    let outcome = mesh.request(&workload("service/payments"), &mut others.clone(), "");
    assert_eq!(reason(outcome), Some(Reason::AuthzCaller));
}

#[test]
fn tokens_travel_through_a_service_that_ignores_users() {
    for (users, rule, real, kept) in [
        (true, UserRule::Ignore, true, true),
        (true, UserRule::Ignore, false, false),
        (false, UserRule::Authorize, true, false),
    ] {
        let mut mesh = Setup {
            users,
            user: rule,
            ..Setup::sidecar()
        }
        .mesh();
        let token = if real {
            mesh.token("alice")
        } else {
            String::from("forged")
        };
        let mut head = request("GET", "/orders", &[("txn-token", &token)]);
        let permit = mesh.request(&workload(STOREFRONT), &mut head, "").unwrap();
        assert!(permit.target().user.is_none());
        assert_eq!(head.headers.contains_key("txn-token"), kept);
        assert_eq!(mesh.live.token_book.knows(&token, now()), kept);
    }
}

#[test]
fn a_job_acts_alone_only_where_it_may() {
    let list = Arc::from("orders:listOrders");
    for (acts_alone, expected) in [
        (ActsAlone::Never, Some(Reason::AuthnMissing)),
        (
            ActsAlone::Operations(BTreeSet::from([Arc::from("orders:getOrder")])),
            Some(Reason::AuthnMissing),
        ),
        (ActsAlone::Operations(BTreeSet::from([list])), None),
        (ActsAlone::Always, None),
    ] {
        let mut mesh = Setup {
            acts_alone,
            ..Setup::sidecar()
        }
        .mesh();
        let outcome = mesh.request(
            &workload("service/jobs"),
            &mut request("GET", "/orders", &[]),
            "",
        );
        assert_eq!(reason(outcome), expected);
        // The gateway never does.
        let outcome = mesh.request(&workload(GATEWAY), &mut request("GET", "/orders", &[]), "");
        assert_eq!(reason(outcome), Some(Reason::AuthnMissing));
        // Nor does it help against the caller question.
        let outcome = mesh.request(
            &workload("service/payments"),
            &mut request("GET", "/orders", &[]),
            "",
        );
        assert!(outcome.is_err());
    }
}

#[test]
fn a_sidecar_serves_its_own_service_whatever_host_says() {
    let mut mesh = Setup::sidecar().mesh();
    let alice = mesh.token("alice");
    let mut head = request("GET", "/orders", &[("txn-token", &alice)]);
    head.headers
        .insert("host", http::HeaderValue::from_static("payments.mesh"));
    let permit = mesh.request(&workload(STOREFRONT), &mut head, "").unwrap();
    assert_eq!(&*permit.target().service.name, "orders");
}

#[test]
fn limits_by_address_use_the_address_that_the_gateway_saw() {
    let mut mesh = Setup {
        limits: vec![limit("per-address", LimitKey::Address, 1)],
        ..Setup::sidecar()
    }
    .mesh();
    let alice = mesh.token("alice");
    let call = |mesh: &mut Mesh, caller: &str| {
        mesh.request(
            &workload(caller),
            &mut request("GET", "/orders", &[("txn-token", &alice)]),
            "",
        )
    };
    assert_eq!(reason(call(&mut mesh, STOREFRONT)), None);
    assert_eq!(
        reason(call(&mut mesh, GATEWAY)),
        Some(Reason::LimitExceeded)
    );
    // A forged token costs its user nothing.
    let outcome = mesh.request(
        &workload(STOREFRONT),
        &mut request("GET", "/orders", &[("txn-token", "x")]),
        "",
    );
    assert_eq!(reason(outcome), Some(Reason::AuthnInvalid));
}

#[test]
fn posing_is_written_down() {
    let mut mesh = Setup::sidecar().mesh();
    let alice = mesh.token("alice");
    let headers = [
        ("txn-token", alice.as_str()),
        ("x-testudo-user", "root"),
        ("x_testudo_user", "root"),
    ];
    mesh.request(
        &workload(STOREFRONT),
        &mut request("GET", "/orders", &headers),
        "",
    )
    .unwrap();
    let codes: Vec<_> = mesh
        .record
        .findings
        .iter()
        .map(|finding: &Finding| &*finding.code)
        .collect();
    assert_eq!(codes, ["header.underscore", "header.forged"]);
}
