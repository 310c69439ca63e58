//! Real proxies in a test: threads, sockets, mutual TLS. What control would give them, a [`World`] does.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use testudo_guard::authn::{TxnKeyEntry, TxnKeys, TxnSigner};
use testudo_guard::snapshot::Role;
use testudo_guard::{Now, Snapshot};
use testudo_identity::MeshTls;
use testudo_model::Event;
use testudo_policy::bundle::Bundle;
use testudo_policy::compile::compile;
use testudo_proxy::{Addresses, DrainOptions, ListenAddress, ProxyError, ProxyOptions, Shared};
use testudo_testkit::{Client, Pki, Users, wait_for};

/// The trust domain of all worlds.
pub const DOMAIN: &str = "shop.test";

/// A bundle, an authority, an identity provider.
pub struct World {
    pub pki: Pki,
    pub users: Users,
    files: BTreeMap<String, Vec<u8>>,
    signer: Arc<TxnSigner>,
    folder: tempfile::TempDir,
}

impl World {
    /// With this `testudo.yaml`; `HEAD` lines (version, trust domain) are added.
    pub fn new(yaml: &str) -> Self {
        let users = Users::new("https://id.shop.test", "shop");
        let world = World {
            pki: Pki::new(DOMAIN),
            files: BTreeMap::new(),
            signer: Arc::new(TxnSigner::generate().unwrap()),
            folder: tempfile::tempdir().unwrap(),
            users,
        };
        let jwks = world.users.jwks();
        world.with("keys/jwks.json", &jwks).with_yaml(yaml)
    }

    /// With another file.
    pub fn with(mut self, path: &str, content: &str) -> Self {
        self.files
            .insert(path.to_owned(), content.as_bytes().to_vec());
        self
    }

    fn with_yaml(self, yaml: &str) -> Self {
        let text = format!("version: 1\ntrust_domain: {DOMAIN}\n{yaml}");
        self.with("testudo.yaml", &text)
    }

    /// Compiles the bundle for one proxy.
    pub fn snapshot(&self, role: &Role, revision: u64) -> Arc<Snapshot> {
        let bundle = Bundle::from_files(self.files.clone()).unwrap();
        match compile(&bundle, revision, "0", role, self.folder.path()) {
            Ok(snapshot) => Arc::new(snapshot),
            Err(diagnostics) => panic!("{:#?}", diagnostics.sorted()),
        }
    }

    /// Starts a gateway.
    pub fn gateway(&self) -> Proxy {
        self.start(Role::Gateway, |_| {})
    }

    /// Starts a sidecar.
    pub fn sidecar(&self, service: &str) -> Proxy {
        self.start(Role::Sidecar(service.into()), |_| {})
    }

    /// Starts a proxy with other options.
    pub fn start(&self, role: Role, change: impl FnOnce(&mut ProxyOptions)) -> Proxy {
        let proxy = self.start_empty(role.clone(), change);
        self.equip(&proxy);
        proxy
            .shared
            .installed
            .install_snapshot(self.snapshot(&role, 1));
        wait_for("a proxy is ready", || proxy.shared.not_ready().is_none());
        proxy
    }

