//! The shop's identity provider, its users' tokens, and tokens that only look like them.

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::demo::attacks::Credential;
use crate::failure::{Failure, OrFail as _};

/// Whoever is honest. bob and mallory are customers as well, but not honest.
pub(crate) const CUSTOMERS: [&str; 3] = ["alice", "carol", "dave"];
/// The administrator.
pub(crate) const ADMINISTRATOR: &str = "erin";

const ISSUER: &str = "https://id.shop.test";
const AUDIENCE: &str = "shop";
/// For tokens that the demo itself uses; those on disk live longer.
pub(crate) const TOKEN_SECONDS: i64 = 600;

/// An issuer of tokens with an ES256 key.
pub(crate) struct Issuer {
    key: EcdsaKeyPair,
    kid: String,
    random: SystemRandom,
}

impl Issuer {
    pub(crate) fn new() -> Result<Issuer, Failure> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .or_fail(|| "cannot make a key")?;
        let thumbprint = digest::digest(&digest::SHA256, key.public_key().as_ref());
        let kid = URL_SAFE_NO_PAD.encode(thumbprint.as_ref().get(..8).unwrap_or_default());
        Ok(Issuer {
            key,
            kid,
            random: SystemRandom::new(),
        })
    }

    /// The public half, as a JSON Web Key Set (RFC 7517).
    pub(crate) fn jwks(&self) -> Value {
        let point = self.key.public_key().as_ref();
        // 0x04, then 32 bytes each (SEC 1 §2.3.3).
        let coordinate = |range| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": coordinate(1..33), "y": coordinate(33..65),
        }]})
    }

    /// A token for one of the shop's users.
    pub(crate) fn token(&self, user: &str, seconds: i64) -> Result<String, Failure> {
        let role = if user == ADMINISTRATOR {
            "admin"
        } else {
            "customer"
        };
        self.sign(&self.header(), &claims(user, role, AUDIENCE, seconds))
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": self.kid})
    }

    fn sign(&self, header: &Value, claims: &Value) -> Result<String, Failure> {
        let message = unsigned(header, claims);
        let signature = self
            .key
            .sign(&self.random, message.as_bytes())
            .or_fail(|| "cannot sign a token")?;
        Ok(format!(
            "{message}.{}",
            URL_SAFE_NO_PAD.encode(signature.as_ref())
        ))
    }

    /// The public key in DER, which key confusion uses as a secret.
    fn public_der(&self) -> Result<Vec<u8>, Failure> {
        let der: PublicKeyX509Der<'_> = self
            .key
            .public_key()
            .as_der()
            .or_fail(|| "cannot encode a key")?;
        Ok(der.as_ref().to_vec())
    }
}

fn claims(user: &str, role: &str, audience: &str, seconds: i64) -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({
        "iss": ISSUER, "aud": audience, "sub": user, "roles": [role],
        "iat": now.min(now + seconds - 1), "exp": now + seconds,
    })
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// The real issuer and the attacker's own.
pub(crate) struct People {
    pub(crate) issuer: Issuer,
    attacker: Issuer,
}

impl People {
    pub(crate) fn new() -> Result<People, Failure> {
        Ok(People {
            issuer: Issuer::new()?,
            attacker: Issuer::new()?,
        })
    }

    /// What an attack presents; `None`: nothing.
    pub(crate) fn credential(&self, credential: Credential) -> Result<Option<String>, Failure> {
        let admin = || claims(ADMINISTRATOR, "admin", AUDIENCE, TOKEN_SECONDS);
        let issuer = &self.issuer;
        Ok(Some(match credential {
            Credential::None => return Ok(None),
            Credential::Customer(user) => issuer.token(user, TOKEN_SECONDS)?,
            Credential::Administrator(user) => issuer.sign(
                &issuer.header(),
                &claims(user, "admin", AUDIENCE, TOKEN_SECONDS),
            )?,
            Credential::Expired => issuer.token("mallory", -86_400)?,
            Credential::Forged => self.attacker.sign(&issuer.header(), &admin())?,
            Credential::Unsigned => format!(
                "{}.",
                unsigned(&json!({"alg": "none", "typ": "JWT"}), &admin())
            ),
            Credential::KeyConfused => {
                let header = json!({"alg": "HS256", "typ": "JWT", "kid": issuer.kid});
                let message = unsigned(&header, &admin());
                let key = hmac::Key::new(hmac::HMAC_SHA256, &issuer.public_der()?);
                format!(
                    "{message}.{}",
                    URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()))
                )
            }
            Credential::OtherAudience => issuer.sign(
                &issuer.header(),
                &claims("mallory", "customer", "another-shop", TOKEN_SECONDS),
            )?,
            Credential::OwnKeySet => {
                let header = json!({
                    "alg": "ES256", "typ": "JWT", "kid": self.attacker.kid,
                    "jku": "https://mallory.test/jwks.json", "jwk": self.attacker.jwks().pointer("/keys/0"),
                });
                self.attacker.sign(&header, &admin())?
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, jwk::JwkSet};

    fn verify(people: &People, token: &str) -> bool {
        let keys: JwkSet = serde_json::from_value(people.issuer.jwks()).unwrap();
        let key = DecodingKey::from_jwk(&keys.keys[0]).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        decode::<Value>(token, &key, &validation).is_ok()
    }

    #[test]
    fn only_real_tokens_verify() {
        let people = People::new().unwrap();
        assert!(verify(&people, &people.issuer.token("alice", 60).unwrap()));
        for credential in [
            Credential::Expired,
            Credential::Forged,
            Credential::Unsigned,
            Credential::KeyConfused,
            Credential::OtherAudience,
            Credential::OwnKeySet,
        ] {
            let token = people.credential(credential).unwrap().unwrap();
            assert!(!verify(&people, &token), "{credential:?}");
            assert_eq!(token.split('.').count(), 3);
        }
    }
}
