//! The link against a control plane that a test drives: joining, resuming, revisions, keys, renewal.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use testudo_identity::files;
use testudo_model::mesh::{from_control, from_proxy};
use testudo_model::{Event, Hop, Mode, Verdict};
use tokio::task::LocalSet;

use super::*;
use crate::options::ProxyOptions;
use crate::shared::Bound;

mod fake;
mod narrowed;

use fake::{Control, ControlStream, digest};

pub(super) fn event(verdict: Verdict) -> Arc<Event> {
    Arc::new(Event {
        time: jiff::Timestamp::UNIX_EPOCH,
        request_id: "r".to_owned(),
        trace_id: "t".to_owned(),
        trace_guessed: false,
        proxy: "orders-1".to_owned(),
        hop: Hop::Mesh,
        revision: 1,
        caller: None,
        user: None,
        roles: Vec::new(),
        source_ip: None,
        credential: None,
        agent: None,
        service: None,
        operation: None,
        method: "GET".to_owned(),
        host: String::new(),
        path: "/".to_owned(),
        status: Some(200),
        inside: None,
        verdict,
        reason: None,
        mode: Mode::Enforce,
        policy: None,
        findings: Vec::new(),
        bytes_in: 0,
        bytes_out: 0,
        duration_us: 1,
        guard_us: 1,
        checks: Vec::new(),
    })
}

/// A folder with a control plane's and a proxy's state, and where control listens.
struct Bench {
    folder: tempfile::TempDir,
    control: Arc<Control>,
    streams: mpsc::Receiver<ControlStream>,
    address: String,
    server: tokio::task::JoinHandle<()>,
}

impl Bench {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (control, streams) = Control::new(folder.path());
        let (address, server) = control.serve("127.0.0.1:0").await;
        Bench {
            folder,
            control,
            streams,
            address,
            server,
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn options(&self, role: Role) -> ProxyOptions {
        ProxyOptions {
            control: Some(self.address.clone()),
            ..ProxyOptions::new(role, self.state())
        }
    }

    fn options_with_token(&self, role: Role) -> ProxyOptions {
        let word = match &role {
            Role::Gateway => ProxyRole::Gateway,
            Role::Sidecar(service) => ProxyRole::Sidecar(service.to_string()),
        };
        let path = self.folder.path().join("token");
        std::fs::write(&path, self.control.token(word).to_text().as_bytes()).unwrap();
        ProxyOptions {
            join_token_file: Some(path),
            ..self.options(role)
        }
    }

    async fn stream(&mut self) -> ControlStream {
        let next = self.streams.recv();
        tokio::time::timeout(Duration::from_secs(20), next)
            .await
            .unwrap()
            .unwrap()
    }
}

fn orders() -> Role {
    Role::Sidecar(Arc::from("orders"))
}

thread_local! {
    /// Threads that record events, until the test ends.
    static RECORDERS: RefCell<Vec<testudo_watch::Recorder>> = const { RefCell::new(Vec::new()) };
}

/// A proxy whose listeners are said to be bound.
fn proxy(options: ProxyOptions) -> Arc<Shared> {
    let (shared, recorder) = crate::prepare(options).unwrap();
    RECORDERS.with_borrow_mut(|running| running.push(recorder));
    shared.bound.store(Some(Arc::new(Bound {
        inbound: Some("127.0.0.1:15006".to_owned()),
        outbound: Some("127.0.0.1:15001".to_owned()),
        admin: "127.0.0.1:15020".to_owned(),
        ..Bound::default()
    })));
    shared
}

type Running = tokio::task::JoinHandle<Result<Infallible, LinkError>>;

fn start(options: ProxyOptions) -> (Arc<Shared>, Running) {
    let shared = proxy(options);
    let link = Rc::new(open(&shared).unwrap());
    let running = tokio::task::spawn_local(async move { link.run().await });
    (shared, running)
}

async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "waited for {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn error_of(result: Result<Link, LinkError>) -> String {
    result.err().map(|error| text_of(&error)).unwrap()
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_proxy_joins_once_and_resumes_without_a_token() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (shared, running) = start(bench.options_with_token(orders()));
            let stream = bench.stream().await;
            assert_eq!(stream.hello.proxy, "orders-1");
            assert_eq!(
                (stream.hello.role.as_str(), stream.hello.service.as_str()),
                ("sidecar", "orders")
            );
            assert_eq!(stream.hello.advertise, "127.0.0.1:15006");
            assert_eq!(
                (stream.hello.revision, stream.hello.digest.as_str()),
                (0, "")
            );
            assert!(stream.hello.svid_not_after > shared.clock.wall().unix_seconds());
            assert_eq!(&*shared.name(), "orders-1");
            for file in ["svid.pem", "trust.pem", "mesh.json"] {
                assert_eq!(mode(&bench.state().join(file)), 0o600, "{file}");
            }
            running.abort();
            drop(stream);

