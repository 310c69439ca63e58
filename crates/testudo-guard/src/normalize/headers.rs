//! Header fields: framing, fields that may come once, hop-by-hop fields, and fields that are ours.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Version, request::Parts};
use smallvec::SmallVec;
use testudo_model::Finding;

use super::{Place, malformed};
use crate::record::{Denial, Record};

/// Fields of which a second one would leave open which of them counts.
const SINGLE_VALUED: [HeaderName; 24] = [
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::DATE,
    header::EXPECT,
    header::FROM,
    header::HOST,
    header::IF_MODIFIED_SINCE,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::ORIGIN,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::REFERER,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("txn-token"),
    HeaderName::from_static("x-request-id"),
];

/// Fields that tell some servers to take another method than the one that was judged.
const METHOD_OVERRIDES: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// Fields that `Connection` must not name: without them the request would be another one
/// (RFC 9110 §7.6.1).
const NEVER_NOMINATED: [HeaderName; 3] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];

/// Fields that end at every hop (RFC 9110 §7.6.1), besides `Connection`, `Upgrade` and `TE`. `Trailer`
/// stays: trailers are forwarded, and HTTP/1 needs them announced.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("proxy"), // becomes HTTP_PROXY in CGI (CVE-2016-5385)
];

/// Length and coding of the body must leave no choice (RFC 9112 §6.3, RFC 9113 §8.1.1, §8.2.2).
pub(super) fn check_framing(head: &Parts) -> Result<(), Denial> {
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if let Some(coding) = coding {
        if head.version != Version::HTTP_11 {
            return Err(malformed("Transfer-Encoding in a version without it"));
        }
        if length.is_some() {
            return Err(malformed("Transfer-Encoding with Content-Length"));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(malformed("an unknown transfer coding"));
        }
    }
    if let Some(length) = length {
        if lengths.next().is_some() {
            return Err(malformed("Content-Length came more than once"));
        }
        let digits = length.as_bytes();
        let fits = std::str::from_utf8(digits).is_ok_and(|text| text.parse::<u64>().is_ok());
        if !fits || !digits.iter().all(u8::is_ascii_digit) {
            return Err(malformed("Content-Length is not a number"));
        }
    }
    Ok(())
}

/// Refuses a second field where only one can count. HTTP/2 may split `Cookie`; it is put together
/// again (RFC 9113 §8.2.3).
pub(super) fn check_single_valued(headers: &mut HeaderMap, version: Version) -> Result<(), Denial> {
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    for name in &SINGLE_VALUED {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Denial::new(
                testudo_model::Reason::RequestMalformed,
                format!("{name} came more than once"),
            ));
        }
    }
    if headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        if version != Version::HTTP_2 {
            return Err(malformed("cookie came more than once"));
        }
        let crumbs: Vec<&[u8]> = headers
            .get_all(header::COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let cookie = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
            .map_err(|_| malformed("cookie cannot be read"))?;
        headers.insert(header::COOKIE, cookie);
    }
    Ok(())
}

/// Refuses what would make the request another one than was judged.
pub(super) fn check_overrides(headers: &HeaderMap) -> Result<(), Denial> {
    if METHOD_OVERRIDES
        .iter()
        .any(|name| headers.contains_key(name))
    {
        return Err(malformed("a header overrides the method"));
    }
    match headers.get(header::EXPECT) {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(malformed("an unknown expectation"))
        }
        _ => Ok(()),
    }
}

/// Whether this is a WebSocket handshake (RFC 6455 §4.1). Half of one is refused, and so is every
/// switch to cleartext HTTP/2; other upgrades are merely not taken up (RFC 9110 §7.8).
pub(super) fn websocket_handshake(head: &Parts) -> Result<bool, Denial> {
    let mut protocols = tokens(&head.headers, &header::UPGRADE).peekable();
    if protocols.peek().is_none() {
        return Ok(false);
    }
    let (mut websocket, mut others) = (false, false);
    for protocol in protocols {
        if protocol.eq_ignore_ascii_case(b"h2c") {
            return Err(malformed("an upgrade to h2c"));
        }
        if protocol.eq_ignore_ascii_case(b"websocket") {
            websocket = true;
        } else {
            others = true;
        }
    }
    if !websocket {
        return Ok(false);
    }
    let one = |name| head.headers.get(name).map(HeaderValue::as_bytes);
    let complete = !others
        && head.version == Version::HTTP_11
        && head.method == Method::GET
        && tokens(&head.headers, &header::CONNECTION)
            .any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && one(header::SEC_WEBSOCKET_VERSION) == Some(b"13")
        && one(header::SEC_WEBSOCKET_KEY).is_some_and(|key| key.len() == 24)
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
        && one(header::CONTENT_LENGTH).is_none_or(|length| length == b"0");
    if complete {
        Ok(true)
    } else {
        Err(malformed("the WebSocket handshake is not complete"))
    }
}

