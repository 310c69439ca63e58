//! Names of requests: `x-request-id` (UUIDv7, so that ids sort by time) and W3C trace context.
//!
//! The edge always makes both anew. Sidecars keep what a verified peer sent, and make what is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::Rng;

use crate::respond::REQUEST_ID_HEADER;
use crate::shared::Shared;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Said by a sidecar's outbound side to the inbound side of the called one: the trace is a guess. Like all
/// of `x-testudo-` it is taken from what clients and applications send, and never reaches an application.
const TRACE: HeaderName = HeaderName::from_static("x-testudo-trace");
const GUESSED: HeaderValue = HeaderValue::from_static("guessed");

/// Longest `x-request-id` that is kept.
const MAX_REQUEST_ID: usize = 128;

/// What one request is called at this hop.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    /// `x-request-id`.
    pub(crate) request_id: Box<str>,
    /// Trace id, 32 lower-case hex digits.
    pub(crate) trace_id: Box<str>,
    /// The trace id is a guess.
    pub(crate) guessed: bool,
    /// This hop's span, 16 hex digits.
    span_id: Box<str>,
    /// Two hex digits.
    flags: Box<str>,
}

impl Ids {
    /// New ids: at the edge, and where nobody trustworthy sent any.
    pub(crate) fn new() -> Ids {
        Ids {
            request_id: new_request_id(),
            trace_id: hex(&random::<16>()),
            guessed: false,
            span_id: hex(&random::<8>()),
            flags: "01".into(),
        }
    }

    /// What a verified peer sent, with a span of our own; what is missing or unreadable is made.
    pub(crate) fn kept(headers: &HeaderMap) -> Ids {
        let mut ids = Ids::new();
        if let Some(id) = single(headers, &REQUEST_ID_HEADER).filter(|id| is_request_id(id)) {
            ids.request_id = id.into();
        }
        if let Some(parent) = single(headers, &TRACEPARENT).and_then(Traceparent::parse) {
            ids.trace_id = parent.trace_id.into();
            ids.flags = parent.flags.into();
            ids.guessed = single(headers, &TRACE).is_some_and(|word| GUESSED == word);
        }
        ids
    }

    /// For what the own application sends out: its trace goes on, its request id is ours to give.
    /// Where it passed no trace on, the guess is better than nothing.
    pub(crate) fn continued(headers: &HeaderMap, open: &OpenTraces) -> Ids {
        let fresh = Ids::new();
        let mut ids = Ids {
            request_id: fresh.request_id,
            // An application has no say in that.
            guessed: false,
            ..Ids::kept(headers)
        };
        if !headers.contains_key(TRACEPARENT)
            && let Some(guess) = open.only()
        {
            ids.trace_id = guess;
            ids.guessed = true;
        }
        ids
    }

    /// The trace id that a request carries, if it carries a readable one.
    pub(crate) fn trace_of(headers: &HeaderMap) -> Option<&str> {
        single(headers, &TRACEPARENT)
            .and_then(Traceparent::parse)
            .map(|parent| parent.trace_id)
    }

    /// Sets both headers for the next hop. `tracestate` belongs to the trace that it came with.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let carried = Ids::trace_of(headers).is_some_and(|trace| *trace == *self.trace_id);
        if !carried {
            headers.remove(TRACESTATE);
        }
        let parent = format!("00-{}-{}-{}", self.trace_id, self.span_id, self.flags);
        if let Ok(value) = HeaderValue::try_from(parent) {
            headers.insert(TRACEPARENT, value);
        }
        if let Ok(value) = HeaderValue::from_str(&self.request_id) {
            headers.insert(REQUEST_ID_HEADER, value);
        }
    }

    /// Tells the called sidecar that the trace is a guess. For outbound requests to the mesh, whose head
    /// has been stripped of our words before.
    pub(crate) fn write_guess(&self, headers: &mut HeaderMap) {
        if self.guessed {
            headers.insert(TRACE, GUESSED);
        }
    }
}

/// The traces of inbound requests that are being worked on, without a lock: how many there are, and the
/// exclusive or of their ids, which is the id itself where there is one.
#[derive(Debug, Default)]
pub(crate) struct OpenTraces {
    open: AtomicUsize,
    high: AtomicU64,
    low: AtomicU64,
}

impl OpenTraces {
    /// An inbound request begins; it ends when the guard is dropped.
    pub(crate) fn enter(shared: &Arc<Shared>, trace_id: &str) -> OpenTrace {
        let (high, low) = halves(trace_id);
        let traces = &shared.open_traces;
        traces.toggle(high, low);
        traces.open.fetch_add(1, Ordering::AcqRel);
        OpenTrace {
            shared: shared.clone(),
            high,
            low,
        }
    }

