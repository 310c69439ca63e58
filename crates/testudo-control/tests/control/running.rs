//! A running control plane, and proxies that speak to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use testudo_control::{ControlError, ControlOptions};
use testudo_identity::{
    Clock, Identity, JoinToken, KeyRequest, MeshTls, SpiffeId, TrustBundle, TrustDomain, tls,
};
use testudo_model::mesh::mesh_client::MeshClient;
use testudo_model::mesh::{FromControl, FromProxy, Hello, JoinRequest, from_control, from_proxy};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

pub(crate) const BUNDLE: &str = "version: 1
trust_domain: shop.test
gateway:
  listen: 127.0.0.1:0
  tls: none
  routes:
    - {path: /, service: orders}
services:
  orders: {app: ['unix:orders.sock']}
  payments: {app: ['unix:payments.sock']}
";

pub(crate) struct Running {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) api: SocketAddr,
    pub(crate) mesh: SocketAddr,
    pub(crate) token: String,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<Result<(), ControlError>>>,
}

impl Running {
    pub(crate) fn start() -> Running {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bundle")).unwrap();
        std::fs::write(dir.path().join("bundle/testudo.yaml"), BUNDLE).unwrap();
        Running::start_in(dir)
    }

    pub(crate) fn start_in(dir: tempfile::TempDir) -> Running {
        let options = options(dir.path());
        let ready = options.state_dir.join("control.json");
        let _ = std::fs::remove_file(&ready);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(testudo_control::run(options, stopped))
        });
        wait_for("control to be ready", || {
            ready.exists() || thread.is_finished()
        });
        if thread.is_finished() {
            panic!("control did not start: {:?}", thread.join().unwrap());
        }
        let announced: Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        let address = |key: &str| announced[key].as_str().unwrap().parse().unwrap();
        let token = std::fs::read_to_string(dir.path().join("state/admin.token")).unwrap();
        Running {
            api: address("api"),
            mesh: address("mesh"),
            token,
            stop,
            thread: Some(thread),
            dir,
        }
    }

    pub(crate) fn stop(mut self) -> tempfile::TempDir {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle/testudo.yaml")
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let response = client()
            .get(format!("http://{}{path}", self.api))
            .bearer_auth(&self.token)
            .send()
            .await
            .unwrap();
        (
            response.status().as_u16(),
            response.json().await.unwrap_or(Value::Null),
        )
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = client()
            .post(format!("http://{}{path}", self.api))
            .bearer_auth(&self.token);
        let response = request.json(&body).send().await.unwrap();
        (
            response.status().as_u16(),
            response.json().await.unwrap_or(Value::Null),
        )
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        let request = client()
            .delete(format!("http://{}{path}", self.api))
            .bearer_auth(&self.token);
        let response = request.send().await.unwrap();
        (
            response.status().as_u16(),
            response.json().await.unwrap_or(Value::Null),
        )
    }

    pub(crate) async fn join_token(&self, role: &str, service: Option<&str>) -> JoinToken {
        let body = match service {
            Some(service) => json!({"role": role, "service": service}),
            None => json!({"role": role}),
        };
        let (status, body) = self.post("/api/v1/identities/join", body).await;
        assert_eq!(status, 201, "{body}");
        body["token"].as_str().unwrap().parse().unwrap()
    }

    pub(crate) async fn join(&self, role: &str, service: Option<&str>) -> Member {
        let token = self.join_token(role, service).await;
        self.join_with(&token, role, service.unwrap_or(""))
            .await
            .unwrap()
    }

    pub(crate) async fn join_with(
        &self,
        token: &JoinToken,
        role: &str,
        service: &str,
    ) -> Result<Member, tonic::Status> {
        let clock: Arc<Clock> = Arc::new(Clock::system());
        let config = tls::join_client_config(token, &clock).unwrap();
        let request = KeyRequest::generate().unwrap();
        let joined = connect(self.mesh, config)
            .await
            .join(JoinRequest {
                token: token.secret().to_string(),
                csr: request.csr().to_vec(),
                role: role.into(),
                service: service.into(),
                proxy: String::new(),
            })
            .await?
            .into_inner();
        let domain = TrustDomain::new(&joined.trust_domain).unwrap();
        let trust =
            TrustBundle::new(domain.clone(), joined.roots.into_iter().map(Into::into)).unwrap();
        let wanted = SpiffeId::parse(&joined.spiffe_id).unwrap();
        let chain = joined.chain.into_iter().map(Into::into).collect();
        let identity = request.accept(chain, &trust, &wanted, clock.now()).unwrap();
        Ok(self.member(joined.proxy, role, service, identity, trust, clock))
    }

    pub(crate) fn member(
        &self,
        name: String,
        role: &str,
        service: &str,
        identity: Identity,
        trust: TrustBundle,
        clock: Arc<Clock>,
    ) -> Member {
        let domain = trust.domain().clone();
        let mesh_tls = MeshTls::new(domain.clone(), clock);
        mesh_tls.set_trust(trust).unwrap();
        mesh_tls.set_identity(identity.shared()).unwrap();
        Member {
            name,
            role: role.into(),
            service: service.into(),
            control: SpiffeId::control(&domain),
            mesh: self.mesh,
            tls: mesh_tls,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A proxy's identity, and how it speaks to control.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) service: String,
    pub(crate) control: SpiffeId,
    pub(crate) mesh: SocketAddr,
    pub(crate) tls: Arc<MeshTls>,
}

pub(crate) struct Stream {
    pub(crate) up: tokio::sync::mpsc::Sender<FromProxy>,
    pub(crate) down: tonic::Streaming<FromControl>,
}

impl Member {
    pub(crate) async fn client(&self) -> MeshClient<Channel> {
        let config = self
            .tls
            .client_config(
                std::slice::from_ref(&self.control),
                &[testudo_identity::Alpn::Http2],
            )
            .unwrap();
        connect(self.mesh, config).await
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            proxy: self.name.clone(),
            role: self.role.clone(),
            service: self.service.clone(),
            advertise: format!("127.0.0.1:{}", if self.service.is_empty() { 1 } else { 2 }),
            ..Hello::default()
        }
    }

    pub(crate) async fn sync(&self, hello: Hello) -> Result<Stream, tonic::Status> {
        let (up, receiver) = tokio::sync::mpsc::channel(16);
        up.send(FromProxy {
            message: Some(from_proxy::Message::Hello(hello)),
        })
        .await
        .unwrap();
        let down = self
            .client()
            .await
            .sync(tokio_stream::wrappers::ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Stream { up, down })
    }
}

