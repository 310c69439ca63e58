//! What the sidecar's own application sends out: judged by guard (its own application, a known service or a
//! listed host, a token that inbound verified), then sent on with our identity.
//!
//! The other side's inbound judges the request itself and makes its event; here only a refusal makes one.

use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use testudo_guard::outbound::{self, Destination, OutboundPermit, Sender};
use testudo_guard::{Denial, normalize};
use testudo_model::Reason;

use crate::body::{RequestBody, ResponseBody, StreamBody, UpstreamBody};
use crate::connection::Connection;
use crate::core::Core;
use crate::exchange::Exchange;
use crate::respond::REASON_HEADER;
use crate::state::Secret;
use crate::upstream::{Answer, Outgoing, Permitted, Tunnel, connect_by_name, forward};
use crate::websocket;

/// Answers one request of an application.
pub(crate) async fn handle(
    core: Rc<Core>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (mut head, body) = request.into_parts();
    let upgrade = head.extensions.remove::<OnUpgrade>();
    let snapshot = core.snapshot();
    let mut exchange = Exchange::begin(&core, &connection, &head, snapshot.as_ref());
    if let Some(refusal) = connection.wire.refusal(&head) {
        return exchange.refuse(refusal);
    }
    let Some(snapshot) = snapshot else {
        return exchange.deny(Denial::new(Reason::NotReady, "no snapshot is installed"));
    };

    // Who sent it: the socket says so, or the secret does. Guard takes the secret out of the head.
    let sender = match connection.sender {
        Sender::Foreign if proves(&core.shared.outbound_secret, &head.headers) => {
            Sender::Application
        }
        sender => sender,
    };
    let live = &core.shared.installed.live;
    let now = exchange.observation.started;
    let record = &mut exchange.observation.record;
    let permit = match outbound::check(&snapshot, live, sender, &mut head, record, now) {
        Ok(permit) => permit,
        Err(denial) => return exchange.deny(denial),
    };
    if let Destination::Tunnel { .. } = permit.destination() {
        return tunnel(exchange, &permit, upgrade).await;
    }

    exchange.observation.ids.write(&mut head.headers);
    // Only a sidecar reads it, and takes it off; nobody outside gets our words.
    if matches!(permit.destination(), Destination::Service(service) if !service.plain) {
        exchange.observation.ids.write_guess(&mut head.headers);
    }
    let websocket = head.headers.contains_key(header::UPGRADE);
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
    let transfer = exchange.observation.transfer.clone();
    let body = if body.is_end_stream() {
        RequestBody::Empty
    } else {
        // The cap is the called service's to know, and its inbound side holds to it.
        let idle = core.shared.options.caps.body_idle;
        RequestBody::Stream(Box::new(StreamBody::new(
            body,
            u64::MAX,
            idle,
            transfer.clone(),
        )))
    };
    let permitted = Permitted::Outbound(permit);
    let outgoing = Outgoing {
        snapshot: &snapshot,
        request: Request::from_parts(head, body),
        wire: exchange.wire,
        websocket,
        transfer: &transfer,
    };
    let answer = match forward(&core, connection.side, &permitted, outgoing).await {
        Ok(answer) => answer,
        Err(denial) => return exchange.deny(denial),
    };
    if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return websocket::switch(exchange, &permitted, answer, upgrade, key.as_ref());
    }
    exchange.finish(passed_on(answer))
}

/// The response as the application gets it. A sidecar's reason stays: it is ours.
fn passed_on(answer: Answer) -> Response<ResponseBody> {
    let (mut head, incoming) = answer.response.into_parts();
    let reason = answer
        .from_sidecar
        .then(|| head.headers.remove(REASON_HEADER))
        .flatten();
    normalize::response_headers(&mut head.headers);
    if let Some(reason) = reason {
        head.headers.insert(REASON_HEADER, reason);
    }
    head.version = http::Version::default();
    let body = ResponseBody::upstream(UpstreamBody::new(incoming, answer.lease));
    Response::from_parts(head, body)
}

/// `CONNECT` to a host that the bundle lists (RFC 9110 §9.3.6).
async fn tunnel(
    mut exchange: Exchange,
    permit: &OutboundPermit,
    upgrade: Option<OnUpgrade>,
) -> Response<ResponseBody> {
    let (Destination::Tunnel { host, port }, Some(client)) = (permit.destination(), upgrade) else {
        return exchange.deny(Denial::new(Reason::RequestMalformed, "not a CONNECT"));
    };
    let core = exchange.core.clone();
    let limit = core.shared.options.caps.connect;
    let server = match tokio::time::timeout(limit, connect_by_name(host, *port)).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            let detail = format!("{host}:{port}: {}", crate::error_text(&error));
            return exchange.deny(Denial::new(Reason::UpstreamUnavailable, detail));
        }
        Err(_) => {
            let detail = format!("{host}:{port}: connecting took too long");
            return exchange.deny(Denial::new(Reason::UpstreamTimeout, detail));
        }
    };
    let lifetime = exchange.lifetime(None);
    let (response, observation) =
        exchange.finish_unobserved(Response::new(ResponseBody::whole(None, None)));
    let tunnel = Tunnel {
        lifetime,
        observation,
    };
    core.spawn("connect-tunnel", async move {
        match client.await {
            Ok(client) => tunnel.run(TokioIo::new(client), server).await,
            Err(error) => tracing::debug!(%error, "a CONNECT failed"),
        }
    });
    response
}

/// Whether the request carries the secret that `run` and `up` gave to the application alone:
/// `Proxy-Authorization: Basic` of `testudo:SECRET` (RFC 7617).
fn proves(secret: &Secret, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::PROXY_AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let Some((scheme, encoded)) = value.to_str().ok().and_then(|value| value.split_once(' '))
    else {
        return false;
    };
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let decoded = STANDARD.decode(encoded.trim()).unwrap_or_default();
    decoded
        .strip_prefix(b"testudo:")
        .is_some_and(|candidate| secret.matches(candidate))
}