    /// The trace that a call without `traceparent` probably belongs to: that of the only request that the
    /// application is working on. A guess: good enough to show in `why`, never to carry a user.
    pub(crate) fn only(&self) -> Option<Box<str>> {
        let (high, low) = (
            self.high.load(Ordering::Acquire),
            self.low.load(Ordering::Acquire),
        );
        let one = self.open.load(Ordering::Acquire) == 1 && (high, low) != (0, 0);
        one.then(|| format!("{high:016x}{low:016x}").into())
    }

    fn toggle(&self, high: u64, low: u64) {
        self.high.fetch_xor(high, Ordering::AcqRel);
        self.low.fetch_xor(low, Ordering::AcqRel);
    }
}

/// An inbound request that is being worked on.
pub(crate) struct OpenTrace {
    shared: Arc<Shared>,
    high: u64,
    low: u64,
}

impl Drop for OpenTrace {
    fn drop(&mut self) {
        let traces = &self.shared.open_traces;
        traces.open.fetch_sub(1, Ordering::AcqRel);
        traces.toggle(self.high, self.low);
    }
}

fn halves(trace_id: &str) -> (u64, u64) {
    let half = |range| {
        let digits = trace_id.get(range).unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or_default()
    };
    (half(0..16), half(16..32))
}

/// W3C Trace Context §3.2.
struct Traceparent<'a> {
    trace_id: &'a str,
    flags: &'a str,
}

impl<'a> Traceparent<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace_id, parent_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let more = parts.next().is_some();
        let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
        // Version ff is invalid; 00 has exactly four fields, later ones may have more.
        let known = is_hex(version, 2) && version != "ff" && !(version == "00" && more);
        let valid = known
            && is_hex(trace_id, 32)
            && !is_zero(trace_id)
            && is_hex(parent_id, 16)
            && !is_zero(parent_id)
            && is_hex(flags, 2);
        valid.then_some(Traceparent { trace_id, flags })
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Printable and harmless in logs and command lines.
fn is_request_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_REQUEST_ID
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

fn new_request_id() -> Box<str> {
    let mut buffer = uuid::Uuid::encode_buffer();
    Box::from(&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    rand::rng().fill_bytes(&mut bytes);
    // All zeros would be "no trace"; there is nothing else to do with that chance.
    if let Some(last) = bytes.last_mut() {
        *last |= 1;
    }
    bytes
}

fn hex(bytes: &[u8]) -> Box<str> {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let digit = |nibble: u8| {
        DIGITS
            .get(usize::from(nibble & 0xf))
            .copied()
            .unwrap_or('0')
    };
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect::<String>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn new_ids_differ_and_are_well_formed() {
        let (one, two) = (Ids::new(), Ids::new());
        assert_ne!(one.request_id, two.request_id);
        assert_ne!(one.trace_id, two.trace_id);
        let mut written = headers(&[("tracestate", "a=b")]);
        one.write(&mut written);
        assert_eq!(Ids::trace_of(&written), Some(&*one.trace_id));
        assert_eq!(written["x-request-id"], &*one.request_id);
        assert!(!written.contains_key("tracestate"), "of another trace");
    }

    #[test]
    fn a_peers_ids_are_kept_with_a_span_of_our_own() {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-00");
        let mut headers = headers(&[
            ("traceparent", &parent),
            ("tracestate", "a=b"),
            ("x-request-id", "018f-abc"),
        ]);
        let ids = Ids::kept(&headers);
        assert_eq!(&*ids.request_id, "018f-abc");
        ids.write(&mut headers);
        let written = headers["traceparent"].to_str().unwrap();
        assert!(written.starts_with(&format!("00-{TRACE}-")) && written.ends_with("-00"));
        assert!(!written.contains("b7ad6b7169203331"));
        assert_eq!(headers["tracestate"], "a=b");
    }

    #[test]
    fn a_guess_is_said_to_the_next_sidecar_and_not_believed_from_an_application() {
        let open = OpenTraces::default();
        let (high, low) = halves(TRACE);
        open.toggle(high, low);
        open.open.fetch_add(1, Ordering::AcqRel);
        let mut call = headers(&[]);
        let ids = Ids::continued(&call, &open);
        assert_eq!((&*ids.trace_id, ids.guessed), (TRACE, true));
        ids.write(&mut call);
        ids.write_guess(&mut call);
        let arrived = Ids::kept(&call);
        assert_eq!((&*arrived.trace_id, arrived.guessed), (TRACE, true));
        // The application carried it on by itself: no guess, whatever it says.
        let again = Ids::continued(&call, &open);
        assert_eq!((&*again.trace_id, again.guessed), (TRACE, false));
    }

    #[test]
    fn unreadable_ids_are_replaced() {
        for parent in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            let ids = Ids::kept(&headers(&[
                ("traceparent", parent),
                ("x-request-id", "a b"),
            ]));
            assert_ne!(&*ids.trace_id, TRACE, "{parent}");
            assert_ne!(&*ids.request_id, "a b");
        }
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let twice = headers(&[("traceparent", &parent), ("traceparent", &parent)]);
        assert_eq!(Ids::trace_of(&twice), None);
    }
}
