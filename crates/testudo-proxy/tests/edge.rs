//! Client → gateway → sidecar → application, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{Proxy, World, get, link, request, with};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use testudo_guard::snapshot::Role;
use testudo_testkit::client::{self, raw};
use testudo_testkit::upstream::full;
use testudo_testkit::{Client, Upstream, eventually};

/// One service behind a plain gateway.
fn yaml(app: &str, more: &str) -> String {
    format!(
        "gateway:
  listen: 127.0.0.1:8443
  tls: none
  routes:
    - {{path: /, service: orders}}
services:
  orders:
    app: [{app:?}]
{more}"
    )
}

/// A gateway and a sidecar before this application.
struct Pair {
    world: World,
    gateway: Proxy,
    sidecar: Proxy,
}

fn pair(app: &Upstream, more: &str) -> Pair {
    let world = World::new(&yaml(&app.app(), more));
    let gateway = world.gateway();
    let sidecar = world.sidecar("orders");
    link(&[&gateway, &sidecar]);
    Pair {
        world,
        gateway,
        sidecar,
    }
}

#[tokio::test]
async fn a_request_passes_both_proxies_and_says_who_asks() {
    let app = Upstream::start(|_| {
        Response::builder()
            .header("x-testudo-reason", "authz.user")
            .header("connection", "x-private")
            .header("x-private", "1")
            .header("x-own", "2")
            .body(full("hello"))
            .unwrap()
    });
    let pair = pair(&app, "");
    let forged = [
        ("x-testudo-user", "shop:root"),
        ("x_testudo_user", "shop:root"),
        ("x-testudo-caller", "orders"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-request-id", "mine"),
        ("txn-token", "mine"),
    ];
    let mut asked = get("/orders/1?a=b");
    for (name, value) in forged {
        asked = with(asked, name, value);
    }
    let reply = pair.gateway.client().await.send(asked).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.text(), "hello");
    assert_eq!(reply.header("x-own"), "2");
    assert_eq!(reply.header("x-private"), "", "nominated by Connection");
    assert_eq!(reply.reason(), "", "only we give reasons");
    let id = reply.header("x-request-id");
    assert_ne!(id, "mine");

    let got = app.last();
    assert_eq!(got.uri, "/orders/1?a=b");
    assert_eq!(got.header("host"), "api.shop.test");
    assert_eq!(got.header("x-request-id"), id);
    assert_eq!(got.header("x-testudo-caller"), "gateway");
    assert_eq!(got.header("x-testudo-user"), "");
    assert_eq!(got.header("x_testudo_user"), "");
    assert_eq!(got.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(got.header("x-forwarded-proto"), "http");
    assert_eq!(got.header("x-forwarded-host"), "api.shop.test");
    assert!(got.header("traceparent").starts_with("00-"));
}

#[tokio::test]
async fn hops_share_the_trace_and_each_makes_one_event() {
    let app = Upstream::ok();
    let pair = pair(&app, "");
    let (mut edge, mut mesh) = (pair.gateway.events(), pair.sidecar.events());
    let mut client = pair.gateway.client().await;
    let reply = client.send(request("POST", "/orders", "0123456789")).await;
    let edge = edge.recv().await.unwrap();
    let mesh = mesh.recv().await.unwrap();
    assert_eq!(edge.request_id, reply.header("x-request-id"));
    assert_eq!(edge.request_id, mesh.request_id);
    assert_eq!(edge.trace_id, mesh.trace_id);
    assert_eq!(
        (edge.caller.as_deref(), mesh.caller.as_deref()),
        (None, Some("gateway"))
    );
    assert_eq!(mesh.service.as_deref(), Some("orders"));
    assert_eq!(mesh.operation.as_deref(), Some("orders:POST"));
    assert_eq!(
        (mesh.bytes_in, mesh.bytes_out, mesh.status),
        (10, 2, Some(200))
    );
    assert_eq!(
        (mesh.method.as_str(), mesh.path.as_str()),
        ("POST", "/orders")
    );
    assert!(mesh.duration_us > 0 && mesh.duration_us >= mesh.guard_us);
}

#[tokio::test]
async fn head_204_304_and_lengths_are_right() {
    let app = Upstream::start(|request| {
        let response = Response::builder();
        match request.uri.path() {
            "/empty" => response.status(204).body(full("")).unwrap(),
            "/same" => response
                .status(304)
                .header("etag", "\"1\"")
                .body(full(""))
                .unwrap(),
            _ => response.body(full("hello")).unwrap(),
        }
    });
    let pair = pair(&app, "");
    let mut client = pair.gateway.client().await;
    let head = client.send(request("HEAD", "/", "")).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::OK, "5")
    );
    assert!(head.body.is_empty());
    let empty = client.send(get("/empty")).await;
    assert_eq!(empty.status, StatusCode::NO_CONTENT);
    assert_eq!(empty.header("content-length"), "");
    let same = client.send(get("/same")).await;
    assert_eq!(
        (same.status, same.header("etag")),
        (StatusCode::NOT_MODIFIED, "\"1\"")
    );
    let full = client.send(get("/")).await;
    assert_eq!((full.text(), full.header("content-length")), ("hello", "5"));
    assert_eq!(app.requests()[0].method, "HEAD");
}

