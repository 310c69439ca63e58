//! Transaction tokens: what a gateway signs comes back whole, and nothing else passes.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use proptest::prelude::*;
use serde_json::{Value, json};
use testudo_model::Reason;

use super::super::encoding::decode_base64url;
use super::super::tests::{at, detail, reason, role_names, user};
use super::super::*;
use super::*;

const NOW: u64 = 1_800_000_000;
const DOMAIN: &str = "shop.test";

struct Mesh {
    signer: TxnSigner,
    keys: TxnKeys,
    revocations: Revocations,
    cache: std::cell::RefCell<TokenCache>,
}

fn entry(signer: &TxnSigner, not_after: u64) -> TxnKeyEntry {
    TxnKeyEntry {
        kid: Arc::from(signer.kid()),
        public_key: signer.public_key().to_vec(),
        gateway: Arc::from("gateway-1"),
        not_after,
    }
}

impl Mesh {
    fn new() -> Mesh {
        let signer = TxnSigner::generate().unwrap();
        let (keys, refused) = TxnKeys::new([entry(&signer, NOW + 3600)]);
        assert!(refused.is_empty(), "{refused:?}");
        Mesh {
            signer,
            keys,
            revocations: Revocations::default(),
            cache: std::cell::RefCell::default(),
        }
    }

    fn mint(&self, user: &User) -> Arc<str> {
        with_request(user, |request| self.signer.mint(request, at(NOW)).unwrap())
    }

    fn verify(&self, token: &str) -> Authn {
        self.verify_at(token, NOW)
    }

    fn verify_at(&self, token: &str, now: u64) -> Authn {
        let mut cache = self.cache.borrow_mut();
        self.keys
            .verify(token, DOMAIN, &self.revocations, &mut cache, at(now))
    }

    /// A token that this gateway's key signed, with other claims or another header.
    fn signed(&self, header: Value, claims: &Value) -> String {
        let input = [header, claims.clone()]
            .map(|part| encode_base64url(part.to_string()))
            .join(".");
        let signature = self
            .signer
            .pair
            .sign(&SystemRandom::new(), input.as_bytes())
            .unwrap();
        format!("{input}.{}", encode_base64url(signature))
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": TYP, "kid": self.signer.kid()})
    }
}

fn with_request<T>(user: &User, then: impl FnOnce(&TxnRequest<'_>) -> T) -> T {
    then(&TxnRequest {
        user,
        operation: &Arc::from("orders:createOrder"),
        source_ip: Some("2001:db8::7".parse().unwrap()),
        gateway: "gateway-1",
        trust_domain: DOMAIN,
    })
}

fn alice() -> User {
    User {
        id: Arc::from("shop:alice"),
        issuer: Arc::from("shop"),
        roles: [Arc::from("admin"), Arc::from("customer")]
            .into_iter()
            .collect(),
        claims: Arc::new(BTreeMap::from([
            (Arc::from("tenant"), Claim::String(Arc::from("acme"))),
            (Arc::from("level"), Claim::Long(-3)),
            (Arc::from("staff"), Claim::Bool(true)),
            (
                Arc::from("teams"),
                Claim::Strings([Arc::from("a"), Arc::from("b")].into_iter().collect()),
            ),
        ])),
        expires: Some(NOW + 3600),
        credential: [7; 32],
        key: Arc::from("k1"),
        source_ip: None,
    }
}

fn claims_of(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&decode_base64url(part).unwrap()).unwrap()
}

#[test]
fn a_user_travels_whole() {
    let mesh = Mesh::new();
    let token = mesh.mint(&alice());
    let arrived = user(mesh.verify(&token));
    let sent = alice();
    assert_eq!((&arrived.id, &arrived.issuer), (&sent.id, &sent.issuer));
    assert_eq!(role_names(&arrived), role_names(&sent));
    assert_eq!(arrived.claims, sent.claims);
    assert_eq!(arrived.expires, Some(NOW + 60));
    assert_eq!(&*arrived.key, mesh.signer.kid());
    assert_eq!(arrived.source_ip, Some("2001:db8::7".parse().unwrap()));
    assert_eq!(arrived.credential, encoding::sha256(token.as_bytes()));
    let mut claims = claims_of(&token);
    assert!(claims["txn"].as_str().unwrap().len() == 22);
    claims["txn"] = json!("");
    assert_eq!(
        claims,
        json!({
            "iss": "spiffe://shop.test/gateway", "iat": NOW, "exp": NOW + 60, "aud": "shop.test",
            "txn": "", "sub": "shop:alice", "scope": "orders:createOrder", "req_wl": "gateway-1",
            "rctx": {"req_ip": "2001:db8::7"},
            "tctx": {
                "issuer": "shop", "roles": ["admin", "customer"],
                "claims": {"level": -3, "staff": true, "teams": ["a", "b"], "tenant": "acme"}
            }
        })
    );
}

