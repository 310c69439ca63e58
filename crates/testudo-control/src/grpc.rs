//! The mesh gRPC service: join, renew, edge certificates, parts, and the stream of each proxy.
//!
//! Who speaks is what TLS proved ([`MeshPeer`]); what a message says of its sender counts only where
//! it agrees with that.

use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use testudo_identity::{Kind, SpiffeId};
use testudo_model::mesh::mesh_server::Mesh;
use testudo_model::mesh::{
    EdgeChain, FromControl, FromProxy, Hello, Identity, JoinRequest, Part, PartsRequest,
    RenewRequest, TokenKey, from_proxy::Message,
};
use testudo_model::{Event, Hop, Verdict};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::Control;
use crate::fleet::{ConnectionId, QUEUE};
use crate::listener::MeshPeer;
use crate::revisions::may_have;
use crate::store::StoredTokenKey;
use crate::why::gather::Answer;

/// Most events in one message that are read; a proxy that sends more is cut off.
const EVENTS_AT_ONCE: usize = 4096;

/// Most events in one answer that are read.
const FOUND_AT_ONCE: usize = 64;

/// Most parts of windows in one message that are read.
const WINDOWS_AT_ONCE: usize = 16;

/// A token key lives at most so long (seconds).
const TOKEN_KEY_TTL: u64 = 7 * 24 * 3600;

/// Clock differences that are forgiven (seconds).
const LEEWAY: u64 = 300;

/// The service; one for the whole control plane.
pub struct MeshService {
    /// The control plane.
    pub control: Arc<Control>,
}

/// A proxy as TLS proved it.
struct Proven {
    id: SpiffeId,
    serial: String,
    not_after: u64,
}

impl Proven {
    fn role(&self) -> &'static str {
        match self.id.kind() {
            Kind::Gateway => "gateway",
            Kind::Service(_) | Kind::Control | Kind::Other => "sidecar",
        }
    }

    fn service(&self) -> &str {
        match self.id.kind() {
            Kind::Service(name) => name,
            Kind::Gateway | Kind::Control | Kind::Other => "",
        }
    }
}

#[tonic::async_trait]
impl Mesh for MeshService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Identity>, Status> {
        let request = request.into_inner();
        let identity = self.control.join(&request).map_err(|error| {
            tracing::warn!(%error, role = request.role, service = request.service, "a proxy was refused to join");
            Status::permission_denied(error.to_string())
        })?;
        tracing::info!(
            proxy = identity.proxy,
            id = identity.spiffe_id,
            "a proxy joined"
        );
        Ok(Response::new(identity))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Identity>, Status> {
        // The one call that an SVID which expired within a day may still make (DESIGN §6).
        let proven = self.proven(request.extensions(), true)?;
        let identity = self
            .control
            .renew(
                &proven.id,
                proven.not_after,
                &proven.serial,
                &request.into_inner().csr,
            )
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        tracing::info!(
            proxy = identity.proxy,
            id = identity.spiffe_id,
            "an SVID was renewed"
        );
        Ok(Response::new(identity))
    }

