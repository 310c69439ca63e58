//! `can`, and slices compiled from the parts that one proxy has.

use std::fmt::Write as _;
use std::time::Duration;

use testudo_guard::authz::{Decision, Facts};
use testudo_guard::schema::Values;
use testudo_guard::{Caller, Now};
use testudo_model::Hop;

use super::fixture::{CONFIG, Shop};
use crate::cedar::{Question, compile};
use crate::diagnostic::Diagnostics;

const POLICIES: &str = r#"permit (principal in Role::"customer", action == Action::"orders:getOrder", resource)
when { context.params.customerId == principal.id };
permit (principal in Role::"admin", action in Action::"orders:*", resource);
permit (principal is Anonymous, action == Action::"storefront:home", resource);
permit (principal == Service::"orders", action == Action::"payments:charge", resource)
when { context.body.amount.lessThan(decimal("100.0")) && context has user };
permit (principal in ServiceRole::"backend", action in Action::"payments:read", resource);
forbid (principal is User, action in Action::"orders:write", resource)
unless { context.source_ip.isInRange(ip("10.0.0.0/8")) };
permit (principal is User, action == Action::"orders:listOrders", resource)
when { context.headers["x-shop"] == "main" && context.params has limit && context.params.limit <= 10 };
permit (principal in Role::"customer", action in Action::"payments:write", resource);
permit (principal in Role::"admin", action in Action::"reports:*", resource);
permit (principal is User, action == Action::"payments:getCharge", resource)
when { principal.claims has groups && principal.claims.groups.contains("audit") };
"#;

const NOW: Now = Now {
    wall: Duration::from_secs(1_700_000_000),
    monotonic: Duration::ZERO,
};

fn can(text: &str) -> String {
    let shop = Shop::new(&[("policies/all.cedar", POLICIES)]);
    let (compiled, _) = shop.check();
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let question = Question::parse(
        &words[0],
        &words[1],
        &words[2..],
        NOW,
        &shop.config,
        &shop.apis,
    );
    let mut out = format!("can {text}\n");
    let question = match question {
        Ok(question) => question,
        Err(error) => {
            let hint = error.hint.clone().unwrap_or_default();
            let _ = writeln!(out, "    ? {error}; {hint}");
            return out;
        }
    };
    let answer = compiled.can(&question, &shop.config, &shop.apis).unwrap();
    let line = answer.policy.map_or("-".to_owned(), |line| {
        format!("{}:{}", line.file, line.line)
    });
    let kind = match answer.decision {
        Decision::Permit(_) => "permit",
        Decision::Forbid(_) => "forbid",
        Decision::Default => "default",
        Decision::Error { .. } => "error",
    };
    let sign = if answer.permitted { "✓" } else { "✗" };
    let _ = writeln!(out, "    {sign} {kind} {line}  {}", answer.principal);
    for (name, list) in [
        ("missing", answer.missing),
        ("permit if", answer.permit_if),
        ("note", answer.notes),
    ] {
        for item in list {
            let _ = writeln!(out, "      {name}: {item}");
        }
    }
    out
}

#[test]
fn can_answers_with_the_line_and_what_would_have_to_be_true() {
    let questions = [
        "alice orders:getOrder role=customer customerId=alice id=1",
        "alice orders:getOrder role=customer customerId=bob id=1",
        "alice orders:getOrder role=customer",
        "alice orders:getOrder",
        "anonymous orders:getOrder",
        "anonymous home",
        "role:admin orders:createOrder source_ip=10.1.2.3 total=3",
        "role:admin orders:createOrder source_ip=192.0.2.1 total=3",
        "role:admin orders:createOrder total=3",
        "shop:alice orders:listOrders x-shop=main limit=10",
        "shop:alice orders:listOrders x-shop=main limit=11",
        "orders payments:charge amount=99.5 user=alice",
        "orders payments:charge amount=100 user=alice",
        "service:storefront payments:charge amount=1",
        "payments payments:getCharge",
        "bob payments:getCharge claim.groups=staff,audit",
        "gateway payments:charge",
        "alice payments:charge role=customer",
        "alice reports:run role=customer",
        "alice orders:undocumented role=admin",
    ];
    insta::assert_snapshot!(questions.map(can).concat());
}

#[test]
fn questions_that_cannot_be_asked_say_why() {
    let questions = [
        "alice orders:getOrdr",
        "alice getOrders",
        "alice orders:getOrder role=custmer",
        "alice orders:getOrder customer=alice",
        "alice orders:listOrders limit=many",
        "alice orders:listOrders session=1",
        "alice orders:listOrders filter=1",
        "service:ordrs orders:getOrder",
        "alice orders:getOrder customerId",
        "alice payments:charge amount=1.23456",
        "alice orders:getOrder time=now",
        "alice orders:getOrder hop=here",
        "Api::\"orders\" orders:getOrder",
    ];
    insta::assert_snapshot!(questions.map(can).concat());
}

#[test]
fn a_proxy_compiles_what_it_has() {
    let files = [
        ("policies/all.cedar", POLICIES),
        (
            "policies/orders/own.cedar",
            "forbid (principal is Anonymous, action, resource);",
        ),
        (
            "policies/broad.cedar",
            "forbid (principal, action, resource) when { context.hop == \"mesh\" && context has caller && context.caller == Service::\"storefront\" };",
        ),
    ];
    let mut shop = Shop::new(&files);
    shop.apis.retain(|service, _| &**service == "payments");
    let mut diagnostics = Diagnostics::default();
    let compiled = compile(
        &shop.bundle,
        &shop.config,
        &shop.apis,
        false,
        &mut diagnostics,
    );
    assert!(diagnostics.list.is_empty(), "{:?}", diagnostics.list);
    let (service, charge) = shop.operation("payments:charge");
    let slice = compiled.slice(service, charge);
    // The broad forbid, the permits of `orders` and of customers.
    assert_eq!(slice.sizes(), (2, 1, 2));
    let ask = |caller: &str| {
        let caller = Caller::Service(caller.into());
        slice.caller(
            &Facts {
                source_ip: None,
                now: NOW,
                hop: Hop::Mesh,
                user: None,
                caller: Some(&caller),
            },
            &Values::default(),
        )
    };
    assert!(
        matches!(ask("storefront"), Decision::Forbid(line) if line.file == "policies/broad.cedar")
    );
    assert!(matches!(ask("orders"), Decision::Error { .. }));
    assert_eq!(ask("reports"), Decision::Default);
}

#[test]
fn a_bundle_without_policies_permits_nothing() {
    let shop = Shop::with_config(&CONFIG.replace("policies: policies\n", ""), &[]);
    let (compiled, diagnostics) = shop.check();
    assert!(diagnostics.list.is_empty());
    assert!(compiled.is_empty());
    let (service, home) = shop.operation("storefront:home");
    assert_eq!(compiled.slice(service, home).sizes(), (0, 0, 0));
}
