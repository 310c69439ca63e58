//! Who the user is: JWTs, API keys, transaction tokens.
//!
//! What a credential proves is decided here and nowhere else. Keys are data that the caller supplies;
//! nothing is fetched from here, no clock is read, and nothing found in a token chooses a key but the
//! `kid` and the `iss` that the bundle trusts.

mod api_key;
mod book;
mod cache;
mod claims;
mod jwks;
mod jwt;
mod revocation;
mod txn;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use testudo_model::Reason;

use crate::now::Now;

pub use api_key::{ApiKeyEntry, ApiKeyError, ApiKeys, GeneratedApiKey};
pub use book::TokenBook;
pub use cache::TokenCache;
pub use claims::{ClaimPath, ClaimPathError, RoleRule};
pub use jwks::{JwksError, JwksSource, KeyRing, KeySet, Want};
pub use jwt::IssuerRule;
pub use revocation::{Revocation, RevocationKind, Revocations};
pub use txn::{TxnError, TxnKeyEntry, TxnKeys, TxnMinter, TxnRequest, TxnSigner};

/// A verified user, from a JWT or an API key at the edge or from a transaction token in the mesh.
#[derive(Clone, Debug)]
pub struct User {
    /// `ISSUERNAME:ID`, or `anonymous`.
    pub id: Arc<str>,
    /// The issuer's short name ([`API_KEY_ISSUER`] for API keys); empty for anonymous.
    pub issuer: Arc<str>,
    /// Roles after `map` and `allow`, sorted.
    pub roles: Arc<[Arc<str>]>,
    /// Claims that the bundle declares, by their declared name.
    pub claims: Arc<BTreeMap<Arc<str>, Claim>>,
    /// Until when the credential is accepted, leeway included, in seconds since the epoch; `None`: it
    /// does not expire (API keys without expiry, anonymous).
    pub expires: Option<u64>,
    /// A digest that names the credential, for caches and limits: SHA-256 of a token, the stored hash
    /// of an API key, zero for anonymous.
    pub credential: [u8; 32],
    /// The client's address as the gateway saw it; only from a transaction token (`rctx.req_ip`).
    pub source_ip: Option<IpAddr>,
}

/// The issuer name of users that API keys stand for: `key:reporting`. No JWT issuer may have it.
pub const API_KEY_ISSUER: &str = "key";

/// The id of the user without a credential.
pub const ANONYMOUS: &str = "anonymous";

impl User {
    /// The user without a credential: in no role.
    pub fn anonymous() -> Arc<User> {
        Arc::new(User {
            id: Arc::from(ANONYMOUS),
            issuer: Arc::from(""),
            roles: Arc::from([]),
            claims: Arc::default(),
            expires: None,
            credential: [0; 32],
            source_ip: None,
        })
    }

    /// Whether no credential came. No issuer's id can look like this: those have a `:`.
    pub fn is_anonymous(&self) -> bool {
        &*self.id == ANONYMOUS
    }
}

/// A claim's value as policies read it.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// A string.
    String(Arc<str>),
    /// An integer.
    Long(i64),
    /// A boolean.
    Bool(bool),
    /// A list of strings.
    Strings(Arc<[Arc<str>]>),
}

/// What the credential of a request turned out to be.
#[derive(Clone, Debug)]
pub enum Authn {
    /// No credential came.
    Missing,
    /// It is valid.
    User(Arc<User>),
    /// It is not valid: `authn.invalid`, `authn.expired` or `authn.unavailable`.
    Failed {
        /// Which of the three.
        reason: Reason,
        /// For the decision log; never the credential.
        detail: String,
    },
}

/// How users are recognized at the edge, and what their roles and claims are. Built by `testudo-policy`.
#[derive(Default)]
pub struct Authenticators {
    issuers: Vec<IssuerRule>,
    pub(crate) api_keys: Option<ApiKeys>,
    forward: bool,
}

/// Why [`Authenticators::new`] refuses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AuthenticatorsError {
    /// Two entries name the same `iss`: a token could not say which of them it means.
    #[error("{first} and {second} both trust the issuer {issuer}")]
    SameIssuer {
        /// Short name of one.
        first: Arc<str>,
        /// Short name of the other.
        second: Arc<str>,
        /// The `iss`.
        issuer: Arc<str>,
    },
    /// Two entries have the same short name.
    #[error("two issuers are named {0}")]
    SameName(Arc<str>),
    /// The short name cannot be part of a user's id.
    #[error("{0} cannot be the name of an issuer")]
    BadName(Arc<str>),
    /// Without an audience, tokens for other applications would be taken.
    #[error("issuer {0} has no audience")]
    NoAudience(Arc<str>),
}

impl Authenticators {
    /// Puts the rules together. `forward`: the original credential reaches the service too.
    ///
    /// # Errors
    /// Rules that could not be told apart, or that accept too much.
    pub fn new(
        issuers: Vec<IssuerRule>,
        api_keys: Option<ApiKeys>,
        forward: bool,
    ) -> Result<Self, AuthenticatorsError> {
        Ok(Authenticators {
            issuers,
            api_keys,
            forward,
        })
    }

    /// The rules for JWTs; the refresher reads from them where keys come from.
    pub fn issuers(&self) -> &[IssuerRule] {
        &self.issuers
    }

    /// Whether the original credential (`Authorization`, `x-api-key`) reaches the service too.
    pub fn forwards_credential(&self) -> bool {
        self.forward
    }

    /// Judges the credential of a request at the edge: `Authorization: Bearer JWT` or `x-api-key`.
    /// Both at once, one of them twice, or another scheme: `authn.invalid`.
    pub fn authenticate(
        &self,
        _keys: &KeyRing,
        _revocations: &Revocations,
        _cache: &mut TokenCache,
        _headers: &HeaderMap,
        _now: Now,
    ) -> Authn {
        Authn::Failed {
            reason: Reason::AuthnUnavailable,
            detail: String::from("no keys"),
        }
    }
}
