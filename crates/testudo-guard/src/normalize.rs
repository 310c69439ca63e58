//! One canonical request for router, policy, schema, inspection and upstream (DESIGN §9), and the
//! refusal of everything that two readers could understand differently.
//!
//! After [`inbound`] or [`outbound`] the head has an origin-form target in one spelling
//! ([`target`] says which), exactly one lower-case `Host`, no hop-by-hop fields but those of a
//! declared purpose, and nothing from a client that looks like our own words. Doing it again changes
//! nothing. Refusals here hold in every mode: what is ambiguous cannot be forwarded safely.

mod forwarded;
mod headers;
mod host;
mod target;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Uri, Version, header, request::Parts};
use testudo_model::Reason;

use crate::peer::Peer;
use crate::record::{Denial, Record};
use crate::snapshot::{Role, Snapshot};

pub use headers::{response_headers, trailers};
pub use host::Host;

/// Longest path and query.
pub const MAX_URI_BYTES: usize = 8 * 1024;
/// Most bytes of all header names and values together.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Most header fields.
pub const MAX_HEADERS: usize = 128;

/// What the canonical request says besides itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    /// Whom it was sent to.
    pub host: Host,
    /// The client's address at the edge: the socket's, or what trusted proxies say. In the mesh only a
    /// transaction token knows it.
    pub source_ip: Option<IpAddr>,
    /// A complete WebSocket handshake (RFC 6455 §4.1); whether the specification has it is asked later.
    pub websocket: bool,
    /// Whether the path has a `;`: refused later unless the specification's template has one.
    pub path_parameters: bool,
}

/// Where a request is looked at: the same rules, but other headers are ours to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// From a client.
    Edge,
    /// From a verified gateway.
    MeshFromGateway,
    /// From another verified workload.
    Mesh,
    /// From the sidecar's own application.
    Outbound,
}

/// Makes a request canonical that came to a gateway or to a sidecar's inbound port.
///
/// # Errors
/// `request.malformed`, `request.too_large` (414, 431), `request.misdirected`.
pub fn inbound(
    head: &mut Parts,
    peer: &Peer,
    snapshot: &Snapshot,
    record: &mut Record,
) -> Result<Canonical, Denial> {
    let place = match (&snapshot.role, peer) {
        (Role::Gateway, _) => Place::Edge,
        (Role::Sidecar(_), Peer::Workload { spiffe_id, .. }) => {
            match snapshot.caller_of(spiffe_id) {
                crate::Caller::Gateway => Place::MeshFromGateway,
                crate::Caller::Service(_) | crate::Caller::Unknown => Place::Mesh,
            }
        }
        (Role::Sidecar(_), Peer::Client { .. }) => Place::Mesh,
    };
    let mut canonical = make_canonical(head, place, record)?;
    if place == Place::Edge {
        check_edge_host(&canonical.host, peer)?;
        // Needs X-Forwarded-For, so it comes before that is dropped.
        canonical.source_ip = Some(forwarded::client_address(
            peer.address(),
            &head.headers,
            snapshot,
        ));
    }
    headers::drop_unbelieved(&mut head.headers, place, record);
    Ok(canonical)
}

/// Makes a request canonical that the sidecar's own application sent: absolute-form is usual here
/// (`HTTP_PROXY`), and `CONNECT` is how HTTPS passes to an egress host.
///
/// # Errors
/// `request.malformed`, `request.too_large` (414, 431).
pub fn outbound(head: &mut Parts, record: &mut Record) -> Result<Canonical, Denial> {
    let canonical = make_canonical(head, Place::Outbound, record)?;
    headers::drop_unbelieved(&mut head.headers, Place::Outbound, record);
    Ok(canonical)
}

fn make_canonical(
    head: &mut Parts,
    place: Place,
    record: &mut Record,
) -> Result<Canonical, Denial> {
    // Sizes first: nothing below looks at more than these bounds.
    check_sizes(head)?;
    // Names with `_` go before anything is looked up: to CGI-like servers they are the same as with
    // `-`, so they must neither be believed nor reach anyone.
    headers::drop_underscores(&mut head.headers, record);
    check_method(head, place)?;
    headers::check_framing(head)?;
    headers::check_single_valued(&mut head.headers, head.version)?;
    headers::check_overrides(&head.headers)?;
    let websocket = headers::websocket_handshake(head)?;
    // Nominations are the client's: they are applied to its own headers, before ours are added.
    headers::strip_hop_by_hop(&mut head.headers, websocket)?;
    let host = canonical_host(head, place)?;
    let path_parameters = if head.method == Method::CONNECT {
        false
    } else {
        canonical_target(head)?
    };
    Ok(Canonical {
        host,
        source_ip: None,
        websocket,
        path_parameters,
    })
}

