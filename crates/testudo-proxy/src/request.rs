//! A request's whole way through a gateway or a sidecar's inbound side, top to bottom: [`handle`].
//! (What the own application sends out takes the shorter way of `outbound`.)

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header, response};
use hyper::body::{Body as _, Incoming};
use testudo_guard::pipeline::{BodyPlan, Incoming as Arrived, Target};
use testudo_guard::{BodyCheck, Denial, HeadOutcome, Now, Permit, Snapshot, check_head, normalize};
use testudo_model::Reason;

use crate::body::{
    Read, RequestBody, ResponseBody, StreamBody, UpstreamBody, read_whole, too_large,
};
use crate::clock;
use crate::connection::Connection;
use crate::core::{Core, Side};
use crate::exchange::Exchange;
use crate::forwarding;
use crate::lifetime::is_stream;
use crate::outbound;
use crate::respond::REASON_HEADER;
use crate::upstream::{Answer, Outgoing, Permitted, forward};
use crate::websocket;

/// Bodies up to this size are judged where they are: handing them over would take longer.
const INLINE_BYTES: usize = 64 * 1024;

/// Answers one request. Whatever happens, the client gets a response and the request one event.
pub(crate) async fn handle(
    core: Rc<Core>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    if connection.side == Side::Outbound {
        return outbound::handle(core, connection, request).await;
    }
    let (mut head, body) = request.into_parts();
    let client_upgrade = head.extensions.remove::<hyper::upgrade::OnUpgrade>();

    // One snapshot decides everything about this request, even if a new one comes meanwhile.
    let snapshot = core.snapshot();
    let mut exchange = Exchange::begin(&core, &connection, &head, snapshot.as_ref());
    // Bytes that no two readers would understand alike never became a request: refused here, with an id.
    if let Some(refusal) = connection.wire.refusal(&head) {
        return exchange.refuse(refusal);
    }
    let Some(snapshot) = snapshot else {
        return exchange.deny(Denial::new(Reason::NotReady, "no snapshot is installed"));
    };

    // The head is judged, and rewritten into the one canonical request that goes upstream.
    let check = match judge_head(&snapshot, &mut exchange, &mut head, !body.is_end_stream()) {
        HeadOutcome::Deny(denial) => return exchange.deny(denial),
        HeadOutcome::Answer { status, headers } => return exchange.answer(status, headers),
        HeadOutcome::Continue(check) => check,
    };

    // The body is judged, or begins to stream under its cap. Until here nothing has gone upstream; a
    // client that waits for `100 Continue` gets it when the body is first read, so not if denied above.
    let (permit, body) = match judge_body(*check, body, &mut exchange).await {
        Ok(permitted) => permitted,
        Err(denial) => return exchange.deny(denial),
    };
    exchange.add_headers(&permit.target().response_headers);

    // Who asks, in whose name, and how the request is called: said to the next hop in our words.
    if let Err(denial) = forwarding::prepare(&snapshot, &permit, &mut exchange, &mut head) {
        return exchange.deny(denial);
    }

    // Off it goes; retries, endpoints and times are upstream's matter.
    let websocket = permit.target().websocket;
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
    let permitted = Permitted::Inside(Box::new(permit));
    let outgoing = Outgoing {
        snapshot: &snapshot,
        request: Request::from_parts(head, body),
        wire: exchange.wire,
        websocket,
        transfer: &exchange.observation.transfer.clone(),
    };
    let answer = match forward(&core, connection.side, &permitted, outgoing).await {
        Ok(answer) => answer,
        Err(denial) => return exchange.deny(denial),
    };

    // The response: judged where the specification is enforced, stripped of what is not the client's.
    if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return websocket::switch(exchange, &permitted, answer, client_upgrade, key.as_ref());
    }
    let response = match judge_response(&permitted, &mut exchange, answer).await {
        Ok(response) => response,
        Err(denial) => return exchange.deny(denial),
    };

    // The observation ends with the body, wherever that ends.
    exchange.finish(response)
}

fn judge_head(
    snapshot: &Arc<Snapshot>,
    exchange: &mut Exchange,
    head: &mut Parts,
    has_body: bool,
) -> HeadOutcome {
    let began = clock::monotonic();
    let core = exchange.core.clone();
    let connection = exchange.connection.clone();
    let observation = &mut exchange.observation;
    let outcome = check_head(
        snapshot,
        &core.shared.installed.live,
        &mut core.local.borrow_mut(),
        Arrived {
            peer: &connection.peer,
            head,
            has_body,
        },
        &mut observation.record,
        observation.started,
    );
    observation.guard += clock::monotonic().saturating_sub(began);
    observation.judged_path(head.uri.path());
    outcome
}

