//! Calling other services: as `http://NAME.mesh/` through the sidecar in `HTTP_PROXY`, or directly.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::http::read;

/// What an application must pass on so that the mesh knows for whom it acts.
const FORWARDED: [&str; 2] = ["txn-token", "traceparent"];
/// Without a mesh the naive way is to hand the user's own credential around.
const FORWARDED_BARE: [&str; 3] = ["authorization", "x-testudo-user", "traceparent"];
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_RESPONSE_BYTES: usize = 4 << 20;
const IDLE_CONNECTIONS: usize = 16;

/// The other services, by name.
pub(crate) struct Peers {
    bare: HashMap<String, String>,
    proxy: Option<Proxy>,
    idle: RefCell<HashMap<String, Vec<SendRequest<Full<Bytes>>>>>,
}

struct Proxy {
    address: String,
    authorization: Option<HeaderValue>,
}

/// Why a call came to nothing.
pub(crate) type CallError = Box<dyn std::error::Error + Send + Sync>;

impl Peers {
    /// `proxy`: `http://USER:PASSWORD@HOST:PORT`, as in `HTTP_PROXY`.
    pub(crate) fn new(
        bare: Vec<(String, String)>,
        proxy: Option<&str>,
    ) -> Result<Peers, CallError> {
        Ok(Peers {
            bare: bare.into_iter().collect(),
            proxy: proxy.map(Proxy::parse).transpose()?,
            idle: RefCell::default(),
        })
    }

    /// Calls `path` of a peer on behalf of the request with these headers.
    pub(crate) async fn call(
        &self,
        peer: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        incoming: &HeaderMap,
    ) -> Result<(StatusCode, Value), CallError> {
        let (address, request) = self.request(peer, method, path, body, incoming)?;
        let exchange = async {
            let mut sender = self.connection(&address).await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = read(response.into_body(), MAX_RESPONSE_BYTES).await?;
            self.keep(&address, sender);
            Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        tokio::time::timeout(TIMEOUT, exchange).await?
    }

    fn request(
        &self,
        peer: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        incoming: &HeaderMap,
    ) -> Result<(String, Request<Full<Bytes>>), CallError> {
        let mut builder = Request::builder().method(method);
        let (address, forwarded): (_, &[&str]) = if let Some(url) = self.bare.get(peer) {
            let url: Uri = url.parse()?;
            let authority = url.authority().ok_or("a peer's URL needs a host")?.clone();
            builder = builder.uri(path).header(header::HOST, authority.as_str());
            (authority.to_string(), &FORWARDED_BARE)
        } else {
            let host = format!("{peer}.mesh");
            let proxy = self
                .proxy
                .as_ref()
                .ok_or("neither HTTP_PROXY nor --bare-peer says how to reach peers")?;
            builder = builder
                .uri(format!("http://{host}{path}"))
                .header(header::HOST, host);
            if let Some(authorization) = &proxy.authorization {
                builder = builder.header(header::PROXY_AUTHORIZATION, authorization);
            }
            (proxy.address.clone(), &FORWARDED)
        };
        for name in forwarded {
            for value in incoming.get_all(*name) {
                builder = builder.header(*name, value);
            }
        }
        let bytes = match body {
            Some(body) => {
                builder = builder.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        Ok((address, builder.body(Full::new(bytes))?))
    }

    async fn connection(&self, address: &str) -> Result<SendRequest<Full<Bytes>>, CallError> {
        while let Some(mut sender) = self.take_idle(address) {
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    fn take_idle(&self, address: &str) -> Option<SendRequest<Full<Bytes>>> {
        self.idle.borrow_mut().get_mut(address)?.pop()
    }

    fn keep(&self, address: &str, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.entry(address.to_owned()).or_default();
        if idle.len() < IDLE_CONNECTIONS && !sender.is_closed() {
            idle.push(sender);
        }
    }
}

impl Proxy {
    fn parse(url: &str) -> Result<Proxy, CallError> {
        let rest = url
            .strip_prefix("http://")
            .ok_or("HTTP_PROXY must begin with http://")?
            .trim_end_matches('/');
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, rest),
        };
        let authorization = credentials.map(|credentials| {
            let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
            HeaderValue::try_from(format!("Basic {encoded}"))
        });
        Ok(Proxy {
            address: address.to_owned(),
            authorization: authorization.transpose()?,
        })
    }
}
