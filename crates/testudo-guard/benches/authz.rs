//! Both questions of one request against a bundle of 100 policies, of which few apply.
//!
//! `cargo bench -p testudo-guard --bench authz`
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use divan::{AllocProfiler, Bencher, black_box};
use http::Method;
use testudo_guard::authn::{Claim, User};
use testudo_guard::authz::{ActionNames, Decision, Directory, Facts, OperationPolicies, Rule};
use testudo_guard::schema::{Value, Values};
use testudo_guard::{Caller, Now};
use testudo_model::{Hop, PolicyRef};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// 25 services with four policies each; of `orders` and `payments`, those that people would write.
fn bundle() -> Vec<Arc<Rule>> {
    let mut text = String::from(
        r#"permit (principal in Role::"customer", action == Action::"orders:getOrder", resource)
when { context.params.customerId == principal.id };
permit (principal in Role::"admin", action in Action::"orders:*", resource);
permit (principal == Service::"storefront", action == Action::"orders:getOrder", resource);
forbid (principal, action in Action::"orders:write", resource) when { context.hop == "edge" };
permit (principal in Role::"customer", action == Action::"orders:listOrders", resource);
forbid (principal in Role::"suspended", action, resource);
forbid (principal is User, action == Action::"orders:exportOrders", resource)
unless { context.source_ip.isInRange(ip("10.0.0.0/8")) };
permit (principal in Role::"customer", action == Action::"orders:exportOrders", resource);
"#,
    );
    for service in 0..23 {
        for policy in [
            "permit (principal in Role::\"customer\", action in Action::\"NAME:read\", resource);\n",
            "permit (principal in Role::\"admin\", action in Action::\"NAME:*\", resource);\n",
            "permit (principal == Service::\"orders\", action in Action::\"NAME:read\", resource);\n",
            "forbid (principal, action in Action::\"NAME:write\", resource) when { context.hop == \"edge\" };\n",
        ] {
            text.push_str(&policy.replace("NAME", &format!("service{service}")));
        }
    }
    let set = cedar_policy_core::parser::parse_policyset(&text).unwrap();
    let mut policies: Vec<_> = set.policies().cloned().collect();
    policies.sort_by_key(|policy| policy.loc().unwrap().start());
    assert_eq!(policies.len(), 100);
    let source = PolicyRef {
        file: "policies/all.cedar".into(),
        line: 1,
    };
    policies
        .into_iter()
        .map(|policy| Arc::new(Rule::new(policy, source.clone(), None).unwrap()))
        .collect()
}

struct Mesh {
    policies: OperationPolicies,
    user: Arc<User>,
    caller: Caller,
    values: Values,
}

impl Mesh {
    fn new(operation: &str) -> Self {
        let names: Vec<Arc<str>> = ["orders", "payments", "storefront"]
            .into_iter()
            .map(Arc::from)
            .collect();
        let labels = BTreeMap::new();
        let services = names.iter().map(|name| (name, Vec::new(), &labels));
        let directory = Arc::new(Directory::new(services).unwrap());
        let names = ActionNames::new(&"orders".into(), operation, &Method::GET);
        Mesh {
            policies: OperationPolicies::new(&names, &bundle(), &directory).unwrap(),
            user: Arc::new(User {
                id: "shop:alice".into(),
                issuer: "shop".into(),
                roles: Arc::new(["customer".into()]),
                claims: Arc::new(BTreeMap::from([(
                    "tenant".into(),
                    Claim::String("acme".into()),
                )])),
                expires: None,
                credential: [1; 32],
                key: Arc::from(""),
                source_ip: None,
            }),
            caller: Caller::Service("storefront".into()),
            values: Values {
                params: vec![("customerId".into(), Value::String("alice".into()))],
                headers: Vec::new(),
                body: None,
            },
        }
    }

    fn ask(&self) -> (Decision, Decision) {
        let facts = Facts {
            source_ip: Some([10, 1, 2, 3].into()),
            now: Now {
                wall: Duration::from_secs(1_700_000_000),
                monotonic: Duration::ZERO,
            },
            hop: Hop::Mesh,
            user: Some(&self.user),
            caller: Some(&self.caller),
        };
        (
            self.policies.user(&facts, &self.values),
            self.policies.caller(&facts, &self.values),
        )
    }
}

/// A condition reads a parameter and the user: Cedar evaluates it.
#[divan::bench]
fn both_questions_with_a_condition(bencher: Bencher<'_, '_>) {
    let mesh = Mesh::new("getOrder");
    assert!(matches!(
        mesh.ask(),
        (Decision::Permit(_), Decision::Permit(_))
    ));
    bencher.bench_local(|| black_box(&mesh).ask());
}

/// The scopes alone decide.
#[divan::bench]
fn both_questions_by_scope(bencher: Bencher<'_, '_>) {
    let mesh = Mesh::new("listOrders");
    assert!(matches!(
        mesh.ask(),
        (Decision::Permit(_), Decision::Default)
    ));
    bencher.bench_local(|| black_box(&mesh).ask());
}

/// A `forbid` reads the address, the dearest part of the context.
#[divan::bench]
fn both_questions_with_an_address(bencher: Bencher<'_, '_>) {
    let mesh = Mesh::new("exportOrders");
    assert!(matches!(
        mesh.ask(),
        (Decision::Permit(_), Decision::Default)
    ));
    bencher.bench_local(|| black_box(&mesh).ask());
}
