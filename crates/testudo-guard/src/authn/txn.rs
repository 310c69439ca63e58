//! Transaction tokens (draft-ietf-oauth-transaction-tokens; DESIGN §5): how the user travels through the
//! mesh. Gateways make them, sidecars verify them, and nobody else's keys count.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;
use zeroize::Zeroizing;

use super::User;
use super::cache::Clock;
use super::encoding::encode_base64url;
use super::jwks::p256_thumbprint;
use super::jws::MAX_TOKEN_BYTES;
use crate::now::Now;

mod verify;

pub use verify::{TxnKeyEntry, TxnKeys};

/// How long a token lives, in seconds.
pub(super) const LIFETIME_SECONDS: u64 = 60;
/// How long a made token is used again, in seconds: it still lives as long when it is last sent.
const REUSE_SECONDS: u64 = 30;
/// The `typ` of the header.
pub(super) const TYP: &str = "txntoken+jwt";

/// A gateway's key for transaction tokens: ES256, made by the gateway, never leaves it.
pub struct TxnSigner {
    pair: EcdsaKeyPair,
    kid: Arc<str>,
    /// base64url of the header, which is the same for all tokens.
    header: String,
    random: SystemRandom,
}

/// Why a token could not be made, or a key not be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TxnError {
    /// Not an unencrypted PKCS #8 P-256 key.
    #[error("the transaction-token key cannot be read")]
    BadKey,
    /// The cryptographic library failed.
    #[error("the transaction token cannot be signed")]
    Sign,
    /// The user's own credential has expired.
    #[error("the user's credential has expired")]
    Expired,
    /// More roles and claims than sidecars would read.
    #[error("the user's roles and claims do not fit into a transaction token of 8 KiB")]
    TooLarge,
}

/// What a transaction token says.
pub struct TxnRequest<'a> {
    /// Whom the request is for; anonymous too.
    pub user: &'a User,
    /// `SERVICE:OPERATION` at the edge (`scope`).
    pub operation: &'a Arc<str>,
    /// The client's address (`rctx.req_ip`).
    pub source_ip: Option<IpAddr>,
    /// The gateway's proxy name, as its key is published under (`req_wl`).
    pub gateway: &'a str,
    /// The trust domain (`aud`).
    pub trust_domain: &'a str,
}

impl TxnSigner {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`TxnError::Sign`] without random numbers.
    pub fn generate() -> Result<Self, TxnError> {
        let pair =
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| TxnError::Sign)?;
        TxnSigner::new(pair)
    }

    /// Reads a key that [`TxnSigner::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// [`TxnError::BadKey`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, TxnError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map_err(|_| TxnError::BadKey)?;
        TxnSigner::new(pair)
    }

    fn new(pair: EcdsaKeyPair) -> Result<Self, TxnError> {
        let kid = p256_thumbprint(pair.public_key().as_ref()).ok_or(TxnError::BadKey)?;
        let header = json!({"alg": "ES256", "typ": TYP, "kid": kid}).to_string();
        Ok(TxnSigner {
            pair,
            kid: Arc::from(kid),
            header: encode_base64url(header),
            random: SystemRandom::new(),
        })
    }

    /// The private key, to be kept in a file of mode 0600.
    ///
    /// # Errors
    /// [`TxnError::BadKey`].
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, TxnError> {
        let document = self.pair.to_pkcs8v1().map_err(|_| TxnError::BadKey)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Names the key: its RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key: an uncompressed P-256 point, 65 bytes.
    pub fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Makes a token. It lives 60 seconds, or as long as the user's credential if that is less.
    ///
    /// # Errors
    /// See [`TxnError`].
    pub fn mint(&self, request: &TxnRequest<'_>, now: Now) -> Result<Arc<str>, TxnError> {
        let (issued, expires) = lifetime(request.user, now)?;
        let mut name = [0; 16];
        self.random.fill(&mut name).map_err(|_| TxnError::Sign)?;
        let claims = claims(request, issued, expires, &encode_base64url(name));
        let mut token = format!("{}.{}", self.header, encode_base64url(claims));
        let signature = self
            .pair
            .sign(&self.random, token.as_bytes())
            .map_err(|_| TxnError::Sign)?;
        token.push('.');
        token.push_str(&encode_base64url(signature));
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TxnError::TooLarge);
        }
        Ok(Arc::from(token))
    }
}