    /// Starts a proxy that has neither identity nor snapshot.
    pub fn start_empty(&self, role: Role, change: impl FnOnce(&mut ProxyOptions)) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = ProxyOptions::new(role, folder.path().join("state"));
        options.listen = Some(free);
        options.inbound = Some(free);
        options.outbound = Some(ListenAddress::Tcp(free));
        options.admin = Some(free);
        options.threads = Some(1);
        options.drain = DrainOptions {
            wait: Duration::from_millis(20),
            deadline: Duration::from_secs(5),
        };
        change(&mut options);
        let (shared, recorder) = testudo_proxy::prepare(options).unwrap();
        let serving = shared.clone();
        let thread = std::thread::spawn(move || testudo_proxy::serve(&serving));
        wait_for("a proxy listens", || {
            assert!(!thread.is_finished(), "the proxy ended");
            shared.bound().is_some()
        });
        Proxy {
            shared,
            thread: Some(thread),
            folder,
            _recorder: recorder,
        }
    }

    /// Gives a proxy its identity and keys.
    pub fn equip(&self, proxy: &Proxy) {
        let id = match &proxy.shared.options.role {
            Role::Gateway => self.pki.gateway(),
            Role::Sidecar(service) => self.pki.service(service),
        };
        self.equip_as(proxy, self.pki.identity(&id));
    }

    /// Gives a proxy this identity, and the keys.
    pub fn equip_as(&self, proxy: &Proxy, mesh: Arc<MeshTls>) {
        let installed = &proxy.shared.installed;
        installed.set_mesh(mesh);
        let edge_key = self.pki.edge_key(&["api.shop.test", "localhost"]);
        installed.edge_key.store(Some(edge_key));
        installed.txn_signer.store(Some(self.signer.clone()));
        let (keys, problems) = TxnKeys::new([TxnKeyEntry {
            kid: self.signer.kid().into(),
            public_key: self.signer.public_key().to_vec(),
            gateway: "gateway".into(),
            not_after: u64::MAX,
        }]);
        assert!(problems.is_empty(), "{problems:?}");
        installed.live.txn_keys.store(Arc::new(keys));
        installed.changed();
    }

    /// Puts another `testudo.yaml` in force at a proxy.
    pub fn install(&self, proxy: &Proxy, revision: u64) {
        let role = proxy.shared.options.role.clone();
        let snapshot = self.snapshot(&role, revision);
        proxy.shared.installed.install_snapshot(snapshot);
    }

    /// Replaces `testudo.yaml`.
    pub fn rewrite(&mut self, yaml: &str) {
        let text = format!("version: 1\ntrust_domain: {DOMAIN}\n{yaml}");
        self.files
            .insert("testudo.yaml".to_owned(), text.into_bytes());
    }
}

/// Tells each of the proxies where all of the sidecars are.
pub fn link(proxies: &[&Proxy]) {
    let mut services: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
    for proxy in proxies {
        if let Role::Sidecar(service) = &proxy.shared.options.role {
            let inbound = proxy.inbound().to_string();
            services.entry(service.clone()).or_default().push(inbound);
        }
    }
    for proxy in proxies {
        let addresses = Addresses::new(services.clone());
        proxy.shared.installed.install_addresses(addresses);
    }
}

/// A running proxy.
pub struct Proxy {
    pub shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), ProxyError>>>,
    folder: tempfile::TempDir,
    _recorder: testudo_watch::Recorder,
}

impl Proxy {
    /// Where the gateway listens.
    pub fn edge(&self) -> SocketAddr {
        parse(self.shared.bound().unwrap().listen.as_deref())
    }

    /// The sidecar's mTLS side.
    pub fn inbound(&self) -> SocketAddr {
        parse(self.shared.bound().unwrap().inbound.as_deref())
    }

    /// The sidecar's side for its application.
    pub fn outbound(&self) -> SocketAddr {
        parse(self.shared.bound().unwrap().outbound.as_deref())
    }

    /// Administration.
    pub fn admin(&self) -> SocketAddr {
        parse(Some(&self.shared.bound().unwrap().admin))
    }

    /// The state folder.
    pub fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state")
    }

    /// `Proxy-Authorization` as `HTTP_PROXY` makes clients send it.
    pub fn proxy_authorization(&self) -> String {
        use base64::Engine;
        let secret = std::fs::read_to_string(self.state().join("outbound.secret")).unwrap();
        let text = format!("testudo:{secret}");
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        format!("Basic {encoded}")
    }

    /// All events so far and from now on; only once.
    pub fn events(&self) -> tokio::sync::mpsc::Receiver<Arc<Event>> {
        self.shared.take_uplink().unwrap().events
    }

    /// A plain HTTP/1.1 client of the edge.
    pub async fn client(&self) -> Client {
        Client::http1(self.edge()).await
    }

    /// Tells it to stop, and goes on.
    pub fn begin_stop(&self) {
        self.shared.stop();
    }

    /// Waits until it has stopped.
    pub fn join(mut self) {
        self.thread.take().unwrap().join().unwrap().unwrap();
    }

    /// The time as the proxy sees it.
    pub fn now(&self) -> Now {
        self.shared.clock.now()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
        assert!(
            self.shared.panic_count() == 0 || std::thread::panicking(),
            "a task of the proxy panicked"
        );
    }
}

fn parse(address: Option<&str>) -> SocketAddr {
    address.unwrap().parse().unwrap()
}

/// `GET` with this host.
pub fn get(path: &str) -> Request<Bytes> {
    request("GET", path, "")
}

/// Any request to `api.shop.test`.
pub fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "api.shop.test")
        .body(body.into())
        .unwrap()
}

/// The same with a header.
pub fn with(mut request: Request<Bytes>, name: &'static str, value: &str) -> Request<Bytes> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}
