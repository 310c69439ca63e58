//! Who is contained is denied there and nowhere else, and nobody else is.

use testudo_model::Reason;

use super::fixture::*;
use crate::containment::{ContainedAction, ContainedKind, Containment, Containments};
use crate::modes::{ModeOverride, Modes};
use crate::outbound::{self, Sender};
use crate::pipeline::*;

fn entry(kind: ContainedKind, principal: &str, service: &str) -> Containment {
    Containment {
        id: Arc::from("ctn-1"),
        kind,
        principal: Arc::from(principal),
        service: Arc::from(service),
        operation: None,
        action: ContainedAction::Deny,
        until: NOW + 1,
        reason: Arc::from("walks order numbers"),
    }
}

fn user(principal: &str, operation: &str) -> Containment {
    Containment {
        operation: Some(Arc::from(operation)),
        ..entry(ContainedKind::User, principal, "orders")
    }
}

fn contain(mesh: &Mesh, entries: impl IntoIterator<Item = Containment>) {
    let (set, _) = Containments::new(entries, &Containments::default());
    mesh.live.containments.store(Arc::new(set));
}

fn reason<T>(outcome: Result<T, Denial>) -> Option<Reason> {
    outcome.err().map(|denial| denial.reason)
}

/// What a customer with this key gets for this at the edge.
fn get(mesh: &mut Mesh, key: &str, target: &str) -> Option<Reason> {
    let headers = [("x-api-key", key)];
    reason(mesh.edge(&mut request("GET", target, &headers), ""))
}

#[test]
fn a_user_is_contained_on_one_operation() {
    let mut mesh = Setup::gateway().mesh();
    let alice = mesh.key("alice");
    contain(&mesh, [user("key:alice", "orders:getOrder")]);
    let order = "/orders/17?owner=alice";
    assert_eq!(get(&mut mesh, &alice, order), Some(Reason::Contained));
    let check = mesh.record.checks.last().unwrap().clone();
    assert_eq!(check.name, "contained");
    assert_eq!(check.detail, "ctn-1: walks order numbers");
    assert_eq!(mesh.record.user.as_deref(), Some("key:alice"));
    assert!(
        !mesh.checks().iter().any(|check| check.starts_with("user")),
        "nothing more is asked"
    );
    assert_eq!(get(&mut mesh, &alice, "/orders"), None);
    // Somebody who is not contained, and one who only claims to be her.
    let bob = mesh.key("bob");
    assert_eq!(get(&mut mesh, &bob, order), Some(Reason::AuthzUser));
    assert_eq!(
        get(&mut mesh, "tdk_alice_forged", order),
        Some(Reason::AuthnInvalid)
    );
    contain(&mesh, []);
    assert_eq!(get(&mut mesh, &alice, order), None);
}

#[test]
fn it_ends_by_itself() {
    let mut mesh = Setup::gateway().mesh();
    let alice = mesh.key("alice");
    let ended = Containment {
        until: NOW,
        ..user("key:alice", "orders:listOrders")
    };
    contain(&mesh, [ended]);
    assert_eq!(get(&mut mesh, &alice, "/orders"), None);
}

#[test]
fn a_throttle_lets_its_rate_pass_and_says_when_to_come_back() {
    let mut mesh = Setup::gateway().mesh();
    let alice = mesh.key("alice");
    let throttled = Containment {
        action: ContainedAction::Throttle(0.1),
        ..user("key:alice", "orders:listOrders")
    };
    contain(&mesh, [throttled]);
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        let headers = [("x-api-key", alice.as_str())];
        outcomes.push(mesh.edge(&mut request("GET", "/orders", &headers), ""));
    }
    let denied: Vec<Denial> = outcomes.into_iter().filter_map(Result::err).collect();
    assert_eq!(denied.len(), 2);
    assert_eq!(denied[0].reason, Reason::Contained);
    assert_eq!(denied[0].status, StatusCode::FORBIDDEN);
    assert_eq!(denied[0].headers["retry-after"], "10");
    assert!(denied[0].detail.contains("throttled to 0.1/s"));
}

#[test]
fn anonymous_users_and_gateways_are_never_contained() {
    let all = || {
        [
            entry(ContainedKind::User, "anonymous", "orders"),
            entry(ContainedKind::Service, "gateway", "orders"),
            entry(ContainedKind::Service, "control", "orders"),
        ]
    };
    let mut mesh = Setup::gateway().mesh();
    contain(&mesh, all());
    assert!(mesh.live.containments.get().is_none());
    let mut head = request("GET", "/health", &[]);
    assert_eq!(reason(mesh.edge(&mut head, "")), None);
    let mut mesh = Setup::sidecar().mesh();
    contain(&mesh, all());
    let token = mesh.token("alice");
    let mut head = request("GET", "/orders", &[("txn-token", &token)]);
    assert_eq!(
        reason(mesh.request(&workload("gateway"), &mut head, "")),
        None
    );
}

