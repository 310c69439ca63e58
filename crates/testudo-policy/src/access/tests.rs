//! The sample shop, and a mesh of two hundred services.

use std::path::Path;
use std::time::Instant;

use super::reach::{As, reach};
use super::*;
use crate::bundle::{self, Bundle};
use crate::check::{CheckOptions, Checked, check};
use crate::diagnostic::Diagnostics;

fn shop() -> Checked {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let checked = check(&bundle::load(&dir).unwrap(), &CheckOptions::default());
    assert!(checked.is_ok(), "{:?}", checked.diagnostics);
    checked
}

fn access(checked: &Checked) -> Access {
    let (config, policies) = (checked.config.as_ref(), checked.policies.as_ref());
    Access::of(
        config.unwrap(),
        &checked.apis,
        policies.unwrap(),
        &BTreeSet::new(),
    )
}

fn outcome(access: &Access, subject: &Subject, operation: &str) -> Outcome {
    let subject = access.subjects.iter().position(|known| known == subject);
    let mut operations = access.operations.iter();
    let operation = operations.position(|target| &*target.operation == operation);
    let cell = access.cell(subject.unwrap(), operation.unwrap());
    cell.map_or(Outcome::Deny(None), |cell| cell.outcome.clone())
}

fn line(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Permit(policy) => format!("permit {}:{}", policy.file, policy.line),
        Outcome::Depends(policy) => format!("depends {}:{}", policy.file, policy.line),
        Outcome::Deny(Some(policy)) => format!("deny {}:{}", policy.file, policy.line),
        Outcome::Deny(None) => "deny".into(),
    }
}

#[test]
fn the_shop_says_who_may_do_what_and_by_which_line() {
    let access = access(&shop());
    let role = |name: &str| Subject::Role(name.into());
    let service = |name: &str| Subject::Service(name.into());
    let asked = [
        (role("customer"), "orders:getOrder"),
        (role("customer"), "orders:createOrder"),
        (role("customer"), "orders:refundOrder"),
        (role("customer"), "catalog:listProducts"),
        (role("admin"), "orders:getOrder"),
        (Subject::Anonymous, "catalog:listProducts"),
        (Subject::Anonymous, "orders:getOrder"),
        (Subject::AnyUser, "catalog:listProducts"),
        (Subject::AnyUser, "orders:createOrder"),
        (service("orders"), "payments:charge"),
        (service("storefront"), "payments:charge"),
        (service("storefront"), "catalog:listProducts"),
    ];
    let said: Vec<String> = asked
        .iter()
        .map(|(subject, operation)| line(&outcome(&access, subject, operation)))
        .collect();
    assert_eq!(
        said,
        [
            "depends policies/customers.cedar:8",
            "permit policies/customers.cedar:2",
            "deny",
            "permit policies/public.cedar:11",
            "permit policies/admins.cedar:2",
            "permit policies/public.cedar:2",
            "deny",
            "permit policies/public.cedar:11",
            "deny",
            "permit policies/mesh.cedar:15",
            "deny",
            "permit policies/mesh.cedar:2",
        ]
    );
}

fn reached(checked: &Checked, service: &str) -> Vec<(String, &'static str, String)> {
    let access = access(checked);
    let config = checked.config.as_ref().unwrap();
    reach(&access, config, &service.into())
        .into_iter()
        .map(|reached| {
            let operation = access.operations[reached.operation].operation.to_string();
            (operation, reached.as_whom.as_str(), reached.via.join(" "))
        })
        .collect()
}

#[test]
fn a_stolen_service_reaches_what_policy_lets_it_reach() {
    let shop = shop();
    let users = |operation: &str, via: &str| (operation.into(), "users", via.into());
    // The nightly export is a job of storefront's own: its key is enough.
    let job = (
        "catalog:exportProducts".into(),
        "itself",
        "storefront catalog".into(),
    );
    assert_eq!(
        reached(&shop, "storefront"),
        [users("catalog:listProducts", "storefront catalog"), job]
    );
    assert_eq!(
        reached(&shop, "orders"),
        ["charge", "getCharge", "refund"]
            .map(|name| users(&format!("payments:{name}"), "orders payments"))
    );
    assert!(reached(&shop, "payments").is_empty());
    // The gateway speaks for whom it likes, so it reaches what lies behind the routed services too.
    let gateway = reached(&shop, "gateway");
    assert!(gateway.contains(&users("payments:charge", "gateway orders payments")));
    // What a job alone may do is reached through the service that does it, which a user must get to.
    assert!(gateway.iter().all(|(_, as_whom, _)| *as_whom == "users"));
}

const CHAIN: &str = "version: 1
trust_domain: chain.test
gateway: {listen: 127.0.0.1:8443, routes: [{path: /, service: web}]}
users: {api_keys: keys.yaml}
services:
  web: {app: [127.0.0.1:9101]}
  orders: {app: [127.0.0.1:9102], acts_alone: ['ledger:POST']}
  ledger: {app: [127.0.0.1:9103]}
  audit: {app: [127.0.0.1:9104], user: optional}
  vault: {app: [127.0.0.1:9105]}
policies: policies
";

