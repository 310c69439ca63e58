//! Who the user is: JWTs, API keys, transaction tokens.
//!
//! What a credential proves is decided here and nowhere else. Keys are data that the caller supplies;
//! nothing is fetched from here, no clock is read, and nothing found in a token chooses a key but the
//! `kid` and the `iss` that the bundle trusts.

mod api_key;
mod book;
mod cache;
mod claims;
mod encoding;
mod fingerprint;
mod jwks;
mod jws;
mod jwt;
mod revocation;
mod txn;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap};
use testudo_model::Reason;

use crate::now::Now;
use cache::{Basis, Entry};
use encoding::{sha256, stamp, stamp_field};
use jwks::KeyRefusal;
use jwt::Unverified;

pub use api_key::{ApiKeyEntry, ApiKeyError, ApiKeys, GeneratedApiKey};
pub use book::TokenBook;
pub use cache::TokenCache;
pub use claims::{ClaimPath, ClaimPathError, RoleRule};
pub use fingerprint::Fingerprints;
pub use jwks::{JwksError, JwksSource, KeyRing, KeySet, Want};
pub use jwt::{IssuerRule, LEEWAY_SECONDS};
pub use revocation::{Revocation, RevocationKind, Revocations, UnknownRevocationKind};
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
    /// The key that vouches for the user: a JWK's `kid` or thumbprint, an API key's id, the `kid` of a
    /// gateway; empty for the anonymous user at the edge.
    pub key: Arc<str>,
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
            key: Arc::from(""),
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

/// Why a credential is not taken. The text is for the decision log and never holds the credential.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rejection {
    Invalid(Cow<'static, str>),
    Expired(String),
    Unavailable(String),
}

impl Rejection {
    fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Rejection::Invalid(detail.into())
    }
}

impl From<Rejection> for Authn {
    fn from(rejection: Rejection) -> Self {
        let (reason, detail) = match rejection {
            Rejection::Invalid(detail) => (Reason::AuthnInvalid, detail.into_owned()),
            Rejection::Expired(detail) => (Reason::AuthnExpired, detail),
            Rejection::Unavailable(detail) => (Reason::AuthnUnavailable, detail),
        };
        Authn::Failed { reason, detail }
    }
}

/// Text of a client's choosing, cut and escaped for a log line.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(64).collect();
    format!("{short:?}")
}

/// The header of API keys. `Authorization` carries JWTs alone, so that a service behind the gateway
/// never has to guess which of the two a value is.
pub const API_KEY_HEADER: &str = "x-api-key";

/// How users are recognized at the edge, and what their roles and claims are. Built by `testudo-policy`.
#[derive(Default)]
pub struct Authenticators {
    issuers: Vec<Issuer>,
    api_keys: Option<ApiKeys>,
    forward: bool,
    /// Tells sets of rules apart, for the cache.
    stamp: u128,
}

struct Issuer {
    rule: IssuerRule,
    /// [`IssuerRule::key_source`].
    source: Option<Arc<str>>,
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
    #[error("{0:?} cannot be the name of an issuer")]
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
        let mut hasher = blake3::Hasher::new();
        let mut known: Vec<Issuer> = Vec::with_capacity(issuers.len());
        for rule in issuers {
            check_rule(&rule, &known)?;
            rule.stamp(&mut hasher);
            stamp_field(&mut hasher, b"issuer");
            let source = rule.key_source();
            known.push(Issuer { rule, source });
        }
        Ok(Authenticators {
            issuers: known,
            api_keys,
            forward,
            stamp: stamp(&hasher),
        })
    }

    /// The rules for JWTs; the refresher reads from them where keys come from.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerRule> {
        self.issuers.iter().map(|issuer| &issuer.rule)
    }

    /// Whether the original credential (`Authorization`, `x-api-key`) reaches the service too.
    pub fn forwards_credential(&self) -> bool {
        self.forward
    }

    /// Judges the credential of a request at the edge: `Authorization: Bearer JWT` or `x-api-key`.
    /// Both at once, one of them twice, or another scheme: `authn.invalid`.
    pub fn authenticate(
        &self,
        keys: &KeyRing,
        revocations: &Revocations,
        cache: &mut TokenCache,
        headers: &HeaderMap,
        now: Now,
    ) -> Authn {
        let now = now.unix_seconds();
        let user = match Credential::of(headers) {
            Ok(None) => return Authn::Missing,
            Ok(Some(Credential::Bearer(token))) => {
                self.bearer(token, keys, revocations, cache, now)
            }
            Ok(Some(Credential::ApiKey(text))) => match &self.api_keys {
                Some(api_keys) => api_keys.verify(text, revocations, now),
                None => Err(Rejection::invalid("API keys are not accepted here")),
            },
            Err(rejection) => Err(rejection),
        };
        user.map_or_else(Authn::from, Authn::User)
    }

    fn bearer(
        &self,
        token: &str,
        keys: &KeyRing,
        revocations: &Revocations,
        cache: &mut TokenCache,
        now: u64,
    ) -> Result<Arc<User>, Rejection> {
        // Before hashing: a token's length is the client's choice.
        if token.len() > jws::MAX_TOKEN_BYTES {
            return Err(Rejection::invalid("the token is longer than 8 KiB"));
        }
        let digest = sha256(token.as_bytes());
        let holds = |basis: &Basis| match basis {
            Basis::Jwt {
                rules,
                issuer,
                keys: used,
            } => {
                *rules == self.stamp
                    && self
                        .issuers
                        .get(*issuer)
                        .and_then(|issuer| issuer.keys(keys))
                        .is_some_and(|current| current.stamp() == *used)
            }
            Basis::Txn { .. } => false,
        };
        if let Some(user) = cache.find(&digest, revocations, now, holds) {
            return Ok(user);
        }
        let mut entry = self.verify(token, digest, keys, now)?;
        if revocations.credential(&entry.user, &entry.names) {
            return Err(Rejection::invalid(
                "the user, the token or its key is revoked",
            ));
        }
        entry.checked = revocations.stamp();
        let user = entry.user.clone();
        cache.insert(digest, entry);
        Ok(user)
    }

    /// The whole way from text to user: header, issuer, keys, signature, claims. Nothing that the claims
    /// say but `iss` is looked at before the signature holds.
    fn verify(
        &self,
        token: &str,
        digest: [u8; 32],
        ring: &KeyRing,
        now: u64,
    ) -> Result<Entry, Rejection> {
        let unverified = Unverified::parse(token)?;
        let claimed = unverified.issuer()?;
        let (index, issuer) = self
            .issuers
            .iter()
            .enumerate()
            .find(|(_, issuer)| *issuer.rule.issuer == *claimed)
            .ok_or_else(|| {
                Rejection::invalid(format!("{} is not a trusted issuer", quoted(claimed)))
            })?;
        let Some(keys) = issuer.keys(ring) else {
            issuer.want_keys(ring);
            return Err(Rejection::Unavailable(format!(
                "the keys of issuer {} could not be fetched yet",
                issuer.rule.name
            )));
        };
        let used = unverified.check_signature(keys).map_err(|refusal| {
            if refusal == KeyRefusal::UnknownKey {
                issuer.want_keys(ring);
            }
            Rejection::from(refusal)
        })?;
        let verified = unverified.check_claims(&issuer.rule, used, digest, now)?;
        Ok(Entry {
            user: Arc::new(verified.user),
            until: verified.until,
            basis: Basis::Jwt {
                rules: self.stamp,
                issuer: index,
                keys: keys.stamp(),
            },
            names: verified.names,
            checked: 0,
        })
    }
}

