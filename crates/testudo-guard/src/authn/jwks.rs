//! JSON Web Key Sets (RFC 7517).

use std::sync::Arc;

/// Where an issuer's keys come from.
#[derive(Clone)]
pub enum JwksSource {
    /// A file of the bundle, parsed when the snapshot was compiled: swapped together with the rules.
    Inline(Arc<KeySet>),
    /// An `https` URL.
    Url(Arc<str>),
    /// OIDC discovery at the issuer.
    Discovery,
}

/// The usable keys of one JWK Set. Made by [`KeySet::parse`].
#[derive(Default)]
pub struct KeySet {}

/// Why a JWK Set cannot be used at all. A single bad key is no such reason; see [`KeySet::skipped`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwksError {
    /// Not JSON, or a member occurs twice.
    #[error("the key set is not JSON: {0}")]
    Json(String),
    /// Not an object with a list `keys`.
    #[error("the key set has no list `keys`")]
    NoKeys,
    /// More keys than any issuer needs.
    #[error("the key set has {0} keys; at most {max} are read", max = KeySet::MAX_KEYS)]
    TooMany(usize),
}

impl KeySet {
    /// Most keys that a set may have.
    pub const MAX_KEYS: usize = 100;

    /// Reads a JWK Set. Keys that are unknown, unusable or not for signatures are left out and named in
    /// [`KeySet::skipped`].
    ///
    /// # Errors
    /// What makes the whole set unusable.
    pub fn parse(_json: &[u8]) -> Result<KeySet, JwksError> {
        Err(JwksError::NoKeys)
    }

    /// Usable keys.
    pub fn len(&self) -> usize {
        0
    }

    /// Whether no key is usable.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// What was left out and why, one line each.
    pub fn skipped(&self) -> &[String] {
        &[]
    }
}

/// JSON Web Key Sets as last fetched, by where they come from (so that an issuer whose source changes
/// never keeps the old source's keys).
#[derive(Clone, Default)]
pub struct KeyRing {}

/// A wish for fresh keys, raised by a token with an unknown `kid` and taken by the refresher. Raising it
/// costs one atomic operation; only the first raise until it is taken calls back.
pub struct Want {}

impl Want {
    /// `wake` is called when the wish is raised; it must be quick and must not block.
    pub fn new(_wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Want {})
    }

    /// Takes the wish back: the next unknown `kid` raises it again.
    pub fn take(&self) -> bool {
        false
    }
}

impl KeyRing {
    /// This ring with the keys of one source replaced. `source`: see `IssuerRule::key_source`.
    #[must_use]
    pub fn with(&self, _source: Arc<str>, _keys: Option<Arc<KeySet>>, _want: Arc<Want>) -> KeyRing {
        KeyRing {}
    }

    /// This ring without a source that no issuer uses any more.
    #[must_use]
    pub fn without(&self, _source: &str) -> KeyRing {
        KeyRing {}
    }
}
