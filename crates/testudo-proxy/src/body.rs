//! Bodies in both directions: capped, timed, counted, and never held whole unless guard asks for it.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use testudo_guard::{Denial, normalize};
use testudo_model::Reason;
use tokio::time::{Instant, Sleep};

use crate::io::Active;
use crate::lifetime::Lifetime;
use crate::observation::{Observation, Transfer};
use crate::options::Caps;
use crate::upstream::Lease;

/// Why a body ended early. Ends the connection or the stream; the reason is in the event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The other side broke off.
    #[error("the body broke off")]
    Broken(#[source] hyper::Error),
    /// The request body is over its cap.
    #[error("the body is over its limit")]
    TooLarge,
    /// The client stopped sending.
    #[error("the body stopped arriving")]
    Stalled,
    /// The stream may not go on.
    #[error("the stream is ended: {0}")]
    Ended(&'static str),
}

/// Reads a whole request body, at most `limit` bytes (DESIGN §8 step 4, `Buffer`).
///
/// # Errors
/// `request.too_large`, `request.timeout`, `overloaded`, or `request.malformed` where the framing breaks.
pub(crate) async fn read_whole(
    mut body: Incoming,
    limit: u64,
    caps: &Caps,
    transfer: &Transfer,
    held: &mut Held,
) -> Result<(Bytes, Option<HeaderMap>), Denial> {
    if body.size_hint().lower() > limit {
        return Err(too_large(limit));
    }
    let deadline = Instant::now() + caps.body_total;
    let mut chunks = Chunks::default();
    let mut trailers = None;
    loop {
        let wait = deadline.min(Instant::now() + caps.body_idle);
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let frame = match tokio::time::timeout_at(wait, next).await {
            Err(_) => {
                return Err(Denial::new(
                    Reason::RequestTimeout,
                    "the body did not arrive in time",
                ));
            }
            Ok(None) => return Ok((chunks.finish(), trailers)),
            Ok(Some(Err(_))) => {
                return Err(Denial::new(Reason::RequestMalformed, "the body broke off"));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                let length = transfer.bytes_in.get() + data.len() as u64;
                transfer.bytes_in.set(length);
                if length > limit {
                    return Err(too_large(limit));
                }
                if !held.grow(data.len()) {
                    let detail = "too many bodies wait to be judged";
                    return Err(Denial::new(Reason::Overloaded, detail));
                }
                chunks.push(data);
            }
            Err(other) => trailers = other.into_trailers().ok().map(filter_trailers),
        }
    }
}

/// Bytes of bodies that all cores hold back at once; bounded, since a cap for each request is none for all.
#[derive(Clone, Debug)]
pub(crate) struct HeldBytes {
    total: Arc<AtomicUsize>,
    limit: usize,
}

impl HeldBytes {
    pub(crate) fn new(limit: usize) -> Self {
        HeldBytes {
            total: Arc::default(),
            limit,
        }
    }

    /// Nothing yet, for one request.
    pub(crate) fn hold(&self) -> Held {
        Held {
            all: self.clone(),
            bytes: 0,
        }
    }
}

/// What one request holds; given back on drop.
#[derive(Debug)]
pub(crate) struct Held {
    all: HeldBytes,
    bytes: usize,
}

impl Held {
    /// Whether so many more bytes may be held.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let before = self.all.total.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.all.limit {
            self.all.total.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The denial of a body over its cap.
pub(crate) fn too_large(limit: u64) -> Denial {
    Denial::new(
        Reason::RequestTooLarge,
        format!("the body is over {limit} bytes"),
    )
}

/// One chunk stays as it is; several are joined.
#[derive(Default)]
struct Chunks {
    first: Bytes,
    rest: BytesMut,
}

impl Chunks {
    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = data;
            return;
        }
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&self.first);
        }
        self.rest.extend_from_slice(&data);
    }

    fn finish(self) -> Bytes {
        if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        }
    }
}

