//! A byte stream that remembers when something last happened on it: what idle, head and write times are
//! judged by, without a timer for each read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use testudo_watch::{ConnectionKind, Metrics};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// When something last happened on a connection. Milliseconds since it began; zero: not now.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    requests: AtomicU32,
    last: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Activity {
            began: Instant::now(),
            requests: AtomicU32::new(0),
            last: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// A request's head is complete.
    pub(crate) fn request_begins(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
    }

    /// Its response has been handed over, or it was given up.
    pub(crate) fn request_ends(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.last.store(self.now(), Ordering::Relaxed);
    }

    /// Requests at this moment.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// For how long there has been no request; `None`: there is one.
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.requests() == 0)
            .then(|| self.since(&self.last))
            .flatten()
    }

    /// For how long a head has been arriving.
    pub(crate) fn head(&self) -> Option<Duration> {
        (self.requests() == 0)
            .then(|| self.since(&self.head_since))
            .flatten()
    }

    /// For how long the other side has not taken what we want to send.
    pub(crate) fn blocked(&self) -> Option<Duration> {
        self.since(&self.blocked_since)
    }

    fn since(&self, moment: &AtomicU64) -> Option<Duration> {
        let moment = moment.load(Ordering::Relaxed);
        (moment != 0).then(|| Duration::from_millis(self.now().saturating_sub(moment)))
    }

    fn was_read(&self) {
        if self.requests() == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    fn wrote<T>(&self, result: &Poll<T>) {
        if result.is_ready() {
            self.blocked_since.store(0, Ordering::Relaxed);
        } else if self.blocked_since.load(Ordering::Relaxed) == 0 {
            self.blocked_since.store(self.now(), Ordering::Relaxed);
        }
    }
}

/// A request that a connection is busy with.
pub(crate) struct Active {
    activity: Arc<Activity>,
    metrics: Arc<Metrics>,
}

impl Active {
    /// Its head is complete.
    pub(crate) fn begin(activity: &Arc<Activity>, metrics: &Arc<Metrics>) -> Self {
        activity.request_begins();
        metrics.request_began();
        Active {
            activity: activity.clone(),
            metrics: metrics.clone(),
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.activity.request_ends();
        self.metrics.request_ended();
    }
}

/// An open connection, as the metrics see it.
pub(crate) struct OpenConnection {
    metrics: Arc<Metrics>,
    kind: ConnectionKind,
}

impl OpenConnection {
    pub(crate) fn new(metrics: &Arc<Metrics>, kind: ConnectionKind) -> Self {
        metrics.connection_opened(kind);
        OpenConnection {
            metrics: metrics.clone(),
            kind,
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.connection_closed(self.kind);
    }
}

/// A stream whose activity is remembered.
pub(crate) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Watched { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.activity.was_read();
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.activity.wrote(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.activity.wrote(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.activity.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// RFC 9113 §3.4: how a client that knows beforehand begins HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first bytes of a connection without TLS.
pub(crate) struct Opening {
    /// What was read.
    pub(crate) bytes: Bytes,
    /// Whether it is HTTP/2's preface.
    pub(crate) http2: bool,
}

/// Reads until it is clear whether this is HTTP/2.
pub(crate) async fn opening<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Opening> {
    let mut bytes = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let length = bytes.len().min(PREFACE.len());
        let same = bytes.get(..length) == PREFACE.get(..length);
        if !same || length == PREFACE.len() {
            return Ok(Opening {
                bytes: bytes.freeze(),
                http2: same,
            });
        }
    }
}

/// A stream whose first bytes were read already, and are read again.
pub(crate) struct Replayed<S> {
    first: Bytes,
    stream: S,
}

impl<S> Replayed<S> {
    pub(crate) fn new(first: Bytes, stream: S) -> Self {
        Replayed { first, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replayed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replayed<S> {
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn open(pieces: &[&[u8]]) -> Opening {
        let (mut client, mut server) = tokio::io::duplex(64);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let write = async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (opened, ()) = tokio::join!(opening(&mut server), write);
        opened.unwrap()
    }

    #[tokio::test]
    async fn http2_is_known_by_its_preface_in_any_pieces() {
        assert!(open(&[PREFACE]).await.http2);
        assert!(
            open(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n"])
                .await
                .http2
        );
        let opened = open(&[b"PRI", b" /x HTTP/1.1\r\n"]).await;
        assert!(!opened.http2);
        assert_eq!(opened.bytes, "PRI /x HTTP/1.1\r\n");
        assert!(!open(&[b"G"]).await.http2);
    }

    #[tokio::test]
    async fn what_was_read_is_read_again() {
        let (client, server) = tokio::io::duplex(64);
        let mut replayed = Replayed::new(Bytes::from_static(b"abc"), server);
        let (mut first, mut rest) = ([0; 2], [0; 3]);
        let mut client = client;
        client.write_all(b"de").await.unwrap();
        replayed.read_exact(&mut first).await.unwrap();
        replayed.read_exact(&mut rest).await.unwrap();
        assert_eq!((&first, &rest), (b"ab", b"cde"));
    }

    #[test]
    fn a_request_is_neither_idle_nor_a_slow_head() {
        let activity = Activity::new();
        assert!(activity.idle().is_some() && activity.head().is_none());
        activity.was_read();
        assert!(activity.head().is_some());
        activity.request_begins();
        activity.was_read();
        assert!(activity.idle().is_none() && activity.head().is_none());
        activity.request_ends();
        assert!(activity.idle().is_some() && activity.head().is_none());
        activity.wrote(&Poll::<()>::Pending);
        assert!(activity.blocked().is_some());
        activity.wrote(&Poll::Ready(()));
        assert!(activity.blocked().is_none());
    }
}
