//! What was counted in two seconds: by one proxy ([`Window`]) and by the whole mesh ([`MergedWindow`]).
//!
//! Proxies count every event; what goes to control is the size of what is distinct, not of the traffic.
//! Both kinds hold the same [`Counts`], in tables of bounded size: a key that finds no room is counted in
//! [`Dropped`] with all that belongs to it, and what is in the tables stays exact.
//!
//! Who is credited (DESIGN §11): a user that a proxy verified, a calling service that mTLS proved, and for
//! everything else the source address at the edge. A token that names somebody proves nothing until it is
//! verified, so a forged one counts for the address that it came from.
//!
//! At the edge and in the mesh the same request is counted twice, once at each hop: keys say which.

mod aggregator;
mod codec;
mod counts;
mod sketch;
mod stats;

use std::net::IpAddr;
use std::sync::Arc;

use indexmap::Equivalent;
use testudo_model::Hop;

pub use aggregator::Aggregator;
pub use codec::{DecodeError, MAX_PART_BYTES};
pub use counts::{Counts, Dropped, Limits};
pub use sketch::{Distinct, Heavy, HeavyKey, Quantiles, hash, hash_address};
pub use stats::{
    CallStats, CredentialStats, EdgeStats, OperationKey, OperationStats, Outcome, Outcomes,
    PrincipalStats, Samples, StatusClass, Statuses, Table, is_refusal,
};

/// A service, an operation, a user, a role, a proxy: shared text.
pub type Name = Arc<str>;

/// How long a window is. They begin at multiples of this since the epoch.
pub const WINDOW_SECONDS: u64 = 2;

/// The beginning of the window that a moment is in; both in seconds since the epoch.
pub const fn window_start(unix_seconds: u64) -> u64 {
    unix_seconds - unix_seconds % WINDOW_SECONDS
}

/// What one proxy counted. A large one travels in several parts: parts of one window are merged.
#[derive(Clone, Debug)]
pub struct Window {
    /// When it begins, in seconds since the epoch; a multiple of [`WINDOW_SECONDS`].
    pub start: u64,
    /// The proxy's name.
    pub proxy: Name,
    /// When the proxy started, in seconds since the epoch.
    pub proxy_started: u64,
    /// The newest revision that decided.
    pub revision: u64,
    /// What was counted.
    pub counts: Counts,
}

/// What all proxies together counted.
#[derive(Clone, Debug)]
pub struct MergedWindow {
    /// When it begins, in seconds since the epoch.
    pub start: u64,
    /// The proxies that counted something: a restarted one, or one with a new revision, is context.
    pub proxies: Vec<ProxySeen>,
    /// What was counted.
    pub counts: Counts,
}

/// A proxy that counted something in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySeen {
    /// Its name.
    pub proxy: Name,
    /// Its service; `None` for a gateway.
    pub service: Option<Name>,
    /// When it started, in seconds since the epoch.
    pub started: u64,
    /// The newest revision that decided.
    pub revision: u64,
}

impl MergedWindow {
    /// Nothing counted yet.
    pub fn new(start: u64) -> MergedWindow {
        MergedWindow {
            start,
            proxies: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// The end, in seconds since the epoch.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(WINDOW_SECONDS)
    }

    /// Takes in (a part of) what a proxy of this service counted. The caller has made sure that the proxy
    /// may say this.
    pub fn merge(&mut self, window: &Window, service: Option<&Name>) {
        self.counts.merge(&window.counts, &Limits::MESH);
        let known = self
            .proxies
            .iter_mut()
            .find(|seen| seen.proxy == window.proxy);
        match known {
            Some(seen) => {
                seen.started = seen.started.max(window.proxy_started);
                seen.revision = seen.revision.max(window.revision);
            }
            None => self.proxies.push(ProxySeen {
                proxy: Arc::clone(&window.proxy),
                service: service.cloned(),
                started: window.proxy_started,
                revision: window.revision,
            }),
        }
    }
}

/// Who called what, seen where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EdgeKey {
    /// Counted at the gateway or by the called service's sidecar. (Or by the caller's, for what its
    /// outbound side refused.)
    pub hop: Hop,
    /// The calling service as mTLS proved it, or `gateway`; `None`: clients, or a caller that was not proven.
    pub caller: Option<Name>,
    /// The called service; `None` where no route led to one.
    pub service: Option<Name>,
    /// `SERVICE:OPERATION`; `None` where there is no such one.
    pub operation: Option<Name>,
}

