//! The sample shop without its policies, in report mode, and what was seen there.

use std::path::Path;

use testudo_model::{Event, Reason};

use super::*;
use crate::bundle;

fn shop(policies: &[(&str, &str)]) -> Bundle {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let mut bundle = bundle::load(&dir).unwrap();
    bundle.files.retain(|path, _| !path.ends_with(".cedar"));
    for (path, text) in [("policies/start.cedar", "// nothing yet\n")]
        .iter()
        .chain(policies)
    {
        let file = BundleFile {
            content: text.as_bytes().into(),
            audience: testudo_model::Audience::All,
        };
        bundle.files.insert((*path).to_owned(), file);
    }
    bundle
}

/// A request as a proxy tells of it.
struct Seen {
    caller: Option<&'static str>,
    user: Option<&'static str>,
    roles: &'static [&'static str],
    operation: &'static str,
    path: &'static str,
    reason: Option<Reason>,
    denied: bool,
    status: u16,
}

const EDGE: Seen = Seen {
    caller: None,
    user: Some("shop:alice"),
    roles: &["customer"],
    operation: "orders:createOrder",
    path: "/orders",
    reason: Some(Reason::AuthzUser),
    denied: false,
    status: 200,
};

fn add(calls: &mut Calls, seen: &Seen, times: usize) {
    let time = Timestamp::from_second(1_764_000_000).unwrap();
    let event: Event = serde_json::from_value(serde_json::json!({
        "time": time, "request_id": "r", "trace_id": "", "proxy": "p", "revision": 1,
        "hop": if seen.caller.is_none() { "edge" } else { "mesh" },
        "caller": seen.caller, "user": seen.user, "roles": seen.roles, "source_ip": null,
        "service": seen.operation.split(':').next(), "operation": seen.operation,
        "method": "GET", "host": "", "path": seen.path, "status": seen.status,
        "verdict": if seen.denied { "deny" } else { "permit" }, "reason": seen.reason,
        "mode": "report", "policy": null, "findings": [], "bytes_in": 0, "bytes_out": 0,
        "duration_us": 0, "guard_us": 0,
    }))
    .unwrap();
    let template = match seen.operation {
        "orders:getOrder" => Some("/orders/{customerId}/{orderId}"),
        "orders:cancelOrder" => Some("/orders/{customerId}/{orderId}/cancel"),
        _ => None,
    };
    for _ in 0..times {
        calls.add(&event, template, time);
    }
}

/// An afternoon of honest people, and an attacker.
fn afternoon() -> Calls {
    let mut calls = Calls::default();
    for (user, path) in [
        ("shop:alice", "/orders/alice/7"),
        ("shop:bob", "/orders/bob/9"),
    ] {
        add(
            &mut calls,
            &Seen {
                user: Some(user),
                ..EDGE
            },
            4,
        );
        // The sidecar behind the route sees it again.
        add(
            &mut calls,
            &Seen {
                user: Some(user),
                caller: Some("gateway"),
                ..EDGE
            },
            4,
        );
        add(
            &mut calls,
            &Seen {
                user: Some(user),
                operation: "orders:getOrder",
                path,
                ..EDGE
            },
            10,
        );
    }
    // Customers look at products; so do people without a role.
    for operation in ["catalog:listProducts", "catalog:getProduct"] {
        add(&mut calls, &Seen { operation, ..EDGE }, 20);
    }
    add(
        &mut calls,
        &Seen {
            operation: "catalog:listProducts",
            roles: &[],
            user: Some("shop:carol"),
            ..EDGE
        },
        3,
    );
    // Anonymous ones look at the home page.
    add(
        &mut calls,
        &Seen {
            user: Some("anonymous"),
            roles: &[],
            operation: "storefront:home",
            reason: Some(Reason::AuthnMissing),
            ..EDGE
        },
        30,
    );
    add(
        &mut calls,
        &Seen {
            operation: "orders:listOrders",
            ..EDGE
        },
        6,
    );
    // Behind the scenes, for the customer.
    add(
        &mut calls,
        &Seen {
            caller: Some("orders"),
            operation: "payments:charge",
            ..EDGE
        },
        8,
    );
    // An administrator who is a customer too, once.
    add(
        &mut calls,
        &Seen {
            user: Some("shop:root"),
            roles: &["admin", "customer"],
            operation: "orders:refundOrder",
            ..EDGE
        },
        1,
    );
    attackers(&mut calls);
    calls
}

