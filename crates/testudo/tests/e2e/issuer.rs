//! An identity provider of the tests' own: an ES256 key, its JWKS, and tokens with any claims.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

pub const ISSUER: &str = "https://id.e2e.test";
pub const AUDIENCE: &str = "e2e";

pub struct Issuer {
    key: EcdsaKeyPair,
}

impl Issuer {
    pub fn new() -> Issuer {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        Issuer {
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())
                .unwrap(),
        }
    }

    pub fn jwks(&self) -> String {
        let point = self.key.public_key().as_ref();
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1",
            "x": BASE64URL.encode(&point[1..33]), "y": BASE64URL.encode(&point[33..65]),
        });
        json!({"keys": [key]}).to_string()
    }

    /// A valid token, valid for five minutes.
    pub fn token(&self, user: &str, roles: &[&str]) -> String {
        self.token_with(user, roles, json!({}))
    }

    /// A token with some claims replaced.
    pub fn token_with(&self, user: &str, roles: &[&str], more: Value) -> String {
        let mut claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": user, "roles": roles,
            "iat": now() - 10, "exp": now() + 300,
        });
        claims
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.sign(&json!({"alg": "ES256", "typ": "JWT", "kid": "k1"}), &claims)
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = format!(
            "{}.{}",
            BASE64URL.encode(header.to_string()),
            BASE64URL.encode(claims.to_string())
        );
        let signature = self
            .key
            .sign(&SystemRandom::new(), text.as_bytes())
            .unwrap();
        format!("{text}.{}", BASE64URL.encode(signature.as_ref()))
    }
}

pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
