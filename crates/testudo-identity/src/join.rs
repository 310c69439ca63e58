//! Join tokens: how a new proxy proves once that it may have an identity, and how it knows control.
//!
//! The text is `testudo-join-v1.` and base64url of a JSON object. It holds a 256-bit secret, which
//! control keeps only as a hash, and pins the mesh's root and the key that signs manifests.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};

const PREFIX: &str = "testudo-join-v1.";
/// More than any token takes.
const MAX_TEXT_BYTES: usize = 8 * 1024;

/// What a proxy is to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProxyRole {
    /// A gateway.
    Gateway,
    /// A sidecar of this service.
    Sidecar(String),
}

impl ProxyRole {
    /// From the words of the mesh protocol; `service` is empty for a gateway.
    pub fn from_words(role: &str, service: &str) -> Option<Self> {
        match (role, service) {
            ("gateway", "") => Some(ProxyRole::Gateway),
            ("sidecar", name) if !name.is_empty() => Some(ProxyRole::Sidecar(name.to_owned())),
            _ => None,
        }
    }

    /// `gateway` or `sidecar`.
    pub fn word(&self) -> &'static str {
        match self {
            ProxyRole::Gateway => "gateway",
            ProxyRole::Sidecar(_) => "sidecar",
        }
    }

    /// The service's name; empty for a gateway.
    pub fn service(&self) -> &str {
        match self {
            ProxyRole::Gateway => "",
            ProxyRole::Sidecar(service) => service,
        }
    }

    /// The identity that goes with it.
    ///
    /// # Errors
    /// Where the service's name cannot be part of an id.
    pub fn spiffe_id(&self, domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
        match self {
            ProxyRole::Gateway => Ok(SpiffeId::gateway(domain)),
            ProxyRole::Sidecar(service) => SpiffeId::service(domain, service),
        }
    }
}

/// Why a text is no join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// Nothing.
    #[error(
        "the join token is empty\nhint: testudo identity issue --join gateway|SERVICE makes one"
    )]
    Empty,
    /// Something else.
    #[error(
        "this is not a join token: those start with {PREFIX}\nhint: testudo identity issue --join gateway|SERVICE makes one"
    )]
    Prefix,
    /// Made by another version.
    #[error("this join token is of another version of testudo; this one reads {PREFIX}…")]
    Version,
    /// Cut off or changed on the way.
    #[error(
        "the join token is damaged: it was cut off or changed on the way\nhint: copy it again, whole, on one line"
    )]
    Damaged,
    /// The role and service in it make no sense.
    #[error("the join token is for neither a gateway nor a service's sidecar")]
    Role,
}

/// A join token. It never shows its secret in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// What the proxy will be.
    pub role: ProxyRole,
    /// SHA-256 of the root to which control's certificate must chain.
    pub root_sha256: [u8; 32],
    /// Ed25519 public key that signs manifests.
    pub manifest_key: [u8; 32],
    secret: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    control: String,
    role: String,
    service: String,
    secret: String,
    root_sha256: String,
    manifest_key: String,
}

impl JoinToken {
    /// A new token with a random secret of 256 bits.
    pub fn generate(
        trust_domain: TrustDomain,
        role: ProxyRole,
        root_sha256: [u8; 32],
        manifest_key: [u8; 32],
    ) -> Self {
        JoinToken {
            trust_domain,
            role,
            root_sha256,
            manifest_key,
            secret: rand::random(),
        }
    }

    /// The secret part, as it travels in the Join call.
    pub fn secret(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret))
    }

    /// What control keeps of it: hex SHA-256 of the secret part.
    pub fn hash(&self) -> String {
        hash_secret(&self.secret())
    }

    /// The whole token, for a file or a terminal.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut fields = Fields {
            control: self.trust_domain.to_string(),
            role: self.role.word().to_owned(),
            service: self.role.service().to_owned(),
            secret: self.secret().to_string(),
            root_sha256: crate::hex(&self.root_sha256),
            manifest_key: URL_SAFE_NO_PAD.encode(self.manifest_key),
        };
        // Serializing strings cannot fail.
        let json = Zeroizing::new(serde_json::to_vec(&fields).unwrap_or_default());
        fields.secret.zeroize();
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*json)))
    }
}

/// Hex SHA-256 of a join token's secret part. The secret is random and long: a plain hash suffices.
pub fn hash_secret(secret: &str) -> String {
    crate::hex(&crate::sha256(secret.as_bytes()))
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(JoinTokenError::Empty);
        }
        let Some(body) = text.strip_prefix(PREFIX) else {
            return Err(match text.starts_with("testudo-join-") {
                true => JoinTokenError::Version,
                false => JoinTokenError::Prefix,
            });
        };
        if text.len() > MAX_TEXT_BYTES {
            return Err(JoinTokenError::Damaged);
        }
        read_fields(body).ok_or(JoinTokenError::Damaged)?
    }
}

/// `None`: damaged.
fn read_fields(body: &str) -> Option<Result<JoinToken, JoinTokenError>> {
    let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).ok()?);
    let mut fields: Fields = serde_json::from_slice(&json).ok()?;
    let secret = bytes_32(&URL_SAFE_NO_PAD.decode(&fields.secret).ok()?)?;
    fields.secret.zeroize();
    let trust_domain = TrustDomain::new(&fields.control).ok()?;
    let root_sha256 = bytes_32(&crate::from_hex(&fields.root_sha256)?)?;
    let manifest_key = bytes_32(&URL_SAFE_NO_PAD.decode(&fields.manifest_key).ok()?)?;
    let role = ProxyRole::from_words(&fields.role, &fields.service)
        .filter(|role| role.spiffe_id(&trust_domain).is_ok());
    Some(role.ok_or(JoinTokenError::Role).map(|role| JoinToken {
        trust_domain,
        role,
        root_sha256,
        manifest_key,
        secret,
    }))
}

fn bytes_32(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}

impl Drop for JoinToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("trust_domain", &self.trust_domain)
            .field("role", &self.role)
            .field("secret", &"(secret)")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(role: ProxyRole) -> JoinToken {
        let domain = TrustDomain::new("shop.test").unwrap();
        JoinToken::generate(domain, role, [7; 32], [9; 32])
    }

    #[test]
    fn a_token_reads_back() {
        for role in [ProxyRole::Gateway, ProxyRole::Sidecar("orders".to_owned())] {
            let token = token(role);
            let text = token.to_text();
            let read: JoinToken = format!("\n{} \n", *text).parse().unwrap();
            assert_eq!(read, token);
            assert_eq!(read.hash(), hash_secret(&token.secret()));
            assert_eq!(read.hash().len(), 64);
            assert!(!format!("{read:?}").contains(&*read.secret()));
        }
        assert_ne!(
            token(ProxyRole::Gateway).secret(),
            token(ProxyRole::Gateway).secret()
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = token(ProxyRole::Gateway).to_text();
        let read = |text: &str| text.parse::<JoinToken>().unwrap_err();
        assert_eq!(read(" \n"), JoinTokenError::Empty);
        assert_eq!(read("hunter2"), JoinTokenError::Prefix);
        assert_eq!(read("testudo-join-v9.abc"), JoinTokenError::Version);
        for cut in PREFIX.len()..text.len() {
            assert_eq!(read(&text[..cut]), JoinTokenError::Damaged, "{cut}");
        }
        assert_eq!(
            read(&format!("{}{}", *text, "A".repeat(9000))),
            JoinTokenError::Damaged
        );
        assert_eq!(
            read(&token(ProxyRole::Sidecar("../x".to_owned())).to_text()),
            JoinTokenError::Role
        );
    }
}
