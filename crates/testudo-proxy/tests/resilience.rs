//! What goes wrong elsewhere: endpoints that are away, connections that break, proxies that stop.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Proxy, World, get, link, request};
use http::{Response, StatusCode};
use testudo_proxy::Addresses;
use testudo_testkit::upstream::full;
use testudo_testkit::{Client, Upstream, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn yaml(app: &str) -> String {
    format!(
        "gateway: {{listen: '127.0.0.1:8443', tls: none, routes: [{{path: /, service: orders}}]}}
services: {{orders: {{app: ['{app}']}}}}"
    )
}

/// Says where orders is.
fn point(gateway: &Proxy, addresses: &[String]) {
    let addresses = Addresses::new([("orders", addresses.to_vec())]);
    gateway.shared.installed.install_addresses(addresses);
}

/// A port where nothing listens.
fn dead_address() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().to_string()
}

/// Counts connections and closes them at once.
async fn closing_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (address, count)
}

#[tokio::test]
async fn what_never_left_is_sent_elsewhere() {
    let app = Upstream::ok();
    let world = World::new(&yaml(&app.app()));
    let (gateway, orders) = (world.gateway(), world.sidecar("orders"));
    point(&gateway, &[dead_address(), orders.inbound().to_string()]);
    let mut client = gateway.client().await;
    for _ in 0..20 {
        // POST: it is not idempotent, but it provably never left.
        let reply = client.send(request("POST", "/", "x")).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    }
    assert_eq!(app.requests().len(), 20, "each exactly once");
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_left_alone() {
    let app = Upstream::ok();
    let world = World::new(&yaml(&app.app()));
    let (gateway, orders) = (world.gateway(), world.sidecar("orders"));
    let (bad, tries) = closing_server().await;
    point(&gateway, &[bad.to_string(), orders.inbound().to_string()]);
    let mut client = gateway.client().await;
    let began = Instant::now();
    let mut sent = 0;
    while sent < 300 {
        assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
        sent += 1;
    }
    // Five failures eject it for a second, then twice as long: without that, half of the requests would
    // have tried it.
    let allowed = 5 * (1 + usize::try_from(began.elapsed().as_secs()).unwrap());
    let tries = tries.load(Ordering::SeqCst);
    assert!(
        (5..=allowed).contains(&tries),
        "{tries} tries in {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn all_being_ejected_is_no_reason_to_try_none() {
    let (one, tries_one) = closing_server().await;
    let (two, tries_two) = closing_server().await;
    let world = World::new(&yaml("127.0.0.1:1"));
    let gateway = world.gateway();
    point(&gateway, &[one.to_string(), two.to_string()]);
    let mut client = gateway.client().await;
    let tries = || tries_one.load(Ordering::SeqCst) + tries_two.load(Ordering::SeqCst);
    for _ in 0..15 {
        let reply = client.send(get("/")).await;
        assert_eq!(reply.reason(), "upstream.unavailable");
    }
    let before = tries();
    client.send(get("/")).await;
    assert!(tries() > before);
}

/// Answers the first request of each connection and closes at the second without a word, `broken` times.
async fn forgetful_server(broken: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let left = Arc::new(AtomicUsize::new(broken));
    let counter = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (seen, left) = (counter.clone(), left.clone());
            tokio::spawn(async move {
                let mut chunk = [0; 4096];
                for turn in 0.. {
                    match stream.read(&mut chunk).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                    seen.fetch_add(1, Ordering::SeqCst);
                    let take = |left: usize| left.checked_sub(1);
                    let breaks = turn > 0
                        && left
                            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                            .is_ok();
                    if breaks {
                        return;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (address, seen)
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_no_idempotent_request() {
    let (app, seen) = forgetful_server(1).await;
    let world = World::new(&yaml(&app.to_string()));
    let (gateway, orders) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &orders]);
    let mut client = gateway.client().await;
    assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
    assert_eq!(
        client.send(get("/")).await.status,
        StatusCode::OK,
        "sent again"
    );
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_the_application_may_have_done_is_never_done_twice() {
    let (app, seen) = forgetful_server(1).await;
    let world = World::new(&yaml(&app.to_string()));
    let (gateway, orders) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &orders]);
    let mut client = gateway.client().await;
    // Without a body it could be repeated; whether it may is the method's to say.
    assert_eq!(
        client.send(request("POST", "/", "")).await.status,
        StatusCode::OK
    );
    let reply = client.send(request("POST", "/", "")).await;
    assert_eq!(reply.reason(), "upstream.unavailable");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn requests_go_to_all_endpoints() {
    let (one, two) = (Upstream::ok(), Upstream::ok());
    let world = World::new(&yaml("127.0.0.1:1"));
    let gateway = world.gateway();
    let sidecar = |app: &Upstream| {
        let app = app.address();
        world.start(
            testudo_guard::snapshot::Role::Sidecar("orders".into()),
            |options| {
                options.app = Some(testudo_guard::snapshot::AppAddress::Tcp(app));
            },
        )
    };
    let (first, second) = (sidecar(&one), sidecar(&two));
    link(&[&gateway, &first, &second]);
    let mut client = gateway.client().await;
    for _ in 0..60 {
        assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
    }
    let (one, two) = (one.requests().len(), two.requests().len());
    assert_eq!(one + two, 60);
    assert!(one > 10 && two > 10, "{one} and {two}");
}

/// Sends one request after the other, each on a connection that is still open; counts what was answered.
async fn load(
    edge: SocketAddr,
    stopped: tokio::sync::watch::Receiver<bool>,
    reconnect: bool,
) -> usize {
    let mut client = Client::http1(edge).await;
    let mut answered = 0;
    while !*stopped.borrow() {
        let reply = client.send(get("/")).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        answered += 1;
        if reply.header("connection") == "close" {
            if !reconnect {
                return answered;
            }
            client = Client::http1(edge).await;
        }
    }
    answered
}

#[tokio::test]
async fn a_gateway_stops_without_a_failed_request() {
    let app = Upstream::start_raw(|_| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Response::new(full("ok"))
    });
    let world = World::new(&yaml(&app.app()));
    let (gateway, orders) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &orders]);
    let ready = gateway.state().join("ready.json");
    eventually("ready.json is written", || ready.exists()).await;
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..8)
        .map(|_| tokio::spawn(load(gateway.edge(), stopped.clone(), false)))
        .collect();
    let mut idle = gateway.client().await;
    assert_eq!(idle.send(get("/")).await.status, StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(100)).await;
    gateway.begin_stop();
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    eventually("idle connections are closed last", || idle.is_closed()).await;
    let edge = gateway.edge();
    tokio::task::spawn_blocking(move || gateway.join())
        .await
        .unwrap();
    assert!(!ready.exists());
    assert!(tokio::net::TcpStream::connect(edge).await.is_err());
}

#[tokio::test]
async fn a_sidecar_is_replaced_without_a_failed_request() {
    let app = Upstream::ok();
    let world = World::new(&yaml(&app.app()));
    let (gateway, old) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &old]);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..4)
        .map(|_| tokio::spawn(load(gateway.edge(), stopped.clone(), true)))
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // As control does: the new one is announced, the old one says that it leaves and is taken off the list.
    let new = world.sidecar("orders");
    link(&[&gateway, &old, &new]);
    old.begin_stop();
    link(&[&gateway, &new]);
    tokio::task::spawn_blocking(move || old.join())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.send(true).unwrap();
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    assert!(answered > 50, "{answered}");
}

