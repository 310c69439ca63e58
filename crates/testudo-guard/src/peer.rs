//! Who is at the other end of the connection, as far as TLS proved it.

use std::net::IpAddr;
use std::sync::Arc;

/// The other end of the connection that a request came on.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A client at the gateway; nothing is proven.
    Client {
        /// The socket's address (before `trusted_proxies` are looked at).
        address: IpAddr,
        /// Whether the connection is TLS.
        tls: bool,
        /// TLS server name, lower case, if one was sent.
        server_name: Option<Arc<str>>,
    },
    /// A workload of the mesh, proven by mTLS. What its id means is asked of the snapshot for each
    /// request ([`crate::Snapshot::caller_of`]), so that a long connection follows new revisions.
    Workload {
        /// Its SPIFFE id, e.g. `spiffe://shop.test/service/orders`.
        spiffe_id: Arc<str>,
        /// Lower-case hex serial of its certificate, for revocations.
        serial: Arc<str>,
        /// The end of its certificate, in seconds since the epoch.
        not_after: u64,
        /// The socket's address.
        address: IpAddr,
    },
}

/// What a verified SPIFFE id means in this mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A gateway.
    Gateway,
    /// A service of the bundle, by name.
    Service(Arc<str>),
    /// An identity of the trust domain that is neither (control, a removed service).
    Unknown,
}

impl Peer {
    /// The socket's address.
    pub const fn address(&self) -> IpAddr {
        match self {
            Peer::Client { address, .. } | Peer::Workload { address, .. } => *address,
        }
    }
}
