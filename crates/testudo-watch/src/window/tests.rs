//! What must hold of windows: merging is counting everything at once, tables stay bounded, bytes read
//! back, and nobody is credited with what was not verified.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use testudo_model::{Event, Hop, Mode, Reason, Verdict};

use super::counts::{Counter, Counts, Limits};
use super::*;

/// A request of a user to `orders`, at the edge.
fn event() -> Event {
    Event {
        hop: Hop::Edge,
        caller: None,
        source_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        credential: Some(String::from("00000000000000aa")),
        agent: Some(String::from("curl/8")),
        status: Some(200),
        mode: Mode::Enforce,
        ..crate::ring::tests::event("0198b5a2-7c3e-7d10-8a4b-0123456789ab", Verdict::Permit)
    }
}

fn denied(event: Event, reason: Reason) -> Event {
    Event {
        verdict: Verdict::Deny,
        reason: Some(reason),
        status: Some(reason.status().as_u16()),
        ..event
    }
}

fn count(events: &[Event], limits: &Limits) -> Counts {
    let mut counts = Counts::default();
    let mut counter = Counter::default();
    for event in events {
        counter.count(&mut counts, event, limits);
    }
    counts
}

fn user(name: &str, hop: Hop) -> PrincipalKey {
    PrincipalKey {
        hop,
        principal: Principal::User(name.into()),
    }
}

fn window(counts: Counts) -> Window {
    Window {
        start: 1_800_000_000,
        proxy: "gateway-1".into(),
        proxy_started: 1_799_999_000,
        revision: 4,
        counts,
    }
}

/// Reads all parts of a window and puts them together.
fn reread(window: &Window) -> MergedWindow {
    let mut merged = MergedWindow::new(window.start);
    for part in window.encode() {
        assert!(part.len() <= MAX_PART_BYTES, "{}", part.len());
        merged.merge(&Window::decode(&part).unwrap(), None);
    }
    merged
}

/// Everything but the examples, of which any few will do.
fn same(one: &Counts, other: &Counts) {
    assert_eq!(one.events, other.events);
    assert_eq!(one.dropped, other.dropped);
    assert_eq!(one.credentials.len(), other.credentials.len());
    for (key, stats) in &one.credentials {
        let other = &other.credentials[key];
        assert_eq!(stats.requests, other.requests);
        assert_eq!(stats.addresses, other.addresses);
        assert_eq!(stats.agents, other.agents);
    }
    assert_eq!(one.calls, other.calls);
    assert_eq!(one.edges.len(), other.edges.len());
    for (key, stats) in &one.edges {
        let bare = |stats: &EdgeStats| EdgeStats {
            samples: Samples::default(),
            ..stats.clone()
        };
        assert_eq!(bare(stats), bare(&other.edges[key]), "{key:?}");
    }
    assert_eq!(one.principals.len(), other.principals.len());
    for (key, stats) in &one.principals {
        let bare = |stats: &PrincipalStats| {
            let mut stats = stats.clone();
            for operation in stats.operations.values_mut() {
                operation.samples = Samples::default();
            }
            stats
        };
        assert_eq!(bare(stats), bare(&other.principals[key]), "{key:?}");
    }
}

