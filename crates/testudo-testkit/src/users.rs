//! An identity provider: keys, a JWK Set, tokens.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

/// The `kid` of the one key.
pub const KEY_ID: &str = "test-1";

/// One issuer with one ES256 key.
pub struct Users {
    issuer: String,
    audience: String,
    key: EncodingKey,
    point: Vec<u8>,
}

impl Users {
    /// A new key.
    pub fn new(issuer: &str, audience: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Users {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            key: EncodingKey::from_ec_der(&pair.serialize_der()),
            point: pair.public_key_raw().to_vec(),
        }
    }

    /// The JWK Set to put into a bundle.
    pub fn jwks(&self) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
            "x": encode(&self.point[1..33]), "y": encode(&self.point[33..65]),
        }]})
        .to_string()
    }

    /// A token for a user with these roles, valid for so many seconds (negative: expired).
    pub fn token(&self, id: &str, roles: &[&str], valid_seconds: i64) -> String {
        let now = i64::try_from(testudo_identity::Clock::system().unix_seconds()).unwrap();
        self.sign(&json!({
            "iss": self.issuer, "aud": self.audience, "sub": id, "roles": roles,
            "iat": now.min(now + valid_seconds) - 10, "exp": now + valid_seconds,
        }))
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(KEY_ID.to_owned());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}
