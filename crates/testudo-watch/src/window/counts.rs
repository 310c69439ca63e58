//! The tables of a window: [`Counts::add`] takes an event, [`Counts::merge`] another window's tables.

use std::net::{IpAddr, Ipv6Addr};

use indexmap::Equivalent;
use smallvec::SmallVec;
use std::hash::Hash;
use testudo_model::{Event, Hop, Reason};

use super::sketch::{Distinct, Heavy, hash, hash_address};
use super::stats::{
    CallStats, CredentialStats, EdgeStats, Names, OperationKey, OperationRef, Outcome,
    PrincipalStats, StatusClass, Table,
};
use super::{
    CallKey, CallRef, EdgeKey, EdgeRef, Name, Principal, PrincipalKey, PrincipalKeyRef,
    PrincipalRef, Who, WhoRef,
};

/// The user of requests without a credential.
const ANONYMOUS: &str = "anonymous";
/// The caller that calls for everybody, and is never credited.
const GATEWAY: &str = "gateway";
/// Names that are longer find no room.
const MAX_NAME: usize = 512;

/// How many keys each table may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Edges.
    pub edges: usize,
    /// Principals; addresses, of which anybody can have many, take half of it at most.
    pub principals: usize,
    /// Operations of one principal.
    pub operations: usize,
    /// Credentials.
    pub credentials: usize,
    /// Calls.
    pub calls: usize,
}

impl Limits {
    /// For one proxy.
    pub const PROXY: Limits = Limits {
        edges: 2048,
        principals: 2048,
        operations: 64,
        credentials: 2048,
        calls: 2048,
    };
    /// For the mesh.
    pub const MESH: Limits = Limits {
        edges: 16_384,
        principals: 16_384,
        operations: 64,
        credentials: 16_384,
        calls: 16_384,
    };
}

/// What found no room: requests whose key a full table did not take, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Requests missing from edges.
    pub edges: u64,
    /// Requests missing from principals.
    pub principals: u64,
    /// Requests missing from the operations of a principal that is there.
    pub operations: u64,
    /// Requests missing from credentials.
    pub credentials: u64,
    /// Requests missing from calls.
    pub calls: u64,
}

impl Dropped {
    /// Takes in what another one counted.
    pub fn merge(&mut self, other: &Dropped) {
        self.edges = self.edges.saturating_add(other.edges);
        self.principals = self.principals.saturating_add(other.principals);
        self.operations = self.operations.saturating_add(other.operations);
        self.credentials = self.credentials.saturating_add(other.credentials);
        self.calls = self.calls.saturating_add(other.calls);
    }

    /// All of them.
    pub const fn total(&self) -> u64 {
        self.edges
            .saturating_add(self.principals)
            .saturating_add(self.operations)
            .saturating_add(self.credentials)
            .saturating_add(self.calls)
    }
}

/// The tables.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Events that were counted here, whether or not their keys found room.
    pub events: u64,
    /// Who called what.
    pub edges: Table<EdgeKey, EdgeStats>,
    /// Who did what.
    pub principals: Table<PrincipalKey, PrincipalStats>,
    /// Where verified credentials were used, by their hash (16 hex digits as a number).
    pub credentials: Table<u64, CredentialStats>,
    /// What was called for whom.
    pub calls: Table<CallKey, CallStats>,
    /// The most frequent paths, by service. At the edge only, as addresses and users.
    pub paths: Heavy,
    /// The most frequent source addresses.
    pub addresses: Heavy,
    /// The most frequent verified users.
    pub users: Heavy,
    /// What found no room.
    pub dropped: Dropped,
    /// How many of the principals are addresses.
    pub(super) address_keys: usize,
}

/// What several tables need of an event, worked out once.
struct Facts<'a> {
    event: &'a Event,
    outcome: Outcome,
    /// Of the application; `None` where Testudo denied.
    status: Option<StatusClass>,
    /// The verified user.
    user: Option<&'a str>,
    /// The request came with the anonymous user.
    is_anonymous: bool,
    is_edge: bool,
    path: u32,
    address: Option<u32>,
    agent: Option<u32>,
    credential: Option<u64>,
    /// The credential that came never was right, as far as can be told.
    is_wrong: bool,
    unknown: bool,
    at_us: u64,
}

