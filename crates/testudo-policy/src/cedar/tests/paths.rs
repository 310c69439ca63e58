//! Dead ends.

use super::fixture::{CONFIG, Shop, render};
use crate::cedar::dead_ends;
use crate::diagnostic::Diagnostics;

const CALL: &str = r#"permit (principal == Service::"orders", action == Action::"payments:charge", resource);
permit (principal in Role::"customer", action in Action::"orders:*", resource);
"#;

fn found_in(config: &str, policies: &str) -> String {
    let shop = Shop::with_config(config, &[("policies/mesh.cedar", policies)]);
    let (compiled, _) = shop.check();
    let mut diagnostics = Diagnostics::default();
    dead_ends(&compiled, &shop.config, &shop.apis, &mut diagnostics);
    render(diagnostics, &shop.bundle)
}

fn found(policies: &str) -> String {
    found_in(CONFIG, policies)
}

#[test]
fn a_call_that_no_user_can_get_through_is_a_dead_end() {
    let cases = [
        ("no role may", CALL.to_owned()),
        (
            "only others may",
            format!("{CALL}permit (principal in Role::\"admin\", action == Action::\"payments:charge\", resource);"),
        ),
        (
            "only the anonymous enter",
            r#"permit (principal == Service::"orders", action in [Action::"payments:charge", Action::"payments:getCharge"], resource);
permit (principal is Anonymous, action == Action::"orders:listOrders", resource);
permit (principal is User, action in Action::"payments:*", resource);
"#
            .to_owned(),
        ),
        (
            "a group of which nothing leads on",
            r#"permit (principal == Service::"orders", action in Action::"payments:*", resource);
permit (principal is User, action in Action::"orders:read", resource);
"#
            .to_owned(),
        ),
    ];
    let text: String = cases
        .iter()
        .map(|(name, policies)| format!("{name}\n{}", found(policies)))
        .collect();
    insta::assert_snapshot!(text);
}

#[test]
fn hops_are_counted_from_the_edge() {
    let config = CONFIG.replace("    - {path: /orders, service: orders}\n", "");
    let text = found_in(
        &config,
        r#"permit (principal == Service::"storefront", action == Action::"orders:getOrder", resource);
permit (principal is User, action in [Action::"storefront:home", Action::"orders:getOrder"], resource);
permit (principal == Service::"orders", action == Action::"payments:charge", resource);"#,
    );
    assert!(
        text.contains("users pass at getOrder, then fail three hops in"),
        "{text}"
    );
}

#[test]
fn what_may_lead_on_is_not_a_dead_end() {
    let permits = [
        r#"permit (principal in Role::"customer", action == Action::"payments:charge", resource);"#,
        r#"permit (principal is User, action in Action::"payments:write", resource) when { context.hop == "mesh" };"#,
        r#"permit (principal == User::"shop:alice", action in Action::"write", resource);"#,
        "permit (principal, action, resource);",
    ];
    for permit in permits {
        assert_eq!(found(&format!("{CALL}{permit}")), "", "{permit}");
    }
    // One of a group is enough: nobody says that everything is called.
    let group = r#"permit (principal == Service::"orders", action in Action::"payments:*", resource);
permit (principal is User, action in [Action::"orders:listOrders", Action::"payments:getCharge"], resource);
"#;
    assert_eq!(found(group), "");
    // Nobody enters the caller; broad permits do not say who calls.
    let nobody = r#"permit (principal == Service::"orders", action == Action::"payments:charge", resource);
permit (principal is Service, action, resource);"#;
    assert_eq!(found(nobody), "");
}

#[test]
fn services_that_do_not_judge_users_are_no_dead_end() {
    let payments = "payments: {app: [127.0.0.1:9102], roles: [backend]";
    let orders = "orders: {app: [127.0.0.1:9101], roles: [backend]";
    let configs = [
        CONFIG.replace(payments, &format!("{payments}, user: require")),
        CONFIG.replace(payments, &format!("{payments}, user: ignore")),
        CONFIG.replace(orders, &format!("{orders}, acts_alone: [payments:charge]")),
        CONFIG.replace(orders, &format!("{orders}, acts_alone: true")),
        CONFIG.replace(orders, &format!("{orders}, user: ignore")),
        CONFIG.replace("    - {path: /orders, service: orders}\n", ""),
    ];
    for config in configs {
        assert_ne!(config, CONFIG);
        assert_eq!(found_in(&config, CALL), "", "{config}");
    }
}
