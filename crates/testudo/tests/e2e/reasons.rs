//! Every reason code that this version can give, on the wire.

use std::io::Write;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::http::{Response, Target, client_config, read_response};
use crate::issuer::{Issuer, now};
use crate::mesh::{Mesh, Ports, TESTUDO, free_port};
use crate::upstream::{Seen, Upstream, respond};

const SPEC: &str = r##"
openapi: 3.1.0
info: {title: Items, version: "1"}
paths:
  /items:
    post:
      operationId: createItem
      requestBody:
        required: true
        content:
          application/json:
            schema:
              type: object
              additionalProperties: false
              required: [name]
              properties:
                name: {type: string, maxLength: 20}
                count: {type: integer}
      responses: {"201": {description: made}}
    get:
      operationId: listItems
      parameters:
        - {name: page, in: query, schema: {type: integer, minimum: 1}}
      responses: {"200": {description: items}}
  /items/{id}:
    get:
      operationId: getItem
      parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
      responses: {"200": {description: an item}}
  /private: {get: {operationId: private, responses: {"200": {description: ok}}}}
  /sum/{n}:
    get:
      operationId: sum
      parameters: [{name: n, in: path, required: true, schema: {type: integer}}]
      responses: {"200": {description: ok}}
  /limited: {get: {operationId: limited, responses: {"200": {description: ok}}}}
  /slow: {get: {operationId: slow, responses: {"200": {description: ok}}}}
  /garbage: {get: {operationId: garbage, responses: {"200": {description: ok}}}}
  /wrong:
    get:
      operationId: wrong
      responses:
        "200":
          description: a number
          content: {application/json: {schema: {type: object, required: [n], properties: {n: {type: integer}}}}}
"##;

const POLICIES: &str = r#"
permit (principal in Role::"customer", action in [Action::"items:read", Action::"items:write"], resource)
unless { action == Action::"items:private" || action == Action::"items:sum" };
permit (principal in Role::"admin", action == Action::"items:private", resource);
permit (principal in Role::"customer", action == Action::"items:sum", resource)
when { context.params.n + 9223372036854775807 > 0 };
permit (principal in Role::"customer", action in [Action::"dead:GET"], resource);
permit (principal in Role::"customer", action in [Action::"inner:GET"], resource);
permit (principal in Role::"customer", action in [Action::"front:GET"], resource);
"#;

/// The application behind `items`.
fn answer(seen: &Seen) -> Option<Vec<u8>> {
    match (
        seen.method.as_str(),
        seen.path.split('?').next().unwrap_or(""),
    ) {
        ("POST", _) => respond(201, &[("content-type", "application/json")], "{}"),
        (_, "/slow") => {
            std::thread::sleep(Duration::from_secs(3));
            respond(200, &[], "late")
        }
        (_, "/garbage") => Some(b"this is not HTTP\r\n\r\n".to_vec()),
        (_, "/wrong") => respond(
            200,
            &[("content-type", "application/json")],
            r#"{"n":"seven"}"#,
        ),
        _ => respond(
            200,
            &[
                ("content-type", "text/plain"),
                ("x-testudo-reason", "authz.user"),
            ],
            "fine",
        ),
    }
}

