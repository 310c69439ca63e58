//! What the whole head check costs: a bundle with 100 policies of which few apply, compiled as a proxy
//! compiles it, a token that was seen before, OpenAPI parameters, limits. The aim is 10 µs.
//! `cargo bench -p testudo-policy --bench head`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use divan::Bencher;
use http::request::Parts;
use serde_json::json;
use testudo_guard::authn::{TxnKeyEntry, TxnKeys, TxnRequest, TxnSigner};
use testudo_guard::pipeline::{BodyPlan, HeadOutcome, Incoming};
use testudo_guard::snapshot::Role;
use testudo_guard::{Live, Local, Now, Peer, Permit, Record, Snapshot, check_head};
use testudo_policy::bundle::Bundle;
use testudo_policy::compile::compile;

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

const NOW: Now = Now {
    wall: Duration::from_secs(1_800_000_000),
    monotonic: Duration::from_secs(1),
};

const TESTUDO: &str = r#"
version: 1
trust_domain: shop.test
gateway:
  listen: 127.0.0.1:8443
  tls: none
  routes:
    - {host: api.shop.test, path: /orders, service: orders}
users:
  jwt:
    shop:
      issuer: https://id.shop.test
      audiences: [shop]
      jwks: keys/jwks.json
      id: sub
      roles: {claim: roles, allow: [customer, admin]}
services:
  orders:
    app: [unix:run/orders.sock]
    api: {openapi: apis/orders.yaml}
  storefront:
    app: [unix:run/storefront.sock]
policies: policies
limits:
  - {name: per-address, per: address, rate: 1000000/s, burst: 1000000}
  - {name: per-user, match: {service: orders}, per: user, rate: 1000000/s, burst: 1000000}
"#;

const ORDERS: &str = r#"
openapi: 3.1.0
info: {title: Orders, version: "1"}
paths:
  /orders/{id}:
    get:
      operationId: getOrder
      parameters:
        - {name: id, in: path, required: true, schema: {type: integer, minimum: 1}}
        - {name: customerId, in: query, required: true, schema: {type: string, maxLength: 40}}
        - {name: page, in: query, schema: {type: integer, minimum: 1, maximum: 1000}}
        - {name: fields, in: query, schema: {type: string, enum: [all, short]}}
        - {name: x-shop, in: header, schema: {type: string, pattern: "^[a-z]+$"}}
      responses: {"200": {description: ok}}
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
              required: [product, count]
              properties: {product: {type: string}, count: {type: integer}, note: {type: string}}
      responses: {"201": {description: made}}
"#;

fn main() {
    divan::main();
}

/// 100 policies: two apply to what is asked, one of them with a condition; the rest are others'.
fn policies() -> String {
    let mut text = String::from(
        "permit (principal in Role::\"customer\", action == Action::\"orders:getOrder\", resource)\n\
         when { context.params.customerId == principal.id };\n\
         permit (principal in Role::\"customer\", action == Action::\"orders:createOrder\", resource);\n\
         permit (principal == Service::\"storefront\", action in Action::\"orders:*\", resource);\n\
         forbid (principal, action in Action::\"orders:write\", resource)\n\
         when { context has source_ip && context.source_ip.isInRange(ip(\"198.51.100.0/24\")) };\n",
    );
    for number in 0..96 {
        writeln!(
            text,
            "permit (principal == User::\"shop:user{number}\", action == Action::\"orders:createOrder\", resource);"
        )
        .unwrap();
    }
    text
}

fn bundle(jwks: &str) -> Bundle {
    let policies = policies();
    let files = [
        ("testudo.yaml", TESTUDO),
        ("apis/orders.yaml", ORDERS),
        ("policies/all.cedar", &policies),
        ("keys/jwks.json", jwks),
    ];
    let files: BTreeMap<String, Vec<u8>> = files
        .into_iter()
        .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
        .collect();
    Bundle::from_files(files).unwrap_or_else(|_| panic!("the bundle cannot be read"))
}

fn snapshot(bundle: &Bundle, role: Role) -> Arc<Snapshot> {
    match compile(bundle, 1, "0", &role, Path::new("/")) {
        Ok(snapshot) => Arc::new(snapshot),
        Err(diagnostics) => panic!("{diagnostics:?}"),
    }
}

/// One proxy with everything warm.
struct Proxy {
    snapshot: Arc<Snapshot>,
    live: Live,
    local: Local,
    peer: Peer,
    head: Parts,
    body: Bytes,
}

