//! Chains, causes and possibilities, with the policies of the sample shop.

use std::collections::BTreeMap;
use std::path::Path;

use testudo_model::{Check, CheckResult, Event, Hop, Mode, PolicyRef, Reason, Verdict};
use testudo_policy::bundle;
use testudo_policy::check::{CheckOptions, Checked, check};

use super::*;
use crate::decisions::tests::event;

fn shop() -> Checked {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let bundle = bundle::load(&dir).unwrap();
    let checked = check(&bundle, &CheckOptions::default());
    assert!(checked.is_ok());
    checked
}

fn passed(name: &'static str) -> Check {
    Check {
        name: name.into(),
        result: CheckResult::Pass,
        detail: "".into(),
        policy: None,
        us: 3,
    }
}

fn failed(name: &'static str, detail: &'static str) -> Check {
    Check {
        result: CheckResult::Fail,
        detail: detail.into(),
        ..passed(name)
    }
}

/// The gateway's event of a permitted request that took 100 ms.
fn edge(operation: &str, user: &str, role: &str) -> Event {
    let service = operation.split(':').next().unwrap();
    Event {
        request_id: "r-edge".into(),
        trace_id: "t".into(),
        user: Some(user.into()),
        roles: vec![role.into()],
        operation: Some(operation.into()),
        method: "POST".into(),
        host: "127.0.0.1:8443".into(),
        path: "/orders".into(),
        duration_us: 100_000,
        checks: vec![
            passed("normalize"),
            passed("route"),
            passed("authn"),
            passed("user"),
        ],
        ..event(service, None, 100)
    }
}

/// A sidecar's event, so many milliseconds after the gateway's.
fn mesh(caller: &str, operation: &str, milliseconds: i64) -> Event {
    let service = operation.split(':').next().unwrap();
    let outer = edge(operation, "shop:alice", "customer");
    Event {
        time: outer.time + jiff::SignedDuration::from_millis(milliseconds),
        proxy: format!("{service}-1"),
        hop: Hop::Mesh,
        caller: Some(caller.into()),
        request_id: match caller {
            "gateway" => "r-edge".into(),
            _ => format!("r-{service}"),
        },
        duration_us: 50_000,
        checks: vec![passed("normalize"), passed("mtls")],
        ..outer
    }
}

fn denied(event: Event, status: u16, reason: Reason, check: Check) -> Event {
    let mut checks = event.checks;
    checks.push(check);
    Event {
        verdict: Verdict::Deny,
        reason: Some(reason),
        status: Some(status),
        checks,
        ..event
    }
}

fn answered(event: Event, status: u16) -> Event {
    Event {
        status: Some(status),
        ..event
    }
}

fn why_of(request_id: &str, events: Vec<Event>, silent: &[(&str, &str)]) -> Why {
    let checked = shop();
    let proxies = ["gateway", "orders", "payments", "storefront", "catalog"];
    explain(Evidence {
        request_id,
        events,
        silent: silent
            .iter()
            .map(|(name, why)| ((*name).to_owned(), (*why).to_owned()))
            .collect(),
        proxies: proxies
            .map(|service| KnownProxy {
                name: format!("{service}-1"),
                service: service.to_owned(),
                advertise: None,
            })
            .to_vec(),
        knowledge: Some(Knowledge {
            config: checked.config.as_ref().unwrap(),
            apis: &checked.apis,
            policies: checked.policies.as_ref().unwrap(),
            revision: Some(1),
        }),
    })
    .unwrap()
}

fn why(events: Vec<Event>) -> Why {
    why_of("r-edge", events, &[])
}

fn order(why: &Why) -> Vec<String> {
    let hop = |hop: &HopView| {
        let caller = hop.event.caller.as_deref().unwrap_or("client");
        format!(
            "{} {caller}>{}",
            hop.at,
            hop.event.service.as_deref().unwrap_or("?")
        )
    };
    why.hops.iter().map(hop).collect()
}

/// As in UX: alice orders, and orders charges without her.
fn dropped() -> Vec<Event> {
    let charge = Event {
        user: None,
        roles: vec![],
        ..mesh("orders", "payments:charge", 2)
    };
    vec![
        denied(
            charge,
            401,
            Reason::AuthnMissing,
            failed("user", "no user came along"),
        ),
        answered(edge("orders:createOrder", "shop:alice", "customer"), 502),
        answered(mesh("gateway", "orders:createOrder", 1), 502),
    ]
}

