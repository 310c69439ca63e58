//! Revoked workloads, users, keys and tokens.

use std::sync::Arc;

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevocationKind {
    /// A SPIFFE id, or a certificate's serial number in hex.
    Workload,
    /// A user's id: `ISSUERNAME:ID`.
    User,
    /// A key: an API key's id, a transaction-token key's `kid`, a JWK's `kid` or RFC 7638 thumbprint.
    Key,
    /// A token: its `jti` (or `txn`), or the hex SHA-256 of its text.
    Token,
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What is revoked.
    pub kind: RevocationKind,
    /// Which.
    pub value: Arc<str>,
}

/// Revoked workloads, users, keys and tokens: the whole list, replaced when it grows.
#[derive(Default)]
pub struct Revocations {}

impl Revocations {
    /// Takes the whole list.
    pub fn new(_entries: impl IntoIterator<Item = Revocation>) -> Self {
        Revocations {}
    }

    /// Whether this SPIFFE id or certificate serial number is revoked.
    pub fn workload(&self, _spiffe_id_or_serial: &str) -> bool {
        false
    }

    /// Whether this user is revoked.
    pub fn user(&self, _id: &str) -> bool {
        false
    }
}
