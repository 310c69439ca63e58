//! The bytes of an HTTP/1 client on their way to hyper, framed strictly by guard first
//! ([`testudo_guard::screen`]).
//!
//! A complete head passes where it was read, without a copy. What guard refuses never reaches hyper: a
//! stand-in does, and the handler answers it with what [`Wire`] remembers.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use testudo_guard::screen::{HeadLimits, Next, Refusal, STAND_IN, STAND_IN_METHOD, Screen};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Read at once while a head is incomplete.
const PIECE: usize = 4 * 1024;
/// What a refused client may still send before the connection is reset under it.
const LINGER_BYTES: usize = 256 * 1024;
/// How long it may take to read our answer.
const LINGER: Duration = Duration::from_millis(500);

/// What a connection's bytes and its requests say to each other.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    answered: AtomicU64,
    tunnel: AtomicBool,
    refusal: OnceLock<Box<Refusal>>,
}

impl Wire {
    /// One more request was answered: with a tunnel, or with a response after which HTTP goes on.
    pub(crate) fn answered(&self, tunnel: bool) {
        if tunnel {
            self.tunnel.store(true, Ordering::Release);
        }
        self.answered.fetch_add(1, Ordering::AcqRel);
    }

    /// Why this request was refused before hyper saw it, if it was. A client that spells the stand-in
    /// itself gains nothing by it: it is an unknown method like any other.
    pub(crate) fn refusal(&self, head: &Parts) -> Option<&Refusal> {
        self.refusal
            .get()
            .map(|refusal| &**refusal)
            .filter(|_| head.method.as_str() == STAND_IN_METHOD)
    }
}

/// A stream that is screened.
pub(crate) struct Screened<S> {
    stream: S,
    screen: Screen,
    wire: Arc<Wire>,
    /// Read, and not to pass yet.
    kept: BytesMut,
    /// To pass before anything else.
    passing: Bytes,
    end: End,
    lingered: usize,
    linger: Option<Pin<Box<Sleep>>>,
}

/// How the bytes that pass end.
#[derive(Clone, Copy)]
enum End {
    Open,
    /// After the stand-in nothing passes.
    Refused,
    Broken(&'static str),
}

impl<S> Screened<S> {
    pub(crate) fn new(stream: S, limits: HeadLimits, wire: Arc<Wire>) -> Self {
        Screened {
            stream,
            screen: Screen::new(limits),
            wire,
            kept: BytesMut::new(),
            passing: Bytes::new(),
            end: End::Open,
            lingered: 0,
            linger: None,
        }
    }

    /// What is to be done after the screen has seen bytes. Says whether it waits for a decision.
    fn then(&mut self, next: Next) {
        match next {
            Next::More | Next::Wait => {}
            Next::Refuse(refusal) => {
                self.kept = BytesMut::new();
                self.end = End::Refused;
                let _ = self.wire.refusal.set(refusal);
                self.passing = if self.passing.is_empty() {
                    Bytes::from_static(STAND_IN)
                } else {
                    [&self.passing, STAND_IN].concat().into()
                };
            }
            Next::Break(why) => {
                self.kept = BytesMut::new();
                self.end = End::Broken(why);
            }
        }
    }

    fn screen_kept(&mut self) {
        let (passed, next) = self.screen.feed(&self.kept);
        self.passing = self.kept.split_to(passed).freeze();
        self.then(next);
    }

    /// Whether the last request was answered, where it may have ended HTTP.
    fn is_decided(&mut self) -> bool {
        if self.wire.answered.load(Ordering::Acquire) < self.screen.heads() {
            return false;
        }
        self.screen.decide(self.wire.tunnel.load(Ordering::Acquire));
        true
    }
}

impl<S: AsyncRead + Unpin> Screened<S> {
    /// The usual case: nothing is kept, and what comes passes where it was read.
    fn read_through(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let length = new.len();
        if length > 0 {
            let (passed, next) = self.screen.feed(new);
            self.kept
                .extend_from_slice(new.get(passed..).unwrap_or_default());
            buf.set_filled(before + passed);
            self.then(next);
        }
        Poll::Ready(Ok(length))
    }

    /// A head comes in pieces.
    fn read_more(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut piece = [0_u8; PIECE];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        let length = piece.filled().len();
        if length > 0 {
            self.kept.extend_from_slice(piece.filled());
            self.screen_kept();
        }
        Poll::Ready(Ok(length))
    }

    /// Takes what a refused client still sends, so that closing does not throw our answer away.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            let mut piece = [0_u8; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
            self.lingered += piece.filled().len();
            if piece.filled().is_empty() || self.lingered > LINGER_BYTES {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            if !this.passing.is_empty() {
                let length = this.passing.len().min(buf.remaining());
                buf.put_slice(this.passing.get(..length).unwrap_or_default());
                this.passing.advance(length);
            }
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.end {
                End::Open => {}
                End::Refused => return this.poll_discard(cx),
                End::Broken(why) => {
                    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, why);
                    return Poll::Ready(Err(error));
                }
            }
            if this.screen.waits() {
                // hyper asks again once it has written the response, which is what decides.
                if !this.is_decided() {
                    return Poll::Pending;
                }
                this.screen_kept();
                continue;
            }
            let read = if this.kept.is_empty() {
                ready!(this.read_through(cx, buf))?
            } else {
                ready!(this.read_more(cx))?
            };
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Screened<S> {
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
        let this = &mut *self;
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        if matches!(this.end, End::Open) {
            return Poll::Ready(Ok(()));
        }
        // A close with bytes unread would reset the connection, and the answer with it.
        if this.poll_discard(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let linger = this
            .linger
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        linger.as_mut().poll(cx).map(Ok)
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
