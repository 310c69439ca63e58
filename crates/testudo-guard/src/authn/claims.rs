//! Where in a token's claims ids, roles and declared claims stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A JSON Pointer (RFC 6901) or the bare name of a top-level claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

/// Why a claim path cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is neither a claim's name nor a JSON Pointer")]
pub struct ClaimPathError(String);

impl std::str::FromStr for ClaimPath {
    type Err = ClaimPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(ClaimPath(vec![text.to_owned()]))
    }
}

/// How an issuer's tokens give roles.
#[derive(Clone, Debug)]
pub struct RoleRule {
    /// A list of strings, or a space-separated string.
    pub claim: ClaimPath,
    /// What the identity provider calls them, to what policies call them; others keep their name.
    pub map: BTreeMap<String, Arc<str>>,
    /// The roles (after `map`) that this issuer may give; `None`: all.
    pub allow: Option<BTreeSet<Arc<str>>>,
}
