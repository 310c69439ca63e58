//! `testudo why` against a running mesh: what people see of a request that went wrong, hop by hop.

use std::process::Output;
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::Response;
use crate::issuer::Issuer;
use crate::mesh::{Mesh, Ports, TESTUDO, signal, wait_for};
use crate::outbound::Outbound;
use crate::upstream::{Seen, Upstream, respond};

const ORDERS: &str = r##"
openapi: 3.1.0
info: {title: Orders, version: "1"}
paths:
  /orders:
    post:
      operationId: createOrder
      requestBody:
        required: true
        content:
          application/json:
            schema:
              type: object
              additionalProperties: false
              required: [product]
              properties: {product: {type: integer}}
      responses: {"201": {description: made}, "502": {description: no}}
  /orders/{customer}/{id}:
    get:
      operationId: getOrder
      parameters:
        - {name: customer, in: path, required: true, schema: {type: string}}
        - {name: id, in: path, required: true, schema: {type: integer}}
      responses: {"200": {description: an order}}
  /teapot: {get: {operationId: teapot, responses: {"200": {description: ok}}}}
"##;

const PAYMENTS: &str = r##"
openapi: 3.1.0
info: {title: Payments, version: "1"}
paths:
  /charges: {post: {operationId: charge, responses: {"201": {description: made}}}}
"##;

const POLICIES: &str = r#"permit (principal in Role::"customer", action in [Action::"orders:createOrder", Action::"orders:teapot"], resource);
permit (principal in Role::"customer", action == Action::"orders:getOrder", resource)
when { context.params.customer == principal.id };
permit (principal in Role::"admin", action == Action::"orders:getOrder", resource);
permit (principal in Role::"customer", action == Action::"payments:charge", resource);
permit (principal == Service::"orders", action == Action::"payments:charge", resource);
"#;

/// How orders calls payments: its sidecar's outbound side, known once the mesh runs.
static CALLS: OnceLock<Outbound> = OnceLock::new();

/// The application `orders`: it charges, with or without what came along, and turns a refusal into a 502.
fn orders(seen: &Seen) -> Option<Vec<u8>> {
    if seen.path == "/teapot" {
        return respond(403, &[], "not for you");
    }
    if seen.method != "POST" {
        return respond(200, &[], "an order");
    }
    let passes_on = !String::from_utf8_lossy(&seen.body).contains("13");
    let mut headers = Vec::new();
    if passes_on {
        let names = ["txn-token", "traceparent"];
        headers.extend(
            names
                .iter()
                .filter_map(|name| Some((*name, seen.header(name)?))),
        );
    }
    let charged = CALLS
        .get()?
        .send("POST", "payments.mesh", "/charges", &headers, b"");
    match charged.status {
        201 => respond(201, &[], ""),
        _ => respond(502, &[], ""),
    }
}

fn payments(_: &Seen) -> Option<Vec<u8>> {
    respond(201, &[], "")
}

struct World {
    mesh: Mesh,
    _orders: Upstream,
    _payments: Upstream,
    _old: Upstream,
    issuer: Issuer,
}

