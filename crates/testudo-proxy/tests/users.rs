//! Users over real sockets: credentials at the gateway, transaction tokens in the mesh, key sets by URL,
//! revocations.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::{Proxy, World, get, link, with};
use http::{Request, Response, StatusCode};
use testudo_guard::authn::{ApiKeys, Revocation, RevocationKind, Revocations};
use testudo_guard::containment::{ContainedAction, ContainedKind, Containment, Containments};
use testudo_testkit::upstream::full;
use testudo_testkit::{Client, Upstream, eventually};

/// One service for users of any kind, behind a plain gateway. `jwks`: a file or a URL.
fn world(app: &Upstream, jwks: &str, api_key_hash: &str) -> World {
    let yaml = format!(
        "gateway:
  listen: 127.0.0.1:8443
  tls: none
  routes:
    - {{path: /, service: orders}}
users:
  jwt:
    shop:
      issuer: https://id.shop.test
      audiences: [shop]
      jwks: {jwks}
      roles: {{claim: roles, allow: [customer]}}
  api_keys: keys/api-keys.yaml
services:
  orders:
    app: [{:?}]
policies: policies
",
        app.app()
    );
    let keys =
        format!("keys: [{{id: ci, hash: \"{api_key_hash}\", user: ci, roles: [customer]}}]\n");
    let policy = "permit (principal in Role::\"customer\", action, resource);";
    World::new(&yaml)
        .with("keys/api-keys.yaml", &keys)
        .with("policies/users.cedar", policy)
}

fn proxies(world: &World) -> (Proxy, Proxy) {
    let (gateway, sidecar) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &sidecar]);
    (gateway, sidecar)
}

fn bearer(token: &str) -> Request<Bytes> {
    with(get("/"), "authorization", &format!("Bearer {token}"))
}

async fn ask(client: &mut Client, request: Request<Bytes>) -> (StatusCode, String) {
    let reply = client.send(request).await;
    (reply.status, reply.reason().to_owned())
}

#[tokio::test]
async fn events_tell_credentials_apart_and_never_tell_them() {
    let app = Upstream::ok();
    let key = ApiKeys::generate("ci").unwrap();
    let world = world(&app, "keys/jwks.json", &key.hash);
    let (gateway, sidecar) = proxies(&world);
    let mut events = gateway.events();
    let mut mesh_events = sidecar.events();
    let mut client = gateway.client().await;
    let good = world.users.token("alice", &["customer"], 300);
    let foreign = testudo_testkit::Users::new("https://id.shop.test", "shop");
    let forged = foreign.token("alice", &["customer"], 300);
    let basic = || with(get("/"), "authorization", "Basic YWxpY2U6aHVudGVyMg==");
    let long = format!("{}{}", "Agent/1 ", "x".repeat(200));
    let requests = [
        with(bearer(&good), "user-agent", "shop-app/3"),
        bearer(&good),
        with(get("/"), "x-api-key", &key.text),
        bearer(&forged),
        basic(),
        with(basic(), "user-agent", &long),
        get("/"),
    ];
    let mut seen = Vec::new();
    for request in requests {
        client.send(request).await;
        seen.push(events.recv().await.unwrap());
    }
    let names: Vec<_> = seen.iter().map(|event| event.credential.clone()).collect();
    assert!(names.iter().take(6).flatten().all(|name| name.len() == 16));
    assert_eq!(names[0], names[1], "the same token");
    assert_eq!(names[4], names[5], "the same wrong password");
    assert_eq!(names[6], None, "nothing came");
    let different: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), 5);
    assert_eq!(seen[0].agent.as_deref(), Some("shop-app/3"));
    assert_eq!(seen[5].agent.as_deref(), long.get(..128));
    assert_eq!(seen[3].user, None, "a forged token names nobody");

    // Inside there are transaction tokens, which name no credential; and nothing holds any of them.
    let inside = mesh_events.recv().await.unwrap();
    assert_eq!((&inside.credential, &inside.agent), (&None, &None));
    for event in seen.iter().chain([&inside]) {
        let json = serde_json::to_string(&**event).unwrap();
        let secrets = [
            good.as_str(),
            &forged,
            key.text.as_str(),
            "YWxpY2U6aHVudGVyMg==",
            "hunter2",
        ];
        for secret in secrets {
            assert!(!json.contains(secret), "{json}");
            let signature = secret.rsplit(['.', '_']).next().unwrap();
            assert!(!json.contains(signature), "{json}");
        }
    }
}

