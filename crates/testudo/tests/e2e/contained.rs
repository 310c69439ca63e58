//! Containments and modes for a while, through the real binary: who is narrowed where, for how long, with
//! and without a control plane, and what everybody sees of it.

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::Response;
use crate::issuer::Issuer;
use crate::mesh::{Mesh, Ports, signal, wait_for};
use crate::upstream::{Seen, Upstream, respond};

const HOST: &str = "api.e2e.test";

const SPEC: &str = r##"
openapi: 3.1.0
info: {title: Orders, version: "1"}
paths:
  /orders: {get: {operationId: listOrders, responses: {"200": {description: orders}}}}
  /orders/{id}:
    get:
      operationId: getOrder
      parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
      responses: {"200": {description: an order}}
"##;

const POLICIES: &str = r#"
permit (principal in Role::"customer", action in Action::"orders:read", resource);
permit (principal == Service::"storefront", action in Action::"catalog:*", resource);
"#;

fn answer(_: &Seen) -> Option<Vec<u8>> {
    respond(200, &[("content-type", "text/plain")], "fine")
}

struct World {
    mesh: Mesh,
    issuer: Issuer,
    _apps: [Upstream; 3],
}

/// One mesh for the tests that leave it as it was; they run one after the other.
fn world() -> MutexGuard<'static, World> {
    static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::start()));
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn start() -> World {
        let issuer = Issuer::new();
        let apps = [(); 3].map(|()| Upstream::start(answer));
        let [orders, storefront, catalog] = apps.each_ref().map(|app| app.address.port());
        let ports = Ports::free();
        let yaml = format!(
            "version: 1
trust_domain: e2e.test
{control}gateway:
  listen: 127.0.0.1:{gateway}
  routes: [{{host: {HOST}, path: /, service: orders}}]
users:
  jwt:
    e2e: {{issuer: 'https://id.e2e.test', audiences: [e2e], jwks: keys/jwks.json, id: /sub, roles: {{claim: roles, allow: [customer]}}}}
services:
  orders: {{app: ['127.0.0.1:{orders}'], api: {{openapi: apis/orders.yaml}}}}
  storefront: {{app: ['127.0.0.1:{storefront}'], user: ignore}}
  catalog: {{app: ['127.0.0.1:{catalog}'], user: ignore}}
policies: policies
watch: {{respond: contain, max_share: 40%, protect: ['e2e:ceo']}}
",
            control = ports.control(),
            gateway = ports.gateway,
        );
        let files = [
            ("testudo.yaml", yaml),
            ("apis/orders.yaml", SPEC.to_string()),
            ("policies/all.cedar", POLICIES.to_string()),
            ("keys/jwks.json", issuer.jwks()),
        ];
        World {
            mesh: Mesh::up(&ports, &files, 4),
            issuer,
            _apps: apps,
        }
    }

    fn get(&self, user: &str, path: &str) -> Response {
        self.get_as(user, &["customer"], path)
    }

    fn get_as(&self, user: &str, roles: &[&str], path: &str) -> Response {
        let authorization = format!("Bearer {}", self.issuer.token(user, roles));
        let headers = [("authorization", authorization.as_str())];
        let edge = self.mesh.edge(HOST);
        edge.send("GET", HOST, path, &headers, b"")
    }

    /// Alice uses everything, so that bob is neither the last nor the most of it.
    fn usual_traffic(&self) {
        let mut last = String::new();
        for _ in 0..8 {
            for path in ["/orders", "/orders/1"] {
                let response = self.get("alice", path);
                assert_eq!(response.status, 200, "{response:?}");
                last = response.header("x-request-id").unwrap().to_string();
            }
        }
        assert_eq!(self.get("bob", "/orders/7").status, 200);
        self.mesh.decision("what alice did", |event| {
            event["request_id"] == last.as_str() && event["proxy"] == "orders-1"
        });
    }

    fn is_contained(&self, user: &str, path: &str) -> bool {
        match self.get(user, path).verdict() {
            (403, Some(reason)) if reason == "contained" => true,
            (200, None) => false,
            other => panic!("{user} {path}: {other:?}"),
        }
    }

    /// Contains, and says the id.
    fn contain(&self, args: &[&str]) -> String {
        let all: Vec<&str> = ["watch", "contain", "-o", "json"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let made: Value = serde_json::from_str(&said(&self.mesh.testudo(&all))).unwrap();
        made["id"].as_str().unwrap().to_string()
    }

    /// Actions of the audit log since an entry, oldest first.
    fn audit_since(&self, sequence: u64) -> Vec<String> {
        let entries = self.mesh.get("/api/v1/audit?limit=100");
        let entries = entries.as_array().unwrap().iter().rev();
        entries
            .filter(|entry| entry["sequence"].as_u64().unwrap() > sequence)
            .map(|entry| entry["action"].as_str().unwrap().to_string())
            .collect()
    }

    fn newest_audit(&self) -> u64 {
        self.mesh.get("/api/v1/audit?limit=1")[0]["sequence"]
            .as_u64()
            .unwrap()
    }

    fn control_pid(&self) -> u32 {
        let text = std::fs::read(self.mesh.path(".testudo/control.json")).unwrap();
        let control: Value = serde_json::from_slice(&text).unwrap();
        u32::try_from(control["pid"].as_u64().unwrap()).unwrap()
    }
}

