//! Clients that send exactly what a test says, over TCP, a Unix socket or TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

type Body = BoxBody<Bytes, Infallible>;

/// One connection to a server.
pub enum Client {
    /// HTTP/1.1.
    Http1(http1::SendRequest<Body>),
    /// HTTP/2.
    Http2(http2::SendRequest<Body>),
}

/// A complete response.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// A header's text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// `x-testudo-reason`; empty where there is none.
    pub fn reason(&self) -> &str {
        self.header("x-testudo-reason")
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Client {
    /// Plain HTTP/1.1.
    pub async fn http1(address: SocketAddr) -> Self {
        Self::http1_over(TcpStream::connect(address).await.unwrap()).await
    }

    /// Plain HTTP/1.1 through a Unix socket.
    pub async fn unix(path: &Path) -> Self {
        Self::http1_over(UnixStream::connect(path).await.unwrap()).await
    }

    /// HTTP/1.1 over any stream.
    pub async fn http1_over<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Client::Http1(sender)
    }

    /// HTTP/2 over any stream (prior knowledge, or after ALPN).
    pub async fn http2_over<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Client::Http2(sender)
    }

    /// TLS with this server name; HTTP/2 where that was negotiated.
    pub async fn tls(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Self {
        let stream = tls(address, name, config).await.unwrap();
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Self::http2_over(stream).await
        } else {
            Self::http1_over(stream).await
        }
    }

    /// Sends a request and waits for the whole response.
    ///
    /// # Panics
    /// The connection breaks.
    pub async fn send(&mut self, request: Request<impl Into<Bytes>>) -> Reply {
        self.try_send(request).await.expect("a response")
    }

    /// The same where the connection may break.
    ///
    /// # Errors
    /// It broke.
    pub async fn try_send(
        &mut self,
        request: Request<impl Into<Bytes>>,
    ) -> Result<Reply, hyper::Error> {
        let response = self
            .stream(request.map(|body| Full::new(body.into()).boxed()))
            .await?;
        read(response).await
    }

    /// Sends a request with any body, and gives the response before its body.
    ///
    /// # Errors
    /// The connection breaks.
    pub async fn stream(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        match self {
            Client::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Client::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&self) -> bool {
        match self {
            Client::Http1(sender) => sender.is_closed(),
            Client::Http2(sender) => sender.is_closed(),
        }
    }
}

/// Reads a response whole.
///
/// # Errors
/// It broke off.
pub async fn read(response: Response<Incoming>) -> Result<Reply, hyper::Error> {
    let (head, mut body) = response.into_parts();
    let (mut bytes, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Reply {
        status: head.status,
        headers: head.headers,
        body: bytes.freeze(),
        trailers,
    })
}

/// A TLS connection.
///
/// # Errors
/// The handshake fails.
pub async fn tls(
    address: SocketAddr,
    name: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
    TlsConnector::from(config.clone())
        .connect(name, stream)
        .await
}

/// Sends bytes as they are and reads until the server closes or stops for two seconds.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let limit = std::time::Duration::from_secs(2);
    let mut chunk = [0; 4096];
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(limit, stream.read(&mut chunk)).await {
        answer.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