#[tokio::test]
async fn credentials_pass_or_say_why_not() {
    let app = Upstream::ok();
    let key = ApiKeys::generate("ci").unwrap();
    let world = world(&app, "keys/jwks.json", &key.hash);
    let (gateway, _sidecar) = proxies(&world);
    let mut client = gateway.client().await;
    let good = world.users.token("alice", &["customer"], 300);

    let reply = client.send(bearer(&good)).await;
    assert_eq!((reply.status, reply.reason()), (StatusCode::OK, ""));
    let got = app.last();
    assert_eq!(got.header("x-testudo-user"), "shop:alice");
    assert_eq!(got.header("x-testudo-roles"), "customer");
    assert_eq!(
        got.header("authorization"),
        "",
        "the credential stays at the edge"
    );
    assert!(got.header("txn-token").starts_with("ey"));

    let reply = client.send(with(get("/"), "x-api-key", &key.text)).await;
    assert_eq!((reply.status, reply.reason()), (StatusCode::OK, ""));
    assert_eq!(app.last().header("x-testudo-user"), "key:ci");
    assert_eq!(app.last().header("x-api-key"), "");

    let seen = app.requests().len();
    let expired = world.users.token("alice", &["customer"], -300);
    let foreign = testudo_testkit::Users::new("https://id.shop.test", "shop");
    let forged = foreign.token("alice", &["customer"], 300);
    let guest = world.users.token("bob", &["guest"], 300);
    let other_key = ApiKeys::generate("ci").unwrap();
    let rows = [
        ("nothing", get("/"), 401, "authn.missing"),
        ("expired", bearer(&expired), 401, "authn.expired"),
        ("forged", bearer(&forged), 401, "authn.invalid"),
        ("garbage", bearer("x"), 401, "authn.invalid"),
        (
            "both",
            with(bearer(&good), "x-api-key", &key.text),
            401,
            "authn.invalid",
        ),
        (
            "another key",
            with(get("/"), "x-api-key", &other_key.text),
            401,
            "authn.invalid",
        ),
        (
            "basic",
            with(get("/"), "authorization", "Basic YTpi"),
            401,
            "authn.invalid",
        ),
        (
            "a role that is not allowed",
            bearer(&guest),
            403,
            "authz.user",
        ),
    ];
    for (what, request, status, reason) in rows {
        let reply = client.send(request).await;
        assert_eq!(
            (reply.status.as_u16(), reply.reason()),
            (status, reason),
            "{what}"
        );
        let challenge = reply.header("www-authenticate");
        assert_eq!(challenge.starts_with("Bearer"), status == 401, "{what}");
        assert_eq!(reply.json()["reason"], reason);
        assert!(
            !reply.text().contains("ey"),
            "{what}: no detail for clients"
        );
    }
    assert_eq!(app.requests().len(), seen, "none of these came through");
}

#[tokio::test]
async fn a_revocation_ends_open_connections_rights() {
    let app = Upstream::ok();
    let world = world(&app, "keys/jwks.json", &"00".repeat(32));
    let (gateway, sidecar) = proxies(&world);
    let mut client = gateway.client().await;
    let token = world.users.token("alice", &["customer"], 300);
    let revoke = |proxy: &Proxy| {
        let list = Revocations::new([Revocation {
            kind: RevocationKind::User,
            value: Arc::from("shop:alice"),
        }]);
        proxy
            .shared
            .installed
            .live
            .revocations
            .store(Arc::new(list));
    };
    for _ in 0..2 {
        assert_eq!(ask(&mut client, bearer(&token)).await.0, StatusCode::OK);
    }
    // The sidecar hears of it first: its verified transaction token counts no more.
    revoke(&sidecar);
    let refused = (StatusCode::UNAUTHORIZED, String::from("authn.invalid"));
    assert_eq!(ask(&mut client, bearer(&token)).await, refused);
    sidecar
        .shared
        .installed
        .live
        .revocations
        .store(Arc::default());
    assert_eq!(ask(&mut client, bearer(&token)).await.0, StatusCode::OK);
    revoke(&gateway);
    assert_eq!(ask(&mut client, bearer(&token)).await, refused);
    let bob = world.users.token("bob", &["customer"], 300);
    assert_eq!(ask(&mut client, bearer(&bob)).await.0, StatusCode::OK);
}

/// An identity provider whose key set can be taken away.
fn identity_provider() -> (Upstream, Arc<Mutex<Option<String>>>) {
    let keys: Arc<Mutex<Option<String>>> = Arc::default();
    let answer = keys.clone();
    let server = Upstream::start(move |_| match &*answer.lock().unwrap() {
        Some(keys) => Response::new(full(keys.clone())),
        None => Response::builder().status(500).body(full("")).unwrap(),
    });
    (server, keys)
}