impl<'a> Facts<'a> {
    /// `own`: the sidecar's service. What its outbound side refused counts for the calling service alone:
    /// users are verified where requests come in.
    fn of(event: &'a Event, own: Option<&str>) -> Facts<'a> {
        let is_outbound =
            own.is_some() && event.caller.as_deref() == own && event.service.as_deref() != own;
        let user = event.user.as_deref().filter(|_| !is_outbound);
        let outcome = Outcome::of(event);
        let status = match outcome {
            Outcome::Denied(_) => None,
            Outcome::Permitted | Outcome::Reported(_) => Some(match event.inside {
                Some(reason) => StatusClass::inside(reason),
                None => StatusClass::of(event.status),
            }),
        };
        let unknown = status == Some(StatusClass::NotFound)
            || matches!(
                event.reason,
                Some(Reason::RouteNone | Reason::RouteUndocumented)
            );
        let credential = event.credential.as_deref();
        Facts {
            event,
            outcome,
            status,
            user: user.filter(|user| *user != ANONYMOUS),
            is_anonymous: user == Some(ANONYMOUS),
            is_edge: event.hop == Hop::Edge,
            path: hash(event.path.as_bytes()),
            address: event.source_ip.map(hash_address),
            agent: event.agent.as_deref().map(|agent| hash(agent.as_bytes())),
            credential: credential.and_then(|hex| u64::from_str_radix(hex, 16).ok()),
            // An expired one was right once: whoever comes back from holidays is no attacker.
            is_wrong: !matches!(
                event.reason,
                Some(Reason::AuthnExpired | Reason::AuthnUnavailable)
            ),
            unknown,
            at_us: u64::try_from(event.time.as_microsecond()).unwrap_or(0),
        }
    }

    fn user_hash(&self) -> Option<u32> {
        self.user.map(|user| hash(user.as_bytes()))
    }
}

/// Counts events into the [`Counts`] of the current window. Outlives windows: it remembers names.
#[derive(Default)]
pub(crate) struct Counter {
    own: Option<Name>,
    names: Names,
}

impl Counter {
    /// For the sidecar of a service, or (`None`) a gateway.
    pub(crate) fn new(own: Option<Name>) -> Counter {
        Counter {
            own,
            names: Names::default(),
        }
    }

    /// Counts one event.
    pub(crate) fn count(&mut self, counts: &mut Counts, event: &Event, limits: &Limits) {
        let facts = Facts::of(event, self.own.as_deref());
        counts.events += 1;
        self.count_edge(counts, &facts, limits);
        self.count_principals(counts, &facts, limits);
        self.count_call(counts, &facts, limits);
        if facts.is_edge {
            self.count_credential(counts, &facts, limits);
            self.count_heavy(counts, &facts);
        }
    }

    fn optional(&mut self, text: Option<&str>) -> Option<Name> {
        text.map(|text| self.names.of(text))
    }

    fn count_edge(&mut self, counts: &mut Counts, facts: &Facts<'_>, limits: &Limits) {
        let event = facts.event;
        let key = EdgeRef {
            hop: event.hop,
            caller: event.caller.as_deref(),
            service: event.service.as_deref(),
            operation: event.operation.as_deref(),
        };
        let stats = entry(&mut counts.edges, &key, limits.edges, || EdgeKey {
            hop: event.hop,
            caller: self.optional(key.caller),
            service: self.optional(key.service),
            operation: self.optional(key.operation),
        });
        let Some(stats) = stats else {
            counts.dropped.edges += 1;
            return;
        };
        stats.outcomes.add(facts.outcome, 1);
        if let Some(status) = facts.status {
            stats.statuses.add(status, 1);
            stats.duration_us.add(event.duration_us);
        }
        stats.guard_us.add(event.guard_us);
        stats.bytes_in = stats.bytes_in.saturating_add(event.bytes_in);
        stats.bytes_out = stats.bytes_out.saturating_add(event.bytes_out);
        match (facts.user_hash(), facts.is_anonymous) {
            (Some(user), _) => {
                stats.with_user += 1;
                stats.users.add(user);
            }
            (None, true) => stats.anonymous += 1,
            (None, false) => stats.without_user += 1,
        }
        stats.paths.add(facts.path);
        add(&mut stats.addresses, facts.address);
        stats.revision = stats.revision.max(event.revision);
        stats.last_us = stats.last_us.max(facts.at_us);
        stats.samples.add(facts.outcome, &event.request_id);
    }

