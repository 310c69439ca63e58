//! At the gateway.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use proptest::prelude::*;
use testudo_model::Reason;

use super::fixture::*;
use crate::limit::LimitKey;
use crate::pipeline::*;
use crate::route::Cors;
use crate::schema::Undocumented;
use crate::snapshot::UserRule;

const JSON: (&str, &str) = ("content-type", "application/json");

fn reason(outcome: Result<Permit, Denial>) -> Option<Reason> {
    outcome.err().map(|denial| denial.reason)
}

/// Reason or `ok`, method, target, credential or `-`, content type and body or nothing.
const EVERY_REASON: &str = r#"
ok                   GET    /orders?limit=5             alice
ok                   HEAD   /orders                     alice
ok                   GET    /shop/orders                alice
ok                   GET    /orders/17?owner=alice      alice
ok                   GET    /health                     -
ok                   GET    /health                     bob
ok                   GET    /healthz                    nonsense
ok                   POST   /orders                     alice  application/json  {"item":"a"}
request.malformed    GET    /orders/../x                alice
request.malformed    GET    /orders;a=b                 alice
request.malformed    GET    /nowhere;a=b                alice
request.malformed    GET    /orders?limit=1&limit=2     alice
request.malformed    POST   /orders                     alice  application/json  {"item":"a","item":"b"}
request.too_large    POST   /orders                     alice  application/json  {"item":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
route.undocumented   GET    /nowhere                    alice
route.undocumented   GET    /orders/                    alice
route.undocumented   POST   /healthz                    alice
route.method         DELETE /orders                     alice
authn.missing        GET    /orders                     -
authn.missing        GET    /orders?limit=wrong         -
authn.invalid        GET    /orders                     nonsense
authn.invalid        GET    /health                     nonsense
authn.invalid        GET    /orders                     alg-none
authn.invalid        GET    /orders                     basic
authn.expired        GET    /orders                     late
authn.unavailable    GET    /orders                     jwt
authz.user           GET    /orders                     bob
authz.user           GET    /orders?limit=wrong         bob
authz.user           GET    /orders/17?owner=bob        alice
authz.user           POST   /orders                     alice  application/json  {"item":"forbidden"}
authz.error          GET    /orders/17                  alice
authz.error          GET    /fragile                    alice
schema.params        GET    /fragile?limit=x            alice
schema.params        GET    /orders?limit=0             alice
schema.params        GET    /orders?extra=1             alice
schema.params        GET    /orders/x?owner=alice       alice
schema.content_type  POST   /orders                     alice  text/plain        x
schema.body          POST   /orders                     alice  application/json  {"item":"a","paid":true}
schema.body          POST   /orders                     alice
"#;

/// A JWT of the trusted issuer, which nobody signed.
fn unsigned_jwt(alg: &str) -> String {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    let header = part(&format!(r#"{{"alg":"{alg}","kid":"k"}}"#));
    let claims = part(r#"{"iss":"https://id.shop.test","sub":"x","aud":"shop","exp":9999999999}"#);
    format!("Bearer {header}.{claims}.AAAA")
}

fn credential(mesh: &Mesh, name: &str) -> Option<(&'static str, String)> {
    match name {
        "-" => None,
        "jwt" => Some(("authorization", unsigned_jwt("ES256"))),
        "alg-none" => Some(("authorization", unsigned_jwt("none"))),
        "basic" => Some(("authorization", String::from("Basic YTpi"))),
        "nonsense" => Some(("x-api-key", String::from("nonsense"))),
        user => Some(("x-api-key", mesh.key(user))),
    }
}

#[test]
fn every_reason_has_a_request() {
    let mut mesh = Setup::gateway().mesh();
    for line in EVERY_REASON.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (content_type, body) = (words.get(4), words.get(5).unwrap_or(&""));
        let credential = credential(&mesh, words[3]);
        let headers: Vec<(&str, &str)> = credential
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .chain(content_type.map(|kind| ("content-type", *kind)))
            .collect();
        let outcome = mesh.edge(&mut request(words[1], words[2], &headers), body);
        let detail = outcome.as_ref().err().map(|denial| denial.detail.clone());
        let expected = Reason::from_code(words[0]);
        assert_eq!(expected.is_none(), words[0] == "ok", "{line}");
        assert_eq!(reason(outcome), expected, "{line}: {detail:?}");
        assert_eq!(mesh.record.reason, expected, "{line}");
    }
}

#[test]
fn routes_redirect_or_are_not_there() {
    let mut mesh = Setup::gateway().mesh();
    let mut old = request("GET", "/x", &[]);
    old.headers
        .insert("host", HeaderValue::from_static("old.shop.test"));
    match mesh.head(&client(), &mut old, false) {
        HeadOutcome::Answer { status, headers } => {
            assert_eq!(status, 308);
            assert_eq!(headers["location"], "https://api.shop.test/");
        }
        HeadOutcome::Deny(_) | HeadOutcome::Continue(_) => panic!("not redirected"),
    }
    let mut unknown = request("GET", "/x", &[]);
    unknown
        .headers
        .insert("host", HeaderValue::from_static("other.test"));
    assert_eq!(reason(mesh.edge(&mut unknown, "")), Some(Reason::RouteNone));
}

#[test]
fn a_permitted_request_is_canonical_and_without_its_credential() {
    let mut mesh = Setup::gateway().mesh();
    let alice = mesh.key("alice");
    let mut head = request(
        "GET",
        "/shop/%6frders/17?owner=%61lice",
        &[
            ("x-api-key", &alice),
            ("x-testudo-user", "root"),
            ("accept-encoding", "gzip"),
        ],
    );
    let permit = mesh.edge(&mut head, "").unwrap();
    assert_eq!(head.uri, "/orders/17?owner=alice");
    for name in ["x-api-key", "x-testudo-user", "accept-encoding"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
    let target = permit.target();
    assert_eq!(&*target.service.name, "orders");
    assert_eq!(&*target.operation.as_ref().unwrap().id, "orders:getOrder");
    assert_eq!(&*target.user.as_ref().unwrap().id, "key:alice");
    assert_eq!(target.timeout.as_secs(), 3);
    assert_eq!(mesh.record.user.as_deref(), Some("key:alice"));
    assert_eq!(mesh.record.policy, Some(line("policies/all.cedar", 3)));
    assert_eq!(mesh.record.source_ip, Some("203.0.113.7".parse().unwrap()));
    let checks = [
        "normalize+",
        "route+",
        "operation+",
        "authn+",
        "user+",
        "schema+",
    ];
    assert_eq!(mesh.checks(), checks);
}

#[test]
fn the_credential_is_forwarded_where_the_bundle_says_so() {
    for (forward, user, kept) in [
        (false, UserRule::Authorize, false),
        (true, UserRule::Authorize, true),
        (false, UserRule::Ignore, true),
    ] {
        let mut mesh = Setup {
            forward,
            user,
            ..Setup::gateway()
        }
        .mesh();
        let alice = mesh.key("alice");
        let mut head = request("GET", "/orders", &[("x-api-key", &alice)]);
        mesh.edge(&mut head, "").unwrap();
        assert_eq!(head.headers.contains_key("x-api-key"), kept);
    }
}

#[test]
fn denials_carry_their_headers() {
    let mut mesh = Setup {
        cors: Some(Cors {
            origins: vec![Arc::from("https://shop.test")],
            credentials: true,
            ..Cors::default()
        }),
        limits: vec![limit("per-address", LimitKey::Address, 2)],
        ..Setup::gateway()
    }
    .mesh();
    let origin = ("origin", "https://shop.test");
    let denial = mesh
        .edge(&mut request("GET", "/orders", &[origin]), "")
        .err()
        .unwrap();
    assert_eq!(denial.headers["www-authenticate"], r#"Bearer realm="api""#);
    assert_eq!(
        denial.headers["access-control-allow-origin"],
        "https://shop.test"
    );
    let denial = mesh
        .edge(&mut request("DELETE", "/orders", &[origin]), "")
        .err()
        .unwrap();
    assert_eq!(denial.headers["allow"], "GET, POST, HEAD");
    let permit = mesh
        .edge(&mut request("GET", "/health", &[origin]), "")
        .unwrap();
    assert_eq!(
        permit.target().response_headers["ratelimit"],
        r#""per-address";r=0;t=3"#
    );
    let denial = mesh
        .edge(&mut request("GET", "/health", &[origin]), "")
        .err()
        .unwrap();
    assert_eq!(
        (denial.reason, denial.status.as_u16()),
        (Reason::LimitExceeded, 429)
    );
    assert_eq!(denial.headers["retry-after"], "2");
    assert_eq!(
        denial.headers["ratelimit-policy"],
        r#""per-address";q=2;w=3"#
    );
    assert_eq!(denial.headers["ratelimit"], r#""per-address";r=0;t=3"#);
    assert_eq!(denial.headers["access-control-allow-credentials"], "true");
    assert_eq!(denial.policy, Some(line("testudo.yaml", 40)));
}

#[test]
fn limits_by_user_count_what_that_user_may_do() {
    let mut mesh = Setup {
        limits: vec![limit("per-user", LimitKey::User, 1)],
        ..Setup::gateway()
    }
    .mesh();
    let (alice, bob) = (mesh.key("alice"), mesh.key("bob"));
    for _ in 0..5 {
        let outcome = mesh.edge(&mut request("GET", "/orders", &[("x-api-key", &bob)]), "");
        assert_eq!(reason(outcome), Some(Reason::AuthzUser));
    }
    let mut call = || mesh.edge(&mut request("GET", "/orders", &[("x-api-key", &alice)]), "");
    assert_eq!(reason(call()), None);
    assert_eq!(reason(call()), Some(Reason::LimitExceeded));
}

#[test]
fn preflights_are_answered_before_authentication() {
    let cors = Cors {
        origins: vec![Arc::from("https://shop.test")],
        headers: vec![Arc::from("authorization")],
        ..Cors::default()
    };
    let mut mesh = Setup {
        cors: Some(cors),
        ..Setup::gateway()
    }
    .mesh();
    let mut preflight = request(
        "OPTIONS",
        "/orders",
        &[
            ("origin", "https://shop.test"),
            ("access-control-request-method", "POST"),
        ],
    );
    match mesh.head(&client(), &mut preflight, false) {
        HeadOutcome::Answer { status, headers } => {
            assert_eq!(status, 204);
            assert_eq!(headers["access-control-allow-origin"], "https://shop.test");
            assert_eq!(headers["access-control-allow-methods"], "POST");
            assert_eq!(headers["access-control-allow-headers"], "authorization");
        }
        HeadOutcome::Deny(_) | HeadOutcome::Continue(_) => panic!("not answered"),
    }
    let outcome = mesh.edge(
        &mut request("OPTIONS", "/orders", &[("origin", "https://shop.test")]),
        "",
    );
    assert_eq!(reason(outcome), Some(Reason::RouteMethod));
}

#[test]
fn websockets_are_declared_and_come_from_pages_that_may() {
    let cors = Cors {
        origins: vec![Arc::from("https://app.test"), Arc::from("*")],
        ..Cors::default()
    };
    let mut mesh = Setup {
        cors: Some(cors),
        ..Setup::gateway()
    }
    .mesh();
    let alice = mesh.key("alice");
    let handshake = [
        ("x-api-key", alice.as_str()),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut open = |path: &str, origin: Option<&str>| {
        let mut headers = handshake.to_vec();
        headers.extend(origin.map(|origin| ("origin", origin)));
        let permit = mesh.edge(&mut request("GET", path, &headers), "");
        permit
            .map(|permit| permit.target().websocket)
            .map_err(|denial| denial.reason)
    };
    assert_eq!(open("/watch", None), Ok(true));
    assert_eq!(open("/watch", Some("https://app.test")), Ok(true));
    assert_eq!(open("/watch", Some("https://api.shop.test")), Ok(true));
    for origin in [
        "https://evil.test",
        "null",
        "https://api.shop.test.evil.test",
        "https://api.shop.test:81",
    ] {
        assert_eq!(
            open("/watch", Some(origin)),
            Err(Reason::RequestMalformed),
            "{origin}"
        );
    }
    assert_eq!(open("/orders", None), Err(Reason::RequestMalformed));
    // A probe is not a way in.
    assert_eq!(open("/healthz", None), Err(Reason::RouteUndocumented));
}

#[test]
fn undocumented_operations_are_judged_where_they_may_exist() {
    let mut mesh = Setup {
        undocumented: Undocumented::Allow,
        ..Setup::gateway()
    }
    .mesh();
    let alice = mesh.key("alice");
    let outcome = mesh.edge(
        &mut request("GET", "/nowhere", &[("x-api-key", &alice)]),
        "",
    );
    // No policy names `orders:undocumented`, so nobody may.
    assert_eq!(reason(outcome), Some(Reason::AuthzUser));
    assert_eq!(
        mesh.record.operation.as_deref(),
        Some("orders:undocumented")
    );
}

#[test]
fn without_users_nobody_is_asked_for_one() {
    let mut mesh = Setup {
        users: false,
        ..Setup::gateway()
    }
    .mesh();
    let mut head = request("GET", "/orders", &[("authorization", "Basic YTpi")]);
    let permit = mesh.edge(&mut head, "").unwrap();
    assert!(permit.target().user.is_none());
    assert!(head.headers.contains_key("authorization"));
    assert_eq!(
        mesh.checks(),
        [
            "normalize+",
            "route+",
            "operation+",
            "authn?",
            "user?",
            "schema+",
        ]
    );
}

#[test]
fn responses_are_judged() {
    let mut mesh = Setup::gateway().mesh();
    let alice = mesh.key("alice");
    let mut head = request("GET", "/orders/17?owner=alice", &[("x-api-key", &alice)]);
    let target = mesh.edge(&mut head, "").unwrap().into_target();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let ok = StatusCode::OK;
    assert!(target.wants_response_body(ok, &headers).is_some());
    let mut judge = |body: Option<&[u8]>, headers: &HeaderMap| {
        target
            .check_response(ok, headers, body, &mut mesh.record)
            .map_err(|denial| denial.reason)
    };
    assert_eq!(judge(Some(br#"{"item":"a"}"#), &headers), Ok(()));
    assert_eq!(
        judge(Some(br#"{"item":1}"#), &headers),
        Err(Reason::SchemaResponse)
    );
    assert_eq!(judge(None, &headers), Err(Reason::SchemaResponse));
    let mut denied_inside = headers.clone();
    denied_inside.insert("x-testudo-reason", HeaderValue::from_static("authz.caller"));
    assert_eq!(judge(Some(b"{}"), &denied_inside), Ok(()));
    assert!(target.wants_response_body(ok, &denied_inside).is_none());
}

#[test]
fn a_body_that_must_be_judged_cannot_be_streamed_past() {
    let mut mesh = Setup::gateway().mesh();
    let alice = mesh.key("alice");
    let mut head = request("POST", "/orders", &[("x-api-key", &alice), JSON]);
    let HeadOutcome::Continue(check) = mesh.head(&client(), &mut head, true) else {
        panic!("the head was refused");
    };
    assert_eq!(check.plan(), BodyPlan::Buffer(64));
    assert!(check.stream(&mut mesh.record).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_heads_never_panic(
        method in "[A-Z]{1,8}|GET|POST|HEAD|OPTIONS",
        path in "(/[!-~]{0,12}){1,4}|/orders|/orders/[0-9x]{1,3}|/watch",
        headers in proptest::collection::vec(("[a-z-]{1,16}|host|origin|upgrade|connection|x-api-key|authorization|content-type|txn-token|traceparent", "[ -~]{0,24}"), 0..8),
        has_body: bool,
        sidecar: bool,
    ) {
        let mut mesh = if sidecar { Setup::sidecar() } else { Setup::gateway() }.mesh();
        let Ok(uri) = path.parse::<http::Uri>() else { return Ok(()); };
        let mut head = request(&method, "/", &[]);
        head.uri = uri;
        for (name, value) in headers {
            let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), HeaderValue::from_str(&value)) else { continue; };
            head.headers.append(name, value);
        }
        let peer = if sidecar { workload("service/storefront") } else { client() };
        let outcome = mesh.head(&peer, &mut head, has_body);
        prop_assert!(!mesh.record.checks.is_empty());
        if let HeadOutcome::Deny(denial) = outcome {
            prop_assert_eq!(mesh.record.reason, Some(denial.reason));
        }
    }

    #[test]
    fn arbitrary_bodies_never_panic_and_only_whole_orders_pass(
        body in prop_oneof![
            "\\PC{0,40}",
            r#"\{("(item|count|paid)": ?("[a-z]{0,3}"|-?[0-9]{1,22}|null|\[\]|1e999),? ?){0,3}\}"#,
        ],
    ) {
        let mut mesh = Setup::gateway().mesh();
        let alice = mesh.key("alice");
        let mut head = request("POST", "/orders", &[("x-api-key", &alice), JSON]);
        if mesh.edge(&mut head, &body).is_ok() {
            let order: serde_json::Value = serde_json::from_str(&body).unwrap();
            prop_assert!(order["item"].is_string(), "{body}");
            prop_assert!(order.get("paid").is_none(), "{body}");
        } else {
            prop_assert!(mesh.record.reason.is_some());
        }
    }
}
