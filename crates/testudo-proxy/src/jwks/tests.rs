//! Key sets over real sockets: rotation, outage, nonsense, slowness, restarts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde_json::json;
use testudo_guard::authn::{Authenticators, Authn, KeyRing, Revocations, TokenCache};
use testudo_model::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;

/// Times for tests: fetched again every 20 ms, wishes granted every 30 ms.
const QUICK: Timing = Timing {
    freshest: Duration::from_millis(20),
    stalest: Duration::from_millis(20),
    default: Duration::from_millis(20),
    between_wants: Duration::from_millis(30),
    first_backoff: Duration::from_millis(10),
    last_backoff: Duration::from_millis(20),
    connect: Duration::from_millis(500),
    response: Duration::from_millis(500),
};

/// Nothing but a wish makes it fetch again.
const WISHES_ONLY: Timing = Timing {
    freshest: Duration::from_secs(3600),
    stalest: Duration::from_secs(3600),
    default: Duration::from_secs(3600),
    ..QUICK
};

/// A key of an issuer, with its name.
struct Key {
    pair: EcdsaKeyPair,
    kid: &'static str,
}

impl Key {
    fn new(kid: &'static str) -> Key {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Key { pair, kid }
    }

    fn jwk(&self) -> serde_json::Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "kid": self.kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)
        })
    }

    fn token(&self, issuer: &str) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid});
        let exp = clock().now().unix_seconds() + 600;
        let claims = json!({"iss": issuer, "aud": "shop", "sub": "alice", "exp": exp});
        let input = [header, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
            .join(".");
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.unwrap()))
    }
}

fn set(keys: &[&Key]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

fn clock() -> Clock {
    Clock::start()
}

/// What the server answers at a path.
#[derive(Clone)]
enum Answer {
    Body(String),
    /// Head (without the blank line) and body, as they are.
    Raw(String, String),
    /// Never.
    Silence,
}

/// A small HTTP server on loopback whose answers can be changed.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answers: Rc<RefCell<HashMap<String, Answer>>>,
    requests: Rc<RefCell<Vec<String>>>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            answers: Rc::default(),
            requests: Rc::default(),
        };
        let serving = server.clone();
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::task::spawn_local(serving.clone().answer(socket));
            }
        });
        server
    }

    async fn answer(self, mut socket: tokio::net::TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = socket.read_u8().await else {
                return;
            };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let answer = self.answers.borrow().get(&path).cloned();
        self.requests.borrow_mut().push(path);
        let text = match answer {
            Some(Answer::Body(body)) => format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            ),
            Some(Answer::Raw(head, body)) => format!("{head}\r\nconnection: close\r\n\r\n{body}"),
            Some(Answer::Silence) => return std::future::pending().await,
            None => String::from("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
        };
        let _ = socket.write_all(text.as_bytes()).await;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn set(&self, path: &str, answer: Answer) {
        self.answers.borrow_mut().insert(path.to_owned(), answer);
    }

    fn body(&self, path: &str, body: impl Into<String>) {
        self.set(path, Answer::Body(body.into()));
    }

    fn count(&self) -> usize {
        self.requests.borrow().len()
    }
}

fn rule(name: &str, issuer: &str, jwks: JwksSource) -> IssuerRule {
    IssuerRule {
        name: Arc::from(name),
        issuer: Arc::from(issuer),
        audiences: vec![Arc::from("shop")],
        jwks,
        id: "sub".parse().unwrap(),
        roles: None,
        claims: BTreeMap::new(),
    }
}

fn by_url(server: &Server) -> IssuerRule {
    let url = JwksSource::Url(Arc::from(server.url("/jwks")));
    rule("shop", "https://id.shop.test", url)
}

/// A refresher as a gateway has it, with times for tests.
struct World {
    refresher: Refresher,
    changes: Arc<AtomicU32>,
}