async fn judge_body(
    check: BodyCheck,
    body: Incoming,
    exchange: &mut Exchange,
) -> Result<(Permit, RequestBody), Denial> {
    let caps = exchange.core.shared.options.caps;
    let transfer = exchange.observation.transfer.clone();
    match check.plan() {
        BodyPlan::Buffer(limit) => {
            let (bytes, trailers) = if body.is_end_stream() {
                (Bytes::new(), None)
            } else {
                read_whole(body, limit, &caps, &transfer, &mut exchange.held).await?
            };
            let began = clock::monotonic();
            let now = exchange.core.shared.clock.now();
            let judged = if bytes.len() <= INLINE_BYTES {
                check.finish(&bytes, &mut exchange.observation.record, now)
            } else {
                finish_elsewhere(check, bytes.clone(), now, exchange).await
            };
            exchange.observation.guard += clock::monotonic().saturating_sub(began);
            let permit = judged?;
            let body = if bytes.is_empty() && trailers.is_none() {
                RequestBody::Empty
            } else {
                RequestBody::Whole(bytes, trailers)
            };
            Ok((permit, body))
        }
        BodyPlan::Stream(limit) => {
            // A length over the cap is told before anything is sent, in either direction.
            if body.size_hint().lower() > limit {
                return Err(too_large(limit));
            }
            let permit = check.stream(&mut exchange.observation.record)?;
            if body.is_end_stream() {
                return Ok((permit, RequestBody::Empty));
            }
            let body = StreamBody::new(body, limit, caps.body_idle, transfer);
            Ok((permit, RequestBody::Stream(Box::new(body))))
        }
    }
}

/// Judges a large body on a worker thread, of which each core has a few: the others on this core go on.
async fn finish_elsewhere(
    check: BodyCheck,
    bytes: Bytes,
    now: Now,
    exchange: &mut Exchange,
) -> Result<Permit, Denial> {
    let mut record = std::mem::take(&mut exchange.observation.record);
    let judging = tokio::task::spawn_blocking(move || {
        let judged = check.finish(&bytes, &mut record, now);
        (judged, record)
    });
    match judging.await {
        Ok((judged, record)) => {
            exchange.observation.record = record;
            judged
        }
        Err(error) => {
            tracing::error!(%error, "judging a body failed");
            Err(Denial::new(
                Reason::Overloaded,
                "the body could not be judged",
            ))
        }
    }
}

/// Judges the response and makes it fit to pass on.
async fn judge_response(
    permitted: &Permitted,
    exchange: &mut Exchange,
    answer: Answer,
) -> Result<Response<ResponseBody>, Denial> {
    let Permitted::Inside(permit) = permitted else {
        return Err(Denial::new(
            Reason::UpstreamInvalid,
            "not a response to this request",
        ));
    };
    let target = permit.target();
    let (mut head, incoming) = answer.response.into_parts();
    let reason = answer
        .from_sidecar
        .then(|| head.headers.remove(REASON_HEADER))
        .flatten();
    normalize::response_headers(&mut head.headers);
    let mut body = UpstreamBody::new(incoming, answer.lease);
    if is_stream(&head.headers) {
        // A download may finish; a stream of events or messages has no end of its own.
        let lifetime = exchange.lifetime(target.user.as_ref());
        body.ends_with(lifetime);
    }

    // Our own denials, further inside, keep to no specification of the application's.
    let body = if let Some(reason) = &reason {
        exchange.observation.denied_inside(reason);
        ResponseBody::upstream(body)
    } else {
        judge_response_body(target, exchange, &head, body).await?
    };
    if let Some(reason) = reason {
        head.headers.insert(REASON_HEADER, reason);
    }
    head.version = http::Version::default();
    Ok(Response::from_parts(head, body))
}

/// Holds a response back where the specification is enforced for its body, and judges it.
async fn judge_response_body(
    target: &Target,
    exchange: &mut Exchange,
    head: &response::Parts,
    body: UpstreamBody,
) -> Result<ResponseBody, Denial> {
    let record = &mut exchange.observation.record;
    let Some(limit) = target.wants_response_body(head.status, &head.headers) else {
        target.check_response(head.status, &head.headers, None, record)?;
        return Ok(ResponseBody::upstream(body));
    };
    let caps = &exchange.core.shared.options.caps;
    let reading = tokio::time::timeout(caps.body_total, body.read_whole(limit));
    let read = reading.await.map_err(|_| {
        Denial::new(
            Reason::UpstreamTimeout,
            "the response to judge did not end in time",
        )
    })?;
    let read = read.map_err(|error| {
        let detail = format!("the response to judge: {}", crate::error_text(&error));
        Denial::new(Reason::UpstreamInvalid, detail)
    })?;
    match read {
        Read::Whole(bytes, trailers) => {
            target.check_response(head.status, &head.headers, Some(&bytes), record)?;
            Ok(ResponseBody::whole(Some(bytes), trailers))
        }
        Read::Larger(body) => {
            target.check_response(head.status, &head.headers, None, record)?;
            Ok(ResponseBody::upstream(body))
        }
    }
}

/// The answer to a client that began a request and did not finish its head in time; written by hand,
/// since for HTTP there was no request yet.
pub(crate) fn head_timeout(core: &Rc<Core>, connection: &Rc<Connection>) -> Vec<u8> {
    let (head, ()) = Request::new(()).into_parts();
    let exchange = Exchange::begin(core, connection, &head, None);
    let denial = Denial::new(
        Reason::RequestTimeout,
        "the request's head did not arrive in time",
    );
    let (response, body) = exchange.deny_whole(denial);
    let mut text = format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-length: {}\r\n",
        response.status.as_u16(),
        response.status.canonical_reason().unwrap_or_default(),
        body.len()
    )
    .into_bytes();
    for (name, value) in &response.headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(&body);
    text
}

/// The header that asks a client to close.
pub(crate) const CLOSE: HeaderValue = HeaderValue::from_static("close");
