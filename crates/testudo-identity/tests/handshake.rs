//! Real TLS handshakes: who gets in, who does not, and what changes while configurations live on.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, NamedGroup, ProtocolVersion, ServerConfig};
use rustls_pki_types::CertificateDer;
use testudo_identity::svid::{SvidError, Usage};
use testudo_identity::tls::{self, join_client_config};
use testudo_identity::{
    Alpn, Authority, Clock, Identity, JoinToken, KeyRequest, MeshTls, ProxyRole, RevocationList,
    SpiffeId, TrustBundle, TrustDomain,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NOW: u64 = 1_800_000_000;
const TTL: Duration = Duration::from_secs(3600);

fn domain() -> TrustDomain {
    TrustDomain::new("shop.test").unwrap()
}

fn service(name: &str) -> SpiffeId {
    SpiffeId::service(&domain(), name).unwrap()
}

/// An authority in a temporary folder, and a clock that all parties share.
struct Mesh {
    _folder: tempfile::TempDir,
    authority: Authority,
    clock: Arc<Clock>,
}

impl Mesh {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path: &Path = folder.path();
        let authority = Authority::load_or_create(&path.join("ca"), &domain(), NOW).unwrap();
        Mesh {
            _folder: folder,
            authority,
            clock: Arc::new(Clock::fixed(NOW)),
        }
    }

    fn identity(&self, id: &SpiffeId) -> Arc<Identity> {
        let request = KeyRequest::generate().unwrap();
        let now = self.clock.unix_seconds();
        let issued = self
            .authority
            .issue_svid(request.csr(), id, TTL, now)
            .unwrap();
        let trust = self.authority.trust();
        request
            .accept(issued.chain, trust, id, self.clock.now())
            .unwrap()
            .shared()
    }

    fn party(&self, id: &SpiffeId) -> Arc<MeshTls> {
        let party = MeshTls::new(domain(), Arc::clone(&self.clock));
        party.set_identity(self.identity(id)).unwrap();
        party.set_trust(self.authority.trust().clone()).unwrap();
        party
    }
}

/// What both sides saw of a connection that worked.
#[derive(Debug)]
struct Seen {
    version: ProtocolVersion,
    group: NamedGroup,
    alpn: Option<Vec<u8>>,
    client: Option<Vec<CertificateDer<'static>>>,
    server: Vec<CertificateDer<'static>>,
}

/// A handshake and one byte each way: with TLS 1.3 a client learns only then that it was refused.
async fn connect(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Seen, (std::io::Error, std::io::Error)> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = async move {
        let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(far).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        let (_, connection) = stream.get_ref();
        let certificates = connection.peer_certificates().map(<[_]>::to_vec);
        std::io::Result::Ok(certificates)
    };
    let client = async move {
        let connector = tokio_rustls::TlsConnector::from(client);
        let mut stream = connector.connect(tls::server_name(), near).await?;
        stream.write_all(b"x").await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        let (_, connection) = stream.get_ref();
        std::io::Result::Ok(Seen {
            version: connection.protocol_version().unwrap(),
            group: connection.negotiated_key_exchange_group().unwrap().name(),
            alpn: connection.alpn_protocol().map(<[_]>::to_vec),
            client: None,
            server: connection.peer_certificates().unwrap().to_vec(),
        })
    };
    match tokio::join!(client, server) {
        (Ok(seen), Ok(client)) => Ok(Seen { client, ..seen }),
        (client, server) => {
            let ok = || std::io::Error::other("fine on this side");
            Err((
                client.err().unwrap_or_else(ok),
                server.err().unwrap_or_else(ok),
            ))
        }
    }
}

fn client(party: &Arc<MeshTls>, expected: &[SpiffeId]) -> Arc<ClientConfig> {
    party.client_config(expected, &[Alpn::Http1]).unwrap()
}