fn some_event() -> impl Strategy<Value = Event> {
    let place = (0..2_u8, 0..4_u8, 0..5_u8, 0..600_u32);
    let who = (0..6_u8, 0..250_u8, 0..3_u8);
    let end = (0..6_u8, 0..2_000_000_u64, 0..50_000_u64);
    (place, who, end).prop_map(|(place, who, end)| {
        let (hop, service, operation, path) = place;
        let (user, address, agent) = who;
        let (outcome, duration_us, bytes_out) = end;
        let base = Event {
            hop: if hop == 0 { Hop::Edge } else { Hop::Mesh },
            caller: (hop == 1).then(|| format!("service-{agent}")),
            service: (service > 0).then(|| format!("service-{service}")),
            operation: (operation > 0).then(|| format!("service-{service}:op{operation}")),
            user: match user {
                0 => None,
                1 => Some(String::from("anonymous")),
                number => Some(format!("shop:user-{number}")),
            },
            roles: vec![String::from("b"), String::from("a")],
            source_ip: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, address))),
            credential: Some(format!("{:016x}", u64::from(user) * 7_777_777)),
            agent: Some(format!("agent {agent}")),
            path: format!("/orders/{path}"),
            duration_us,
            bytes_out,
            guard_us: duration_us % 50,
            ..event()
        };
        match outcome {
            0 => denied(base, Reason::AuthzUser),
            1 => denied(base, Reason::LimitExceeded),
            2 => Event {
                reason: Some(Reason::SchemaBody),
                ..base
            },
            3 => Event {
                status: Some(404),
                ..base
            },
            _ => base,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_in_any_order_is_counting_at_once(
        events in prop::collection::vec(some_event(), 0..400),
        cut in any::<prop::sample::Index>(),
        other_cut in any::<prop::sample::Index>(),
    ) {
        let mut cuts = [cut.index(events.len() + 1), other_cut.index(events.len() + 1)];
        cuts.sort_unstable();
        let parts = [&events[..cuts[0]], &events[cuts[0]..cuts[1]], &events[cuts[1]..]]
            .map(|events| count(events, &Limits::MESH));
        let all = count(&events, &Limits::MESH);
        let merge = |order: [usize; 3]| {
            let mut merged = Counts::default();
            for place in order {
                merged.merge(&parts[place], &Limits::MESH);
            }
            merged
        };
        same(&merge([0, 1, 2]), &all);
        same(&merge([2, 1, 0]), &all);
        let mut right = parts[1].clone();
        right.merge(&parts[2], &Limits::MESH);
        let mut grouped = parts[0].clone();
        grouped.merge(&right, &Limits::MESH);
        same(&grouped, &all);
        same(&reread(&window(all.clone())).counts, &all);
    }

    #[test]
    fn no_bytes_can_break_reading(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Window::decode(&bytes);
        // And neither what was a window once.
        let mut part = window(count(&[event()], &Limits::PROXY)).encode().remove(0);
        for (place, byte) in bytes.iter().enumerate().take(3) {
            let place = (place * 97 + usize::from(*byte) * 31) % part.len();
            part[place] ^= byte;
        }
        let _ = Window::decode(&part);
        part.truncate(usize::from(bytes.first().copied().unwrap_or(9)));
        let _ = Window::decode(&part);
    }

    #[test]
    fn quantiles_are_within_two_percent(values in prop::collection::vec(0..100_000_000_u64, 1..300)) {
        let mut quantiles = Quantiles::default();
        values.iter().for_each(|value| quantiles.add(*value));
        let mut sorted = values;
        sorted.sort_unstable();
        for percent in [0, 50, 90, 99, 100] {
            let q = percent as f64 / 100.0;
            let exact = sorted[percent * (sorted.len() - 1) / 100];
            let estimate = quantiles.quantile(q).unwrap();
            let error = estimate.abs_diff(exact) as f64;
            prop_assert!(error <= exact as f64 * 0.0201 + 1.0, "{q}: {estimate} for {exact}");
        }
    }
}

#[test]
fn distinct_counts_are_exact_when_small_and_close_when_large() {
    for expected in [0_u64, 1, 64, 128, 129, 500, 2_000, 20_000, 1_000_000] {
        let mut distinct = Distinct::default();
        for number in 0..expected {
            distinct.add(hash(format!("/orders/{number}").as_bytes()));
            if number % 3 == 0 {
                distinct.add(hash(format!("/orders/{number}").as_bytes()));
            }
        }
        let count = distinct.count();
        let error = count.abs_diff(expected) as f64 / expected.max(1) as f64;
        let allowed = if expected <= 128 { 0.0 } else { 0.12 };
        assert!(error <= allowed, "{count} for {expected}");
    }
}

#[test]
fn heavy_hitters_are_found_among_many() {
    let mut heavy = Heavy::default();
    let mut halves = [Heavy::default(), Heavy::default()];
    for number in 0..100_000_u64 {
        let name = if number % 10 == 0 {
            String::from("/popular")
        } else {
            format!("/once/{number}")
        };
        heavy.add(None, &name);
        halves[usize::from(number > 30_000)].add(None, &name);
    }
    let [mut merged, other] = halves;
    merged.merge(&other);
    for heavy in [heavy, merged] {
        let (key, count) = heavy.top(1)[0];
        assert_eq!(&*key.name, "/popular");
        assert!(
            count <= 10_000 && count + heavy.error() >= 10_000,
            "{count}"
        );
        assert!(heavy.error() <= 100_000 / 64, "{}", heavy.error());
        assert!(heavy.top(usize::MAX).len() <= 128);
    }
}

