//! JSON Web Tokens (RFC 7519) as the bundle's issuers make them, judged by RFC 8725 and, for access
//! tokens, RFC 9068.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::cache::RevocableNames;
use super::claims::{self, ClaimPath, RoleRule};
use super::encoding::{stamp_field, strict_object};
use super::jwks::{JwksSource, KeySet, UsedKey};
use super::jws::Compact;
use super::revocation::token_digest;
use super::{Rejection, User, quoted};

/// By how much clocks may differ: a token is taken until so long after `exp`, and so long before `nbf`
/// and `iat`. In seconds.
pub const LEEWAY_SECONDS: u64 = 60;

/// Numeric dates beyond this are a mistake (year 9999).
const MAX_DATE: u64 = 253_402_300_799;
const MAX_TOKEN_ID_BYTES: usize = 256;

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

    pub(super) fn stamp(&self, hasher: &mut blake3::Hasher) {
        let mut field = |text: &str| stamp_field(hasher, text.as_bytes());
        field(&self.name);
        field(&self.issuer);
        field(&self.id.text());
        for audience in &self.audiences {
            field(audience);
        }
        field("roles");
        if let Some(roles) = &self.roles {
            field(&roles.claim.text());
            for (from, to) in &roles.map {
                field(from);
                field(to);
            }
            field(if roles.allow.is_some() {
                "allow"
            } else {
                "all"
            });
            for role in roles.allow.iter().flatten() {
                field(role);
            }
        }
        field("claims");
        for (name, path) in &self.claims {
            field(name);
            field(&path.text());
        }
    }
}

/// A token whose header was accepted, with the issuer that it names. Nothing is proven yet.
pub(super) struct Unverified<'a> {
    compact: Compact<'a>,
    claims: Map<String, Value>,
}

/// What a verified token came to.
pub(super) struct Verified {
    pub(super) user: User,
    pub(super) until: u64,
    pub(super) names: RevocableNames,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart. A `typ` other than `JWT` and `at+jwt` is another kind of token (RFC 8725
    /// §3.11, RFC 9068 §4): transaction tokens, DPoP proofs and logout tokens stop here.
    pub(super) fn parse(token: &'a str) -> Result<Self, Rejection> {
        let compact = Compact::parse(token)?;
        if let Some(typ) = &compact.typ {
            let lower = typ.to_ascii_lowercase();
            let kind = lower.strip_prefix("application/").unwrap_or(&lower);
            if !matches!(kind, "jwt" | "at+jwt") {
                return Err(Rejection::invalid(format!(
                    "the token's type is {}, not JWT or at+jwt",
                    quoted(typ)
                )));
            }
        }
        let claims = strict_object(&compact.payload)
            .map_err(|error| Rejection::invalid(format!("the token's claims: {error}")))?;
        Ok(Unverified { compact, claims })
    }

    /// The `iss` that chooses whose keys are tried.
    pub(super) fn issuer(&self) -> Result<&str, Rejection> {
        match self.claims.get("iss") {
            Some(Value::String(issuer)) => Ok(issuer),
            Some(_) => Err(Rejection::invalid("the token's `iss` is not a string")),
            None => Err(Rejection::invalid("the token has no `iss`")),
        }
    }

    /// The signature. What is said of keys here may ask for fresh ones, so it comes apart from the rest.
    pub(super) fn check_signature(
        &self,
        keys: &KeySet,
    ) -> Result<UsedKey, super::jwks::KeyRefusal> {
        keys.verify(&self.compact)
    }

    /// The claims, by the rule of the issuer that signed them.
    pub(super) fn check_claims(
        &self,
        rule: &IssuerRule,
        key: UsedKey,
        digest: [u8; 32],
        now: u64,
    ) -> Result<Verified, Rejection> {
        self.check_audience(rule)?;
        self.check_binding()?;
        let until = self.check_times(now)?;
        let id = claims::id(&rule.id, &self.claims)?;
        let roles = match &rule.roles {
            Some(roles) => roles.read(&self.claims)?,
            None => Arc::from([]),
        };
        let token_id = match self.claims.get("jti") {
            None => None,
            Some(Value::String(id)) if id.len() <= MAX_TOKEN_ID_BYTES => Some(id.as_str()),
            Some(_) => {
                return Err(Rejection::invalid(
                    "the token's `jti` is not a short string",
                ));
            }
        };
        Ok(Verified {
            user: User {
                id: Arc::from(format!("{}:{id}", rule.name)),
                issuer: rule.name.clone(),
                roles,
                claims: Arc::new(claims::declared(&rule.claims, &self.claims)?),
                expires: Some(until),
                credential: digest,
                key: key.kid.as_ref().unwrap_or(&key.thumbprint).clone(),
                source_ip: None,
            },
            until,
            names: RevocableNames {
                keys: key.kid.into_iter().chain([key.thumbprint]).collect(),
                tokens: token_id
                    .into_iter()
                    .chain([token_digest(self.compact.signing_input).as_str()])
                    .map(Arc::from)
                    .collect(),
            },
        })
    }

    /// RFC 7519 §4.1.3: a string or a list of strings, one of which means us.
    fn check_audience(&self, rule: &IssuerRule) -> Result<(), Rejection> {
        let ours = |value: &Value| {
            value
                .as_str()
                .is_some_and(|audience| rule.audiences.iter().any(|ours| **ours == *audience))
        };
        let meant = match self.claims.get("aud") {
            None => return Err(Rejection::invalid("the token has no `aud`")),
            Some(Value::Array(list)) => list.iter().all(Value::is_string) && list.iter().any(ours),
            Some(value) => ours(value),
        };
        if meant {
            Ok(())
        } else {
            Err(Rejection::invalid("the token is for another audience"))
        }
    }

    /// A token that is bound to a key (RFC 7800: DPoP, mTLS) is not a bearer token: whoever shows it must
    /// prove the key, which is not supported here.
    fn check_binding(&self) -> Result<(), Rejection> {
        if self.claims.contains_key("cnf") {
            return Err(Rejection::invalid(
                "the token is bound to a key (`cnf`), which is not supported",
            ));
        }
        Ok(())
    }

    /// `exp` is mandatory; `nbf` and `iat` must not lie ahead. Returns the second at which the token is
    /// no longer taken.
    fn check_times(&self, now: u64) -> Result<u64, Rejection> {
        let expires = date(&self.claims, "exp")?
            .ok_or(Rejection::invalid("the token has no `exp`"))?
            + LEEWAY_SECONDS;
        for name in ["nbf", "iat"] {
            if date(&self.claims, name)?.is_some_and(|from| from > now + LEEWAY_SECONDS) {
                return Err(Rejection::invalid(format!(
                    "the token's `{name}` lies ahead: is a clock wrong?"
                )));
            }
        }
        if now >= expires {
            return Err(Rejection::Expired(format!(
                "the token expired {} s ago",
                now - (expires - LEEWAY_SECONDS)
            )));
        }
        Ok(expires)
    }
}

/// A NumericDate (RFC 7519 §2) in whole seconds; fractions are cut off.
pub(super) fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Rejection> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value.as_u64().or_else(|| {
        let seconds = value.as_f64()?;
        // In range, so that the cast keeps the whole part.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (0.0..=MAX_DATE as f64)
            .contains(&seconds)
            .then_some(seconds as u64)
    });
    match seconds {
        Some(seconds) if seconds <= MAX_DATE => Ok(Some(seconds)),
        Some(_) | None => Err(Rejection::invalid(format!(
            "the token's `{name}` is not a date"
        ))),
    }
}
