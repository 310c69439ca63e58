//! What `check` says about policies.

use super::fixture::{CONFIG, Shop, render};
use crate::bundle::Bundle;
use crate::cedar::{compile, dead_ends};
use crate::diagnostic::Diagnostics;

fn check(policies: &str) -> String {
    check_files(&[("policies/all.cedar", policies)])
}

fn check_files(files: &[(&str, &str)]) -> String {
    let shop = Shop::new(files);
    let (_, diagnostics) = shop.check();
    render(diagnostics, &shop.bundle)
}

#[test]
fn a_right_bundle_says_nothing() {
    let text = check(
        r#"
permit (principal in Role::"customer", action == Action::"orders:getOrder", resource)
when { context.params.customerId == principal.id };
permit (principal is User, action in Action::"orders:read", resource)
when { context.params.customerId == principal.id && principal.claims has tenant && principal.claims.tenant == "acme" };
permit (principal in Role::"admin", action in Action::"orders:*", resource == Api::"orders")
when { context.source_ip.isInRange(ip("10.0.0.0/8")) && context.time < datetime("2030-01-01") };
permit (principal == Service::"orders", action == Action::"payments:charge", resource)
when { context.body.amount.lessThan(decimal("100.0")) && context has user && context.user in Role::"customer" };
permit (principal in ServiceRole::"backend", action in Action::"read", resource)
unless { principal.labels has tier && principal.labels.tier == "edge" };
permit (principal is Anonymous, action == Action::"storefront:home", resource);
permit (principal is Service, action in Action::"reports:*", resource);
forbid (principal == Service::"gateway", action == Action::"payments:charge", resource);
forbid (principal == User::"shop:mallory", action, resource);
forbid (principal, action in [Action::"write"], resource) when { context.hop == "edge" && context has caller };
permit (principal is User, action == Action::"orders:createOrder", resource)
when { context.body.total < 100 && (if context.body has note then context.body.note like "gift*" else true) };
permit (principal is User, action == Action::"orders:listOrders", resource)
when { context.headers["x-shop"] == "main" && context.params has limit && context.params.limit <= 100 };
permit (principal is User, action == Action::"orders:getOrder", resource)
when { principal.claims has groups && principal.claims.groups.contains("staff") };
"#,
    );
    assert_eq!(text, "");
}

#[test]
fn mistakes_in_conditions() {
    insta::assert_snapshot!(check(
        r#"permit (principal in Role::"customer", action == Action::"orders:getOrder", resource)
when { context.params.customerID == principal.id };
permit (principal in Role::"customer", action in Action::"orders:*", resource)
when { context.params.customerId == principal.id };
permit (principal is User, action == Action::"orders:createOrder", resource)
when { context.body.note == "x" && context.body.totl > 5 };
permit (principal is User, action == Action::"orders:getOrder", resource)
when { context.body.total > 5 };
permit (principal is User, action == Action::"orders:listOrders", resource)
when { context.params.filter == "x" };
permit (principal is User, action == Action::"orders:listOrders", resource)
when { context.params.session == "x" };
permit (principal is User, action == Action::"orders:listOrders", resource)
when { context.params["x-shop"] == "x" };
permit (principal is User, action == Action::"orders:listOrders", resource)
when { context.headers["x-shp"] == "x" };
permit (principal is User, action == Action::"orders:listOrders", resource)
when { context.params.limit == "10" || context.parms.limit == 3 };
permit (principal, action == Action::"orders:getOrder", resource)
when { context.params.customerId == principal.id };
permit (principal is User, action, resource)
when { principal.claims.tenant == "acme" || principal.name == "x" };
permit (principal is User, action, resource)
when { principal.claims has tenant && principal.claims.tennant == "acme" };
permit (principal is Service, action, resource)
when { principal.labels.team == "x" };
permit (principal is User, action == Action::"orders:createOrder", resource)
when { context.body.total };
permit (principal is User, action == Action::"orders:createOrder", resource)
when { context.body.total > 1 + "x" && context.body.total in Role::"admin" };
"#
    ));
}

#[test]
fn more_mistakes_in_conditions() {
    insta::assert_snapshot!(check(
        r#"permit (principal is User, action == Action::"orders:createOrder", resource)
when { ip(context.hop).isLoopback() };
permit (principal is User, action == Action::"orders:createOrder", resource)
when { context.user.claims.tenant == "x" && context.caller == Service::"orders" };
permit (principal is User, action == Action::"orders:createOrder", resource)
when { context.hop == "edge" && principal is Service };
permit (principal is Customer, action == Action::"orders:createOrder", resource);
permit (principal is User, action == Action::"orders:createOrder", resource)
when { [] == [1] };
permit (principal is User, action == Action::"orders:createOrder", resource)
when { context.hop == 3 };
"#
    ));
}