#[test]
fn the_anonymous_user_travels_too() {
    let mesh = Mesh::new();
    let arrived = user(mesh.verify(&mesh.mint(&User::anonymous())));
    assert!(arrived.is_anonymous() && arrived.roles.is_empty());
    assert_eq!(arrived.credential, [0; 32]);
}

#[test]
fn a_token_outlives_neither_a_minute_nor_its_user() {
    let mesh = Mesh::new();
    let token = mesh.mint(&alice());
    user(mesh.verify_at(&token, NOW + 59));
    let late = mesh.verify_at(&token, NOW + 60);
    assert_eq!(reason(&late), Some(Reason::AuthnExpired), "cached or not");
    let brief = User {
        expires: Some(NOW + 5),
        ..alice()
    };
    let token = mesh.mint(&brief);
    user(mesh.verify_at(&token, NOW + 4));
    assert_eq!(
        reason(&mesh.verify_at(&token, NOW + 5)),
        Some(Reason::AuthnExpired)
    );
    let gone = User {
        expires: Some(NOW),
        ..alice()
    };
    with_request(&gone, |request| {
        let refused = mesh.signer.mint(request, at(NOW));
        assert_eq!(refused, Err(TxnError::Expired));
        let refused = TxnMinter::default().token(&mesh.signer, request, 1, at(NOW));
        assert_eq!(refused, Err(TxnError::Expired));
    });
}

#[test]
fn a_token_that_no_sidecar_would_read_is_not_made() {
    let mesh = Mesh::new();
    let roles = (0..64).map(|n| Arc::from("r".repeat(100) + &n.to_string()));
    let crowded = User {
        roles: roles.collect(),
        ..alice()
    };
    let refused = with_request(&crowded, |request| mesh.signer.mint(request, at(NOW)));
    assert_eq!(refused, Err(TxnError::TooLarge));
}

#[test]
fn headers_and_keys_of_others_do_not_count() {
    let mesh = Mesh::new();
    let claims = claims_of(&mesh.mint(&alice()));
    let thief = Mesh::new();
    let but = |name: &str, value: Value| {
        let mut header = mesh.header();
        header[name] = value;
        header
    };
    let rows = [
        (thief.signed(mesh.header(), &claims), "signature"),
        (thief.signed(thief.header(), &claims), "no gateway has"),
        (
            mesh.signed(but("typ", json!("JWT")), &claims),
            "not a transaction token",
        ),
        (
            mesh.signed(but("typ", json!("at+jwt")), &claims),
            "not a transaction token",
        ),
        (
            mesh.signed(json!({"alg": "ES256", "kid": mesh.signer.kid()}), &claims),
            "not a transaction token",
        ),
        (
            mesh.signed(but("alg", json!("ES384")), &claims),
            "not a transaction token",
        ),
        (
            mesh.signed(but("alg", json!("none")), &claims),
            "not one of those",
        ),
        (mesh.signed(but("crit", json!(["x"])), &claims), "crit"),
        (
            mesh.signed(json!({"alg": "ES256", "typ": TYP}), &claims),
            "no `kid`",
        ),
        (String::new(), "compact JWS"),
        ("a.".repeat(5000), "longer than 8 KiB"),
        (String::from("a.b.c"), "base64url"),
    ];
    for (token, words) in rows {
        let authn = mesh.verify(&token);
        assert_eq!(reason(&authn), Some(Reason::AuthnInvalid), "{words}");
        assert!(detail(&authn).contains(words), "{words}: {authn:?}");
    }
    assert!(mesh.cache.borrow().is_empty());
}