/// What a command that succeeded printed.
fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command that failed said.
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `testudo watch contain` says when it refuses, once control has counted what `traffic` sends: on a busy machine a
/// window may come too late to be counted.
fn refused_for(world: &World, args: &[&str], traffic: impl Fn()) -> String {
    for _ in 0..8 {
        traffic();
        let all: Vec<&str> = ["watch", "contain", "-o", "json"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let output = world.mesh.testudo(&all);
        if !output.status.success() {
            return refused(&output);
        }
        let made: Value = serde_json::from_str(&said(&output)).unwrap();
        said(
            &world
                .mesh
                .testudo(&["watch", "release", made["id"].as_str().unwrap()]),
        );
    }
    panic!("{args:?}: not refused");
}

#[test]
fn a_user_is_contained_on_one_operation_seen_everywhere_and_released() {
    let world = world();
    world.usual_traffic();
    let before = world.newest_audit();
    let id = world.contain(&[
        "e2e:bob",
        "orders:getOrder",
        "--for",
        "10m",
        "--reason",
        "walks order numbers",
    ]);
    let contained = Instant::now();
    wait_for("bob to be contained", || {
        world.is_contained("bob", "/orders/8")
    });
    assert!(
        contained.elapsed() < Duration::from_secs(1),
        "{:?}",
        contained.elapsed()
    );
    // He, there, and nobody and nothing else.
    assert!(!world.is_contained("bob", "/orders"));
    assert!(!world.is_contained("alice", "/orders/8"));
    assert!(!world.is_contained("bobby", "/orders/8"));

    // What a client sees, and what people see.
    let denied = world.get("bob", "/orders/9");
    assert_eq!(denied.verdict(), (403, Some("contained".to_string())));
    assert_eq!(denied.json()["reason"], "contained");
    assert!(!denied.text().contains("walks"), "{}", denied.text());
    assert_eq!(
        denied.header("retry-after"),
        None,
        "coming back does not help"
    );
    let request = denied.header("x-request-id").unwrap();
    let path = format!("/api/v1/decisions?request_id={request}");
    world.mesh.decision("the event", |event| {
        event["request_id"] == request && event["reason"] == "contained"
    });
    let events = world.mesh.get(&path);
    let checks = events[0]["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["name"] == "contained")
        .unwrap();
    assert_eq!(check["detail"], format!("{id}: walks order numbers"));
    assert_eq!(check["result"], "fail");
    let why = world.mesh.testudo(&["why", request]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("contained") && why.contains(&id), "{why}");
    let list = said(&world.mesh.testudo(&["watch", "contained"]));
    assert!(list.contains(&id) && list.contains("e2e:bob"), "{list}");
    let doctor = world.mesh.testudo(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        doctor.contains("e2e:bob is contained on orders:getOrder"),
        "{doctor}"
    );
    let shown = said(&world.mesh.testudo(&["proxy", "show", "orders-1"]));
    assert!(shown.contains(&id), "{shown}");
    assert_eq!(world.mesh.get("/api/v1/status")["containments"], 1);

    said(
        &world
            .mesh
            .testudo(&["watch", "release", &id, "--reason", "it was a test"]),
    );
    let released = Instant::now();
    wait_for("bob to be free", || !world.is_contained("bob", "/orders/8"));
    assert!(released.elapsed() < Duration::from_secs(1));
    assert!(refused(&world.mesh.testudo(&["watch", "release", &id])).contains("no containment"));
    assert_eq!(
        world.audit_since(before),
        ["containment.added", "containment.released"]
    );
}

#[test]
fn a_throttle_lets_some_pass_and_a_containment_ends_by_itself() {
    let world = world();
    world.usual_traffic();
    let before = world.newest_audit();
    let id = world.contain(&[
        "e2e:carol",
        "orders",
        "--throttle",
        "6/m",
        "--for",
        "10m",
        "--reason",
        "too many",
    ]);
    wait_for("carol to be throttled", || {
        world.is_contained("carol", "/orders")
    });
    let denied = world.get("carol", "/orders/7");
    assert_eq!(denied.verdict(), (403, Some("contained".to_string())));
    let wait: u64 = denied.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    said(&world.mesh.testudo(&["watch", "release", &id]));

    let args = ["e2e:carol", "orders", "--for", "3s", "--reason", "short"];
    world.contain(&args);
    wait_for("carol to be denied", || {
        world.is_contained("carol", "/orders")
    });
    wait_for("its end", || !world.is_contained("carol", "/orders"));
    wait_for("its end in the audit log", || {
        world
            .audit_since(before)
            .iter()
            .any(|action| action == "containment.expired")
    });
    assert_eq!(
        world.mesh.get("/api/v1/containments"),
        serde_json::json!([])
    );
}

#[test]
fn an_edge_is_contained_at_both_ends() {
    let world = world();
    let outbound = world.mesh.own_outbound("storefront-1");
    let call = || outbound.send("GET", "catalog.mesh", "/items", &[], b"");
    let contained = (403, Some("contained".to_string()));
    assert_eq!(call().status, 200);
    world.mesh.decision("the call", |event| {
        event["caller"] == "storefront" && event["service"] == "catalog"
    });
    let by = |proxy: &'static str| {
        world.mesh.decision("the denial", move |event| {
            event["reason"] == "contained" && event["proxy"] == proxy
        })
    };
    // Nobody else uses catalog: that is said before it is cut.
    let args = ["storefront", "catalog", "--reason", "reads everything"];
    let traffic = || {
        wait_for("the edge to be free", || call().status == 200);
        for _ in 0..5 {
            call();
        }
    };
    let refusal = refused_for(&world, &args, traffic);
    assert!(
        refusal.contains("max_share") || refusal.contains("the last one that uses catalog"),
        "{refusal}"
    );
    let forced: Vec<&str> = args.iter().chain(&["--force"]).copied().collect();
    let id = world.contain(&forced);
    wait_for("the edge to be contained", || call().verdict() == contained);
    // It does not even leave its own sidecar.
    assert_eq!(by("storefront-1")["service"], "catalog");
    said(&world.mesh.testudo(&["watch", "release", &id]));
    wait_for("the edge to be free", || call().status == 200);

    // Which operation it is, only the called side knows.
    let args = ["storefront", "catalog:GET", "--reason", "reads", "--force"];
    let id = world.contain(&args);
    wait_for("the operation to be contained", || {
        call().verdict() == contained
    });
    assert_eq!(by("catalog-1")["operation"], "catalog:GET");
    let other = outbound.send("POST", "catalog.mesh", "/items", &[], b"");
    assert_eq!(other.status, 200, "{other:?}");
    said(&world.mesh.testudo(&["watch", "release", &id]));
}

#[test]
fn containment_is_no_weapon() {
    let world = world();
    world.usual_traffic();
    let busy_traffic = || {
        wait_for("busy to be free", || !world.is_contained("busy", "/orders"));
        for _ in 0..60 {
            world.get("busy", "/orders");
        }
        let newest = world.get("busy", "/orders");
        let id = newest.header("x-request-id").unwrap();
        world.mesh.decision("what busy did", |event| {
            event["request_id"] == id && event["proxy"] == "orders-1"
        });
    };
    let contain = |who: &str, place: &str, more: &[&str]| {
        let args = ["watch", "contain", who, place, "--reason", "x"];
        world
            .mesh
            .testudo(&args.iter().chain(more).copied().collect::<Vec<_>>())
    };
    for (who, place, more, message) in [
        ("e2e:ceo", "orders", &["--force"][..], "watch.protect"),
        ("gateway", "orders", &["--force"], "never contained"),
        ("control", "orders", &[], "never contained"),
        ("anonymous", "orders", &[], "never contained"),
        ("other:bob", "orders", &[], "an issuer of testudo.yaml"),
        ("e2e:bob", "orders:nothing", &[], "no operation"),
        ("e2e:bob", "nowhere", &[], "no service nowhere"),
        ("e2e:bob", "orders", &["--for", "25h"], "24 h at most"),
    ] {
        let refusal = refused(&contain(who, place, more));
        assert!(refusal.contains(message), "{who} {place}: {refusal}");
    }
    let args = ["e2e:busy", "orders", "--reason", "x"];
    let refusal = refused_for(&world, &args, busy_traffic);
    assert!(refusal.contains("watch.max_share is 40.0%"), "{refusal}");
    let none = world
        .mesh
        .testudo(&["watch", "contain", "e2e:bob", "orders"]);
    assert_eq!(none.status.code(), Some(2), "a reason is needed");
    assert!(!world.is_contained("busy", "/orders"));
    // An administrator who insists may.
    let busy = contain("e2e:busy", "orders", &["--force", "-o", "json"]);
    let busy: Value = serde_json::from_str(&said(&busy)).unwrap();
    wait_for("busy to be contained", || {
        world.is_contained("busy", "/orders")
    });
    said(
        &world
            .mesh
            .testudo(&["watch", "release", busy["id"].as_str().unwrap()]),
    );
    // A forged token that names somebody contained is no better than any forged token.
    let forged = format!("Bearer {}", Issuer::new().token("busy", &["customer"]));
    let headers = [("authorization", forged.as_str())];
    let response = world
        .mesh
        .edge(HOST)
        .send("GET", HOST, "/orders", &headers, b"");
    assert_eq!(response.reason().as_deref(), Some("authn.invalid"));
}

#[test]
fn report_mode_lets_pass_says_what_would_be_denied_and_ends_by_itself() {
    let world = world();
    let before = world.newest_audit();
    let guest = || world.get_as("guest", &[], "/orders").verdict();
    let denied = (403, Some("authz.user".to_string()));
    assert_eq!(guest(), denied);
    let set = said(&world.mesh.testudo(&[
        "mode", "orders", "report", "--for", "8s", "--reason", "a deploy",
    ]));
    assert!(set.contains("then enforce again, by itself"), "{set}");
    let mut passed = None;
    wait_for("it to pass", || {
        let response = world.get_as("guest", &[], "/orders");
        passed = response.header("x-request-id").map(str::to_string);
        response.status == 200
    });
    let event = world.mesh.decision("what would be denied", |event| {
        event["request_id"] == passed.as_deref().unwrap() && event["mode"] == "report"
    });
    assert_eq!(
        (&event["verdict"], &event["reason"]),
        (&Value::from("permit"), &Value::from("authz.user"))
    );
    let listed = said(&world.mesh.testudo(&["mode"]));
    assert!(
        listed.contains("report") && listed.contains("a deploy"),
        "{listed}"
    );
    let doctor = world.mesh.testudo(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("orders is in mode report for"), "{doctor}");
    let coverage = world.mesh.get("/api/v1/coverage");
    let orders = coverage.as_array().unwrap().iter();
    let mode = orders.clone().find(|entry| entry["service"] == "orders");
    assert_eq!(mode.unwrap()["mode"], "report");
    wait_for("it to end by itself", || guest() == denied);
    wait_for("the end in the audit log", || {
        world.audit_since(before) == ["mode.set", "mode.expired"]
    });

    for args in [
        &["mode", "orders", "report"][..],
        &["mode", "orders", "report", "--for", "25h"],
        &["mode", "nowhere", "report", "--for", "1h"],
        &["mode", "orders", "off", "--for", "1h"],
        &["mode", "orders"],
        &["mode", "orders", "--reset"],
    ] {
        refused(&world.mesh.testudo(args));
    }
}

/// Has a mesh of its own: its control plane is killed, stopped and continued.
#[test]
fn without_control_containments_go_on_and_end_and_modes_can_be_set() {
    let world = World::start();
    world.usual_traffic();
    let args = [
        "e2e:bob",
        "orders:getOrder",
        "--for",
        "20s",
        "--reason",
        "x",
    ];
    world.contain(&args);
    let until = Instant::now() + Duration::from_secs(19);
    wait_for("bob to be contained", || {
        world.is_contained("bob", "/orders/8")
    });
    let control = world.control_pid();
    signal(control, "KILL");
    let mut looked = 0;
    wait_for("control to come back", || {
        looked += 1;
        assert!(world.is_contained("bob", "/orders/8"), "while it is away");
        let path = world.mesh.path(".testudo/control.json");
        path.exists() && world.control_pid() != control
    });
    assert!(looked > 0);
    // Now it is away for longer, and the gateway starts anew from what it kept.
    let control = world.control_pid();
    wait_for("the gateway to be connected", || {
        world.mesh.proxies().contains_key("gateway-1")
    });
    signal(control, "STOP");
    let ready = std::fs::read(world.mesh.path(".testudo/proxies/gateway-1/ready.json")).unwrap();
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    let gateway = u32::try_from(ready["pid"].as_u64().unwrap()).unwrap();
    signal(gateway, "KILL");
    wait_for("the gateway to serve again", || {
        let request = format!("GET /orders HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        let response = world.mesh.edge(HOST).raw(request.as_bytes());
        response.is_ok_and(|response| response.status == 401)
    });
    if Instant::now() < until - Duration::from_secs(2) {
        assert!(world.is_contained("bob", "/orders/8"), "from its state");
    }
    wait_for("its end without control", || {
        !world.is_contained("bob", "/orders/8")
    });
    assert!(Instant::now() >= until);

    a_mode_is_set_on_this_host(&world);
    control_hears_of_it(&world, control);
}

fn a_mode_is_set_on_this_host(world: &World) {
    let guest = || world.get_as("guest", &[], "/orders").verdict();
    let denied = (403, Some("authz.user".to_string()));
    assert_eq!(guest(), denied);
    let set = said(&world.mesh.testudo(&[
        "mode",
        "orders",
        "report",
        "--for",
        "10m",
        "--reason",
        "control is away",
    ]));
    let at = Instant::now();
    assert!(
        set.contains("gateway-1") && set.contains("orders-1") && !set.contains("catalog-1"),
        "{set}"
    );
    wait_for("it to pass", || guest().0 == 200);
    assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
    let listed = said(&world.mesh.testudo(&["mode"]));
    assert!(listed.contains("orders-1") && listed.contains("report"));
    // Nobody sets a mode by a link.
    let file = world.mesh.path(".testudo/proxies/gateway-1/mode.json");
    let aside = world.mesh.path("aside.json");
    std::fs::rename(&file, &aside).unwrap();
    std::os::unix::fs::symlink(&aside, &file).unwrap();
    wait_for("the link to count for nothing", || guest() == denied);
    std::fs::remove_file(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    wait_for("it to pass again", || guest().0 == 200);
}

/// The control plane hears of what was set on hosts, and writes it down.
fn control_hears_of_it(world: &World, control: u32) {
    let guest = || world.get_as("guest", &[], "/orders").verdict();
    let denied = (403, Some("authz.user".to_string()));
    signal(control, "CONT");
    wait_for("control to hear of it", || {
        let modes = world.mesh.get("/api/v1/modes");
        modes.as_array().unwrap().len() == 2
    });
    let entries = world.mesh.get("/api/v1/audit?limit=100");
    let told: Vec<&Value> = entries
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "mode.set_on_host")
        .collect();
    assert_eq!(told.len(), 2, "{entries}");
    assert!(
        told[0]["detail"]
            .as_str()
            .unwrap()
            .contains("control is away")
    );
    assert_eq!(world.mesh.get("/api/v1/audit/verify")["ok"], true);
    let doctor = world.mesh.testudo(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("set on its host"), "{doctor}");
    said(&world.mesh.testudo(&["mode", "orders", "--reset"]));
    wait_for("the bundle's mode", || guest() == denied);
    wait_for("control to hear of that too", || {
        world
            .mesh
            .get("/api/v1/modes")
            .as_array()
            .unwrap()
            .is_empty()
    });
}

/// Asks for an order now and then, as honest people do, until it is dropped; says what was not answered.
struct Shopper {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Response>>,
}

impl Shopper {
    fn start(world: &World, user: &str) -> Shopper {
        let authorization = format!("Bearer {}", world.issuer.token(user, &["customer"]));
        let edge = world.mesh.edge(HOST);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut denied = Vec::new();
            for order in (1..=5).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let headers = [("authorization", authorization.as_str())];
                let path = format!("/orders/{order}");
                let response = edge.send("GET", HOST, &path, &headers, b"");
                if response.status != 200 {
                    denied.push(response);
                }
                std::thread::sleep(Duration::from_millis(60));
            }
            denied
        });
        Shopper { stop, thread }
    }

    fn denied(self) -> Vec<Response> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Has a mesh of its own: its detectors know nothing of the other tests.
