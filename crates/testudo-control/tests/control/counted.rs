//! Windows: what proxies count becomes the graph, and nobody counts for others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testudo_model::mesh::{Windows, from_proxy};
use testudo_model::{Event, Hop, Reason, Verdict};
use testudo_watch::window::{Counts, Window, window_start};

use crate::running::Running;

/// A call of `caller` to `service`, as a proxy counts it.
fn event(hop: Hop, caller: Option<&str>, service: &str, user: &str) -> Event {
    serde_json::from_value(json!({
        "time": jiff::Timestamp::now(), "request_id": "r", "trace_id": "t", "proxy": "", "hop": hop,
        "revision": 1, "caller": caller, "user": user, "roles": [], "source_ip": "192.0.2.1",
        "service": service, "operation": format!("{service}:GET"), "method": "GET", "host": "h",
        "path": "/", "status": 200, "verdict": "permit", "reason": null, "mode": "enforce",
        "policy": null, "findings": [], "bytes_in": 0, "bytes_out": 10, "duration_us": 900, "guard_us": 9,
    }))
    .unwrap()
}

fn windows(proxy: &str, events: &[Event]) -> from_proxy::Message {
    let mut counts = Counts::default();
    events.iter().for_each(|event| counts.add(event));
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
    let window = Window {
        start: window_start(now),
        proxy: proxy.into(),
        proxy_started: now,
        revision: 1,
        counts,
    };
    from_proxy::Message::Windows(Windows {
        windows: window.encode(),
        dropped: 3,
    })
}

/// The graph, once `holds` of it.
async fn graph(control: &Running, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let (status, graph) = control.get("/api/v1/graph?seconds=60").await;
        assert_eq!(status, 200, "{graph}");
        if holds(&graph) {
            return graph;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{what}: {graph}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn edge<'g>(graph: &'g Value, caller: &str, service: &str) -> Option<&'g Value> {
    let mut edges = graph["edges"].as_array().unwrap().iter();
    edges.find(|edge| edge["caller"] == caller && edge["service"] == service)
}

#[tokio::test]
async fn what_proxies_count_is_the_graph_and_a_forged_window_is_refused() {
    let control = Running::start();
    let gateway = control.join("gateway", None).await;
    let orders = control.join("sidecar", Some("orders")).await;
    let gateway_stream = gateway.sync(gateway.hello()).await.unwrap();
    let orders_stream = orders.sync(orders.hello()).await.unwrap();

    let mut at_edge: Vec<_> = ["shop:alice", "shop:bob", "shop:bob"]
        .iter()
        .map(|user| event(Hop::Edge, None, "orders", user))
        .collect();
    at_edge.push(Event {
        verdict: Verdict::Deny,
        reason: Some(Reason::AuthzUser),
        ..event(Hop::Edge, None, "orders", "shop:mallory")
    });
    gateway_stream.send(windows(&gateway.name, &at_edge)).await;
    let inside = event(Hop::Mesh, Some("gateway"), "orders", "shop:alice");
    orders_stream.send(windows(&orders.name, &[inside])).await;

    // The sidecar of orders says what payments was asked, what the edge saw, and what another proxy counted.
    let forged = [
        event(Hop::Mesh, Some("gateway"), "payments", "shop:alice"),
        event(Hop::Edge, None, "payments", "shop:alice"),
    ];
    for event in &forged {
        let message = windows(&orders.name, std::slice::from_ref(event));
        orders_stream.send(message).await;
    }
    let own = event(Hop::Mesh, Some("gateway"), "orders", "shop:alice");
    orders_stream.send(windows("orders-2", &[own])).await;
    let garbage = Windows {
        windows: vec![vec![1, 2, 3]],
        dropped: 0,
    };
    orders_stream
        .send(from_proxy::Message::Windows(garbage))
        .await;

    let graph = graph(&control, "both edges and four refusals", |graph| {
        edge(graph, "clients", "orders").is_some()
            && edge(graph, "gateway", "orders").is_some()
            && graph["windows"]["refused"] == 4
    })
    .await;
    assert_eq!(graph["windows"]["received"], 2, "{graph}");
    assert_eq!(graph["windows"]["lost_events"], 15, "{graph}");
    assert!(edge(&graph, "gateway", "payments").is_none(), "{graph}");
    assert!(edge(&graph, "clients", "payments").is_none(), "{graph}");
    let clients = edge(&graph, "clients", "orders").unwrap();
    assert_eq!(
        (&clients["requests"], &clients["denied"]),
        (&json!(4), &json!(1))
    );
    assert_eq!(clients["reasons"], json!({"authz.user": 1}));
    assert_eq!(clients["users"], 3);
    assert_eq!(clients["hop"], "edge");
    assert_eq!(edge(&graph, "gateway", "orders").unwrap()["requests"], 1);
    let names: Vec<_> = graph["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["name"].clone(), node["kind"].clone()))
        .collect();
    assert_eq!(
        json!(names),
        json!([
            ["clients", "client"],
            ["gateway", "gateway"],
            ["orders", "service"],
            ["payments", "service"]
        ])
    );

    let (status, _) = control.get("/api/v1/graph?seconds=5").await;
    assert_eq!(status, 400);
    let (status, part) = control
        .get("/api/v1/graph?service=payments&history=false")
        .await;
    assert_eq!((status, &part["edges"]), (200, &json!([])));
}
