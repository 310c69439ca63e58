//! API keys: `x-api-key: tk_ID_SECRET`.
//!
//! The secret has 256 random bits, so a fast hash at rest is enough; the hash is keyed with the id, so
//! that a hash cannot be moved from one entry of the file to another. The id finds the entry, the hash
//! is compared in constant time.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::cache::RevocableNames;
use super::claims::is_readable_id;
use super::encoding::{decode_base64url, encode_base64url, hex};
use super::revocation::Revocations;
use super::{API_KEY_ISSUER, Rejection, User};

/// Before each key's text, so that secret scanners can find keys that leaked.
const PREFIX: &str = "tk_";
const SECRET_BYTES: usize = 32;
const MAX_ID_BYTES: usize = 64;
/// Domain of the hash at rest; changing it invalidates every stored key.
const HASH_CONTEXT: &str = "testudo 2026-11 API key at rest";

/// One key of the bundle's `users.api_keys` file.
#[derive(Clone, Debug)]
pub struct ApiKeyEntry {
    /// The public part of the key's text: 1 to 64 letters, digits and hyphens.
    pub id: Arc<str>,
    /// The stored hash, which [`ApiKeys::generate`] gives in hex.
    pub hash: [u8; 32],
    /// Whom the key stands for: the part after `key:` of the user's id.
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
pub struct ApiKeys {
    keys: HashMap<Arc<str>, ApiKey, ahash::RandomState>,
}

struct ApiKey {
    hash: [u8; 32],
    user: Arc<User>,
}

/// A new key; the text is shown once and stored nowhere.
pub struct GeneratedApiKey {
    /// `tk_ID_SECRET`.
    pub text: Zeroizing<String>,
    /// For the bundle's file: 64 hex digits.
    pub hash: String,
}

impl ApiKeys {
    /// Takes the parsed entries of the bundle's file.
    ///
    /// # Errors
    /// The first entry that cannot be used.
    pub fn new(entries: Vec<ApiKeyEntry>) -> Result<Self, ApiKeyError> {
        let mut keys = HashMap::default();
        for entry in entries {
            let id = entry.id.clone();
            let key = ApiKey::new(entry)?;
            if keys.insert(id.clone(), key).is_some() {
                return Err(ApiKeyError::SameId(id));
            }
        }
        Ok(ApiKeys { keys })
    }

    /// Makes a key with 256 random bits.
    ///
    /// # Errors
    /// A bad id, or no random numbers.
    pub fn generate(id: &str) -> Result<GeneratedApiKey, ApiKeyError> {
        check_id(id)?;
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        SystemRandom::new()
            .fill(secret.as_mut())
            .map_err(|_| ApiKeyError::NoRandom)?;
        let encoded = Zeroizing::new(encode_base64url(secret.as_ref()));
        Ok(GeneratedApiKey {
            text: Zeroizing::new(format!("{PREFIX}{id}_{}", *encoded)),
            hash: hex(&hash(id, secret.as_ref())),
        })
    }