    async fn edge_certificate(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<EdgeChain>, Status> {
        let proven = self.proven(request.extensions(), false)?;
        if proven.role() != "gateway" {
            return Err(Status::permission_denied(
                "edge certificates are for gateways",
            ));
        }
        let (chain, not_after) = self
            .control
            .edge_certificate(&request.into_inner().csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(EdgeChain { chain, not_after }))
    }

    type SyncStream = ReceiverStream<Result<FromControl, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<FromProxy>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let proven = self.proven(request.extensions(), false)?;
        let mut incoming = request.into_inner();
        let Some(Message::Hello(hello)) = incoming.message().await?.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument(
                "the first message of a stream is Hello",
            ));
        };
        self.check_hello(&proven, &hello)?;
        let name = hello.proxy.clone();
        let (sender, mut queued) = mpsc::channel(QUEUE);
        let (outgoing, stream) = mpsc::channel(1);
        let id = self.control.fleet.connect(hello, sender);
        self.control
            .fleet
            .send_modes(&id, self.control.modes_for(&name));
        tracing::info!(proxy = name, "a proxy connected");
        let control = Arc::clone(&self.control);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = queued.recv() => match message {
                        Some(message) => if outgoing.send(Ok(message)).await.is_err() { break },
                        None => break,
                    },
                    message = incoming.message() => match message {
                        Ok(Some(FromProxy { message: Some(message) })) => {
                            if let Err(error) = receive(&control, &id, &proven, &name, message) {
                                let _ = outgoing.send(Err(error)).await;
                                break;
                            }
                        }
                        Ok(Some(FromProxy { message: None })) => {}
                        Ok(None) | Err(_) => break,
                    },
                }
            }
            control.fleet.disconnect(&id);
            tracing::info!(proxy = name, "a proxy disconnected");
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type PartsStream = std::pin::Pin<Box<dyn Stream<Item = Result<Part, Status>> + Send>>;

    async fn parts(
        &self,
        request: Request<PartsRequest>,
    ) -> Result<Response<Self::PartsStream>, Status> {
        let proven = self.proven(request.extensions(), false)?;
        let digests = request.into_inner().digests;
        let recent = self
            .control
            .store
            .revisions(20)
            .map_err(|error| Status::internal(error.to_string()))?;
        let allowed = |digest: &str| {
            recent
                .iter()
                .flat_map(|(_, manifest)| &manifest.parts)
                .any(|part| {
                    part.digest == digest
                        && may_have(&part.audience, proven.role(), proven.service())
                })
        };
        if let Some(refused) = digests.iter().find(|digest| !allowed(digest)) {
            return Err(Status::permission_denied(format!(
                "part {refused} is not for {}",
                proven.id
            )));
        }
        let store = self.control.store.clone();
        let parts =
            futures_util::stream::iter(digests).map(move |digest| match store.part(&digest) {
                Ok(Some(content)) => Ok(Part { digest, content }),
                Ok(None) => Err(Status::not_found(format!("there is no part {digest}"))),
                Err(error) => Err(Status::internal(error.to_string())),
            });
        Ok(Response::new(Box::pin(parts)))
    }
}

impl MeshService {
    /// The proxy at the other end: verified, not revoked, and unexpired unless `may_have_expired`.
    fn proven(
        &self,
        extensions: &http::Extensions,
        may_have_expired: bool,
    ) -> Result<Proven, Status> {
        let Some(peer) = extensions
            .get::<MeshPeer>()
            .and_then(|peer| peer.verified.clone())
        else {
            return Err(Status::unauthenticated(
                "a client certificate of the mesh is needed",
            ));
        };
        if !may_have_expired && !peer.is_valid_at(crate::unix_now()) {
            return Err(Status::unauthenticated(
                "the SVID has expired, or is not valid yet; renew it",
            ));
        }
        if self
            .control
            .is_revoked(peer.spiffe_id.as_str(), &peer.serial)
        {
            return Err(Status::permission_denied("this identity is revoked"));
        }
        match peer.spiffe_id.kind() {
            Kind::Gateway | Kind::Service(_) => Ok(Proven {
                id: peer.spiffe_id,
                serial: peer.serial,
                not_after: peer.not_after,
            }),
            Kind::Control | Kind::Other => Err(Status::permission_denied(
                "this identity is neither a gateway's nor a service's",
            )),
        }
    }

    fn check_hello(&self, proven: &Proven, hello: &Hello) -> Result<(), Status> {
        if hello.role != proven.role() || hello.service != proven.service() {
            return Err(Status::permission_denied(format!(
                "{} is not {} {}: role and service come from the identity",
                proven.id, hello.role, hello.service
            )));
        }
        if !self.control.owns_name(&hello.proxy, proven.id.as_str()) {
            return Err(Status::permission_denied(format!(
                "{} did not join as {}; join again",
                proven.id, hello.proxy
            )));
        }
        Ok(())
    }
}

