//! What policy lets whom do, what was used of it, and the audit log, on the sample shop.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testudo_model::mesh::from_proxy;
use testudo_watch::window::Aggregator;

use crate::running::{Member, Running, Stream};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

fn shop() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let shop = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let bundle = dir.path().join("bundle");
    for folder in ["apis", "keys", "policies"] {
        copy(&shop.join(folder), &bundle.join(folder));
    }
    std::fs::copy(shop.join("testudo.yaml"), bundle.join("testudo.yaml")).unwrap();
    Running::start_in(dir)
}

/// The cell of a principal and an operation.
fn cell(access: &Value, kind: &str, name: &str, operation: &str) -> Value {
    let index = |list: &Value, wanted: &dyn Fn(&Value) -> bool| {
        list.as_array().unwrap().iter().position(wanted).unwrap()
    };
    let principal = index(&access["principals"], &|row| {
        row["kind"] == kind && row["name"] == name
    });
    let operation = index(&access["operations"], &|row| row["operation"] == operation);
    let mut cells = access["cells"].as_array().unwrap().iter();
    let found = cells.find(|cell| cell["principal"] == principal && cell["operation"] == operation);
    found.cloned().unwrap_or(Value::Null)
}

#[tokio::test]
async fn the_access_matrix_has_the_line_that_decides() {
    let control = shop();
    let (status, access) = control.get("/api/v1/access").await;
    assert_eq!(status, 200, "{access}");
    let get = cell(&access, "role", "customer", "orders:getOrder");
    assert_eq!(get["allowed"], "depends", "{get}");
    assert_eq!(
        get["policy"],
        json!({"file": "policies/customers.cedar", "line": 8})
    );
    let create = cell(&access, "role", "customer", "orders:createOrder");
    assert_eq!(create["allowed"], true, "{create}");
    let refund = cell(&access, "role", "customer", "orders:refundOrder");
    assert!(refund.is_null(), "{refund}");
    let charge = cell(&access, "service", "orders", "payments:charge");
    assert_eq!(
        (&charge["allowed"], &charge["permitted"]),
        (&json!(true), &json!(0))
    );
    assert!(cell(&access, "service", "storefront", "payments:charge").is_null());
    let list = cell(&access, "anonymous", "anonymous", "catalog:listProducts");
    assert_eq!(list["allowed"], true, "{list}");

    let (_, access) = control.get("/api/v1/access?service=payments").await;
    let operations = access["operations"].as_array().unwrap();
    assert!(operations.iter().all(|row| row["service"] == "payments"));
    let charge = cell(&access, "service", "orders", "payments:charge");
    assert_eq!(charge["allowed"], true, "{charge}");
}

