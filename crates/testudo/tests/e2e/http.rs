//! A small, blunt HTTP/1.1 client: it sends exactly the bytes that a test wants to send, and reads
//! exactly one response.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// A response, read to its end.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The reason of a denial: header and problem document must agree.
    pub fn reason(&self) -> Option<String> {
        let header = self.header("x-testudo-reason").map(str::to_string);
        if let Some(reason) = &header {
            assert_eq!(
                self.header("content-type"),
                Some("application/problem+json"),
                "{self:?}"
            );
            let problem = self.json();
            assert_eq!(problem["reason"], **reason, "{self:?}");
            assert_eq!(problem["status"], self.status, "{self:?}");
            assert_eq!(
                problem["request_id"].as_str(),
                self.header("x-request-id"),
                "{self:?}"
            );
        }
        header
    }

    /// `(status, reason)`, to compare with what a test expects.
    pub fn verdict(&self) -> (u16, Option<String>) {
        (self.status, self.reason())
    }
}

/// Where and how to connect.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Option<(Arc<ClientConfig>, String)>,
}

pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Target {
    pub fn plain(address: SocketAddr) -> Target {
        Target { address, tls: None }
    }

    pub fn tls(address: SocketAddr, config: Arc<ClientConfig>, server_name: &str) -> Target {
        Target {
            address,
            tls: Some((config, server_name.to_string())),
        }
    }

    pub fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        self.over(stream)
    }

    /// The same over a connection that stands already.
    pub fn over(&self, stream: TcpStream) -> std::io::Result<Box<dyn Stream>> {
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((config, name)) => {
                let name = ServerName::try_from(name.clone()).unwrap();
                let connection = ClientConnection::new(Arc::clone(config), name)
                    .map_err(std::io::Error::other)?;
                Ok(Box::new(StreamOwned::new(connection, stream)))
            }
        }
    }

    /// Sends these bytes and reads one response.
    pub fn raw(&self, bytes: &[u8]) -> std::io::Result<Response> {
        let mut stream = self.connect()?;
        // A server that refuses early may close before all was sent: its answer still counts.
        let _ = stream.write_all(bytes).and_then(|()| stream.flush());
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(8)]).into_owned();
        read_response(&mut *stream, head.starts_with("HEAD "))
    }

    /// A well-formed request.
    pub fn send(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let bytes = [head.as_bytes(), body].concat();
        self.raw(&bytes)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }
}

/// A TLS client that trusts these roots (PEM).
pub fn client_config(roots_pem: &str, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in testudo_identity::pem::decode_certificates(roots_pem.as_bytes()).unwrap() {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// Reads one response; interim ones (1xx) are skipped.
pub fn read_response(stream: &mut dyn Stream, head_only: bool) -> std::io::Result<Response> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if read_more(stream, &mut buffer)? == 0 {
                return Err(std::io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "closed before a response",
                ));
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let mut lines = head.lines();
        let status: u16 = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_string()))
            .collect();
        let mut rest = buffer.split_off(end);
        if (100..200).contains(&status) && status != 101 {
            buffer = rest;
            continue;
        }
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        if head_only || status == 204 || status == 304 || status == 101 {
            return Ok(response);
        }
        if let Some(length) = response
            .header("content-length")
            .and_then(|length| length.parse::<usize>().ok())
        {
            while rest.len() < length && read_more(stream, &mut rest)? > 0 {}
            rest.truncate(length);
            response.body = rest;
        } else if response.header("transfer-encoding") == Some("chunked") {
            response.body = read_chunks(stream, rest)?;
        } else {
            while read_more(stream, &mut rest)? > 0 {}
            response.body = rest;
        }
        return Ok(response);
    }
}

fn read_more(stream: &mut dyn Stream, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut chunk = [0; 16 * 1024];
    match stream.read(&mut chunk) {
        Ok(read) => {
            buffer.extend_from_slice(&chunk[..read]);
            Ok(read)
        }
        // rustls reports a missing close_notify this way; the framing says whether anything is missing.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ) =>
        {
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

fn read_chunks(stream: &mut dyn Stream, mut buffer: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = loop {
            if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
                buffer.drain(..end + 2);
                break line;
            }
            if read_more(stream, &mut buffer)? == 0 {
                return Err(std::io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "closed within chunks",
                ));
            }
        };
        let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
            .map_err(std::io::Error::other)?;
        if size == 0 {
            return Ok(body);
        }
        while buffer.len() < size + 2 {
            if read_more(stream, &mut buffer)? == 0 {
                return Err(std::io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "closed within a chunk",
                ));
            }
        }
        body.extend(buffer.drain(..size));
        buffer.drain(..2);
    }
}
