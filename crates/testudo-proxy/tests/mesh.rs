//! Inside the mesh: who may connect, who may call, in whose name; what leaves through outbound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Proxy, World, get, link, request, with};
use http::{Request, Response, StatusCode};
use testudo_guard::snapshot::Role;
use testudo_identity::{Alpn, MeshTls, RevocationList, SpiffeId};
use testudo_proxy::ListenAddress;
use testudo_testkit::client::raw;
use testudo_testkit::upstream::full;
use testudo_testkit::{Client, Pki, Reply, Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const USERS: &str = "users:
  jwt:
    shop:
      issuer: https://id.shop.test
      audiences: [shop]
      jwks: keys/jwks.json
      id: /sub
      roles: {claim: /roles, allow: [customer]}
";

const POLICIES: &str = r#"
permit (principal in Role::"customer", action in [Action::"orders:*", Action::"payments:*"], resource);
permit (principal == Service::"orders", action in Action::"payments:*", resource);
"#;

/// A gateway, and two services of which one calls the other.
struct Shop {
    world: World,
    gateway: Proxy,
    orders: Proxy,
    payments: Proxy,
    orders_app: Upstream,
    payments_app: Upstream,
    outside: Upstream,
}

fn shop(users: &str) -> Shop {
    let orders_app = Upstream::ok();
    let payments_app = Upstream::start(|_| Response::new(full("paid")));
    let outside = Upstream::start(|_| Response::new(full("outside")));
    let yaml = format!(
        "gateway:
  listen: 127.0.0.1:8443
  tls: none
  routes:
    - {{path: /, service: orders}}
{users}policies: policies
services:
  orders:
    app: ['{}']
    egress: ['localhost:{}']
  payments:
    app: ['{}']
",
        orders_app.app(),
        outside.address().port(),
        payments_app.app()
    );
    let policies = if users.is_empty() {
        "permit (principal == Service::\"orders\", action in Action::\"payments:*\", resource);"
    } else {
        POLICIES
    };
    let world = World::new(&yaml).with("policies/mesh.cedar", policies);
    let gateway = world.gateway();
    let (orders, payments) = (world.sidecar("orders"), world.sidecar("payments"));
    link(&[&gateway, &orders, &payments]);
    Shop {
        world,
        gateway,
        orders,
        payments,
        orders_app,
        payments_app,
        outside,
    }
}

/// What an application sends that was started with `HTTP_PROXY`.
fn through(proxy: &Proxy, method: &str, url: &str) -> Request<Bytes> {
    let host = url.trim_start_matches("http://").split('/').next().unwrap();
    Request::builder()
        .method(method)
        .uri(url)
        .header("host", host)
        .header("proxy-authorization", proxy.proxy_authorization())
        .body(Bytes::new())
        .unwrap()
}

async fn send_out(proxy: &Proxy, request: Request<Bytes>) -> Reply {
    Client::http1(proxy.outbound()).await.send(request).await
}

#[tokio::test]
async fn an_application_calls_another_service_by_name() {
    let shop = shop("");
    let mut asked = through(&shop.orders, "POST", "http://payments.mesh/charge?a=1");
    asked
        .headers_mut()
        .insert("x-testudo-caller", "gateway".parse().unwrap());
    let reply = send_out(&shop.orders, asked).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "paid"));
    let got = shop.payments_app.last();
    assert_eq!(got.uri, "/charge?a=1");
    assert_eq!(got.header("host"), "payments.mesh");
    assert_eq!(got.header("x-testudo-caller"), "orders");
    assert_eq!(got.header("proxy-authorization"), "");

    // The same by Host alone, and in HTTP/2.
    let mut by_host = through(&shop.orders, "GET", "http://payments.mesh/by-host");
    *by_host.uri_mut() = "/by-host".parse().unwrap();
    assert_eq!(send_out(&shop.orders, by_host).await.status, StatusCode::OK);
    let stream = TcpStream::connect(shop.orders.outbound()).await.unwrap();
    let mut http2 = Client::http2_over(stream).await;
    let mut asked = through(&shop.orders, "GET", "http://payments.mesh/h2");
    asked.headers_mut().remove("host");
    assert_eq!(http2.send(asked).await.status, StatusCode::OK);
    assert_eq!(shop.payments_app.last().uri, "/h2");
}