#[test]
fn a_user_that_was_dropped_is_found_where_it_was_lost() {
    let why = why(dropped());
    assert_eq!(
        order(&why),
        [
            "edge client>orders",
            "mesh 1 gateway>orders",
            "mesh 2 orders>payments"
        ]
    );
    assert_eq!(
        (why.verdict, why.reason, why.by),
        (Verdict::Deny, Some(Reason::AuthnMissing), By::Testudo)
    );
    assert_eq!(why.decided, Some(2));
    assert_eq!(why.hops[2].parent, Some(1));
    let cause = why.cause.unwrap();
    assert!(
        cause.starts_with("orders received shop:alice's Txn-Token at mesh 1 and sent none at mesh 2. payments has user: authorize (testudo.yaml:"),
        "{cause}"
    );
    assert!(cause.ends_with("orders answered 502."), "{cause}");
    assert_eq!(
        why.permit_if,
        ["if orders sends it; then user ✓ policies/customers.cedar:18"]
    );
    assert!(why.missing.is_empty(), "{:?}", why.missing);
}

#[test]
fn a_job_without_a_user_is_told_of_acts_alone() {
    let events = dropped().into_iter().take(1).collect();
    let why = why_of("r-payments", events, &[]);
    let cause = why.cause.unwrap();
    assert!(
        cause.starts_with("orders called on its own, without a user."),
        "{cause}"
    );
    assert!(
        why.permit_if[1].contains("`acts_alone` lists payments:charge"),
        "{:?}",
        why.permit_if
    );
    assert!(why.missing.is_empty() && why.curl.is_none());
}

#[test]
fn hops_that_must_exist_and_are_not_kept_are_named_in_their_place() {
    let mut events = dropped();
    events.pop();
    let gone = why_of(
        "r-edge",
        events,
        &[
            ("orders-1", "not connected"),
            ("catalog-1", "not connected"),
        ],
    );
    assert_eq!(
        order(&gone),
        ["edge client>orders", "mesh 2 orders>payments"]
    );
    assert_eq!(
        gone.missing[0],
        Missing {
            proxy: "orders-1".into(),
            why: "not connected".into(),
            at: Some("mesh 1".into()),
            caller: Some("gateway".into()),
            service: Some("orders".into()),
            before: Some(1),
        }
    );
    assert_eq!(
        (gone.missing[1].proxy.as_str(), &gone.missing[1].at),
        ("catalog-1", &None)
    );
    let cause = gone.cause.unwrap();
    assert!(
        cause.contains("whether it had received one is not kept"),
        "{cause}"
    );
    // Behind the gateway there must be a sidecar, and before a sidecar the gateway.
    let edge_alone = why(vec![edge("orders:createOrder", "shop:alice", "customer")]);
    assert_eq!(edge_alone.missing[0].at.as_deref(), Some("mesh 1"));
    assert_eq!(edge_alone.missing[0].before, None);
    let mesh_alone = why(vec![mesh("gateway", "orders:createOrder", 1)]);
    assert_eq!(mesh_alone.missing[0].proxy, "gateway-1");
    assert_eq!(mesh_alone.missing[0].before, Some(0));
    // A denial at the edge ends there.
    let event = edge("orders:createOrder", "shop:alice", "customer");
    let stopped = why(vec![denied(
        event,
        400,
        Reason::SchemaBody,
        failed("body", "paid is not allowed"),
    )]);
    assert!(stopped.missing.is_empty(), "{:?}", stopped.missing);
}

#[test]
fn siblings_and_repeated_calls_hang_where_they_were_made() {
    let events = vec![
        edge("storefront:home", "shop:alice", "customer"),
        mesh("gateway", "storefront:home", 1),
        mesh("storefront", "catalog:listProducts", 2),
        Event {
            proxy: "catalog-2".into(),
            ..mesh("storefront", "catalog:listProducts", 20)
        },
        // A clock that runs ahead does not put a service before its caller.
        Event {
            proxy: "orders-1".into(),
            ..mesh("catalog", "orders:listOrders", -1)
        },
    ];
    let why = why(events);
    assert_eq!(
        order(&why),
        [
            "edge client>storefront",
            "mesh 1 gateway>storefront",
            "mesh 2 storefront>catalog",
            "mesh 3 catalog>orders",
            "mesh 4 storefront>catalog",
        ]
    );
    assert_eq!(
        (why.verdict, why.by, why.cause),
        (Verdict::Permit, By::Nobody, None)
    );
}