            // The token is used up, and not needed: neither by a proxy that finds control away.
            bench.server.abort();
            let mut options = bench.options(orders());
            options.control = None;
            let shared = proxy(options);
            open(&shared).unwrap();
            assert!(shared.installed.mesh().unwrap().is_ready());
            assert_eq!(&*shared.name(), "orders-1");
        })
        .await;
}

#[tokio::test]
async fn who_may_not_join_is_told_why() {
    LocalSet::new()
        .run_until(async {
            let bench = Bench::start().await;
            let no_token = error_of(open(&proxy(bench.options(orders()))));
            assert!(
                no_token.contains("identity issue --join orders"),
                "{no_token}"
            );

            // A token for another service.
            let mut options = bench.options_with_token(Role::Sidecar(Arc::from("payments")));
            options.role = orders();
            let other = error_of(open(&proxy(options)));
            assert!(
                other.contains("payments") && other.contains("orders"),
                "{other}"
            );

            // A token that was used already.
            let options = bench.options_with_token(orders());
            let (_, running) = start(options.clone());
            wait_for("joining", || bench.state().join("mesh.json").exists()).await;
            running.abort();
            std::fs::remove_dir_all(bench.state()).unwrap();
            let (_, running) = start(options);
            let refused = text_of(&running.await.unwrap().unwrap_err());
            assert!(refused.contains("not valid any more"), "{refused}");

            // Control of another mesh at that address.
            let other = Bench::start().await;
            let mut options = bench.options_with_token(orders());
            options.control = Some(other.address.clone());
            let (_, running) = start(options);
            let refused = text_of(&running.await.unwrap().unwrap_err());
            assert!(
                refused.contains("not the control plane of this mesh"),
                "{refused}"
            );
        })
        .await;
}

#[tokio::test]
async fn a_state_folder_stays_with_its_proxy_unless_a_token_moves_it() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (_, running) = start(bench.options_with_token(orders()));
            let mut stream = bench.stream().await;
            let revocations = mesh::Revocations {
                serial: 9,
                entries: Vec::new(),
            };
            stream
                .apply(from_control::Message::Revocations(revocations))
                .await;
            running.abort();
            let gateway = error_of(open(&proxy(bench.options(Role::Gateway))));
            assert!(
                gateway.contains("sidecar of orders") && gateway.contains("a gateway"),
                "{gateway}"
            );

            let mut other = Bench::start().await;
            let mut options = other.options_with_token(orders());
            options.state_dir = bench.state();
            let (shared, _running) = start(options);
            other.stream().await;
            let trust = shared.installed.mesh().unwrap().trust().unwrap();
            assert!(trust.contains_sha256(&other.control.authority.root_sha256().unwrap()));
            assert!(!bench.state().join("revocations.bin").exists());
        })
        .await;
}