/// Takes one message of a proxy's stream. An error ends the stream.
fn receive(
    control: &Arc<Control>,
    id: &ConnectionId,
    proven: &Proven,
    name: &str,
    message: Message,
) -> Result<(), Status> {
    match message {
        Message::Hello(_) => return Err(Status::invalid_argument("Hello comes once, first")),
        Message::Ack(ack) => {
            let error = (!ack.installed).then_some(ack.error);
            if let Some(error) = &error {
                tracing::error!(
                    proxy = name,
                    revision = ack.revision,
                    error,
                    "a proxy could not install the revision"
                );
            }
            control
                .fleet
                .acknowledge(id, ack.revision, ack.digest, error);
        }
        Message::Seen(seen) => control.fleet.seen(id, seen.sequence),
        Message::Found(found) => {
            let read = |json: &Vec<u8>| serde_json::from_slice::<Event>(json).ok();
            let events = found.json.iter().take(FOUND_AT_ONCE).filter_map(read);
            let answer = Answer {
                events: events.filter(|event| is_own(event, proven, name)).collect(),
                error: found.error,
                incomplete: found.incomplete,
            };
            control.searches.answer(found.id, name, answer);
        }
        Message::ModeChanged(change) => {
            // A gateway judges requests to all services, a sidecar those to its own.
            let own = |service: &str| proven.role() == "gateway" || service == proven.service();
            // What is not written down is told again on the next stream, before what came after it.
            control.mode_changed(name, own, &change).map_err(|error| {
                tracing::error!(%error, proxy = name, "a mode set on a host is not written down yet");
                Status::resource_exhausted(error.to_string())
            })?;
            control.fleet.send_modes(id, control.modes_for(name));
        }
        Message::TokenKey(key) => take_token_key(control, id, proven, name, key)?,
        Message::Events(events) => {
            control.decisions.count_dropped(events.dropped);
            for json in events.json.iter().take(EVENTS_AT_ONCE) {
                match serde_json::from_slice::<Event>(json) {
                    Ok(event) if is_own(&event, proven, name) => control.decided(event),
                    Ok(_) | Err(_) => control.decisions.count_dropped(1),
                }
            }
        }
        Message::Windows(message) => {
            control.windows.count_lost(message.dropped);
            let sender = crate::windows::Sender {
                proxy: name,
                service: (proven.role() != "gateway").then(|| proven.service()),
            };
            for part in message.windows.iter().take(WINDOWS_AT_ONCE) {
                // A part that is refused is counted there; the stream goes on for what else it carries.
                let _ = control.windows.take(part, sender, crate::unix_now());
            }
        }
        Message::Health(health) => {
            let effective = serde_json::from_str(&health.effective).ok();
            control.fleet.health(
                id,
                health.ready,
                health.detail,
                health.svid_not_after,
                effective,
            );
        }
    }
    Ok(())
}

/// A proxy's word counts only for itself: a sidecar speaks of calls to its own service, or of calls
/// of its own application that its outbound side refused.
fn is_own(event: &Event, proven: &Proven, name: &str) -> bool {
    if event.proxy != name {
        return false;
    }
    match proven.role() {
        "gateway" => event.hop == Hop::Edge,
        _ => {
            let own = Some(proven.service());
            let refused_outbound = event.caller.as_deref() == own && event.verdict == Verdict::Deny;
            event.hop == Hop::Mesh
                && (event.service.is_none() || event.service.as_deref() == own || refused_outbound)
        }
    }
}

fn take_token_key(
    control: &Arc<Control>,
    id: &ConnectionId,
    proven: &Proven,
    name: &str,
    key: TokenKey,
) -> Result<(), Status> {
    if proven.role() != "gateway" {
        return Err(Status::permission_denied(
            "only gateways have transaction-token keys",
        ));
    }
    if key.public_key.len() != 65 || key.kid.is_empty() || key.kid.len() > 128 {
        return Err(Status::invalid_argument(
            "a token key has a kid and an uncompressed P-256 point",
        ));
    }
    let now = crate::unix_now();
    let key = StoredTokenKey {
        kid: key.kid,
        public_key: key.public_key,
        gateway: name.to_string(),
        not_after: key.not_after.min(now + TOKEN_KEY_TTL + LEEWAY),
    };
    let keys = control
        .add_token_key(&key)
        .map_err(|error| Status::internal(error.to_string()))?;
    let control = Arc::clone(control);
    let id = id.clone();
    // Waits for the other proxies; the gateway's stream goes on meanwhile.
    tokio::spawn(async move { control.fleet.publish_token_keys(keys, &id).await });
    Ok(())
}
