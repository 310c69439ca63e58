use std::net::{IpAddr, Ipv4Addr};

use testudo_model::{Event, Hop, Mode, Reason, Verdict};

use super::*;
use crate::window::{Aggregator, Name, WINDOW_SECONDS};

const START: u64 = 1_800_000_000;

/// Events that arrive in one window, at the edge.
fn event(user: Option<&str>, from: u8, path: &str) -> Event {
    Event {
        hop: Hop::Edge,
        user: user.map(str::to_owned),
        source_ip: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, from))),
        service: Some("orders".to_owned()),
        operation: Some("orders:getOrder".to_owned()),
        path: path.to_owned(),
        proxy: "gateway-1".to_owned(),
        caller: None,
        mode: Mode::Enforce,
        bytes_out: 100,
        ..crate::ring::tests::event("r", Verdict::Permit)
    }
}

fn denied(reason: Reason, event: Event) -> Event {
    Event {
        verdict: Verdict::Deny,
        reason: Some(reason),
        status: Some(reason.status().as_u16()),
        ..event
    }
}

fn window(start: u64, revision: u64, events: &[Event]) -> MergedWindow {
    let mut aggregators: std::collections::BTreeMap<String, Aggregator> =
        std::collections::BTreeMap::new();
    let mut merged = MergedWindow::new(start);
    let service = |event: &Event| match event.hop {
        Hop::Edge => None,
        Hop::Mesh => event.service.as_deref().map(Name::from),
    };
    for event in events {
        let event = Event {
            revision,
            ..event.clone()
        };
        let aggregator = aggregators
            .entry(event.proxy.clone())
            .or_insert_with(|| Aggregator::new(service(&event), START - 5000));
        aggregator.count(&event, start);
    }
    for event in events {
        if let Some(mut aggregator) = aggregators.remove(&event.proxy)
            && let Some(window) = aggregator.finish()
        {
            merged.merge(&window, service(event).as_ref());
        }
    }
    merged
}

/// Feeds the same number of events a window for so many windows; what was found.
fn feed(
    detectors: &mut Detectors,
    from: u64,
    windows: u64,
    mut events: impl FnMut(u64) -> Vec<Event>,
) -> Vec<Anomaly> {
    let mut found = Vec::new();
    for n in 0..windows {
        let start = from + n * WINDOW_SECONDS;
        let window = window(start, 1, &events(n));
        found.extend(detectors.detect(&window, &Settings::default()));
    }
    found
}

