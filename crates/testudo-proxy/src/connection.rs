//! One connection: told apart (TLS or not, HTTP/1.1 or HTTP/2), served, watched, closed in time.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use testudo_guard::Peer;
use testudo_guard::normalize::MAX_URI_BYTES;
use testudo_guard::outbound::Sender;
use testudo_guard::screen::HeadLimits;
use testudo_guard::snapshot::EdgeTls;
use testudo_identity::svid::Usage;
use testudo_identity::tls::PeerSession;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::core::{Core, Side};
use crate::io::{Activity, OpenConnection, Opening, Replayed, Watched, opening};
use crate::listener::Admitted;
use crate::peer_uid;
use crate::request;
use crate::screened::{Screened, Wire};
use crate::shared::Tallied;
use crate::watchdog::{Act, Watchdog};
use testudo_watch::ConnectionKind;

/// What the requests of one connection have in common.
pub(crate) struct Connection {
    pub(crate) side: Side,
    /// Who is at the other end, as guard sees it.
    pub(crate) peer: Peer,
    /// The verified workload at the other end (inbound only); asked for each request.
    pub(crate) session: Option<PeerSession>,
    /// Whether the socket alone proves that the own application is at the other end (outbound only).
    pub(crate) sender: Sender,
    pub(crate) activity: Arc<Activity>,
    /// What its HTTP/1 bytes and its requests say to each other.
    pub(crate) wire: Arc<Wire>,
    /// Responses tell the client to close: the proxy is leaving.
    pub(crate) closing: Cell<bool>,
    /// The place among all connections; kept as long as the connection or a tunnel made of it.
    _place: Admitted,
    _open: OpenConnection,
    _tallied: Option<Tallied>,
}

impl Connection {
    fn new(core: &Core, side: Side, peer: Peer, place: Admitted) -> Self {
        let kind = match side {
            Side::Edge => ConnectionKind::edge,
            Side::Inbound => ConnectionKind::inbound,
            Side::Outbound => ConnectionKind::outbound,
        };
        Connection {
            side,
            peer,
            session: None,
            sender: Sender::Foreign,
            activity: Activity::new(),
            wire: Arc::default(),
            closing: Cell::new(false),
            _place: place,
            _open: OpenConnection::new(&core.shared.metrics, kind),
            _tallied: (side == Side::Inbound).then(|| core.shared.inbound.enter()),
        }
    }
}

/// Serves a TCP connection of any side.
pub(crate) async fn serve_tcp(
    core: Rc<Core>,
    side: Side,
    stream: TcpStream,
    address: IpAddr,
    place: Admitted,
) {
    // Small responses leave at once; what is worth coalescing, hyper writes at once anyway.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match side {
        Side::Edge => serve_edge(core, stream, address, place).await,
        Side::Inbound => serve_inbound(core, stream, address, place).await,
        Side::Outbound => {
            let mut connection = Connection::new(&core, side, client(address, false, None), place);
            if is_own_user(&core, &stream) {
                connection.sender = Sender::Application;
            }
            serve_plain(core, connection, stream).await;
        }
    }
}

/// Serves a connection through a Unix socket of mode 0600: whoever could open it runs as the
/// application does.
pub(crate) async fn serve_unix(core: Rc<Core>, side: Side, stream: UnixStream, place: Admitted) {
    let peer = client(IpAddr::V4(Ipv4Addr::LOCALHOST), false, None);
    let mut connection = Connection::new(&core, side, peer, place);
    connection.sender = Sender::Application;
    serve_plain(core, connection, stream).await;
}

/// Whether the process at the other end runs as the application alone does. Asked once: the descriptor could be
/// handed on, but only by who holds it.
fn is_own_user(core: &Core, stream: &TcpStream) -> bool {
    let Some(wanted) = core.shared.options.app_uid else {
        return false;
    };
    let (Ok(from), Ok(to)) = (stream.peer_addr(), stream.local_addr()) else {
        return false;
    };
    match peer_uid::of(from, to) {
        Ok(found) => {
            if found != Some(wanted) {
                tracing::debug!(%from, ?found, wanted, "not the application's user");
            }
            found == Some(wanted)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot ask whose a connection is: it counts as foreign");
            false
        }
    }
}

const fn client(address: IpAddr, tls: bool, server_name: Option<Arc<str>>) -> Peer {
    Peer::Client {
        address,
        tls,
        server_name,
    }
}

/// The gateway's side. TLS or plain as the bundle says; without a snapshot both, to say `not_ready`.
async fn serve_edge(core: Rc<Core>, stream: TcpStream, address: IpAddr, place: Admitted) {
    let snapshot = core.snapshot();
    let tls = snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.edge.as_ref())
        .map(|edge| !matches!(edge.tls, EdgeTls::Plain));
    let caps = core.shared.options.caps;
    let mut first = [0_u8; 1];
    let looks_like_tls = match tokio::time::timeout(caps.idle, stream.peek(&mut first)).await {
        Ok(Ok(1)) => first == [0x16],
        _ => return,
    };
    if tls == Some(false) || (tls.is_none() && !looks_like_tls) {
        let connection = Connection::new(&core, Side::Edge, client(address, false, None), place);
        return serve_plain(core, connection, stream).await;
    }
    let config = match core.edge_tls.of(&core.shared, snapshot.as_ref()) {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!(error = %crate::error_text(&error), "no TLS at the edge");
            return;
        }
    };
    drop(snapshot);
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = match tokio::time::timeout(caps.handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake timed out"),
    };
    let (_, tls) = stream.get_ref();
    let name = tls
        .server_name()
        .map(|name| Arc::from(name.to_ascii_lowercase()));
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let connection = Connection::new(&core, Side::Edge, client(address, true, name), place);
    serve(core, connection, stream, http2).await;
}

