//! Random policies and requests: the sliced answer must be that of Cedar's authorizer over all policies,
//! through its public, JSON-based interface.

use cedar_policy::{Authorizer, Context, Entities, EntityUid, PolicySet, Request};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const OPERATIONS: [(&str, &str, &str); 5] = [
    ("orders", "getOrder", "read"),
    ("orders", "createOrder", "write"),
    ("payments", "charge", "write"),
    ("payments", "status", "read"),
    ("orders", "undocumented", ""),
];
const ROLES: [&str; 3] = ["customer", "admin", "backend"];
const USERS: [&str; 3] = ["alice", "bob", "mallory"];

fn principal() -> impl Strategy<Value = String> {
    let role = prop::sample::select(&ROLES);
    let user = prop::sample::select(&USERS);
    let service = prop::sample::select(&["orders", "payments", "storefront", "gateway"][..]);
    let service_role = prop::sample::select(&["backend", "audited"][..]);
    prop_oneof![
        2 => Just("principal".to_owned()),
        1 => Just("principal is User".to_owned()),
        1 => Just("principal is Service".to_owned()),
        1 => Just("principal is Anonymous".to_owned()),
        1 => Just("principal == Anonymous::\"anonymous\"".to_owned()),
        1 => Just("principal in Anonymous::\"anonymous\"".to_owned()),
        3 => role.clone().prop_map(|role| format!("principal in Role::\"{role}\"")),
        1 => role.clone().prop_map(|role| format!("principal is User in Role::\"{role}\"")),
        1 => role.clone().prop_map(|role| format!("principal is Service in Role::\"{role}\"")),
        1 => role.prop_map(|role| format!("principal == Role::\"{role}\"")),
        2 => user.clone().prop_map(|user| format!("principal == User::\"shop:{user}\"")),
        1 => user.clone().prop_map(|user| format!("principal in User::\"shop:{user}\"")),
        1 => user.prop_map(|user| format!("principal is Service in User::\"shop:{user}\"")),
        2 => service.clone().prop_map(|name| format!("principal == Service::\"{name}\"")),
        1 => service.prop_map(|name| format!("principal is Service in Service::\"{name}\"")),
        2 => service_role.clone().prop_map(|role| format!("principal in ServiceRole::\"{role}\"")),
        1 => service_role.prop_map(|role| format!("principal is User in ServiceRole::\"{role}\"")),
    ]
}

fn action() -> impl Strategy<Value = String> {
    let id = prop::sample::select(
        &[
            "orders:getOrder",
            "orders:createOrder",
            "payments:charge",
            "orders:undocumented",
            "orders:read",
            "orders:write",
            "orders:*",
            "payments:*",
            "read",
            "write",
            "*",
        ][..],
    );
    prop_oneof![
        3 => Just("action".to_owned()),
        2 => id.clone().prop_map(|id| format!("action == Action::\"{id}\"")),
        3 => id.clone().prop_map(|id| format!("action in Action::\"{id}\"")),
        1 => (id.clone(), id.clone())
            .prop_map(|(a, b)| format!("action in [Action::\"{a}\", Action::\"{b}\"]")),
        1 => id.prop_map(|id| format!("action == Other::Action::\"{id}\"")),
    ]
}

fn resource() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &[
            "resource",
            "resource",
            "resource",
            "resource is Api",
            "resource is Service",
            "resource == Api::\"orders\"",
            "resource in Api::\"payments\"",
            "resource is Api in Api::\"orders\"",
            "resource == Service::\"orders\"",
        ][..],
    )
}

/// Conditions that are true, false, or fail (a value is missing, a sum is too large), for each kind of
/// principal.
fn condition() -> impl Strategy<Value = String> {
    let atom = prop::sample::select(
        &[
            "context.params.n > 2",
            "context.params.n * 9223372036854775807 > 0",
            "context.params.id == \"alice\"",
            "principal.id == context.params.id",
            "principal in Role::\"admin\"",
            "principal in ServiceRole::\"backend\"",
            "principal is User",
            "principal.claims.tenant == \"acme\"",
            "principal.name == \"orders\"",
            "context has user",
            "context.user in Role::\"customer\"",
            "context.user.id == \"bob\"",
            "context has caller && context.caller == Service::\"orders\"",
            "context.caller.labels has tier",
            "context.caller in ServiceRole::\"audited\"",
            "context.hop == \"mesh\"",
            "context.source_ip.isInRange(ip(\"10.0.0.0/8\"))",
            "context.time > datetime(\"2020-01-01\")",
            "context has body",
            "context.body.total == 1",
            "action in Action::\"orders:*\"",
            "action in [Action::\"read\", Action::\"payments:charge\"]",
            "resource == Api::\"orders\"",
            "Service::\"orders\" in ServiceRole::\"backend\"",
            "User::\"shop:alice\" in Role::\"customer\"",
            "{\"a\": context}.a.params has id",
            "(if context.params.n > 1 then context else context).hop == \"edge\"",
            "context.headers[\"x-shop\"] like \"m*\"",
            "true",
            "1",
        ][..],
    );
    let atom = atom.prop_map(|atom| format!("({atom})"));
    atom.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.prop_map(|a| format!("(!{a})")),
        ]
    })
}