#[test]
fn claims_must_be_whole() {
    let mesh = Mesh::new();
    let good = claims_of(&mesh.mint(&alice()));
    user(mesh.verify(&mesh.signed(mesh.header(), &good)));
    let rows = [
        ("/aud", json!("bank.test")),
        ("/aud", json!(["shop.test"])),
        ("/iss", json!("spiffe://bank.test/gateway")),
        ("/req_wl", json!("gateway-2")),
        ("/exp", json!(NOW + 61)),
        ("/exp", json!(null)),
        ("/iat", json!(NOW + 31)),
        ("/iat", json!(null)),
        ("/txn", json!(null)),
        ("/scope", json!(null)),
        ("/sub", json!(null)),
        ("/sub", json!("admin")),
        ("/sub", json!("other:alice")),
        ("/sub", json!("shop:")),
        ("/sub", json!("anonymous")),
        ("/tctx", json!(null)),
        ("/tctx/issuer", json!("")),
        ("/tctx/roles", json!(null)),
        ("/tctx/roles", json!("admin")),
        ("/tctx/roles", json!([1])),
        ("/tctx/claims", json!([])),
        ("/tctx/claims/level", json!(0.5)),
        ("/rctx", json!(null)),
        ("/rctx/req_ip", json!("localhost")),
        ("/rctx/req_ip", json!(7)),
    ];
    for (pointer, value) in rows {
        let mut claims = good.clone();
        *claims.pointer_mut(pointer).unwrap() = value.clone();
        let authn = mesh.verify(&mesh.signed(mesh.header(), &claims));
        assert_eq!(
            reason(&authn),
            Some(Reason::AuthnInvalid),
            "{pointer} {value}: {authn:?}"
        );
    }
}

#[test]
fn keys_end_and_go_also_for_cached_tokens() {
    let mut mesh = Mesh::new();
    let token = mesh.mint(&alice());
    user(mesh.verify(&token));
    mesh.keys = TxnKeys::new([entry(&mesh.signer, NOW)]).0;
    assert_eq!(reason(&mesh.verify(&token)), Some(Reason::AuthnInvalid));
    mesh.keys = TxnKeys::new([entry(&mesh.signer, NOW + 1)]).0;
    user(mesh.verify(&token));
    mesh.keys = TxnKeys::new([entry(&TxnSigner::generate().unwrap(), NOW + 3600)]).0;
    assert_eq!(reason(&mesh.verify(&token)), Some(Reason::AuthnInvalid));
    mesh.keys = TxnKeys::default();
    assert_eq!(reason(&mesh.verify(&token)), Some(Reason::AuthnUnavailable));
}

#[test]
fn a_cached_token_counts_in_its_trust_domain_alone() {
    let mesh = Mesh::new();
    let token = mesh.mint(&alice());
    user(mesh.verify(&token));
    let mut cache = mesh.cache.borrow_mut();
    let elsewhere = mesh
        .keys
        .verify(&token, "bank.test", &mesh.revocations, &mut cache, at(NOW));
    assert_eq!(reason(&elsewhere), Some(Reason::AuthnInvalid));
}

#[test]
fn revocations_reach_cached_tokens() {
    let mut mesh = Mesh::new();
    let token = mesh.mint(&alice());
    let txn = claims_of(&token)["txn"].as_str().unwrap().to_owned();
    let kid = mesh.signer.kid().to_owned();
    let by_text = Revocation::of_token(&token);
    for (kind, value) in [
        (RevocationKind::User, "shop:alice"),
        (RevocationKind::Key, kid.as_str()),
        (RevocationKind::Token, txn.as_str()),
        (by_text.kind, &by_text.value),
    ] {
        mesh.revocations = Revocations::default();
        user(mesh.verify(&token));
        let value = Arc::from(value);
        mesh.revocations = Revocations::new([Revocation { kind, value }]);
        assert_eq!(
            reason(&mesh.verify(&token)),
            Some(Reason::AuthnInvalid),
            "{kind:?}"
        );
    }
}

/// Neither kind of token passes for the other, with the keys or from the cache.
#[test]
fn transaction_tokens_and_user_tokens_do_not_mix() {
    let mesh = Mesh::new();
    let token = mesh.mint(&alice());
    user(mesh.verify(&token));
    let point = &mesh.signer.public_key()[1..];
    let (x, y) = point.split_at(32);
    let jwk = json!({
        "kty": "EC", "crv": "P-256", "kid": mesh.signer.kid(),
        "x": encode_base64url(x), "y": encode_base64url(y)
    });
    let set = KeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
    let rule = IssuerRule {
        name: Arc::from("mesh"),
        issuer: Arc::from("spiffe://shop.test/gateway"),
        audiences: vec![Arc::from(DOMAIN)],
        jwks: JwksSource::Inline(Arc::new(set)),
        id: "sub".parse().unwrap(),
        roles: None,
        claims: BTreeMap::new(),
    };
    let authenticators = Authenticators::new(vec![rule], None, false).unwrap();
    let value = http::HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
    let authn = authenticators.authenticate(
        &KeyRing::default(),
        &Revocations::default(),
        &mut mesh.cache.borrow_mut(),
        &headers,
        at(NOW),
    );
    assert_eq!(reason(&authn), Some(Reason::AuthnInvalid), "{authn:?}");
}

