//! A revision: an immutable, numbered bundle, addressed by the hash of its manifest.

use serde::{Deserialize, Serialize};

/// Who needs a part of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Every proxy.
    All,
    /// Gateways only (edge certificates, users' keys).
    Gateway,
    /// Gateways and the sidecars of one service (its API specification, its own policies).
    Service(String),
    /// Control alone (policy tests).
    Control,
}

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// Path in the bundle, `/`-separated.
    pub path: String,
    /// Hex SHA-256 of the content.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// Who needs it.
    pub audience: Audience,
}

/// The list of a revision's parts. Its JSON bytes are what is hashed and signed; they travel unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// From 1, without gaps.
    pub number: u64,
    /// Digest of the parent revision's manifest; `None` for the first.
    pub parent: Option<String>,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// Who made it, and why, for the audit log.
    pub note: String,
    /// Sorted by path.
    pub parts: Vec<PartRef>,
}