#[test]
fn an_edge_and_a_user_inside_the_mesh() {
    let mut mesh = Setup::sidecar().mesh();
    let token = mesh.token("alice");
    let ask = |mesh: &mut Mesh, caller: &str, target: &str| {
        let mut head = request("GET", target, &[("txn-token", &token)]);
        reason(mesh.request(&workload(caller), &mut head, ""))
    };
    let storefront = "service/storefront";
    contain(
        &mesh,
        [entry(ContainedKind::Service, "storefront", "orders")],
    );
    assert_eq!(
        ask(&mut mesh, storefront, "/orders"),
        Some(Reason::Contained)
    );
    assert!(mesh.record.user.is_none(), "before the token is looked at");
    assert_eq!(
        ask(&mut mesh, storefront, "/healthz"),
        Some(Reason::Contained),
        "the whole edge"
    );
    assert_eq!(ask(&mut mesh, "gateway", "/orders"), None);
    let operation = Some(Arc::from("orders:listOrders"));
    contain(
        &mesh,
        [Containment {
            operation,
            ..entry(ContainedKind::Service, "storefront", "orders")
        }],
    );
    assert_eq!(
        ask(&mut mesh, storefront, "/orders"),
        Some(Reason::Contained)
    );
    assert_eq!(ask(&mut mesh, storefront, "/health"), None);
    // The user, whoever calls for her.
    contain(&mesh, [user("key:alice", "orders:listOrders")]);
    for caller in [storefront, "gateway"] {
        assert_eq!(ask(&mut mesh, caller, "/orders"), Some(Reason::Contained));
        assert_eq!(ask(&mut mesh, caller, "/health"), None);
    }
}

#[test]
fn a_contained_service_does_not_leave_its_own_sidecar() {
    let send = |mesh: &mut Mesh| {
        mesh.record = Record::default();
        let mut head = request("GET", "http://payments.mesh/charge", &[]);
        head.headers
            .insert("host", http::HeaderValue::from_static("payments.mesh"));
        let sender = Sender::Application;
        let record = &mut mesh.record;
        reason(outbound::check(
            &mesh.snapshot,
            &mesh.live,
            sender,
            &mut head,
            record,
            now(),
        ))
    };
    for (mode, expected) in [
        (Mode::Enforce, Some(Reason::Contained)),
        (Mode::Report, None),
    ] {
        let mut mesh = Setup {
            mode,
            ..Setup::sidecar()
        }
        .mesh();
        contain(&mesh, [entry(ContainedKind::Service, "orders", "catalog")]);
        assert_eq!(send(&mut mesh), None, "another edge");
        contain(&mesh, [entry(ContainedKind::User, "orders", "payments")]);
        assert_eq!(send(&mut mesh), None, "a user of that name");
        contain(&mesh, [entry(ContainedKind::Service, "orders", "payments")]);
        assert_eq!(send(&mut mesh), expected);
    }
}

#[test]
fn report_and_observe_write_it_down() {
    for mode in [Mode::Report, Mode::Observe] {
        let mut mesh = Setup {
            mode,
            ..Setup::gateway()
        }
        .mesh();
        let alice = mesh.key("alice");
        contain(&mesh, [user("key:alice", "orders:listOrders")]);
        assert_eq!(get(&mut mesh, &alice, "/orders"), None);
        let findings = &mesh.record.findings;
        assert!(findings.iter().any(|finding| finding.code == "contained"));
        let reported = (mode == Mode::Report).then_some(Reason::Contained);
        assert_eq!(mesh.record.reason, reported);
    }
}

#[test]
fn a_mode_that_is_set_for_a_while_holds_instead_of_the_bundles() {
    let set = |mesh: &Mesh, mode, until| {
        let entry = ModeOverride::until(mode, until, now());
        let modes = Modes::new([(Arc::from("orders"), entry)]);
        mesh.live.modes.store(Arc::new(modes));
    };
    let mut mesh = Setup::gateway().mesh();
    let bob = mesh.key("bob");
    let denied = Some(Reason::AuthzUser);
    assert_eq!(get(&mut mesh, &bob, "/orders"), denied);
    set(&mesh, Mode::Report, NOW + 1);
    assert_eq!(get(&mut mesh, &bob, "/orders"), None);
    assert_eq!(
        (mesh.record.mode, mesh.record.reason),
        (Mode::Report, denied)
    );
    set(&mesh, Mode::Report, NOW);
    assert_eq!(get(&mut mesh, &bob, "/orders"), denied, "it has ended");
    // It can tighten, too.
    let mut mesh = Setup {
        mode: Mode::Report,
        ..Setup::gateway()
    }
    .mesh();
    let bob = mesh.key("bob");
    set(&mesh, Mode::Enforce, NOW + 1);
    assert_eq!(get(&mut mesh, &bob, "/orders"), denied);
}
