//! JSON Web Tokens (RFC 7519, 8725, 9068).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::claims::{ClaimPath, RoleRule};
use super::jwks::JwksSource;

/// What the bundle says of one issuer of JWTs.
#[derive(Clone)]
pub struct IssuerRule {
    /// The short name: the first part of its users' ids.
    pub name: Arc<str>,
    /// `iss`, compared exactly.
    pub issuer: Arc<str>,
    /// One of these must be in `aud`; never empty.
    pub audiences: Vec<Arc<str>>,
    /// Where its keys come from.
    pub jwks: JwksSource,
    /// Where the user's id stands; usually `sub`.
    pub id: ClaimPath,
    /// Where roles come from; `None`: its users have none.
    pub roles: Option<RoleRule>,
    /// Declared claims by name.
    pub claims: BTreeMap<Arc<str>, ClaimPath>,
}

impl IssuerRule {
    /// The name under which the refresher keeps fetched keys in the [`super::KeyRing`]; `None` for inline keys.
    pub fn key_source(&self) -> Option<Arc<str>> {
        match &self.jwks {
            JwksSource::Inline(_) => None,
            JwksSource::Url(url) => Some(Arc::from(format!("url {url}"))),
            JwksSource::Discovery => Some(Arc::from(format!("discovery {}", self.issuer))),
        }
    }
}