fn attackers(calls: &mut Calls) {
    // Forged tokens, a customer whom the application itself refuses, and one whom enforce stopped.
    add(
        calls,
        &Seen {
            user: None,
            roles: &[],
            operation: "orders:refundOrder",
            reason: Some(Reason::AuthnInvalid),
            ..EDGE
        },
        50,
    );
    add(
        calls,
        &Seen {
            user: Some("shop:mallory"),
            operation: "catalog:updateProduct",
            status: 403,
            ..EDGE
        },
        40,
    );
    add(
        calls,
        &Seen {
            user: Some("shop:mallory"),
            operation: "payments:getCharge",
            denied: true,
            ..EDGE
        },
        60,
    );
}

#[test]
fn an_afternoon_becomes_policies_with_their_evidence() {
    let learned = learn(&shop(&[]), &afternoon(), &LearnOptions::default()).unwrap();
    assert!(
        learned.checked.is_ok(),
        "{:?}\n{}",
        learned.checked.diagnostics,
        learned.text
    );
    insta::assert_snapshot!(learned.text);
}

#[test]
fn what_nobody_may_learn_from_is_left_out() {
    let learned = learn(&shop(&[]), &afternoon(), &LearnOptions::default()).unwrap();
    let policies: String = learned
        .text
        .lines()
        .filter(|line| !line.starts_with("//"))
        .collect();
    for attack in ["updateProduct", "getCharge", "Anonymous", "storefront"] {
        assert!(!policies.contains(attack), "{attack} in {policies}");
    }
    // Said by people, it is another matter.
    let options = LearnOptions {
        anonymous: vec!["storefront:home".into()],
        ..LearnOptions::default()
    };
    let learned = learn(&shop(&[]), &afternoon(), &options).unwrap();
    assert!(learned.checked.is_ok());
    let public = learned
        .permits
        .iter()
        .find(|permit| permit.principal == Principal::Anonymous);
    assert_eq!(public.unwrap().actions, ["storefront:home"]);
    assert!(
        learned.text.contains("ANYBODY, without a credential"),
        "{}",
        learned.text
    );
}

#[test]
fn what_an_attacker_made_a_service_do_is_not_learned_from_the_service() {
    let mut calls = afternoon();
    // Without a credential at the edge, and so behind it.
    let refund = Seen {
        user: Some("anonymous"),
        roles: &[],
        operation: "orders:refundOrder",
        reason: Some(Reason::AuthnInvalid),
        ..EDGE
    };
    add(&mut calls, &refund, 9);
    let behind = Seen {
        caller: Some("orders"),
        operation: "payments:refund",
        reason: Some(Reason::AuthnMissing),
        ..refund
    };
    add(&mut calls, &behind, 9);
    let learned = learn(&shop(&[]), &calls, &LearnOptions::default()).unwrap();
    let actions: Vec<_> = learned
        .permits
        .iter()
        .flat_map(|permit| &permit.actions)
        .collect();
    assert!(
        !actions.iter().any(|action| action.ends_with(":refund")),
        "{actions:?}"
    );
    assert!(
        learned
            .text
            .contains("service orders, payments:refund: 9 times, only for users who may not"),
        "{}",
        learned.text
    );
}

#[test]
fn policies_that_are_there_decide_and_are_not_repeated() {
    let theirs = r#"permit (principal in Role::"customer", action == Action::"orders:getOrder", resource)
when { context.params.customerId == principal.id };
permit (principal in Role::"customer", action in [Action::"orders:createOrder", Action::"orders:listOrders"], resource);
forbid (principal is User, action == Action::"orders:refundOrder", resource);
"#;
    let bundle = shop(&[
        ("policies/theirs.cedar", theirs),
        (
            "policies/learned.cedar",
            "permit (principal, action, resource);",
        ),
    ]);
    let options = LearnOptions {
        service: Some("orders".into()),
        ..LearnOptions::default()
    };
    let learned = learn(&bundle, &afternoon(), &options).unwrap();
    assert!(learned.checked.is_ok(), "{:?}", learned.checked.diagnostics);
    // Only what orders calls: what is called at orders is decided.
    let callers: Vec<_> = learned
        .permits
        .iter()
        .map(|permit| &permit.principal)
        .collect();
    let orders = Principal::Service("orders".into());
    assert!(callers.contains(&&orders), "{}", learned.text);
    let at_orders = learned
        .permits
        .iter()
        .filter(|permit| permit.service == "orders");
    assert_eq!(at_orders.count(), 0, "{}", learned.text);
    assert!(
        learned
            .text
            .contains("policies/theirs.cedar:1 decides by its conditions; 20 times")
    );
    assert!(learned.text.contains("policies/theirs.cedar:4 forbids it"));
    assert_eq!(learned.permitted_already, 2);
}

