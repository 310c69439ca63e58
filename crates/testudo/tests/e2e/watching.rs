//! What the mesh notices: honest traffic is no incident, a user who walks through others' orders is
//! exactly one, told by webhook, shown, acknowledged, muted, and kept over a restart of control.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use serde_json::Value;

use crate::http::{Response, Target};
use crate::issuer::{AUDIENCE, ISSUER, Issuer};
use crate::mesh::{Mesh, Ports, signal, wait_for};
use crate::upstream::{Seen, Upstream, respond};

const SECRET: &str = "correct horse battery staple";
const HOST: &str = "localhost";

const ORDERS: &str = r##"
openapi: 3.1.0
info: {title: Orders, version: "1"}
paths:
  /orders/{customer}/{order}:
    parameters:
      - {name: customer, in: path, required: true, schema: {type: string}}
      - {name: order, in: path, required: true, schema: {type: integer}}
    get: {operationId: getOrder, responses: {"200": {description: an order}}}
"##;

const POLICIES: &str = r#"
permit (principal in Role::"customer", action == Action::"orders:getOrder", resource)
when { context.params.customer == principal.id };
"#;

fn answer(_: &Seen) -> Option<Vec<u8>> {
    respond(
        200,
        &[("content-type", "application/json")],
        "{\"paid\": true}",
    )
}

struct World {
    mesh: Mesh,
    edge: Target,
    issuer: Issuer,
    hook: Upstream,
    slack: Upstream,
    _orders: Upstream,
}

impl World {
    fn start() -> World {
        let issuer = Issuer::new();
        let [orders, hook, slack] = std::array::from_fn(|_| Upstream::start(answer));
        let ports = Ports::free();
        let yaml = format!(
            "version: 1\ntrust_domain: e2e.test\n{}gateway:\n  listen: 127.0.0.1:{}\n  routes: [{{path: /orders, service: orders}}]\n\
             users:\n  jwt:\n    shop: {{issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks: keys/jwks.json, roles: {{claim: roles, allow: [customer]}}}}\n\
             services:\n  orders: {{app: ['{}'], api: {{openapi: apis/orders.yaml}}}}\n\
             watch:\n  notify:\n    - {{url: 'http://{}/hook', secret: '${{file:hook.key}}'}}\n    - {{url: 'http://{}/slack', format: slack}}\n",
            ports.control(),
            ports.gateway,
            orders.address,
            hook.address,
            slack.address,
        );
        let files = [
            ("testudo.yaml", yaml),
            ("apis/orders.yaml", ORDERS.to_string()),
            ("policies/all.cedar", POLICIES.to_string()),
            ("keys/jwks.json", issuer.jwks()),
            ("hook.key", format!("{SECRET}\n")),
        ];
        let mesh = Mesh::up(&ports, &files, 2);
        World {
            edge: mesh.edge(HOST),
            mesh,
            issuer,
            hook,
            slack,
            _orders: orders,
        }
    }

    fn order(&self, token: &str, customer: &str, order: u32) -> Response {
        let authorization = format!("Bearer {token}");
        let path = format!("/orders/{customer}/{order}");
        let headers = [("authorization", authorization.as_str())];
        self.edge.send("GET", HOST, &path, &headers, b"")
    }

    fn incidents(&self) -> Vec<Value> {
        let all = self.mesh.get("/api/v1/incidents?state=all");
        all.as_array().unwrap().clone()
    }

