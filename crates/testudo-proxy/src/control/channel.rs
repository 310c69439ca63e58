//! Connections to control's mesh port: tonic over our own TLS, which proves control's identity.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use testudo_model::mesh::mesh_client::MeshClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

/// Until a connection, TLS included, must stand.
const CONNECT: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping so long is gone.
const PING: Duration = Duration::from_secs(10);
/// Largest message: one file of a bundle (`testudo_policy::bundle::MAX_FILE_BYTES`), and what is around it.
const MAX_MESSAGE_BYTES: usize = (16 << 20) + 64 * 1024;

/// The stubs over one connection.
pub(super) type Client = MeshClient<Channel>;

/// Connects once; the channel ends with its connection.
pub(super) async fn connect(
    control: &str,
    tls: Arc<ClientConfig>,
) -> Result<Client, tonic::transport::Error> {
    // What tonic calls the URI goes nowhere: the connector knows the address, TLS knows the peer.
    let endpoint = Endpoint::from_static("http://control.testudo")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true);
    let connector = Connector {
        control: Arc::from(control),
        tls: TlsConnector::from(tls),
    };
    let channel = endpoint.connect_with_connector(connector).await?;
    Ok(MeshClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// The address of this host as control sees it, for proxies that listen on all of them.
pub(super) async fn local_address(control: &str) -> Option<IpAddr> {
    let target: SocketAddr = tokio::net::lookup_host(control).await.ok()?.next()?;
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Connecting a datagram socket sends nothing; it asks the kernel for the route.
    let socket = tokio::net::UdpSocket::bind(any).await.ok()?;
    socket.connect(target).await.ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[derive(Clone)]
struct Connector {
    control: Arc<str>,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Connector { control, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(&*control).await?;
            stream.set_nodelay(true)?;
            let name = testudo_identity::tls::server_name();
            tls.connect(name, stream).await.map(TokioIo::new)
        })
    }
}

/// Waiting between attempts: doubled each time up to a cap, and spread, so that proxies that lost
/// control together do not come back all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    cap: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);

    /// For reaching control at this address: on the same host it is back soon, and costs little to ask.
    pub(super) fn to(control: &str) -> Self {
        let loopback = control
            .parse::<SocketAddr>()
            .is_ok_and(|address| address.ip().is_loopback())
            || control.starts_with("localhost:");
        Backoff::up_to(Duration::from_secs(if loopback { 2 } else { 10 }))
    }

    pub(super) fn up_to(cap: Duration) -> Self {
        Backoff {
            next: Self::FIRST,
            cap,
        }
    }

    pub(super) fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = self.next.min(self.cap);
        self.next = (self.next * 2).min(self.cap);
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_file_fits_into_a_message() {
        assert!(MAX_MESSAGE_BYTES as u64 > testudo_policy::bundle::MAX_FILE_BYTES);
    }

    #[test]
    fn waiting_grows_to_the_cap_and_is_spread() {
        let mut backoff = Backoff::to("127.0.0.1:7101");
        let waits: Vec<_> = (0..12).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] <= Duration::from_millis(50) && waits[0] >= Duration::from_millis(25));
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(2)));
        assert!(waits[11] >= Duration::from_secs(1));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(50));
    }
}