const CHAIN_POLICIES: &str = r#"permit (principal is User, action in [Action::"web:GET", Action::"orders:GET"], resource);
permit (principal == Service::"web", action == Action::"orders:GET", resource);
permit (principal == Service::"orders", action == Action::"ledger:POST", resource);
permit (principal == Service::"ledger", action == Action::"audit:POST", resource);
permit (principal == Service::"orders", action == Action::"vault:GET", resource);
forbid (principal == Service::"orders", action == Action::"vault:GET", resource);
permit (principal == Anonymous::"anonymous", action == Action::"vault:POST", resource);
permit (principal is Service, action == Action::"vault:POST", resource);
"#;

fn chain() -> Checked {
    let files = [
        ("testudo.yaml", CHAIN),
        ("keys.yaml", "keys: []\n"),
        ("policies/chain.cedar", CHAIN_POLICIES),
    ];
    let files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
    let bundle = Bundle::from_files(files.into_iter().collect()).unwrap();
    check(&bundle, &CheckOptions::default())
}

#[test]
fn reach_follows_hops_users_and_jobs() {
    let chain = chain();
    let say = |operation: &str, as_whom: As, via: &str| {
        (operation.to_owned(), as_whom.as_str(), via.to_owned())
    };
    // A job of orders needs no user, and what ledger does then needs none either.
    assert_eq!(
        reached(&chain, "orders"),
        [
            say("audit:POST", As::Itself, "orders ledger audit"),
            say("ledger:POST", As::Itself, "orders ledger"),
        ]
    );
    // From web it takes a user to get to orders at all.
    let web = reached(&chain, "web");
    assert!(
        web.contains(&say("orders:GET", As::Users, "web orders")),
        "{web:?}"
    );
    assert!(
        web.contains(&say("audit:POST", As::Users, "web orders ledger audit")),
        "{web:?}"
    );
    // What is forbidden is not reached, nor what only anonymous may do: no route lets anonymous in.
    assert!(
        !web.iter()
            .any(|(operation, ..)| operation.starts_with("vault"))
    );
}

/// Compiled without the lints of `check`, which are not what is measured.
fn large() -> Checked {
    use std::fmt::Write as _;
    let mut config = String::from(
        "version: 1\ntrust_domain: large.test\ngateway:\n  listen: 127.0.0.1:8443\n  routes:\n",
    );
    let mut policies = String::new();
    for service in 0..200 {
        let _ = writeln!(config, "    - {{path: /s{service}, service: s{service}}}");
        for operation in 0..4 {
            let role = (service + operation) % 8;
            let _ = writeln!(
                policies,
                "permit (principal in Role::\"r{role}\", action == Action::\"s{service}:op{operation}\", resource);"
            );
        }
        let next = (service + 1) % 200;
        let _ = writeln!(
            policies,
            "permit (principal == Service::\"s{service}\", action in Action::\"s{next}:read\", resource);"
        );
    }
    config.push_str("users: {jwt: {idp: {issuer: 'https://id.large.test', audiences: [a], roles: {claim: roles, allow: [r0, r1, r2, r3, r4, r5, r6, r7]}}}}\nservices:\n");
    let mut files = BTreeMap::new();
    for service in 0..200 {
        let _ = writeln!(
            config,
            "  s{service}: {{app: [127.0.0.1:{}], api: {{openapi: apis/s{service}.yaml}}}}",
            10_000 + service
        );
        let mut spec =
            format!("openapi: 3.1.0\ninfo: {{title: s{service}, version: '1'}}\npaths:\n");
        for operation in 0..20 {
            let method = if operation % 2 == 0 { "get" } else { "post" };
            let _ = writeln!(
                spec,
                "  /s{service}/o{operation}: {{{method}: {{operationId: op{operation}, responses: {{'200': {{description: ok}}}}}}}}"
            );
        }
        files.insert(format!("apis/s{service}.yaml"), spec.into_bytes());
    }
    config.push_str("policies: policies\n");
    files.insert("testudo.yaml".into(), config.into_bytes());
    files.insert("policies/all.cedar".into(), policies.into_bytes());
    let bundle = Bundle::from_files(files).unwrap();
    let mut diagnostics = Diagnostics::default();
    let config = crate::config::read(&bundle, &mut diagnostics).unwrap();
    let apis: BTreeMap<_, _> = config
        .services
        .values()
        .map(|service| {
            let api = crate::compile::read_api(&bundle, service, &mut diagnostics);
            (service.name.clone(), api.unwrap())
        })
        .collect();
    let policies = crate::cedar::compile(&bundle, &config, &apis, false, &mut diagnostics);
    Checked {
        diagnostics: diagnostics.sorted(),
        config: Some(config),
        apis,
        policies: Some(policies),
        counts: crate::render::Counts::default(),
    }
}

#[test]
fn two_hundred_services_are_asked_about_quickly() {
    let large = large();
    assert!(large.is_ok(), "{:?}", large.diagnostics.first());
    let started = Instant::now();
    let access = access(&large);
    let matrix = started.elapsed();
    assert_eq!(access.operations.len(), 4_000);
    assert_eq!(access.cells.len(), 200 * 4 + 200 * 10);
    let found = reach(&access, large.config.as_ref().unwrap(), &"s0".into());
    // The next service's reads for which there are users; none of those gets to the one behind it.
    assert_eq!(found.len(), 2);
    // This build is not optimized: in such a one it takes 0.8 s here. The bound is for what grows with the square.
    assert!(matrix.as_secs() < 10, "{matrix:?}");
}