struct World {
    mesh: Mesh,
    items: Upstream,
    front: Upstream,
    _inner: Upstream,
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
        let (items, front, inner) = (
            Upstream::start(answer),
            Upstream::start(answer),
            Upstream::start(answer),
        );
        let ports = Ports::free();
        let (closed, unreachable) = (free_port(), free_port());
        let yaml = format!(
            "version: 1
trust_domain: e2e.test
{control}gateway:
  listen: 127.0.0.1:{gateway}
  routes:
    - {{host: api.e2e.test, path: /, service: items}}
    - {{host: api.e2e.test, path: /dead, service: dead}}
    - {{host: api.e2e.test, path: /front, service: front}}
users:
  jwt:
    e2e:
      issuer: https://id.e2e.test
      audiences: [e2e]
      jwks: keys/jwks.json
      id: /sub
      roles: {{claim: roles, allow: [customer, admin]}}
    away:
      issuer: https://away.e2e.test
      audiences: [e2e]
      jwks: https://127.0.0.1:{unreachable}/jwks.json
      id: /sub
      roles: {{claim: roles, allow: [customer]}}
services:
  items:
    app: [127.0.0.1:{items}]
    timeout: 1s
    api: {{openapi: apis/items.yaml, responses: enforce, max_body: 1KiB}}
  dead: {{app: [127.0.0.1:{closed}]}}
  front: {{app: [127.0.0.1:{front}]}}
  inner: {{app: [127.0.0.1:{inner}]}}
policies: policies
limits:
  - {{name: one-a-minute, match: {{operation: items:limited}}, per: user, rate: 1/m, burst: 1}}
",
            control = ports.control(),
            gateway = ports.gateway,
            items = items.address.port(),
            front = front.address.port(),
            inner = inner.address.port(),
        );
        let files = [
            ("testudo.yaml", yaml),
            ("apis/items.yaml", SPEC.to_string()),
            ("policies/all.cedar", POLICIES.to_string()),
            ("keys/jwks.json", issuer.jwks()),
        ];
        let mesh = Mesh::up(&ports, &files, 5);
        World {
            mesh,
            items,
            front,
            _inner: inner,
            issuer,
        }
    }

    fn alice(&self) -> String {
        format!("Bearer {}", self.issuer.token("alice", &["customer"]))
    }

    fn edge(&self) -> Target {
        self.mesh.edge("api.e2e.test")
    }

    fn get(&self, path: &str, authorization: Option<&str>) -> Response {
        let headers: Vec<_> = authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        self.edge().send("GET", "api.e2e.test", path, &headers, b"")
    }

    fn post(&self, content_type: &str, body: &str) -> Response {
        let alice = self.alice();
        let headers = [
            ("authorization", alice.as_str()),
            ("content-type", content_type),
        ];
        self.edge()
            .send("POST", "api.e2e.test", "/items", &headers, body.as_bytes())
    }

    /// The denial has this status and reason, the log says the same, and the application saw nothing of it.
    fn denied(&self, response: &Response, status: u16, reason: &str) {
        assert_eq!(
            response.verdict(),
            (status, Some(reason.to_string())),
            "{response:?}"
        );
        let id = response
            .header("x-request-id")
            .expect("a denial has an id")
            .to_string();
        let event = self.mesh.decision(&format!("the event of {id}"), |event| {
            event["request_id"] == id.as_str() && event["verdict"] == "deny"
        });
        assert_eq!(event["reason"], reason, "{event}");
    }
}

#[test]
fn permitted_requests_reach_the_application_as_they_were_judged() {
    let world = world();
    let response = world.get("/items/7?", Some(&world.alice()));
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "fine"),
        "{response:?}"
    );
    assert_eq!(
        response.header("x-testudo-reason"),
        None,
        "an application cannot speak for us"
    );
    assert!(response.header("x-request-id").is_some());
    let seen = world.items.last();
    assert_eq!(seen.header("x-testudo-user"), Some("e2e:alice"), "{seen:?}");
    assert_eq!(seen.header("x-testudo-roles"), Some("customer"));
    assert_eq!(seen.header("x-testudo-caller"), Some("gateway"));
    assert_eq!(
        seen.header("authorization"),
        None,
        "the credential stays at the edge"
    );
    assert!(
        seen.header("txn-token").is_some() && seen.header("traceparent").is_some(),
        "{seen:?}"
    );
    assert_eq!(seen.header("x-request-id"), response.header("x-request-id"));
}

#[test]
fn request_malformed() {
    let world = world();
    for path in [
        "/items/..%2fprivate",
        "/items/%5cx",
        "/../private",
        "/items/%00",
        "/items/%252e",
        "/items;x=1/7",
    ] {
        let response = world.get(path, Some(&world.alice()));
        world.denied(&response, 400, "request.malformed");
        assert!(!world.items.saw(path));
    }
    let response = world.edge().send(
        "GET",
        "api.e2e.test",
        "/items?page=1&page=2",
        &[("authorization", &world.alice())],
        b"",
    );
    world.denied(&response, 400, "request.malformed");
    let response = world.edge().send(
        "GET",
        "api.e2e.test",
        "/items",
        &[("x-http-method-override", "DELETE")],
        b"",
    );
    world.denied(&response, 400, "request.malformed");
    // These break HTTP itself.
    for bytes in [
        &b"POST /items HTTP/1.1\r\nhost: api.e2e.test\r\ncontent-length: 4\r\ntransfer-encoding: xchunked\r\n\r\nabcd"[..],
        &b"GET /items HTTP/1.1\r\nhost: api.e2e.test\r\nhost: other.test\r\n\r\n"[..],
    ] {
        let response = world.edge().raw(bytes).unwrap();
        world.denied(&response, 400, "request.malformed");
    }
}