#[tokio::test]
async fn another_process_cannot_use_the_outbound_side() {
    let shop = shop("");
    let mut events = shop.orders.events();
    for secret in [
        None,
        Some("Basic dGVzdHVkbzpndWVzcw=="),
        Some("Bearer x"),
        Some("Basic %%"),
    ] {
        let mut asked = through(&shop.orders, "POST", "http://payments.mesh/charge");
        asked.headers_mut().remove("proxy-authorization");
        if let Some(secret) = secret {
            asked = with(asked, "proxy-authorization", secret);
        }
        let reply = send_out(&shop.orders, asked).await;
        assert_eq!(
            (reply.status, reply.reason()),
            (StatusCode::FORBIDDEN, "authz.caller")
        );
        let event = events.recv().await.unwrap();
        assert_eq!(event.reason.unwrap().code(), "authz.caller");
    }
    assert!(shop.payments_app.requests().is_empty());
}

#[tokio::test]
async fn a_unix_socket_of_its_own_proves_the_application() {
    let payments_app = Upstream::ok();
    let yaml = format!(
        "services: {{orders: {{app: ['127.0.0.1:1']}}, payments: {{app: ['{}'], sidecar: none}}}}",
        payments_app.app()
    );
    let world = World::new(&yaml);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("out.sock");
    let path = socket.clone();
    let orders = world.start(Role::Sidecar("orders".into()), move |options| {
        options.outbound = Some(ListenAddress::Unix(path));
    });
    let mut asked = through(&orders, "GET", "http://payments.mesh/x");
    asked.headers_mut().remove("proxy-authorization");
    let reply = Client::unix(&socket).await.send(asked).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "ok"));
    // `sidecar: none` is called in plain, without our identity.
    assert_eq!(payments_app.last().header("txn-token"), "");
}

#[tokio::test]
async fn only_known_names_and_listed_hosts_are_reached() {
    let shop = shop("");
    let port = shop.outside.address().port();
    let reply = send_out(
        &shop.orders,
        through(&shop.orders, "GET", "http://nobody.mesh/"),
    )
    .await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::NOT_FOUND, "route.none")
    );
    let elsewhere = format!("http://127.0.0.1:{port}/");
    let reply = send_out(&shop.orders, through(&shop.orders, "GET", &elsewhere)).await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::FORBIDDEN, "authz.caller")
    );
    let listed = format!("http://localhost:{port}/x");
    let reply = send_out(&shop.orders, through(&shop.orders, "GET", &listed)).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "outside"));
    assert_eq!(shop.outside.last().uri, "/x");
    assert_eq!(shop.outside.requests().len(), 1);
}

#[tokio::test]
async fn connect_makes_a_tunnel_to_listed_hosts_only() {
    let shop = shop("");
    let port = shop.outside.address().port();
    let secret = shop.orders.proxy_authorization();
    let connect = |host: &str| {
        format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\nproxy-authorization: {secret}\r\n\r\n")
    };
    let answer = raw(shop.orders.outbound(), connect("127.0.0.1:1").as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("authz.caller"),
        "{answer}"
    );

    let mut stream = TcpStream::connect(shop.orders.outbound()).await.unwrap();
    let host = format!("localhost:{port}");
    stream.write_all(connect(&host).as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut inside = Client::http1_over(stream).await;
    let reply = inside.send(get("/tunnelled")).await;
    assert_eq!(reply.text(), "outside");
    assert_eq!(shop.outside.last().uri, "/tunnelled");
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a response head"));
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn the_user_travels_by_a_token_that_only_the_gateway_makes() {
    let shop = shop(USERS);
    let bearer = format!(
        "Bearer {}",
        shop.world.users.token("alice", &["customer", "root"], 300)
    );
    let asked = with(get("/orders/1"), "authorization", &bearer);
    let reply = shop.gateway.client().await.send(asked).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let got = shop.orders_app.last();
    assert_eq!(got.header("x-testudo-user"), "shop:alice");
    assert_eq!(got.header("x-testudo-roles"), "customer");
    assert_eq!(
        got.header("authorization"),
        "",
        "the credential stays at the edge"
    );
    let token = got.header("txn-token").to_owned();
    assert!(!token.is_empty());

    // The application passes the token on.
    let call = through(&shop.orders, "POST", "http://payments.mesh/charge");
    let reply = send_out(&shop.orders, with(call, "txn-token", &token)).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "paid"));
    assert_eq!(
        shop.payments_app.last().header("x-testudo-user"),
        "shop:alice"
    );

    // It passes only the trace on: its sidecar knows whose request that is.
    let call = through(&shop.orders, "POST", "http://payments.mesh/charge");
    let call = with(call, "traceparent", got.header("traceparent"));
    assert_eq!(send_out(&shop.orders, call).await.status, StatusCode::OK);
    assert_eq!(
        shop.payments_app.last().header("x-testudo-user"),
        "shop:alice"
    );

    // It passes nothing on: the payments side asks for the user.
    let call = through(&shop.orders, "POST", "http://payments.mesh/charge");
    let reply = send_out(&shop.orders, call).await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::UNAUTHORIZED, "authn.missing")
    );

    // A token that its inbound side never saw.
    let bearer = format!(
        "Bearer {}",
        shop.world.users.token("bob", &["customer"], 300)
    );
    let asked = with(get("/orders/1"), "authorization", &bearer);
    shop.gateway.client().await.send(asked).await;
    let bobs = shop.orders_app.last().header("txn-token").to_owned();
    let call = through(&shop.payments, "POST", "http://orders.mesh/");
    let reply = send_out(&shop.payments, with(call, "txn-token", &bobs)).await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::UNAUTHORIZED, "authn.invalid")
    );
}