    /// The verified user, the proven caller; at the edge without a user, the address.
    fn count_principals(&mut self, counts: &mut Counts, facts: &Facts<'_>, limits: &Limits) {
        let event = facts.event;
        if let Some(user) = facts.user {
            self.credit(counts, facts, PrincipalRef::User(user), limits);
        }
        if facts.is_edge {
            let Some(address) = event.source_ip.map(network) else {
                return;
            };
            let address = PrincipalRef::Address(address);
            if facts.user.is_none() {
                self.credit(counts, facts, address, limits);
            } else if let Some(stats) = self.principal(counts, Hop::Edge, address, limits) {
                // Who came from there is evidence about the address; what they did is theirs.
                add(&mut stats.users, facts.user_hash());
                add(&mut stats.credentials_right, facts.credential.map(low_half));
            }
        } else if let Some(caller) = event.caller.as_deref()
            && caller != GATEWAY
        {
            self.credit(counts, facts, PrincipalRef::Service(caller), limits);
        }
    }

    fn principal<'c>(
        &mut self,
        counts: &'c mut Counts,
        hop: Hop,
        principal: PrincipalRef<'_>,
        limits: &Limits,
    ) -> Option<&'c mut PrincipalStats> {
        let key = PrincipalKeyRef { hop, principal };
        let most = match principal {
            PrincipalRef::User(name) | PrincipalRef::Service(name) if name.len() > MAX_NAME => 0,
            PrincipalRef::User(_) | PrincipalRef::Service(_) => limits.principals,
            PrincipalRef::Address(_) if counts.address_keys >= limits.principals / 2 => 0,
            PrincipalRef::Address(_) => limits.principals,
        };
        let addresses = &mut counts.address_keys;
        let stats = entry(&mut counts.principals, &key, most, || PrincipalKey {
            hop,
            principal: match principal {
                PrincipalRef::User(name) => Principal::User(self.names.of(name)),
                PrincipalRef::Service(name) => Principal::Service(self.names.of(name)),
                PrincipalRef::Address(address) => {
                    *addresses += 1;
                    Principal::Address(address)
                }
            },
        });
        if stats.is_none() {
            counts.dropped.principals += 1;
        }
        stats
    }

    fn credit(
        &mut self,
        counts: &mut Counts,
        facts: &Facts<'_>,
        principal: PrincipalRef<'_>,
        limits: &Limits,
    ) {
        let event = facts.event;
        let Some(stats) = self.principal(counts, event.hop, principal, limits) else {
            return;
        };
        if facts.unknown {
            stats.unknown_paths.add(facts.path);
        }
        add(&mut stats.addresses, facts.address);
        add(&mut stats.agents, facts.agent);
        match principal {
            PrincipalRef::User(_) => {
                add(&mut stats.credentials_right, facts.credential.map(low_half));
            }
            PrincipalRef::Service(_) => add(&mut stats.users, facts.user_hash()),
            PrincipalRef::Address(_) if !facts.is_wrong => {}
            PrincipalRef::Address(_) => {
                add(&mut stats.credentials_wrong, facts.credential.map(low_half));
            }
        }
        let key = OperationRef {
            service: event.service.as_deref(),
            operation: event.operation.as_deref(),
        };
        let operation = entry(&mut stats.operations, &key, limits.operations, || {
            OperationKey {
                service: self.optional(key.service),
                operation: self.optional(key.operation),
            }
        });
        let Some(operation) = operation else {
            counts.dropped.operations += 1;
            return;
        };
        operation.outcomes.add(facts.outcome, 1);
        if let Some(status) = facts.status {
            operation.statuses.add(status, 1);
        }
        operation.paths.add(facts.path);
        operation.bytes_out = operation.bytes_out.saturating_add(event.bytes_out);
        operation.samples.add(facts.outcome, &event.request_id);
    }

    fn count_call(&mut self, counts: &mut Counts, facts: &Facts<'_>, limits: &Limits) {
        let event = facts.event;
        let (Some(service), Some(operation)) = (&event.service, &event.operation) else {
            return;
        };
        let mut roles: SmallVec<[&str; 8]> = SmallVec::new();
        let who = match (facts.user, facts.is_anonymous) {
            (Some(_), _) => {
                roles.extend(event.roles.iter().map(String::as_str));
                roles.sort_unstable();
                WhoRef::Roles(&roles)
            }
            (None, true) => WhoRef::Anonymous,
            (None, false) => WhoRef::Nobody,
        };
        if roles.iter().any(|role| role.len() > MAX_NAME) {
            counts.dropped.calls += 1;
            return;
        }
        let key = CallRef {
            hop: event.hop,
            caller: event.caller.as_deref(),
            service,
            operation,
            who,
        };
        let stats = entry(&mut counts.calls, &key, limits.calls, || CallKey {
            hop: key.hop,
            caller: self.optional(key.caller),
            service: self.names.of(key.service),
            operation: self.names.of(key.operation),
            who: match key.who {
                WhoRef::Roles(roles) => {
                    Who::Roles(roles.iter().map(|role| self.names.of(role)).collect())
                }
                WhoRef::Anonymous => Who::Anonymous,
                WhoRef::Nobody => Who::Nobody,
            },
        });
        let Some(stats) = stats else {
            counts.dropped.calls += 1;
            return;
        };
        stats.add(facts.outcome);
        stats.last_us = stats.last_us.max(facts.at_us);
    }

    fn count_credential(&mut self, counts: &mut Counts, facts: &Facts<'_>, limits: &Limits) {
        let (Some(user), Some(credential)) = (facts.user, facts.credential) else {
            return;
        };
        let Some(stats) = entry(
            &mut counts.credentials,
            &credential,
            limits.credentials,
            || credential,
        ) else {
            counts.dropped.credentials += 1;
            return;
        };
        if stats.user.is_none() && user.len() <= MAX_NAME {
            stats.user = Some(self.names.of(user));
        }
        stats.requests += 1;
        add(&mut stats.addresses, facts.address);
        add(&mut stats.agents, facts.agent);
        let id = &facts.event.request_id;
        if stats.sample.is_none() && id.len() <= 64 {
            stats.sample = Some(id.as_str().into());
        }
    }

    fn count_heavy(&mut self, counts: &mut Counts, facts: &Facts<'_>) {
        let event = facts.event;
        let scope = self.optional(event.service.as_deref());
        counts.paths.add(scope.as_ref(), &event.path);
        if let Some(user) = facts.user.filter(|user| user.len() <= MAX_NAME) {
            counts.users.add(None, user);
        }
        if let Some(address) = event.source_ip {
            use std::io::Write as _;
            // An address as text is at most 45 characters long.
            let mut text = [0_u8; 48];
            let room = text.len();
            let mut rest = text.as_mut_slice();
            let written = write!(rest, "{address}").map(|()| room - rest.len());
            let text = written.ok().and_then(|length| text.get(..length));
            if let Some(text) = text.and_then(|text| std::str::from_utf8(text).ok()) {
                counts.addresses.add(None, text);
            }
        }
    }
}