#[test]
fn a_user_who_may_not_learns_which_line_would_let_them() {
    let event = Event {
        method: "GET".into(),
        path: "/orders/alice/17".into(),
        ..edge("orders:getOrder", "shop:bob", "customer")
    };
    let denial = denied(
        event,
        403,
        Reason::AuthzUser,
        failed("user", "no policy permits it to the user"),
    );
    let answer = why(vec![denial.clone()]);
    let cause = answer.cause.unwrap();
    assert!(
        cause.contains("shop:bob (customer) asked for GET /orders/alice/17"),
        "{cause}"
    );
    assert!(
        answer
            .permit_if
            .iter()
            .any(|line| line.contains("customerId == principal.id")
                && line.ends_with("(policies/customers.cedar:8)")),
        "{:?}",
        answer.permit_if
    );
    assert!(
        answer
            .permit_if
            .iter()
            .any(|line| line.starts_with("the role admin")
                && line.contains("policies/admins.cedar:2")),
        "{:?}",
        answer.permit_if
    );
    let curl = answer.curl.unwrap();
    assert!(
        curl.contains(
            "'https://127.0.0.1:8443/orders/alice/17' -H \"Authorization: Bearer $TOKEN\""
        ),
        "{curl}"
    );
    // The policies in force now may say something else.
    let own = Event {
        user: Some("shop:alice".into()),
        revision: 7,
        ..denial
    };
    let changed = why(vec![own]);
    assert!(
        changed.permit_if[0].starts_with("revision 1, in force now, permits it"),
        "{:?}",
        changed.permit_if
    );
}

#[test]
fn a_caller_that_no_policy_lets_gets_the_policy_that_would() {
    let call = denied(
        Event {
            user: None,
            ..mesh("storefront", "payments:charge", 1)
        },
        403,
        Reason::AuthzCaller,
        failed("caller", "no policy permits it to the caller"),
    );
    let why = why_of("r-payments", vec![call], &[]);
    let cause = why.cause.unwrap();
    assert!(
        cause.contains("storefront called payments:charge: no policy permits it"),
        "{cause}"
    );
    assert!(
        why.permit_if
            .iter()
            .any(|line| line.contains("the caller orders (policies/mesh.cedar:")),
        "{:?}",
        why.permit_if
    );
}

#[test]
fn the_applications_own_denial_is_not_ours() {
    let events = vec![
        answered(edge("orders:createOrder", "shop:alice", "customer"), 403),
        answered(mesh("gateway", "orders:createOrder", 1), 403),
    ];
    let why = why(events);
    assert_eq!(
        (why.verdict, why.reason, why.by),
        (Verdict::Permit, None, By::Application)
    );
    assert_eq!(why.decided, Some(1));
    assert!(why.cause.unwrap().starts_with(
        "The application of orders answered 403 itself at mesh 1; every check of ours"
    ));
    assert!(why.permit_if.is_empty());
}

#[test]
fn a_client_that_went_away_got_no_answer() {
    let gone = Event {
        status: None,
        ..edge("orders:createOrder", "shop:alice", "customer")
    };
    let why = why(vec![gone]);
    assert_eq!((why.by, why.decided), (By::Nobody, None));
    assert!(
        why.cause
            .unwrap()
            .starts_with("The connection broke before there was an answer at edge")
    );
    assert!(why.missing.is_empty());
}

