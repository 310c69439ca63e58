//! What a mesh does besides deciding: CORS, certificates by name, WebSocket, egress, several workloads,
//! API keys, revocations. One mesh for all tests of this file; they run one after the other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use testudo_testkit::pki::{SelfSigned, self_signed, trusting};
use testudo_testkit::upstream::full;

use crate::http::{Response, Stream, Target, read_response};
use crate::issuer::Issuer;
use crate::mesh::{Mesh, Ports, TESTUDO, free_port, signal, wait_for, write_bundle};
use crate::upstream::{Seen, Upstream, respond};

const ITEMS: &str = r##"
openapi: 3.1.0
info: {title: Items, version: "1"}
paths:
  /things:
    get: {operationId: listThings, responses: {"200": {description: things}}}
    delete: {operationId: clear, responses: {"204": {description: gone}}}
"##;

const LIVE: &str = r##"
openapi: 3.1.0
info: {title: Live, version: "1"}
paths:
  /live: {get: {operationId: live, responses: {"101": {description: messages}}}}
  /live/still: {get: {operationId: still, responses: {"200": {description: no stream}}}}
"##;

const POLICIES: &str = r#"
permit (principal in Role::"customer", action in Action::"items:*", resource);
permit (principal == Service::"caller", action in [Action::"live:*", Action::"pair:read"], resource);
permit (principal == Service::"victim", action in Action::"pair:read", resource);
"#;

const SHOP: &str = "shop.wide.test";
const ADMIN: &str = "admin.wide.test";
const WEB: &str = "https://web.wide.test";

fn answer(_: &Seen) -> Option<Vec<u8>> {
    respond(200, &[("x-total", "7")], "fine")
}

pub struct World {
    pub mesh: Mesh,
    certificates: [SelfSigned; 2],
    items: Upstream,
    outside: Upstream,
    pair: [Option<testudo_testkit::Upstream>; 2],
    issuer: Issuer,
    key: String,
    _others: Vec<Upstream>,
}

pub fn world() -> MutexGuard<'static, World> {
    static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::start()));
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn start() -> World {
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer::new();
        let [items, outside, caller, victim] = std::array::from_fn(|_| Upstream::start(answer));
        let live = echo_server();
        let pair = ["one", "two"].map(|name| {
            Some(testudo_testkit::Upstream::start(move |_| {
                http::Response::new(full(name))
            }))
        });
        let certificates = [self_signed(&[SHOP]), self_signed(&[ADMIN])];
        let (key, entry) = api_key(dir.path(), "batch", &["--role", "customer"]);
        let (_, other) = api_key(dir.path(), "nightly", &["--role", "customer"]);
        let ports = Ports::free();
        let yaml = yaml(&ports)
            .replace("ITEMS", &items.address.to_string())
            .replace("LIVE", &live.to_string())
            .replace("PAIR1", &pair[0].as_ref().unwrap().app())
            .replace("PAIR2", &pair[1].as_ref().unwrap().app())
            .replace("CALLER", &caller.address.to_string())
            .replace("VICTIM", &victim.address.to_string())
            .replace("OUTSIDE", &outside.address.to_string());
        let files = [
            ("testudo.yaml", yaml),
            ("apis/items.yaml", ITEMS.to_string()),
            ("apis/live.yaml", LIVE.to_string()),
            ("policies/all.cedar", POLICIES.to_string()),
            ("keys/jwks.json", issuer.jwks()),
            ("keys/api-keys.yaml", format!("keys:\n{entry}{other}")),
            ("tls/shop.pem", certificates[0].certificate.clone()),
            ("tls/shop.key", certificates[0].key.clone()),
            ("tls/admin.pem", certificates[1].certificate.clone()),
            ("tls/admin.key", certificates[1].key.clone()),
        ];
        write_bundle(dir.path(), &files);
        World {
            mesh: Mesh::up_in(dir, &ports, 7),
            certificates,
            items,
            outside,
            pair,
            issuer,
            key,
            _others: vec![caller, victim],
        }
    }

    /// The edge, by server name.
    fn edge(&self, server_name: &str) -> Target {
        let [shop, admin] = &self.certificates;
        let config = trusting(&[shop, admin], rustls::ALL_VERSIONS);
        Target::tls(self.mesh.gateway, config, server_name)
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.edge(SHOP).send("GET", SHOP, path, headers, b"")
    }

    fn bearer(&self, user: &str) -> String {
        format!("Bearer {}", self.issuer.token(user, &["customer"]))
    }

    /// `testudo identity revoke`; then waits until `refused` is.
    fn revoke(&self, kind: &str, value: &str, refused: impl Fn() -> bool) {
        let output = self
            .mesh
            .testudo(&["identity", "revoke", kind, value, "--reason", "test"]);
        assert!(output.status.success(), "{output:?}");
        wait_for(&format!("{kind} to be refused"), refused);
        let listed = self.mesh.get("/api/v1/revocations");
        assert!(listed.to_string().contains(kind), "{listed}");
    }

    /// The event of a response.
    fn event(&self, response: &Response) -> Value {
        let id = response.header("x-request-id").expect("an id").to_string();
        self.mesh.decision(&format!("the event of {id}"), |event| {
            event["request_id"] == id.as_str() && event["hop"] == "edge"
        })
    }
}

