//! JSON Web Key Sets (RFC 7517): which keys of an issuer count, and what for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Rejection;
use super::encoding::{
    decode_base64url, encode_base64url, sha256, stamp, stamp_field, strict_object,
};
use super::jws::{Algorithm, Compact, KeyType};

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
pub struct KeySet {
    keys: Vec<Jwk>,
    skipped: Vec<String>,
    stamp: u128,
}

/// A key that may verify signatures, bound to its algorithms.
struct Jwk {
    kid: Option<Arc<str>>,
    /// RFC 7638.
    thumbprint: Arc<str>,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

/// Names the key that verified a token, for revocations.
pub(super) struct UsedKey {
    pub(super) kid: Option<Arc<str>>,
    pub(super) thumbprint: Arc<str>,
}

/// Why a JWK Set cannot be used at all. A single bad key is no such reason; see [`KeySet::skipped`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwksError {
    /// Not JSON, or not an object with a list `keys`.
    #[error("not a JSON Web Key Set: {0}")]
    Json(String),
    /// More bytes than any set needs.
    #[error("the key set has {0} bytes; at most {max} are read", max = KeySet::MAX_BYTES)]
    TooLarge(usize),
    /// More keys than any issuer needs.
    #[error("the key set has {0} keys; at most {max} are read", max = KeySet::MAX_KEYS)]
    TooMany(usize),
}

impl KeySet {
    /// Most bytes that a set may have.
    pub const MAX_BYTES: usize = 256 * 1024;
    /// Most keys that a set may have.
    pub const MAX_KEYS: usize = 100;
    /// Most keys that are tried for one token.
    const MAX_TRIES: usize = 4;

    /// Reads a JWK Set. Keys that are unknown, unusable or not for signatures are left out and named in
    /// [`KeySet::skipped`], so that one bad key does not spoil the set.
    ///
    /// # Errors
    /// What makes the whole set unusable.
    pub fn parse(json: &[u8]) -> Result<KeySet, JwksError> {
        #[derive(Deserialize)]
        struct RawSet<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        if json.len() > KeySet::MAX_BYTES {
            return Err(JwksError::TooLarge(json.len()));
        }
        let raw: RawSet<'_> =
            serde_json::from_slice(json).map_err(|error| JwksError::Json(error.to_string()))?;
        if raw.keys.len() > KeySet::MAX_KEYS {
            return Err(JwksError::TooMany(raw.keys.len()));
        }
        let mut set = KeySet::default();
        let mut hasher = blake3::Hasher::new();
        for (index, raw) in raw.keys.iter().enumerate() {
            match Jwk::parse(raw.get()) {
                Ok(key) => {
                    key.stamp(&mut hasher);
                    set.keys.push(key);
                }
                Err(why) => set.skipped.push(format!("key {}: {why}", index + 1)),
            }
        }
        set.stamp = stamp(&hasher);
        Ok(set)
    }

    /// Usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is usable.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What was left out and why, one line each.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Whether the usable keys, their names and their uses are the same.
    pub fn is_same(&self, other: &KeySet) -> bool {
        self.stamp == other.stamp
    }

    /// Tells sets with different usable keys apart.
    pub(super) fn stamp(&self) -> u128 {
        self.stamp
    }

    /// The key that made the token's signature. A `kid` chooses among the keys that have it; keys without
    /// one are tried where no key has the token's, or where the token has none.
    pub(super) fn verify(&self, token: &Compact<'_>) -> Result<UsedKey, KeyRefusal> {
        let named = |key: &&Jwk| token.kid.is_some() && key.kid.as_deref() == token.kid.as_deref();
        let mut candidates: Vec<&Jwk> = self.keys.iter().filter(named).collect();
        let known = !candidates.is_empty();
        if !known {
            candidates = match token.kid {
                Some(_) => self.keys.iter().filter(|key| key.kid.is_none()).collect(),
                None => self.keys.iter().collect(),
            };
        }
        let fitting = candidates
            .into_iter()
            .filter_map(|key| Some((key, key.verifier(token.algorithm)?)))
            .take(KeySet::MAX_TRIES);
        let mut tried = false;
        for (key, verifier) in fitting {
            tried = true;
            if token.is_signed_by(verifier) {
                return Ok(UsedKey {
                    kid: key.kid.clone(),
                    thumbprint: key.thumbprint.clone(),
                });
            }
        }
        Err(match (known, tried) {
            (true, false) => KeyRefusal::WrongAlgorithm,
            (true, true) => KeyRefusal::WrongSignature,
            (false, _) => KeyRefusal::UnknownKey,
        })
    }
}