/// Takes away what ends at this hop: first what `Connection` names, then what always does. Kept are
/// `te: trailers` (gRPC) and, for a WebSocket handshake, its `Connection` and `Upgrade`.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap, websocket: bool) -> Result<(), Denial> {
    let nominated: SmallVec<[HeaderName; 4]> = tokens(headers, &header::CONNECTION)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| !matches!(*name, header::UPGRADE | header::TE | header::TRAILER))
        .collect();
    for name in nominated {
        if NEVER_NOMINATED.contains(&name) {
            return Err(malformed("Connection names a field of the request itself"));
        }
        headers.remove(name);
    }
    let trailers =
        tokens(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    headers.remove(header::TE);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    remove_hop_by_hop(headers);
    if websocket {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(())
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes a response's headers fit to pass on: without what ends at this hop, and without words that
/// only we may say (DESIGN §5: `x-testudo-reason` from applications is removed). A `101` keeps its
/// upgrade: take those headers before.
pub fn response_headers(headers: &mut HeaderMap) {
    let unwelcome: SmallVec<[HeaderName; 4]> = tokens(headers, &header::CONNECTION)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::TRAILER)
        .collect();
    for name in unwelcome {
        headers.remove(name);
    }
    remove_hop_by_hop(headers);
    remove_all(headers, |name| {
        canonical_prefix(name, "x-testudo-") || canonical_prefix(name, "txn-token")
    });
}

/// Takes out of trailers what belongs into a head (RFC 9110 §6.5.1) and what is ours.
pub fn trailers(trailers: &mut HeaderMap) {
    remove_all(trailers, |name| {
        name.as_str().contains('_')
            || is_ours(name, Place::Edge)
            || SINGLE_VALUED.contains(name)
            || METHOD_OVERRIDES.contains(name)
            || HOP_BY_HOP.contains(name)
            || matches!(
                *name,
                header::CONNECTION
                    | header::UPGRADE
                    | header::TE
                    | header::TRAILER
                    | header::COOKIE
                    | header::SET_COOKIE
                    | header::CACHE_CONTROL
                    | header::WWW_AUTHENTICATE
            )
            || name.as_str() == "x-api-key"
    });
}

/// Drops field names with `_`, each with a finding.
pub(super) fn drop_underscores(headers: &mut HeaderMap, record: &mut Record) {
    for name in remove_all(headers, |name| name.as_str().contains('_')) {
        note(record, "header.underscore", &name);
    }
}

/// Drops what only Testudo may say at this place; with a finding where somebody tried to pose.
pub(super) fn drop_unbelieved(headers: &mut HeaderMap, place: Place, record: &mut Record) {
    for name in remove_all(headers, |name| is_ours(name, place)) {
        let posing = name.as_str().starts_with("x-testudo-") || name.as_str() == "txn-token";
        // One sidecar says this to another.
        let said = place == Place::Mesh && name.as_str() == "x-testudo-trace";
        if posing && !said && place != Place::MeshFromGateway {
            note(record, "header.forged", &name);
        }
    }
}

fn is_ours(name: &HeaderName, place: Place) -> bool {
    let name = name.as_str();
    // Inbound sets these from what mTLS and the transaction token prove.
    if name.starts_with("x-testudo-") {
        return true;
    }
    let forwarding = matches!(
        name,
        "forwarded" | "x-real-ip" | "x-client-ip" | "true-client-ip" | "x-cluster-client-ip"
    ) || name.starts_with("x-forwarded-");
    // Some frameworks take the path or the host from these.
    let rerouting = matches!(
        name,
        "x-original-url" | "x-rewrite-url" | "x-original-host" | "x-host"
    );
    match place {
        Place::Edge => {
            forwarding
                || rerouting
                || matches!(
                    name,
                    "txn-token" | "x-request-id" | "traceparent" | "tracestate"
                )
        }
        Place::MeshFromGateway => rerouting,
        Place::Mesh => forwarding || rerouting,
        Place::Outbound => rerouting || name == "x-request-id",
    }
}

/// `_` counts as `-` in responses too.
fn canonical_prefix(name: &HeaderName, prefix: &str) -> bool {
    let name = name.as_str();
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(byte, wanted)| byte == wanted || (byte == b'_' && wanted == b'-'))
}

fn remove_all(
    headers: &mut HeaderMap,
    unwelcome: impl Fn(&HeaderName) -> bool,
) -> SmallVec<[HeaderName; 4]> {
    let names: SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| unwelcome(name))
        .cloned()
        .collect();
    for name in &names {
        headers.remove(name);
    }
    names
}

fn note(record: &mut Record, code: &'static str, name: &HeaderName) {
    /// Enough to see what somebody tried.
    const LONGEST: usize = 64;
    let name = name.as_str().get(..LONGEST).unwrap_or(name.as_str());
    record.findings.push(Finding {
        check: "normalize".into(),
        code: code.into(),
        detail: format!("{name} was dropped"),
    });
}

/// The elements of a comma-separated field, in all its lines (RFC 9110 §5.6.1).
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}