impl Proxy {
    fn gateway(method: &str, uri: &str, body: &'static str) -> Proxy {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y}]});
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": "k"});
        let claims = json!({
            "iss": "https://id.shop.test", "aud": "shop", "sub": "alice", "roles": ["customer"],
            "exp": NOW.unix_seconds() + 600, "iat": NOW.unix_seconds(),
        });
        let input = [header, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
            .join(".");
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        let token = format!("Bearer {input}.{}", URL_SAFE_NO_PAD.encode(signature));
        Proxy {
            snapshot: snapshot(&bundle(&jwks.to_string()), Role::Gateway),
            live: Live::default(),
            local: Local::default(),
            peer: Peer::Client {
                address: IpAddr::from([192, 0, 2, 7]),
                tls: true,
                server_name: Some(Arc::from("api.shop.test")),
            },
            head: request(method, uri, body, ("authorization", &token)),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    fn sidecar(method: &str, uri: &str) -> Proxy {
        let edge = Proxy::gateway(method, uri, "");
        let signer = TxnSigner::generate().unwrap();
        let (keys, _) = TxnKeys::new([TxnKeyEntry {
            kid: Arc::from(signer.kid()),
            public_key: signer.public_key().to_vec(),
            gateway: Arc::from("gateway-1"),
            not_after: u64::MAX,
        }]);
        let user = edge.user();
        let token = TxnRequest {
            user: &user,
            operation: &Arc::from("orders:getOrder"),
            source_ip: Some(IpAddr::from([192, 0, 2, 7])),
            gateway: "gateway-1",
            trust_domain: "shop.test",
        };
        let token = signer.mint(&token, NOW).unwrap();
        let live = Live::default();
        live.txn_keys.store(Arc::new(keys));
        let mut head = request(method, uri, "", ("txn-token", &token));
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        head.headers.insert("traceparent", trace.parse().unwrap());
        Proxy {
            snapshot: snapshot(
                &bundle(r#"{"keys": []}"#),
                Role::Sidecar(Arc::from("orders")),
            ),
            live,
            local: Local::default(),
            peer: Peer::Workload {
                spiffe_id: Arc::from("spiffe://shop.test/service/storefront"),
                serial: Arc::from("0a1b2c3d4e5f"),
                not_after: u64::MAX,
                address: IpAddr::from([127, 0, 0, 1]),
            },
            head,
            body: Bytes::new(),
        }
    }

    fn user(mut self) -> Arc<testudo_guard::authn::User> {
        let head = self.head.clone();
        self.judge(head).target().user.clone().unwrap()
    }

    /// The whole way to the permit.
    fn judge(&mut self, mut head: Parts) -> Permit {
        let mut record = Record::default();
        let incoming = Incoming {
            peer: &self.peer,
            head: &mut head,
            has_body: !self.body.is_empty(),
        };
        let check = match check_head(
            &self.snapshot,
            &self.live,
            &mut self.local,
            incoming,
            &mut record,
            NOW,
        ) {
            HeadOutcome::Continue(check) => check,
            HeadOutcome::Deny(denial) => panic!("{denial:?}"),
            HeadOutcome::Answer { status, .. } => panic!("{status}"),
        };
        let permit = match check.plan() {
            BodyPlan::Buffer(_) => check.finish(&self.body, &mut record, NOW),
            BodyPlan::Stream(_) => check.stream(&mut record),
        };
        permit.unwrap_or_else(|denial| panic!("{denial:?}"))
    }
}

fn request(method: &str, uri: &str, body: &str, credential: (&str, &str)) -> Parts {
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "api.shop.test")
        .header(
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101",
        )
        .header("accept", "application/json")
        .header("accept-language", "en-GB,en;q=0.8")
        .header("x-shop", "main")
        .header(credential.0, credential.1);
    let request = if body.is_empty() {
        request
    } else {
        request
            .header("content-type", "application/json")
            .header("content-length", body.len())
    };
    request.body(()).unwrap().into_parts().0
}

const GET: &str = "/orders/17?customerId=alice&page=3&fields=all";

#[divan::bench]
fn edge_get(bencher: Bencher<'_, '_>) {
    let mut proxy = Proxy::gateway("GET", GET, "");
    let head = proxy.head.clone();
    bencher
        .with_inputs(|| head.clone())
        .bench_local_values(|head| proxy.judge(head));
}

#[divan::bench]
fn edge_post(bencher: Bencher<'_, '_>) {
    let body = r#"{"product": "amphora", "count": 2, "note": "with wine"}"#;
    let mut proxy = Proxy::gateway("POST", "/orders", body);
    let head = proxy.head.clone();
    bencher
        .with_inputs(|| head.clone())
        .bench_local_values(|head| proxy.judge(head));
}

#[divan::bench]
fn mesh_get(bencher: Bencher<'_, '_>) {
    let mut proxy = Proxy::sidecar("GET", GET);
    let head = proxy.head.clone();
    bencher
        .with_inputs(|| head.clone())
        .bench_local_values(|head| proxy.judge(head));
}
