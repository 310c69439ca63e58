//! Who the user is: JWTs, API keys, transaction tokens.
//!
//! What a credential proves is decided here and nowhere else. Keys are data that the caller supplies;
//! nothing is fetched from here.

use std::collections::BTreeMap;
use std::sync::Arc;

use testudo_model::Reason;

/// A verified user, from a JWT or an API key at the edge or from a transaction token in the mesh.
#[derive(Clone, Debug)]
pub struct User {
    /// `ISSUERNAME:ID`, or `anonymous`.
    pub id: Arc<str>,
    /// The issuer's short name; empty for anonymous.
    pub issuer: Arc<str>,
    /// Roles after `map` and `allow`, sorted.
    pub roles: Arc<[Arc<str>]>,
    /// Claims that the bundle declares, by their declared name.
    pub claims: Arc<BTreeMap<Arc<str>, Claim>>,
    /// Seconds since the epoch; `None`: does not expire (API keys).
    pub expires: Option<u64>,
    /// SHA-256 of the credential, for caches and limits; zero for anonymous.
    pub credential: [u8; 32],
}

/// A claim's value as policies read it.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// A string.
    String(Arc<str>),
    /// An integer.
    Long(i64),
    /// A boolean.
    Bool(bool),
    /// A list of strings.
    Strings(Arc<[Arc<str>]>),
}

/// What the credential of a request turned out to be.
#[derive(Clone, Debug)]
pub enum Authn {
    /// No credential came.
    Missing,
    /// It is valid.
    User(Arc<User>),
    /// It is not valid: `authn.invalid`, `authn.expired` or `authn.unavailable`.
    Failed {
        /// Which of the three.
        reason: Reason,
        /// For the decision log; never the credential.
        detail: String,
    },
}

/// How users are recognized at the edge, and what their roles and claims are. Built by `testudo-policy`.
#[derive(Default)]
pub struct Authenticators {}

/// JSON Web Key Sets by issuer name, as last fetched or read, with the time of the last success.
#[derive(Default)]
pub struct KeyRing {}

/// Public keys that verify transaction tokens, by `kid`.
#[derive(Default)]
pub struct TxnKeys {}

/// Revoked workloads, users, keys and tokens.
#[derive(Default)]
pub struct Revocations {}

/// Verified credentials of one core, bounded, until they expire or keys or revocations change.
#[derive(Default)]
pub struct TokenCache {}

/// Transaction tokens that a workload's inbound side verified, by token and by trace id; bounded.
#[derive(Default)]
pub struct TokenBook {}