fn yaml(ports: &Ports) -> String {
    format!(
        "version: 1
trust_domain: wide.test
{control}gateway:
  listen: 127.0.0.1:{gateway}
  tls:
    - {{certificate: tls/shop.pem, key: tls/shop.key}}
    - {{certificate: tls/admin.pem, key: tls/admin.key}}
  trusted_proxies: [127.0.0.9/32]
  routes:
    - host: {SHOP}
      path: /
      service: items
      cors: {{origins: ['{WEB}'], headers: [authorization], expose: [x-total], credentials: true, max_age: 10m}}
    - {{host: {SHOP}, path: /live, service: live, cors: {{origins: ['{WEB}']}}}}
    - {{host: {SHOP}, path: /pair, service: pair}}
    - {{host: {SHOP}, path: /victim, service: victim}}
    - {{host: {ADMIN}, path: /tools/items, service: items, strip_prefix: true}}
users:
  jwt:
    wide:
      issuer: https://id.e2e.test
      audiences: [e2e]
      jwks: keys/jwks.json
      id: /sub
      roles: {{claim: roles, allow: [customer]}}
  api_keys: keys/api-keys.yaml
services:
  items: {{app: ['ITEMS'], api: {{openapi: apis/items.yaml}}}}
  live: {{app: ['LIVE'], user: ignore, api: {{openapi: apis/live.yaml}}}}
  pair: {{app: ['PAIR1', 'PAIR2'], user: ignore}}
  caller: {{app: ['CALLER'], user: ignore, egress: ['OUTSIDE']}}
  victim: {{app: ['VICTIM'], user: ignore}}
policies: policies
",
        control = ports.control(),
        gateway = ports.gateway,
    )
}

/// `testudo identity api-key`: the key, and its entry for the bundle.
fn api_key(dir: &std::path::Path, id: &str, more: &[&str]) -> (String, String) {
    let file = dir.join(format!("{id}.key"));
    let output = std::process::Command::new(TESTUDO)
        .args(["identity", "api-key", id, "--out"])
        .arg(&file)
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let key = std::fs::read_to_string(&file).unwrap();
    let entry = String::from_utf8(output.stdout).unwrap();
    assert!(!entry.contains(&key), "the bundle keeps a hash only");
    (key, entry)
}

/// An application that takes every WebSocket handshake with the key of RFC 6455 §1.3, then echoes.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let head = read_head(&mut stream);
                if !head.to_lowercase().contains("upgrade: websocket") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                    return;
                }
                let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                              sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes());
                let mut write = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut write);
            });
        }
    });
    address
}

fn read_head(stream: &mut (impl Read + ?Sized)) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn handshake(path: &str, host: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// Sends a handshake and expects 101, then that what is sent comes back.
fn echoes(stream: &mut dyn Stream, handshake: &str) {
    stream.write_all(handshake.as_bytes()).unwrap();
    stream.flush().unwrap();
    let head = read_head(stream);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for message in ["hello", "again"] {
        stream.write_all(message.as_bytes()).unwrap();
        stream.flush().unwrap();
        let mut echo = vec![0; message.len()];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(echo, message.as_bytes());
    }
}

#[test]
fn preflights_are_answered_at_the_gateway_and_denials_can_be_read_by_the_page() {
    let world = world();
    let preflight = |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "DELETE"),
            ("access-control-request-headers", "authorization"),
        ];
        world
            .edge(SHOP)
            .send("OPTIONS", SHOP, "/things", &headers, b"")
    };
    let before = world.items.seen().len();
    let response = preflight(WEB);
    assert_eq!(response.status, 204, "{response:?}");
    for (name, wanted) in [
        ("access-control-allow-origin", WEB),
        ("access-control-allow-methods", "DELETE"),
        ("access-control-allow-headers", "authorization"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "600"),
        ("vary", "origin"),
    ] {
        let found = response.header(name).unwrap_or_default();
        assert!(found.contains(wanted), "{name}: {response:?}");
    }
    let foreign = preflight("https://evil.test");
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    assert_eq!(world.items.seen().len(), before, "answered at the gateway");

    let denied = world.get("/things", &[("origin", WEB)]);
    assert_eq!(denied.verdict(), (401, Some("authn.missing".to_string())));
    assert_eq!(denied.header("access-control-allow-origin"), Some(WEB));
    let foreign = world.get("/things", &[("origin", "https://evil.test")]);
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    let bearer = world.bearer("alice");
    let answered = world.get("/things", &[("origin", WEB), ("authorization", &bearer)]);
    assert_eq!(answered.status, 200, "{answered:?}");
    assert_eq!(answered.header("access-control-allow-origin"), Some(WEB));
    assert_eq!(
        answered.header("access-control-expose-headers"),
        Some("x-total")
    );
}

