//! Tables of decisions, and every answer held against Cedar's own authorizer over all policies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod oracle;

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;

use super::*;
use crate::authn::Claim;
use crate::schema::Value;

pub(super) const FILE: &str = "policies/all.cedar";

/// One rule for each policy of `text`, in its order.
pub(super) fn rules(text: &str) -> Vec<Arc<Rule>> {
    let set = cedar_policy_core::parser::parse_policyset(text).unwrap();
    let mut policies: Vec<_> = set.policies().cloned().collect();
    policies.sort_by_key(|policy| policy.loc().unwrap().start());
    policies
        .into_iter()
        .map(|policy| {
            let start = policy.loc().unwrap().start();
            let line = text[..start].matches('\n').count() + 1;
            let source = PolicyRef {
                file: FILE.into(),
                line: u32::try_from(line).unwrap(),
            };
            Arc::new(Rule::new(policy, source, None).unwrap())
        })
        .collect()
}

pub(super) fn directory() -> Arc<Directory> {
    let labels = BTreeMap::from([(Arc::from("tier"), Arc::from("core"))]);
    let none = BTreeMap::new();
    let orders: Arc<str> = "orders".into();
    let payments: Arc<str> = "payments".into();
    let storefront: Arc<str> = "storefront".into();
    Arc::new(
        Directory::new([
            (&orders, vec!["backend".into(), "audited".into()], &labels),
            (&payments, vec!["backend".into()], &none),
            (&storefront, Vec::new(), &none),
        ])
        .unwrap(),
    )
}

pub(super) fn user(id: &str, roles: &[&str]) -> Arc<User> {
    Arc::new(User {
        id: format!("shop:{id}").into(),
        issuer: "shop".into(),
        roles: roles.iter().map(|role| Arc::from(*role)).collect(),
        claims: Arc::new(BTreeMap::from([(
            Arc::from("tenant"),
            Claim::String("acme".into()),
        )])),
        expires: None,
        credential: [1; 32],
        key: Arc::from(""),
        source_ip: None,
    })
}

pub(super) fn now() -> Now {
    Now {
        wall: Duration::from_millis(1_700_000_000_123),
        monotonic: Duration::ZERO,
    }
}

fn policies(text: &str, service: &str, operation: &str, method: &Method) -> OperationPolicies {
    let names = ActionNames::new(&service.into(), operation, method);
    OperationPolicies::new(&names, &rules(text), &directory()).unwrap()
}

pub(super) fn facts<'a>(user: Option<&'a Arc<User>>, caller: Option<&'a Caller>) -> Facts<'a> {
    Facts {
        source_ip: Some("::ffff:10.1.2.3".parse().unwrap()),
        now: now(),
        hop: Hop::Mesh,
        user,
        caller,
    }
}

fn values(params: &[(&str, Value)]) -> Values {
    Values {
        params: params
            .iter()
            .map(|(name, value)| (Arc::from(*name), value.clone()))
            .collect(),
        headers: vec![("x-shop".into(), Value::String("main".into()))],
        body: None,
    }
}

fn text(value: &str) -> Value {
    Value::String(value.into())
}

fn short(decision: &Decision) -> String {
    match decision {
        Decision::Permit(source) => format!("permit {}", source.line),
        Decision::Forbid(source) => format!("forbid {}", source.line),
        Decision::Default => "default".into(),
        Decision::Error { policy, .. } => {
            format!("error {}", policy.as_ref().map_or(0, |source| source.line))
        }
    }
}

#[test]
fn users_are_judged_by_scope_and_condition() {
    let policy = r#"permit (principal in Role::"customer", action == Action::"orders:getOrder", resource)
when { context.params.customerId == principal.id };
permit (principal in Role::"admin", action in Action::"orders:*", resource == Api::"orders");
forbid (principal == User::"shop:mallory", action, resource);
permit (principal is User in Role::"auditor", action in [Action::"read"], resource is Api in Api::"orders");
permit (principal is Anonymous, action == Action::"orders:listOrders", resource);
permit (principal is Service, action, resource);
permit (principal in Role::"tenant", action, resource) when { principal.claims.tenant == "acme" && principal.issuer == "shop" };
"#;
    let get = policies(policy, "orders", "getOrder", &Method::GET);
    let list = policies(policy, "orders", "listOrders", &Method::GET);
    let create = policies(policy, "orders", "createOrder", &Method::POST);
    let pay = policies(policy, "payments", "charge", &Method::POST);
    let of_alice = values(&[("customerId", text("alice"))]);
    let cases = [
        (&get, user("alice", &["customer"]), "permit 1"),
        (&get, user("bob", &["customer"]), "default"),
        (&get, user("bob", &["admin", "customer"]), "permit 3"),
        (&get, user("alice", &["admin", "customer"]), "permit 1"),
        (&get, user("mallory", &["admin"]), "forbid 4"),
        (&get, user("carol", &["auditor"]), "permit 5"),
        (&create, user("carol", &["auditor"]), "default"),
        (&create, user("root", &["admin"]), "permit 3"),
        (&pay, user("root", &["admin"]), "default"),
        (&pay, user("erin", &["tenant"]), "permit 8"),
        (&get, User::anonymous(), "default"),
        (&list, User::anonymous(), "permit 6"),
        (&list, user("alice", &["backend"]), "default"),
    ];
    for (policies, user, expected) in cases {
        let decision = policies.user(&facts(Some(&user), None), &of_alice);
        assert_eq!(short(&decision), expected, "{:?}", user.id);
    }
    assert_eq!(get.user(&facts(None, None), &of_alice), Decision::Default);
}