fn policy() -> impl Strategy<Value = String> {
    let clause = (prop::sample::select(&["when", "unless"][..]), condition())
        .prop_map(|(word, condition)| format!(" {word} {{ {condition} }}"));
    (
        prop::sample::select(&["permit", "permit", "forbid"][..]),
        principal(),
        action(),
        resource(),
        prop::collection::vec(clause, 0..3),
    )
        .prop_map(|(effect, principal, action, resource, clauses)| {
            format!(
                "{effect} ({principal}, {action}, {resource}){};\n",
                clauses.concat()
            )
        })
}

#[derive(Clone, Debug)]
struct Ask {
    operation: (&'static str, &'static str, &'static str),
    user: Option<(&'static str, Vec<&'static str>)>,
    anonymous: bool,
    caller: Option<&'static str>,
    id: &'static str,
    n: Option<i64>,
    total: Option<i64>,
    address: bool,
}

fn ask() -> impl Strategy<Value = Ask> {
    (
        prop::sample::select(&OPERATIONS),
        prop::option::of((
            prop::sample::select(&USERS),
            prop::sample::subsequence(&ROLES[..], 0..=3),
        )),
        any::<bool>(),
        prop::option::of(prop::sample::select(
            &["orders", "payments", "storefront", "gateway"][..],
        )),
        prop::sample::select(&USERS),
        prop::option::of(0..4_i64),
        prop::option::of(0..2_i64),
        any::<bool>(),
    )
        .prop_map(
            |(operation, user, anonymous, caller, id, n, total, address)| Ask {
                operation,
                user,
                anonymous,
                caller,
                id,
                n,
                total,
                address,
            },
        )
}

impl Ask {
    fn names(&self) -> ActionNames {
        let (service, operation, group) = self.operation;
        let method = if group == "read" {
            Method::GET
        } else {
            Method::POST
        };
        if group.is_empty() {
            ActionNames::undocumented(&service.into())
        } else {
            ActionNames::new(&service.into(), operation, &method)
        }
    }

    fn user(&self) -> Option<Arc<User>> {
        match &self.user {
            Some((id, roles)) => Some(user(id, roles)),
            None => self.anonymous.then(User::anonymous),
        }
    }

    fn caller(&self) -> Option<Caller> {
        self.caller.map(|name| match name {
            GATEWAY => Caller::Gateway,
            name => Caller::Service(name.into()),
        })
    }

    fn values(&self) -> Values {
        let mut values = values(&[("id", text(self.id))]);
        if let Some(n) = self.n {
            values.params.push(("n".into(), Value::Long(n)));
        }
        values.body = self
            .total
            .map(|total| vec![("total".into(), Value::Long(total))]);
        values
    }

    /// The same context as JSON.
    fn context(&self) -> Context {
        let mut context = json!({
            "params": {"id": self.id},
            "headers": {"x-shop": "main"},
            "time": {"__extn": {"fn": "datetime", "arg": "2023-11-14T22:13:20.123Z"}},
            "hop": "mesh",
        });
        if let Some(n) = self.n {
            context["params"]["n"] = n.into();
        }
        if let Some(total) = self.total {
            context["body"] = json!({"total": total});
        }
        if self.address {
            context["source_ip"] = json!({"__extn": {"fn": "ip", "arg": "10.1.2.3"}});
        }
        if let Some((id, _)) = &self.user {
            context["user"] = json!({"__entity": {"type": "User", "id": format!("shop:{id}")}});
        }
        if let Some(caller) = self.caller {
            context["caller"] = json!({"__entity": {"type": "Service", "id": caller}});
        }
        Context::from_json_value(context, None).unwrap()
    }