#[tokio::test]
async fn connections_are_reused_at_every_hop() {
    let app = Upstream::ok();
    let pair = pair(&app, "");
    let mut client = pair.gateway.client().await;
    for _ in 0..20 {
        assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
    }
    assert!(app.connections() <= 2, "{}", app.connections());
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    const SIZE: usize = 8 << 20;
    let app = Upstream::start_raw(|request: Request<hyper::body::Incoming>| async move {
        Response::new(request.into_body().map_err(|_| unreachable!()).boxed())
    });
    let pair = pair(&app, "    api: {max_body: 16MiB}\n");
    let mut client = pair.gateway.client().await;
    let body: Bytes = (0..=250_u8).cycle().take(SIZE).collect::<Vec<u8>>().into();
    let reply = client.send(request("POST", "/", body.clone())).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.body.len(), SIZE);
    assert_eq!(reply.body, body);
}

#[tokio::test]
async fn a_body_over_its_cap_never_reaches_the_application_whole() {
    let app = Upstream::ok();
    let pair = pair(&app, "    api: {max_body: 1KiB}\n");
    let big = vec![b'x'; 2048];
    let reply = pair
        .gateway
        .client()
        .await
        .send(request("POST", "/", big.clone()))
        .await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(reply.reason(), "request.too_large");
    // Without a length, it shows while it streams.
    let mut text =
        b"POST / HTTP/1.1\r\nhost: api.shop.test\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    text.extend_from_slice(b"800\r\n");
    text.extend_from_slice(&big);
    text.extend_from_slice(b"\r\n0\r\n\r\n");
    let answer = raw(pair.gateway.edge(), &text).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("request.too_large"), "{answer}");
    assert!(
        app.requests()
            .iter()
            .all(|request| request.body.len() <= 1024)
    );
}

#[tokio::test]
async fn a_slow_head_and_a_slow_body_time_out() {
    let app = Upstream::ok();
    let world = World::new(&yaml(&app.app(), ""));
    let gateway = world.start(Role::Gateway, |options| {
        options.caps.head = Duration::from_millis(100);
        options.caps.body_idle = Duration::from_millis(100);
    });
    let sidecar = world.sidecar("orders");
    link(&[&gateway, &sidecar]);
    let mut events = gateway.events();
    let answer = raw(gateway.edge(), b"GET / HTTP/1.1\r\nhost: a").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains("\"reason\":\"request.timeout\""),
        "{answer}"
    );
    let event = events.recv().await.unwrap();
    assert_eq!(
        event.reason.map(|reason| reason.code()),
        Some("request.timeout")
    );
    let slow = b"POST / HTTP/1.1\r\nhost: api.shop.test\r\ncontent-length: 9\r\n\r\nabc";
    let answer = raw(gateway.edge(), slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("request.timeout"), "{answer}");
}