impl World {
    fn new(folder: PathBuf, timing: Timing) -> World {
        let roots = rustls::RootCertStore::empty();
        let changes = Arc::new(AtomicU32::new(0));
        let counted = changes.clone();
        let refresher = Refresher {
            live: Arc::new(Live::default()),
            fetcher: Fetcher::with_roots(roots, timing).unwrap(),
            timing,
            folder,
            panics: Panics::default(),
            clock: clock(),
            changed: Arc::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }),
            tasks: BTreeMap::new(),
        };
        World { refresher, changes }
    }

    fn ring(&self) -> Arc<KeyRing> {
        self.refresher.live.keys.load_full()
    }

    /// How many keys an issuer has; `None`: never fetched.
    fn keys(&self, rule: &IssuerRule) -> Option<usize> {
        let source = rule.key_source().unwrap();
        self.ring().keys(&source).map(|keys| keys.len())
    }

    /// As a request shows the token.
    fn ask(&self, rule: &IssuerRule, token: &str) -> Authn {
        let authenticators = Authenticators::new(vec![rule.clone()], None, false).unwrap();
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        authenticators.authenticate(
            &self.ring(),
            &Revocations::default(),
            &mut TokenCache::default(),
            &HeaderMap::from_iter([(AUTHORIZATION, value)]),
            clock().now(),
        )
    }
}

/// Waits for a condition, not for a time.
async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}

/// Runs a test as the control thread runs tasks.
fn on_control_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn is_user(authn: &Authn) -> bool {
    matches!(authn, Authn::User(_))
}

fn reason(authn: &Authn) -> Option<Reason> {
    match authn {
        Authn::Failed { reason, .. } => Some(*reason),
        Authn::Missing | Authn::User(_) => None,
    }
}

