//! API keys.

use std::sync::Arc;

/// One key of the bundle's `users.api_keys` file.
#[derive(Clone, Debug)]
pub struct ApiKeyEntry {
    /// The public part of the key's text; `[A-Za-z0-9-]`, at most 64.
    pub id: Arc<str>,
    /// The stored hash: 64 hex digits, as [`ApiKeys::generate`] gives it.
    pub hash: [u8; 32],
    /// Whom the key stands for: the part after `key:`.
    pub user: Arc<str>,
    /// Its roles.
    pub roles: Vec<Arc<str>>,
    /// Seconds since the epoch; `None`: never.
    pub expires: Option<u64>,
}

/// Why a key of the bundle is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApiKeyError {
    /// The id is empty, too long, or has other characters.
    #[error("an API key's id is 1 to 64 letters, digits and hyphens, not {0:?}")]
    BadId(Arc<str>),
    /// Two keys have one id.
    #[error("two API keys have the id {0}")]
    SameId(Arc<str>),
    /// The user's name is empty, too long, or has control characters.
    #[error("API key {0} has no usable user")]
    BadUser(Arc<str>),
    /// The system's random number generator failed.
    #[error("no random numbers can be had")]
    NoRandom,
}

/// The API keys of a bundle.
#[derive(Default)]
pub struct ApiKeys {}

/// A new key; the text is shown once and stored nowhere.
pub struct GeneratedApiKey {
    /// `tk_ID_SECRET`.
    pub text: zeroize::Zeroizing<String>,
    /// For the bundle's file: 64 hex digits.
    pub hash: String,
}

impl ApiKeys {
    /// Takes the parsed entries of the bundle's file.
    ///
    /// # Errors
    /// The first entry that cannot be used.
    pub fn new(_entries: Vec<ApiKeyEntry>) -> Result<Self, ApiKeyError> {
        Ok(ApiKeys {})
    }

    /// Makes a key with 256 random bits.
    ///
    /// # Errors
    /// A bad id, or no random numbers.
    pub fn generate(_id: &str) -> Result<GeneratedApiKey, ApiKeyError> {
        Err(ApiKeyError::NoRandom)
    }
}