/// A sidecar's side for other proxies: mTLS or nothing.
async fn serve_inbound(core: Rc<Core>, stream: TcpStream, address: IpAddr, place: Admitted) {
    let Some(mesh) = core.shared.installed.mesh() else {
        return;
    };
    let Some(config) = core.shared.inbound_tls() else {
        return;
    };
    let limit = core.shared.options.caps.handshake;
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            core.shared.refused_handshakes.add();
            return tracing::info!(%address, %error, "refused: no mutual TLS");
        }
        Err(_) => return tracing::debug!(%address, "TLS handshake timed out"),
    };
    let (_, tls) = stream.get_ref();
    let session = match mesh.admit(tls.peer_certificates().unwrap_or_default(), Usage::Client) {
        Ok(session) => session,
        Err(error) => {
            core.shared.refused_handshakes.add();
            return tracing::info!(%address, %error, "refused: peer not admitted");
        }
    };
    let http2 = tls.alpn_protocol() == Some(b"h2");
    let peer = Peer::Workload {
        spiffe_id: session.peer().spiffe_id.to_shared(),
        serial: Arc::from(session.peer().serial.as_str()),
        not_after: session.peer().not_after,
        address,
    };
    let mut connection = Connection::new(&core, Side::Inbound, peer, place);
    connection.session = Some(session);
    serve(core, connection, stream, http2).await;
}

/// Without TLS there is no ALPN: HTTP/2 is known by its preface (RFC 9113 §3.3).
async fn serve_plain<S>(core: Rc<Core>, connection: Connection, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let idle = core.shared.options.caps.idle;
    match tokio::time::timeout(idle, opening(&mut stream)).await {
        Ok(Ok(Opening { bytes, http2 })) => {
            serve(core, connection, Replayed::new(bytes, stream), http2).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a connection broke before its first request"),
        Err(_) => {}
    }
}

async fn serve<S>(core: Rc<Core>, connection: Connection, stream: S, http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Rc::new(connection);
    let stream = Watched::new(stream, connection.activity.clone());
    let watchdog = Watchdog::new(&core, connection.clone(), http2);
    if http2 {
        serve_http2(core, connection, stream, watchdog).await;
    } else {
        serve_http1(core, connection, stream, watchdog).await;
    }
}

async fn serve_http1<S>(
    core: Rc<Core>,
    connection: Rc<Connection>,
    stream: Watched<S>,
    mut watchdog: Watchdog,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let caps = core.shared.options.caps;
    let on_timeout = (core.clone(), connection.clone());
    let limits = HeadLimits {
        target_bytes: MAX_URI_BYTES,
        head_bytes: caps.head_bytes,
        fields: caps.headers,
    };
    let stream = Screened::new(stream, limits, connection.wire.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (core, connection) = (core.clone(), connection.clone());
        async move { Ok::<_, Infallible>(request::handle(core, connection, request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // The watchdog tells a slow head from an idle connection; hyper's timer does not.
        .header_read_timeout(None)
        .max_headers(caps.headers)
        .max_buf_size(caps.head_bytes.max(8 * 1024) + 1024)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    loop {
        let act = tokio::select! {
            result = &mut http => {
                if let Err(error) = result {
                    tracing::debug!(error = %crate::error_text(&error), "a connection broke");
                }
                return;
            }
            act = watchdog.wait() => act,
        };
        match act {
            Act::Finish => Pin::new(&mut http).graceful_shutdown(),
            Act::HeadTimeout => {
                let (core, connection) = on_timeout;
                let answer = request::head_timeout(&core, &connection);
                if let Some(parts) = http.into_parts() {
                    let mut stream = parts.io.into_inner();
                    let write = async {
                        stream.write_all(&answer).await?;
                        stream.shutdown().await
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(1), write).await;
                }
                return;
            }
            Act::Close => return,
        }
    }
}

async fn serve_http2<S>(
    core: Rc<Core>,
    connection: Rc<Connection>,
    stream: Watched<S>,
    mut watchdog: Watchdog,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let caps = core.shared.options.caps;
    let executor = core.executor();
    let service = service_fn(move |request: Request<Incoming>| {
        let (core, connection) = (core.clone(), connection.clone());
        async move { Ok::<_, Infallible>(request::handle(core, connection, request).await) }
    });
    let mut http = hyper::server::conn::http2::Builder::new(executor);
    http.timer(TokioTimer::new())
        .max_concurrent_streams(caps.streams)
        .max_header_list_size(u32::try_from(caps.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(256 * 1024)
        // Rapid reset (CVE-2023-44487) and its relatives.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(64)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let mut http = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    loop {
        let act = tokio::select! {
            result = &mut http => {
                if let Err(error) = result {
                    tracing::debug!(error = %crate::error_text(&error), "a connection broke");
                }
                return;
            }
            act = watchdog.wait() => act,
        };
        match act {
            Act::Finish => http.as_mut().graceful_shutdown(),
            Act::HeadTimeout | Act::Close => return,
        }
    }
}