#[tokio::test]
async fn an_application_can_finish_its_work_while_its_sidecar_stops() {
    // To answer, orders must call payments, by a new connection through its sidecar that is stopping.
    let payments_app = Upstream::start(|_| Response::new(full("paid")));
    let outbound: Arc<std::sync::OnceLock<(SocketAddr, String)>> = Arc::default();
    let (begun, calls) = (Arc::new(AtomicUsize::new(0)), outbound.clone());
    let counter = begun.clone();
    let orders_app = Upstream::start_raw(move |_| {
        let (calls, counter) = (calls.clone(), counter.clone());
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(600)).await;
            let (address, secret) = calls.get().unwrap();
            let call = http::Request::get("http://payments.mesh/charge")
                .header("host", "payments.mesh")
                .header("proxy-authorization", secret)
                .body("")
                .unwrap();
            let reply = Client::http1(*address).await.send(call).await;
            Response::new(full(reply.body))
        }
    });
    let yaml = format!(
        "gateway: {{listen: '127.0.0.1:8443', tls: none, routes: [{{path: /, service: orders}}]}}
services: {{orders: {{app: ['{}']}}, payments: {{app: ['{}'], sidecar: none}}}}",
        orders_app.app(),
        payments_app.app()
    );
    let world = World::new(&yaml);
    let (gateway, orders) = (world.gateway(), world.sidecar("orders"));
    link(&[&gateway, &orders]);
    outbound
        .set((orders.outbound(), orders.proxy_authorization()))
        .unwrap();
    let mut client = gateway.client().await;
    let call = tokio::spawn(async move { client.send(get("/")).await });
    eventually("the application works", || {
        begun.load(Ordering::SeqCst) == 1
    })
    .await;
    orders.begin_stop();
    let reply = call.await.unwrap();
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "paid"));
    tokio::task::spawn_blocking(move || orders.join())
        .await
        .unwrap();
}

#[tokio::test]
async fn several_cores_serve_one_address() {
    let app = Upstream::ok();
    let world = World::new(&yaml(&app.app()));
    let gateway = world.start(testudo_guard::snapshot::Role::Gateway, |options| {
        options.threads = Some(4);
    });
    let role = testudo_guard::snapshot::Role::Sidecar("orders".into());
    let orders = world.start(role, |options| options.threads = Some(2));
    link(&[&gateway, &orders]);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..16)
        .map(|_| tokio::spawn(load(gateway.edge(), stopped.clone(), false)))
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.send(true).unwrap();
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    assert!(app.requests().len() >= 16);
}

#[tokio::test]
async fn a_used_port_is_a_clear_error() {
    let world = World::new(&yaml("127.0.0.1:1"));
    let gateway = world.gateway();
    let folder = tempfile::tempdir().unwrap();
    let role = testudo_guard::snapshot::Role::Gateway;
    let mut options = testudo_proxy::ProxyOptions::new(role, folder.path().join("state"));
    options.listen = Some(gateway.edge());
    options.admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    options.threads = Some(1);
    let started = std::thread::spawn(move || {
        let (shared, _recorder) = testudo_proxy::prepare(options).unwrap();
        testudo_proxy::serve(&shared)
    });
    let result = tokio::task::spawn_blocking(move || started.join().unwrap())
        .await
        .unwrap();
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&gateway.edge().to_string()) && text.contains("gateway"),
        "{text}"
    );
}