#[derive(Hash)]
struct EdgeRef<'a> {
    hop: Hop,
    caller: Option<&'a str>,
    service: Option<&'a str>,
    operation: Option<&'a str>,
}

impl Equivalent<EdgeKey> for EdgeRef<'_> {
    fn equivalent(&self, key: &EdgeKey) -> bool {
        self.hop == key.hop
            && self.caller == key.caller.as_deref()
            && self.service == key.service.as_deref()
            && self.operation == key.operation.as_deref()
    }
}

/// Whom requests are credited to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A verified user, `ISSUER:ID`.
    User(Name),
    /// A calling service, proven by mTLS. (`gateway` is none: it calls for everybody.)
    Service(Name),
    /// A source address at the edge, for what no verified user answers for; IPv6: its /64.
    Address(IpAddr),
}

impl Principal {
    /// `user`, `service` or `address`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Principal::User(_) => "user",
            Principal::Service(_) => "service",
            Principal::Address(_) => "address",
        }
    }
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Principal::User(name) | Principal::Service(name) => f.write_str(name),
            Principal::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Principal::Address(IpAddr::V6(address)) => write!(f, "{address}/64"),
        }
    }
}

/// A principal, seen at one kind of hop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrincipalKey {
    /// Where it was counted. Users are seen at both, services in the mesh, addresses at the edge.
    pub hop: Hop,
    /// Who.
    pub principal: Principal,
}

#[derive(Clone, Copy, Hash)]
enum PrincipalRef<'a> {
    User(&'a str),
    Service(&'a str),
    Address(IpAddr),
}

#[derive(Clone, Copy, Hash)]
struct PrincipalKeyRef<'a> {
    hop: Hop,
    principal: PrincipalRef<'a>,
}

impl Equivalent<PrincipalKey> for PrincipalKeyRef<'_> {
    fn equivalent(&self, key: &PrincipalKey) -> bool {
        self.hop == key.hop
            && match (self.principal, &key.principal) {
                (PrincipalRef::User(ours), Principal::User(theirs))
                | (PrincipalRef::Service(ours), Principal::Service(theirs)) => *ours == **theirs,
                (PrincipalRef::Address(ours), Principal::Address(theirs)) => ours == *theirs,
                _ => false,
            }
    }
}

/// In whose name a call was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// A verified user with these roles, sorted.
    Roles(Vec<Name>),
    /// The anonymous user.
    Anonymous,
    /// No user travelled along.
    Nobody,
}

#[derive(Clone, Copy, Hash)]
enum WhoRef<'a> {
    Roles(&'a [&'a str]),
    Anonymous,
    Nobody,
}

/// A call, as policies judge it: for `policy learn` and the access matrix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallKey {
    /// Seen at the edge or in the mesh.
    pub hop: Hop,
    /// The calling service, or `gateway`; `None` at the edge.
    pub caller: Option<Name>,
    /// The called service.
    pub service: Name,
    /// `SERVICE:OPERATION`.
    pub operation: Name,
    /// For whom.
    pub who: Who,
}

#[derive(Hash)]
struct CallRef<'a> {
    hop: Hop,
    caller: Option<&'a str>,
    service: &'a str,
    operation: &'a str,
    who: WhoRef<'a>,
}

impl Equivalent<CallKey> for CallRef<'_> {
    fn equivalent(&self, key: &CallKey) -> bool {
        self.hop == key.hop
            && self.caller == key.caller.as_deref()
            && *self.service == *key.service
            && *self.operation == *key.operation
            && match (self.who, &key.who) {
                (WhoRef::Roles(ours), Who::Roles(theirs)) => {
                    ours.iter().copied().eq(theirs.iter().map(|role| &**role))
                }
                (WhoRef::Anonymous, Who::Anonymous) | (WhoRef::Nobody, Who::Nobody) => true,
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests;