#[test]
fn callers_are_judged_apart_from_users() {
    let policy = r#"permit (principal == Service::"orders", action == Action::"payments:charge", resource);
permit (principal in ServiceRole::"backend", action in Action::"payments:read", resource);
forbid (principal == Service::"gateway", action == Action::"payments:refund", resource);
permit (principal, action == Action::"payments:ping", resource);
permit (principal in Role::"backend", action, resource);
forbid (principal is Service, action == Action::"payments:report", resource)
unless { principal.labels has tier && principal.labels.tier == "core" };
permit (principal is Service, action == Action::"payments:report", resource) when { context has user && context.user in Role::"admin" };
"#;
    let operation = |name, method| policies(policy, "payments", name, &method);
    let service = |name: &str| Caller::Service(name.into());
    let charge = operation("charge", Method::POST);
    let status = operation("status", Method::GET);
    let refund = operation("refund", Method::POST);
    let ping = operation("ping", Method::GET);
    let report = operation("report", Method::POST);
    let admin = user("root", &["admin"]);
    let customer = user("alice", &["customer"]);
    let cases = [
        (&charge, service("orders"), None, "permit 1"),
        (&charge, service("storefront"), None, "default"),
        (&charge, Caller::Gateway, None, "default"),
        (&status, service("payments"), None, "permit 2"),
        (&status, service("storefront"), None, "default"),
        (&refund, Caller::Gateway, None, "forbid 3"),
        (&ping, Caller::Gateway, None, "default"),
        (&ping, service("storefront"), None, "permit 4"),
        (&ping, service("removed"), None, "default"),
        (&ping, Caller::Unknown, None, "default"),
        (&report, service("orders"), Some(&admin), "permit 8"),
        (&report, service("orders"), Some(&customer), "default"),
        (&report, service("orders"), None, "default"),
        (&report, service("storefront"), Some(&admin), "forbid 6"),
    ];
    for (policies, caller, user, expected) in cases {
        let decision = policies.caller(&facts(user, Some(&caller)), &Values::default());
        assert_eq!(short(&decision), expected, "{caller:?}");
    }
    assert_eq!(
        charge.caller(&facts(None, None), &Values::default()),
        Decision::Default
    );
}

#[test]
fn an_error_denies_even_beside_a_permit() {
    let policy = r#"permit (principal, action, resource);
forbid (principal, action, resource) when { context.params.amount * 4000000000 > 5 };
"#;
    let charge = policies(policy, "payments", "charge", &Method::POST);
    let alice = user("alice", &[]);
    let ask = |amount: i64| {
        let values = values(&[("amount", Value::Long(amount))]);
        short(&charge.user(&facts(Some(&alice), None), &values))
    };
    assert_eq!(ask(0), "permit 1");
    assert_eq!(ask(1), "forbid 2");
    assert_eq!(ask(4_000_000_000), "error 2");
    let missing = charge.user(&facts(Some(&alice), None), &Values::default());
    assert_eq!(short(&missing), "error 2");
}

#[test]
fn a_value_that_comes_twice_is_an_error() {
    let policy = r#"permit (principal, action, resource) when { context.params.id == "1" };"#;
    let get = policies(policy, "orders", "getOrder", &Method::GET);
    let twice = values(&[("id", text("1")), ("id", text("2"))]);
    let alice = user("alice", &[]);
    assert_eq!(
        short(&get.user(&facts(Some(&alice), None), &twice)),
        "error 1"
    );
}