/// Why no key of a set verified a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyRefusal {
    /// No key has the token's `kid`, or the token has none and nothing fits: the set may be old.
    UnknownKey,
    /// The key is not for this algorithm.
    WrongAlgorithm,
    /// The signature does not hold.
    WrongSignature,
}

impl From<KeyRefusal> for Rejection {
    fn from(refusal: KeyRefusal) -> Self {
        Rejection::invalid(match refusal {
            KeyRefusal::UnknownKey => "no key of the issuer fits the token",
            KeyRefusal::WrongAlgorithm => "the token's key is not for the token's algorithm",
            KeyRefusal::WrongSignature => "the token's signature does not hold",
        })
    }
}

impl Jwk {
    fn parse(json: &str) -> Result<Jwk, String> {
        let jwk = strict_object(json.as_bytes())?;
        let (key_type, thumbprint) = key_type(&jwk)?;
        check_purpose(&jwk)?;
        let algorithms: Vec<Algorithm> = match text(&jwk, "alg")? {
            None => Algorithm::of(key_type).collect(),
            Some(name) => match Algorithm::from_name(name) {
                Some(algorithm) if algorithm.key_type() == key_type => vec![algorithm],
                Some(_) => return Err(format!("`alg` {name} does not fit the key's type")),
                None => return Err(String::from("`alg` is not one of those that count")),
            },
        };
        let verifiers = algorithms
            .into_iter()
            .map(|algorithm| Ok((algorithm, verifier(&jwk, algorithm)?)))
            .collect::<Result<_, String>>()?;
        Ok(Jwk {
            kid: text(&jwk, "kid")?.map(Arc::from),
            thumbprint,
            verifiers,
        })
    }

    fn verifier(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifiers
            .iter()
            .find_map(|(bound, key)| (*bound == algorithm).then_some(key))
    }

    fn stamp(&self, hasher: &mut blake3::Hasher) {
        stamp_field(hasher, self.kid.as_deref().unwrap_or_default().as_bytes());
        hasher.update(&[u8::from(self.kid.is_some())]);
        stamp_field(hasher, self.thumbprint.as_bytes());
        for (algorithm, _) in &self.verifiers {
            stamp_field(hasher, algorithm.name().as_bytes());
        }
        hasher.update(&[0xff]);
    }
}

/// The key's type, and its thumbprint (RFC 7638 §3.2: the required members in lexical order).
fn key_type(jwk: &Map<String, Value>) -> Result<(KeyType, Arc<str>), String> {
    let kty = text(jwk, "kty")?.ok_or("no `kty`")?;
    let curve = text(jwk, "crv")?.unwrap_or_default();
    let key_type = match (kty, curve) {
        ("RSA", _) => KeyType::Rsa,
        ("EC", "P-256") => KeyType::P256,
        ("EC", "P-384") => KeyType::P384,
        ("OKP", "Ed25519") => KeyType::Ed25519,
        ("EC" | "OKP", _) => return Err(String::from("an unknown curve")),
        _ => return Err(String::from("an unknown key type")),
    };
    let value = |name| number(jwk, name).map(encode_base64url);
    let canonical = match key_type {
        KeyType::Rsa => format!(
            r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
            value("e")?,
            value("n")?
        ),
        KeyType::P256 | KeyType::P384 => format!(
            r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#,
            encode_base64url(bytes(jwk, "x")?),
            encode_base64url(bytes(jwk, "y")?)
        ),
        KeyType::Ed25519 => format!(
            r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
            encode_base64url(bytes(jwk, "x")?)
        ),
    };
    Ok((
        key_type,
        Arc::from(encode_base64url(sha256(canonical.as_bytes()))),
    ))
}

/// RFC 7638 for the P-256 point of a transaction-token key (65 bytes, uncompressed).
pub(super) fn p256_thumbprint(point: &[u8]) -> Option<String> {
    let (form, coordinates) = point.split_first()?;
    if *form != 4 || coordinates.len() != 64 {
        return None;
    }
    let (x, y) = coordinates.split_at_checked(32)?;
    let canonical = format!(
        r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
        encode_base64url(x),
        encode_base64url(y)
    );
    Some(encode_base64url(sha256(canonical.as_bytes())))
}

/// A key is for verifying signatures unless it says otherwise (RFC 7517 §4.2, §4.3), and it is public.
fn check_purpose(jwk: &Map<String, Value>) -> Result<(), String> {
    if jwk.contains_key("d") {
        return Err(String::from("a private key, which must not be published"));
    }
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(String::from("`use` is not sig"));
    }
    match jwk.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(list)) if list.iter().any(|item| item == "verify") => Ok(()),
        Some(_) => Err(String::from("`key_ops` has no verify")),
    }
}

