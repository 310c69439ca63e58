//! What authentication costs a request: a token seen before, a new one, and a user on the way through
//! the mesh. `cargo bench -p testudo-guard --bench authn`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde_json::json;
use testudo_guard::Now;
use testudo_guard::authn::{
    ApiKeyEntry, ApiKeys, Authenticators, Authn, IssuerRule, JwksSource, KeyRing, KeySet,
    Revocations, RoleRule, TokenBook, TokenCache, TxnKeyEntry, TxnKeys, TxnMinter, TxnRequest,
    TxnSigner, User,
};

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

const DOMAIN: &str = "shop.test";
const NOW: Now = Now {
    wall: Duration::from_secs(1_800_000_000),
    monotonic: Duration::from_secs(1),
};

fn main() {
    divan::main();
}

struct Edge {
    authenticators: Authenticators,
    ring: KeyRing,
    revocations: Revocations,
    cache: TokenCache,
    bearer: HeaderMap,
    api_key: HeaderMap,
}

impl Edge {
    fn new() -> Edge {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let set = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y}]});
        let rule = IssuerRule {
            name: Arc::from("shop"),
            issuer: Arc::from("https://id.shop.test"),
            audiences: vec![Arc::from("shop")],
            jwks: JwksSource::Inline(Arc::new(KeySet::parse(set.to_string().as_bytes()).unwrap())),
            id: "sub".parse().unwrap(),
            roles: Some(RoleRule {
                claim: "/realm_access/roles".parse().unwrap(),
                map: BTreeMap::new(),
                allow: Some([Arc::from("customer")].into_iter().collect()),
            }),
            claims: BTreeMap::from([(Arc::from("tenant"), "tenant".parse().unwrap())]),
        };
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": "k"});
        let claims = json!({
            "iss": "https://id.shop.test", "aud": "shop", "sub": "alice", "jti": "4f5a1c",
            "exp": NOW.unix_seconds() + 600, "iat": NOW.unix_seconds(), "tenant": "acme",
            "realm_access": {"roles": ["customer", "offline_access"]},
            "name": "Alice Example", "email": "alice@shop.test", "sid": "0af7651916cd43dd"
        });
        let input = [header, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
            .join(".");
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        let token = format!("Bearer {input}.{}", URL_SAFE_NO_PAD.encode(signature));
        let made = ApiKeys::generate("ci").unwrap();
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&made.hash[2 * at..2 * at + 2], 16).unwrap();
        }
        let entry = ApiKeyEntry {
            id: Arc::from("ci"),
            hash,
            user: Arc::from("ci"),
            roles: Vec::new(),
            expires: None,
        };
        let api_keys = ApiKeys::new(vec![entry]).unwrap();
        let headers = |name, value: &str| {
            HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())])
        };
        Edge {
            authenticators: Authenticators::new(vec![rule], Some(api_keys), false).unwrap(),
            ring: KeyRing::default(),
            revocations: Revocations::default(),
            cache: TokenCache::default(),
            bearer: headers(AUTHORIZATION, &token),
            api_key: headers(http::HeaderName::from_static("x-api-key"), &made.text),
        }
    }

    fn user(&mut self, api_key: bool) -> Arc<User> {
        let headers = if api_key { &self.api_key } else { &self.bearer };
        match self.authenticators.authenticate(
            &self.ring,
            &self.revocations,
            &mut self.cache,
            headers,
            NOW,
        ) {
            Authn::User(user) => user,
            other => unreachable!("{other:?}"),
        }
    }
}

#[divan::bench]
fn jwt_cached(bencher: divan::Bencher<'_, '_>) {
    let mut edge = Edge::new();
    edge.user(false);
    bencher.bench_local(|| edge.user(false));
}

#[divan::bench]
fn jwt_es256(bencher: divan::Bencher<'_, '_>) {
    let mut edge = Edge::new();
    bencher.bench_local(|| {
        edge.cache = TokenCache::default();
        edge.user(false)
    });
}

#[divan::bench]
fn api_key(bencher: divan::Bencher<'_, '_>) {
    let mut edge = Edge::new();
    bencher.bench_local(|| edge.user(true));
}

/// A gateway's key, a user, and what a sidecar knows.
struct Mesh {
    signer: TxnSigner,
    user: Arc<User>,
    operation: Arc<str>,
    keys: TxnKeys,
    revocations: Revocations,
}

impl Mesh {
    fn new() -> Mesh {
        let signer = TxnSigner::generate().unwrap();
        let (keys, _) = TxnKeys::new([TxnKeyEntry {
            kid: Arc::from(signer.kid()),
            public_key: signer.public_key().to_vec(),
            gateway: Arc::from("gateway-1"),
            not_after: u64::MAX,
        }]);
        Mesh {
            signer,
            user: Edge::new().user(false),
            operation: Arc::from("orders:createOrder"),
            keys,
            revocations: Revocations::default(),
        }
    }

    fn request(&self) -> TxnRequest<'_> {
        TxnRequest {
            user: &self.user,
            operation: &self.operation,
            source_ip: Some(std::net::IpAddr::from([192, 0, 2, 7])),
            gateway: "gateway-1",
            trust_domain: DOMAIN,
        }
    }

    fn verify(&self, token: &str, cache: &mut TokenCache) -> Authn {
        self.keys
            .verify(token, DOMAIN, &self.revocations, cache, NOW)
    }
}

#[divan::bench]
fn txn_mint(bencher: divan::Bencher<'_, '_>) {
    let mesh = Mesh::new();
    bencher.bench_local(|| mesh.signer.mint(&mesh.request(), NOW).unwrap());
}

#[divan::bench]
fn txn_mint_reused(bencher: divan::Bencher<'_, '_>) {
    let (mesh, mut minter) = (Mesh::new(), TxnMinter::default());
    bencher.bench_local(|| minter.token(&mesh.signer, &mesh.request(), 1, NOW).unwrap());
}

#[divan::bench]
fn txn_verify(bencher: divan::Bencher<'_, '_>) {
    let mesh = Mesh::new();
    let token = mesh.signer.mint(&mesh.request(), NOW).unwrap();
    bencher.bench_local(|| mesh.verify(&token, &mut TokenCache::default()));
}

#[divan::bench]
fn txn_verify_cached(bencher: divan::Bencher<'_, '_>) {
    let (mesh, mut cache) = (Mesh::new(), TokenCache::default());
    let token = mesh.signer.mint(&mesh.request(), NOW).unwrap();
    mesh.verify(&token, &mut cache);
    bencher.bench_local(|| mesh.verify(&token, &mut cache));
}

#[divan::bench]
fn book_saw_and_knows(bencher: divan::Bencher<'_, '_>) {
    let (mesh, book) = (Mesh::new(), TokenBook::default());
    let token = mesh.signer.mint(&mesh.request(), NOW).unwrap();
    bencher.bench_local(|| {
        book.saw(
            "0af7651916cd43dd8448eb211c80319c",
            &token,
            NOW.unix_seconds() + 60,
            NOW,
        );
        book.knows(&token, NOW)
    });
}