#[test]
fn a_value_that_cedar_cannot_hold_is_an_error_where_it_is_read() {
    let alice = user("alice", &[]);
    let mut values = values(&[("id", text("1"))]);
    values.body = Some(vec![
        ("price".into(), Value::Unreadable),
        ("total".into(), Value::Long(3)),
    ]);
    let cases = [
        ("context.body has price", "forbid 2"),
        (
            "context.body has price && context.body.total == 4",
            "permit 1",
        ),
        ("context.body.price == decimal(\"1.5\")", "error 2"),
        ("context.body == {\"price\": {}, \"total\": 3}", "error 2"),
        ("context == {}", "error 2"),
        ("context.params.id == \"2\"", "permit 1"),
    ];
    for (condition, expected) in cases {
        let policy = format!(
            "permit (principal, action, resource);\nforbid (principal, action, resource) when {{ {condition} }};"
        );
        let get = policies(&policy, "orders", "getOrder", &Method::GET);
        let decision = get.user(&facts(Some(&alice), None), &values);
        assert_eq!(short(&decision), expected, "{condition}");
    }
}

#[test]
fn claims_are_what_policies_use_them_as() {
    let policy = r#"permit (principal, action == Action::"a:list", resource) when { principal.claims.groups.contains("staff") };
permit (principal, action == Action::"a:number", resource) when { principal.claims.level >= 3 };
permit (principal, action == Action::"a:truth", resource) when { principal.claims.verified };
permit (principal, action == Action::"a:text", resource) when { principal.claims.plan == "7" };
permit (principal, action == Action::"a:user", resource) when { context.user.claims.scopes == ["x"] };
permit (principal, action == Action::"a:has", resource) when { principal.claims has level };
"#;
    let rules = rules(policy);
    let kinds = claim_kinds(
        rules
            .iter()
            .filter_map(|rule| rule.condition().map(Arc::as_ref)),
    );
    let expected = [
        ("groups", ClaimKind::Strings),
        ("level", ClaimKind::Long),
        ("scopes", ClaimKind::Strings),
        ("verified", ClaimKind::Bool),
    ];
    assert_eq!(
        kinds,
        expected.map(|(name, kind)| (Arc::from(name), kind)).into()
    );
    let directory = Arc::new(Directory::new([]).unwrap().with_claims(kinds));
    let ask = |operation: &str, claim: &str, value: Claim| {
        let names = ActionNames::new(&"a".into(), operation, &Method::GET);
        let policies = OperationPolicies::new(&names, &rules, &directory).unwrap();
        let user = Arc::new(User {
            claims: Arc::new(BTreeMap::from([(Arc::from(claim), value)])),
            ..User::clone(&user("alice", &[]))
        });
        short(&policies.user(&facts(Some(&user), None), &Values::default()))
    };
    let list = |items: &[&str]| Claim::Strings(items.iter().map(|item| Arc::from(*item)).collect());
    let cases = [
        ("list", "groups", list(&["staff", "x"]), "permit 1"),
        ("list", "groups", Claim::String("staff".into()), "permit 1"),
        ("list", "groups", list(&[]), "default"),
        ("list", "groups", Claim::Long(1), "error 1"),
        ("number", "level", Claim::Long(3), "permit 2"),
        ("number", "level", Claim::String("3".into()), "error 2"),
        ("truth", "verified", Claim::Bool(true), "permit 3"),
        ("truth", "verified", Claim::Bool(false), "default"),
        ("text", "plan", Claim::Long(7), "permit 4"),
        ("text", "plan", list(&["7"]), "error 4"),
        ("user", "scopes", list(&["x"]), "permit 5"),
        ("has", "level", list(&["x"]), "permit 6"),
    ];
    for (operation, claim, value, expected) in cases {
        let shown = format!("{operation} {value:?}");
        assert_eq!(ask(operation, claim, value), expected, "{shown}");
    }
}

