//! Verifying transaction tokens: `typ` and `alg` are fixed, the `kid` names one gateway's key, and the
//! claims must be whole.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use serde_json::{Map, Value};

use super::super::cache::{Basis, Entry, RevocableNames, TokenCache};
use super::super::claims::is_readable_id;
use super::super::encoding::{sha256, strict_object};
use super::super::jwks::p256_thumbprint;
use super::super::jws::{Algorithm, Compact};
use super::super::jwt::date;
use super::super::revocation::{Revocations, token_digest};
use super::super::{ANONYMOUS, Authn, Claim, Rejection, User};
use super::{LIFETIME_SECONDS, TYP, gateway_issuer};
use crate::now::Now;

/// How far a gateway's clock may be ahead of ours, in seconds. None is granted past `exp`: a token that
/// is sent has at least as long to live.
const AHEAD_SECONDS: u64 = 30;

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
pub struct TxnKeys {
    keys: HashMap<Arc<str>, TxnKey, ahash::RandomState>,
}

struct TxnKey {
    key: ParsedPublicKey,
    gateway: Arc<str>,
    not_after: u64,
}

impl TxnKeys {
    /// Takes the whole set; keys that are malformed or do not fit their `kid` are left out and named.
    pub fn new(entries: impl IntoIterator<Item = TxnKeyEntry>) -> (Self, Vec<String>) {
        let mut keys = HashMap::default();
        let mut refused = Vec::new();
        for entry in entries {
            let fits = p256_thumbprint(&entry.public_key).is_some_and(|kid| *kid == *entry.kid);
            let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &entry.public_key).ok();
            match key.filter(|_| fits) {
                Some(key) => {
                    let key = TxnKey {
                        key,
                        gateway: entry.gateway,
                        not_after: entry.not_after,
                    };
                    keys.insert(entry.kid, key);
                }
                None => refused.push(format!(
                    "the transaction-token key {} of {} is not a P-256 key with that thumbprint",
                    entry.kid, entry.gateway
                )),
            }
        }
        (TxnKeys { keys }, refused)
    }

    /// Whether a key is known, for a gateway that waits until its own is published.
    pub fn contains(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }

    /// Judges the value of a `txn-token` header in the mesh. A missing header is the caller's matter.
    pub fn verify(
        &self,
        token: &str,
        trust_domain: &str,
        revocations: &Revocations,
        cache: &mut TokenCache,
        now: Now,
    ) -> Authn {
        let now = now.unix_seconds();
        let digest = sha256(token.as_bytes());
        let holds = |basis: &Basis| match basis {
            Basis::Txn {
                kid,
                trust_domain: domain,
            } => **domain == *trust_domain && self.live_key(kid, now).is_some(),
            Basis::Jwt { .. } => false,
        };
        if let Some(user) = cache.find(&digest, revocations, now, holds) {
            return Authn::User(user);
        }
        match self.verify_fully(token, digest, trust_domain, now) {
            Ok(entry) if revocations.credential(&entry.user, &entry.names) => {
                Rejection::invalid("the user, the token or its key is revoked").into()
            }
            Ok(mut entry) => {
                entry.checked = revocations.stamp();
                let user = entry.user.clone();
                cache.insert(digest, entry);
                Authn::User(user)
            }
            Err(rejection) => rejection.into(),
        }
    }

    fn live_key(&self, kid: &str, now: u64) -> Option<&TxnKey> {
        self.keys.get(kid).filter(|key| now < key.not_after)
    }

    fn verify_fully(
        &self,
        token: &str,
        digest: [u8; 32],
        trust_domain: &str,
        now: u64,
    ) -> Result<Entry, Rejection> {
        if self.keys.is_empty() {
            return Err(Rejection::Unavailable(String::from(
                "no gateway's transaction-token key has been received yet",
            )));
        }
        let compact = Compact::parse(token)?;
        if compact.typ.as_deref() != Some(TYP) || compact.algorithm != Algorithm::Es256 {
            return Err(Rejection::invalid(
                "not a transaction token signed with ES256",
            ));
        }
        let kid = compact
            .kid
            .as_deref()
            .ok_or(Rejection::invalid("the transaction token has no `kid`"))?;
        let (kid, key) = self.keys.get_key_value(kid).ok_or(Rejection::invalid(
            "no gateway has the transaction token's key",
        ))?;
        if now >= key.not_after {
            return Err(Rejection::invalid(
                "the transaction token's key has expired",
            ));
        }
        if !compact.is_signed_by(&key.key) {
            return Err(Rejection::invalid(
                "the transaction token's signature does not hold",
            ));
        }
        let claims = strict_object(&compact.payload)
            .map_err(|error| Rejection::invalid(format!("the transaction token: {error}")))?;
        let claims = Claims(&claims);
        claims.check_origin(trust_domain, &key.gateway)?;
        let until = claims.check_times(now)?;
        Ok(Entry {
            user: Arc::new(claims.user(digest, kid, until)?),
            until,
            basis: Basis::Txn {
                kid: kid.clone(),
                trust_domain: Arc::from(trust_domain),
            },
            names: RevocableNames {
                keys: [kid.clone()].into_iter().collect(),
                tokens: [
                    Arc::from(claims.text("txn")?),
                    Arc::from(token_digest(compact.signing_input)),
                ]
                .into_iter()
                .collect(),
            },
            checked: 0,
        })
    }
}