impl Issuer {
    fn keys<'k>(&'k self, ring: &'k KeyRing) -> Option<&'k KeySet> {
        match (&self.rule.jwks, &self.source) {
            (JwksSource::Inline(keys), _) => Some(keys),
            (JwksSource::Url(_) | JwksSource::Discovery, Some(source)) => {
                ring.keys(source).map(|keys| &**keys)
            }
            (JwksSource::Url(_) | JwksSource::Discovery, None) => None,
        }
    }

    fn want_keys(&self, ring: &KeyRing) {
        if let Some(source) = &self.source {
            ring.want(source);
        }
    }
}

fn check_rule(rule: &IssuerRule, known: &[Issuer]) -> Result<(), AuthenticatorsError> {
    let name = &rule.name;
    if name.is_empty() || **name == *API_KEY_ISSUER || **name == *ANONYMOUS || name.contains(':') {
        return Err(AuthenticatorsError::BadName(name.clone()));
    }
    if rule.audiences.is_empty() {
        return Err(AuthenticatorsError::NoAudience(name.clone()));
    }
    for Issuer { rule: other, .. } in known {
        if other.name == *name {
            return Err(AuthenticatorsError::SameName(name.clone()));
        }
        if other.issuer == rule.issuer {
            return Err(AuthenticatorsError::SameIssuer {
                first: other.name.clone(),
                second: name.clone(),
                issuer: rule.issuer.clone(),
            });
        }
    }
    Ok(())
}

/// The one credential of a request.
enum Credential<'h> {
    Bearer(&'h str),
    ApiKey(&'h str),
}

impl<'h> Credential<'h> {
    /// What the headers carry. Two credentials leave open who is asking, so they are none.
    fn of(headers: &'h HeaderMap) -> Result<Option<Self>, Rejection> {
        let mut authorization = headers.get_all(AUTHORIZATION).iter();
        let mut api_key = headers.get_all(API_KEY_HEADER).iter();
        let (bearer, key) = (authorization.next(), api_key.next());
        if authorization.next().is_some() || api_key.next().is_some() {
            return Err(Rejection::invalid("a credential header came twice"));
        }
        let text = |value: &'h http::HeaderValue| {
            value
                .to_str()
                .map_err(|_| Rejection::invalid("the credential is not ASCII"))
        };
        match (bearer, key) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Rejection::invalid("a bearer token and an API key came")),
            (None, Some(value)) => Ok(Some(Credential::ApiKey(text(value)?))),
            // RFC 9110 §11.1 and RFC 6750 §2.1: the scheme in any case, one or more spaces, the token.
            (Some(value), None) => match text(value)?.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    Ok(Some(Credential::Bearer(token.trim_start_matches(' '))))
                }
                Some(_) | None => Err(Rejection::invalid("`Authorization` is not `Bearer TOKEN`")),
            },
        }
    }
}

#[cfg(test)]
mod tests;