#[tokio::test]
async fn keys_by_url_may_come_late_and_outlive_their_source() {
    let app = Upstream::ok();
    let (mut provider, keys) = identity_provider();
    let url = format!("http://{}/jwks", provider.address());
    let key = ApiKeys::generate("ci").unwrap();
    let world = world(&app, &url, &key.hash);
    let (gateway, _sidecar) = proxies(&world);
    let mut client = gateway.client().await;
    let token = world.users.token("alice", &["customer"], 300);
    let unavailable = (
        StatusCode::SERVICE_UNAVAILABLE,
        String::from("authn.unavailable"),
    );
    assert_eq!(ask(&mut client, bearer(&token)).await, unavailable);
    let by_key = with(get("/"), "x-api-key", &key.text);
    assert_eq!(
        ask(&mut client, by_key).await.0,
        StatusCode::OK,
        "others are not hurt"
    );

    *keys.lock().unwrap() = Some(world.users.jwks());
    let live = &gateway.shared.installed.live;
    eventually("the keys come", || {
        live.keys.load().keys(&format!("url {url}")).is_some()
    })
    .await;
    assert_eq!(ask(&mut client, bearer(&token)).await.0, StatusCode::OK);
    provider.stop();
    assert_eq!(ask(&mut client, bearer(&token)).await.0, StatusCode::OK);
    let kept = std::fs::read_dir(gateway.state().join("jwks")).unwrap();
    assert_eq!(kept.count(), 1);
}

/// An application that answers with a stream that never ends.
fn endless() -> Upstream {
    use http_body_util::BodyExt as _;
    Upstream::start_raw(|_| async {
        let first = futures_util::stream::once(async {
            Ok(http_body::Frame::data(Bytes::from_static(b"data: 1\n\n")))
        });
        let body = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(http_body_util::StreamBody::new(body).boxed())
            .unwrap()
    })
}

/// Such a stream, once it runs.
async fn running(gateway: &Proxy, token: &str) -> hyper::body::Incoming {
    use http_body_util::BodyExt as _;
    let socket = tokio::net::TcpStream::connect(gateway.edge())
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = with(bearer(token), "accept", "text/event-stream");
    let response = sender
        .send_request(request.map(http_body_util::Full::new))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    body
}

/// Whether the stream ends within this time.
async fn ends(body: &mut hyper::body::Incoming, millis: u64) -> bool {
    use http_body_util::BodyExt as _;
    let next = tokio::time::timeout(Duration::from_millis(millis), body.frame()).await;
    matches!(next, Ok(None | Some(Err(_))))
}

#[tokio::test]
async fn a_revocation_ends_a_running_stream() {
    let app = endless();
    let world = world(&app, "keys/jwks.json", &"00".repeat(32));
    let (gateway, _sidecar) = proxies(&world);
    let token = world.users.token("alice", &["customer"], 300);
    let mut body = running(&gateway, &token).await;
    let installed = &gateway.shared.installed;
    let revoke = |user: &str| {
        let kind = RevocationKind::User;
        let value = Arc::from(user);
        let list = Revocations::new([Revocation { kind, value }]);
        installed.live.revocations.store(Arc::new(list));
        installed.changed();
    };
    revoke("shop:bob");
    assert!(!ends(&mut body, 300).await, "another user's matter");
    revoke("shop:alice");
    assert!(ends(&mut body, 10_000).await);
}

#[tokio::test]
async fn a_denial_ends_the_streams_of_who_is_contained_and_a_throttle_does_not() {
    let app = endless();
    let world = world(&app, "keys/jwks.json", &"00".repeat(32));
    let (gateway, _sidecar) = proxies(&world);
    let token = world.users.token("alice", &["customer"], 300);
    let mut body = running(&gateway, &token).await;
    let installed = &gateway.shared.installed;
    let contain = |user: &str, action| {
        let containment = Containment {
            id: Arc::from("ctn-1"),
            kind: ContainedKind::User,
            principal: Arc::from(user),
            service: Arc::from("orders"),
            operation: None,
            action,
            until: u64::MAX,
            reason: Arc::from("test"),
        };
        let previous = installed.live.containments.load_full();
        let (set, _) = Containments::new([containment], &previous);
        installed.live.containments.store(Arc::new(set));
        installed.changed();
    };
    contain("shop:bob", ContainedAction::Deny);
    assert!(!ends(&mut body, 300).await, "another user's matter");
    for _ in 0..3 {
        contain("shop:alice", ContainedAction::Throttle(0.01));
        assert!(!ends(&mut body, 200).await, "it was let in already");
    }
    contain("shop:alice", ContainedAction::Deny);
    assert!(ends(&mut body, 10_000).await);
}
