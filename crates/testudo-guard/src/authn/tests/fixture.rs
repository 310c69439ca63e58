//! An issuer with keys of its own, and requests that show its tokens.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use http::HeaderMap;
use serde_json::{Value, json};

use super::super::encoding::encode_base64url;
use super::super::*;

pub(in super::super) const NOW: u64 = 1_800_000_000;
pub(super) const ISSUER: &str = "https://id.shop.test";

/// A private key of an issuer.
pub(super) enum Key {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    pub(super) fn p256() -> Key {
        Key::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(super) fn p384() -> Key {
        Key::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(super) fn ed25519() -> Key {
        Key::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub(super) fn rsa(size: KeySize) -> Key {
        Key::Rsa(RsaKeyPair::generate(size).unwrap())
    }

    /// The public JWK without `kid`, `alg` and `use`.
    pub(super) fn jwk(&self) -> Value {
        let point = |pair: &EcdsaKeyPair, crv: &str| {
            let point = pair.public_key().as_ref()[1..].to_vec();
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": crv, "x": encode_base64url(x), "y": encode_base64url(y)})
        };
        match self {
            Key::P256(pair) => point(pair, "P-256"),
            Key::P384(pair) => point(pair, "P-384"),
            Key::Ed25519(pair) => json!({
                "kty": "OKP", "crv": "Ed25519",
                "x": encode_base64url(pair.public_key().as_ref())
            }),
            Key::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA",
                    "n": encode_base64url(public.modulus().big_endian_without_leading_zero()),
                    "e": encode_base64url(public.exponent().big_endian_without_leading_zero())
                })
            }
        }
    }

    /// Signs as `alg` says, where the key can.
    pub(super) fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Key::P256(pair) | Key::P384(pair) => {
                pair.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Key::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Key::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match alg {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// A token with exactly this header and these claims.
    pub(super) fn token(&self, header: &Value, claims: &Value) -> String {
        let alg = header["alg"].as_str().unwrap_or_default();
        self.token_of_text(alg, &header.to_string(), &claims.to_string())
    }

    pub(super) fn token_of_text(&self, alg: &str, header: &str, claims: &str) -> String {
        let input = format!("{}.{}", encode_base64url(header), encode_base64url(claims));
        let signature = self.sign(alg, input.as_bytes());
        format!("{input}.{}", encode_base64url(signature))
    }
}

/// Claims that pass.
pub(super) fn good() -> Value {
    json!({
        "iss": ISSUER, "aud": "shop", "sub": "alice", "exp": NOW + 300, "iat": NOW, "nbf": NOW,
        "jti": "token-1", "realm_access": {"roles": ["grp-7", "customer", "ignored"]},
        "tenant": "acme"
    })
}

/// [`good`] with some claims replaced; `null` takes one away.
pub(super) fn good_but(changes: Value) -> Value {
    let mut claims = good();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

pub(super) fn rule(name: &str, issuer: &str, jwks: JwksSource) -> IssuerRule {
    IssuerRule {
        name: Arc::from(name),
        issuer: Arc::from(issuer),
        audiences: vec![Arc::from("shop"), Arc::from("shop-api")],
        jwks,
        id: "/sub".parse().unwrap(),
        roles: Some(RoleRule {
            claim: "/realm_access/roles".parse().unwrap(),
            map: BTreeMap::from([(String::from("grp-7"), Arc::from("admin"))]),
            allow: Some(["customer", "admin"].map(Arc::from).into_iter().collect()),
        }),
        claims: BTreeMap::from([(Arc::from("tenant"), "/tenant".parse().unwrap())]),
    }
}

pub(super) fn set(keys: &[Value]) -> Arc<KeySet> {
    Arc::new(KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap())
}

pub(super) fn with(mut jwk: Value, members: Value) -> Value {
    for (name, value) in members.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

/// One issuer with one P-256 key `k1`, and everything that a proxy holds.
pub(super) struct World {
    pub(super) key: Key,
    pub(super) authenticators: Authenticators,
    pub(super) ring: KeyRing,
    pub(super) revocations: Revocations,
    pub(super) cache: RefCell<TokenCache>,
}

impl World {
    pub(super) fn new() -> World {
        let key = Key::p256();
        let keys = set(&[with(key.jwk(), json!({"kid": "k1"}))]);
        World::of(key, rule("shop", ISSUER, JwksSource::Inline(keys)))
    }

    pub(super) fn of(key: Key, rule: IssuerRule) -> World {
        World {
            key,
            authenticators: Authenticators::new(vec![rule], None, false).unwrap(),
            ring: KeyRing::default(),
            revocations: Revocations::default(),
            cache: RefCell::default(),
        }
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": "k1"});
        self.key.token(&header, claims)
    }

    /// As a request with `Authorization: Bearer`.
    pub(super) fn ask(&self, token: &str) -> Authn {
        self.ask_at(token, NOW)
    }

    pub(super) fn ask_at(&self, token: &str, now: u64) -> Authn {
        self.ask_headers(&[("authorization", &format!("Bearer {token}"))], now)
    }

    pub(super) fn ask_headers(&self, headers: &[(&str, &str)], now: u64) -> Authn {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                http::HeaderName::try_from(*name).unwrap(),
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        self.authenticators.authenticate(
            &self.ring,
            &self.revocations,
            &mut self.cache.borrow_mut(),
            &map,
            at(now),
        )
    }
}

pub(in super::super) fn at(seconds: u64) -> Now {
    Now {
        wall: Duration::from_secs(seconds),
        monotonic: Duration::from_secs(seconds),
    }
}

pub(in super::super) fn user(authn: Authn) -> Arc<User> {
    match authn {
        Authn::User(user) => user,
        other => panic!("not a user: {other:?}"),
    }
}

pub(in super::super) fn reason(authn: &Authn) -> Option<Reason> {
    match authn {
        Authn::Failed { reason, .. } => Some(*reason),
        Authn::Missing | Authn::User(_) => None,
    }
}

pub(in super::super) fn detail(authn: &Authn) -> &str {
    match authn {
        Authn::Failed { detail, .. } => detail,
        Authn::Missing | Authn::User(_) => "",
    }
}

pub(in super::super) fn role_names(user: &User) -> Vec<&str> {
    user.roles.iter().map(|role| &**role).collect()
}