#[tokio::test]
async fn members_meet_with_post_quantum_key_exchange() {
    let mesh = Mesh::new();
    let (orders, payments) = (
        mesh.party(&service("orders")),
        mesh.party(&service("payments")),
    );
    let server = payments.server_config().unwrap();
    let config = client(&orders, &[service("payments")]);
    let seen = connect(config, Arc::clone(&server)).await.unwrap();
    assert_eq!(seen.version, ProtocolVersion::TLSv1_3);
    assert_eq!(seen.group, NamedGroup::X25519MLKEM768);
    assert_eq!(seen.alpn.as_deref(), Some(b"http/1.1".as_slice()));
    let caller = testudo_identity::peer_identity(&seen.client.unwrap()).unwrap();
    assert_eq!(caller.spiffe_id, service("orders"));
    assert!(caller.is_valid_at(NOW) && !caller.is_valid_at(NOW + 3601));
    let callee = testudo_identity::peer_identity(&seen.server).unwrap();
    assert_eq!(callee.spiffe_id, service("payments"));

    let h2 = orders
        .client_config(&[service("payments")], &[Alpn::Http2])
        .unwrap();
    let seen = connect(h2, server).await.unwrap();
    assert_eq!(seen.alpn.as_deref(), Some(b"h2".as_slice()));
}

#[tokio::test]
async fn somebody_else_than_expected_is_refused() {
    let mesh = Mesh::new();
    let (orders, catalog) = (
        mesh.party(&service("orders")),
        mesh.party(&service("catalog")),
    );
    let server = catalog.server_config().unwrap();
    let refused = connect(client(&orders, &[service("payments")]), Arc::clone(&server)).await;
    let (client_error, _) = refused.unwrap_err();
    let text = format!("{client_error:?}");
    assert!(
        text.contains("service/catalog") && text.contains("service/payments"),
        "{text}"
    );
    assert!(
        connect(client(&orders, &[]), Arc::clone(&server))
            .await
            .is_err()
    );
    let either = client(&orders, &[service("payments"), service("catalog")]);
    assert!(connect(either, server).await.is_ok());
}

