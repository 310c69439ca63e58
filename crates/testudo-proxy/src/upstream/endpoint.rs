//! One endpoint as one core sees it: its open connections, idle or shared, and how to open another.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use testudo_identity::svid::{SvidError, Usage};
use testudo_identity::tls::PeerSession;
use testudo_identity::{Alpn, MeshTls, SpiffeId};
use testudo_watch::{ConnectionKind, Metrics};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::health::{Health, InFlight};
use crate::body::RequestBody;
use crate::core::LocalExecutor;
use crate::io::OpenConnection;
use crate::options::Caps;
use crate::tasks::Panics;

/// Streams of one HTTP/2 connection at once (DESIGN §13).
const MAX_STREAMS: usize = 100;
/// Connections of one core to one endpoint at once.
const MAX_CONNECTIONS: usize = 4096;

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// An address.
    Socket(SocketAddr),
    /// A name, resolved for each connection.
    Name(Arc<str>, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why there is no connection. The request was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nothing listens there, or it cannot be reached.
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    /// The name has no address.
    #[error("the name cannot be resolved")]
    Resolve(#[source] std::io::Error),
    /// The other end is not who it should be, or does not take us for who we are.
    #[error("no mutual TLS")]
    Tls(#[source] std::io::Error),
    /// The other end is not to be believed.
    #[error("the peer is not admitted")]
    Peer(#[source] SvidError),
    /// It took too long.
    #[error("connecting took too long")]
    Timeout,
    /// The other end does not speak HTTP.
    #[error("the HTTP handshake failed")]
    Handshake(#[source] hyper::Error),
    /// More connections than this core keeps.
    #[error("too many connections to this endpoint")]
    TooMany,
}

/// How the other end must prove who it is.
pub(crate) struct Secured {
    mesh: Arc<MeshTls>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Secured {
    /// Mutual TLS with exactly this identity at the other end.
    pub(crate) fn new(mesh: &Arc<MeshTls>, expected: &SpiffeId) -> Result<Self, rustls::Error> {
        let expected = std::slice::from_ref(expected);
        Ok(Secured {
            mesh: mesh.clone(),
            http1: mesh.client_config(expected, &[Alpn::Http1])?,
            http2: mesh.client_config(expected, &[Alpn::Http2])?,
        })
    }
}

/// One endpoint.
pub(crate) struct Endpoint {
    /// For logs and evidence.
    pub(crate) name: Arc<str>,
    pub(crate) health: Arc<Health>,
    address: Address,
    secured: Option<Secured>,
    caps: Caps,
    panics: Panics,
    metrics: Arc<Metrics>,
    idle: RefCell<VecDeque<Idle>>,
    shared: RefCell<Vec<Rc<Shared>>>,
    /// Held while an HTTP/2 connection is opened, so that many waiting requests open one.
    opening: tokio::sync::Mutex<()>,
    open: Rc<Cell<usize>>,
}

/// An HTTP/1.1 connection without a request.
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    session: Option<Rc<PeerSession>>,
    since: Instant,
}

/// An HTTP/2 connection.
pub(crate) struct Shared {
    sender: http2::SendRequest<RequestBody>,
    session: Option<Rc<PeerSession>>,
    streams: Cell<usize>,
    used: Cell<Instant>,
}

/// A connection that one request has; dropped, it is closed (HTTP/1.1) or its stream ends (HTTP/2).
pub(crate) struct Lease {
    endpoint: Rc<Endpoint>,
    held: Held,
    _in_flight: InFlight,
}

enum Held {
    Http1 {
        sender: http1::SendRequest<RequestBody>,
        session: Option<Rc<PeerSession>>,
        reused: bool,
    },
    Http2(Stream),
}

/// One stream's place on a shared connection.
struct Stream(Rc<Shared>);

impl Stream {
    fn on(shared: &Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Stream(shared.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.used.set(Instant::now());
    }
}

impl Endpoint {
    pub(crate) fn new(
        name: Arc<str>,
        address: Address,
        secured: Option<Secured>,
        health: Arc<Health>,
        (caps, panics, metrics): (Caps, Panics, Arc<Metrics>),
    ) -> Rc<Self> {
        Rc::new(Endpoint {
            name,
            health,
            address,
            secured,
            caps,
            panics,
            metrics,
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: tokio::sync::Mutex::new(()),
            open: Rc::default(),
        })
    }

    /// Whether the other end proves by mTLS to be a sidecar of ours.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.secured.is_some()
    }

    /// A connection for one HTTP/1.1 request; an idle one, unless it must be `fresh`.
    pub(crate) async fn http1(
        self: &Rc<Self>,
        now: u64,
        fresh: bool,
    ) -> Result<Lease, ConnectError> {
        if !fresh && let Some(idle) = self.take_idle(now) {
            return Ok(self.lease(Held::Http1 {
                sender: idle.sender,
                session: idle.session,
                reused: true,
            }));
        }
        let (sender, session) = within(self.caps.connect, self.open_http1()).await?;
        Ok(self.lease(Held::Http1 {
            sender,
            session,
            reused: false,
        }))
    }

    /// A place on an HTTP/2 connection.
    pub(crate) async fn http2(self: &Rc<Self>, now: u64) -> Result<Lease, ConnectError> {
        if let Some(stream) = self.shared_stream(now) {
            return Ok(self.lease(Held::Http2(stream)));
        }
        let opened = async {
            let _alone = self.opening.lock().await;
            if let Some(stream) = self.shared_stream(now) {
                return Ok(stream);
            }
            let shared = Rc::new(self.open_http2().await?);
            self.shared.borrow_mut().push(shared.clone());
            Ok(Stream::on(&shared))
        };
        let stream = within(self.caps.connect, opened).await?;
        Ok(self.lease(Held::Http2(stream)))
    }

    fn lease(self: &Rc<Self>, held: Held) -> Lease {
        Lease {
            endpoint: self.clone(),
            held,
            _in_flight: self.health.enter(),
        }
    }

    /// The connection that was used last and can be used now. One whose last response was read a moment
    /// ago may need another turn of its task; it stays.
    fn take_idle(&self, now: u64) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| idle.is_usable(self.caps.pool_idle, now));
        let ready = idle.iter().rposition(|idle| idle.sender.is_ready())?;
        idle.remove(ready)
    }

    fn shared_stream(&self, now: u64) -> Option<Stream> {
        let mut all = self.shared.borrow_mut();
        all.retain(|shared| shared.is_usable(now));
        all.iter()
            .filter(|shared| shared.streams.get() < MAX_STREAMS)
            .min_by_key(|shared| shared.streams.get())
            .map(Stream::on)
    }

    /// Closes what nobody used for long. Called now and then.
    pub(crate) fn sweep(&self, now: u64) {
        let longest = self.caps.pool_idle;
        self.idle
            .borrow_mut()
            .retain(|idle| idle.is_usable(longest, now));
        self.shared.borrow_mut().retain(|shared| {
            let unused = shared.streams.get() == 0 && shared.used.get().elapsed() > longest;
            shared.is_usable(now) && !unused
        });
    }

    async fn open_http1(
        &self,
    ) -> Result<(http1::SendRequest<RequestBody>, Option<Rc<PeerSession>>), ConnectError> {
        let open = self.count_open()?;
        let (stream, session) = self.connect(Alpn::Http1).await?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(self.caps.headers)
            .max_buf_size(self.caps.head_bytes.max(8 * 1024))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        let task = async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = %crate::error_text(&error), "an upstream connection broke");
            }
            drop(open);
        };
        drop(self.panics.spawn_local("upstream-http1", task));
        Ok((sender, session))
    }

    async fn open_http2(&self) -> Result<Shared, ConnectError> {
        let open = self.count_open()?;
        let (stream, session) = self.connect(Alpn::Http2).await?;
        let (sender, connection) = http2::Builder::new(LocalExecutor::new(&self.panics))
            .timer(TokioTimer::new())
            .adaptive_window(true)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        let task = async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %crate::error_text(&error), "an upstream connection broke");
            }
            drop(open);
        };
        drop(self.panics.spawn_local("upstream-http2", task));
        Ok(Shared {
            sender,
            session,
            streams: Cell::new(0),
            used: Cell::new(Instant::now()),
        })
    }

    fn count_open(&self) -> Result<Open, ConnectError> {
        if self.open.get() >= MAX_CONNECTIONS {
            return Err(ConnectError::TooMany);
        }
        self.open.set(self.open.get() + 1);
        Ok(Open {
            open: self.open.clone(),
            _counted: OpenConnection::new(&self.metrics, ConnectionKind::upstream),
        })
    }

    async fn connect(&self, alpn: Alpn) -> Result<(Pipe, Option<Rc<PeerSession>>), ConnectError> {
        let stream = match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(ConnectError::Connect)?;
                return Ok((Box::new(stream), None));
            }
            Address::Socket(address) => TcpStream::connect(address)
                .await
                .map_err(ConnectError::Connect)?,
            Address::Name(host, port) => connect_by_name(host, *port).await?,
        };
        stream.set_nodelay(true).map_err(ConnectError::Connect)?;
        let Some(secured) = &self.secured else {
            return Ok((Box::new(stream), None));
        };
        let config = match alpn {
            Alpn::Http1 => secured.http1.clone(),
            Alpn::Http2 => secured.http2.clone(),
        };
        let stream = TlsConnector::from(config)
            .connect(testudo_identity::tls::server_name(), stream)
            .await
            .map_err(ConnectError::Tls)?;
        let (_, tls) = stream.get_ref();
        let certificates = tls.peer_certificates().unwrap_or_default();
        let session = secured
            .mesh
            .admit(certificates, Usage::Server)
            .map_err(ConnectError::Peer)?;
        Ok((Box::new(stream), Some(Rc::new(session))))
    }
}