#[test]
fn names_that_do_not_exist() {
    insta::assert_snapshot!(check(
        r#"permit (principal in Role::"custmer", action == Action::"orders:getOrdr", resource);
permit (principal in Role::"backend", action in Action::"orders:raed", resource);
permit (principal in ServiceRole::"admin", action == Action::"ordrs:getOrder", resource);
permit (principal == Service::"ordrs", action == Action::"payments:charge", resource == Api::"paymnts");
permit (principal == User::"alice", action == Action::"getOrder", resource);
forbid (principal == User::"corp:alice", action in [Action::"orders:getOrder", Action::"orders:destroy"], resource);
forbid (principal is User, action, resource) when { context has caller && context.caller == Service::"storefrnt" };
forbid (principal == Anonymous::"nobody", action, resource) unless { principal in Role::"nobody" };
permit (principal is User, action == Action::"createWorld", resource);
"#
    ));
}

#[test]
fn policies_that_do_nothing_or_too_much() {
    insta::assert_snapshot!(check(
        r#"permit (principal is User in ServiceRole::"backend", action, resource);
permit (principal == Role::"admin", action, resource);
permit (principal in Role::"admin", action == Action::"orders:getOrder", resource == Api::"payments");
permit (principal in Role::"admin", action == Action::"orders:undocumented", resource);
permit (principal in Role::"admin", action == Action::"orders:*", resource);
permit (principal, action == Action::"storefront:home", resource);
@id("note")
permit (principal == Service::"gateway", action == Action::"storefront:home", resource);
permit (principal in Role::"admin", action in Action::"reports:*", resource);
forbid (principal, action, resource) when { context.hop == "edge" && false };
forbid (principal is Service, action in Action::"orders:*", resource) when { principal in Role::"admin" };
"#
    ));
}

#[test]
fn a_policy_begins_at_its_effect() {
    let shop = Shop::new(&[(
        "policies/all.cedar",
        "// first\n@id(\"a)\\\"b\") // note\n@note\npermit (principal is User, action, resource);\nforbid (principal is User, action, resource);",
    )]);
    let (compiled, _) = shop.check();
    let lines: Vec<u32> = compiled
        .policies
        .iter()
        .map(|policy| policy.rule.source.line)
        .collect();
    assert_eq!(lines, [4, 5]);
}

#[test]
fn a_body_that_is_streamed_cannot_be_read() {
    let mut shop = Shop::new(&[(
        "policies/all.cedar",
        r#"forbid (principal, action == Action::"orders:uploadReceipt", resource)
when { context.body.total > 5 };"#,
    )]);
    let orders = shop.apis.get_mut("orders").unwrap();
    let fields = orders.operations[2].body.clone();
    orders.operations[3].body = fields;
    let (_, diagnostics) = shop.check();
    insta::assert_snapshot!(render(diagnostics, &shop.bundle));
}

#[test]
fn nothing_is_said_about_an_api_that_could_not_be_read() {
    let mut shop = Shop::new(&[(
        "policies/all.cedar",
        r#"permit (principal is User, action in [Action::"orders:getOrder", Action::"payments:charge"], resource);
permit (principal in Role::"admin", action, resource == Api::"orders");"#,
    )]);
    shop.apis.remove("orders");
    let (_, diagnostics) = shop.check();
    assert_eq!(render(diagnostics, &shop.bundle), "");
}

#[test]
fn folders_belong_to_services() {
    insta::assert_snapshot!(check_files(&[
        (
            "policies/orders/own.cedar",
            r#"permit (principal in Role::"admin", action in Action::"orders:*", resource);
permit (principal in Role::"admin", action, resource == Api::"orders");
permit (principal in Role::"admin", action == Action::"payments:charge", resource);
forbid (principal, action in Action::"read", resource);
"#
        ),
        (
            "policies/order/own.cedar",
            r#"permit (principal in Role::"admin", action in Action::"orders:*", resource);"#
        ),
    ]));
}