#[test]
fn certificates_are_chosen_by_server_name_and_open_no_other_host() {
    let world = world();
    let bearer = world.bearer("alice");
    let headers = [("authorization", bearer.as_str())];
    // Each client trusts one certificate alone, so that the handshake itself says which was shown.
    for (index, host, path) in [(0, SHOP, "/things"), (1, ADMIN, "/tools/items/things")] {
        let only = &world.certificates[index];
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let config = trusting(&[only], &[version]);
            let target = Target::tls(world.mesh.gateway, config, host);
            let response = target.send("GET", host, path, &headers, b"");
            assert_eq!(response.status, 200, "{host}: {response:?}");
        }
    }
    for (name, host) in [(SHOP, ADMIN), (ADMIN, SHOP)] {
        let response = world.edge(name).send("GET", host, "/things", &headers, b"");
        let wanted = (421, Some("request.misdirected".to_string()));
        assert_eq!(response.verdict(), wanted, "{name} → {host}");
    }
}

#[test]
fn a_stripped_prefix_is_neither_judged_nor_forwarded() {
    let world = world();
    let bearer = world.bearer("alice");
    let headers = [("authorization", bearer.as_str())];
    let admin = world.edge(ADMIN);
    let response = admin.send("GET", ADMIN, "/tools/items/things", &headers, b"");
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(world.items.last().path, "/things");
    assert_eq!(world.event(&response)["operation"], "items:listThings");
    let whole = admin.send(
        "GET",
        ADMIN,
        "/tools/items/tools/items/things",
        &headers,
        b"",
    );
    assert_eq!(
        whole.verdict(),
        (404, Some("route.undocumented".to_string()))
    );
    let half = admin.send("GET", ADMIN, "/tools/itemsthings", &headers, b"");
    assert_eq!(half.verdict(), (404, Some("route.none".to_string())));
}

#[test]
fn only_a_trusted_proxy_says_who_the_client_is() {
    let world = world();
    let bearer = world.bearer("alice");
    let request = format!(
        "GET /things HTTP/1.1\r\nhost: {SHOP}\r\nconnection: close\r\nauthorization: {bearer}\r\n\
         x-forwarded-for: 198.51.100.7, 192.0.2.9\r\n\r\n"
    );
    // 127.0.0.9 is on the list, 127.0.0.1 is not.
    for (from, client) in [([127, 0, 0, 9], "192.0.2.9"), ([127, 0, 0, 1], "127.0.0.1")] {
        let mut stream = world
            .edge(SHOP)
            .over(connect_from(from, world.mesh.gateway))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.flush().unwrap();
        let response = read_response(&mut *stream, false).unwrap();
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(world.event(&response)["source_ip"], client);
        let seen = world.items.last();
        let forwarded = seen
            .header("x-forwarded-for")
            .unwrap_or_default()
            .to_string();
        assert!(forwarded.starts_with(client), "{forwarded}");
        assert!(
            !forwarded.contains("198.51.100.7"),
            "nobody vouches for it: {forwarded}"
        );
    }
}

fn connect_from(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        socket.connect(to).await.unwrap()
    });
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