#[test]
fn keys_are_fetched_and_rotate() {
    on_control_thread(async {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (Key::new("old"), Key::new("new"));
        let server = Server::start().await;
        server.body("/jwks", set(&[&old]));
        let rule = by_url(&server);
        let mut world = World::new(folder.path().join("jwks"), QUICK);
        let token = |key: &Key| key.token("https://id.shop.test");
        let before = world.ask(&rule, &token(&old));
        assert_eq!(reason(&before), Some(Reason::AuthnUnavailable));
        world.refresher.reconcile([&rule].into_iter());
        wait_for("the first fetch", || {
            is_user(&world.ask(&rule, &token(&old)))
        })
        .await;
        server.body("/jwks", set(&[&old, &new]));
        wait_for("both", || is_user(&world.ask(&rule, &token(&new)))).await;
        assert!(is_user(&world.ask(&rule, &token(&old))));
        server.body("/jwks", set(&[&new]));
        wait_for("the old one gone", || world.keys(&rule) == Some(1)).await;
        assert_eq!(
            reason(&world.ask(&rule, &token(&old))),
            Some(Reason::AuthnInvalid)
        );
        let (changes, fetches) = (world.changes.load(Ordering::Relaxed), server.count());
        assert_eq!(changes, 3, "fetching the same set again changes nothing");
        wait_for("more fetches", || server.count() > fetches + 2).await;
        assert_eq!(world.changes.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn the_last_good_set_outlives_every_kind_of_outage() {
    on_control_thread(async {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::new("k");
        let server = Server::start().await;
        server.body("/jwks", set(&[&key]));
        let rule = by_url(&server);
        let mut world = World::new(folder.path().join("jwks"), QUICK);
        world.refresher.reconcile([&rule].into_iter());
        wait_for("keys", || world.keys(&rule) == Some(1)).await;
        let large = json!({"keys": [], "x": "y".repeat(300 * 1024)}).to_string();
        let many = json!({"keys": vec![json!({}); 101]}).to_string();
        let raw = |head: &str| Answer::Raw(head.to_owned(), String::new());
        let moved = format!(
            "HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0",
            server.url("/jwks")
        );
        let outages = [
            ("nonsense", Answer::Body(String::from("{\"keys\": [{"))),
            ("a page", Answer::Body(String::from("<html>Sorry</html>"))),
            ("too large", Answer::Body(large)),
            ("too many", Answer::Body(many)),
            ("an error", raw("HTTP/1.1 500 Oops\r\ncontent-length: 0")),
            ("no content", raw("HTTP/1.1 204 No Content")),
            ("cut off", raw("HTTP/1.1 200 OK\r\ncontent-length: 100")),
            ("not HTTP", raw("SSH-2.0-OpenSSH")),
            ("a loop", raw(&moved)),
            (
                "elsewhere in plain",
                raw("HTTP/1.1 302 Found\r\nlocation: http://id.test/k\r\ncontent-length: 0"),
            ),
            ("slow", Answer::Silence),
        ];
        for (what, answer) in outages {
            let seen = server.count();
            server.set("/jwks", answer);
            wait_for(what, || server.count() > seen + 2).await;
            let authn = world.ask(&rule, &key.token("https://id.shop.test"));
            assert!(is_user(&authn), "{what}: {authn:?}");
        }
        let new = Key::new("new");
        server.body("/jwks", set(&[&new]));
        let token = new.token("https://id.shop.test");
        wait_for("recovery", || is_user(&world.ask(&rule, &token))).await;
    });
}

#[test]
fn an_issuer_that_withdraws_all_keys_is_believed() {
    on_control_thread(async {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::new("k");
        let server = Server::start().await;
        server.body("/jwks", set(&[&key]));
        let rule = by_url(&server);
        let mut world = World::new(folder.path().join("jwks"), QUICK);
        world.refresher.reconcile([&rule].into_iter());
        wait_for("keys", || world.keys(&rule) == Some(1)).await;
        server.body("/jwks", set(&[]));
        wait_for("no keys", || world.keys(&rule) == Some(0)).await;
        let authn = world.ask(&rule, &key.token("https://id.shop.test"));
        assert_eq!(reason(&authn), Some(Reason::AuthnInvalid));
    });
}

#[test]
fn an_unknown_kid_fetches_once_in_a_while() {
    on_control_thread(async {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (Key::new("old"), Key::new("new"));
        let server = Server::start().await;
        server.body("/jwks", set(&[&old]));
        let rule = by_url(&server);
        let mut world = World::new(folder.path().join("jwks"), WISHES_ONLY);
        world.refresher.reconcile([&rule].into_iter());
        wait_for("keys", || world.keys(&rule) == Some(1)).await;
        assert_eq!(server.count(), 1);
        server.body("/jwks", set(&[&old, &new]));
        let token = new.token("https://id.shop.test");
        assert_eq!(
            reason(&world.ask(&rule, &token)),
            Some(Reason::AuthnInvalid)
        );
        wait_for("the new key", || world.keys(&rule) == Some(2)).await;
        assert!(is_user(&world.ask(&rule, &token)));

        let forged = Key::new("forged").token("https://id.shop.test");
        let (begun, before) = (Instant::now(), server.count());
        while server.count() < before + 4 {
            assert!(!is_user(&world.ask(&rule, &forged)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Four more fetches need three whole gaps between them, however many requests asked.
        assert!(begun.elapsed() >= QUICK.between_wants * 3);
    });
}

#[test]
fn one_bad_issuer_never_hurts_another() {
    on_control_thread(async {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::new("k");
        let server = Server::start().await;
        server.body("/jwks", set(&[&key]));
        server.set("/dead", Answer::Silence);
        let good = by_url(&server);
        let dead = rule(
            "dead",
            "https://dead.test",
            JwksSource::Url(Arc::from(server.url("/dead"))),
        );
        let plain = rule(
            "plain",
            "https://plain.test",
            JwksSource::Url(Arc::from("http://id.test/jwks")),
        );
        let mut world = World::new(folder.path().join("jwks"), QUICK);
        world
            .refresher
            .reconcile([&dead, &good, &plain].into_iter());
        wait_for("the good one", || world.keys(&good) == Some(1)).await;
        server.body("/jwks", set(&[&key, &Key::new("two")]));
        wait_for("its rotation", || world.keys(&good) == Some(2)).await;
        assert_eq!((world.keys(&dead), world.keys(&plain)), (None, None));
        let authn = world.ask(&dead, &key.token("https://dead.test"));
        assert_eq!(reason(&authn), Some(Reason::AuthnUnavailable));
    });
}

#[test]
fn discovery_believes_the_issuer_itself_alone() {
    on_control_thread(async {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::new("k");
        let server = Server::start().await;
        server.body("/tenant/jwks", set(&[&key]));
        let issuer = server.url("/tenant/");
        let document = |issuer: &str, keys: &str| {
            json!({"issuer": issuer, "jwks_uri": keys, "x": 1}).to_string()
        };
        let path = "/tenant/.well-known/openid-configuration";
        let rule = rule("shop", &issuer, JwksSource::Discovery);
        let mut world = World::new(folder.path().join("jwks"), QUICK);
        world.refresher.reconcile([&rule].into_iter());
        let keys = server.url("/tenant/jwks");
        for bad in [
            document(&server.url("/tenant"), &keys),
            document("https://evil.test/", &keys),
            document(&issuer, "http://id.test/jwks"),
            document(&issuer, "file:///etc/passwd"),
            document(&issuer, "jwks"),
            json!({ "issuer": issuer }).to_string(),
            String::from("[]"),
        ] {
            let seen = server.count();
            server.body(path, bad.clone());
            wait_for(&bad, || server.count() > seen + 2).await;
            assert_eq!(world.keys(&rule), None, "{bad}");
        }
        server.body(path, document(&issuer, &keys));
        wait_for("keys", || world.keys(&rule) == Some(1)).await;
        assert!(is_user(&world.ask(&rule, &key.token(&issuer))));
    });
}

#[test]
fn a_restart_while_the_issuer_is_away_goes_on_with_the_kept_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks");
    on_control_thread(async {
        let key = Key::new("k");
        let server = Server::start().await;
        server.body("/jwks", set(&[&key]));
        let rule = by_url(&server);
        let mut first = World::new(path.clone(), QUICK);
        first.refresher.reconcile([&rule].into_iter());
        wait_for("keys", || first.keys(&rule) == Some(1)).await;
        drop(first);
        let files: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 1);
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&files[0])), (0o700, 0o600));

        server.set("/jwks", Answer::Silence);
        let mut second = World::new(path.clone(), QUICK);
        second.refresher.reconcile([&rule].into_iter());
        let authn = second.ask(&rule, &key.token("https://id.shop.test"));
        assert!(is_user(&authn), "before any fetch: {authn:?}");
        drop(second);

        let text = std::fs::read_to_string(&files[0]).unwrap();
        for damage in [
            "",
            "{",
            &text.replace("/jwks", "/other"),
            &text.replace("keys", "kegs"),
        ] {
            std::fs::write(&files[0], damage).unwrap();
            let mut third = World::new(path.clone(), QUICK);
            third.refresher.reconcile([&rule].into_iter());
            assert_eq!(third.keys(&rule), None, "{damage}");
        }
    });
}

#[test]
fn a_source_that_no_issuer_uses_is_forgotten() {
    on_control_thread(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks");
        let server = Server::start().await;
        server.body("/jwks", set(&[&Key::new("k")]));
        let rule = by_url(&server);
        let mut world = World::new(path.clone(), QUICK);
        world.refresher.reconcile([&rule].into_iter());
        wait_for("keys", || world.keys(&rule) == Some(1)).await;
        world.refresher.reconcile([&rule].into_iter());
        assert_eq!(world.keys(&rule), Some(1), "the same rules change nothing");
        world.refresher.reconcile(std::iter::empty());
        assert_eq!(world.keys(&rule), None);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        let seen = server.count();
        tokio::time::sleep(QUICK.default * 3).await;
        assert_eq!(server.count(), seen, "nobody fetches it");
    });
}

/// A TLS server with a certificate for `localhost` that signs itself, and that certificate.
async fn tls_server(body: String) -> (SocketAddr, rustls_pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = acceptor.accept(socket).await else {
                continue;
            };
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await;
            let text = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = socket.write_all(text.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    (address, certificate)
}

#[test]
fn https_needs_a_certificate_that_this_machine_trusts() {
    on_control_thread(async {
        let (address, certificate) = tls_server(set(&[&Key::new("k")])).await;
        let location = Location::Url(Arc::from(format!(
            "https://localhost:{}/jwks",
            address.port()
        )));
        let by_address = Location::Url(Arc::from(format!("https://{address}/jwks")));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let trusting = Fetcher::with_roots(roots, QUICK).unwrap();
        assert_eq!(trusting.fetch(&location).await.unwrap().keys.len(), 1);
        let refused = |error: fetch::FetchError| {
            let text = fetch::with_causes(&error);
            assert!(text.contains("certificate"), "{text}");
        };
        refused(trusting.fetch(&by_address).await.err().unwrap());
        let empty = rustls::RootCertStore::empty();
        let strange = Fetcher::with_roots(empty, QUICK).unwrap();
        refused(strange.fetch(&location).await.err().unwrap());
    });
}