#[test]
fn syntax_errors_have_places() {
    insta::assert_snapshot!(check_files(&[
        (
            "policies/a.cedar",
            "permit (principal, action, resource)\nwhen { context.params.x = 5 };\n"
        ),
        ("policies/b.cedar", "// nothing\npermit (principal, action"),
        (
            "policies/c.cedar",
            "permit (principal in ?principal, action, resource);\n"
        ),
        (
            "policies/d.cedar",
            "permit (principal in Role::\"ä\", action, resource) when { \"ä\" == 'x' };\n"
        ),
        (
            "policies/e.cedar",
            "permit (principal, action, resource) when { principle.id == \"x\" };\nallow (principal, action, resource);"
        ),
        ("policies/f.cedar", "// empty is fine\n"),
        (
            "policies/g.cedar",
            "permit (principal, action == \"orders:getOrder\", resource);"
        ),
    ]));
}

#[test]
fn operations_must_not_be_called_like_groups() {
    let mut shop = Shop::new(&[]);
    shop.apis.get_mut("orders").unwrap().operations[0].name = "read".into();
    let (_, diagnostics) = shop.check();
    insta::assert_snapshot!(render(diagnostics, &shop.bundle));
}

#[test]
fn without_users_only_callers_are_asked() {
    let config = CONFIG
        .lines()
        .filter(|line| !line.starts_with("    ") || line.contains("service:"))
        .filter(|line| !line.contains("users:") && !line.contains("jwt:"))
        .collect::<Vec<_>>()
        .join("\n")
        .replace("user: ignore", "user: authorize");
    let policy = r#"permit (principal is User, action == Action::"orders:getOrder", resource);
permit (principal in Role::"customer", action == Action::"orders:getOrder", resource);
permit (principal is Service, action == Action::"orders:getOrder", resource);"#;
    let shop = Shop::with_config(&config, &[("policies/all.cedar", policy)]);
    let (_, diagnostics) = shop.check();
    insta::assert_snapshot!(render(diagnostics, &shop.bundle));
}

#[test]
fn any_role_is_possible_where_an_issuer_does_not_limit_them() {
    let config = CONFIG.replace(", allow: [customer, admin]", "");
    let policy =
        r#"permit (principal in Role::"whatever", action == Action::"orders:getOrder", resource);"#;
    let shop = Shop::with_config(&config, &[("policies/all.cedar", policy)]);
    let (_, diagnostics) = shop.check();
    assert_eq!(render(diagnostics, &shop.bundle), "");
}

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop");

/// What is wrong with the policies of a bundle of specifications.
fn check_bundle(bundle: &Bundle) -> String {
    let mut diagnostics = Diagnostics::default();
    let config = crate::config::read(bundle, &mut diagnostics).unwrap();
    let apis = config
        .services
        .values()
        .filter_map(|service| {
            let (file, _) = service.api.openapi.as_ref()?;
            let api = crate::openapi::read(file, bundle, &service.name, &mut diagnostics)?;
            Some((service.name.clone(), api))
        })
        .collect();
    let compiled = compile(bundle, &config, &apis, true, &mut diagnostics);
    assert!(!compiled.is_empty());
    dead_ends(&compiled, &config, &apis, &mut diagnostics);
    diagnostics.list.retain(|diagnostic| {
        ["policy", "path", "role", "ref"].contains(&diagnostic.code.split('.').next().unwrap())
    });
    render(diagnostics, bundle)
}

/// The bundle that everyone sees first.
#[test]
fn the_sample_shop_has_no_mistakes() {
    let bundle = crate::bundle::load(SHOP.as_ref()).unwrap();
    assert_eq!(check_bundle(&bundle), "");
}

#[test]
fn the_guide_s_policies_are_right() {
    let guide = include_str!("../../../../../docs/policies.md");
    let mut blocks: Vec<&str> = guide.split("```cedar\n").skip(1).collect();
    blocks
        .iter_mut()
        .for_each(|block| *block = block.split("```").next().unwrap());
    assert!(blocks.len() >= 3);
    let mut bundle = crate::bundle::load(SHOP.as_ref()).unwrap();
    let policies = bundle.files.get_mut("policies/mesh.cedar").unwrap();
    policies.content = blocks.concat().into_bytes().into();
    bundle
        .files
        .retain(|path, _| !path.ends_with(".cedar") || path == "policies/mesh.cedar");
    let config = bundle.files.get_mut("testudo.yaml").unwrap();
    let text = String::from_utf8(config.content.to_vec()).unwrap();
    let text = text.replace(
        "      id: sub\n",
        "      id: sub\n      claims: {groups: groups}\n",
    );
    config.content = text.into_bytes().into();
    assert_eq!(check_bundle(&bundle), "");
}