#[test]
fn a_flood_of_keys_is_bounded_and_counted() {
    let limits = Limits {
        edges: 100,
        principals: 200,
        operations: 10,
        credentials: 50,
        calls: 100,
    };
    let mut counts = Counts::default();
    let mut counter = Counter::default();
    for number in 0..100_000_u32 {
        let anonymous = number % 2 == 0;
        let event = Event {
            service: Some(format!("service-{}", number % 7)),
            operation: Some(format!("operation-{number}")),
            user: Some(if anonymous {
                String::from("anonymous")
            } else {
                format!("shop:user-{number}")
            }),
            source_ip: Some(IpAddr::V4(Ipv4Addr::from(number))),
            credential: Some(format!("{number:016x}")),
            path: format!("/{number}"),
            ..event()
        };
        counter.count(&mut counts, &event, &limits);
    }
    assert_eq!(counts.events, 100_000);
    assert_eq!(counts.edges.len(), 100);
    assert_eq!(counts.dropped.edges, 99_900);
    assert_eq!(counts.principals.len(), 200);
    let is_address = |(key, _): &(&PrincipalKey, _)| matches!(key.principal, Principal::Address(_));
    assert_eq!(counts.principals.iter().filter(is_address).count(), 100);
    assert!(counts.dropped.principals > 99_000);
    assert_eq!(counts.credentials.len(), 50);
    assert_eq!(counts.dropped.credentials, 49_950);
    assert_eq!(counts.calls.len(), 100);
    assert_eq!(counts.dropped.calls, 99_900);
    assert!(counts.paths.top(usize::MAX).len() <= 128);

    // One user, many operations.
    let mut counts = Counts::default();
    for number in 0..1_000 {
        let operation = Some(format!("orders:{number}"));
        let event = Event {
            operation,
            ..event()
        };
        counter.count(&mut counts, &event, &limits);
    }
    let stats = &counts.principals[&user("shop:alice", Hop::Edge)];
    assert_eq!(stats.operations.len(), 10);
    assert_eq!(counts.dropped.operations, 990);

    // Merging keeps to its limits, too.
    let mut merged = Counts::default();
    merged.merge(&counts, &Limits { edges: 1, ..limits });
    assert_eq!(merged.edges.len(), 1);
    assert_eq!(merged.dropped.edges, 900 + 99);
}

#[test]
fn a_full_window_fits_its_bounds() {
    // 500 edges with some traffic each, as one busy proxy sees them in one window.
    let mut events = Vec::new();
    for number in 0..5_000_u64 {
        events.push(Event {
            service: Some(format!("service-{}", number % 20)),
            operation: Some(format!("service-{}:operation{}", number % 20, number % 500)),
            user: Some(format!("shop:user-{}", number % 50)),
            path: format!("/things/{}", number % 997),
            duration_us: 800 + number * number % 4_000,
            ..event()
        });
    }
    let counts = count(&events, &Limits::PROXY);
    assert_eq!(counts.edges.len(), 500);
    let edges = Counts {
        events: counts.events,
        edges: counts.edges.clone(),
        ..Counts::default()
    };
    let bytes: usize = window(edges).encode().iter().map(Vec::len).sum();
    assert!(bytes < 100 * 1024, "{bytes} bytes for 500 edges");
    same(&reread(&window(counts.clone())).counts, &counts);
}

#[test]
fn absurd_numbers_of_a_lying_proxy_overflow_nothing() {
    let mut counts = count(&[event()], &Limits::PROXY);
    counts.events = u64::MAX;
    counts.dropped.edges = u64::MAX;
    for stats in counts.edges.values_mut() {
        stats.outcomes.add(Outcome::Permitted, u64::MAX);
        stats
            .outcomes
            .add(Outcome::Denied(Reason::AuthzUser), u64::MAX);
        stats.statuses.add(StatusClass::Success, u64::MAX);
        stats.bytes_out = u64::MAX;
        stats.last_us = u64::MAX;
    }
    let part = window(counts).encode().remove(0);
    let read = Window::decode(&part).unwrap();
    let mut merged = MergedWindow::new(read.start);
    for _ in 0..100 {
        merged.merge(&read, None);
    }
    let edge = &merged.counts.edges[0];
    assert_eq!(edge.outcomes.requests(), 200 << 40);
    assert_eq!(edge.bytes_out, 100 << 52);
    assert!(jiff::Timestamp::from_microsecond(i64::try_from(edge.last_us).unwrap()).is_ok());
    assert!(merged.counts.dropped.total() >= 100 << 52);
}

