//! `GET /api/v1/graph` of a running mesh: exactly what was sent is on the right edges.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::issuer::{AUDIENCE, ISSUER, Issuer};
use crate::mesh::{Mesh, Ports, wait_for};
use crate::upstream::{Seen, Upstream, respond};

const SPEC: &str = r##"
openapi: 3.1.0
info: {title: Orders, version: "1"}
paths:
  /orders/{id}:
    get:
      operationId: getOrder
      parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
      responses: {"200": {description: an order}, "404": {description: none}, "500": {description: broken}}
  /orders:
    delete: {operationId: clear, responses: {"204": {description: gone}}}
"##;

const POLICIES: &str = r#"
permit (principal in Role::"customer", action == Action::"orders:getOrder", resource);
forbid (principal is User, action == Action::"orders:getOrder", resource)
when { context.hop == "mesh" && context.params.id == 403 };
permit (principal == Service::"orders", action == Action::"stock:GET", resource);
"#;

const HOST: &str = "localhost";

fn answer(seen: &Seen) -> Option<Vec<u8>> {
    match seen.path.as_str() {
        "/orders/404" => respond(404, &[], "no such order"),
        "/orders/500" => respond(500, &[], "broken"),
        _ => respond(200, &[], "0123456789"),
    }
}

fn mesh(issuer: &Issuer, orders: &Upstream, stock: &Upstream) -> Mesh {
    let ports = Ports::free();
    let yaml = format!(
        "version: 1
trust_domain: e2e.test
{}gateway:
  listen: 127.0.0.1:{}
  routes: [{{path: /orders, service: orders}}]
users:
  jwt:
    e2e: {{issuer: {ISSUER}, audiences: [{AUDIENCE}], jwks: keys/jwks.json, roles: {{claim: roles, allow: [customer]}}}}
services:
  orders: {{app: ['{}'], api: {{openapi: apis/orders.yaml}}, user: authorize}}
  stock: {{app: ['{}'], user: ignore}}
policies: policies
",
        ports.control(),
        ports.gateway,
        orders.address,
        stock.address,
    );
    let files = [
        ("testudo.yaml", yaml),
        ("apis/orders.yaml", SPEC.to_string()),
        ("policies/all.cedar", POLICIES.to_string()),
        ("keys/jwks.json", issuer.jwks()),
    ];
    Mesh::up(&ports, &files, 3)
}

fn edge(graph: &Value, hop: &str, caller: &str, service: &str) -> Value {
    let mut edges = graph["edges"].as_array().unwrap().iter();
    let found = edges
        .find(|edge| edge["hop"] == hop && edge["caller"] == caller && edge["service"] == service);
    found.cloned().unwrap_or(Value::Null)
}

/// 15 requests to orders at the edge, of which 10 reach it, and what else there is to refuse.
fn send_traffic(mesh: &Mesh, issuer: &Issuer) {
    let edge_of_mesh = mesh.edge(HOST);
    let bearer = |user: &str| format!("Bearer {}", issuer.token(user, &["customer"]));
    let send = |method: &str, path: &str, token: Option<&str>| {
        let mut headers = vec![("user-agent", "e2e")];
        headers.extend(token.map(|token| ("authorization", token)));
        edge_of_mesh.send(method, HOST, path, &headers, b"").status
    };

    // 5 of alice, 5 of bob (one stopped at the sidecar, one the application's own 404, one its own 500), and what is stopped.
    let (alice, bob) = (bearer("alice"), bearer("bob"));
    for id in 1..=5 {
        assert_eq!(send("GET", &format!("/orders/{id}"), Some(&alice)), 200);
    }
    for (path, status) in [
        ("1", 200),
        ("2", 200),
        ("403", 403),
        ("404", 404),
        ("500", 500),
    ] {
        assert_eq!(send("GET", &format!("/orders/{path}"), Some(&bob)), status);
    }
    assert_eq!(send("DELETE", "/orders", Some(&bob)), 403);
    assert_eq!(send("GET", "/orders/1", None), 401);
    let forged = Issuer::new().token("alice", &["customer"]);
    for _ in 0..3 {
        assert_eq!(
            send("GET", "/orders/1", Some(&format!("Bearer {forged}"))),
            401
        );
    }
    assert_eq!(send("GET", "/nowhere", Some(&alice)), 404);
    // The application of orders calls stock twice, and once more than it may.
    let outbound = mesh.own_outbound("orders-1");
    for _ in 0..2 {
        assert_eq!(
            outbound.send("GET", "stock.mesh", "/", &[], b"").status,
            200
        );
    }
    assert_eq!(
        outbound.send("POST", "stock.mesh", "/", &[], b"").status,
        403
    );
    assert_eq!(
        outbound.send("GET", "nothing.mesh", "/", &[], b"").status,
        404
    );
}