#[tokio::test]
async fn who_is_not_permitted_is_refused_at_the_edge() {
    let shop = shop(USERS);
    let mut client = shop.gateway.client().await;
    let reply = client.send(get("/orders/1")).await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::UNAUTHORIZED, "authn.missing")
    );
    assert!(reply.header("www-authenticate").starts_with("Bearer"));
    let expired = format!(
        "Bearer {}",
        shop.world.users.token("alice", &["customer"], -300)
    );
    let reply = client
        .send(with(get("/orders/1"), "authorization", &expired))
        .await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::UNAUTHORIZED, "authn.expired")
    );
    let guest = format!("Bearer {}", shop.world.users.token("eve", &[], 300));
    let reply = client
        .send(with(get("/orders/1"), "authorization", &guest))
        .await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::FORBIDDEN, "authz.user")
    );
    assert!(shop.orders_app.requests().is_empty());
}

/// Straight to a sidecar, as this identity.
async fn straight(
    proxy: &Proxy,
    mesh: &Arc<MeshTls>,
    expected: &SpiffeId,
) -> std::io::Result<Client> {
    let config = mesh
        .client_config(std::slice::from_ref(expected), &[Alpn::Http1])
        .unwrap();
    let stream = TcpStream::connect(proxy.inbound()).await?;
    let mut stream = TlsConnector::from(config)
        .connect(testudo_identity::tls::server_name(), stream)
        .await?;
    // In TLS 1.3 a client learns only by reading that its certificate was refused.
    stream.flush().await?;
    Ok(Client::http1_over(stream).await)
}

async fn is_answered(client: std::io::Result<Client>) -> Option<Reply> {
    client
        .ok()?
        .try_send(request("POST", "/charge", ""))
        .await
        .ok()
}

#[tokio::test]
async fn straight_to_a_sidecar_only_mesh_identities_get_an_answer() {
    let shop = shop("");
    let payments = shop.world.pki.service("payments");
    let inbound = shop.payments.inbound();

    let plain = raw(
        inbound,
        b"POST /charge HTTP/1.1\r\nhost: payments.mesh\r\n\r\n",
    )
    .await;
    assert!(!plain.contains("HTTP/1.1"), "{plain}");

    let mut no_certificate = rustls::ClientConfig::clone(&shop.world.pki.edge_client(&[]));
    no_certificate.enable_sni = false;
    let config = Arc::new(no_certificate);
    let result = testudo_testkit::client::tls(inbound, "localhost", &config).await;
    assert!(result.is_err(), "an edge client takes no SVID for a server");

    let other = Pki::new(common::DOMAIN);
    let stranger = other.identity(&other.service("orders"));
    assert!(
        is_answered(straight(&shop.payments, &stranger, &payments).await)
            .await
            .is_none()
    );

    // Trusts the right roots, but its own certificate is another authority's.
    let impostor = other.identity(&other.service("orders"));
    let real = shop.world.pki.identity(&payments);
    impostor
        .set_trust((*real.trust().unwrap()).clone())
        .unwrap();
    assert!(
        is_answered(straight(&shop.payments, &impostor, &payments).await)
            .await
            .is_none()
    );
    assert!(shop.payments_app.requests().is_empty());

    // A valid identity of the mesh that no policy permits.
    let storefront = shop
        .world
        .pki
        .identity(&shop.world.pki.service("storefront"));
    let reply = is_answered(straight(&shop.payments, &storefront, &payments).await).await;
    let reply = reply.expect("an answer");
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::FORBIDDEN, "authz.caller")
    );
    assert!(shop.payments_app.requests().is_empty());

    let orders = shop.world.pki.identity(&shop.world.pki.service("orders"));
    let reply = is_answered(straight(&shop.payments, &orders, &payments).await).await;
    assert_eq!(reply.expect("an answer").status, StatusCode::OK);
}