#[tokio::test]
async fn revisions_that_cannot_be_believed_change_nothing() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (shared, _running) = start(bench.options_with_token(orders()));
            let mut stream = bench.stream().await;

            let mut forged = bench
                .control
                .revision(1, &[("testudo.yaml", "version: 1\n")]);
            forged.manifest.push(b' ');
            let ack = stream.install(forged).await;
            assert!(
                !ack.installed && ack.error.contains("signature"),
                "{}",
                ack.error
            );

            let thief = tempfile::tempdir().unwrap();
            let (thief, _) = Control::new(thief.path());
            let ack = stream
                .install(thief.revision(1, &[("testudo.yaml", "version: 1\n")]))
                .await;
            assert!(
                !ack.installed && ack.error.contains("signature"),
                "{}",
                ack.error
            );

            let swapped = bench
                .control
                .revision(1, &[("testudo.yaml", "version: 1 # a\n")]);
            bench
                .control
                .put_part(&digest(b"version: 1 # a\n"), b"version: 1 # b\n");
            let ack = stream.install(swapped).await;
            assert!(
                !ack.installed && ack.error.contains("not what the manifest says"),
                "{}",
                ack.error
            );

            let broken = bench
                .control
                .revision(1, &[("testudo.yaml", "version: [\n")]);
            let ack = stream.install(broken).await;
            assert!(!ack.installed && ack.revision == 1, "{}", ack.error);
            assert!(shared.installed.snapshot.load().is_none());
            assert!(!bench.state().join("revision.bin").exists());
        })
        .await;
}

const BUNDLE: &str = "version: 1
trust_domain: shop.test
services:
  orders:
    app: [127.0.0.1:9101]
";

#[tokio::test]
async fn a_revision_takes_effect_is_kept_and_never_goes_back() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (shared, running) = start(bench.options_with_token(orders()));
            let mut stream = bench.stream().await;
            let in_force = |shared: &Shared| {
                let snapshot = shared.installed.snapshot.load();
                snapshot.as_ref().map_or(0, |snapshot| snapshot.revision)
            };
            let first = bench.control.revision(1, &[("testudo.yaml", BUNDLE)]);
            let ack = stream.install(first.clone()).await;
            assert!(ack.installed, "{}", ack.error);
            assert_eq!((ack.revision, in_force(&shared)), (1, 1));
            let second = bench.control.revision(2, &[("testudo.yaml", BUNDLE)]);
            assert!(stream.install(second.clone()).await.installed);
            assert_eq!(in_force(&shared), 2);
            // The part is kept from before: it was asked for once.
            assert_eq!(bench.control.parts_served(), 1);

            let ack = stream.install(first.clone()).await;
            assert!(
                !ack.installed && ack.error.contains("older"),
                "{}",
                ack.error
            );
            let fork = bench
                .control
                .revision(2, &[("testudo.yaml", "version: 1\n")]);
            let ack = stream.install(fork).await;
            assert!(
                !ack.installed && ack.error.contains("two different"),
                "{}",
                ack.error
            );
            let broken = bench
                .control
                .revision(3, &[("testudo.yaml", "version: 7\n")]);
            let ack = stream.install(broken).await;
            assert!(
                !ack.installed && ack.error.contains("testudo.yaml:1"),
                "{}",
                ack.error
            );
            assert_eq!(in_force(&shared), 2, "the last good one goes on");
            running.abort();
            bench.server.abort();

            let resumed = proxy(bench.options(orders()));
            let link = open(&resumed).unwrap();
            assert_eq!(in_force(&resumed), 2);
            let floor = install::install(&link.context, first).await.into_ack();
            assert!(
                !floor.installed && floor.error.contains("older"),
                "{}",
                floor.error
            );
            drop(link);

            // What was kept is not believed more than what comes from control.
            let path = bench.state().join("parts").join(digest(BUNDLE.as_bytes()));
            files::write_private(&path, BUNDLE.replace("9101", "9102").as_bytes()).unwrap();
            let resumed = proxy(bench.options(orders()));
            open(&resumed).unwrap();
            assert_eq!(in_force(&resumed), 0);
        })
        .await;
}

