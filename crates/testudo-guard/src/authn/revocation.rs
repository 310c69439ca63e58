//! What control revoked: one monotonic list, in force at once, untouched by rollout and undo.

use std::collections::{BTreeSet, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use super::User;
use super::cache::RevocableNames;
use super::encoding::{hex, sha256, stamp, stamp_field};

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RevocationKind {
    /// A SPIFFE id, or a certificate's serial number.
    Workload,
    /// A user's id: `ISSUERNAME:ID`.
    User,
    /// A key: an API key's id, a transaction-token key's `kid`, a JWK's `kid` or its RFC 7638 thumbprint
    /// (which is the way to mean one key of one issuer).
    Key,
    /// A token: its `jti` (or `txn`), or what [`Revocation::of_token`] makes of its text.
    Token,
}

/// A kind that does not exist.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a revocation is of a workload, user, key or token, not of a {0:?}")]
pub struct UnknownRevocationKind(String);

impl RevocationKind {
    /// As the mesh protocol spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            RevocationKind::Workload => "workload",
            RevocationKind::User => "user",
            RevocationKind::Key => "key",
            RevocationKind::Token => "token",
        }
    }
}

impl FromStr for RevocationKind {
    type Err = UnknownRevocationKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "workload" => Ok(RevocationKind::Workload),
            "user" => Ok(RevocationKind::User),
            "key" => Ok(RevocationKind::Key),
            "token" => Ok(RevocationKind::Token),
            other => Err(UnknownRevocationKind(other.to_owned())),
        }
    }
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revocation {
    /// What is revoked.
    pub kind: RevocationKind,
    /// Which.
    pub value: Arc<str>,
}

impl Revocation {
    /// Revokes the token with this text. What is kept is a digest of what was signed, not of the whole
    /// text: whoever has a token with an ECDSA signature can make a second valid one for the same claims.
    pub fn of_token(text: &str) -> Revocation {
        let signed = text.rsplit_once('.').map_or(text, |(signed, _)| signed);
        Revocation {
            kind: RevocationKind::Token,
            value: Arc::from(token_digest(signed)),
        }
    }
}

/// Hex SHA-256 of a token's header and claims as they were signed.
pub(super) fn token_digest(signing_input: &str) -> String {
    hex(&sha256(signing_input.as_bytes()))
}

/// Revoked workloads, users, keys and tokens: the whole list, replaced when it grows.
#[derive(Default)]
pub struct Revocations {
    workloads: Names,
    users: Names,
    keys: Names,
    tokens: Names,
    stamp: u128,
}

type Names = HashSet<Arc<str>, ahash::RandomState>;

impl Revocations {
    /// Takes the whole list.
    pub fn new(entries: impl IntoIterator<Item = Revocation>) -> Self {
        let sorted: BTreeSet<Revocation> = entries.into_iter().collect();
        let mut revocations = Revocations::default();
        let mut hasher = blake3::Hasher::new();
        for Revocation { kind, value } in sorted {
            stamp_field(&mut hasher, kind.as_str().as_bytes());
            stamp_field(&mut hasher, value.as_bytes());
            match kind {
                RevocationKind::Workload => revocations.workloads.insert(value),
                RevocationKind::User => revocations.users.insert(value),
                RevocationKind::Key => revocations.keys.insert(value),
                RevocationKind::Token => revocations.tokens.insert(value),
            };
            revocations.stamp = stamp(&hasher);
        }
        revocations
    }

    /// Whether this SPIFFE id or certificate serial number is revoked.
    pub fn workload(&self, spiffe_id_or_serial: &str) -> bool {
        self.workloads.contains(spiffe_id_or_serial)
    }

    /// Whether this user is revoked.
    pub fn user(&self, id: &str) -> bool {
        self.users.contains(id)
    }

    /// Whether this key is revoked.
    pub fn key(&self, id: &str) -> bool {
        self.keys.contains(id)
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.stamp == 0
    }

    /// Tells lists apart: what was held against a list with this stamp need not be again. Zero for the
    /// empty list.
    pub(super) fn stamp(&self) -> u128 {
        self.stamp
    }

    /// Whether anything that this credential rests on is revoked.
    pub(super) fn credential(&self, user: &User, names: &RevocableNames) -> bool {
        !self.is_empty()
            && (self.user(&user.id)
                || names.keys.iter().any(|key| self.key(key))
                || names.tokens.iter().any(|token| self.tokens.contains(token)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(RevocationKind, &str)]) -> Revocations {
        Revocations::new(entries.iter().map(|(kind, value)| Revocation {
            kind: *kind,
            value: Arc::from(*value),
        }))
    }

    #[test]
    fn kinds_do_not_mix() {
        let all = [
            RevocationKind::Workload,
            RevocationKind::User,
            RevocationKind::Key,
            RevocationKind::Token,
        ];
        for kind in all {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            let revocations = list(&[(kind, "x")]);
            assert_eq!(
                [
                    revocations.workload("x"),
                    revocations.user("x"),
                    revocations.key("x")
                ],
                [
                    kind == RevocationKind::Workload,
                    kind == RevocationKind::User,
                    kind == RevocationKind::Key
                ]
            );
        }
        assert!("Users".parse::<RevocationKind>().is_err());
    }

    #[test]
    fn a_stamp_names_the_list() {
        use RevocationKind::{Key, User};
        let one = list(&[(User, "shop:a"), (Key, "k")]);
        assert_eq!(one.stamp(), list(&[(Key, "k"), (User, "shop:a")]).stamp());
        assert_ne!(one.stamp(), list(&[(Key, "k")]).stamp());
        assert_ne!(list(&[(User, "k")]).stamp(), list(&[(Key, "k")]).stamp());
        assert!(list(&[]).is_empty() && !one.is_empty());
        assert_eq!(list(&[]).stamp(), Revocations::default().stamp());
    }

    #[test]
    fn each_name_of_a_credential_revokes_it() {
        let user = User {
            id: Arc::from("shop:alice"),
            ..(*User::anonymous()).clone()
        };
        let names = RevocableNames {
            keys: [Arc::from("2026-11"), Arc::from("thumb")]
                .into_iter()
                .collect(),
            tokens: [Arc::from("jti-1"), Arc::from(token_digest("e30.e30"))]
                .into_iter()
                .collect(),
        };
        let revoked = |kind, value: &str| list(&[(kind, value)]).credential(&user, &names);
        assert!(revoked(RevocationKind::User, "shop:alice"));
        assert!(revoked(RevocationKind::Key, "2026-11"));
        assert!(revoked(RevocationKind::Key, "thumb"));
        assert!(revoked(RevocationKind::Token, "jti-1"));
        let token = Revocation::of_token("e30.e30.AAAA");
        assert!(revoked(token.kind, &token.value));
        let other = Revocation::of_token("e30.e31.AAAA");
        assert!(!revoked(other.kind, &other.value));
        assert!(!revoked(RevocationKind::Key, "jti-1"));
        assert!(!revoked(RevocationKind::Token, "2026-11"));
        assert!(!revoked(RevocationKind::User, "other:alice"));
        assert!(!Revocations::default().credential(&user, &names));
    }
}
