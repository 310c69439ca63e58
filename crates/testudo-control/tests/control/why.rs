//! `GET /api/v1/why`: what proxies answer counts for themselves alone, and those that do not answer are named.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testudo_model::mesh::{Events, Found, from_control, from_proxy};

use crate::running::{Running, Stream};

fn event(proxy: &str, hop: &str, caller: Option<&str>, service: &str) -> Value {
    json!({
        "time": jiff::Timestamp::now(), "request_id": "r-1", "trace_id": "t-1", "proxy": proxy, "hop": hop,
        "revision": 1, "caller": caller, "user": null, "roles": [], "source_ip": null, "service": service,
        "operation": null, "method": "GET", "host": "", "path": "/", "status": 200, "verdict": "permit",
        "reason": null, "mode": "enforce", "policy": null, "findings": [], "bytes_in": 0, "bytes_out": 0,
        "duration_us": 1000, "guard_us": 1,
    })
}

fn bytes(events: &[Value]) -> Vec<Vec<u8>> {
    events
        .iter()
        .map(|event| event.to_string().into_bytes())
        .collect()
}

/// Answers the next question with these events.
async fn answer(stream: &mut Stream, events: &[Value]) {
    let (_, id) = stream
        .until("a question", |message| match message {
            from_control::Message::Find(find) => Some(find.id),
            _ => None,
        })
        .await;
    let found = Found {
        id,
        json: bytes(events),
        ..Found::default()
    };
    stream.send(from_proxy::Message::Found(found)).await;
}

fn proxies(why: &Value) -> Vec<&str> {
    let hops = why["hops"].as_array().unwrap().iter();
    hops.map(|hop| hop["proxy"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_proxy_speaks_for_itself_alone_and_one_that_is_silent_is_named() {
    let control = Running::start();
    let gateway = control.join("gateway", None).await;
    let orders = control.join("sidecar", Some("orders")).await;
    let payments = control.join("sidecar", Some("payments")).await;
    let mut edge = gateway.sync(gateway.hello()).await.unwrap();
    let mut liar = orders.sync(orders.hello()).await.unwrap();
    let _mute = payments.sync(payments.hello()).await.unwrap();
    let at_edge = event(&gateway.name, "edge", None, "orders");
    let told = Events {
        json: bytes(std::slice::from_ref(&at_edge)),
        ..Events::default()
    };
    edge.send(from_proxy::Message::Events(told)).await;

    let own = event(&orders.name, "mesh", Some("gateway"), "orders");
    let lies = [
        own,
        // In another's name, of another's service, at the edge, and of a call that it says was let out.
        event(&payments.name, "mesh", Some("orders"), "payments"),
        event(&orders.name, "mesh", Some("gateway"), "payments"),
        event(&orders.name, "edge", None, "orders"),
        event(&orders.name, "mesh", Some("orders"), "payments"),
    ];
    let begun = Instant::now();
    let asking = async {
        // The event is with control once it is asked by its id and no proxy needs to be.
        loop {
            let (status, list) = control.get("/api/v1/decisions?request_id=r-1").await;
            if status == 200 && list.as_array().is_some_and(|list| !list.is_empty()) {
                return control.get("/api/v1/why/r-1").await;
            }
        }
    };
    let ((status, why), (), ()) = tokio::join!(
        asking,
        answer(&mut edge, std::slice::from_ref(&at_edge)),
        answer(&mut liar, &lies)
    );
    assert_eq!(status, 200, "{why}");
    assert_eq!(
        proxies(&why),
        [gateway.name.as_str(), orders.name.as_str()],
        "{why}"
    );
    assert_eq!(why["missing"][0]["proxy"], payments.name.as_str(), "{why}");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn what_nobody_keeps_is_a_problem_document() {
    let control = Running::start();
    let (status, problem) = control.get("/api/v1/why/last").await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (404, Some("request.not_kept")),
        "{problem}"
    );
    let (status, problem) = control.get("/api/v1/why/last?any=perhaps").await;
    assert_eq!(status, 400, "{problem}");
    // One that joined and is not there now could have it.
    let orders = control.join("sidecar", Some("orders")).await;
    let (status, problem) = control.get("/api/v1/why/0198").await;
    assert_eq!(status, 404, "{problem}");
    assert_eq!(
        problem["missing"],
        json!([{"proxy": orders.name, "why": "not connected"}])
    );
}