fn names(found: &[Anomaly]) -> Vec<(Detector, &str)> {
    let mut names: Vec<_> = found
        .iter()
        .map(|anomaly| (anomaly.detector, anomaly.who.name.as_str()))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn forged_tokens_that_name_a_victim_are_held_against_their_address_alone() {
    let mut detectors = Detectors::new();
    let found = feed(&mut detectors, START, 30, |n| {
        (0..20)
            .map(|m| Event {
                credential: Some(format!("{:016x}", n * 100 + m)),
                // What the token claims is no verified user: proxies leave it out.
                ..denied(Reason::AuthnInvalid, event(None, 9, "/orders/alice/1"))
            })
            .collect()
    });
    assert_eq!(names(&found), [(Detector::Stuffing, "10.0.0.9")]);
    assert!(found.iter().all(|anomaly| !anomaly.who.is_verified()));
}

#[test]
fn attacks_that_need_no_baseline_are_seen_on_a_fresh_mesh() {
    let walk = |n: u64| {
        let path = move |m| format!("/orders/alice/{}", n * 10 + m);
        (0..10)
            .map(|m| event(Some("shop:bob"), 1, &path(m)))
            .collect()
    };
    let scan = |n: u64| {
        let path = move |m| format!("/guess/{}", n * 10 + m);
        (0..10)
            .map(|m| Event {
                operation: None,
                ..denied(
                    Reason::RouteUndocumented,
                    event(Some("shop:bob"), 1, &path(m)),
                )
            })
            .collect()
    };
    let copied = |n: u64| {
        let place = |m| u8::try_from((n * 5 + m) % 200).unwrap();
        (0..5)
            .map(|m| Event {
                credential: Some("00000000000000aa".to_owned()),
                agent: Some("one".to_owned()),
                ..event(Some("shop:bob"), place(m), "/orders/bob/1")
            })
            .collect()
    };
    let limited = |_| {
        let one = || {
            denied(
                Reason::LimitExceeded,
                event(Some("shop:bob"), 1, "/orders/bob/1"),
            )
        };
        (0..10).map(|_| one()).collect()
    };
    type Attack<'a> = &'a dyn Fn(u64) -> Vec<Event>;
    let attacks: [(Detector, Attack<'_>); 4] = [
        (Detector::Enumeration, &walk),
        (Detector::Scan, &scan),
        (Detector::TokenSharing, &copied),
        (Detector::Probing, &limited),
    ];
    for (detector, attack) in attacks {
        // Within half a minute, nothing else, and nobody else.
        let found = feed(&mut Detectors::new(), START, 15, attack);
        assert_eq!(names(&found), [(detector, "shop:bob")], "{detector}");
        let last = found.last().unwrap();
        assert!(
            last.comparison.seen > 0.0 && !last.samples.is_empty(),
            "{last:?}"
        );
    }
}

#[test]
fn a_service_that_drops_its_user_is_named_and_one_that_acts_alone_is_not() {
    let arrives = Event {
        hop: Hop::Mesh,
        caller: Some("gateway".to_owned()),
        proxy: "orders-1".to_owned(),
        ..event(Some("shop:bob"), 1, "/orders/bob/1")
    };
    let calls = |user: Option<&str>, caller: &str| Event {
        hop: Hop::Mesh,
        caller: Some(caller.to_owned()),
        user: user.map(str::to_owned),
        service: Some("payments".to_owned()),
        operation: Some("payments:charge".to_owned()),
        proxy: "payments-1".to_owned(),
        ..event(None, 1, "/charge")
    };
    let found = feed(&mut Detectors::new(), START, 5, |_| {
        vec![
            arrives.clone(),
            denied(Reason::AuthnMissing, calls(None, "orders")),
        ]
    });
    assert_eq!(names(&found), [(Detector::DroppedUser, "orders")]);
    let found = feed(&mut Detectors::new(), START, 5, |_| {
        vec![
            arrives.clone(),
            calls(Some("shop:bob"), "orders"),
            calls(None, "orders"),
            denied(Reason::AuthnMissing, calls(None, "reports")),
        ]
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn new_edges_are_learned_first_and_then_said() {
    let call = |caller: &str| Event {
        hop: Hop::Mesh,
        caller: Some(caller.to_owned()),
        proxy: "orders-1".to_owned(),
        ..event(None, 1, "/orders/bob/1")
    };
    let mut detectors = Detectors::new();
    let known = |_| vec![call("storefront")];
    assert!(feed(&mut detectors, START, 1900, known).is_empty());
    let later = START + 1900 * WINDOW_SECONDS;
    let found = feed(&mut detectors, later, 3, |_| {
        vec![call("storefront"), call("mailer")]
    });
    assert_eq!(names(&found), [(Detector::NewEdge, "mailer")]);
    // What was learned survives being stored.
    let stored = serde_json::to_vec(&detectors).unwrap();
    let mut again: Detectors = serde_json::from_slice(&stored).unwrap();
    assert!(feed(&mut again, later + 60, 3, known).is_empty());
}

#[test]
fn deployments_are_context() {
    let mut detectors = Detectors::new();
    let orders = |n: u64, slow: u64| -> Vec<Event> {
        (0..4)
            .map(|m| Event {
                hop: Hop::Mesh,
                caller: Some("gateway".to_owned()),
                proxy: "orders-1".to_owned(),
                duration_us: 60_000 * slow,
                ..event(Some("shop:bob"), 1, &format!("/orders/bob/{}", (n + m) % 5))
            })
            .collect()
    };
    assert!(feed(&mut detectors, START, 800, |n| orders(n, 1)).is_empty());
    let at = START + 800 * WINDOW_SECONDS;
    // A new revision, and everything takes five times as long for a minute.
    for n in 0..30 {
        let window = window(at + n * WINDOW_SECONDS, 2, &orders(n, 5));
        assert_eq!(detectors.detect(&window, &Settings::default()), []);
    }
    assert!(detectors.deploys().context(Some("orders"))[0].starts_with("revision 2 since"));
    // Without one it is said.
    let later = at + 400;
    for n in 0..200 {
        let window = window(later + n * WINDOW_SECONDS, 2, &orders(n, 1));
        assert_eq!(detectors.detect(&window, &Settings::default()), []);
    }
    let mut found = Vec::new();
    for n in 0..30 {
        let window = window(later + 400 + n * WINDOW_SECONDS, 2, &orders(n, 5));
        found.extend(detectors.detect(&window, &Settings::default()));
    }
    assert_eq!(names(&found), [(Detector::Latency, "gateway → orders")]);
}

#[test]
fn one_that_is_off_says_nothing() {
    let mut settings = Settings::default();
    settings.switch_off(Detector::Enumeration);
    let mut detectors = Detectors::new();
    for n in 0..30 {
        let path = |m: u64| format!("/orders/alice/{}", n * 10 + m);
        let events: Vec<_> = (0..10)
            .map(|m| event(Some("shop:bob"), 1, &path(m)))
            .collect();
        let window = window(START + n * WINDOW_SECONDS, 1, &events);
        assert_eq!(detectors.detect(&window, &settings), []);
    }
    assert_eq!(settings.set(Detector::Scan, "paths", 5.0), Ok(()));
    assert!(settings.set(Detector::Scan, "objects", 5.0).is_err());
    assert!(settings.set(Detector::Scan, "paths", 0.0).is_err());
}
