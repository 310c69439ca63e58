//! Transaction tokens (draft-ietf-oauth-transaction-tokens; DESIGN §5).

use std::net::IpAddr;
use std::sync::Arc;

use testudo_model::Reason;

use super::cache::TokenCache;
use super::revocation::Revocations;
use super::{Authn, User};
use crate::now::Now;

/// A gateway's key for transaction tokens: ES256, made by the gateway, never leaves it.
pub struct TxnSigner {}

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
}

/// What a transaction token says.
pub struct TxnRequest<'a> {
    /// Whom the request is for; anonymous too.
    pub user: &'a User,
    /// `SERVICE:OPERATION` at the edge.
    pub operation: &'a Arc<str>,
    /// The client's address.
    pub source_ip: Option<IpAddr>,
    /// The gateway's proxy name, as its key is published under.
    pub gateway: &'a str,
    /// The trust domain.
    pub trust_domain: &'a str,
}

impl TxnSigner {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`TxnError::Sign`] without random numbers.
    pub fn generate() -> Result<Self, TxnError> {
        Err(TxnError::Sign)
    }

    /// Reads a key that [`TxnSigner::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// [`TxnError::BadKey`].
    pub fn from_pkcs8(_der: &[u8]) -> Result<Self, TxnError> {
        Err(TxnError::BadKey)
    }

    /// The private key, to be kept in a file of mode 0600.
    ///
    /// # Errors
    /// [`TxnError::BadKey`].
    pub fn to_pkcs8(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, TxnError> {
        Err(TxnError::BadKey)
    }

    /// Names the key: its RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        ""
    }

    /// The public key: an uncompressed P-256 point, 65 bytes.
    pub fn public_key(&self) -> &[u8] {
        &[]
    }

    /// Makes a token. It lives 60 seconds, or as long as the user's credential if that is less.
    ///
    /// # Errors
    /// See [`TxnError`].
    pub fn mint(&self, _request: &TxnRequest<'_>, _now: Now) -> Result<Arc<str>, TxnError> {
        Err(TxnError::Sign)
    }
}

/// One core's freshly made tokens: one for each (credential, address, edge operation, revision), reused
/// for up to 30 seconds; bounded.
#[derive(Default)]
pub struct TxnMinter {}

impl TxnMinter {
    /// A token for this request, made or reused.
    ///
    /// # Errors
    /// See [`TxnError`].
    pub fn token(
        &mut self,
        signer: &TxnSigner,
        request: &TxnRequest<'_>,
        _revision: u64,
        now: Now,
    ) -> Result<Arc<str>, TxnError> {
        signer.mint(request, now)
    }
}

/// A gateway's public key as control publishes it (`mesh.TokenKey`).
#[derive(Clone, Debug)]
pub struct TxnKeyEntry {
    /// RFC 7638 thumbprint of the key.
    pub kid: Arc<str>,
    /// Uncompressed P-256 point.
    pub public_key: Vec<u8>,
    /// The gateway's proxy name.
    pub gateway: Arc<str>,
    /// Seconds since the epoch.
    pub not_after: u64,
}

/// Public keys that verify transaction tokens, by `kid`. They verify nothing else.
#[derive(Default)]
pub struct TxnKeys {}

impl TxnKeys {
    /// Takes the whole set; keys that are malformed or do not fit their `kid` are left out and named.
    pub fn new(_entries: impl IntoIterator<Item = TxnKeyEntry>) -> (Self, Vec<String>) {
        (TxnKeys {}, Vec::new())
    }

    /// Judges the value of a `txn-token` header in the mesh. Missing headers are the caller's matter.
    pub fn verify(
        &self,
        _token: &str,
        _trust_domain: &str,
        _revocations: &Revocations,
        _cache: &mut TokenCache,
        _now: Now,
    ) -> Authn {
        Authn::Failed {
            reason: Reason::AuthnUnavailable,
            detail: String::from("no transaction-token keys yet"),
        }
    }
}