    /// Everything that exists, whether or not a policy can see it.
    fn entities(&self) -> Entities {
        let entity = |kind: &str, id: &str, parents: serde_json::Value, attrs| json!({"uid": {"type": kind, "id": id}, "parents": parents, "attrs": attrs});
        let service = |name: &str, roles: &[&str], labels: serde_json::Value| {
            let parents = roles
                .iter()
                .map(|role| json!({"type": "ServiceRole", "id": role}))
                .collect();
            entity(
                "Service",
                name,
                parents,
                json!({"name": name, "labels": labels}),
            )
        };
        let mut all = vec![
            service("orders", &["backend", "audited"], json!({"tier": "core"})),
            service("payments", &["backend"], json!({})),
            service("storefront", &[], json!({})),
            service("gateway", &[], json!({})),
            entity("Anonymous", "anonymous", json!([]), json!({})),
            entity("Api", self.operation.0, json!([]), json!({})),
        ];
        let names = self.names();
        let groups = names
            .groups
            .iter()
            .map(|group| json!({"type": "Action", "id": &**group}))
            .collect();
        all.push(entity("Action", &names.operation, groups, json!({})));
        if let Some((id, roles)) = &self.user {
            let parents = roles
                .iter()
                .map(|role| json!({"type": "Role", "id": role}))
                .collect();
            let attrs = json!({"id": id, "issuer": "shop", "claims": {"tenant": "acme"}});
            all.push(entity("User", &format!("shop:{id}"), parents, attrs));
        }
        Entities::from_json_value(all.into(), None).unwrap()
    }
}

/// What Cedar says of all policies: permit, forbid, error or default, with the determining lines.
fn cedar(set: &PolicySet, ask: &Ask, principal: EntityUid) -> (&'static str, Vec<u32>) {
    let names = ask.names();
    let uid = |kind: &str, id: &str| -> EntityUid {
        EntityUid::from_type_name_and_id(kind.parse().unwrap(), id.parse().unwrap())
    };
    let request = Request::new(
        principal,
        uid("Action", &names.operation),
        uid("Api", &names.service),
        ask.context(),
        None,
    )
    .unwrap();
    let response = Authorizer::new().is_authorized(&request, set, &ask.entities());
    // Policies stand one on a line, and Cedar numbers them in their order.
    let line = |id: &cedar_policy::PolicyId| {
        id.to_string()
            .strip_prefix("policy")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            + 1
    };
    let lines: Vec<u32> = response.diagnostics().reason().map(line).collect();
    let failed: Vec<u32> = response
        .diagnostics()
        .errors()
        .map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => {
                line(error.policy_id())
            }
        })
        .collect();
    match response.decision() {
        cedar_policy::Decision::Deny if !lines.is_empty() => ("forbid", lines),
        _ if !failed.is_empty() => ("error", failed),
        cedar_policy::Decision::Allow => ("permit", lines),
        cedar_policy::Decision::Deny => ("default", Vec::new()),
    }
}

fn agrees(decision: &Decision, (expected, lines): (&'static str, Vec<u32>)) -> bool {
    let (kind, line) = match decision {
        Decision::Permit(source) => ("permit", Some(source.line)),
        Decision::Forbid(source) => ("forbid", Some(source.line)),
        Decision::Default => ("default", None),
        Decision::Error { policy, .. } => ("error", policy.as_ref().map(|source| source.line)),
    };
    let named = match line {
        None => true,
        // Forbids are asked first, so that the first error need not be the first line.
        Some(line) if kind == "error" => lines.contains(&line),
        Some(line) => lines.iter().min() == Some(&line),
    };
    kind == expected && named
}

/// Whether a decision is one that the outlook, which knew nothing of the request, left open.
fn is_foreseen(outcome: &Outcome, decision: &Decision) -> bool {
    match outcome {
        Outcome::Permit(_) => matches!(decision, Decision::Permit(_) | Decision::Error { .. }),
        Outcome::Deny(Some(_)) => matches!(decision, Decision::Forbid(_)),
        Outcome::Deny(None) => !matches!(decision, Decision::Permit(_)),
        Outcome::Depends(_) => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slices_answer_as_cedar_does(policies in prop::collection::vec(policy(), 1..12), ask in ask()) {
        let text = policies.concat();
        let sliced = OperationPolicies::new(&ask.names(), &rules(&text), &directory()).unwrap();
        let outlook = Outlook::new(&ask.names(), &rules(&text), &directory());
        prop_assert!(rules(&text).iter().all(|rule| !rule.covers(&ask.names()) || rule.may_cover(ask.operation.0)));
        let set: PolicySet = text.parse().unwrap();
        let user = ask.user();
        let caller = ask.caller();
        let mut facts = facts(user.as_ref(), caller.as_ref());
        if !ask.address {
            facts.source_ip = None;
        }
        if let Some(user) = &user {
            let kind = if user.is_anonymous() { "Anonymous" } else { "User" };
            let principal = EntityUid::from_type_name_and_id(kind.parse().unwrap(), user.id.parse().unwrap());
            let decision = sliced.user(&facts, &ask.values());
            let outcome = outlook.user(user);
            prop_assert!(is_foreseen(&outcome, &decision), "user: {outcome:?}, then {decision:?}\n{text}");
            let expected = cedar(&set, &ask, principal);
            prop_assert!(agrees(&decision, expected.clone()), "user: {decision:?}, Cedar: {expected:?}\n{text}");
        }
        if let Some(name) = ask.caller {
            let principal = EntityUid::from_type_name_and_id("Service".parse().unwrap(), name.parse().unwrap());
            let decision = sliced.caller(&facts, &ask.values());
            let outcome = if name == GATEWAY {
                outlook.gateway(&PolicyRef { file: "route".into(), line: 0 })
            } else {
                outlook.caller(name, &directory())
            };
            let permitted_by_route = name == GATEWAY && decision == Decision::Default;
            let foreseen = is_foreseen(&outcome, &decision) || (permitted_by_route && outcome.is_possible());
            prop_assert!(foreseen, "caller: {outcome:?}, then {decision:?}\n{text}");
            let mut expected = cedar(&set, &ask, principal);
            if name == GATEWAY && expected.0 == "permit" {
                expected = ("default", Vec::new());
            }
            prop_assert!(agrees(&decision, expected.clone()), "caller: {decision:?}, Cedar: {expected:?}\n{text}");
        }
    }
}