fn verifier(jwk: &Map<String, Value>, algorithm: Algorithm) -> Result<ParsedPublicKey, String> {
    let refused = |_| format!("not a valid key for {}", algorithm.name());
    if let Some(parameters) = algorithm.rsa() {
        let (n, e) = (number(jwk, "n")?, number(jwk, "e")?);
        check_rsa(&n, &e)?;
        return RsaPublicKeyComponents { n, e }
            .to_parsed_public_key(parameters)
            .map_err(refused);
    }
    let Some(curve) = algorithm.curve() else {
        return Err(String::from("an unknown algorithm"));
    };
    let (x, length) = match algorithm.key_type() {
        KeyType::Ed25519 => {
            let x = bytes(jwk, "x")?;
            if x.len() != 32 {
                return Err(String::from("`x` is not 32 bytes"));
            }
            return ParsedPublicKey::new(curve, x).map_err(refused);
        }
        KeyType::P384 => (bytes(jwk, "x")?, 48),
        KeyType::P256 | KeyType::Rsa => (bytes(jwk, "x")?, 32),
    };
    let y = bytes(jwk, "y")?;
    if x.len() != length || y.len() != length {
        return Err(format!("`x` and `y` are not {length} bytes each"));
    }
    // SEC 1 §2.3.3, uncompressed; the library refuses points that are not on the curve.
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    ParsedPublicKey::new(curve, point).map_err(refused)
}

/// 2048 to 8192 bits (RFC 7518 §3.3), and an odd exponent from 3 to 33 bits.
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), String> {
    let bits = n
        .first()
        .map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(format!("an RSA key of {bits} bits; 2048 to 8192 count"));
    }
    let odd = e.last().is_some_and(|last| last % 2 == 1);
    if !odd || e == [1] || e.len() > 5 {
        return Err(String::from("an RSA key with an unusable exponent"));
    }
    Ok(())
}

/// An unsigned number, without the leading zeros that some issuers write against RFC 7518 §2.
fn number(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let mut bytes = bytes(jwk, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    Ok(bytes)
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text(jwk, name)?.ok_or_else(|| format!("no `{name}`"))?;
    decode_base64url(text).ok_or_else(|| format!("`{name}` is not base64url"))
}

fn text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Result<Option<&'j str>, String> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` is not a string")),
    }
}

/// JSON Web Key Sets as last fetched, by where they come from (so that an issuer whose source changes
/// never keeps the old source's keys).
#[derive(Clone, Default)]
pub struct KeyRing {
    sources: BTreeMap<Arc<str>, Source>,
}

#[derive(Clone)]
struct Source {
    /// `None`: never fetched.
    keys: Option<Arc<KeySet>>,
    want: Arc<Want>,
}

impl KeyRing {
    /// This ring with the keys of one source replaced. `source`: see `IssuerRule::key_source`; `keys`:
    /// `None` where none could be had yet.
    #[must_use]
    pub fn with(&self, source: Arc<str>, keys: Option<Arc<KeySet>>, want: Arc<Want>) -> KeyRing {
        let mut sources = self.sources.clone();
        sources.insert(source, Source { keys, want });
        KeyRing { sources }
    }

    /// This ring without a source that no issuer uses any more.
    #[must_use]
    pub fn without(&self, source: &str) -> KeyRing {
        let mut sources = self.sources.clone();
        sources.remove(source);
        KeyRing { sources }
    }

    /// The keys of a source, if they could be had.
    pub fn keys(&self, source: &str) -> Option<&Arc<KeySet>> {
        self.sources.get(source)?.keys.as_ref()
    }

    /// Raises the wish for fresh keys of a source.
    pub fn want(&self, source: &str) {
        if let Some(source) = self.sources.get(source) {
            source.want.raise();
        }
    }
}

/// A wish for fresh keys, raised by a token with an unknown `kid` and taken by the refresher. Raising it
/// costs one atomic operation; only the first raise until it is taken calls back.
pub struct Want {
    raised: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Want {
    /// `wake` is called when the wish is raised; it must be quick and must not block.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Want {
            raised: AtomicBool::new(false),
            wake: Box::new(wake),
        })
    }

    /// Takes the wish back, and says whether there was one: the next unknown `kid` raises it again.
    pub fn take(&self) -> bool {
        self.raised.swap(false, Ordering::AcqRel)
    }

    fn raise(&self) {
        if !self.raised.load(Ordering::Relaxed) && !self.raised.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

#[cfg(test)]
impl KeySet {
    pub(super) fn keys_revoked_by(&self, revocations: &super::Revocations) -> bool {
        self.keys.iter().any(|key| revocations.key(&key.thumbprint))
    }
}