#[test]
fn who_walks_through_orders_is_contained_by_itself_and_nobody_else_is() {
    let world = World::start();
    let shoppers = ["alice", "carol", "dave"].map(|user| Shopper::start(&world, user));
    std::thread::sleep(Duration::from_secs(8));
    // Forged tokens that name alice, and somebody who really reads what is not his business.
    let forger = Issuer::new();
    let start = Instant::now();
    let (mut order, mut first, mut denied) = (0, None, None);
    while denied.is_none() && start.elapsed() < Duration::from_secs(60) {
        order += 1;
        let forged = format!("Bearer {}", forger.token("alice", &["customer"]));
        let headers = [("authorization", forged.as_str())];
        let path = format!("/orders/{order}");
        let forged = world
            .mesh
            .edge(HOST)
            .send("GET", HOST, &path, &headers, b"");
        assert_eq!(forged.reason().as_deref(), Some("authn.invalid"));
        if world.is_contained("bob", &path) {
            first.get_or_insert_with(|| start.elapsed());
            let list = world.mesh.get("/api/v1/containments");
            if list[0]["action"] == "deny" {
                denied = Some(list);
            }
        }
    }
    let denied = denied.unwrap_or_else(|| {
        panic!(
            "contained after {first:?}: {} {}",
            world.mesh.get("/api/v1/containments"),
            world.mesh.get("/api/v1/incidents?state=all")
        )
    });
    assert!(
        first.unwrap() < Duration::from_secs(15),
        "throttled after {first:?}"
    );
    let [contained] = denied.as_array().unwrap().as_slice() else {
        panic!("bob alone is contained: {denied}");
    };
    assert_eq!(contained["principal"], "e2e:bob");
    assert_eq!(contained["by"], "watch");
    let incidents = world.mesh.get("/api/v1/incidents?state=all");
    let own = incidents.as_array().unwrap().iter();
    let mut own = own.filter(|incident| incident["id"] == contained["incident"]);
    assert_eq!(own.next().unwrap()["containment"]["id"], contained["id"]);
    for shopper in shoppers {
        let denied = shopper.denied();
        assert!(denied.is_empty(), "{:?}", denied.first());
    }
    // Undone by one command, and it stays so.
    let id = contained["id"].as_str().unwrap();
    said(&world.mesh.testudo(&["watch", "release", id]));
    wait_for("bob to be free", || !world.is_contained("bob", "/orders/1"));
    for order in 1..200 {
        assert!(!world.is_contained("bob", &format!("/orders/{order}")));
    }
    let actions = world.audit_since(0);
    let own: Vec<&str> = actions
        .iter()
        .map(String::as_str)
        .filter(|action| action.starts_with("containment."))
        .collect();
    assert_eq!(
        own,
        [
            "containment.added",
            "containment.escalated",
            "containment.released"
        ]
    );
}
