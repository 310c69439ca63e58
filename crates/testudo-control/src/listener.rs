//! The mesh port: TLS 1.3 with an optional client certificate, handed to tonic.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use testudo_identity::{MeshTls, VerifiedPeer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes at once.
const HANDSHAKES: usize = 64;

/// The other end of a connection, in the extensions of every request on it.
#[derive(Clone)]
pub(crate) struct MeshPeer {
    /// What its certificate proved; `None` without one (to join).
    pub(crate) verified: Option<VerifiedPeer>,
}

/// An accepted connection.
pub(crate) struct MeshStream {
    stream: TlsStream<TcpStream>,
    peer: MeshPeer,
}

impl Connected for MeshStream {
    type ConnectInfo = MeshPeer;

    fn connect_info(&self) -> MeshPeer {
        self.peer.clone()
    }
}

/// Accepts connections until `stop`.
///
/// # Errors
/// When rustls refuses the configuration.
pub(crate) fn accept(
    listener: TcpListener,
    tls: Arc<MeshTls>,
    stop: CancellationToken,
) -> Result<ReceiverStream<Result<MeshStream, std::io::Error>>, rustls::Error> {
    let (sender, receiver) = mpsc::channel(16);
    let acceptor = TlsAcceptor::from(tls.control_server_config()?);
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Ok((stream, address)) = accepted else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (acceptor, sender, tls) = (acceptor.clone(), sender.clone(), Arc::clone(&tls));
            tokio::spawn(async move {
                let _slot = slot;
                let _ = stream.set_nodelay(true);
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        match tls.admit_to_control(stream.get_ref().1.peer_certificates()) {
                            Ok(verified) => {
                                let peer = MeshPeer { verified };
                                let _ = sender.send(Ok(MeshStream { stream, peer })).await;
                            }
                            Err(error) => {
                                tracing::warn!(%address, %error, "a peer was refused on the mesh port")
                            }
                        }
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(%address, %error, "TLS refused on the mesh port")
                    }
                    Err(_) => {
                        tracing::warn!(%address, "a TLS handshake on the mesh port took too long")
                    }
                }
            });
        }
    });
    Ok(ReceiverStream::new(receiver))
}

impl AsyncRead for MeshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
