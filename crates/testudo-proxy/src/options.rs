//! What one proxy process is told at its start. All defaults of the data plane stand here, each with
//! its reason; what the bundle decides is in the snapshot.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use testudo_guard::snapshot::{AppAddress, Role};

/// How a proxy is started. Addresses left out come from the bundle, or from the defaults of DESIGN §2.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Gateway, or the sidecar of a service.
    pub role: Role,
    /// The proxy's name, for example `orders-1`; left out: control chooses, before that the role's name.
    pub name: Option<String>,
    /// Key, SVID, last good snapshot, secrets and events (0700).
    pub state_dir: PathBuf,
    /// What relative paths of Unix sockets in the bundle are relative to; left out: the working directory.
    pub base_dir: Option<PathBuf>,
    /// `HOST:PORT` of the control plane's mesh gRPC; left out: what the state directory remembers.
    pub control: Option<String>,
    /// File with the one-time join token.
    pub join_token_file: Option<PathBuf>,
    /// Gateway: where clients connect.
    pub listen: Option<SocketAddr>,
    /// Sidecar: where other proxies connect by mTLS.
    pub inbound: Option<SocketAddr>,
    /// Sidecar: where its application connects.
    pub outbound: Option<ListenAddress>,
    /// `HOST:PORT` under which others reach `inbound` (sidecar) or `listen` (gateway); left out: the bound address.
    pub advertise: Option<String>,
    /// `/metrics`, `/healthz`, `/readyz`, `/effective`.
    pub admin: Option<SocketAddr>,
    /// Sidecar: its application, where the bundle names several or another.
    pub app: Option<AppAddress>,
    /// Sidecar: the user as which its application runs, and nothing else; its TCP connections need no secret.
    pub app_uid: Option<u32>,
    /// Data threads; left out: all cores for a gateway, at most two for a sidecar.
    pub threads: Option<usize>,
    /// How it stops.
    pub drain: DrainOptions,
    /// Caps and times of connections.
    pub caps: Caps,
}

impl ProxyOptions {
    /// Options with every default.
    pub fn new(role: Role, state_dir: impl Into<PathBuf>) -> Self {
        ProxyOptions {
            role,
            name: None,
            state_dir: state_dir.into(),
            base_dir: None,
            control: None,
            join_token_file: None,
            listen: None,
            inbound: None,
            outbound: None,
            advertise: None,
            admin: None,
            app: None,
            app_uid: None,
            threads: None,
            drain: DrainOptions::default(),
            caps: Caps::default(),
        }
    }

    /// The number of data threads (DESIGN §13).
    pub fn thread_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let default = match self.role {
            Role::Gateway => cores,
            Role::Sidecar(_) => cores.min(2),
        };
        self.threads.unwrap_or(default).clamp(1, 256)
    }

    /// Where a sidecar's mTLS side listens.
    pub fn inbound_address(&self) -> SocketAddr {
        self.inbound
            .unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15006))
    }

    /// Where a sidecar's application connects.
    pub fn outbound_address(&self) -> ListenAddress {
        self.outbound
            .clone()
            .unwrap_or(ListenAddress::Tcp(loopback(15001)))
    }

    /// Where administration listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.unwrap_or(loopback(15020))
    }

    /// `gateway`, or the service's name.
    pub fn role_name(&self) -> &str {
        match &self.role {
            Role::Gateway => "gateway",
            Role::Sidecar(service) => service,
        }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket, made with mode 0600.
    Unix(PathBuf),
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a proxy stops: not ready, wait, close politely, deadline.
#[derive(Clone, Copy, Debug)]
pub struct DrainOptions {
    /// Between "not ready" and the first closed connection, so that others look elsewhere first.
    pub wait: Duration,
    /// After that, until what still runs is cut off.
    pub deadline: Duration,
}

impl Default for DrainOptions {
    fn default() -> Self {
        DrainOptions {
            // Control tells the other proxies within one round trip; half a second covers a slow one.
            wait: Duration::from_millis(500),
            // Longer than the default `timeout` of a service (15 s), shorter than what supervisors allow (30 s).
            deadline: Duration::from_secs(20),
        }
    }
}

/// Bounds of what one connection or one listener may take.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Connections of one listener at once, over all cores.
    pub connections: usize,
    /// Connections of one address at once, over all cores.
    pub connections_per_address: usize,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Streams of one HTTP/2 connection at once.
    pub streams: u32,
    /// Until a TLS handshake must be done.
    pub handshake: Duration,
    /// From a head's first byte to its last.
    pub head: Duration,
    /// Between two pieces of a request body.
    pub body_idle: Duration,
    /// For the whole of a body that must be complete before anything goes upstream.
    pub body_total: Duration,
    /// Bytes of bodies that are held back at once to be judged, over all connections and cores.
    pub held_bytes: usize,
    /// Without a request, until a connection is closed. Longer than other proxies keep idle upstream
    /// connections ([`Caps::pool_idle`]), so that none is closed under a request.
    pub idle: Duration,
    /// Without a byte in either direction, until a tunnel (WebSocket, CONNECT) is closed.
    pub tunnel_idle: Duration,
    /// Until an upstream connection must stand, TLS included.
    pub connect: Duration,
    /// An unused upstream connection is kept so long.
    pub pool_idle: Duration,
    /// Unused upstream connections kept for one endpoint and core.
    pub pool_size: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Caps {
            connections: 16_384,
            connections_per_address: 4_096,
            head_bytes: 64 * 1024,
            headers: 128,
            streams: 128,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            body_total: Duration::from_secs(60),
            held_bytes: 256 << 20,
            idle: Duration::from_secs(75),
            tunnel_idle: Duration::from_secs(300),
            connect: Duration::from_secs(3),
            pool_idle: Duration::from_secs(30),
            pool_size: 64,
        }
    }
}
