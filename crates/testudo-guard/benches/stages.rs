//! What the stages around authentication and authorization cost: one canonical request, the route, a
//! limit. `cargo bench -p testudo-guard --bench stages`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use http::request::Parts;
use testudo_guard::limit::{LimitKey, LimitMatch, LimitRule, LimitScope, Limiter};
use testudo_guard::route::{Route, RouteTable, RouteTarget};
use testudo_guard::screen::{HeadLimits, Screen};
use testudo_guard::snapshot::{Edge, EdgeTls, Role};
use testudo_guard::{Now, Peer, Record, Snapshot, normalize};
use testudo_model::PolicyRef;

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

fn now(micros: u64) -> Now {
    Now {
        wall: Duration::from_secs(1_800_000_000),
        monotonic: Duration::from_micros(micros),
    }
}

fn source() -> PolicyRef {
    PolicyRef {
        file: "testudo.yaml".into(),
        line: 1,
    }
}

fn routes(count: usize) -> RouteTable {
    let route = |number| {
        Arc::new(Route {
            source: source(),
            host: Some(Arc::from("api.shop.test")),
            path: format!("/team{}/service{number}", number % 7).into(),
            target: RouteTarget::Service {
                service: Arc::from("orders"),
                strip_prefix: false,
                timeout: None,
            },
            cors: None,
        })
    };
    RouteTable::new((0..count).map(route).collect())
}

fn gateway() -> Snapshot {
    Snapshot {
        revision: 1,
        digest: Arc::from("0"),
        trust_domain: Arc::from("shop.test"),
        role: Role::Gateway,
        edge: Some(Edge {
            listen: ([127, 0, 0, 1], 8443).into(),
            tls: EdgeTls::Plain,
            trusted_proxies: Vec::new(),
            routes: RouteTable::default(),
        }),
        services: HashMap::new(),
        users: None,
        identity_ttl: Duration::from_secs(3_600),
    }
}

fn head(uri: &str) -> Parts {
    http::Request::builder()
        .uri(uri)
        .header("host", "api.shop.test")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0)")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, br")
        .header("cookie", "session=0af7651916cd43dd8448eb211c80319c")
        .header("authorization", "Bearer abc.def.ghi")
        .body(())
        .unwrap()
        .into_parts()
        .0
}

#[divan::bench(args = ["/orders/17?customerId=alice&page=3", "/caf%c3%a9/./%6frders?next=%2fa;b"])]
fn canonical_request(bencher: Bencher<'_, '_>, uri: &str) {
    let (snapshot, head) = (gateway(), head(uri));
    let peer = Peer::Client {
        address: IpAddr::from([192, 0, 2, 7]),
        tls: true,
        server_name: Some(Arc::from("api.shop.test")),
    };
    bencher
        .with_inputs(|| (head.clone(), Record::default()))
        .bench_local_refs(|(head, record)| {
            normalize::inbound(head, &peer, &snapshot, record).is_ok()
        });
}

#[divan::bench(args = [10, 1_000])]
fn route(bencher: Bencher<'_, '_>, count: usize) {
    let table = routes(count);
    let last = format!("/team{}/service{}/orders/17", (count - 1) % 7, count - 1);
    bencher.bench_local(|| table.find("api.shop.test", &last).is_some());
}

fn rule() -> LimitRule {
    LimitRule {
        name: Arc::from("per-user"),
        source: source(),
        matches: LimitMatch::default(),
        per: LimitKey::User,
        interval: Duration::from_nanos(500),
        burst: 1_000,
        scope: LimitScope::Proxy,
    }
}

#[divan::bench]
fn limit_one_key(bencher: Bencher<'_, '_>) {
    let (limiter, rule) = (Limiter::default(), rule());
    let mut micros = 0;
    bencher.bench_local(|| {
        micros += 1;
        limiter.count(&rule, b"ushop:alice", now(micros)).is_ok()
    });
}

#[divan::bench]
fn limit_many_keys(bencher: Bencher<'_, '_>) {
    let (limiter, rule) = (Limiter::default(), rule());
    let mut micros = 0_u64;
    bencher.bench_local(|| {
        micros += 1;
        let key = (micros % 100_000).to_be_bytes();
        limiter.count(&rule, &key, now(micros)).is_ok()
    });
}

#[divan::bench(threads = [2])]
fn limit_one_key_on_two_cores(bencher: Bencher<'_, '_>) {
    let (limiter, rule) = (Limiter::default(), rule());
    bencher.bench(|| limiter.count(&rule, b"ushop:alice", now(1_000)).is_ok());
}

/// Framing of a usual GET on the raw bytes, before any parser sees it.
#[divan::bench]
fn screen_a_head(bencher: Bencher<'_, '_>) {
    let head = b"GET /orders/17?customerId=alice HTTP/1.1\r\nhost: api.shop.test\r\nuser-agent: curl/8.5.0\r\n\
        accept: application/json\r\naccept-encoding: gzip, deflate, br\r\naccept-language: en-GB,en;q=0.9\r\n\
        authorization: Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhbGljZSIsImV4cCI6MTgwMDAwMDAwMH0.\
        MEUCIQDx0n3Zr0m1xk6wqk2m3f0l4b4Xk8o3Q2m9n7d4v6p1sAIgYq\r\ncookie: session=0123456789abcdef\r\n\
        x-client: shop/4.2\r\n\r\n";
    let mut screen = Screen::new(HeadLimits {
        target_bytes: 8 * 1024,
        head_bytes: 64 * 1024,
        fields: 128,
    });
    bencher.bench_local(|| screen.feed(divan::black_box(head)));
}
