//! From a validated `101` to a tunnel.

use http::{HeaderValue, Response, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use testudo_guard::{Denial, normalize};
use testudo_model::Reason;

use crate::body::ResponseBody;
use crate::exchange::Exchange;
use crate::upstream::{Answer, Permitted, Tunnel, accepts_websocket};

/// Answers the client's handshake with the service's, and connects both once hyper has let go of them.
/// The request's event comes when the tunnel ends.
pub(crate) fn switch(
    mut exchange: Exchange,
    permitted: &Permitted,
    mut answer: Answer,
    client: Option<OnUpgrade>,
    key: Option<&HeaderValue>,
) -> Response<ResponseBody> {
    let status = answer.response.status();
    let asked = client.filter(|_| accepts_websocket(key, status, answer.response.headers()));
    let Some(client) = asked else {
        let detail = "a 101 that completes no WebSocket handshake of ours";
        return exchange.deny(Denial::new(Reason::UpstreamInvalid, detail));
    };
    let server = hyper::upgrade::on(&mut answer.response);
    let (mut head, _) = answer.response.into_parts();
    normalize::response_headers(&mut head.headers);
    head.headers
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    head.headers
        .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let lease = answer.lease;
    let core = exchange.core.clone();
    let user = match permitted {
        Permitted::Inside(permit) => permit.target().user.as_ref(),
        Permitted::Outbound(_) => None,
    };
    let lifetime = exchange.lifetime(user);
    let (response, observation) =
        exchange.finish_unobserved(Response::from_parts(head, ResponseBody::whole(None, None)));
    let tunnel = Tunnel {
        lifetime,
        observation,
    };
    core.spawn("websocket", async move {
        // The endpoint stays busy for as long as the tunnel stands.
        let _lease = lease;
        match tokio::try_join!(client, server) {
            Ok((client, server)) => tunnel.run(TokioIo::new(client), TokioIo::new(server)).await,
            Err(error) => tracing::debug!(%error, "an upgrade failed"),
        }
    });
    response
}
