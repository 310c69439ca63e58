//! Who may say what, when a window is complete, and what is kept.

use testudo_model::{Event, Hop, Reason, Verdict};
use testudo_watch::window::{Counts, Window};

use super::*;

const NOW: u64 = 1_800_000_000;
const GATEWAY: Sender<'_> = Sender {
    proxy: "gateway-1",
    service: None,
};
const ORDERS: Sender<'_> = Sender {
    proxy: "orders-1",
    service: Some("orders"),
};

fn event(sender: Sender<'_>, caller: Option<&str>, service: &str) -> Event {
    Event {
        proxy: sender.proxy.to_owned(),
        hop: match sender.service {
            None => Hop::Edge,
            Some(_) => Hop::Mesh,
        },
        caller: caller.map(str::to_owned),
        service: Some(service.to_owned()),
        operation: Some(format!("{service}:read")),
        credential: sender
            .service
            .is_none()
            .then(|| String::from("00000000000000aa")),
        ..crate::decisions::tests::event(service, None, 1)
    }
}

fn denied(event: Event) -> Event {
    Event {
        user: None,
        verdict: Verdict::Deny,
        reason: Some(Reason::AuthzCaller),
        ..event
    }
}

fn part(start: u64, events: &[Event]) -> Vec<u8> {
    let mut counts = Counts::default();
    events.iter().for_each(|event| counts.add(event));
    let window = Window {
        start,
        proxy: events[0].proxy.as_str().into(),
        proxy_started: NOW - 100,
        revision: 3,
        counts,
    };
    window.encode().remove(0)
}

#[test]
fn a_sidecar_may_not_speak_for_others() {
    let windows = Windows::default();
    let take = |events: &[Event], sender| windows.take(&part(NOW, events), sender, NOW);
    let own = event(ORDERS, Some("storefront"), "orders");
    let refused_outbound = denied(event(ORDERS, Some("orders"), "payments"));
    assert_eq!(take(&[own.clone(), refused_outbound], ORDERS), Ok(()));
    assert_eq!(take(&[event(GATEWAY, None, "orders")], GATEWAY), Ok(()));

    let wrong = [
        // Another service, with traffic that nobody there saw.
        event(ORDERS, Some("storefront"), "payments"),
        // What outbound let through is the other side's to count.
        event(ORDERS, Some("orders"), "payments"),
        // Another service's refusals.
        denied(event(ORDERS, Some("storefront"), "payments")),
        // An operation of another service.
        Event {
            operation: Some(String::from("payments:charge")),
            ..own.clone()
        },
        // The edge.
        Event {
            hop: Hop::Edge,
            caller: None,
            ..own.clone()
        },
        // Another proxy's name.
        Event {
            proxy: String::from("orders-2"),
            ..own.clone()
        },
    ];
    for event in wrong {
        let refused = take(&[event.clone(), own.clone()], ORDERS);
        assert_eq!(refused, Err(Refused::NotOwn), "{event:?}");
        let refused = take(std::slice::from_ref(&event), ORDERS);
        assert_eq!(refused, Err(Refused::NotOwn), "{event:?}");
    }
    // A gateway does not speak for the mesh.
    let mesh = Event {
        hop: Hop::Mesh,
        caller: Some(String::from("storefront")),
        ..event(GATEWAY, None, "orders")
    };
    assert_eq!(take(&[mesh], GATEWAY), Err(Refused::NotOwn));
    let tally = windows.tally();
    assert_eq!(tally.received, 2);
    assert_eq!(tally.refused, 13);
    windows.complete(NOW + 10);
    let spans = windows.recent(60, NOW + 10);
    let services = spans.iter().flat_map(|span| span.edges.keys());
    assert!(
        services
            .clone()
            .all(|key| key.service.as_deref() != Some("payments")
                || key.caller.as_deref() == Some("orders"))
    );
    assert_eq!(services.count(), 3);
}

#[test]
fn windows_are_complete_after_their_grace_in_order_and_whole() {
    let windows = Windows::default();
    let mut complete = windows.subscribe();
    windows.complete(NOW);
    assert_eq!(complete.try_recv().unwrap().start, NOW - 4);

    let from_orders = [event(ORDERS, Some("gateway"), "orders")];
    windows
        .take(&part(NOW, &from_orders), ORDERS, NOW + 2)
        .unwrap();
    let from_gateway = [event(GATEWAY, None, "orders")];
    // In two parts.
    for _ in 0..2 {
        windows
            .take(&part(NOW, &from_gateway), GATEWAY, NOW + 2)
            .unwrap();
    }
    windows.complete(NOW + 2);
    assert_eq!(complete.try_recv().unwrap().start, NOW - 2);
    assert!(complete.try_recv().is_err(), "the grace is not over");
    windows.complete(NOW + 3);
    let window = complete.try_recv().unwrap();
    assert_eq!((window.start, window.counts.events), (NOW, 3));
    assert_eq!(window.counts.edges.len(), 2);
    let mut proxies: Vec<_> = window
        .proxies
        .iter()
        .map(|seen| (&*seen.proxy, seen.service.as_deref(), seen.revision))
        .collect();
    proxies.sort_unstable();
    assert_eq!(
        proxies,
        [("gateway-1", None, 3), ("orders-1", Some("orders"), 3)]
    );

    // Late: counted, in the graph, not handed on.
    windows
        .take(&part(NOW, &from_gateway), GATEWAY, NOW + 4)
        .unwrap();
    assert_eq!(windows.tally().late, 1);
    windows.complete(NOW + 7);
    let starts: Vec<_> = std::iter::from_fn(|| complete.try_recv().ok())
        .map(|window| (window.start, window.counts.events))
        .collect();
    assert_eq!(starts, [(NOW + 2, 0), (NOW + 4, 0)]);
    let requests: u64 = windows
        .recent(60, NOW + 7)
        .iter()
        .flat_map(|span| span.edges.values())
        .map(|stats| stats.outcomes.requests())
        .sum();
    assert_eq!(requests, 4);

    // A clock that is ahead.
    let early = windows.take(&part(NOW + 600, &from_gateway), GATEWAY, NOW + 7);
    assert_eq!(early, Err(Refused::Early));
    assert!(windows.take(b"\x09nonsense", GATEWAY, NOW).is_err());
}

#[test]
fn an_hour_is_kept_in_bounded_space() {
    let windows = Windows::default();
    windows.complete(NOW);
    for step in 0..(3 * 3600 / WINDOW_SECONDS) {
        let start = NOW + step * WINDOW_SECONDS;
        let events = [event(GATEWAY, None, "orders")];
        windows.take(&part(start, &events), GATEWAY, start).unwrap();
        windows.complete(start + WINDOW_SECONDS + GRACE);
    }
    let now = NOW + 3 * 3600;
    let spans = windows.recent(3600, now);
    assert!(spans.len() <= 60 + 62, "{}", spans.len());
    let requests: u64 = spans
        .iter()
        .flat_map(|span| span.edges.values())
        .map(|stats| stats.outcomes.requests())
        .sum();
    assert!((1790..=1831).contains(&requests), "{requests}");
    assert!(spans.is_sorted_by_key(|span| span.start));
    assert_eq!(windows.tally().late, 0);
    assert!(windows.recent(86_400, now).len() <= 60 + 63);
    // Nobody copied what nobody reads: one reader's spans stay as they were.
    let newest = spans.last().unwrap().edges.len();
    assert_eq!(newest, 1);
}
