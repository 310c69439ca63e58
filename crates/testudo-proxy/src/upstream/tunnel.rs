//! Tunnels: WebSocket after a validated 101, and CONNECT. Bytes pass both ways until one end closes, nothing
//! passes for long, the user's credential expires, the peer is not believed any more, or the proxy stops.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::lifetime::Lifetime;
use crate::observation::Observation;

/// RFC 6455 §1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a response completes the WebSocket handshake that a request with this key began
/// (RFC 6455 §4.1, what a client must check).
pub(crate) fn accepts_websocket(
    key: Option<&HeaderValue>,
    status: StatusCode,
    headers: &HeaderMap,
) -> bool {
    let Some(key) = key else {
        return false;
    };
    let mut text = key.as_bytes().to_vec();
    text.extend_from_slice(WEBSOCKET_GUID);
    // SHA-1 is what the standard says; nothing secret hangs on it.
    let wanted = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text));
    let accept = headers
        .get("sec-websocket-accept")
        .is_some_and(|accept| accept.as_bytes() == wanted.as_bytes());
    status == StatusCode::SWITCHING_PROTOCOLS
        && accept
        && has_token(headers, &header::UPGRADE, "websocket")
        && has_token(headers, &header::CONNECTION, "upgrade")
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// A tunnel in the making: until when it may stand, and what is seen of it.
pub(crate) struct Tunnel {
    pub(crate) lifetime: Lifetime,
    pub(crate) observation: Box<Observation>,
}

impl Tunnel {
    /// Passes bytes until it must end.
    pub(crate) async fn run(mut self, client: impl Pipe, server: impl Pipe) {
        let moved = Rc::new(Moved::new());
        let (from_client, from_server) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let mut client = Counted::new(client, &from_client, &moved);
        let mut server = Counted::new(server, &from_server, &moved);
        let idle = self.lifetime.core.shared.options.caps.tunnel_idle;
        let why = tokio::select! {
            result = tokio::io::copy_bidirectional(&mut client, &mut server) => match result {
                Ok(_) => "both ends are done",
                Err(_) => "one end broke off",
            },
            why = self.lifetime.ended() => why,
            () = moved.stops(idle) => "nothing passed for long",
        };
        tracing::debug!(why, "a tunnel ends");
        self.observation.transfer.bytes_in.set(from_client.get());
        self.observation.bytes_out = from_server.get();
    }
}

/// What a tunnel needs of its ends.
pub(crate) trait Pipe: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Pipe for S {}

/// When a byte last passed, in either direction.
struct Moved {
    last: Cell<Instant>,
}

impl Moved {
    fn new() -> Self {
        Moved {
            last: Cell::new(Instant::now()),
        }
    }

    /// Waits until nothing has passed for so long.
    async fn stops(&self, idle: Duration) {
        loop {
            let quiet = self.last.get().elapsed();
            if quiet >= idle {
                return;
            }
            tokio::time::sleep(idle - quiet).await;
        }
    }
}

/// Counts what is read.
struct Counted<S> {
    stream: S,
    read: Rc<Cell<u64>>,
    moved: Rc<Moved>,
}

impl<S> Counted<S> {
    fn new(stream: S, read: &Rc<Cell<u64>>, moved: &Rc<Moved>) -> Self {
        Counted {
            stream,
            read: read.clone(),
            moved: moved.clone(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.read.set(self.read.get() + read as u64);
            self.moved.last.set(Instant::now());
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn response(accept: &str, upgrade: &str, connection: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("sec-websocket-accept", accept.parse().unwrap());
        headers.insert(header::UPGRADE, upgrade.parse().unwrap());
        headers.insert(header::CONNECTION, connection.parse().unwrap());
        headers
    }

    #[test]
    fn only_a_complete_handshake_is_taken() {
        let key = HeaderValue::from_static(KEY);
        let switching = StatusCode::SWITCHING_PROTOCOLS;
        let good = response(ACCEPT, "WebSocket", "keep-alive, Upgrade");
        assert!(accepts_websocket(Some(&key), switching, &good));
        assert!(!accepts_websocket(None, switching, &good));
        assert!(!accepts_websocket(Some(&key), StatusCode::OK, &good));
        for bad in [
            response("AAAA", "websocket", "upgrade"),
            response(ACCEPT, "h2c", "upgrade"),
            response(ACCEPT, "websocket", "close"),
        ] {
            assert!(!accepts_websocket(Some(&key), switching, &bad));
        }
    }
}
