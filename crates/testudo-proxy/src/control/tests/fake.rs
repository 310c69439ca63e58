//! A control plane that says what a test tells it to, over real TLS and gRPC. The real one cannot be
//! made to lie.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls_pki_types::CertificateDer;
use testudo_identity::{
    Authority, Clock, JoinToken, KeyRequest, ManifestKey, MeshTls, ProxyRole, SpiffeId, TrustDomain,
};
use testudo_model::mesh::{self, from_control, from_proxy, mesh_server};
use testudo_model::{Manifest, PartRef};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

pub(super) const DOMAIN: &str = "shop.test";

pub(super) fn domain() -> TrustDomain {
    TrustDomain::new(DOMAIN).unwrap()
}

/// What control keeps while it is restarted.
pub(super) struct Control {
    pub(super) authority: Authority,
    pub(super) key: ManifestKey,
    pub(super) ttl: Mutex<Duration>,
    tls: Arc<MeshTls>,
    clock: Arc<Clock>,
    tokens: Mutex<Vec<String>>,
    parts: Mutex<HashMap<String, Vec<u8>>>,
    parts_served: AtomicUsize,
    streams: mpsc::Sender<ControlStream>,
    open: Mutex<Vec<mpsc::WeakSender<Result<mesh::FromControl, Status>>>>,
}

/// One proxy's stream, in the test's hands.
pub(super) struct ControlStream {
    pub(super) hello: mesh::Hello,
    pub(super) from: Streaming<mesh::FromProxy>,
    pub(super) to: mpsc::Sender<Result<mesh::FromControl, Status>>,
    /// Streams that were open when this one began.
    pub(super) others: usize,
    sequence: u64,
}

impl Control {
    pub(super) fn new(folder: &Path) -> (Arc<Self>, mpsc::Receiver<ControlStream>) {
        let clock = Arc::new(Clock::system());
        let now = clock.unix_seconds();
        let authority = Authority::load_or_create(&folder.join("ca"), &domain(), now).unwrap();
        let id = SpiffeId::control(&domain());
        let request = KeyRequest::generate().unwrap();
        let day = Duration::from_secs(86_400);
        let issued = authority.issue_svid(request.csr(), &id, day, now).unwrap();
        let trust = authority.trust();
        let identity = request
            .accept(issued.chain, trust, &id, clock.now())
            .unwrap();
        let tls = MeshTls::new(domain(), Arc::clone(&clock));
        tls.set_identity(identity.shared()).unwrap();
        tls.set_trust(trust.clone()).unwrap();
        let (streams, received) = mpsc::channel(16);
        let control = Control {
            key: ManifestKey::load_or_create(&folder.join("manifest.key")).unwrap(),
            authority,
            ttl: Mutex::new(day),
            tls,
            clock,
            tokens: Mutex::default(),
            parts: Mutex::default(),
            parts_served: AtomicUsize::new(0),
            streams,
            open: Mutex::default(),
        };
        (Arc::new(control), received)
    }

    /// Serves until the task is aborted; says where.
    pub(super) async fn serve(
        self: &Arc<Self>,
        address: &str,
    ) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = TlsAcceptor::from(self.tls.control_server_config().unwrap());
        let (accepted, incoming) = mpsc::channel(16);
        let service = mesh_server::MeshServer::new(Service(Arc::clone(self)));
        let task = tokio::spawn(async move {
            let accept = async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = accepted
                            .send(Ok::<_, std::io::Error>(Accepted(stream)))
                            .await;
                    }
                }
            };
            let serve = tonic::transport::Server::builder()
                .serve_with_incoming(service, ReceiverStream::new(incoming));
            tokio::select! { () = accept => {}, _ = serve => {} }
        });
        (address, task)
    }

    pub(super) fn token(&self, role: ProxyRole) -> JoinToken {
        let root = self.authority.root_sha256().unwrap();
        let token = JoinToken::generate(domain(), role, root, self.key.public());
        self.tokens.lock().unwrap().push(token.hash());
        token
    }

    /// A signed revision of these files, all for everybody. Their contents can be fetched.
    pub(super) fn revision(&self, number: u64, files: &[(&str, &str)]) -> mesh::SignedManifest {
        let parts = files
            .iter()
            .map(|(path, content)| {
                let digest = digest(content.as_bytes());
                self.put_part(&digest, content.as_bytes());
                PartRef {
                    path: (*path).to_owned(),
                    digest,
                    size: content.len() as u64,
                    audience: testudo_model::Audience::All,
                }
            })
            .collect();
        let manifest = serde_json::to_vec(&Manifest {
            number,
            parent: None,
            created: jiff::Timestamp::UNIX_EPOCH,
            note: String::new(),
            parts,
        })
        .unwrap();
        let signature = self.key.sign(&manifest);
        mesh::SignedManifest {
            manifest,
            signature,
        }
    }

    pub(super) fn put_part(&self, digest: &str, content: &[u8]) {
        let mut parts = self.parts.lock().unwrap();
        parts.insert(digest.to_owned(), content.to_vec());
    }

    pub(super) fn parts_served(&self) -> usize {
        self.parts_served.load(Ordering::Relaxed)
    }

    fn identity(&self, csr: &[u8], id: &SpiffeId, proxy: &str) -> mesh::Identity {
        let ttl = *self.ttl.lock().unwrap();
        let now = self.clock.unix_seconds();
        let issued = self.authority.issue_svid(csr, id, ttl, now).unwrap();
        mesh::Identity {
            proxy: proxy.to_owned(),
            spiffe_id: id.to_string(),
            chain: der(&issued.chain),
            roots: der(self.authority.trust().roots()),
            manifest_key: self.key.public().to_vec(),
            trust_domain: DOMAIN.to_owned(),
            not_after: issued.not_after,
        }
    }
}