#[test]
fn report_mode_says_what_would_have_been() {
    let mut event = edge("orders:createOrder", "shop:alice", "customer");
    event
        .checks
        .push(failed("body", "paid is not in the specification"));
    let event = Event {
        reason: Some(Reason::SchemaBody),
        mode: Mode::Report,
        policy: Some(PolicyRef {
            file: "apis/orders.yaml".into(),
            line: 30,
        }),
        ..event
    };
    let why = why(vec![event, mesh("gateway", "orders:createOrder", 1)]);
    assert_eq!(
        (why.verdict, why.reason),
        (Verdict::Permit, Some(Reason::SchemaBody))
    );
    let cause = why.cause.unwrap();
    assert!(cause.starts_with("In mode enforce it would have been denied: The request breaks the specification of orders: paid is not in the specification (apis/orders.yaml:30)."), "{cause}");
    assert_eq!(
        why.permit_if,
        ["the request is as apis/orders.yaml:30 has it"]
    );
}

#[test]
fn the_first_would_be_denial_counts_and_one_of_a_response_does_not_hide_an_error() {
    let reported = |event: Event, reason: Reason, mode| Event {
        reason: Some(reason),
        mode,
        ..event
    };
    let outer = edge("orders:createOrder", "shop:alice", "customer");
    let inner = mesh("gateway", "orders:createOrder", 1);
    let answer = why(vec![
        reported(outer.clone(), Reason::AuthzUser, Mode::Report),
        reported(inner.clone(), Reason::AuthzUser, Mode::Report),
    ]);
    assert_eq!(answer.decided, Some(0));
    // An error that the specification does not have is the application's all the same.
    let odd = |event, status| {
        reported(
            answered(event, status),
            Reason::SchemaResponse,
            Mode::Enforce,
        )
    };
    let answer = why(vec![odd(outer.clone(), 403), odd(inner.clone(), 403)]);
    assert_eq!((answer.by, answer.decided), (By::Application, Some(1)));
    let answer = why(vec![odd(outer, 200), odd(inner, 200)]);
    assert_eq!(
        (answer.by, answer.reason),
        (By::Testudo, Some(Reason::SchemaResponse))
    );
    assert!(
        answer
            .cause
            .unwrap()
            .starts_with("With `responses: enforce` it would have been denied")
    );
}

#[test]
fn what_a_request_was_stopped_for_comes_before_what_came_of_it() {
    let mut events = dropped();
    events[1] = denied(
        edge("orders:createOrder", "shop:alice", "customer"),
        504,
        Reason::UpstreamTimeout,
        failed("upstream", "no answer within 15s"),
    );
    assert_eq!(why(events).reason, Some(Reason::AuthnMissing));
}

#[test]
fn tokens_that_are_swapped_or_injected_and_limits() {
    let swapped = denied(
        Event {
            user: Some("shop:mallory".into()),
            ..mesh("orders", "payments:charge", 2)
        },
        403,
        Reason::AuthzUser,
        failed("user", "no policy permits it to the user"),
    );
    let events = vec![
        edge("orders:createOrder", "shop:alice", "customer"),
        mesh("gateway", "orders:createOrder", 1),
        swapped,
    ];
    let cause = why(events).cause.unwrap();
    assert!(
        cause.contains(
            "orders received shop:alice at mesh 1 and sent shop:mallory's Txn-Token at mesh 2."
        ),
        "{cause}"
    );

    let mut injected = denied(
        mesh("orders", "payments:charge", 2),
        401,
        Reason::AuthnInvalid,
        failed(
            "user",
            "a transaction token that this workload never received",
        ),
    );
    injected.proxy = "orders-1".into();
    injected.checks.retain(|check| check.name != "mtls");
    let events = vec![
        edge("orders:createOrder", "shop:alice", "customer"),
        mesh("gateway", "orders:createOrder", 1),
        injected,
    ];
    let answer = why(events);
    assert!(
        answer
            .cause
            .unwrap()
            .contains("that its own inbound side never received")
    );
    assert_eq!(answer.hops[2].parent, Some(1));

    let limited = denied(
        edge("orders:createOrder", "shop:alice", "customer"),
        429,
        Reason::LimitExceeded,
        failed("limit", "orders-per-user is used up"),
    );
    let answer = why(vec![limited]);
    let cause = answer.cause.unwrap();
    assert!(
        cause.starts_with("The limit orders-per-user (testudo.yaml:")
            && cause.contains("50/s, 100 at once, counted for shop:alice"),
        "{cause}"
    );
    assert_eq!(answer.permit_if.len(), 2);
}