/// A byte stream, whatever carries it.
type Pipe = Box<dyn Duplex>;

/// What HTTP needs of a stream.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// Opens a plain connection, for a tunnel.
pub(crate) async fn connect_by_name(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(ConnectError::Resolve)?;
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(ConnectError::Connect(last))
}

async fn within<T>(
    limit: Duration,
    connecting: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    tokio::time::timeout(limit, connecting)
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

/// Counts an open connection until its task ends.
struct Open {
    open: Rc<Cell<usize>>,
    _counted: OpenConnection,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

impl Idle {
    fn is_usable(&self, longest: Duration, now: u64) -> bool {
        !self.sender.is_closed()
            && self.since.elapsed() < longest
            && is_believed(self.session.as_deref(), now)
    }
}

impl Shared {
    fn is_usable(&self, now: u64) -> bool {
        !self.sender.is_closed() && is_believed(self.session.as_deref(), now)
    }
}

/// The peer is still believed, and no certificate of either end is about to expire under a request.
fn is_believed(session: Option<&PeerSession>, now: u64) -> bool {
    session.is_none_or(|session| session.takes_another_request(now))
}

/// Why a request that had a connection got no response.
pub(crate) struct SendError {
    /// The request, where it provably never left.
    pub(crate) unsent: Option<Box<http::Request<RequestBody>>>,
    pub(crate) error: hyper::Error,
}

impl Lease {
    /// Whether other requests went over this connection before.
    pub(crate) fn is_reused(&self) -> bool {
        match &self.held {
            Held::Http1 { reused, .. } => *reused,
            Held::Http2(_) => true,
        }
    }

    /// Sends the request and waits for the head of its response.
    pub(crate) async fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> Result<http::Response<hyper::body::Incoming>, SendError> {
        let result = match &mut self.held {
            Held::Http1 { sender, .. } => {
                // The connection's task may not have had its turn since the last response.
                if let Err(error) = sender.ready().await {
                    return Err(SendError {
                        unsent: Some(Box::new(request)),
                        error,
                    });
                }
                sender.try_send_request(request).await
            }
            Held::Http2(stream) => {
                let mut sender = stream.0.sender.clone();
                sender.try_send_request(request).await
            }
        };
        result.map_err(|mut error| SendError {
            unsent: error.take_message().map(Box::new),
            error: error.into_error(),
        })
    }

    /// The response was read to its end: the connection can take another request.
    pub(crate) fn give_back(self) {
        let Held::Http1 {
            sender, session, ..
        } = self.held
        else {
            return;
        };
        if sender.is_closed() {
            return;
        }
        let mut idle = self.endpoint.idle.borrow_mut();
        if idle.len() >= self.endpoint.caps.pool_size {
            idle.pop_front();
        }
        idle.push_back(Idle {
            sender,
            session,
            since: Instant::now(),
        });
    }
}