#[tokio::test]
async fn heads_are_bounded() {
    let app = Upstream::ok();
    let pair = pair(&app, "");
    let long = format!(
        "GET /{} HTTP/1.1\r\nhost: api.shop.test\r\n\r\n",
        "a".repeat(70_000)
    );
    let answer = raw(pair.gateway.edge(), long.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let many: String = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nhost: api.shop.test\r\n{many}\r\n");
    let answer = raw(pair.gateway.edge(), many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(app.requests().is_empty());
}

#[tokio::test]
async fn without_a_snapshot_everything_is_not_ready() {
    let world = World::new(&yaml("127.0.0.1:1", ""));
    let gateway = world.start_empty(Role::Gateway, |_| {});
    let reply = gateway.client().await.send(get("/")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.reason(), "not_ready");
    assert_eq!(reply.json()["request_id"], reply.header("x-request-id"));
    assert!(!gateway.state().join("ready.json").exists());
    let mut admin = Client::http1(gateway.admin()).await;
    assert_eq!(
        admin.send(get("/readyz")).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(admin.send(get("/healthz")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_ready_proxy_says_where_it_listens() {
    let app = Upstream::ok();
    let pair = pair(&app, "");
    let file = pair.sidecar.state().join("ready.json");
    eventually("ready.json is written", || file.exists()).await;
    let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(ready["inbound"], pair.sidecar.inbound().to_string());
    assert_eq!(ready["outbound"], pair.sidecar.outbound().to_string());
    assert_eq!(ready["pid"], std::process::id());
    let mut admin = Client::http1(pair.sidecar.admin()).await;
    assert_eq!(admin.send(get("/readyz")).await.status, StatusCode::OK);
    let effective = admin.send(get("/effective")).await.json();
    assert_eq!(effective["revision"], 1);
    assert_eq!(effective["role"], "orders");
}

#[tokio::test]
async fn an_application_that_is_away_is_unavailable() {
    let mut app = Upstream::ok();
    let pair = pair(&app, "");
    let mut client = pair.gateway.client().await;
    assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
    app.stop();
    let reply = client.send(get("/")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.reason(), "upstream.unavailable");
    assert!(
        !reply.text().contains("127.0.0.1"),
        "clients learn no addresses"
    );
}

#[tokio::test]
async fn an_application_that_does_not_answer_times_out() {
    let app = Upstream::start_raw(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Response::new(full(""))
    });
    let pair = pair(&app, "    timeout: 200ms\n");
    let reply = pair
        .gateway
        .client()
        .await
        .send(request("POST", "/", "x"))
        .await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(reply.reason(), "upstream.timeout");
}

#[tokio::test]
async fn an_application_that_speaks_no_http_is_invalid() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut chunk = [0; 1024];
            let _ = stream.read(&mut chunk).await;
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        }
    });
    let world = World::new(&yaml(&address.to_string(), ""));
    let (gateway, sidecar) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &sidecar]);
    let reply = gateway.client().await.send(request("POST", "/", "x")).await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert_eq!(reply.reason(), "upstream.invalid");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_call() {
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (begun.clone(), ended.clone());
    let app = Upstream::start_raw(move |_| {
        struct Ended(Arc<AtomicUsize>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        counts.0.fetch_add(1, Ordering::SeqCst);
        let ended = Ended(counts.1.clone());
        async move {
            let _ended = ended;
            tokio::time::sleep(Duration::from_secs(60)).await;
            Response::new(full(""))
        }
    });
    let pair = pair(&app, "");
    let mut events = pair.gateway.events();
    let mut client = pair.gateway.client().await;
    let call = tokio::spawn(async move { client.try_send(get("/")).await.map(|_| ()) });
    eventually("the application works", || {
        begun.load(Ordering::SeqCst) == 1
    })
    .await;
    call.abort();
    eventually("the application is told", || {
        ended.load(Ordering::SeqCst) == 1
    })
    .await;
    assert_eq!(
        events.recv().await.unwrap().status,
        None,
        "nobody got a response"
    );
}

#[tokio::test]
async fn http2_streams_run_beside_each_other_over_tls() {
    let app = Upstream::ok();
    let yaml = yaml(&app.app(), "").replace("  tls: none\n", "");
    let world = World::new(&yaml);
    let (gateway, sidecar) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &sidecar]);
    let config = world.pki.edge_client(&["h2", "http/1.1"]);
    let mut client = Client::tls(gateway.edge(), "api.shop.test", &config).await;
    assert!(matches!(client, Client::Http2(_)));
    for _ in 0..5 {
        let asked = Request::get("https://api.shop.test/x").body("").unwrap();
        let reply = client.send(asked).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, "ok"));
    }
    assert_eq!(app.last().header("x-forwarded-proto"), "https");
    assert_eq!(app.last().header("host"), "api.shop.test");

    // Whom the connection was made for, requests on it must be for.
    let other = Request::get("https://other.shop.test/x").body("").unwrap();
    let reply = client.send(other).await;
    assert_eq!(reply.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(reply.reason(), "request.misdirected");

    let config = world.pki.edge_client(&["http/1.1"]);
    let mut client = Client::tls(gateway.edge(), "api.shop.test", &config).await;
    assert!(matches!(client, Client::Http1(_)));
    assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_application_may_be_behind_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let app = Upstream::start_unix(&folder.path().join("app.sock"), |_| {
        Response::new(full("unix"))
    });
    let world = World::new(&yaml("127.0.0.1:1", ""));
    let gateway = world.gateway();
    let socket = folder.path().join("app.sock");
    let sidecar = world.start(Role::Sidecar("orders".into()), |options| {
        options.app = Some(testudo_guard::snapshot::AppAddress::Unix(socket));
    });
    link(&[&gateway, &sidecar]);
    let reply = gateway.client().await.send(get("/")).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "unix"));
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn continue_is_said_only_to_who_may_send() {
    let app = Upstream::ok();
    let pair = pair(&app, "    api: {max_body: 10B}\n");
    let expect =
        "POST / HTTP/1.1\r\nhost: api.shop.test\r\nexpect: 100-continue\r\ncontent-length: ";
    let answer = raw(
        pair.gateway.edge(),
        format!("{expect}3\r\nconnection: close\r\n\r\nabc").as_bytes(),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"),
        "{answer}"
    );
    let answer = raw(
        pair.gateway.edge(),
        format!("{expect}20\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn trailers_reach_the_client_of_http2() {
    let app = Upstream::start_raw(|_| async {
        let frames = [
            Ok(http_body::Frame::data(Bytes::from_static(b"message"))),
            Ok(http_body::Frame::trailers(
                [
                    ("grpc-status", "0"),
                    ("x_forged", "1"),
                    ("x-testudo-user", "root"),
                ]
                .into_iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect(),
            )),
        ];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        Response::builder()
            .header("content-type", "application/grpc")
            .body(body.boxed())
            .unwrap()
    });
    let pair = pair(&app, "");
    let stream = tokio::net::TcpStream::connect(pair.gateway.edge())
        .await
        .unwrap();
    let mut client = Client::http2_over(stream).await;
    let call = || {
        Request::post("http://api.shop.test/shop.Ledger/Append")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body("request")
            .unwrap()
    };
    let reply = client.send(call()).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.text(), "message");
    let trailers = reply.trailers.expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers.len(), 1, "{trailers:?}");
}