#[test]
fn a_websocket_passes_gateway_and_sidecars() {
    let world = world();
    let edge = world.edge(SHOP);
    for more in [
        "",
        &format!("origin: {WEB}\r\n"),
        &format!("origin: https://{SHOP}\r\n"),
    ] {
        let ask = handshake("/live", SHOP, more);
        echoes(&mut *edge.connect().unwrap(), &ask);
    }
    let foreign = handshake("/live", SHOP, "origin: https://evil.test\r\n");
    let response = edge.raw(foreign.as_bytes()).unwrap();
    assert_eq!(
        response.verdict(),
        (400, Some("request.malformed".to_string()))
    );
    let undeclared = handshake("/live/still", SHOP, "");
    let response = edge.raw(undeclared.as_bytes()).unwrap();
    assert_eq!(
        response.verdict(),
        (400, Some("request.malformed".to_string()))
    );

    // From service to service: caller's application, its sidecar, live's sidecar, live's application.
    let own = world.mesh.own_outbound("caller-1");
    let secret = format!("proxy-authorization: {}\r\n", own.authorization());
    let ask = handshake("http://live.mesh/live", "live.mesh", &secret);
    echoes(&mut *own.target.connect().unwrap(), &ask);
    let ask = handshake("http://live.mesh/live", "live.mesh", "");
    let response = own.target.raw(ask.as_bytes()).unwrap();
    assert_eq!(response.verdict(), (403, Some("authz.caller".to_string())));
}