fn check_sizes(head: &Parts) -> Result<(), Denial> {
    let uri_bytes = head
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if uri_bytes > MAX_URI_BYTES {
        return Err(too_long_uri());
    }
    let head_bytes: usize = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if head.headers.len() > MAX_HEADERS || head_bytes > MAX_HEAD_BYTES {
        return Err(
            Denial::new(Reason::RequestTooLarge, "the head is too large")
                .with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        );
    }
    Ok(())
}

fn check_method(head: &Parts, place: Place) -> Result<(), Denial> {
    match head.method.as_str() {
        // They echo the request, credentials included (RFC 9110 §9.3.8).
        "TRACE" | "TRACK" => Err(malformed("TRACE is refused")),
        "CONNECT" if place != Place::Outbound => Err(malformed("CONNECT is refused")),
        _ => Ok(()),
    }
}

/// Host and authority in one spelling, which must agree; the head keeps `Host` alone, so that HTTP/1
/// and HTTP/2 look the same from here on (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn canonical_host(head: &mut Parts, place: Place) -> Result<Host, Denial> {
    let mut values = head.headers.get_all(header::HOST).iter();
    let named = match (values.next(), values.next()) {
        (Some(_), Some(_)) => return Err(malformed("Host came more than once")),
        (value, _) => value
            .map(|value| host::parse(value.as_bytes()))
            .transpose()?,
    };
    let scheme = head.uri.scheme_str();
    match scheme {
        None | Some("http") => {}
        Some("https") if place != Place::Outbound => {}
        Some(_) => return Err(malformed("the target's scheme is not supported")),
    }
    let authority = head
        .uri
        .authority()
        .map(|authority| host::parse(authority.as_str().as_bytes()))
        .transpose()?;
    let host = match (named, authority) {
        (Some(named), Some(authority)) => {
            if !named.agrees_with(&authority, scheme) {
                return Err(malformed("the target's authority disagrees with Host"));
            }
            named
        }
        (Some(named), None) => named,
        (None, Some(authority)) if head.version == Version::HTTP_2 => authority,
        (None, _) => return Err(malformed("Host is missing")),
    };
    let text = host.to_string();
    if head.headers.get(header::HOST).map(HeaderValue::as_bytes) != Some(text.as_bytes()) {
        let value = HeaderValue::from_maybe_shared(Bytes::from(text))
            .map_err(|_| malformed("Host cannot be read"))?;
        head.headers.insert(header::HOST, value);
    }
    Ok(host)
}

/// Path and query in one spelling, in origin form. Returns whether the path has a `;`.
fn canonical_target(head: &mut Parts) -> Result<bool, Denial> {
    let path = target::canonical_path(head.uri.path()).map_err(malformed)?;
    let query = match head.uri.query() {
        None | Some("") => None,
        Some(query) => Some(target::canonical_query(query).map_err(malformed)?),
    };
    if head.method == Method::POST && query.as_deref().is_some_and(target::has_method_override) {
        return Err(malformed("the query overrides the method"));
    }
    let path_parameters = path.contains(';');
    let bytes = path.len() + query.as_ref().map_or(0, |query| query.len() + 1);
    if bytes > MAX_URI_BYTES {
        return Err(too_long_uri());
    }
    let origin_form = head.uri.scheme().is_none() && head.uri.authority().is_none();
    let unchanged = origin_form && path == head.uri.path() && query.as_deref() == head.uri.query();
    if !unchanged {
        let mut text = String::with_capacity(bytes);
        text.push_str(&path);
        if let Some(query) = &query {
            text.push('?');
            text.push_str(query);
        }
        drop((path, query));
        set_target(head, text)?;
    }
    Ok(path_parameters)
}

/// Replaces the target by this path (and query) in origin form.
pub(crate) fn set_target(head: &mut Parts, path_and_query: String) -> Result<(), Denial> {
    head.uri = PathAndQuery::from_maybe_shared(Bytes::from(path_and_query))
        .map(Uri::from)
        .map_err(|_| malformed("the target cannot be read"))?;
    Ok(())
}

/// The edge is not a way around it: no `*.mesh` from outside, and the name that TLS was asked for is
/// the one that HTTP asks for (RFC 9110 §7.4).
fn check_edge_host(host: &Host, peer: &Peer) -> Result<(), Denial> {
    if host.is_mesh() {
        return Err(malformed("mesh names are not served at the edge"));
    }
    match peer {
        Peer::Client {
            server_name: Some(server_name),
            ..
        } if !server_name.eq_ignore_ascii_case(host.name()) => Err(Denial::new(
            Reason::RequestMisdirected,
            "Host is not the name that TLS was asked for",
        )),
        Peer::Client { .. } | Peer::Workload { .. } => Ok(()),
    }
}

fn malformed(detail: &'static str) -> Denial {
    Denial::new(Reason::RequestMalformed, detail)
}

fn too_long_uri() -> Denial {
    Denial::new(Reason::RequestTooLarge, "the target is too long")
        .with_status(StatusCode::URI_TOO_LONG)
}