#[test]
fn what_died_is_named_and_what_would_help() {
    let died =
        |event, status, reason, detail| denied(event, status, reason, failed("upstream", detail));
    let outer = edge("orders:createOrder", "shop:alice", "customer");
    let inner = mesh("gateway", "orders:createOrder", 1);
    let application = why(vec![
        answered(outer.clone(), 503),
        died(
            inner,
            503,
            Reason::UpstreamUnavailable,
            "connection refused",
        ),
    ]);
    assert_eq!(
        application.cause.unwrap(),
        "The application of orders could not be reached, or broke off: connection refused."
    );
    let sidecar = why(vec![died(
        outer.clone(),
        504,
        Reason::UpstreamTimeout,
        "no answer within 15s",
    )]);
    assert_eq!(
        sidecar.cause.unwrap(),
        "orders took too long: no answer within 15s."
    );
    assert!(sidecar.missing.is_empty());
    let large = denied(
        outer.clone(),
        413,
        Reason::RequestTooLarge,
        failed("body", "over max_body"),
    );
    let large = why(vec![large]).permit_if;
    assert!(
        large[0].starts_with(
            "the body has at most 16384 bytes: `api.max_body` of orders (testudo.yaml:"
        ),
        "{large:?}"
    );
    let method = Event {
        path: "/orders".into(),
        method: "DELETE".into(),
        operation: None,
        ..outer
    };
    let method = denied(
        method,
        405,
        Reason::RouteMethod,
        failed("operation", "has this path without this method"),
    );
    let methods = why(vec![method]).permit_if;
    assert_eq!(methods.len(), 2, "{methods:?}");
    assert!(
        methods[0].starts_with("GET /orders (apis/orders.yaml:"),
        "{methods:?}"
    );
}

#[test]
fn a_containment_can_be_released_by_its_name() {
    let contained = denied(
        edge("orders:getOrder", "shop:bob", "customer"),
        403,
        Reason::Contained,
        failed(
            "contained",
            "con-17 (throttled to 1/s): walked order numbers",
        ),
    );
    let answer = why(vec![contained]);
    assert!(
        answer
            .cause
            .unwrap()
            .contains("con-17 (throttled to 1/s): walked order numbers")
    );
    assert_eq!(
        answer.permit_if,
        ["the containment ends by itself, or by `testudo watch release con-17`"]
    );
}

#[test]
fn a_curl_line_runs_nothing_that_came_from_the_traffic() {
    let evil = Event {
        host: "x'; touch /tmp/pwned #".into(),
        path: "/a'$(touch b)`c`\u{1b}[2J\n".into(),
        method: "GET'\"$(x)".into(),
        ..edge("orders:getOrder", "anonymous", "customer")
    };
    let curl = why(vec![evil]).curl.unwrap();
    // As a POSIX shell reads it: nothing outside single quotes but our own words.
    let mut outside = String::new();
    let mut inside = false;
    let mut characters = curl.chars();
    while let Some(character) = characters.next() {
        match (inside, character) {
            (_, '\'') => inside = !inside,
            (false, '\\') => _ = characters.next(),
            (false, other) => outside.push(other),
            (true, other) => assert!(!other.is_control(), "{curl:?}"),
        }
    }
    assert!(!inside, "{curl}");
    assert_eq!(
        outside.trim(),
        "curl -i --cacert \"$CA\" --resolve  -X",
        "{curl}"
    );
}

#[test]
fn a_guess_is_called_a_guess() {
    let mut events = dropped();
    events[0].trace_guessed = true;
    assert!(why(events).cause.unwrap().contains("is a guess"));
}

#[test]
fn an_unknown_request_has_no_answer_and_without_a_bundle_there_still_is_one() {
    let evidence = |request_id| Evidence {
        request_id,
        events: dropped(),
        silent: BTreeMap::new(),
        proxies: Vec::new(),
        knowledge: None,
    };
    assert!(explain(evidence("r-nothing")).is_none());
    let why = explain(evidence("r-edge")).unwrap();
    assert_eq!(why.permit_if, ["if orders sends it"]);
    let json = serde_json::to_value(&why).unwrap();
    assert!(
        json["hops"][0]["checks"].is_array() && json["hops"][0]["proxy"] == "gateway-1",
        "{json}"
    );
}