#[tokio::test]
async fn another_authority_is_refused_on_both_sides() {
    let (ours, theirs) = (Mesh::new(), Mesh::new());
    let (orders, payments) = (
        ours.party(&service("orders")),
        ours.party(&service("payments")),
    );
    // The thief has the right names from the wrong authority, and trusts ours to get further.
    let thief = theirs.party(&service("orders"));
    thief.set_trust(ours.authority.trust().clone()).unwrap();

    let server = payments.server_config().unwrap();
    let refused = connect(client(&thief, &[service("payments")]), server).await;
    let (_, server_error) = refused.unwrap_err();
    assert!(
        format!("{server_error:?}").contains("UnknownIssuer"),
        "{server_error:?}"
    );

    let fake = thief.server_config().unwrap();
    let refused = connect(client(&payments, &[service("orders")]), fake).await;
    let (client_error, _) = refused.unwrap_err();
    assert!(
        format!("{client_error:?}").contains("UnknownIssuer"),
        "{client_error:?}"
    );
    let honest = connect(
        client(&payments, &[service("orders")]),
        orders.server_config().unwrap(),
    );
    assert!(honest.await.is_ok());
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate() {
    let mesh = Mesh::new();
    let payments = mesh.party(&service("payments"));
    let nobody = MeshTls::new(domain(), Arc::clone(&mesh.clock));
    nobody.set_trust(mesh.authority.trust().clone()).unwrap();
    let server = payments.server_config().unwrap();
    let refused = connect(client(&nobody, &[service("payments")]), server).await;
    let (_, server_error) = refused.unwrap_err();
    assert!(
        format!("{server_error:?}").contains("NoCertificatesPresented"),
        "{server_error:?}"
    );
    assert!(!nobody.is_ready() && payments.is_ready());

    // And a party without roots believes nobody.
    let blind = MeshTls::new(domain(), Arc::clone(&mesh.clock));
    blind
        .set_identity(mesh.identity(&service("orders")))
        .unwrap();
    let refused = connect(
        client(&blind, &[service("payments")]),
        payments.server_config().unwrap(),
    );
    assert!(refused.await.is_err());
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let mesh = Mesh::new();
    let (orders, payments) = (
        mesh.party(&service("orders")),
        mesh.party(&service("payments")),
    );
    let mut old = rustls::ClientConfig::builder_with_provider(Arc::clone(orders.provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    old.enable_sni = false;
    let refused = connect(Arc::new(old), payments.server_config().unwrap()).await;
    let (_, server_error) = refused.unwrap_err();
    assert!(
        format!("{server_error:?}").contains("Tls12NotOfferedOrEnabled"),
        "{server_error:?}"
    );
}

#[tokio::test]
async fn expired_is_refused_for_traffic_and_may_reach_control() {
    let mesh = Mesh::new();
    let (orders, payments) = (
        mesh.party(&service("orders")),
        mesh.party(&service("payments")),
    );
    let control_id = SpiffeId::control(&domain());
    let late = NOW + 3600 + 60;
    mesh.clock.set(late);
    payments
        .set_identity(mesh.identity(&service("payments")))
        .unwrap();
    let control = mesh.party(&control_id);

    let refused = connect(
        client(&orders, &[service("payments")]),
        payments.server_config().unwrap(),
    );
    let (_, server_error) = refused.await.unwrap_err();
    assert!(
        format!("{server_error:?}").contains("ExpiredContext"),
        "{server_error:?}"
    );
    assert!(!orders.is_ready());

    let renew = || {
        let config = orders.client_config(std::slice::from_ref(&control_id), &[Alpn::Http2]);
        connect(config.unwrap(), control.control_server_config().unwrap())
    };
    let certificates = renew().await.unwrap().client;
    let peer = control
        .admit_to_control(certificates.as_deref())
        .unwrap()
        .unwrap();
    assert_eq!(peer.spiffe_id, service("orders"));
    assert!(peer.is_expired_at(late));
    let refused = control.admit(&certificates.unwrap(), Usage::Client);
    assert!(matches!(refused, Err(SvidError::Expired { .. })));

    mesh.clock.set(NOW + 3600 + 24 * 3600 + 1);
    control.set_identity(mesh.identity(&control_id)).unwrap();
    assert!(renew().await.is_err(), "over a day late");
}

#[tokio::test]
async fn a_new_identity_serves_new_connections_of_old_configurations() {
    let mesh = Mesh::new();
    let (orders, payments) = (
        mesh.party(&service("orders")),
        mesh.party(&service("payments")),
    );
    let server = payments.server_config().unwrap();
    let config = client(&orders, &[service("payments")]);
    let before = connect(Arc::clone(&config), Arc::clone(&server))
        .await
        .unwrap();

    orders
        .set_identity(mesh.identity(&service("orders")))
        .unwrap();
    payments
        .set_identity(mesh.identity(&service("payments")))
        .unwrap();
    let after = connect(config, server).await.unwrap();
    let serial =
        |chain: &[CertificateDer<'_>]| testudo_identity::peer_identity(chain).unwrap().serial;
    assert_ne!(serial(&before.server), serial(&after.server));
    assert_ne!(
        serial(&before.client.unwrap()),
        serial(&after.client.clone().unwrap())
    );
    assert_eq!(
        serial(&after.client.unwrap()),
        orders.identity().unwrap().svid().serial
    );
}

#[tokio::test]
async fn a_client_gives_a_connection_up_before_either_end_expires() {
    let mesh = Mesh::new();
    let (orders, payments) = (
        mesh.party(&service("orders")),
        mesh.party(&service("payments")),
    );
    let config = client(&orders, &[service("payments")]);
    mesh.clock.set(NOW + 1800);
    payments
        .set_identity(mesh.identity(&service("payments")))
        .unwrap();
    let server = payments.server_config().unwrap();
    let seen = connect(Arc::clone(&config), Arc::clone(&server))
        .await
        .unwrap();
    // Our own SVID ends first.
    let session = orders.admit(&seen.server, Usage::Server).unwrap();
    assert!(session.takes_another_request(NOW + 3500));
    assert!(!session.takes_another_request(NOW + 3590));
    assert!(session.check(NOW + 3700).is_ok());

    // Just renewed: the handshake may still have used the old one.
    orders
        .set_identity(mesh.identity(&service("orders")))
        .unwrap();
    let session = orders.admit(&seen.server, Usage::Server).unwrap();
    assert!(!session.takes_another_request(NOW + 3590));
    mesh.clock.set(NOW + 1900);
    let seen = connect(config, server).await.unwrap();
    let session = orders.admit(&seen.server, Usage::Server).unwrap();
    assert!(session.takes_another_request(NOW + 3590));
    assert!(!session.takes_another_request(NOW + 1800 + 3590));
}

#[tokio::test]
async fn revocation_and_loss_of_trust_end_open_connections_and_refuse_new_ones() {
    let mesh = Mesh::new();
    let (orders, payments) = (
        mesh.party(&service("orders")),
        mesh.party(&service("payments")),
    );
    let server = payments.server_config().unwrap();
    let config = client(&orders, &[service("payments")]);
    let seen = connect(Arc::clone(&config), Arc::clone(&server))
        .await
        .unwrap();
    let session = payments
        .admit(&seen.client.unwrap(), Usage::Client)
        .unwrap();
    assert!(session.check(NOW).is_ok());
    assert!(matches!(
        session.check(NOW + 3601),
        Err(SvidError::Expired { .. })
    ));

    let serial = session.peer().serial.clone();
    payments.set_revocations(RevocationList::new(2, [serial.as_str()]));
    assert!(matches!(session.check(NOW), Err(SvidError::Revoked(_))));
    let (_, server_error) = connect(Arc::clone(&config), Arc::clone(&server))
        .await
        .unwrap_err();
    assert!(
        format!("{server_error:?}").contains("Revoked"),
        "{server_error:?}"
    );
    payments.set_revocations(RevocationList::new(1, []));
    assert!(session.check(NOW).is_err(), "an older list changes nothing");

    payments.set_revocations(RevocationList::new(3, []));
    assert!(session.check(NOW).is_ok());
    let other = Mesh::new();
    payments.set_trust(other.authority.trust().clone()).unwrap();
    assert!(matches!(session.check(NOW), Err(SvidError::Chain { .. })));
    let foreign = TrustBundle::new(
        TrustDomain::new("x.test").unwrap(),
        mesh.authority.trust().roots().to_vec(),
    );
    assert!(payments.set_trust(foreign.unwrap()).is_err());
}

#[tokio::test]
async fn joining_trusts_control_under_the_pinned_root_and_nobody_else() {
    let mesh = Mesh::new();
    let control = mesh.party(&SpiffeId::control(&domain()));
    let server = control.control_server_config().unwrap();
    let root = mesh.authority.root_sha256().unwrap();
    let token = |root| JoinToken::generate(domain(), ProxyRole::Gateway, root, [0; 32]);
    let join = |token: &JoinToken| join_client_config(token, &mesh.clock).unwrap();

    let seen = connect(join(&token(root)), Arc::clone(&server))
        .await
        .unwrap();
    assert!(seen.client.is_none());
    assert!(control.admit_to_control(None).unwrap().is_none());
    assert!(
        connect(join(&token([1; 32])), server).await.is_err(),
        "another root is pinned"
    );

    let imposter = mesh.party(&service("orders"));
    let server = imposter.control_server_config().unwrap();
    let (client_error, _) = connect(join(&token(root)), server).await.unwrap_err();
    assert!(
        format!("{client_error:?}").contains("/control"),
        "{client_error:?}"
    );
}
