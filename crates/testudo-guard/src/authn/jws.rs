//! Compact JWS (RFC 7515): taking a token apart, and which signatures count.
//!
//! Written on `aws-lc-rs` rather than on `jsonwebtoken`, because the rules that matter here sit in the
//! parsing: `crit` refused, duplicate members refused, one spelling of base64url, `typ` decided before
//! any key is looked up, and a key bound to its algorithms when it is read, not when it is used.

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, VerificationAlgorithm};
use serde_json::{Map, Value};

use super::Rejection;
use super::encoding::{decode_base64url, strict_object};

/// Longest token that is looked at.
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Longest `kid` that is looked at.
const MAX_KID_BYTES: usize = 256;

/// The signature algorithms that count (RFC 7518 §3.1, RFC 8037). `none` and HMAC are not among them, so
/// that no public key can ever be used as a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// A key's type, with its curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyType {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// The `alg` of headers and keys, compared exactly.
    pub(super) fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// The algorithms that a key of this type may be used with.
    pub(super) fn of(key: KeyType) -> impl Iterator<Item = Algorithm> {
        Algorithm::ALL
            .into_iter()
            .filter(move |algorithm| algorithm.key_type() == key)
    }

    pub(super) const fn key_type(self) -> KeyType {
        match self {
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => KeyType::Rsa,
            Algorithm::Es256 => KeyType::P256,
            Algorithm::Es384 => KeyType::P384,
            Algorithm::EdDsa => KeyType::Ed25519,
        }
    }

    /// RSA with its padding and hash; the library refuses moduli below 2048 bits again on each use.
    pub(super) const fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
            Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => None,
        }
    }

    /// Curves; signatures have their fixed length (RFC 7518 §3.4).
    pub(super) fn curve(self) -> Option<&'static dyn VerificationAlgorithm> {
        match self {
            Algorithm::Es256 => Some(&signature::ECDSA_P256_SHA256_FIXED),
            Algorithm::Es384 => Some(&signature::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDsa => Some(&signature::ED25519),
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => None,
        }
    }
}

/// A token taken apart; nothing of it is proven yet.
pub(super) struct Compact<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
    pub(super) payload: Vec<u8>,
    /// Header and claims as they were signed.
    pub(super) signing_input: &'a str,
    signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Takes a token apart.
    pub(super) fn parse(token: &'a str) -> Result<Self, Rejection> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Rejection::invalid("the token is longer than 8 KiB"));
        }
        let (signing_input, signature) = token
            .rsplit_once('.')
            .ok_or(Rejection::invalid("the token is not a compact JWS"))?;
        let (header, payload) = signing_input
            .split_once('.')
            .ok_or(Rejection::invalid("the token is not a compact JWS"))?;
        if header.is_empty() || payload.contains('.') || signature.is_empty() {
            return Err(Rejection::invalid(
                "the token is not a compact JWS with a signature",
            ));
        }
        let decode = |part| {
            decode_base64url(part).ok_or(Rejection::invalid("the token is not strict base64url"))
        };
        let header = strict_object(&decode(header)?)
            .map_err(|error| Rejection::invalid(format!("the token's header: {error}")))?;
        check_extensions(&header)?;
        Ok(Compact {
            algorithm: algorithm(&header)?,
            kid: text(&header, "kid")?.map(str::to_owned),
            typ: text(&header, "typ")?.map(str::to_owned),
            payload: decode(payload)?,
            signing_input,
            signature: decode(signature)?,
        })
    }

    /// Whether this key, which must be bound to the token's own algorithm, made the signature.
    pub(super) fn is_signed_by(&self, key: &ParsedPublicKey) -> bool {
        key.verify_sig(self.signing_input.as_bytes(), &self.signature)
            .is_ok()
    }
}

/// Extensions change what a token means; none is understood, so none may be there (RFC 7515 §4.1.11,
/// RFC 7797 §6, RFC 7516). `jku`, `jwk`, `x5u` and `x5c` need no refusal: they never choose a key.
fn check_extensions(header: &Map<String, Value>) -> Result<(), Rejection> {
    for name in ["crit", "b64", "enc", "zip"] {
        if header.contains_key(name) {
            return Err(Rejection::invalid(format!(
                "the token's header has `{name}`, which is not supported"
            )));
        }
    }
    Ok(())
}

fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, Rejection> {
    let name = text(header, "alg")?.ok_or(Rejection::invalid("the token has no `alg`"))?;
    Algorithm::from_name(name).ok_or_else(|| {
        Rejection::invalid(format!(
            "the token's algorithm {} is not one of those that count",
            super::quoted(name)
        ))
    })
}

fn text<'h>(header: &'h Map<String, Value>, name: &str) -> Result<Option<&'h str>, Rejection> {
    match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_KID_BYTES => Ok(Some(text)),
        Some(_) => Err(Rejection::invalid(format!(
            "the token's `{name}` is not a short string"
        ))),
    }
}