impl Stream {
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&from_control::Message) -> Option<T>,
    ) -> (u64, T) {
        let search = async {
            loop {
                let message = self
                    .down
                    .message()
                    .await
                    .unwrap()
                    .unwrap_or_else(|| panic!("the stream ended before {what}"));
                if let Some(found) = message.message.as_ref().and_then(&mut wanted) {
                    return (message.sequence, found);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), search)
            .await
            .unwrap_or_else(|_| panic!("{what} did not come"))
    }

    pub(crate) async fn send(&self, message: from_proxy::Message) {
        self.up
            .send(FromProxy {
                message: Some(message),
            })
            .await
            .unwrap();
    }
}

pub(crate) fn options(dir: &Path) -> ControlOptions {
    let any = Some("127.0.0.1:0".parse().unwrap());
    ControlOptions {
        bundle_dir: dir.join("bundle"),
        state_dir: dir.join("state"),
        api: any,
        mesh: any,
        watch: true,
    }
}

pub(crate) fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

pub(crate) async fn connect(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> MeshClient<Channel> {
    let connector = tokio_rustls::TlsConnector::from(config);
    let channel = Endpoint::from_static("http://control.mesh")
        .connect_with_connector(tower_service_fn(move |_: Uri| {
            let connector = connector.clone();
            async move {
                let stream = tokio::net::TcpStream::connect(address).await?;
                Ok::<_, std::io::Error>(TokioIo::new(
                    connector.connect(tls::server_name(), stream).await?,
                ))
            }
        }))
        .await;
    MeshClient::new(channel.unwrap())
}

/// `tower::service_fn` without tower.
pub(crate) fn tower_service_fn<F, R, E, S>(connect: F) -> ServiceFn<F>
where
    F: FnMut(Uri) -> R,
    R: Future<Output = Result<S, E>>,
{
    ServiceFn(connect)
}

#[derive(Clone)]
pub(crate) struct ServiceFn<F>(F);

impl<F, R, E, S> tonic::codegen::Service<Uri> for ServiceFn<F>
where
    F: FnMut(Uri) -> R,
    R: Future<Output = Result<S, E>>,
{
    type Response = S;
    type Error = E;
    type Future = R;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), E>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> R {
        (self.0)(uri)
    }
}

pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn manifest_number(message: &from_control::Message) -> Option<u64> {
    match message {
        from_control::Message::Manifest(signed) => {
            serde_json::from_slice::<testudo_model::Manifest>(&signed.manifest)
                .ok()
                .map(|manifest| manifest.number)
        }
        _ => None,
    }
}
