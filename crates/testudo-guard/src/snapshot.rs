//! A revision compiled for one proxy: valid by construction, swapped whole, never changed.
//!
//! `testudo-policy` builds it; everything here is read-only on the request path.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use testudo_model::{Hop, Mode, PolicyRef};

use crate::authn::Authenticators;
use crate::limit::LimitRule;
use crate::now::Now;
use crate::peer::Caller;
use crate::route::RouteTable;
use crate::schema::Api;

/// Everything that decides, for one proxy.
pub struct Snapshot {
    /// The revision's number.
    pub revision: u64,
    /// Hex SHA-256 of its manifest.
    pub digest: Arc<str>,
    /// The SPIFFE trust domain.
    pub trust_domain: Arc<str>,
    /// Which proxy this is for.
    pub role: Role,
    /// Gateway only: routes, CORS, trusted proxies, certificates.
    pub edge: Option<Edge>,
    /// All services by name. A sidecar's snapshot has operations and policies for its own service
    /// only; of the others it knows what calling them needs.
    pub services: HashMap<Arc<str>, Arc<Service>>,
    /// How users are recognized; `None` without `users:`: only callers are asked about.
    pub users: Option<Authenticators>,
    /// SVID lifetime.
    pub identity_ttl: Duration,
}

/// Which proxy a snapshot is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A gateway.
    Gateway,
    /// A sidecar of this service.
    Sidecar(Arc<str>),
}

/// What only a gateway needs.
pub struct Edge {
    /// Where it listens, unless the command line says otherwise.
    pub listen: SocketAddr,
    /// How it presents itself.
    pub tls: EdgeTls,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Host and path prefix to service.
    pub routes: RouteTable,
}

/// TLS at the edge.
pub enum EdgeTls {
    /// A certificate from the mesh's CA.
    Mesh,
    /// These, chosen by server name; the first is the default.
    Certificates(Vec<EdgeCertificate>),
    /// Plain HTTP.
    Plain,
}

/// A certificate for the edge.
#[derive(Clone)]
pub struct EdgeCertificate {
    /// PEM chain, leaf first.
    pub chain_pem: Vec<u8>,
    /// PEM private key.
    pub key_pem: Arc<[u8]>,
    /// Where it stands in the bundle, for messages.
    pub source: PolicyRef,
}

/// A service as one proxy sees it.
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands in the bundle.
    pub source: PolicyRef,
    /// The first route of the gateway that leads to it: what lets the gateway call it. In every
    /// snapshot, so that a sidecar knows it too.
    pub route: Option<PolicyRef>,
    /// Its SPIFFE id.
    pub spiffe_id: Arc<str>,
    /// Whether failed checks stop requests, and until when it says so (seconds since the epoch,
    /// after which `enforce` holds).
    pub mode: Mode,
    /// See `mode`.
    pub mode_until: Option<u64>,
    /// Application addresses, one workload each.
    pub app: Vec<AppAddress>,
    /// `sidecar: none`: called in plain at its application's address.
    pub plain: bool,
    /// Service roles.
    pub roles: Vec<Arc<str>>,
    /// Labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// HTTP version spoken to it.
    pub protocol: Protocol,
    /// What its API is and how strictly it is checked. Empty of operations in snapshots of other services' sidecars.
    pub api: Api,
    /// What is asked of users.
    pub user: UserRule,
    /// Operations of others that it may call without a user.
    pub acts_alone: ActsAlone,
    /// Paths answered without authentication, GET and HEAD only.
    pub probes: Vec<Arc<str>>,
    /// `HOST:PORT` outside the mesh that it may reach.
    pub egress: BTreeSet<Arc<str>>,
    /// Until the response head must have come.
    pub timeout: Duration,
    /// Limits whose match can touch this service, in the order of the bundle.
    pub limits: Vec<Arc<LimitRule>>,
}

/// Where an application listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AppAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket; relative paths are relative to the bundle.
    Unix(PathBuf),
    /// A name that is resolved again and again, and a port.
    Dns(Arc<str>, u16),
}

/// HTTP version spoken to a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1; HTTP/2 for gRPC.
    #[default]
    Auto,
    /// HTTP/1.1 always.
    Http1,
    /// HTTP/2 always (prior knowledge).
    Http2,
}

/// The `user:` of a service (DESIGN §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserRule {
    /// The user, anonymous included, must be permitted.
    #[default]
    Authorize,
    /// A user (anonymous included) must travel along; only the caller is judged.
    Require,
    /// Judged if there.
    Optional,
    /// Never looked at.
    Ignore,
}

/// Which operations of others a service may call without a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ActsAlone {
    /// None.
    #[default]
    Never,
    /// These (`SERVICE:OPERATION`).
    Operations(BTreeSet<Arc<str>>),
    /// All.
    Always,
}

impl Snapshot {
    /// Where in the mesh this proxy decides: a gateway at the edge, a sidecar inside.
    pub const fn hop(&self) -> Hop {
        match self.role {
            Role::Gateway => Hop::Edge,
            Role::Sidecar(_) => Hop::Mesh,
        }
    }

    /// The service that this sidecar stands beside; `None` for a gateway.
    pub fn own_service(&self) -> Option<&Arc<Service>> {
        match &self.role {
            Role::Gateway => None,
            Role::Sidecar(name) => self.services.get(name),
        }
    }

    /// What a verified SPIFFE id means in this revision.
    pub fn caller_of(&self, spiffe_id: &str) -> Caller {
        let path = spiffe_id
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(&*self.trust_domain));
        let Some(path) = path.filter(|path| path.starts_with('/')) else {
            return Caller::Unknown;
        };
        if path == "/gateway" {
            return Caller::Gateway;
        }
        // Ids are `/service/NAME` unless a bundle says otherwise: look there before looking at all.
        let by_name = path
            .strip_prefix("/service/")
            .and_then(|name| self.services.get(name))
            .filter(|service| &*service.spiffe_id == spiffe_id);
        by_name
            .or_else(|| {
                self.services
                    .values()
                    .find(|service| &*service.spiffe_id == spiffe_id)
            })
            .map_or(Caller::Unknown, |service| {
                Caller::Service(Arc::clone(&service.name))
            })
    }

    /// Whether `X-Forwarded-For` of a connection from this address is believed.
    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        self.edge.as_ref().is_some_and(|edge| {
            edge.trusted_proxies
                .iter()
                .any(|net| net.contains(&address))
        })
    }
}

impl Service {
    /// The mode that holds at this moment: after `until:`, `enforce`.
    pub fn mode_at(&self, now: Now) -> Mode {
        match self.mode_until {
            Some(until) if now.unix_seconds() >= until => Mode::Enforce,
            _ => self.mode,
        }
    }
}