/// Claims that a gateway signed. They are read as strictly as if it had not: a gateway of another
/// version may write them.
struct Claims<'c>(&'c Map<String, Value>);

impl<'c> Claims<'c> {
    fn text(&self, name: &'static str) -> Result<&'c str, Rejection> {
        text(self.0, name).ok_or_else(|| incomplete(name))
    }

    fn check_origin(&self, trust_domain: &str, gateway: &str) -> Result<(), Rejection> {
        let expected = [
            ("aud", trust_domain),
            ("iss", &gateway_issuer(trust_domain)),
            ("req_wl", gateway),
        ];
        for (name, expected) in expected {
            if self.text(name)? != expected {
                return Err(Rejection::invalid(format!(
                    "the transaction token's `{name}` is not {expected}"
                )));
            }
        }
        Ok(())
    }

    fn check_times(&self, now: u64) -> Result<u64, Rejection> {
        let issued = date(self.0, "iat")?.ok_or_else(|| incomplete("iat"))?;
        let expires = date(self.0, "exp")?.ok_or_else(|| incomplete("exp"))?;
        if issued > now.saturating_add(AHEAD_SECONDS) {
            return Err(Rejection::invalid(
                "the transaction token's `iat` lies ahead: is a clock wrong?",
            ));
        }
        if expires.saturating_sub(issued) > LIFETIME_SECONDS {
            return Err(Rejection::invalid("the transaction token lives too long"));
        }
        if now >= expires {
            return Err(Rejection::Expired(format!(
                "the transaction token expired {} s ago",
                now - expires
            )));
        }
        Ok(expires)
    }

    fn user(&self, credential: [u8; 32], kid: &Arc<str>, until: u64) -> Result<User, Rejection> {
        let id = self.text("sub")?;
        self.text("scope")?;
        let context = object(self.0, "tctx").ok_or_else(|| incomplete("tctx"))?;
        let issuer = text(context, "issuer").ok_or_else(|| incomplete("tctx.issuer"))?;
        let consistent = match id.split_once(':') {
            Some((prefix, _)) => !issuer.is_empty() && prefix == issuer,
            None => id == ANONYMOUS && issuer.is_empty(),
        };
        if !consistent
            || id
                .split_once(':')
                .is_some_and(|(_, id)| !is_readable_id(id))
        {
            return Err(incomplete("sub"));
        }
        let roles = match context.get("roles") {
            Some(Value::Array(list)) => list
                .iter()
                .map(|role| role.as_str().map(Arc::from))
                .collect::<Option<Arc<[Arc<str>]>>>(),
            Some(_) | None => None,
        };
        Ok(User {
            id: Arc::from(id),
            issuer: Arc::from(issuer),
            roles: roles.ok_or_else(|| incomplete("tctx.roles"))?,
            claims: Arc::new(declared(context)?),
            expires: Some(until),
            credential: if id == ANONYMOUS { [0; 32] } else { credential },
            key: kid.clone(),
            source_ip: self.source_ip()?,
        })
    }

    fn source_ip(&self) -> Result<Option<IpAddr>, Rejection> {
        let requester = object(self.0, "rctx").ok_or_else(|| incomplete("rctx"))?;
        match requester.get("req_ip") {
            None => Ok(None),
            Some(Value::String(address)) => address
                .parse()
                .map(Some)
                .map_err(|_| incomplete("rctx.req_ip")),
            Some(_) => Err(incomplete("rctx.req_ip")),
        }
    }
}

fn declared(context: &Map<String, Value>) -> Result<BTreeMap<Arc<str>, Claim>, Rejection> {
    let Some(claims) = context.get("claims") else {
        return Ok(BTreeMap::new());
    };
    claims
        .as_object()
        .and_then(|claims| {
            claims
                .iter()
                .map(|(name, value)| Some((Arc::from(name.as_str()), Claim::from_json(value)?)))
                .collect()
        })
        .ok_or_else(|| incomplete("tctx.claims"))
}

fn text<'c>(object: &'c Map<String, Value>, name: &str) -> Option<&'c str> {
    object.get(name)?.as_str()
}

fn object<'c>(object: &'c Map<String, Value>, name: &str) -> Option<&'c Map<String, Value>> {
    object.get(name)?.as_object()
}

fn incomplete(name: &str) -> Rejection {
    Rejection::invalid(format!(
        "the transaction token's `{name}` is missing or malformed"
    ))
}