#[tokio::test]
async fn the_blast_radius_of_the_shop() {
    let control = shop();
    let (_, reach) = control.get("/api/v1/reach?service=storefront").await;
    // Nothing but catalog, and there for users; the nightly export is a job of its own.
    let services = reach["reaches"].as_array().unwrap();
    assert_eq!(services.len(), 1, "{reach}");
    let operations = services[0]["operations"].as_array().unwrap();
    assert_eq!(
        operations[0],
        json!({
            "operation": "catalog:listProducts",
            "via": ["storefront", "catalog"],
            "policy": {"file": "policies/mesh.cedar", "line": 2},
            "as": "users",
            "allowed": true,
        })
    );
    let alone = operations
        .iter()
        .filter(|operation| operation["as"] == "itself");
    let alone: Vec<_> = alone.map(|operation| &operation["operation"]).collect();
    assert_eq!(alone, ["catalog:exportProducts"], "{reach}");
    let (_, reach) = control.get("/api/v1/reach?service=orders").await;
    let payments = &reach["reaches"][0];
    assert_eq!(payments["service"], "payments", "{reach}");
    let operations = payments["operations"].as_array().unwrap();
    assert_eq!(operations.len(), 3, "{reach}");
    assert!(
        operations
            .iter()
            .all(|operation| operation["as"] == "users")
    );
    let (status, _) = control.get("/api/v1/reach?service=nobody").await;
    assert_eq!(status, 404);
    let (status, _) = control.get("/api/v1/reach").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn coverage_says_what_protects_each_service() {
    let control = shop();
    let (_, coverage) = control.get("/api/v1/coverage").await;
    let of = |name: &str| {
        let mut list = coverage.as_array().unwrap().iter();
        list.find(|row| row["service"] == name).unwrap().clone()
    };
    assert_eq!(
        of("orders"),
        json!({
            "service": "orders", "mtls": "enforce", "authn": "enforce", "authz": "enforce",
            "callers": "enforce", "schema": "enforce", "responses": "report", "limit": "enforce",
            "limits": ["orders-per-user"], "waf": "none", "mode": "enforce",
        })
    );
    assert_eq!(of("payments")["limit"], "none");
}

fn event(name: &str, caller: &str, roles: &[&str], reason: Option<&str>, path: &str) -> Value {
    json!({
        "time": jiff::Timestamp::now(), "request_id": "r", "trace_id": "t", "proxy": name, "hop": "mesh",
        "revision": 1, "caller": caller, "user": "shop:alice", "roles": roles, "source_ip": null,
        "service": "orders", "operation": "orders:getOrder", "method": "GET", "host": "h", "path": path,
        "status": 200, "verdict": if reason == Some("authz.user") { "deny" } else { "permit" },
        "reason": reason, "mode": "enforce", "policy": null, "findings": [], "bytes_in": 0, "bytes_out": 0,
        "duration_us": 1, "guard_us": 1,
    })
}

async fn orders(control: &Running) -> (Member, Stream) {
    let member = control.join("sidecar", Some("orders")).await;
    let stream = member.sync(member.hello()).await.unwrap();
    (member, stream)
}

#[tokio::test]
async fn what_was_used_is_counted_and_outlives_a_restart() {
    let control = shop();
    let (member, stream) = orders(&control).await;
    let events = [
        event(
            &member.name,
            "gateway",
            &["customer"],
            None,
            "/orders/alice/7",
        ),
        event(
            &member.name,
            "gateway",
            &["customer"],
            None,
            "/orders/alice/8",
        ),
        event(
            &member.name,
            "gateway",
            &["customer"],
            Some("authz.user"),
            "/orders/bob/1",
        ),
        event(
            &member.name,
            "storefront",
            &["admin", "customer"],
            None,
            "/orders/bob/1",
        ),
    ];
    let json = events.iter().map(|event| event.to_string().into_bytes());
    let sent = testudo_model::mesh::Events {
        json: json.collect(),
        dropped: 0,
    };
    stream.send(from_proxy::Message::Events(sent)).await;
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
    let mut aggregator = Aggregator::new(Some("orders".into()), now);
    for event in events {
        aggregator.count(&serde_json::from_value(event).unwrap(), now);
    }
    let windows = testudo_model::mesh::Windows {
        windows: aggregator.finish().unwrap().encode(),
        dropped: 0,
    };
    stream.send(from_proxy::Message::Windows(windows)).await;
    let start = Instant::now();
    let calls = loop {
        let (_, calls) = control.get("/api/v1/calls?service=orders&since=60").await;
        // The window is complete a second after its end.
        let is_counted = |call: &Value| call["permitted"] != 0;
        let counted = calls["calls"].as_array().unwrap().iter();
        if counted.filter(|call| is_counted(call)).count() == 2 {
            break calls;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{calls}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let calls = calls["calls"].as_array().unwrap();
    let mut calls = calls.iter();
    let seen = calls.find(|call| call["caller"] == "gateway").unwrap();
    assert_eq!(
        (&seen["permitted"], &seen["denied"], &seen["denied_for"]),
        (&json!(2), &json!(1), &json!({"authz.user": 1})),
        "{seen}"
    );
    // Denied requests say nothing about whose objects users may have.
    assert_eq!(seen["objects"]["customerId"]["own"], 2, "{seen}");
    assert_eq!(seen["objects"]["customerId"]["other"], 0, "{seen}");
    assert_eq!(seen["identity"], json!({"roles": ["customer"]}));

    drop(stream);
    let control = Running::start_in(control.stop());
    let (_, access) = control.get("/api/v1/access").await;
    let customer = cell(&access, "role", "customer", "orders:getOrder");
    // Two as customers alone, one as a customer who is an administrator too.
    assert_eq!(
        (
            &customer["permitted"],
            &customer["denied"],
            &customer["allowed"]
        ),
        (&json!(3), &json!(1), &json!("depends")),
        "{customer}"
    );
    let storefront = cell(&access, "service", "storefront", "orders:getOrder");
    assert_eq!(
        (&storefront["permitted"], &storefront["allowed"]),
        (&json!(1), &json!(false)),
        "{storefront}"
    );
}

#[tokio::test]
async fn the_audit_log_is_listed_newest_first_and_holds() {
    let control = shop();
    let (status, _) = control
        .post(
            "/api/v1/revocations",
            json!({"kind": "user", "value": "shop:mallory", "reason": "stolen"}),
        )
        .await;
    assert_eq!(status, 201);
    let (_, audit) = control.get("/api/v1/audit?limit=2").await;
    let newest = &audit[0];
    assert_eq!(
        (
            &newest["sequence"],
            &newest["by"],
            &newest["action"],
            &newest["subject"]
        ),
        (
            &json!(2),
            &json!("admin"),
            &json!("revocation.added"),
            &json!("user shop:mallory")
        ),
        "{audit}"
    );
    assert_eq!(audit[1]["subject"], "revision 1", "{audit}");
    assert_eq!(newest["previous"], audit[1]["hash"], "{audit}");
    let noted = newest["hash"].as_str().unwrap();
    let (_, check) = control
        .get(&format!("/api/v1/audit/verify?contains={noted}"))
        .await;
    assert_eq!(
        check,
        json!({"ok": true, "entries": 2, "newest": noted, "broken": null, "contains": true})
    );
    let (_, check) = control
        .get(&format!("/api/v1/audit/verify?contains={}", "0".repeat(64)))
        .await;
    assert_eq!(
        (&check["ok"], &check["contains"]),
        (&json!(false), &json!(false))
    );
}