#[tokio::test]
async fn revoked_and_expired_peers_lose_their_connections() {
    let shop = shop("");
    let pki = &shop.world.pki;
    let payments = pki.service("payments");
    let orders = pki.identity(&pki.service("orders"));
    let mut client = straight(&shop.payments, &orders, &payments).await.unwrap();
    assert_eq!(
        client.send(request("POST", "/charge", "")).await.status,
        StatusCode::OK
    );
    let mesh = shop.payments.shared.installed.mesh().unwrap();
    mesh.set_revocations(RevocationList::new(
        1,
        ["spiffe://shop.test/service/orders"],
    ));
    shop.payments.shared.installed.changed();
    eventually("a revoked peer is cut off", || client.is_closed()).await;
    assert!(
        is_answered(straight(&shop.payments, &orders, &payments).await)
            .await
            .is_none()
    );

    let brief = pki.identity_for(&pki.gateway(), Duration::from_secs(2));
    let mut client = straight(&shop.orders, &brief, &pki.service("orders"))
        .await
        .unwrap();
    assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
    // No request ever passes after the end, whether or not the connection is closed by then.
    let end = brief.identity().unwrap().not_after();
    while shop.orders.now().unix_seconds() <= end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = shop.orders_app.requests().len();
    if let Ok(reply) = client.try_send(get("/")).await {
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(shop.orders_app.requests().len(), before);
}

#[tokio::test]
async fn a_service_is_only_spoken_to_under_its_own_identity() {
    let shop = shop("");
    // The address of orders is suddenly that of payments: another service answers there.
    let wrong =
        testudo_proxy::Addresses::new([("orders", vec![shop.payments.inbound().to_string()])]);
    shop.gateway.shared.installed.install_addresses(wrong);
    let reply = shop.gateway.client().await.send(get("/")).await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::SERVICE_UNAVAILABLE, "upstream.unavailable")
    );
    assert!(shop.payments_app.requests().is_empty());
}

#[tokio::test]
async fn identities_are_swapped_under_load() {
    let shop = shop("");
    let pki = &shop.world.pki;
    let mut client = shop.gateway.client().await;
    for _ in 0..10 {
        let hour = Duration::from_secs(3600);
        pki.renew(
            shop.gateway.shared.installed.mesh().unwrap(),
            &pki.gateway(),
            hour,
        );
        pki.renew(
            shop.orders.shared.installed.mesh().unwrap(),
            &pki.service("orders"),
            hour,
        );
        shop.gateway.shared.installed.changed();
        shop.orders.shared.installed.changed();
        for _ in 0..5 {
            assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
        }
    }
}

const LIVE: &str = r#"
openapi: 3.1.0
info: {title: Live, version: "1"}
paths:
  /live:
    get:
      operationId: live
      responses: {"101": {description: a stream of events}}
  /dead:
    get:
      operationId: dead
      responses: {"200": {description: no stream}}
"#;

/// Answers a WebSocket handshake with this accept value, then echoes.
async fn echo_server(accept: &'static str) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = read_head(&mut stream).await;
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-accept: {accept}\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn websocket(edge: std::net::SocketAddr, path: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(edge).await.unwrap();
    let ask = format!(
        "GET {path} HTTP/1.1\r\nhost: api.shop.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    (stream, head)
}

fn live_world(app: std::net::SocketAddr) -> (World, Proxy, Proxy) {
    let yaml = format!(
        "gateway: {{listen: '127.0.0.1:8443', tls: none, routes: [{{path: /, service: orders}}]}}
services: {{orders: {{app: ['{app}'], api: {{openapi: apis/live.yaml}}}}}}"
    );
    let world = World::new(&yaml)
        .with("apis/live.yaml", LIVE)
        .with("apis/other.yaml", &LIVE.replace("/live", "/other"));
    let (gateway, orders) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &orders]);
    (world, gateway, orders)
}