/// Trailers without what belongs into a head, and what is ours to say.
fn filter_trailers(mut trailers: HeaderMap) -> HeaderMap {
    normalize::trailers(&mut trailers);
    trailers
}

/// A request body on its way upstream.
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// Complete and permitted; may be sent again.
    Whole(Bytes, Option<HeaderMap>),
    /// Passing through.
    Stream(Box<StreamBody>),
}

impl RequestBody {
    /// A copy, where sending it again is possible.
    pub(crate) fn replay(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Empty => Some(RequestBody::Empty),
            RequestBody::Whole(bytes, trailers) => {
                Some(RequestBody::Whole(bytes.clone(), trailers.clone()))
            }
            RequestBody::Stream(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(bytes, trailers) => {
                if !bytes.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
                }
                Poll::Ready(
                    trailers
                        .take()
                        .map(|trailers| Ok(Frame::trailers(trailers))),
                )
            }
            RequestBody::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
            RequestBody::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}

/// A request body that streams: its cap and its idle time are held while it passes.
pub(crate) struct StreamBody {
    incoming: Incoming,
    limit: u64,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    transfer: Rc<Transfer>,
}

impl StreamBody {
    pub(crate) fn new(
        incoming: Incoming,
        limit: u64,
        idle: Duration,
        transfer: Rc<Transfer>,
    ) -> Self {
        transfer.streaming.set(true);
        StreamBody {
            incoming,
            limit,
            idle,
            timer: Box::pin(tokio::time::sleep(idle)),
            transfer,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                self.transfer.failure.set(Some(Reason::RequestTimeout));
                return Poll::Ready(Some(Err(BodyError::Stalled)));
            }
            Poll::Ready(None) => {
                self.transfer.streaming.set(false);
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                self.transfer.failure.set(Some(Reason::RequestMalformed));
                return Poll::Ready(Some(Err(BodyError::Broken(error))));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        self.timer.as_mut().reset(Instant::now() + self.idle);
        self.transfer.streaming.set(!self.incoming.is_end_stream());
        match frame.into_data() {
            Ok(data) => {
                let length = self.transfer.bytes_in.get() + data.len() as u64;
                self.transfer.bytes_in.set(length);
                if length > self.limit {
                    self.transfer.failure.set(Some(Reason::RequestTooLarge));
                    return Poll::Ready(Some(Err(BodyError::TooLarge)));
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => Poll::Ready(
                frame
                    .into_trailers()
                    .ok()
                    .map(|trailers| Ok(Frame::trailers(filter_trailers(trailers)))),
            ),
        }
    }
}

/// A response body on its way to the client. Ends the request's observation when it ends or is dropped.
pub(crate) struct ResponseBody {
    kind: Kind,
    observation: Option<Box<Observation>>,
    active: Option<Active>,
}

enum Kind {
    Empty,
    Whole(Bytes, Option<HeaderMap>),
    Upstream(Box<UpstreamBody>),
}

impl ResponseBody {
    /// A complete one, or none.
    pub(crate) fn whole(bytes: Option<Bytes>, trailers: Option<HeaderMap>) -> Self {
        let kind = match (bytes, trailers) {
            (None, None) => Kind::Empty,
            (bytes, trailers) => Kind::Whole(bytes.unwrap_or_default(), trailers),
        };
        ResponseBody {
            kind,
            observation: None,
            active: None,
        }
    }

    /// One that passes through.
    pub(crate) fn upstream(body: UpstreamBody) -> Self {
        ResponseBody {
            kind: Kind::Upstream(Box::new(body)),
            observation: None,
            active: None,
        }
    }

    /// What ends with it: the observation, and the connection's work on this request.
    #[must_use]
    pub(crate) fn observed(mut self, observation: Box<Observation>, active: Active) -> Self {
        self.observation = Some(observation);
        self.active = Some(active);
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.kind {
            Kind::Empty => None,
            Kind::Whole(bytes, _) if !bytes.is_empty() => {
                Some(Ok(Frame::data(std::mem::take(bytes))))
            }
            Kind::Whole(_, trailers) => trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
            Kind::Upstream(body) => ready!(body.poll_frame(cx)),
        };
        if let (Some(observation), Some(Ok(frame))) = (&mut self.observation, &frame)
            && let Some(data) = frame.data_ref()
        {
            observation.bytes_out += data.len() as u64;
        }
        if frame.is_none() {
            self.observation = None;
            self.active = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Whole(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
            Kind::Upstream(body) => body.first.is_empty() && body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}

/// What reading a response body to judge it came to.
pub(crate) enum Read {
    /// All of it.
    Whole(Bytes, Option<HeaderMap>),
    /// It is longer; nothing of it is lost.
    Larger(UpstreamBody),
}

/// A response body that comes from upstream, with the connection that brings it.
pub(crate) struct UpstreamBody {
    /// What was read of it already.
    first: Bytes,
    incoming: Incoming,
    /// Back to its pool when the body has been read to its end; closed otherwise.
    lease: Option<Lease>,
    /// Where the body is a stream of events or messages: until when it may go on.
    lifetime: Option<Pin<Box<dyn Future<Output = &'static str>>>>,
}

impl UpstreamBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = UpstreamBody {
            first: Bytes::new(),
            incoming,
            lease: Some(lease),
            lifetime: None,
        };
        body.finish_if_ended();
        body
    }

    /// Ends the stream when this ends.
    pub(crate) fn ends_with(&mut self, lifetime: Lifetime) {
        self.lifetime = Some(Box::pin(lifetime.ended()));
    }

    /// Reads it whole, if it is at most `limit` bytes long; otherwise gives back the body, complete.
    ///
    /// # Errors
    /// It breaks off.
    pub(crate) async fn read_whole(mut self, limit: u64) -> Result<Read, BodyError> {
        let mut chunks = Chunks::default();
        let (mut length, mut trailers) = (0, None);
        loop {
            let next = std::future::poll_fn(|cx| self.poll_frame(cx)).await;
            let Some(frame) = next else {
                return Ok(Read::Whole(chunks.finish(), trailers));
            };
            match frame?.into_data() {
                Ok(data) => {
                    length += data.len() as u64;
                    chunks.push(data);
                    if length > limit {
                        self.first = chunks.finish();
                        return Ok(Read::Larger(self));
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.size_hint();
        let first = self.first.len() as u64;
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint.set_lower(rest.lower() + first);
        hint
    }

    fn finish_if_ended(&mut self) {
        if self.incoming.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(lifetime) = &mut self.lifetime
            && let Poll::Ready(why) = lifetime.as_mut().poll(cx)
        {
            self.lifetime = None;
            return Poll::Ready(Some(Err(BodyError::Ended(why))));
        }
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                if let Some(lease) = self.lease.take() {
                    lease.give_back();
                }
                Poll::Ready(None)
            }
            Some(Err(error)) => Poll::Ready(Some(Err(BodyError::Broken(error)))),
            Some(Ok(frame)) => {
                self.finish_if_ended();
                Poll::Ready(Some(Ok(match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(filter_trailers(trailers)),
                    Err(frame) => frame,
                })))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_bytes_are_bounded_and_given_back() {
        let all = HeldBytes::new(10);
        let (mut one, mut two) = (all.hold(), all.hold());
        assert!(one.grow(6) && two.grow(4));
        assert!(!one.grow(1));
        drop(two);
        assert!(one.grow(4));
        drop(one);
        assert_eq!(all.total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn chunks_are_joined_in_order() {
        let mut chunks = Chunks::default();
        chunks.push(Bytes::from_static(b"ab"));
        chunks.push(Bytes::from_static(b"c"));
        chunks.push(Bytes::from_static(b"de"));
        assert_eq!(chunks.finish(), "abcde");
        assert_eq!(Chunks::default().finish(), "");
    }
}