#[test]
fn the_graph_has_exactly_what_was_sent() {
    let issuer = Issuer::new();
    let (orders, stock) = (Upstream::start(answer), Upstream::start(answer));
    let mesh = mesh(&issuer, &orders, &stock);
    send_traffic(&mesh, &issuer);

    // Within a window, its grace and the way; the goal of the demo is 15 s.
    let sent = Instant::now();
    let mut graph = Value::Null;
    wait_for("the graph to have everything", || {
        graph = mesh.get("/api/v1/graph?seconds=60");
        edge(&graph, "edge", "clients", "orders")["requests"] == 15
            && edge(&graph, "mesh", "gateway", "orders")["requests"] == 10
            && edge(&graph, "mesh", "orders", "stock")["requests"] == 3
            && edge(&graph, "mesh", "orders", "unknown")["requests"] == 1
    });
    assert!(
        sent.elapsed() < Duration::from_secs(10),
        "{:?}",
        sent.elapsed()
    );

    let at_edge = edge(&graph, "edge", "clients", "orders");
    assert_eq!(
        (&at_edge["denied"], &at_edge["errors"], &at_edge["users"]),
        (&json!(5), &json!(1), &json!(2)),
        "{at_edge}"
    );
    assert_eq!(
        at_edge["reasons"],
        json!({"authn.invalid": 3, "authn.missing": 1, "authz.user": 1})
    );
    assert!(at_edge["p50_us"].as_u64() > Some(0) && at_edge["guard_p50_us"].is_u64());
    let operations: Vec<_> = at_edge["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            json!([
                row["operation"],
                row["requests"],
                row["denied"],
                row["errors"]
            ])
        })
        .collect();
    assert_eq!(
        json!(operations),
        json!([["orders:clear", 1, 1, 0], ["orders:getOrder", 14, 4, 1]])
    );
    // No route: that is the gateway's own.
    let nowhere = edge(&graph, "edge", "clients", "gateway");
    assert_eq!(nowhere["reasons"], json!({"route.none": 1}), "{nowhere}");

    inside_is_right(&mesh, &graph);
}

/// What the sidecars counted, and all nodes.
fn inside_is_right(mesh: &Mesh, graph: &Value) {
    let inside = edge(graph, "mesh", "gateway", "orders");
    assert_eq!(
        (&inside["denied"], &inside["errors"], &inside["users"]),
        (&json!(1), &json!(1), &json!(2)),
        "{inside}"
    );
    let passed_on = mesh.decision("what the sidecar refused, at the edge", |event| {
        event["hop"] == "edge" && event["path"] == "/orders/403"
    });
    assert_eq!(
        (
            &passed_on["verdict"],
            &passed_on["status"],
            &passed_on["inside"]
        ),
        (&json!("permit"), &json!(403), &json!("authz.user")),
        "{passed_on}"
    );
    assert!(inside["bytes_out"].as_u64() >= Some(70), "{inside}");
    let to_stock = edge(graph, "mesh", "orders", "stock");
    assert_eq!(
        to_stock["reasons"],
        json!({"authz.caller": 1}),
        "{to_stock}"
    );
    assert_eq!(graph["windows"]["refused"], 0, "{graph}");
    assert_eq!(graph["dropped_keys"], 0);
    let names: Vec<_> = graph["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| json!([node["name"], node["kind"], node["ready"]]))
        .collect();
    assert_eq!(
        json!(names),
        json!([
            ["clients", "client", 0],
            ["gateway", "gateway", 1],
            ["orders", "service", 1],
            ["stock", "service", 1],
            ["unknown", "external", 0]
        ])
    );
}