impl Counts {
    /// Whether nothing was counted.
    pub const fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Counts one event: for tests and simulations. (Proxies have an [`Aggregator`](super::Aggregator),
    /// which remembers names and its own service.)
    pub fn add(&mut self, event: &Event) {
        Counter::default().count(self, event, &Limits::MESH);
    }

    /// Takes in what another one counted.
    pub fn merge(&mut self, other: &Counts, limits: &Limits) {
        self.events = self.events.saturating_add(other.events);
        self.dropped.merge(&other.dropped);
        for (key, stats) in &other.edges {
            match self.edges.get_mut(key) {
                Some(ours) => ours.merge(stats),
                None => self.absorb_edge(key.clone(), stats.clone(), limits),
            }
        }
        for (key, stats) in &other.principals {
            match self.principals.get_mut(key) {
                Some(ours) => merge_principal(ours, stats, &mut self.dropped, limits),
                None => self.absorb_principal(key.clone(), stats.clone(), limits),
            }
        }
        for (key, stats) in &other.credentials {
            match self.credentials.get_mut(key) {
                Some(ours) => ours.merge(stats),
                None => self.absorb_credential(*key, stats.clone(), limits),
            }
        }
        for (key, stats) in &other.calls {
            match self.calls.get_mut(key) {
                Some(ours) => ours.merge(stats),
                None => self.absorb_call(key.clone(), *stats, limits),
            }
        }
        self.paths.merge(&other.paths);
        self.addresses.merge(&other.addresses);
        self.users.merge(&other.users);
    }

    pub(super) fn absorb_edge(&mut self, key: EdgeKey, stats: EdgeStats, limits: &Limits) {
        let requests = stats.outcomes.requests();
        if !absorb(&mut self.edges, key, stats, limits.edges, EdgeStats::merge) {
            count(&mut self.dropped.edges, requests);
        }
    }

    pub(super) fn absorb_principal(
        &mut self,
        key: PrincipalKey,
        stats: PrincipalStats,
        limits: &Limits,
    ) {
        if let Some(ours) = self.principals.get_mut(&key) {
            merge_principal(ours, &stats, &mut self.dropped, limits);
            return;
        }
        let is_address = matches!(key.principal, Principal::Address(_));
        let is_full = self.principals.len() >= limits.principals
            || (is_address && self.address_keys >= limits.principals / 2);
        if is_full {
            count(&mut self.dropped.principals, stats.requests());
            return;
        }
        self.address_keys += usize::from(is_address);
        self.principals.insert(key, stats);
    }

    pub(super) fn absorb_credential(&mut self, key: u64, stats: CredentialStats, limits: &Limits) {
        let requests = stats.requests;
        let most = limits.credentials;
        if !absorb(
            &mut self.credentials,
            key,
            stats,
            most,
            CredentialStats::merge,
        ) {
            count(&mut self.dropped.credentials, requests);
        }
    }

    pub(super) fn absorb_call(&mut self, key: CallKey, stats: CallStats, limits: &Limits) {
        let requests = [stats.permitted, stats.denied, stats.reported, stats.unfit];
        if !absorb(&mut self.calls, key, stats, limits.calls, CallStats::merge) {
            let requests = requests.into_iter().fold(0, u64::saturating_add);
            count(&mut self.dropped.calls, requests);
        }
    }
}

fn merge_principal(
    ours: &mut PrincipalStats,
    theirs: &PrincipalStats,
    dropped: &mut Dropped,
    limits: &Limits,
) {
    ours.merge_own(theirs);
    for (key, stats) in &theirs.operations {
        match entry(&mut ours.operations, key, limits.operations, || key.clone()) {
            Some(ours) => ours.merge(stats),
            None => count(&mut dropped.operations, stats.outcomes.requests()),
        }
    }
}

/// Puts a value into a table, or together with the one that is there. False: there is no room.
fn absorb<K: Hash + Eq, V>(
    table: &mut Table<K, V>,
    key: K,
    value: V,
    most: usize,
    merge: impl FnOnce(&mut V, &V),
) -> bool {
    if let Some(ours) = table.get_mut(&key) {
        merge(ours, &value);
        return true;
    }
    let has_room = table.len() < most;
    if has_room {
        table.insert(key, value);
    }
    has_room
}

/// The value of a key, made if there is room for one more.
fn entry<'t, K, V, Q>(
    table: &'t mut Table<K, V>,
    key: &Q,
    most: usize,
    owned: impl FnOnce() -> K,
) -> Option<&'t mut V>
where
    K: Hash + Eq,
    V: Default,
    Q: Hash + Equivalent<K> + ?Sized,
{
    let place = match table.get_index_of(key) {
        Some(place) => place,
        None if table.len() < most => table.insert_full(owned(), V::default()).0,
        None => return None,
    };
    table.get_index_mut(place).map(|(_, value)| value)
}

fn count(counter: &mut u64, more: u64) {
    *counter = counter.saturating_add(more);
}

fn add(distinct: &mut Distinct, hash: Option<u32>) {
    if let Some(hash) = hash {
        distinct.add(hash);
    }
}

/// Of a hash that is uniform already.
fn low_half(hash: u64) -> u32 {
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(0)
}

/// What one subscriber usually has: an IPv4 address, or a /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        },
    }
}