#[tokio::test]
async fn keys_addresses_and_revocations_are_applied_and_kept() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (shared, running) = start(bench.options_with_token(orders()));
            let mut stream = bench.stream().await;
            let at = |address: &str| mesh::Addresses {
                services: vec![mesh::ServiceAddresses {
                    service: "payments".to_owned(),
                    addresses: vec![address.to_owned()],
                }],
            };
            stream
                .apply(from_control::Message::Addresses(at("127.0.0.1:1")))
                .await;
            assert_eq!(shared.installed.addresses.load().of("payments").len(), 1);

            let list = |serial, value: &str| mesh::Revocations {
                serial,
                entries: vec![mesh::Revocation {
                    kind: "workload".to_owned(),
                    value: value.to_owned(),
                    ..mesh::Revocation::default()
                }],
            };
            let (first, second) = (
                "spiffe://shop.test/service/a",
                "spiffe://shop.test/service/b",
            );
            stream
                .apply(from_control::Message::Revocations(list(5, first)))
                .await;
            stream
                .apply(from_control::Message::Revocations(list(4, second)))
                .await;
            let live = &shared.installed.live;
            assert!(live.revocations.load().workload(first));
            assert!(
                !live.revocations.load().workload(second),
                "the list never goes back"
            );
            running.abort();
            drop(stream);

            let resumed = proxy(bench.options(orders()));
            let link = Rc::new(open(&resumed).unwrap());
            assert!(resumed.installed.live.revocations.load().workload(first));
            assert_eq!(resumed.installed.addresses.load().of("payments").len(), 1);

            // Control has just started and knows only some proxies yet: nothing is forgotten at once.
            let _running = tokio::task::spawn_local(async move { link.run().await });
            let mut stream = bench.stream().await;
            stream
                .apply(from_control::Message::Addresses(mesh::Addresses::default()))
                .await;
            assert_eq!(resumed.installed.addresses.load().of("payments").len(), 1);
            wait_for("the gathering to end", || {
                resumed.installed.addresses.load().of("payments").is_empty()
            })
            .await;
        })
        .await;
}

#[tokio::test]
async fn a_gateway_signs_only_with_a_published_key() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (shared, running) = start(bench.options_with_token(Role::Gateway));
            let mut stream = bench.stream().await;
            let key = stream
                .next(|message| match message {
                    from_proxy::Message::TokenKey(key) => Some(key),
                    _ => None,
                })
                .await;
            assert_eq!(key.gateway, "gateway-1");
            assert_eq!(mode(&bench.state().join("txn.key")), 0o600);
            stream
                .apply(from_control::Message::TokenKeys(mesh::TokenKeys::default()))
                .await;
            assert!(
                shared.installed.txn_signer.load().is_none(),
                "not published"
            );

            let keys = mesh::TokenKeys {
                keys: vec![key.clone()],
            };
            stream
                .apply(from_control::Message::TokenKeys(keys.clone()))
                .await;
            let signer = shared.installed.txn_signer.load_full().unwrap();
            assert_eq!(signer.kid(), key.kid);
            running.abort();
            drop(stream);

            // A restart without control goes on with it.
            bench.server.abort();
            let resumed = proxy(bench.options(Role::Gateway));
            let link = Rc::new(open(&resumed).unwrap());
            assert_eq!(
                resumed.installed.txn_signer.load_full().unwrap().kid(),
                key.kid
            );
            drop(link);

            // Revoked, it is replaced, and its successor waits until it is published.
            let (address, _server) = bench.control.serve("127.0.0.1:0").await;
            let (shared, _running) = start(ProxyOptions {
                control: Some(address),
                ..bench.options(Role::Gateway)
            });
            let mut stream = bench.stream().await;
            let revoked = mesh::Revocations {
                serial: 1,
                entries: vec![mesh::Revocation {
                    kind: "key".to_owned(),
                    value: key.kid.clone(),
                    ..mesh::Revocation::default()
                }],
            };
            stream
                .send(from_control::Message::Revocations(revoked))
                .await;
            let next = stream
                .next(|message| match message {
                    from_proxy::Message::TokenKey(next) if next.kid != key.kid => Some(next),
                    _ => None,
                })
                .await;
            assert!(shared.installed.txn_signer.load().is_none());
            let keys = mesh::TokenKeys {
                keys: vec![key, next.clone()],
            };
            stream.apply(from_control::Message::TokenKeys(keys)).await;
            assert_eq!(
                shared.installed.txn_signer.load_full().unwrap().kid(),
                next.kid
            );
        })
        .await;
}