#[test]
fn a_forged_token_never_counts_for_the_user_that_it_names() {
    // A denied authentication leaves no user in the event; in mode report it leaves the anonymous one.
    let forged = Event {
        user: None,
        roles: Vec::new(),
        ..denied(event(), Reason::AuthnInvalid)
    };
    let reported = Event {
        user: Some(String::from("anonymous")),
        roles: Vec::new(),
        reason: Some(Reason::AuthnInvalid),
        ..event()
    };
    let honest = event();
    let counts = count(&[forged, reported, honest], &Limits::PROXY);
    let alice = &counts.principals[&user("shop:alice", Hop::Edge)];
    assert_eq!(alice.requests(), 1);
    assert_eq!(alice.credentials_right.count(), 1);
    assert!(alice.credentials_wrong.is_empty());
    let address = PrincipalKey {
        hop: Hop::Edge,
        principal: Principal::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let address = &counts.principals[&address];
    assert_eq!(address.requests(), 2);
    assert_eq!(address.credentials_wrong.count(), 1);
    assert_eq!(address.users.count(), 1);
    assert_eq!(counts.credentials.len(), 1);
    assert_eq!(counts.credentials[&0xaa].requests, 1);
    // Nothing to learn from a bad credential.
    let anonymous = counts
        .calls
        .iter()
        .find(|(key, _)| key.who == Who::Anonymous);
    assert_eq!(anonymous.unwrap().1.unfit, 1);
}

#[test]
fn each_hop_credits_whom_it_verified() {
    let mesh = Event {
        hop: Hop::Mesh,
        caller: Some(String::from("storefront")),
        ..event()
    };
    let from_gateway = Event {
        caller: Some(String::from("gateway")),
        ..mesh.clone()
    };
    let alone = Event {
        user: None,
        roles: Vec::new(),
        ..mesh.clone()
    };
    let counts = count(&[mesh, from_gateway, alone], &Limits::PROXY);
    assert_eq!(counts.edges.len(), 2);
    let names: Vec<_> = counts
        .principals
        .iter()
        .map(|(key, stats)| (key.principal.to_string(), stats.requests()))
        .collect();
    assert_eq!(
        names,
        [
            (String::from("shop:alice"), 2),
            (String::from("storefront"), 2)
        ]
    );
    let edge = counts
        .edges
        .iter()
        .find(|(key, _)| key.caller.as_deref() == Some("storefront"));
    let (_, edge) = edge.unwrap();
    assert_eq!((edge.with_user, edge.without_user), (1, 1));
    assert!(counts.credentials.is_empty() && counts.users.top(1).is_empty());
}

#[test]
fn what_outbound_refused_counts_for_the_calling_service_alone() {
    let refused = Event {
        hop: Hop::Mesh,
        caller: Some(String::from("orders")),
        service: Some(String::from("payments")),
        operation: None,
        ..denied(event(), Reason::AuthzCaller)
    };
    let mut aggregator = Aggregator::new(Some("orders".into()), 1);
    aggregator.count(&refused, 11);
    assert!(aggregator.close(11).is_none());
    assert_eq!(aggregator.end(), Some(12));
    let window = aggregator.close(12).unwrap();
    assert_eq!((window.start, &*window.proxy), (10, "orders-1"));
    let principals: Vec<_> = window.counts.principals.keys().collect();
    assert_eq!(
        principals,
        [&PrincipalKey {
            hop: Hop::Mesh,
            principal: Principal::Service("orders".into())
        }]
    );
    assert_eq!(window.counts.edges[0].without_user, 1);
    assert!(aggregator.finish().is_none());
}

#[test]
fn ours_and_the_applications_are_told_apart() {
    let forbidden = Event {
        status: Some(403),
        ..event()
    };
    let stopped = denied(event(), Reason::AuthzUser);
    let would_be = Event {
        reason: Some(Reason::AuthzUser),
        ..event()
    };
    let unreachable = denied(event(), Reason::UpstreamUnavailable);
    let failing = Event {
        status: Some(500),
        ..event()
    };
    let inside = Event {
        status: Some(403),
        inside: Some(Reason::AuthzCaller),
        ..event()
    };
    let broken_inside = Event {
        status: Some(503),
        inside: Some(Reason::UpstreamUnavailable),
        ..event()
    };
    let counts = count(
        &[
            forbidden,
            stopped,
            would_be,
            unreachable,
            failing,
            inside,
            broken_inside,
        ],
        &Limits::PROXY,
    );
    let edge = &counts.edges[0];
    assert_eq!(edge.statuses.of(StatusClass::Forbidden), 1);
    assert_eq!(edge.statuses.of(StatusClass::ServerError), 1);
    assert_eq!(edge.statuses.of(StatusClass::RefusedInside), 1);
    assert_eq!(edge.outcomes.denied(), 1);
    assert_eq!(edge.outcomes.reported(), 1);
    assert_eq!(edge.outcomes.failed(), 1);
    assert_eq!(edge.outcomes.permitted(), 4);
    assert_eq!(edge.errors(), 3);
    assert_eq!(edge.duration_us.count(), 5);
    assert_eq!(edge.guard_us.count(), 7);
}