#[tokio::test]
async fn a_grpc_client_gets_denials_as_grpc() {
    let world = World::new(&yaml("127.0.0.1:1", ""));
    let gateway = world.gateway();
    let stream = tokio::net::TcpStream::connect(gateway.edge())
        .await
        .unwrap();
    let mut client = Client::http2_over(stream).await;
    let call = Request::post("http://api.shop.test/shop.Ledger/Append")
        .header("content-type", "application/grpc")
        .body("")
        .unwrap();
    let reply = client.send(call).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("grpc-status"), "14");
    assert_eq!(reply.reason(), "upstream.unavailable");
    assert!(
        reply.body.is_empty() && reply.trailers.is_none(),
        "trailers only"
    );
}

#[tokio::test]
async fn a_revision_is_swapped_under_load_without_a_failed_request() {
    let app = Upstream::ok();
    let mut pair = pair(&app, "");
    let edge = pair.gateway.edge();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load: Vec<_> = (0..4)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut client = Client::http1(edge).await;
                let mut sent = 0;
                while !*stopped.borrow() {
                    let reply = client.send(get("/")).await;
                    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    for revision in 2..12 {
        pair.world
            .rewrite(&yaml(&app.app(), "    labels: {tier: core}\n"));
        pair.world.install(&pair.gateway, revision);
        pair.world.install(&pair.sidecar, revision);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.send(true).unwrap();
    let mut sent = 0;
    for task in load {
        sent += task.await.unwrap();
    }
    assert!(sent > 50, "{sent}");
    let mut admin = Client::http1(pair.gateway.admin()).await;
    assert_eq!(admin.send(get("/effective")).await.json()["revision"], 11);
}

#[tokio::test]
async fn a_response_is_read_as_it_comes() {
    let app = Upstream::start_raw(|_| async {
        let first = futures_util::stream::once(async {
            Ok(http_body::Frame::data(Bytes::from_static(b"data: 1\n\n")))
        });
        let never = futures_util::stream::pending();
        let body = futures_util::StreamExt::chain(first, never);
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(http_body_util::StreamBody::new(body).boxed())
            .unwrap()
    });
    let pair = pair(&app, "");
    let mut client = pair.gateway.client().await;
    let asked = get("/").map(|_| full(""));
    let mut response = client.stream(asked).await.unwrap();
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn the_certificate_is_chosen_by_server_name() {
    use testudo_testkit::pki::{self_signed, trusting};
    let app = Upstream::ok();
    let (first, second) = (
        self_signed(&["first.test"]),
        self_signed(&["*.second.test"]),
    );
    let yaml = yaml(&app.app(), "").replace(
        "tls: none",
        "tls: [{certificate: tls/1.pem, key: tls/1.key}, {certificate: tls/2.pem, key: tls/2.key}]",
    );
    let world = World::new(&yaml)
        .with("tls/1.pem", &first.certificate)
        .with("tls/1.key", &first.key)
        .with("tls/2.pem", &second.certificate)
        .with("tls/2.key", &second.key);
    let (gateway, sidecar) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &sidecar]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = trusting(&[&first, &second], &[version]);
        for (name, wanted) in [("first.test", &first), ("api.second.test", &second)] {
            let stream = client::tls(gateway.edge(), name, &config).await.unwrap();
            let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
            assert_eq!(shown, wanted.der, "{name}");
            let mut client = Client::http1_over(stream).await;
            let asked = Request::get("/").header("host", name).body("").unwrap();
            assert_eq!(client.send(asked).await.status, StatusCode::OK);
            // One connection, two hosts: certificates are not a way around the name they were chosen by.
            let other = Request::get("/")
                .header("host", "else.test")
                .body("")
                .unwrap();
            assert_eq!(client.send(other).await.reason(), "request.misdirected");
        }
        // A name that no certificate has gets the first one, which the client then refuses.
        let refused = client::tls(gateway.edge(), "third.test", &config).await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("not valid for name")
        );
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_client_is() {
    let app = Upstream::ok();
    let trusted = yaml(&app.app(), "").replace(
        "  tls: none\n",
        "  tls: none\n  trusted_proxies: [127.0.0.0/8]\n",
    );
    let world = World::new(&trusted);
    let (gateway, sidecar) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &sidecar]);
    let mut events = gateway.events();
    let asked = with(
        get("/"),
        "x-forwarded-for",
        "198.51.100.7, 192.0.2.9, 127.0.0.5",
    );
    gateway.client().await.send(asked).await;
    assert_eq!(app.last().header("x-forwarded-for"), "192.0.2.9, 127.0.0.1");
    let event = events.recv().await.unwrap();
    assert_eq!(event.source_ip.unwrap().to_string(), "192.0.2.9");
}