#[test]
fn groups_stand_for_operations_that_were_all_used() {
    let mut calls = Calls::default();
    let mut actions_after = |operations: &[&'static str]| {
        for operation in operations {
            add(&mut calls, &Seen { operation, ..EDGE }, 5);
        }
        let learned = learn(&shop(&[]), &calls, &LearnOptions::default()).unwrap();
        let of_catalog = learned
            .permits
            .iter()
            .find(|permit| permit.service == "catalog");
        of_catalog.unwrap().actions.clone()
    };
    assert_eq!(
        actions_after(&["catalog:listProducts", "catalog:getProduct"]),
        ["catalog:getProduct", "catalog:listProducts"]
    );
    assert_eq!(actions_after(&["catalog:exportProducts"]), ["catalog:read"]);
    assert_eq!(actions_after(&["catalog:updateProduct"]), ["catalog:*"]);
}

#[test]
fn one_who_reads_the_orders_of_others_keeps_the_condition_from_being_sure() {
    let mut calls = afternoon();
    let get = Seen {
        user: Some("shop:mallory"),
        operation: "orders:getOrder",
        path: "/orders/alice/7",
        ..EDGE
    };
    add(&mut calls, &get, 2);
    let learned = learn(&shop(&[]), &calls, &LearnOptions::default()).unwrap();
    let policy = learned.permits.iter().find(|permit| {
        permit
            .evidence
            .iter()
            .any(|evidence| evidence.operation == "orders:getOrder")
    });
    assert!(policy.unwrap().own.is_empty(), "{}", learned.text);
    let text = learned.text.replace("\n//     ", " ");
    assert!(
        text.contains(
            "customerId was the user's own id 20 times, and another 2 times (shop:mallory)"
        ),
        "{text}"
    );
}

#[test]
fn a_policy_that_would_not_pass_the_check_becomes_a_comment() {
    let mut calls = Calls::default();
    // Customers may enter orders, which calls payments without them: nobody could get through.
    add(&mut calls, &EDGE, 5);
    let charge = Seen {
        caller: Some("orders"),
        user: None,
        roles: &[],
        operation: "payments:charge",
        reason: Some(Reason::AuthnMissing),
        ..EDGE
    };
    add(&mut calls, &charge, 5);
    let learned = learn(&shop(&[]), &calls, &LearnOptions::default()).unwrap();
    assert!(learned.checked.is_ok(), "{:?}", learned.checked.diagnostics);
    assert_eq!(learned.permits.len(), 1, "{}", learned.text);
    assert!(learned.text.contains("path.dead_end"), "{}", learned.text);
    assert!(
        learned.text.contains("acts_alone: [payments:charge]"),
        "{}",
        learned.text
    );
}

#[test]
fn names_from_traffic_cannot_leave_their_comment_or_string() {
    let mut calls = Calls::default();
    let evil = Seen {
        user: Some("shop:x\npermit (principal, action, resource);"),
        roles: &["a\"b\npermit (principal, action, resource);"],
        ..EDGE
    };
    add(&mut calls, &evil, 5);
    let learned = learn(&shop(&[]), &calls, &LearnOptions::default()).unwrap();
    assert!(learned.checked.is_ok(), "{:?}", learned.checked.diagnostics);
    // No user can have that role, so it is no policy; and nothing else is.
    assert!(learned.permits.is_empty(), "{}", learned.text);
    assert!(
        learned
            .text
            .lines()
            .all(|line| line.is_empty() || line.starts_with("//")),
        "{}",
        learned.text
    );
}

#[test]
fn without_users_only_callers_are_learned() {
    let mut bundle = shop(&[]);
    let yaml = String::from_utf8(bundle.files["testudo.yaml"].content.to_vec()).unwrap();
    let (start, end) = (
        yaml.find("users:").unwrap(),
        yaml.find("services:").unwrap(),
    );
    let yaml = format!("{}{}", &yaml[..start], &yaml[end..]).replace("per: user", "per: address");
    bundle.files.get_mut("testudo.yaml").unwrap().content = yaml.into_bytes().into();
    let learned = learn(&bundle, &afternoon(), &LearnOptions::default());
    let learned = learned.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(learned.permits.len(), 1, "{}", learned.text);
    assert_eq!(
        learned.permits[0].principal,
        Principal::Service("orders".into())
    );
}