#[test]
fn only_listed_hosts_outside_are_reached() {
    let world = world();
    let own = world.mesh.own_outbound("caller-1");
    let (listed, other) = (
        world.outside.address.to_string(),
        format!("127.0.0.1:{}", free_port()),
    );
    let response = own.send(
        "GET",
        &listed,
        "/report",
        &[("txn-token", "e30.e30.e30")],
        b"",
    );
    assert_eq!(response.status, 200, "{response:?}");
    let seen = world.outside.last();
    assert_eq!(seen.path, "/report");
    for secret in ["proxy-authorization", "txn-token", "x-testudo-caller"] {
        assert_eq!(seen.header(secret), None, "{secret} stays inside");
    }
    let refused = (403, Some("authz.caller".to_string()));
    assert_eq!(own.send("GET", &other, "/", &[], b"").verdict(), refused);
    // A service that lists nothing reaches nothing, and a foreign process neither.
    let live = world.mesh.own_outbound("live-1");
    assert_eq!(live.send("GET", &listed, "/", &[], b"").verdict(), refused);
    let foreign = own
        .target
        .send("GET", &listed, &format!("http://{listed}/"), &[], b"");
    assert_eq!(foreign.verdict(), refused);

    let connect = |host: &str, secret: &str| {
        format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n{secret}\r\n")
    };
    let secret = format!("proxy-authorization: {}\r\n", own.authorization());
    let mut tunnel = own.target.connect().unwrap();
    tunnel
        .write_all(connect(&listed, &secret).as_bytes())
        .unwrap();
    let head = read_head(&mut *tunnel);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    tunnel
        .write_all(b"GET /tunnelled HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    assert_eq!(read_response(&mut *tunnel, false).unwrap().text(), "fine");
    assert!(world.outside.saw("/tunnelled"));
    for (host, secret) in [(&other, secret.as_str()), (&listed, "")] {
        let response = own.target.raw(connect(host, secret).as_bytes()).unwrap();
        assert_eq!(response.verdict(), refused, "{host}");
    }
    let event = world.mesh.decision("the refused host", |event| {
        event["proxy"] == "caller-1" && event["host"] == other.as_str()
    });
    assert_eq!(event["reason"], "authz.caller", "{event}");
}

/// How many of `count` requests each workload answered.
fn spread(world: &World, count: usize) -> [usize; 2] {
    let mut answered = [0, 0];
    for _ in 0..count {
        let response = world.get("/pair", &[]);
        assert_eq!(response.status, 200, "{response:?}");
        answered[usize::from(response.text() == "two")] += 1;
    }
    answered
}

#[test]
fn workloads_share_the_work_and_one_that_dies_costs_no_request() {
    let mut world = world();
    let both = spread(&world, 40);
    assert!(both.iter().all(|answered| *answered > 5), "{both:?}");

    // A sidecar dies: its connections break, its port is closed until `up` has it back.
    let pid = |world: &World| -> u64 {
        // Not there while it starts.
        let ready = world.mesh.path(".testudo/proxies/pair-2/ready.json");
        let ready = std::fs::read(ready).unwrap_or_default();
        serde_json::from_slice::<Value>(&ready)
            .map_or(0, |ready| ready["pid"].as_u64().unwrap_or(0))
    };
    let old = pid(&world);
    signal(u32::try_from(old).unwrap(), "KILL");
    spread(&world, 60);
    wait_for("the sidecar to come back", || {
        ![0, old].contains(&pid(&world))
    });
    wait_for("both to answer again", || spread(&world, 10)[1] > 0);

    // An application dies: its sidecar says so, the request goes elsewhere, and after five in a row it is left alone.
    drop(world.pair[1].take());
    assert_eq!(spread(&world, 200)[1], 0);
    let told = world.mesh.get("/api/v1/decisions?limit=1000");
    let asked =
        told.as_array().unwrap().iter().filter(|event| {
            event["proxy"] == "pair-2" && event["reason"] == "upstream.unavailable"
        });
    let asked = asked.count();
    assert!((5..60).contains(&asked), "asked {asked} times of 200");
}

#[test]
fn an_api_key_opens_what_its_roles_may_until_it_is_revoked() {
    let world = world();
    let response = world.get("/things", &[("x-api-key", &world.key)]);
    assert_eq!(response.status, 200, "{response:?}");
    let seen = world.items.last();
    assert_eq!(seen.header("x-testudo-user"), Some("key:batch"));
    assert_eq!(seen.header("x-api-key"), None, "the key stays at the edge");
    // One character of the secret is another.
    let mut wrong = world.key.clone();
    let last = wrong.pop().unwrap();
    wrong.push(if last == 'A' { 'B' } else { 'A' });
    let invalid = (401, Some("authn.invalid".to_string()));
    for key in [wrong.as_str(), "tk_nobody_AAAA", "x"] {
        assert_eq!(
            world.get("/things", &[("x-api-key", key)]).verdict(),
            invalid,
            "{key}"
        );
    }
    let key = world.key.clone();
    world.revoke("key", "batch", || {
        world.get("/things", &[("x-api-key", &key)]).verdict() == invalid
    });
}

#[test]
fn revoked_users_and_tokens_are_refused_at_once() {
    let world = world();
    let carol = world.bearer("carol");
    let get = |bearer: &str| world.get("/things", &[("authorization", bearer)]);
    assert_eq!(get(&carol).status, 200);
    world.revoke("user", "wide:carol", || get(&carol).status == 401);
    assert_eq!(
        get(&carol).verdict(),
        (401, Some("authn.invalid".to_string()))
    );
    assert_eq!(
        get(&world.bearer("carol")).status,
        401,
        "a new token neither"
    );

    let token = |jti: &str| {
        let token = world
            .issuer
            .token_with("dave", &["customer"], json!({"jti": jti}));
        format!("Bearer {token}")
    };
    let (first, second) = (token("t-1"), token("t-2"));
    assert_eq!((get(&first).status, get(&second).status), (200, 200));
    world.revoke("token", "t-1", || get(&first).status == 401);
    assert_eq!(get(&second).status, 200, "another token of the same user");
    // A token without a name is revoked by its text, which the list does not keep.
    let text = second.trim_start_matches("Bearer ").to_string();
    world.revoke("token", &text, || get(&second).status == 401);
    let listed = world.mesh.get("/api/v1/revocations").to_string();
    assert!(!listed.contains(&text[..40]), "{listed}");
}

#[test]
fn a_revoked_workload_can_neither_call_nor_be_called() {
    let world = world();
    let victim = world.mesh.own_outbound("victim-1");
    let calls = || victim.send("GET", "pair.mesh", "/pair", &[], b"");
    assert_eq!(calls().status, 200);
    assert_eq!(world.get("/victim", &[]).status, 200);
    world.revoke("workload", "spiffe://wide.test/service/victim", || {
        calls().status != 200 && world.get("/victim", &[]).status != 200
    });
    assert_eq!(
        world.get("/victim", &[]).reason().as_deref(),
        Some("upstream.unavailable")
    );
    // Others go on.
    let caller = world.mesh.own_outbound("caller-1");
    assert_eq!(
        caller.send("GET", "pair.mesh", "/pair", &[], b"").status,
        200
    );
}

#[test]
fn nobody_is_revoked_by_a_name_that_nobody_has() {
    let world = world();
    let before = world.mesh.get("/api/v1/revocations")["serial"].clone();
    for (kind, value, wanted) in [
        ("user", "carol", "wide:carol"),
        ("user", "wid:carol", "wide, key"),
        ("workload", "pair", "spiffe://wide.test/service/pair"),
        ("workload", "pair-1", "serial number"),
        (
            "workload",
            "spiffe://wide.test/service/nobody",
            "identity show",
        ),
        (
            "workload",
            "spiffe://other.test/service/pair",
            "identity show",
        ),
    ] {
        let output = world.mesh.testudo(&["identity", "revoke", kind, value]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{kind} {value}: {said}");
        assert!(said.contains(wanted), "{kind} {value}: {said}");
    }
    assert_eq!(world.mesh.get("/api/v1/revocations")["serial"], before);
    // A kid of a key set is nobody's to know here: it is listed, and said so.
    let output = world
        .mesh
        .testudo(&["identity", "revoke", "key", "k-unknown"]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("note:"),
        "{output:?}"
    );
}