#[test]
fn every_part_of_the_context_can_be_read() {
    let conditions = [
        r#"context.params.word == "a""#,
        "context.params.number == 7",
        r#"context.params.price.lessThan(decimal("1.5"))"#,
        "context.params.flag",
        r#"context.params.tags.containsAll(["x", "y"])"#,
        r#"context.headers["x-shop"] == "main""#,
        r#"context.body.total == 3"#,
        r#"context.source_ip.isInRange(ip("10.0.0.0/8"))"#,
        r#"context.time == datetime("2023-11-14T22:13:20.123Z")"#,
        r#"context.hop == "mesh""#,
        r#"context has user && context.user == User::"shop:alice""#,
        r#"context.user.claims.tenant == "acme" && context.user in Role::"customer""#,
        r#"context.caller == Service::"orders" && context.caller.name == "orders""#,
        r#"context.caller in ServiceRole::"backend" && context.caller.labels.tier == "core""#,
        r#"principal.id == "alice" && action in Action::"orders:read""#,
        r#"action in Action::"read" && action in Action::"*" && resource == Api::"orders""#,
        r#"Service::"payments" in ServiceRole::"backend""#,
    ];
    let mut values = values(&[
        ("word", text("a")),
        ("number", Value::Long(7)),
        ("price", Value::Decimal("1.25".into())),
        ("flag", Value::Bool(true)),
        ("tags", Value::Strings(vec!["x".into(), "y".into()])),
    ]);
    values.body = Some(vec![("total".into(), Value::Long(3))]);
    let alice = user("alice", &["customer"]);
    let caller = Caller::Service("orders".into());
    for condition in conditions {
        let policy = format!("permit (principal, action, resource) when {{ {condition} }};");
        let get = policies(&policy, "orders", "getOrder", &Method::GET);
        let facts = facts(Some(&alice), Some(&caller));
        assert_eq!(short(&get.user(&facts, &values)), "permit 1", "{condition}");
    }
}

#[test]
fn undocumented_operations_are_in_no_group() {
    let policy = r#"permit (principal, action in Action::"orders:*", resource);
permit (principal in Role::"admin", action == Action::"orders:undocumented", resource);
"#;
    let names = ActionNames::undocumented(&"orders".into());
    let undocumented = OperationPolicies::new(&names, &rules(policy), &directory()).unwrap();
    let ask =
        |user: Arc<User>| short(&undocumented.user(&facts(Some(&user), None), &Values::default()));
    assert_eq!(ask(user("alice", &["customer"])), "default");
    assert_eq!(ask(user("root", &["admin"])), "permit 2");
}

#[test]
fn only_policies_that_read_the_body_wait_for_it() {
    let body = r#"forbid (principal is Service, action == Action::"orders:createOrder", resource)
when { context has body && context.body has total };"#;
    let create = policies(body, "orders", "createOrder", &Method::POST);
    assert!(create.reads_body() && create.caller_reads_body() && !create.user_reads_body());
    assert!(!policies(body, "orders", "getOrder", &Method::GET).reads_body());
    let whole = "permit (principal, action, resource) when { context == {} };";
    assert!(policies(whole, "orders", "getOrder", &Method::GET).user_reads_body());
    assert!(!OperationPolicies::default().reads_body());
}

#[test]
fn nothing_waits_for_a_body_that_streams() {
    let policy = r#"forbid (principal, action, resource) when { context has body && context.body.total > 5 };
permit (principal in Role::"reader", action, resource) when { context.body.total == 3 };
permit (principal in Role::"admin", action, resource);
"#;
    let upload = policies(policy, "orders", "upload", &Method::POST).without_body();
    assert!(!upload.reads_body());
    let mut values = values(&[]);
    values.body = Some(vec![("total".into(), Value::Long(7))]);
    let ask =
        |role: &str| short(&upload.user(&facts(Some(&user("alice", &[role])), None), &values));
    assert_eq!(ask("admin"), "permit 3");
    assert_eq!(ask("reader"), "error 2");
}

#[test]
fn a_slice_holds_only_what_can_apply() {
    let policy: String = (0..100)
        .map(|index| {
            format!(
                "permit (principal in Role::\"r{index}\", action == Action::\"orders:op{index}\", resource);\n"
            )
        })
        .chain(["forbid (principal, action, resource) when { context.hop == \"edge\" };\n".into()])
        .collect();
    let op7 = policies(&policy, "orders", "op7", &Method::GET);
    assert_eq!(op7.sizes(), (2, 1, 1));
    let seven = user("alice", &["r7"]);
    assert_eq!(
        short(&op7.user(&facts(Some(&seven), None), &Values::default())),
        "permit 8"
    );
}

#[test]
fn a_policy_in_a_services_folder_applies_to_no_other() {
    let set = cedar_policy_core::parser::parse_policyset("permit (principal, action, resource);");
    let policy = set.unwrap().policies().next().unwrap().clone();
    let source = PolicyRef {
        file: "policies/orders/all.cedar".into(),
        line: 1,
    };
    let rule = Rule::new(policy, source, Some("orders".into())).unwrap();
    assert!(rule.covers(&ActionNames::new(&"orders".into(), "x", &Method::GET)));
    assert!(!rule.covers(&ActionNames::new(&"payments".into(), "x", &Method::GET)));
}
