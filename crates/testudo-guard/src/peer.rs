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
    /// A workload of the mesh, proven by mTLS.
    Workload {
        /// Its SPIFFE id, e.g. `spiffe://shop.test/service/orders`.
        spiffe_id: Arc<str>,
        /// What that id means in this mesh.
        caller: Caller,
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
