//! The control plane from outside: its HTTP API over a real socket, and its mesh port as a proxy uses it.
#![allow(missing_docs)]

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
use testudo_model::mesh::{
    Ack, FromControl, FromProxy, Hello, JoinRequest, PartsRequest, RenewRequest, TokenKey,
    from_control, from_proxy,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

const BUNDLE: &str = "version: 1
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

struct Running {
    dir: tempfile::TempDir,
    api: SocketAddr,
    mesh: SocketAddr,
    token: String,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<Result<(), ControlError>>>,
}

impl Running {
    fn start() -> Running {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bundle")).unwrap();
        std::fs::write(dir.path().join("bundle/testudo.yaml"), BUNDLE).unwrap();
        Running::start_in(dir)
    }

    fn start_in(dir: tempfile::TempDir) -> Running {
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

    fn stop(mut self) -> tempfile::TempDir {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle/testudo.yaml")
    }

    async fn get(&self, path: &str) -> (u16, Value) {
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

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = client()
            .post(format!("http://{}{path}", self.api))
            .bearer_auth(&self.token);
        let response = request.json(&body).send().await.unwrap();
        (
            response.status().as_u16(),
            response.json().await.unwrap_or(Value::Null),
        )
    }

    async fn join_token(&self, role: &str, service: Option<&str>) -> JoinToken {
        let body = match service {
            Some(service) => json!({"role": role, "service": service}),
            None => json!({"role": role}),
        };
        let (status, body) = self.post("/api/v1/identities/join", body).await;
        assert_eq!(status, 201, "{body}");
        body["token"].as_str().unwrap().parse().unwrap()
    }

    async fn join(&self, role: &str, service: Option<&str>) -> Member {
        let token = self.join_token(role, service).await;
        self.join_with(&token, role, service.unwrap_or(""))
            .await
            .unwrap()
    }

    async fn join_with(
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

    fn member(
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
struct Member {
    name: String,
    role: String,
    service: String,
    control: SpiffeId,
    mesh: SocketAddr,
    tls: Arc<MeshTls>,
}

struct Stream {
    up: tokio::sync::mpsc::Sender<FromProxy>,
    down: tonic::Streaming<FromControl>,
}

impl Member {
    async fn client(&self) -> MeshClient<Channel> {
        let config = self
            .tls
            .client_config(&[self.control.clone()], &[testudo_identity::Alpn::Http2])
            .unwrap();
        connect(self.mesh, config).await
    }

    fn hello(&self) -> Hello {
        Hello {
            proxy: self.name.clone(),
            role: self.role.clone(),
            service: self.service.clone(),
            advertise: format!("127.0.0.1:{}", if self.service.is_empty() { 1 } else { 2 }),
            ..Hello::default()
        }
    }

    async fn sync(&self, hello: Hello) -> Result<Stream, tonic::Status> {
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
    async fn until<T>(
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

    async fn send(&self, message: from_proxy::Message) {
        self.up
            .send(FromProxy {
                message: Some(message),
            })
            .await
            .unwrap();
    }
}

fn options(dir: &Path) -> ControlOptions {
    let any = Some("127.0.0.1:0".parse().unwrap());
    ControlOptions {
        bundle_dir: dir.join("bundle"),
        state_dir: dir.join("state"),
        api: any,
        mesh: any,
        watch: true,
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

async fn connect(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> MeshClient<Channel> {
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
fn tower_service_fn<F, R, E, S>(connect: F) -> ServiceFn<F>
where
    F: FnMut(Uri) -> R,
    R: Future<Output = Result<S, E>>,
{
    ServiceFn(connect)
}

#[derive(Clone)]
struct ServiceFn<F>(F);

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

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn manifest_number(message: &from_control::Message) -> Option<u64> {
    match message {
        from_control::Message::Manifest(signed) => {
            serde_json::from_slice::<testudo_model::Manifest>(&signed.manifest)
                .ok()
                .map(|manifest| manifest.number)
        }
        _ => None,
    }
}

#[tokio::test]
async fn the_api_wants_the_token_and_its_own_host() {
    let control = Running::start();
    let url = format!("http://{}/api/v1/status", control.api);
    let response = client().get(&url).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let response = client()
        .get(&url)
        .bearer_auth("wrong")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    let response = client()
        .get(&url)
        .bearer_auth(&control.token)
        .header("host", "evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 421);
    let in_query = client()
        .get(format!("{url}?token={}", control.token))
        .send()
        .await
        .unwrap();
    assert_eq!(in_query.status(), 401);

    let (status, body) = control.get("/api/v1/status").await;
    assert_eq!(
        (status, &body["revision"], &body["trust_domain"]),
        (200, &json!(1), &json!("shop.test"))
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(control.dir.path().join("state/admin.token"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn saved_files_become_a_revision_and_broken_ones_change_nothing() {
    let control = Running::start();
    let member = control.join("sidecar", Some("orders")).await;
    let mut stream = member.sync(member.hello()).await.unwrap();
    stream
        .until("revision 1", |message| {
            manifest_number(message).filter(|number| *number == 1)
        })
        .await;

    let started = Instant::now();
    std::fs::write(
        control.bundle(),
        BUNDLE.replace("path: /,", "path: /orders,"),
    )
    .unwrap();
    stream
        .until("revision 2", |message| {
            manifest_number(message).filter(|number| *number == 2)
        })
        .await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );

    std::fs::write(
        control.bundle(),
        BUNDLE.replace("service: orders", "service: ordres"),
    )
    .unwrap();
    let start = Instant::now();
    let broken = loop {
        let (_, body) = control.get("/api/v1/status").await;
        if !body["bundle_error"].is_null() {
            break body;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(broken["revision"], 2);
    assert!(
        broken["bundle_error"]
            .as_str()
            .unwrap()
            .contains("testudo.yaml:"),
        "{broken}"
    );
}

#[tokio::test]
async fn revisions_are_uploaded_compared_and_refused() {
    use base64::Engine as _;
    let control = Running::start();
    let encode = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
    let upload = |parent: Value, text: &str| json!({"parent": parent, "note": "test", "files": {"testudo.yaml": encode(text)}});

    let (_, list) = control.get("/api/v1/revisions").await;
    let first = list[0]["digest"].clone();
    let (status, body) = control
        .post("/api/v1/revisions", upload(first.clone(), BUNDLE))
        .await;
    assert_eq!((status, &body["changed"]), (200, &json!(false)), "{body}");

    let changed = BUNDLE.replace("path: /,", "path: /shop,");
    let (status, body) = control
        .post("/api/v1/revisions", upload(first.clone(), &changed))
        .await;
    assert_eq!((status, &body["number"]), (201, &json!(2)), "{body}");
    let (status, body) = control
        .post("/api/v1/revisions", upload(first, BUNDLE))
        .await;
    assert_eq!(status, 409, "{body}");

    let broken = BUNDLE.replace("service: orders", "service: ordres");
    let (status, body) = control
        .post("/api/v1/revisions", upload(Value::Null, &broken))
        .await;
    assert_eq!(status, 422, "{body}");
    assert_eq!(
        body["diagnostics"][0]["code"], "route.unknown_service",
        "{body}"
    );
    let foreign = BUNDLE.replace("shop.test", "other.test");
    let (status, body) = control
        .post("/api/v1/revisions", upload(Value::Null, &foreign))
        .await;
    assert_eq!(
        (status, &body["code"]),
        (422, &json!("bundle.trust_domain")),
        "{body}"
    );
    let (_, status) = control.get("/api/v1/status").await;
    assert_eq!(status["revision"], 2);

    // A newer revision in the store outlives a restart, and so does the token.
    let token = control.token.clone();
    let control = Running::start_in(control.stop());
    assert_eq!(control.token, token);
    let (_, list) = control.get("/api/v1/revisions").await;
    assert!(
        list.as_array()
            .unwrap()
            .iter()
            .any(|revision| revision["number"] == 2),
        "{list}"
    );
}

#[tokio::test]
async fn a_join_token_works_once_for_its_role_and_names_come_from_control() {
    let control = Running::start();
    let (status, body) = control
        .post(
            "/api/v1/identities/join",
            json!({"role": "sidecar", "service": "ordres"}),
        )
        .await;
    assert_eq!(status, 422);
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("orders, payments"),
        "{body}"
    );

    let token = control.join_token("sidecar", Some("orders")).await;
    let member = control
        .join_with(&token, "sidecar", "orders")
        .await
        .unwrap();
    assert_eq!(member.name, "orders-1");
    let again = control.join_with(&token, "sidecar", "orders").await;
    assert_eq!(again.err().unwrap().code(), tonic::Code::PermissionDenied);

    let token = control.join_token("sidecar", Some("orders")).await;
    let other = control.join_with(&token, "sidecar", "payments").await;
    assert_eq!(other.err().unwrap().code(), tonic::Code::PermissionDenied);
    // A token that was tried for something else is used up.
    assert!(
        control
            .join_with(&token, "sidecar", "orders")
            .await
            .is_err()
    );

    let second = control.join("sidecar", Some("orders")).await;
    assert_eq!(second.name, "orders-2");
}

#[tokio::test]
async fn identity_decides_what_a_proxy_may_say_and_fetch() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let payments = control.join("sidecar", Some("payments")).await;

    let lie = Hello {
        service: "payments".into(),
        ..orders.hello()
    };
    assert_eq!(
        orders.sync(lie).await.err().unwrap().code(),
        tonic::Code::PermissionDenied
    );
    let lie = Hello {
        proxy: payments.name.clone(),
        ..orders.hello()
    };
    assert_eq!(
        orders.sync(lie).await.err().unwrap().code(),
        tonic::Code::PermissionDenied
    );

    let edge = orders
        .client()
        .await
        .edge_certificate(RenewRequest { csr: vec![] })
        .await;
    assert_eq!(edge.err().unwrap().code(), tonic::Code::PermissionDenied);
    let unknown = PartsRequest {
        digests: vec!["00".repeat(32)],
    };
    assert_eq!(
        orders
            .client()
            .await
            .parts(unknown)
            .await
            .err()
            .unwrap()
            .code(),
        tonic::Code::PermissionDenied
    );

    let (_, list) = control.get("/api/v1/revisions").await;
    let digest = list[0]["parts"][0]["digest"].as_str().unwrap().to_string();
    let mut parts = orders
        .client()
        .await
        .parts(PartsRequest {
            digests: vec![digest.clone()],
        })
        .await
        .unwrap()
        .into_inner();
    let part = parts.message().await.unwrap().unwrap();
    assert_eq!(
        (part.digest.as_str(), part.content.as_slice()),
        (digest.as_str(), BUNDLE.as_bytes())
    );

    let stream = orders.sync(orders.hello()).await.unwrap();
    stream
        .send(from_proxy::Message::TokenKey(TokenKey {
            kid: "k".into(),
            public_key: vec![4; 65],
            ..TokenKey::default()
        }))
        .await;
    let mut stream = stream;
    let ended = loop {
        match stream.down.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert_eq!(ended.unwrap().code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn token_keys_reach_the_gateway_after_the_sidecars() {
    let control = Running::start();
    let gateway = control.join("gateway", None).await;
    let orders = control.join("sidecar", Some("orders")).await;
    let mut down = gateway.sync(gateway.hello()).await.unwrap();
    let mut side = orders.sync(orders.hello()).await.unwrap();
    let has_key = |message: &from_control::Message| match message {
        from_control::Message::TokenKeys(keys) => {
            keys.keys.iter().any(|key| key.kid == "k1").then_some(())
        }
        _ => None,
    };
    let key = TokenKey {
        kid: "k1".into(),
        public_key: vec![4; 65],
        gateway: "liar".into(),
        not_after: u64::MAX,
    };
    down.send(from_proxy::Message::TokenKey(key)).await;
    let (sequence, ()) = side.until("the key at the sidecar", has_key).await;
    let early = tokio::time::timeout(
        Duration::from_millis(300),
        down.until("the key too early", has_key),
    )
    .await;
    assert!(
        early.is_err(),
        "the gateway got the go-ahead before the sidecar acknowledged"
    );
    side.send(from_proxy::Message::Seen(testudo_model::mesh::Seen {
        sequence,
    }))
    .await;
    down.until("the key at the gateway", has_key).await;
}

#[tokio::test]
async fn acknowledgements_and_events_are_shown() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let mut stream = orders.sync(orders.hello()).await.unwrap();
    stream.until("revision 1", manifest_number).await;
    let (_, revisions) = control.get("/api/v1/revisions").await;
    let digest = revisions[0]["digest"].as_str().unwrap().to_string();
    stream
        .send(from_proxy::Message::Ack(Ack {
            revision: 1,
            digest,
            installed: true,
            error: String::new(),
        }))
        .await;
    let event = |proxy: &str, service: &str, id: &str| {
        json!({
            "time": "2026-01-01T00:00:00Z", "request_id": id, "trace_id": "0", "proxy": proxy, "hop": "mesh", "revision": 1,
            "caller": "gateway", "user": "anonymous", "roles": [], "source_ip": null, "service": service,
            "operation": "orders:GET", "method": "GET", "host": "h", "path": "/", "status": 403, "verdict": "deny",
            "reason": "authz.user", "mode": "enforce", "policy": null, "findings": [], "bytes_in": 0, "bytes_out": 0,
            "duration_us": 1, "guard_us": 1
        })
        .to_string()
        .into_bytes()
    };
    let json = vec![
        event("orders-1", "orders", "mine"),
        event("orders-1", "payments", "foreign"),
        event("payments-1", "payments", "lie"),
    ];
    stream
        .send(from_proxy::Message::Events(testudo_model::mesh::Events {
            json,
            dropped: 0,
        }))
        .await;

    let start = Instant::now();
    let decisions = loop {
        let (_, list) = control.get("/api/v1/decisions?verdict=deny").await;
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            break list;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(
        decisions.as_array().unwrap().len(),
        1,
        "a proxy's word counts for its own service only: {decisions}"
    );
    assert_eq!(decisions[0]["request_id"], "mine");
    let (_, status) = control.get("/api/v1/status").await;
    assert_eq!(
        (
            &status["proxies"]["in_sync"],
            &status["decisions"]["dropped"]
        ),
        (&json!(1), &json!(2)),
        "{status}"
    );
    let (_, proxies) = control.get("/api/v1/proxies").await;
    assert_eq!(
        (&proxies[0]["name"], &proxies[0]["revision"]),
        (&json!("orders-1"), &json!(1)),
        "{proxies}"
    );
}

#[tokio::test]
async fn a_revoked_workload_loses_its_stream_and_cannot_renew() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let request = KeyRequest::generate().unwrap();
    let renewed = orders
        .client()
        .await
        .renew(RenewRequest {
            csr: request.csr().to_vec(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(renewed.spiffe_id, "spiffe://shop.test/service/orders");
    assert_eq!(renewed.proxy, "orders-1");

    let mut stream = orders.sync(orders.hello()).await.unwrap();
    stream.until("revision 1", manifest_number).await;
    let body = json!({"kind": "workload", "value": "spiffe://shop.test/service/orders", "reason": "stolen"});
    let (status, _) = control.post("/api/v1/revocations", body).await;
    assert_eq!(status, 201);
    let ended = tokio::time::timeout(Duration::from_secs(10), async {
        while let Ok(Some(_)) = stream.down.message().await {}
    });
    ended.await.expect("the revoked proxy's stream goes on");
    let config = orders
        .tls
        .client_config(&[orders.control.clone()], &[testudo_identity::Alpn::Http2])
        .unwrap();
    let stream = tokio::net::TcpStream::connect(control.mesh).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    // TLS 1.3: the client may learn of the refusal only when it reads.
    let refused = match connector.connect(tls::server_name(), stream).await {
        Err(_) => true,
        Ok(mut stream) => {
            use tokio::io::AsyncReadExt as _;
            let mut buffer = [0; 64];
            let read = tokio::time::timeout(Duration::from_secs(5), async {
                loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                }
            });
            read.await.is_ok()
        }
    };
    assert!(refused, "a revoked workload still connects");
}

#[tokio::test]
async fn a_broken_bundle_or_a_busy_port_ends_the_start_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bundle")).unwrap();
    let start = |options| testudo_control::run(options, CancellationToken::new());
    assert!(
        matches!(start(options(dir.path())).await, Err(ControlError::Bundle(list)) if !list.is_empty())
    );

    std::fs::write(dir.path().join("bundle/testudo.yaml"), BUNDLE).unwrap();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = ControlOptions {
        api: Some(busy.local_addr().unwrap()),
        ..options(dir.path())
    };
    let error = start(taken).await.unwrap_err();
    assert!(
        error.to_string().contains("another process has this port"),
        "{error}"
    );

    let open = ControlOptions {
        api: Some("0.0.0.0:0".parse().unwrap()),
        ..options(dir.path())
    };
    assert!(matches!(
        start(open).await,
        Err(ControlError::ApiExposed(_))
    ));
}