#[tokio::test]
async fn a_declared_websocket_passes_both_proxies() {
    let app = echo_server("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").await;
    let (_world, gateway, _orders) = live_world(app);
    let mut events = gateway.events();
    let (mut stream, head) = websocket(gateway.edge(), "/live").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        head.contains("upgrade: websocket") && head.contains("x-request-id"),
        "{head}"
    );
    for message in ["hello", "again"] {
        stream.write_all(message.as_bytes()).await.unwrap();
        let mut echo = vec![0; message.len()];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, message.as_bytes());
    }
    drop(stream);
    let event = events.recv().await.unwrap();
    assert_eq!(
        (event.status, event.bytes_in, event.bytes_out),
        (Some(101), 10, 10)
    );

    let (_, head) = websocket(gateway.edge(), "/dead").await;
    assert!(head.starts_with("HTTP/1.1 4"), "undeclared: {head}");
}

#[tokio::test]
async fn a_false_websocket_handshake_is_invalid() {
    let app = echo_server("AAAAAAAAAAAAAAAAAAAAAAAAAAA=").await;
    let (_world, gateway, _orders) = live_world(app);
    let (_, head) = websocket(gateway.edge(), "/live").await;
    assert!(
        head.starts_with("HTTP/1.1 502 ") && head.contains("upstream.invalid"),
        "{head}"
    );
}

#[tokio::test]
async fn a_websocket_ends_when_a_new_revision_does_not_permit_it() {
    let app = echo_server("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").await;
    let (mut world, gateway, _orders) = live_world(app);
    let (mut stream, head) = websocket(gateway.edge(), "/live").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let yaml = |api: &str| {
        format!(
            "gateway: {{listen: '127.0.0.1:8443', tls: none, routes: [{{path: /, service: orders}}]}}
services: {{orders: {{app: ['{app}'], api: {{openapi: apis/{api}.yaml}}}}}}"
        )
    };
    // The same in a new revision: it goes on.
    world.rewrite(&yaml("live"));
    world.install(&gateway, 2);
    let mut echo = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut echo).await.unwrap();
    // The operation is gone: so is the stream.
    world.rewrite(&yaml("other"));
    world.install(&gateway, 3);
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut echo)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "{end:?}");
}

#[tokio::test]
async fn an_event_stream_ends_with_the_credential() {
    use http_body_util::BodyExt;
    let app = Upstream::start_raw(|_| async {
        let first = futures_util::stream::once(async {
            Ok(http_body::Frame::data(Bytes::from_static(b"data: 1\n\n")))
        });
        let body = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(http_body_util::StreamBody::new(body).boxed())
            .unwrap()
    });
    let yaml = format!(
        "gateway: {{listen: '127.0.0.1:8443', tls: none, routes: [{{path: /, service: orders}}]}}
{USERS}services: {{orders: {{app: ['{}']}}}}",
        app.app()
    );
    let policy =
        r#"permit (principal in Role::"customer", action in Action::"orders:*", resource);"#;
    let world = World::new(&yaml).with("policies/mesh.cedar", policy);
    let (gateway, orders) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &orders]);
    // Tokens are taken for a minute past their end (clocks differ), so this one has 3 s left.
    let bearer = format!("Bearer {}", world.users.token("alice", &["customer"], -57));
    let asked = with(
        with(get("/"), "authorization", &bearer),
        "accept",
        "text/event-stream",
    );
    let mut client = gateway.client().await;
    let response = client.stream(asked.map(|_| full(""))).await.unwrap();
    let status = response.status();
    assert_eq!(status, StatusCode::OK, "{:?}", response.headers());
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "data: 1\n\n");
    let end = tokio::time::timeout(Duration::from_secs(15), body.frame()).await;
    assert!(
        end.expect("the stream ends")
            .is_none_or(|frame| frame.is_err())
    );
}