    fn watch(&self, args: &[&str]) -> String {
        let output = self.mesh.testudo(&[&["watch"], args].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Three customers look at a few orders of their own, and now and then mistype a number.
fn honest_traffic(world: &World) {
    let customers = ["alice", "carol", "dave"];
    let tokens = customers.map(|name| world.issuer.token(name, &["customer"]));
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < Duration::from_secs(31) {
        for (name, token) in customers.iter().zip(&tokens) {
            number += 1;
            let asked = if number % 97 == 0 { "alice" } else { name };
            let answer = world.order(token, asked, number % 7);
            assert!(matches!(answer.status, 200 | 403), "{answer:?}");
        }
        // Customers take their time.
        std::thread::sleep(Duration::from_millis(150));
    }
}

#[test]
fn a_walk_through_orders_is_one_incident_and_honest_traffic_is_none() {
    let mut world = World::start();
    honest_traffic(&world);
    assert_eq!(world.incidents(), [] as [Value; 0]);

    let began = Instant::now();
    let bob = world.issuer.token("bob", &["customer"]);
    for order in 1..=150 {
        assert_eq!(world.order(&bob, "alice", order).status, 403);
    }
    wait_for("the incident", || !world.incidents().is_empty());
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    let all = world.incidents();
    let [incident] = all.as_slice() else {
        panic!("not exactly one: {all:#?}");
    };
    assert_eq!(incident["detector"], "enumeration");
    assert_eq!(incident["who"]["name"], "shop:bob");
    assert_eq!(incident["what"]["operation"], "orders:getOrder");
    assert!(incident["baseline"]["seen"].as_f64().unwrap() >= 50.0);
    assert_eq!(incident["owasp"][0]["id"], "API1:2023");
    assert!(
        incident["suggestion"]
            .as_str()
            .unwrap()
            .contains("orders:getOrder")
    );
    let id = incident["id"].as_str().unwrap().to_string();

    shown(&world, &id, incident["samples"][0].as_str().unwrap());
    told(&world, &id);
    decided(&mut world, &id);
    assert_eq!(world.incidents().len(), 1, "{:#?}", world.incidents());
}

/// By the command line, with samples that `why` knows.
fn shown(world: &World, id: &str, sample: &str) {
    let listed = world.watch(&["list"]);
    assert!(
        listed.contains(id) && listed.contains("shop:bob"),
        "{listed}"
    );
    let shown = world.watch(&["show", id]);
    for part in [
        "shop:bob",
        "orders:getOrder",
        "API1:2023",
        "forbid (principal == User::\"shop:bob\"",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let why = world.mesh.testudo(&["why", sample]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("authz.user"), "{why}");
    // The decision logs say the same.
    let simulated = world.watch(&["simulate", "-o", "json"]);
    let simulated: Value = serde_json::from_str(&simulated).unwrap();
    assert_eq!(
        simulated["incidents"].as_array().unwrap().len(),
        1,
        "{simulated:#}"
    );
    assert_eq!(
        simulated["contained"][0]["who"]["name"], "shop:bob",
        "{simulated:#}"
    );
}

/// To both webhooks, the one with a secret signed.
fn told(world: &World, id: &str) {
    wait_for("the webhooks to be told", || {
        world.hook.saw("/hook") && world.slack.saw("/slack")
    });
    let delivery = world.hook.last();
    assert_eq!(delivery.header("x-testudo-event"), Some("incident.opened"));
    let body: Value = serde_json::from_slice(&delivery.body).unwrap();
    assert_eq!(body["incident"]["id"], *id);
    let timestamp = delivery.header("x-testudo-timestamp").unwrap();
    let signed = [timestamp.as_bytes(), b".", &delivery.body].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let expected: String = hmac::sign(&key, &signed)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        delivery.header("x-testudo-signature"),
        Some(format!("v1={expected}").as_str())
    );
    let message: Value = serde_json::from_slice(&world.slack.last().body).unwrap();
    assert!(
        message["text"].as_str().unwrap().contains("shop:bob"),
        "{message}"
    );
    assert_eq!(world.slack.last().header("x-testudo-signature"), None);
}

/// Acknowledged, muted, and kept over a restart of control.
fn decided(world: &mut World, id: &str) {
    world.watch(&["ack", id, "--note", "bob was asked"]);
    let acknowledged = world.mesh.get(&format!("/api/v1/incidents/{id}"));
    assert_eq!(acknowledged["state"], "acknowledged");
    assert_eq!(acknowledged["note"], "bob was asked");
    world.watch(&["mute", id, "--for", "2h"]);
    assert_eq!(world.watch(&["list"]).trim(), "no open incidents");
    let audit = world.mesh.get("/api/v1/audit?limit=10").to_string();
    assert!(audit.contains("incident.muted"), "{audit}");

    let control = std::fs::read_to_string(world.mesh.path(".testudo/control.json")).unwrap();
    let control: Value = serde_json::from_str(&control).unwrap();
    let pid = u32::try_from(control["pid"].as_u64().unwrap()).unwrap();
    signal(pid, "KILL");
    wait_for("another control", || {
        let file = std::fs::read_to_string(world.mesh.path(".testudo/control.json"));
        let file: Value = serde_json::from_str(&file.unwrap_or_default()).unwrap_or_default();
        file["pid"]
            .as_u64()
            .is_some_and(|new| new != u64::from(pid))
    });
    let kept = world.mesh.get(&format!("/api/v1/incidents/{id}"));
    assert_eq!(kept["state"], "muted");
    assert_eq!(kept["note"], "bob was asked");
    assert!(kept["muted_until"].is_string());
}