#[tokio::test]
async fn an_svid_is_renewed_at_half_life_over_an_unbroken_stream() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            *bench.control.ttl.lock().unwrap() = Duration::from_secs(4);
            let (shared, _running) = start(bench.options_with_token(orders()));
            let first = bench.stream().await;
            let mesh = Arc::clone(shared.installed.mesh().unwrap());
            let before = mesh.identity().unwrap();
            let second = bench.stream().await;
            assert_ne!(mesh.identity().unwrap().svid().serial, before.svid().serial);
            assert!(second.hello.svid_not_after > before.not_after());
            assert!(mesh.is_ready());
            // The old stream was open when the new one began, and goes now.
            assert_eq!((first.others, second.others), (0, 1));
            wait_for("the old stream to end", || first.to.is_closed()).await;
            let stored = Identity::load(&bench.state()).unwrap().unwrap();
            assert_eq!(stored.svid().serial, mesh.identity().unwrap().svid().serial);
        })
        .await;
}

#[tokio::test]
async fn control_may_go_and_come_back() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let shared = proxy(bench.options_with_token(orders()));
            let link = Rc::new(open(&shared).unwrap());
            let running = Rc::clone(&link);
            let _running = tokio::task::spawn_local(async move { running.run().await });
            let stream = bench.stream().await;
            let connected = || link.context.client.borrow().is_some();
            wait_for("the stream", connected).await;
            bench.server.abort();
            let _ = (&mut bench.server).await;
            drop(stream);
            wait_for("the loss to be noticed", || !connected()).await;
            shared.events.send(Event::clone(&event(Verdict::Deny)));
            let (_, _server) = bench.control.serve(&bench.address).await;
            let mut stream = bench.stream().await;
            let events = stream
                .next(|message| match message {
                    from_proxy::Message::Events(events) => Some(events),
                    _ => None,
                })
                .await;
            assert_eq!(events.json.len(), 1);
            let health = stream
                .next(|message| match message {
                    from_proxy::Message::Health(health) => Some(health),
                    _ => None,
                })
                .await;
            assert!(!health.ready && health.detail.contains("snapshot"));
            assert!(serde_json::from_str::<serde_json::Value>(&health.effective).is_ok());
        })
        .await;
}

#[tokio::test]
async fn loose_permissions_keep_a_proxy_from_starting() {
    use std::os::unix::fs::PermissionsExt;
    LocalSet::new()
        .run_until(async {
            let bench = Bench::start().await;
            let (_, running) = start(bench.options_with_token(orders()));
            wait_for("joining", || bench.state().join("mesh.json").exists()).await;
            running.abort();
            let key = bench.state().join("svid.pem");
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
            let error = error_of(open(&proxy(bench.options(orders()))));
            assert!(error.contains("chmod 600"), "{error}");
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
            files::write_private(&bench.state().join("mesh.json"), b"{").unwrap();
            let error = error_of(open(&proxy(bench.options(orders()))));
            assert!(error.contains("damaged"), "{error}");
        })
        .await;
}

#[test]
fn a_failed_call_is_told_by_its_deepest_cause() {
    let alert = std::io::Error::other("received fatal alert: CertificateRevoked");
    let mut status = tonic::Status::from_error(Box::new(alert));
    assert!(status_text(&status).contains("CertificateRevoked"));
    status = tonic::Status::permission_denied("this identity is revoked");
    assert_eq!(status_text(&status), "this identity is revoked");
    status = tonic::Status::new(tonic::Code::Unavailable, "");
    assert!(!status_text(&status).is_empty());
}