impl std::fmt::Debug for TxnSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxnSigner")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// `iat` and `exp`.
fn lifetime(user: &User, now: Now) -> Result<(u64, u64), TxnError> {
    let issued = now.unix_seconds();
    let longest = issued.saturating_add(LIFETIME_SECONDS);
    let expires = user.expires.map_or(longest, |expires| expires.min(longest));
    if expires <= issued {
        return Err(TxnError::Expired);
    }
    Ok((issued, expires))
}

fn claims(request: &TxnRequest<'_>, issued: u64, expires: u64, txn: &str) -> String {
    let user = request.user;
    let roles: Vec<&str> = user.roles.iter().map(|role| &**role).collect();
    let mut context = json!({"issuer": &*user.issuer, "roles": roles});
    if !user.claims.is_empty()
        && let Some(context) = context.as_object_mut()
    {
        let declared = user
            .claims
            .iter()
            .map(|(name, claim)| (name.to_string(), claim.to_json()))
            .collect();
        context.insert(String::from("claims"), declared);
    }
    let requester = match request.source_ip {
        Some(address) => json!({"req_ip": address.to_string()}),
        None => json!({}),
    };
    json!({
        "iss": gateway_issuer(request.trust_domain),
        "iat": issued,
        "exp": expires,
        "aud": request.trust_domain,
        "txn": txn,
        "sub": &*user.id,
        "scope": &**request.operation,
        "req_wl": request.gateway,
        "rctx": requester,
        "tctx": context,
    })
    .to_string()
}

/// Who issues transaction tokens: the gateways of the trust domain, by their SPIFFE id.
pub(super) fn gateway_issuer(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/gateway")
}

/// One core's freshly made tokens: one for each (credential, address, edge operation, revision), reused
/// for up to 30 seconds; bounded.
pub struct TxnMinter {
    made: Clock<MintKey, Minted>,
}

/// What a token depends on. Roles and claims follow from the credential and the revision.
#[derive(Clone, PartialEq, Eq, Hash)]
struct MintKey {
    credential: [u8; 32],
    source_ip: Option<IpAddr>,
    operation: Arc<str>,
    revision: u64,
}

struct Minted {
    token: Arc<str>,
    kid: Arc<str>,
    made: u64,
    reuse_until: u64,
}

impl Default for TxnMinter {
    fn default() -> Self {
        TxnMinter {
            made: Clock::new(4096),
        }
    }
}

impl TxnMinter {
    /// A token for this request, made or reused.
    ///
    /// # Errors
    /// See [`TxnError`].
    pub fn token(
        &mut self,
        signer: &TxnSigner,
        request: &TxnRequest<'_>,
        revision: u64,
        now: Now,
    ) -> Result<Arc<str>, TxnError> {
        let seconds = now.unix_seconds();
        let key = MintKey {
            credential: request.user.credential,
            source_ip: request.source_ip,
            operation: request.operation.clone(),
            revision,
        };
        if let Some(minted) = self.made.find(&key)
            // A clock that was set back makes the token one from the future.
            && (minted.made..minted.reuse_until).contains(&seconds)
            && minted.kid == signer.kid
        {
            return Ok(minted.token.clone());
        }
        let (_, expires) = lifetime(request.user, now)?;
        let token = signer.mint(request, now)?;
        let minted = Minted {
            token: token.clone(),
            kid: signer.kid.clone(),
            made: seconds,
            reuse_until: expires.min(seconds.saturating_add(REUSE_SECONDS)),
        };
        self.made.insert(key, minted);
        Ok(token)
    }
}

#[cfg(test)]
mod tests;
