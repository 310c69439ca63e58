//! HTTP/1.1 as attackers write it: bytes on a socket, nothing tidied up.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::demo::attack::Edge;
use crate::failure::{Failure, OrFail as _};

const TIMEOUT: Duration = Duration::from_secs(8);
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_BODY_BYTES: usize = 256 << 10;

/// What came back.
#[derive(Debug)]
pub(crate) enum Reply {
    Answer(Answer),
    /// TLS refused us: what the alert says.
    TlsRefused(String),
    /// Nothing, for another reason.
    Nothing(String),
}

/// An HTTP response, as far as attackers look at it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `x-testudo-reason`.
    pub(crate) reason: Option<String>,
    /// `x-request-id`.
    pub(crate) request_id: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// Sends bytes in plain.
pub(crate) async fn plain(address: &str, request: &[u8]) -> Reply {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        talk(stream, request).await
    };
    timed(exchange).await
}

/// Sends bytes over TLS.
pub(crate) async fn tls(
    address: &str,
    name: &ServerName<'static>,
    config: Arc<ClientConfig>,
    request: &[u8],
) -> Reply {
    let exchange = async {
        let stream = connect_tls(address, name, config).await?;
        talk(stream, request).await
    };
    timed(exchange).await
}

/// The same from this address of the machine: all of 127.0.0.0/8 is its own.
pub(crate) async fn tls_from(from: IpAddr, edge: &Edge, request: &[u8]) -> Reply {
    let exchange = async {
        let to: SocketAddr = edge.address.parse().map_err(std::io::Error::other)?;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        let stream = socket.connect(to).await?;
        let stream = TlsConnector::from(edge.tls.clone())
            .connect(edge.name.clone(), stream)
            .await?;
        talk(stream, request).await
    };
    timed(exchange).await
}

/// A TLS connection.
pub(crate) async fn connect_tls(
    address: &str,
    name: &ServerName<'static>,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config)
        .connect(name.clone(), stream)
        .await
}

async fn timed(exchange: impl Future<Output = std::io::Result<Answer>>) -> Reply {
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(answer)) => Reply::Answer(answer),
        Ok(Err(error)) => match tls_alert(&error) {
            Some(alert) => Reply::TlsRefused(alert),
            None => Reply::Nothing(error.to_string()),
        },
        Err(_) => Reply::Nothing("no answer in time".to_owned()),
    }
}

/// The alert by which the other side ended the handshake.
fn tls_alert(error: &std::io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(format!("{alert:?}")),
        _ => None,
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: &[u8],
) -> std::io::Result<Answer> {
    // A refusal may come before all of a large body was sent, and the connection close: read it all the same.
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await
    }
    .await;
    match read_answer(&mut stream).await {
        Ok(answer) => Ok(answer),
        Err(error) => Err(sent
            .err()
            .filter(|_| error.kind() == std::io::ErrorKind::UnexpectedEof)
            .unwrap_or(error)),
    }
}

pub(crate) async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > MAX_HEAD_BYTES {
            return Err(std::io::Error::other("the answer's head is too long"));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let body = bytes.split_off(end + 4);
    let (mut answer, framing) =
        parse_head(&bytes).ok_or_else(|| std::io::Error::other("that is not HTTP"))?;
    answer.body = body;
    while !framing.is_complete(&answer.body) && answer.body.len() < MAX_BODY_BYTES {
        // The status is what counts; a body that breaks off is as good.
        match stream.read_buf(&mut answer.body).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    Ok(answer)
}

/// How the end of a body is told (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
}

impl Framing {
    fn is_complete(self, body: &[u8]) -> bool {
        match self {
            Framing::Length(length) => body.len() >= length,
            Framing::Chunked => body.ends_with(b"0\r\n\r\n"),
            Framing::UntilClosed => false,
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The answer without its body, and how its body ends.
fn parse_head(head: &[u8]) -> Option<(Answer, Framing)> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines
        .next()?
        .strip_prefix("HTTP/1.")?
        .get(2..5)?
        .parse()
        .ok()?;
    let mut answer = Answer {
        status,
        ..Answer::default()
    };
    let mut framing = Framing::UntilClosed;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "x-testudo-reason" => answer.reason = Some(value),
            "x-request-id" => answer.request_id = Some(value),
            "content-length" => framing = value.parse().map_or(framing, Framing::Length),
            "transfer-encoding" => framing = Framing::Chunked,
            _ => {}
        }
    }
    if matches!(status, 204 | 304) {
        framing = Framing::Length(0);
    }
    Some((answer, framing))
}

/// TLS as any client of the gateway uses it: trusts the mesh's root, HTTP/1.1 only.
pub(crate) fn client_config(root_pem: &[u8]) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    for root in testudo_identity::pem::decode_certificates(root_pem)
        .or_fail(|| "the mesh's root cannot be read")?
    {
        roots
            .add(root)
            .or_fail(|| "the mesh's root cannot be used")?;
    }
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder
        .or_fail(|| "cannot prepare TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// TLS as a thief uses it: takes any server, presents what was stolen or made.
pub(crate) fn thief_config(identity: Option<CertifiedKey>) -> Result<Arc<ClientConfig>, Failure> {
    let provider = provider();
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder
        .or_fail(|| "cannot prepare TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer { provider }));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A thief does not care whom he talks to. Only attackers of the demo use this.
#[derive(Debug)]
struct AnyServer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Sends the same request again and again over one connection; the last answer, which is the first 429 if any is.
pub(crate) async fn until_refused(edge: &Edge, request: &[u8], times: u32) -> Reply {
    let exchange = async {
        let mut stream = connect_tls(&edge.address, &edge.name, edge.tls.clone()).await?;
        let mut last = Answer::default();
        for _ in 0..times {
            stream.write_all(request).await?;
            stream.flush().await?;
            last = read_answer(&mut stream).await?;
            if last.status == 429 {
                break;
            }
        }
        Ok(last)
    };
    timed(exchange).await
}

/// The port of `HOST:PORT`.
pub(crate) fn socket(address: &str) -> Result<SocketAddr, Failure> {
    address
        .parse()
        .or_fail(|| format!("{address} is no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let head = b"HTTP/1.1 403 Forbidden\r\nX-Testudo-Reason: authz.user\r\ncontent-length: 7\r\nx-request-id:  a b ";
        let (answer, framing) = parse_head(head).unwrap();
        assert_eq!(framing, Framing::Length(7));
        let expected = Answer {
            status: 403,
            reason: Some("authz.user".to_owned()),
            request_id: Some("a b".to_owned()),
            body: Vec::new(),
        };
        assert_eq!(answer, expected);
        assert!(parse_head(b"SSH-2.0").is_none());
    }
}
