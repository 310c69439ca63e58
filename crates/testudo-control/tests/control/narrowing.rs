//! Containments and modes: what the API takes, what proxies are told, what the audit log has.

use serde_json::{Value, json};
use testudo_model::mesh::{Containments, ModeChanged, Modes, from_control, from_proxy};

use crate::running::{Running, Stream};

async fn containments(stream: &mut Stream, count: usize) -> Containments {
    let told = stream.until("containments", |message| match message {
        from_control::Message::Containments(set) if set.entries.len() == count => Some(set.clone()),
        _ => None,
    });
    told.await.1
}

async fn modes(stream: &mut Stream, wanted: impl Fn(&Modes) -> bool) -> Modes {
    let told = stream.until("modes", |message| match message {
        from_control::Message::Modes(modes) if wanted(modes) => Some(modes.clone()),
        _ => None,
    });
    told.await.1
}

fn edge(caller: &str, service: &str, length: &str) -> Value {
    json!({"kind": "service", "principal": caller, "service": service, "action": "deny",
        "for": length, "reason": "reads everything"})
}

/// Actions of the audit log, oldest first.
async fn audit(control: &Running) -> Vec<String> {
    let (_, entries) = control.get("/api/v1/audit?limit=100").await;
    let entries = entries.as_array().unwrap().iter().rev();
    entries
        .map(|entry| {
            format!(
                "{} {}",
                entry["by"].as_str().unwrap(),
                entry["action"].as_str().unwrap()
            )
        })
        .filter(|entry| entry.contains("containment") || entry.contains("mode"))
        .collect()
}

#[tokio::test]
async fn containments_reach_those_whom_they_concern_outlive_restarts_and_end() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let payments = control.join("sidecar", Some("payments")).await;
    let gateway = control.join("gateway", None).await;
    let mut orders_stream = orders.sync(orders.hello()).await.unwrap();
    let mut payments_stream = payments.sync(payments.hello()).await.unwrap();
    let mut gateway_stream = gateway.sync(gateway.hello()).await.unwrap();

    let (status, made) = control
        .post("/api/v1/containments", edge("orders", "payments", "10m"))
        .await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(
        (&made["by"], &made["action"], &made["rate"]),
        (&json!("admin"), &json!("deny"), &Value::Null)
    );
    let id = made["id"].as_str().unwrap();
    for stream in [
        &mut orders_stream,
        &mut payments_stream,
        &mut gateway_stream,
    ] {
        let told = containments(stream, 1).await;
        assert_eq!(told.entries[0].id, id);
        assert_eq!(told.entries[0].reason, "reads everything");
    }
    // One that concerns neither orders' callers nor orders as a caller.
    let body = edge("payments", "payments", "1s");
    assert_eq!(control.post("/api/v1/containments", body).await.0, 201);
    assert_eq!(containments(&mut gateway_stream, 2).await.entries.len(), 2);
    let told = containments(&mut orders_stream, 1).await;
    assert_eq!(told.entries[0].principal, "orders");
    let (_, list) = control.get("/api/v1/containments").await;
    assert_eq!(list.as_array().unwrap().len(), 2);
    let (_, status) = control.get("/api/v1/status").await;
    assert_eq!(status["containments"], 2);

    // A restart forgets nothing; what ended meanwhile is not told.
    drop((orders_stream, payments_stream, gateway_stream));
    let control = Running::start_in(control.stop());
    let gateway = control.join("gateway", None).await;
    let mut stream = gateway.sync(gateway.hello()).await.unwrap();
    wait_for_one(&control).await;
    let told = stream.until("containments", |message| match message {
        from_control::Message::Containments(set) => Some(set.clone()),
        _ => None,
    });
    let told = told.await.1;
    assert!(told.entries.iter().any(|entry| entry.id == id));

    let path = format!("/api/v1/containments/{id}");
    let (status, released) = control.delete(&format!("{path}?reason=a%20mistake")).await;
    assert_eq!((status, &released["id"]), (200, &json!(id)));
    assert!(containments(&mut stream, 0).await.entries.is_empty());
    assert_eq!(control.delete(&path).await.0, 404);
    assert_eq!(
        audit(&control).await,
        [
            "admin containment.added",
            "admin containment.added",
            "control containment.expired",
            "admin containment.released"
        ]
    );
    let (_, verified) = control.get("/api/v1/audit/verify").await;
    assert_eq!(verified["ok"], true, "{verified}");
}