#[test]
fn keys_must_fit_their_names() {
    let (one, other) = (
        TxnSigner::generate().unwrap(),
        TxnSigner::generate().unwrap(),
    );
    let mut renamed = entry(&one, NOW);
    renamed.kid = Arc::from(other.kid());
    let mut cut = entry(&one, NOW);
    cut.public_key.pop();
    let mut off_curve = entry(&one, NOW);
    off_curve.public_key[64] ^= 1;
    let (keys, refused) = TxnKeys::new([renamed, cut, off_curve, entry(&other, NOW)]);
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(keys.contains(other.kid()) && !keys.contains(one.kid()));
}

#[test]
fn a_signer_survives_its_file_and_hides_its_key() {
    let signer = TxnSigner::generate().unwrap();
    let again = TxnSigner::from_pkcs8(&signer.to_pkcs8().unwrap()).unwrap();
    assert_eq!(again.kid(), signer.kid());
    assert_eq!(again.public_key(), signer.public_key());
    assert!(TxnSigner::from_pkcs8(b"junk").is_err());
    assert!(!format!("{signer:?}").contains("pair"));
}

#[test]
fn a_made_token_is_reused_for_the_same_request_alone() {
    let mesh = Mesh::new();
    let user = alice();
    let mut minter = TxnMinter::default();
    let operation = Arc::from("orders:createOrder");
    let request = || TxnRequest {
        user: &user,
        operation: &operation,
        source_ip: Some("192.0.2.1".parse().unwrap()),
        gateway: "gateway-1",
        trust_domain: DOMAIN,
    };
    let mut token = |request: &TxnRequest<'_>, revision, now| {
        minter
            .token(&mesh.signer, request, revision, at(now))
            .unwrap()
    };
    let first = token(&request(), 1, NOW);
    assert_eq!(token(&request(), 1, NOW + 29), first);
    assert_ne!(token(&request(), 2, NOW), first, "another revision");
    let elsewhere = TxnRequest {
        source_ip: None,
        ..request()
    };
    assert_ne!(token(&elsewhere, 1, NOW), first, "another address");
    let other = Arc::from("orders:getOrder");
    let another = TxnRequest {
        operation: &other,
        ..request()
    };
    assert_ne!(token(&another, 1, NOW), first, "another operation");
    let bob = User {
        credential: [8; 32],
        ..alice()
    };
    let his = TxnRequest {
        user: &bob,
        ..request()
    };
    assert_ne!(token(&his, 1, NOW), first, "another credential");
    assert_eq!(token(&request(), 1, NOW), first);
    assert_ne!(token(&request(), 1, NOW - 1), first, "a clock set back");
    let second = token(&request(), 1, NOW + 30);
    assert_ne!(second, first, "half a minute is over");
    let rotated = TxnSigner::generate().unwrap();
    let third = minter.token(&rotated, &request(), 1, at(NOW + 31)).unwrap();
    assert_ne!(third, second, "another key");
}

proptest! {
    #[test]
    fn no_text_panics_or_passes(text in "\\PC{0,200}") {
        let (keys, _) = shared();
        prop_assert!(reason(&ask(keys, &text)).is_some());
    }

    #[test]
    fn a_mutated_token_never_passes(position in any::<prop::sample::Index>(), byte in 0x21u8..0x7f) {
        let (keys, token) = shared();
        let mut bytes = token.as_bytes().to_vec();
        let at = position.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let mutated = String::from_utf8(bytes).unwrap();
        prop_assert!(reason(&ask(keys, &mutated)).is_some(), "{}", mutated);
    }
}

fn shared() -> &'static (TxnKeys, Arc<str>) {
    static SHARED: std::sync::OnceLock<(TxnKeys, Arc<str>)> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| {
        let mesh = Mesh::new();
        let token = mesh.mint(&alice());
        (mesh.keys, token)
    })
}

fn ask(keys: &TxnKeys, token: &str) -> Authn {
    let mut cache = TokenCache::default();
    keys.verify(token, DOMAIN, &Revocations::default(), &mut cache, at(NOW))
}