    /// Whom the text of a key stands for.
    pub(super) fn verify(
        &self,
        text: &str,
        revocations: &Revocations,
        unix_seconds: u64,
    ) -> Result<Arc<User>, Rejection> {
        let malformed = || Rejection::invalid("the API key is not a `tk_ID_SECRET`");
        let (id, secret) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .ok_or_else(malformed)?;
        let secret = Zeroizing::new(decode_base64url(secret).ok_or_else(malformed)?);
        if secret.len() != SECRET_BYTES || check_id(id).is_err() {
            return Err(malformed());
        }
        // An unknown id costs the same hash and compare as a known one.
        let key = self.keys.get(id);
        let stored = key.map_or([0; 32], |key| key.hash);
        let equal = bool::from(hash(id, &secret).ct_eq(&stored));
        let user = match key {
            Some(key) if equal => &key.user,
            Some(_) | None => return Err(Rejection::invalid("the API key is not known")),
        };
        let names = RevocableNames {
            keys: [Arc::from(id)].into_iter().collect(),
            tokens: smallvec::SmallVec::new(),
        };
        if revocations.credential(user, &names) {
            return Err(Rejection::invalid("the API key or its user is revoked"));
        }
        if user.expires.is_some_and(|expires| unix_seconds >= expires) {
            return Err(Rejection::Expired(format!("API key {id} has expired")));
        }
        Ok(user.clone())
    }
}

impl ApiKey {
    fn new(entry: ApiKeyEntry) -> Result<Self, ApiKeyError> {
        check_id(&entry.id)?;
        if !is_readable_id(&entry.user) {
            return Err(ApiKeyError::BadUser(entry.id));
        }
        let mut roles = entry.roles;
        roles.sort_unstable();
        roles.dedup();
        Ok(ApiKey {
            hash: entry.hash,
            user: Arc::new(User {
                id: Arc::from(format!("{API_KEY_ISSUER}:{}", entry.user)),
                issuer: Arc::from(API_KEY_ISSUER),
                roles: roles.into(),
                claims: Arc::default(),
                expires: entry.expires,
                credential: entry.hash,
                key: entry.id,
                source_ip: None,
            }),
        })
    }
}

fn check_id(id: &str) -> Result<(), ApiKeyError> {
    let fits = (1..=MAX_ID_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits {
        Ok(())
    } else {
        Err(ApiKeyError::BadId(Arc::from(id)))
    }
}

fn hash(id: &str, secret: &[u8]) -> [u8; 32] {
    let key = blake3::derive_key(HASH_CONTEXT, id.as_bytes());
    *blake3::keyed_hash(&key, secret).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::{Revocation, RevocationKind};

    fn entry(id: &str, hash: &str, expires: Option<u64>) -> ApiKeyEntry {
        ApiKeyEntry {
            id: Arc::from(id),
            hash: *blake3::Hash::from_hex(hash).unwrap().as_bytes(),
            user: Arc::from("reporting"),
            roles: vec![
                Arc::from("writer"),
                Arc::from("reader"),
                Arc::from("reader"),
            ],
            expires,
        }
    }

    fn verify(keys: &ApiKeys, text: &str) -> Result<Arc<User>, Rejection> {
        keys.verify(text, &Revocations::default(), 1000)
    }

    #[test]
    fn a_generated_key_is_known_by_its_hash_alone() {
        let made = ApiKeys::generate("ci-1").unwrap();
        assert!(made.text.starts_with("tk_ci-1_") && made.text.len() == 8 + 43);
        assert!(!made.text.contains(&made.hash));
        let keys = ApiKeys::new(vec![entry("ci-1", &made.hash, None)]).unwrap();
        let user = verify(&keys, &made.text).unwrap();
        assert_eq!(&*user.id, "key:reporting");
        assert_eq!(
            user.roles.iter().map(|role| &**role).collect::<Vec<_>>(),
            ["reader", "writer"]
        );
    }

    #[test]
    fn nothing_but_the_key_itself_passes() {
        let made = ApiKeys::generate("a").unwrap();
        let other = ApiKeys::generate("a").unwrap();
        let secret = made.text.strip_prefix("tk_a_").unwrap().to_owned();
        let keys = ApiKeys::new(vec![
            entry("a", &made.hash, None),
            // A hash that was copied to another entry does not carry the secret along.
            entry("b", &made.hash, None),
            entry("z", &"00".repeat(32), None),
        ])
        .unwrap();
        for bad in [
            String::new(),
            other.text.to_string(),
            format!("tk_b_{secret}"),
            format!("tk_c_{secret}"),
            format!("tk_a_{secret}="),
            format!("tk_a_{secret} "),
            format!("TK_a_{secret}"),
            format!("tk__{secret}"),
            secret.clone(),
            format!("tk_a_{}", &secret[..42]),
            format!("tk_a_{}", "A".repeat(43)),
            format!("tk_z_{}", "A".repeat(43)),
            format!("tk_a_{}", made.hash),
        ] {
            let refused = verify(&keys, &bad);
            assert!(matches!(refused, Err(Rejection::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn expiry_and_revocation() {
        let made = ApiKeys::generate("a").unwrap();
        let keys = ApiKeys::new(vec![entry("a", &made.hash, Some(1000))]).unwrap();
        let at = |now| keys.verify(&made.text, &Revocations::default(), now);
        assert!(at(999).is_ok());
        assert!(matches!(at(1000), Err(Rejection::Expired(_))));
        for (kind, value) in [
            (RevocationKind::Key, "a"),
            (RevocationKind::User, "key:reporting"),
        ] {
            let value = Arc::from(value);
            let revoked = Revocations::new([Revocation { kind, value }]);
            assert!(keys.verify(&made.text, &revoked, 1).is_err());
        }
    }

    #[test]
    fn bad_entries_are_named() {
        let hash = "ab".repeat(32);
        let id = Arc::from("a");
        let refused = |entries: Vec<ApiKeyEntry>| ApiKeys::new(entries).err();
        assert_eq!(
            refused(vec![entry("a", &hash, None), entry("a", &hash, None)]),
            Some(ApiKeyError::SameId(id))
        );
        for bad in ["", "a_b", "a b", "ä", &"a".repeat(65)] {
            assert_eq!(
                refused(vec![entry(bad, &hash, None)]),
                Some(ApiKeyError::BadId(Arc::from(bad)))
            );
            assert!(ApiKeys::generate(bad).is_err());
        }
    }
}