async fn wait_for_one(control: &Running) {
    for _ in 0..200 {
        let expired = audit(control).await;
        if expired.iter().any(|entry| entry.ends_with("expired")) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it does not end");
}

#[tokio::test]
async fn who_is_protected_later_is_released() {
    let control = Running::start();
    let gateway = control.join("gateway", None).await;
    let mut stream = gateway.sync(gateway.hello()).await.unwrap();
    let body = edge("orders", "payments", "10m");
    assert_eq!(control.post("/api/v1/containments", body).await.0, 201);
    containments(&mut stream, 1).await;
    let bundle = std::fs::read_to_string(control.bundle()).unwrap();
    std::fs::write(
        control.bundle(),
        format!("{bundle}watch: {{protect: [orders]}}\n"),
    )
    .unwrap();
    containments(&mut stream, 0).await;
    assert_eq!(
        audit(&control).await,
        ["admin containment.added", "control containment.released"]
    );
}

#[tokio::test]
async fn what_must_not_be_is_refused_with_a_code() {
    let control = Running::start();
    for (change, status, code) in [
        (json!({"principal": "gateway"}), 422, "containment.never"),
        (json!({"principal": "nobody"}), 422, "containment.unknown"),
        (json!({"service": "nobody"}), 422, "containment.unknown"),
        (
            json!({"operation": "payments:nothing"}),
            422,
            "containment.unknown",
        ),
        (json!({"for": "25h"}), 422, "containment.invalid"),
        (json!({"for": "soon"}), 400, "duration.invalid"),
        (json!({"reason": " "}), 422, "containment.invalid"),
        (json!({"kind": "address"}), 400, "schema.body"),
        (json!({"action": "tarpit"}), 400, "schema.body"),
        (json!({"rate": 0}), 400, "schema.body"),
    ] {
        let mut body = edge("orders", "payments", "10m");
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let (found, answer) = control.post("/api/v1/containments", body).await;
        assert_eq!(
            (found, &answer["code"]),
            (status, &json!(code)),
            "{change}: {answer}"
        );
    }
    for (body, status) in [
        (
            json!({"service": "orders", "mode": "report", "for": "25h"}),
            422,
        ),
        (
            json!({"service": "nobody", "mode": "report", "for": "1h"}),
            422,
        ),
        (
            json!({"service": "orders", "mode": "off", "for": "1h"}),
            400,
        ),
        (json!({"service": "orders", "mode": "report"}), 400),
    ] {
        assert_eq!(
            control.post("/api/v1/modes", body.clone()).await.0,
            status,
            "{body}"
        );
    }
    assert_eq!(control.delete("/api/v1/modes/orders").await.0, 404);
    assert!(audit(&control).await.is_empty(), "nothing happened");
}

#[tokio::test]
async fn a_mode_is_set_told_shown_and_ends() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let mut stream = orders.sync(orders.hello()).await.unwrap();
    let body = json!({"service": "orders", "mode": "report", "for": "30m", "reason": "deploy"});
    let (status, view) = control.post("/api/v1/modes", body).await;
    assert_eq!(status, 201, "{view}");
    assert_eq!(
        (&view["configured"], &view["proxy"]),
        (&json!("enforce"), &Value::Null)
    );
    let told = modes(&mut stream, |modes| !modes.entries.is_empty()).await;
    assert_eq!(
        (
            told.entries[0].service.as_str(),
            told.entries[0].mode.as_str()
        ),
        ("orders", "report")
    );
    let (_, services) = control.get("/api/v1/services").await;
    let orders_view = &services.as_array().unwrap()[0];
    assert_eq!(
        (&orders_view["mode"], &orders_view["configured_mode"]),
        (&json!("report"), &json!("enforce"))
    );
    assert!(orders_view["mode_until"].is_string());
    let (_, coverage) = control.get("/api/v1/coverage").await;
    assert_eq!(coverage[0]["mode"], "report");

    let (status, _) = control.delete("/api/v1/modes/orders").await;
    assert_eq!(status, 200);
    modes(&mut stream, |modes| modes.entries.is_empty()).await;
    let body = json!({"service": "orders", "mode": "observe", "for": "1s"});
    control.post("/api/v1/modes", body).await;
    wait_for_one(&control).await;
    let (_, list) = control.get("/api/v1/modes").await;
    assert_eq!(list, json!([]));
    assert_eq!(
        audit(&control).await,
        [
            "admin mode.set",
            "admin mode.reset",
            "admin mode.set",
            "control mode.expired"
        ]
    );
}

#[tokio::test]
async fn what_a_host_changed_is_written_down_once_and_only_of_its_own_service() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let mut stream = orders.sync(orders.hello()).await.unwrap();
    let told = modes(&mut stream, |modes| modes.audited.is_some()).await;
    assert_eq!(told.audited, Some(0));
    let until = u64::try_from(jiff::Timestamp::now().as_second()).unwrap() + 600;
    let change = |service: &str, mode: &str, sequence| {
        from_proxy::Message::ModeChanged(ModeChanged {
            service: service.to_owned(),
            mode: mode.to_owned(),
            until,
            at: until - 600,
            by: "uid 1000".to_owned(),
            sequence,
            reason: "deploy".to_owned(),
        })
    };
    for message in [
        change("orders", "report", 10),
        change("orders", "report", 10),
        change("payments", "observe", 11),
    ] {
        stream.send(message).await;
    }
    modes(&mut stream, |modes| modes.audited == Some(11)).await;
    let (_, list) = control.get("/api/v1/modes").await;
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(
        (&list[0]["proxy"], &list[0]["mode"]),
        (&json!(orders.name), &json!("report"))
    );
    assert_eq!(list[0]["by"], format!("{}: uid 1000", orders.name));
    // It is the one proxy's, not the mesh's.
    let (_, services) = control.get("/api/v1/services").await;
    assert_eq!(services[0]["mode"], "enforce");

    // On the next stream it hears what is written down, also after a restart.
    drop(stream);
    let control = Running::start_in(control.stop());
    let member = control.join("sidecar", Some("orders")).await;
    let again = testudo_model::mesh::Hello {
        proxy: orders.name.clone(),
        ..member.hello()
    };
    let mut stream = member.sync(again).await.unwrap();
    modes(&mut stream, |modes| modes.audited == Some(11)).await;
    stream.send(change("orders", "", 12)).await;
    modes(&mut stream, |modes| modes.audited == Some(12)).await;
    let (_, list) = control.get("/api/v1/modes").await;
    assert_eq!(list, json!([]));
    let name = &orders.name;
    assert_eq!(
        audit(&control).await,
        [
            format!("{name} mode.set_on_host"),
            format!("{name} mode.set_on_host"),
            format!("{name} mode.reset_on_host"),
        ]
    );
}