#[test]
fn request_too_large() {
    let world = world();
    let response = world.post(
        "application/json",
        &format!(r#"{{"name":"{}"}}"#, "a".repeat(2000)),
    );
    world.denied(&response, 413, "request.too_large");
    let alice = world.alice();
    let chunked = format!(
        "POST /items HTTP/1.1\r\nhost: api.e2e.test\r\nconnection: close\r\nauthorization: {alice}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n800\r\n{}\r\n0\r\n\r\n",
        "a".repeat(2048)
    );
    let response = world.edge().raw(chunked.as_bytes()).unwrap();
    world.denied(&response, 413, "request.too_large");
    let response = world.get(&format!("/items/{}", "a".repeat(20_000)), None);
    world.denied(&response, 414, "request.too_large");
    let response = world.edge().send(
        "GET",
        "api.e2e.test",
        "/items",
        &[("x-long", &"a".repeat(100_000))],
        b"",
    );
    world.denied(&response, 431, "request.too_large");
}

#[test]
fn request_timeout() {
    let world = world();
    let mut stream = world.edge().connect().unwrap();
    let head = format!(
        "POST /items HTTP/1.1\r\nhost: api.e2e.test\r\nauthorization: {}\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{{",
        world.alice()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.flush().unwrap();
    let started = Instant::now();
    let response = read_response(&mut *stream, false).unwrap();
    world.denied(&response, 408, "request.timeout");
    assert!(
        started.elapsed() < Duration::from_secs(45),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn request_misdirected() {
    let world = world();
    let response = world
        .mesh
        .edge("localhost")
        .send("GET", "api.e2e.test", "/items", &[], b"");
    world.denied(&response, 421, "request.misdirected");
}

#[test]
fn route_none_undocumented_and_method() {
    let world = world();
    let elsewhere = world
        .mesh
        .edge("localhost")
        .send("GET", "localhost", "/items", &[], b"");
    world.denied(&elsewhere, 404, "route.none");
    world.denied(
        &world.get("/debug/dump", Some(&world.alice())),
        404,
        "route.undocumented",
    );
    assert!(!world.items.saw("/debug/dump"));
    let response = world.edge().send(
        "DELETE",
        "api.e2e.test",
        "/items/7",
        &[("authorization", &world.alice())],
        b"",
    );
    world.denied(&response, 405, "route.method");
    assert!(
        response
            .header("allow")
            .is_some_and(|allow| allow.contains("GET")),
        "{response:?}"
    );
}

#[test]
fn authn_missing_invalid_expired_and_unavailable() {
    let world = world();
    let response = world.get("/items", None);
    world.denied(&response, 401, "authn.missing");
    assert!(
        response
            .header("www-authenticate")
            .is_some_and(|value| value.starts_with("Bearer")),
        "{response:?}"
    );

    let forged = Issuer::new().token("alice", &["admin"]);
    let none = world
        .issuer
        .sign(&json!({"alg": "none"}), &json!({"sub": "alice"}));
    let other_audience = world
        .issuer
        .token_with("alice", &["customer"], json!({"aud": "other"}));
    for token in [forged.as_str(), &none, &other_audience, "not.a.token"] {
        world.denied(
            &world.get("/items", Some(&format!("Bearer {token}"))),
            401,
            "authn.invalid",
        );
    }
    let expired = world.issuer.token_with(
        "alice",
        &["customer"],
        json!({"exp": now() - 3600, "iat": now() - 7200}),
    );
    world.denied(
        &world.get("/items", Some(&format!("Bearer {expired}"))),
        401,
        "authn.expired",
    );
    let away = world.issuer.token_with(
        "alice",
        &["customer"],
        json!({"iss": "https://away.e2e.test"}),
    );
    world.denied(
        &world.get("/items", Some(&format!("Bearer {away}"))),
        503,
        "authn.unavailable",
    );
    // One issuer's trouble is not another's.
    assert_eq!(world.get("/items", Some(&world.alice())).status, 200);
}

#[test]
fn authz_user_and_error() {
    let world = world();
    world.denied(
        &world.get("/private", Some(&world.alice())),
        403,
        "authz.user",
    );
    let admin = format!("Bearer {}", world.issuer.token("root", &["admin"]));
    assert_eq!(world.get("/private", Some(&admin)).status, 200);
    world.denied(
        &world.get("/sum/1", Some(&world.alice())),
        403,
        "authz.error",
    );
}

#[test]
fn authz_caller() {
    let world = world();
    // A foreign process at the outbound port of front.
    let outbound: std::net::SocketAddr = world.mesh.sidecar("front")["outbound"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let response = Target::plain(outbound).send("GET", "inner.mesh", "/x", &[], b"");
    world.denied(&response, 403, "authz.caller");

    // front's own application calls inner; no policy lets front do so. Its token is one that front received.
    assert_eq!(world.get("/front/x", Some(&world.alice())).status, 200);
    let token = world.front.last().header("txn-token").unwrap().to_string();
    let response = world.mesh.own_outbound("front-1").send(
        "GET",
        "inner.mesh",
        "/x",
        &[("txn-token", &token)],
        b"",
    );
    world.denied(&response, 403, "authz.caller");
    // A token that front never received does not leave its sidecar.
    let response = world.mesh.own_outbound("front-1").send(
        "GET",
        "inner.mesh",
        "/x",
        &[("txn-token", "e30.e30.e30")],
        b"",
    );
    world.denied(&response, 401, "authn.invalid");
    // Without a user the user question comes first.
    let response = world
        .mesh
        .own_outbound("front-1")
        .send("GET", "inner.mesh", "/x", &[], b"");
    world.denied(&response, 401, "authn.missing");
    let response = world
        .mesh
        .own_outbound("front-1")
        .send("GET", "nobody.mesh", "/x", &[], b"");
    world.denied(&response, 404, "route.none");
}

#[test]
fn schema_params_body_content_type_and_response() {
    let world = world();
    world.denied(
        &world.get("/items/seven", Some(&world.alice())),
        400,
        "schema.params",
    );
    world.denied(
        &world.get("/items?page=0", Some(&world.alice())),
        400,
        "schema.params",
    );
    world.denied(
        &world.post("application/json", r#"{"name":"x","paid":true}"#),
        400,
        "schema.body",
    );
    world.denied(
        &world.post("application/json", r#"{"name":7}"#),
        400,
        "schema.body",
    );
    world.denied(
        &world.post("text/plain", "name=x"),
        415,
        "schema.content_type",
    );
    assert_eq!(
        world.post("application/json", r#"{"name":"x"}"#).status,
        201
    );
    assert_eq!(world.items.last().body, br#"{"name":"x"}"#);
    world.denied(
        &world.get("/wrong", Some(&world.alice())),
        502,
        "schema.response",
    );
}

#[test]
fn limit_exceeded() {
    let world = world();
    let carol = format!("Bearer {}", world.issuer.token("carol", &["customer"]));
    let first = world.get("/limited", Some(&carol));
    assert_eq!(first.status, 200, "{first:?}");
    assert!(
        first.header("ratelimit").is_some() && first.header("ratelimit-policy").is_some(),
        "{first:?}"
    );
    let second = world.get("/limited", Some(&carol));
    world.denied(&second, 429, "limit.exceeded");
    let wait: u64 = second.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{second:?}");
    // Another user has a count of her own.
    assert_eq!(world.get("/limited", Some(&world.alice())).status, 200);
}

#[test]
fn upstream_unavailable_timeout_and_invalid() {
    let world = world();
    world.denied(
        &world.get("/dead", Some(&world.alice())),
        503,
        "upstream.unavailable",
    );
    world.denied(
        &world.get("/slow", Some(&world.alice())),
        504,
        "upstream.timeout",
    );
    world.denied(
        &world.get("/garbage", Some(&world.alice())),
        502,
        "upstream.invalid",
    );
}

#[test]
fn not_ready() {
    let world = world();
    let token = world
        .mesh
        .testudo(&["identity", "issue", "--join", "items", "--ttl", "10m"]);
    assert!(token.status.success(), "{token:?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("join.token");
    std::fs::write(&file, &token.stdout).unwrap();
    let (outbound, nowhere) = (free_port(), free_port());
    let mut child = std::process::Command::new(TESTUDO)
        .args([
            "proxy",
            "items",
            "--control",
            &format!("127.0.0.1:{nowhere}"),
            "--app",
            "127.0.0.1:1",
        ])
        .args([
            "--outbound",
            &format!("127.0.0.1:{outbound}"),
            "--inbound",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .arg("--join-token-file")
        .arg(&file)
        .arg("--state")
        .arg(dir.path().join("state"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let target = Target::plain(([127, 0, 0, 1], outbound).into());
    let start = Instant::now();
    let response = loop {
        if target.connect().is_ok() {
            break target.send("GET", "inner.mesh", "/", &[], b"");
        }
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "the outbound port does not open"
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(
        response.verdict(),
        (503, Some("not_ready".to_string())),
        "{response:?}"
    );
}

#[test]
fn unknown_roots_and_old_tls_are_refused() {
    let world = world();
    let other = testudo_testkit_root();
    let target = Target::tls(
        world.mesh.gateway,
        client_config(&other, &[]),
        "api.e2e.test",
    );
    assert!(
        target
            .raw(b"GET / HTTP/1.1\r\nhost: api.e2e.test\r\n\r\n")
            .is_err()
    );
}

/// A root that signed nothing here.
fn testudo_testkit_root() -> String {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("ca");
    let domain = testudo_identity::TrustDomain::new("other.test").unwrap();
    let authority = testudo_identity::Authority::load_or_create(
        &folder,
        &domain,
        u64::try_from(now()).unwrap(),
    )
    .unwrap();
    testudo_identity::pem::encode_certificates(authority.trust().roots())
}