pub(super) fn digest(content: &[u8]) -> String {
    testudo_identity::hex(&testudo_identity::sha256(content))
}

fn der(certificates: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|der| der.to_vec()).collect()
}

impl ControlStream {
    pub(super) async fn send(&mut self, message: from_control::Message) -> u64 {
        self.sequence += 1;
        let message = mesh::FromControl {
            sequence: self.sequence,
            message: Some(message),
        };
        self.to.send(Ok(message)).await.unwrap();
        self.sequence
    }

    /// The next message that `pick` wants; others are skipped.
    pub(super) async fn next<T>(
        &mut self,
        mut pick: impl FnMut(from_proxy::Message) -> Option<T>,
    ) -> T {
        let find = async {
            loop {
                let message = self.from.message().await.unwrap().unwrap();
                if let Some(found) = message.message.and_then(&mut pick) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), find)
            .await
            .unwrap()
    }

    /// Sends, and waits until it was applied.
    pub(super) async fn apply(&mut self, message: from_control::Message) {
        let sequence = self.send(message).await;
        self.next(|message| match message {
            from_proxy::Message::Seen(seen) if seen.sequence >= sequence => Some(()),
            _ => None,
        })
        .await;
    }

    pub(super) async fn install(&mut self, manifest: mesh::SignedManifest) -> mesh::Ack {
        let digest = digest(&manifest.manifest);
        self.send(from_control::Message::Manifest(manifest)).await;
        self.next(|message| match message {
            from_proxy::Message::Ack(ack) if ack.digest == digest => Some(ack),
            _ => None,
        })
        .await
    }
}

struct Service(Arc<Control>);

/// Who is at the other end, as TLS proved it.
#[derive(Clone)]
struct Peer(Option<Vec<CertificateDer<'static>>>);

impl Service {
    fn peer<T>(&self, request: &Request<T>) -> Result<SpiffeId, Status> {
        let certificates = request
            .extensions()
            .get::<Peer>()
            .and_then(|peer| peer.0.clone());
        match self.0.tls.admit_to_control(certificates.as_deref()) {
            Ok(Some(peer)) => Ok(peer.spiffe_id),
            _ => Err(Status::unauthenticated("no certificate")),
        }
    }
}

#[tonic::async_trait]
impl mesh_server::Mesh for Service {
    async fn join(
        &self,
        request: Request<mesh::JoinRequest>,
    ) -> Result<Response<mesh::Identity>, Status> {
        let request = request.into_inner();
        let hash = testudo_identity::join::hash_secret(&request.token);
        let mut tokens = self.0.tokens.lock().unwrap();
        let Some(found) = tokens.iter().position(|token| *token == hash) else {
            return Err(Status::permission_denied(
                "the join token is not valid any more",
            ));
        };
        tokens.remove(found);
        let role = ProxyRole::from_words(&request.role, &request.service).unwrap();
        let id = role.spiffe_id(&domain()).unwrap();
        let name = match request.service.as_str() {
            "" => "gateway-1".to_owned(),
            service => format!("{service}-1"),
        };
        Ok(Response::new(self.0.identity(&request.csr, &id, &name)))
    }

    async fn renew(
        &self,
        request: Request<mesh::RenewRequest>,
    ) -> Result<Response<mesh::Identity>, Status> {
        let id = self.peer(&request)?;
        Ok(Response::new(self.0.identity(
            &request.into_inner().csr,
            &id,
            "",
        )))
    }

    async fn edge_certificate(
        &self,
        request: Request<mesh::RenewRequest>,
    ) -> Result<Response<mesh::EdgeChain>, Status> {
        self.peer(&request)?;
        let names = ["localhost".to_owned()];
        let now = self.0.clock.unix_seconds();
        let day = Duration::from_secs(86_400);
        let csr = request.into_inner().csr;
        let issued = self.0.authority.issue_edge(&csr, &names, day, now).unwrap();
        Ok(Response::new(mesh::EdgeChain {
            chain: der(&issued.chain),
            not_after: issued.not_after,
        }))
    }

    type SyncStream = ReceiverStream<Result<mesh::FromControl, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<mesh::FromProxy>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        self.peer(&request)?;
        let mut from = request.into_inner();
        let first = from.message().await?.and_then(|first| first.message);
        let Some(from_proxy::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("hello comes first"));
        };
        let (to, outgoing) = mpsc::channel(64);
        let others = {
            let mut open = self.0.open.lock().unwrap();
            open.retain(|to| to.upgrade().is_some_and(|to| !to.is_closed()));
            open.push(to.downgrade());
            open.len() - 1
        };
        let stream = ControlStream {
            hello,
            from,
            to,
            others,
            sequence: 0,
        };
        let _ = self.0.streams.send(stream).await;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    type PartsStream = Pin<Box<dyn Stream<Item = Result<mesh::Part, Status>> + Send>>;

    async fn parts(
        &self,
        request: Request<mesh::PartsRequest>,
    ) -> Result<Response<Self::PartsStream>, Status> {
        self.peer(&request)?;
        let parts = self.0.parts.lock().unwrap();
        let found: Vec<_> = request
            .into_inner()
            .digests
            .into_iter()
            .filter_map(|digest| {
                let content = parts.get(&digest)?.clone();
                Some(Ok(mesh::Part { digest, content }))
            })
            .collect();
        self.0
            .parts_served
            .fetch_add(found.len(), Ordering::Relaxed);
        Ok(Response::new(Box::pin(tokio_stream::iter(found))))
    }
}

struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let (_, connection) = self.0.get_ref();
        Peer(connection.peer_certificates().map(<[_]>::to_vec))
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