/// One mesh for all tests of this file; they run one after the other.
fn world() -> MutexGuard<'static, World> {
    static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::start()));
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn start() -> World {
        let issuer = Issuer::new();
        let (orders, old) = (Upstream::start(orders), Upstream::start(payments));
        let payments = Upstream::start(payments);
        let ports = Ports::free();
        let yaml = format!(
            "version: 1
trust_domain: e2e.test
{control}gateway:
  listen: 127.0.0.1:{gateway}
  routes:
    - {{host: api.e2e.test, path: /, service: orders}}
    - {{host: api.e2e.test, path: /old, service: old, strip_prefix: true}}
users:
  jwt:
    e2e:
      issuer: https://id.e2e.test
      audiences: [e2e]
      jwks: keys/jwks.json
      id: /sub
      roles: {{claim: roles, allow: [customer, admin]}}
services:
  orders:
    app: [127.0.0.1:{orders}]
    api: {{openapi: apis/orders.yaml}}
  payments:
    app: [127.0.0.1:{payments}]
    api: {{openapi: apis/payments.yaml}}
  old:
    app: [127.0.0.1:{old}]
    mode: report
policies: policies
",
            control = ports.control(),
            gateway = ports.gateway,
            orders = orders.address.port(),
            payments = payments.address.port(),
            old = old.address.port(),
        );
        let files = [
            ("testudo.yaml", yaml),
            ("apis/orders.yaml", ORDERS.to_string()),
            ("apis/payments.yaml", PAYMENTS.to_string()),
            ("policies/all.cedar", POLICIES.to_string()),
            ("keys/jwks.json", issuer.jwks()),
        ];
        let mesh = Mesh::up(&ports, &files, 4);
        assert!(CALLS.set(mesh.own_outbound("orders-1")).is_ok());
        World {
            mesh,
            _orders: orders,
            _payments: payments,
            _old: old,
            issuer,
        }
    }

    fn send(&self, method: &str, path: &str, user: Option<&str>, body: &str) -> Response {
        let token = user.map(|user| format!("Bearer {}", self.issuer.token(user, &["customer"])));
        let mut headers = Vec::new();
        headers.extend(token.as_deref().map(|token| ("authorization", token)));
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        let edge = self.mesh.edge("api.e2e.test");
        edge.send(method, "api.e2e.test", path, &headers, body.as_bytes())
    }

    /// `testudo why` of a response, as data.
    fn why(&self, response: &Response) -> Value {
        let id = response.header("x-request-id").unwrap();
        json(&self.mesh.testudo(&["why", id, "-o", "json"]))
    }

    /// The same for people.
    fn text(&self, response: &Response) -> String {
        let id = response.header("x-request-id").unwrap();
        let output = self.mesh.testudo(&["why", id]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `at caller>service status` of each hop.
fn hops(why: &Value) -> Vec<String> {
    let hop = |hop: &Value| {
        let caller = hop["caller"].as_str().unwrap_or("client");
        let (at, service) = (
            hop["at"].as_str().unwrap(),
            hop["service"].as_str().unwrap(),
        );
        format!("{at} {caller}>{service} {}", hop["status"])
    };
    why["hops"].as_array().unwrap().iter().map(hop).collect()
}

fn cause(why: &Value) -> &str {
    why["cause"]
        .as_str()
        .unwrap_or_else(|| panic!("no cause: {why}"))
}

#[test]
fn a_permitted_request_shows_every_hop_and_check() {
    let world = world();
    let response = world.send("POST", "/orders", Some("alice"), r#"{"product":1}"#);
    assert_eq!(response.status, 201, "{response:?}");
    let why = world.why(&response);
    assert_eq!(
        hops(&why),
        [
            "edge client>orders 201",
            "mesh 1 gateway>orders 201",
            "mesh 2 orders>payments 201"
        ]
    );
    assert_eq!(
        (&why["verdict"], &why["reason"], &why["cause"]),
        (&"permit".into(), &Value::Null, &Value::Null)
    );
    assert_eq!(why["missing"], serde_json::json!([]));
    for hop in why["hops"].as_array().unwrap() {
        let checks = hop["checks"].as_array().unwrap();
        assert!(
            checks
                .iter()
                .any(|check| check["name"] == "user"
                    && check["policy"]["file"] == "policies/all.cedar"),
            "{hop}"
        );
        assert!(
            hop["guard_us"].as_u64().is_some() && hop.get("trace_guessed").is_none(),
            "{hop}"
        );
    }
    // The fields of DESIGN §12, and the same by the API.
    let id = response.header("x-request-id").unwrap();
    let api = world.mesh.get(&format!("/api/v1/why/{id}"));
    for name in [
        "request_id",
        "trace_id",
        "verdict",
        "reason",
        "hops",
        "cause",
        "permit_if",
        "missing",
    ] {
        assert_eq!(api.get(name), why.get(name), "{name}");
    }
    let last = json(&world.mesh.testudo(&["why", "last", "--any", "-o", "json"]));
    assert_eq!(last["trace_id"], why["trace_id"]);
}

#[test]
fn a_user_dropped_at_mesh_2_is_told_with_levels_cause_and_permit() {
    let world = world();
    let response = world.send("POST", "/orders", Some("alice"), r#"{"product":13}"#);
    assert_eq!(response.status, 502, "{response:?}");
    let why = world.why(&response);
    assert_eq!(
        hops(&why),
        [
            "edge client>orders 502",
            "mesh 1 gateway>orders 502",
            "mesh 2 orders>payments 401"
        ]
    );
    assert_eq!(
        (
            why["verdict"].as_str(),
            why["reason"].as_str(),
            why["by"].as_str()
        ),
        (Some("deny"), Some("authn.missing"), Some("testudo"))
    );
    assert!(
        cause(&why).starts_with("orders received e2e:alice's Txn-Token at mesh 1 and sent none at mesh 2. payments has user: authorize (testudo.yaml:"),
        "{why}"
    );
    assert_eq!(
        why["permit_if"][0],
        "if orders sends it; then user ✓ policies/all.cedar:5"
    );
    // Without traceparent the trace is a guess, and is called one.
    assert_eq!(why["hops"][2]["trace_guessed"], true, "{why}");
    assert!(cause(&why).contains("is a guess"), "{why}");

    let text = world.text(&response);
    for fact in [
        "✗ 401 authn.missing at mesh 2   POST /orders   user e2e:alice",
        "edge    client ─▶ gateway",
        "mesh 1  gateway ─▶ orders",
        "mesh 2  orders ─▶ payments",
        "mTLS      ✓ spiffe://e2e.test/service/orders",
        "user      ✗ no user came along",
        "Cause   orders received e2e:alice's Txn-Token at mesh 1",
        "Permit  if orders sends it; then user ✓ policies/all.cedar:5",
        "testudo observe --edge orders,payments",
    ] {
        assert!(text.contains(fact), "{fact} is missing in\n{text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    // It is also the newest denial, and the only one on that edge.
    let last = json(&world.mesh.testudo(&["why", "last", "-o", "json"]));
    assert_eq!(last["trace_id"], why["trace_id"]);
    let observed = world.mesh.testudo(&[
        "observe",
        "--edge",
        "orders,payments",
        "--since",
        "5m",
        "--verdict",
        "deny",
        "-o",
        "json",
    ]);
    let lines = String::from_utf8(observed.stdout).unwrap();
    assert!(!lines.is_empty());
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&event["caller"], &event["service"]),
            (&"orders".into(), &"payments".into())
        );
    }
}

#[test]
fn the_applications_own_403_is_told_from_ours() {
    let world = world();
    let own = world.send("GET", "/teapot", Some("alice"), "");
    assert_eq!(own.verdict(), (403, None));
    let why = world.why(&own);
    assert_eq!(
        (why["by"].as_str(), why["reason"].as_str()),
        (Some("application"), None)
    );
    assert!(
        cause(&why).starts_with(
            "The application of orders answered 403 itself at mesh 1; every check of ours"
        ),
        "{why}"
    );
    assert!(
        world
            .text(&own)
            .starts_with("✗ 403 answered by orders itself at mesh 1   GET /teapot")
    );

    let ours = world.send("GET", "/orders/alice/7", Some("bob"), "");
    assert_eq!(ours.verdict(), (403, Some("authz.user".to_string())));
    let why = world.why(&ours);
    assert_eq!(hops(&why), ["edge client>orders 403"]);
    let permit_if = why["permit_if"].as_array().unwrap();
    assert!(
        permit_if
            .iter()
            .any(|line| line == "the role admin (policies/all.cedar:4)"),
        "{why}"
    );
    assert!(
        permit_if.iter().any(|line| line
            .as_str()
            .unwrap()
            .contains("context.params.customer == principal.id")),
        "{why}"
    );
}

#[test]
fn a_body_that_breaks_the_specification_names_the_line() {
    let world = world();
    let response = world.send(
        "POST",
        "/orders",
        Some("alice"),
        r#"{"product":1,"paid":true}"#,
    );
    assert_eq!(response.verdict(), (400, Some("schema.body".to_string())));
    let why = world.why(&response);
    assert_eq!(hops(&why), ["edge client>orders 400"]);
    assert!(
        cause(&why).contains("breaks the specification of orders")
            && cause(&why).contains("paid")
            && cause(&why).contains("apis/orders.yaml:"),
        "{why}"
    );
    assert!(
        why["permit_if"][0]
            .as_str()
            .unwrap()
            .contains("apis/orders.yaml:"),
        "{why}"
    );

    let id = response.header("x-request-id").unwrap();
    let curl = world.mesh.testudo(&["why", id, "-o", "curl"]);
    let line = String::from_utf8(curl.stdout.clone()).unwrap();
    assert!(
        line.contains("-X 'POST'")
            && line.contains("'https://api.e2e.test:")
            && line.contains("$TOKEN"),
        "{line}"
    );
    assert!(!line.contains("eyJ"), "{line}");
    let yaml = world.mesh.testudo(&["why", id, "-o", "yaml"]);
    assert!(
        String::from_utf8(yaml.stdout)
            .unwrap()
            .contains("reason: schema.body")
    );
}

#[test]
fn report_mode_says_what_would_have_been_denied_and_the_curl_line_repeats_it() {
    let world = world();
    let response = world.send("GET", "/old/x", None, "");
    assert_eq!(response.status, 201, "{response:?}");
    let why = world.why(&response);
    assert_eq!(
        (why["verdict"].as_str(), why["reason"].as_str()),
        (Some("permit"), Some("authn.missing"))
    );
    assert!(
        cause(&why).starts_with("In mode enforce it would have been denied: "),
        "{why}"
    );
    assert!(
        world
            .text(&response)
            .contains("let pass at edge; enforced it would be authn.missing")
    );
    // Nothing of it is a placeholder here, so it can be run as it stands.
    let curl = world.mesh.testudo(&[
        "why",
        response.header("x-request-id").unwrap(),
        "-o",
        "curl",
    ]);
    let line = String::from_utf8(curl.stdout).unwrap();
    let again = std::process::Command::new("sh")
        .args(["-c", &line])
        .current_dir(world.mesh.dir.path())
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(
        answer.contains(" 201"),
        "{line}\n{answer}\n{}",
        stderr(&again)
    );
}

#[test]
fn an_unknown_request_is_said_to_be_unknown_and_what_to_do() {
    let world = world();
    let output = world
        .mesh
        .testudo(&["why", "0198ffff-0000-7000-8000-000000000000"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("no proxy keeps a request with this id")
            && said.contains("hint: `testudo observe"),
        "{said}"
    );
    let response = world.mesh.api_request("GET", "/api/v1/why/nothing", None);
    assert_eq!(
        (response.status, response.json()["code"].as_str()),
        (404, Some("request.not_kept"))
    );
    assert_eq!(
        world
            .mesh
            .api_request("GET", "/api/v1/why/a%20b", None)
            .status,
        400
    );
    for wrong in [&["why", "a b"][..], &["why"], &["why", "x", "--any"]] {
        assert_eq!(
            world.mesh.testudo(wrong).status.code(),
            Some(2),
            "{wrong:?}"
        );
    }
}

#[test]
fn one_frame_of_top_shows_what_happened() {
    let world = world();
    world.send("GET", "/orders/alice/7", Some("bob"), "");
    world
        .mesh
        .decision("the denial", |event| event["user"] == "e2e:bob");
    let output = world.mesh.testudo(&["top", "--once"]);
    let frame = String::from_utf8(output.stdout).unwrap();
    for fact in [
        "testudo top  e2e.test  rev 1",
        "4 of 4 ready",
        "orders",
        "authz.user",
        "payments-1",
        "q quit",
    ] {
        assert!(frame.contains(fact), "{fact} is missing in\n{frame}");
    }
    assert_eq!(frame.lines().count(), 24);
    let filtered = world
        .mesh
        .testudo(&["top", "--once", "--filter", "nothing-has-this"]);
    assert!(
        !String::from_utf8(filtered.stdout)
            .unwrap()
            .contains("authz.user")
    );
}

/// Last, by a mesh of its own: it is taken apart.
#[test]
fn control_restarts_a_sidecar_stops_and_without_control_the_rings_still_tell() {
    let app = Upstream::start(payments);
    let ports = Ports::free();
    let yaml = format!(
        "version: 1
trust_domain: e2e.test
{control}gateway:
  listen: 127.0.0.1:{gateway}
  tls: none
  routes: [{{path: /, service: items}}]
services:
  items:
    app: [127.0.0.1:{app}]
    user: ignore
    mode: report
    api: {{openapi: apis/payments.yaml}}
",
        control = ports.control(),
        gateway = ports.gateway,
        app = app.address.port(),
    );
    let files = [
        ("testudo.yaml", yaml),
        ("apis/payments.yaml", PAYMENTS.to_string()),
    ];
    let mut mesh = Mesh::up(&ports, &files, 2);
    let target = crate::http::Target::plain(mesh.gateway);
    let response = target.send("POST", "e2e.test", "/charges", &[], b"");
    assert_eq!(response.status, 201, "{response:?}");
    let id = response.header("x-request-id").unwrap().to_string();
    let why = |mesh: &Mesh| json(&mesh.testudo(&["why", &id, "-o", "json"]));
    assert_eq!(hops(&why(&mesh)).len(), 2);

    // One that would have been denied, for `last`.
    let reported = target.send("GET", "e2e.test", "/charges", &[], b"");
    assert_eq!(reported.status, 201, "{reported:?}");
    let reported = reported.header("x-request-id").unwrap().to_string();

    // A control plane that knows nothing of it any more asks the proxies.
    fill_ring(&mesh, "gateway-1", 10 * 1024 * 1024);
    restart_control(&mesh);
    let begun = Instant::now();
    assert_eq!(
        hops(&why(&mesh)),
        ["edge client>items 201", "mesh 1 gateway>items 201"]
    );
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let last = json(&mesh.testudo(&["why", "last", "-o", "json"]));
    assert_eq!(last["request_id"], reported.as_str(), "{last}");
    assert_eq!(last["reason"], "route.method", "{last}");

    // One that does not answer is waited for, but not for long, and its hop is said to be missing.
    let sidecar = pid(&mesh, "items-1");
    signal(sidecar, "STOP");
    let begun = Instant::now();
    let found = why(&mesh);
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(hops(&found), ["edge client>items 201"]);
    let missing = &found["missing"][0];
    assert_eq!(
        (missing["proxy"].as_str(), missing["at"].as_str()),
        (Some("items-1"), Some("mesh 1")),
        "{found}"
    );
    let text = String::from_utf8(mesh.testudo(&["why", &id]).stdout).unwrap();
    assert!(
        text.contains("mesh 1  gateway ─▶ items") && text.contains("not kept   items-1: "),
        "{text}"
    );
    signal(sidecar, "CONT");

    mesh.terminate();
    rings_alone(&mesh, &id);
}

/// Without a control plane there are the rings of this host.
fn rings_alone(mesh: &Mesh, id: &str) {
    let offline = mesh.testudo(&["why", id, "-o", "json"]);
    assert!(
        stderr(&offline).contains("no control plane answers"),
        "{offline:?}"
    );
    let found = json(&offline);
    assert_eq!(
        hops(&found),
        ["edge client>items 201", "mesh 1 gateway>items 201"]
    );
    assert!(
        found["curl"].is_string() && found["permit_if"].is_array(),
        "{found}"
    );
    let state = mesh.path(".testudo/proxies/items-1");
    let elsewhere = std::process::Command::new(TESTUDO)
        .args(["why", "last", "--any", "-o", "json", "--state"])
        .arg(&state)
        .current_dir("/")
        .output()
        .unwrap();
    let found = json(&elsewhere);
    assert_eq!(hops(&found), ["mesh 1 gateway>items 201"]);
    assert_eq!(found["missing"][0]["service"], "gateway", "{found}");
    let nothing = mesh.testudo(&["why", "nothing"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        stderr(&nothing).contains("no proxy on this host keeps"),
        "{nothing:?}"
    );
}

/// Puts other requests' events before those that are there.
fn fill_ring(mesh: &Mesh, proxy: &str, bytes: usize) {
    let ring = mesh.path(&format!(".testudo/proxies/{proxy}/ring"));
    let mut text = String::new();
    wait_for("the ring to be written", || {
        let segments = std::fs::read_dir(&ring).unwrap();
        text = segments
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        text.ends_with('\n')
    });
    let other = text
        .lines()
        .next()
        .unwrap()
        .replace("\"request_id\":\"", "\"request_id\":\"other-")
        .replace("\"trace_id\":\"", "\"trace_id\":\"f");
    let count = bytes / (other.len() + 1);
    let more = (other + "\n").repeat(count);
    std::fs::write(ring.join("permit-000000000000.jsonl"), more).unwrap();
}

fn pid(mesh: &Mesh, proxy: &str) -> u32 {
    let ready = std::fs::read(mesh.path(&format!(".testudo/proxies/{proxy}/ready.json"))).unwrap();
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    u32::try_from(ready["pid"].as_u64().unwrap()).unwrap()
}

/// Kills control; `up` starts another one, and the proxies come back to it.
fn restart_control(mesh: &Mesh) {
    let file = mesh.path(".testudo/control.json");
    let pid = || -> Option<u64> {
        let json: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
        json["pid"].as_u64()
    };
    let before = pid().unwrap();
    signal(u32::try_from(before).unwrap(), "KILL");
    wait_for("control to come back", || {
        pid().is_some_and(|pid| pid != before)
    });
    wait_for("the proxies to come back", || {
        let output = mesh.testudo(&["proxy", "list", "-o", "json"]);
        serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|list| {
            let list = list.as_array().cloned().unwrap_or_default();
            list.len() == 2 && list.iter().all(|proxy| proxy["ready"] == true)
        })
    });
}
