//! TLS between the parts of a mesh: 1.3 alone, X25519MLKEM768 first, no resumption, no early data, and
//! on both sides the SPIFFE id of the other end is checked before a byte of traffic passes.
//!
//! [`MeshTls`] holds what changes while a proxy runs: its identity, the roots, the revocations.
//! Configurations made from it look those up for each handshake, so they can be kept and shared while
//! identities are swapped beneath.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::clock::Clock;
use crate::identity::{Identity, IdentityError};
use crate::join::JoinToken;
use crate::revocation::RevocationList;
use crate::spiffe_id::{SpiffeId, TrustDomain};
use crate::svid::{self, SvidError, Usage, VerifiedPeer};
use crate::trust::TrustBundle;

mod resolver;
mod session;
mod verifier;

pub use session::PeerSession;

use resolver::{ControlResolver, MeshResolver};
use verifier::{ClientVerifier, JoinVerifier, ServerVerifier};

/// An SVID so long past its end may still renew, and do nothing else (DESIGN §6).
pub const RENEWAL_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What a client offers to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Alpn {
    fn protocol(self) -> Vec<u8> {
        match self {
            Alpn::Http1 => b"http/1.1".to_vec(),
            Alpn::Http2 => b"h2".to_vec(),
        }
    }
}

/// aws-lc-rs with the hybrid post-quantum key exchange first, for every configuration here.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..rustls::crypto::aws_lc_rs::default_provider()
    })
}

/// The name that clients give rustls. It is not sent and not checked: the SPIFFE id is.
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())
}

/// One party's side of mutual TLS in a mesh. Share one; everything in it can be swapped at any time.
#[derive(Debug)]
pub struct MeshTls {
    domain: TrustDomain,
    clock: Arc<Clock>,
    provider: Arc<CryptoProvider>,
    current: ArcSwapOption<Current>,
    trust: ArcSwapOption<TrustBundle>,
    revocations: ArcSwap<RevocationList>,
    /// Goes up when roots or revocations change, so that open connections are judged again.
    generation: AtomicU64,
}

#[derive(Debug)]
struct Current {
    identity: Arc<Identity>,
    key: Arc<CertifiedKey>,
    since: Duration,
    /// When the identity before this one ends, in seconds since the epoch.
    earlier_not_after: Option<u64>,
}

/// A handshake that began with the identity before the present one is over by then.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(30);

impl MeshTls {
    /// Without identity and roots yet: until both are there, every handshake fails.
    pub fn new(domain: TrustDomain, clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(MeshTls {
            domain,
            clock,
            provider: provider(),
            current: ArcSwapOption::empty(),
            trust: ArcSwapOption::empty(),
            revocations: ArcSwap::default(),
            generation: AtomicU64::new(0),
        })
    }

    /// The mesh.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The clock by which certificates are judged.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// The crypto provider, for configurations made elsewhere.
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// Takes a new identity. Handshakes from now on use it; open connections keep theirs.
    ///
    /// # Errors
    /// Where rustls does not take the key; the old identity stays.
    pub fn set_identity(&self, identity: Arc<Identity>) -> Result<(), IdentityError> {
        let key = Arc::new(identity.certified_key(&self.provider)?);
        let earlier = self.current.load();
        self.current.store(Some(Arc::new(Current {
            identity,
            key,
            since: self.clock.now(),
            earlier_not_after: earlier.as_ref().map(|earlier| earlier.identity.not_after()),
        })));
        Ok(())
    }

    /// Until when the identity certainly lasts that a handshake used which has just ended.
    fn own_not_after(&self) -> Option<u64> {
        let current = self.current.load();
        let current = current.as_ref()?;
        let settled = self.clock.now().saturating_sub(current.since) > LONGEST_HANDSHAKE;
        let earlier = current.earlier_not_after.filter(|_| !settled);
        let own = current.identity.not_after();
        Some(earlier.map_or(own, |earlier| earlier.min(own)))
    }

    /// Takes a new set of roots.
    ///
    /// # Errors
    /// Where they are another mesh's; the old ones stay.
    pub fn set_trust(&self, trust: TrustBundle) -> Result<(), SvidError> {
        if trust.domain() != &self.domain {
            return Err(SvidError::ForeignTrustDomain {
                id: trust.domain().id(),
                wanted: self.domain.to_string(),
            });
        }
        self.trust.store(Some(Arc::new(trust)));
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Takes a new revocation list. An older one than the present is ignored.
    pub fn set_revocations(&self, list: RevocationList) {
        if list.serial() < self.revocations.load().serial() {
            return;
        }
        self.revocations.store(Arc::new(list));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Our identity, once there is one.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.current
            .load()
            .as_ref()
            .map(|current| Arc::clone(&current.identity))
    }

    /// The roots, once there are any.
    pub fn trust(&self) -> Option<Arc<TrustBundle>> {
        self.trust.load_full()
    }

    /// Whether a handshake can succeed: there are an identity within its time, and roots.
    pub fn is_ready(&self) -> bool {
        let now = self.clock.unix_seconds();
        let current = self.current.load();
        let valid = current
            .as_ref()
            .is_some_and(|current| current.identity.svid().is_valid_at(now));
        valid && self.trust.load().is_some()
    }

    /// For a sidecar's inbound port: any identity of the mesh, and none but those.
    /// Offers HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// Where rustls refuses the configuration.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let verifier = ClientVerifier::new(self, true, Duration::ZERO);
        let config = self
            .server_builder()?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(MeshResolver(Arc::clone(self))));
        let alpn = [Alpn::Http2.protocol(), Alpn::Http1.protocol()];
        Ok(Arc::new(without_resumption(config, alpn.into())))
    }

    /// For control's mesh port: no certificate (to join), a valid one, or one that expired within
    /// [`RENEWAL_GRACE`] (to renew). The caller tells them apart with [`MeshTls::admit_to_control`].
    /// The roots are sent along, so that a proxy that joins can compare one with its token.
    ///
    /// # Errors
    /// Where rustls refuses the configuration.
    pub fn control_server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let verifier = ClientVerifier::new(self, false, RENEWAL_GRACE);
        let config = self
            .server_builder()?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(ControlResolver(Arc::clone(self))));
        Ok(Arc::new(without_resumption(
            config,
            vec![Alpn::Http2.protocol()],
        )))
    }

    /// For connections to a service, gateway or control: the other end must prove to be one of
    /// `expected`; with none, nobody is. Make one for each target and keep it.
    ///
    /// # Errors
    /// Where rustls refuses the configuration.
    pub fn client_config(
        self: &Arc<Self>,
        expected: &[SpiffeId],
        alpn: &[Alpn],
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let verifier = ServerVerifier::new(self, expected);
        let config = client_builder(&self.provider, &self.clock)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(MeshResolver(Arc::clone(self))));
        let alpn = alpn.iter().map(|alpn| alpn.protocol()).collect();
        Ok(Arc::new(client_without_resumption(config, alpn)))
    }

    /// Judges the certificates of a connection's other end once more, and gives what the connection
    /// needs to be judged for each request. For traffic: an expired certificate is never admitted.
    ///
    /// # Errors
    /// Where the peer is not to be believed (any more).
    pub fn admit(
        self: &Arc<Self>,
        certificates: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Result<PeerSession, SvidError> {
        PeerSession::new(self, certificates, usage)
    }

    /// Who is at the other end of a connection to control: nobody, or a peer that may have expired
    /// within the grace ([`VerifiedPeer::is_expired_at`]; such a one may only renew).
    ///
    /// # Errors
    /// Where the peer is revoked or not to be believed (any more).
    pub fn admit_to_control(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<VerifiedPeer>, SvidError> {
        match certificates {
            None | Some([]) => Ok(None),
            Some([leaf, rest @ ..]) => self
                .verify(leaf, rest, Usage::Client, self.clock.now(), RENEWAL_GRACE)
                .map(Some),
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: Duration,
        grace: Duration,
    ) -> Result<VerifiedPeer, SvidError> {
        let trust = self.trust.load();
        let trust = trust.as_ref().ok_or(SvidError::NoTrust)?;
        let peer = svid::verify_svid(leaf, intermediates, trust, usage, now, grace)?;
        if self.revocations.load().contains(&peer) {
            return Err(SvidError::Revoked(peer.spiffe_id));
        }
        Ok(peer)
    }

    fn server_builder(
        &self,
    ) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, rustls::Error> {
        ServerConfig::builder_with_details(Arc::clone(&self.provider), Arc::clone(&self.clock) as _)
            .with_protocol_versions(&[&TLS13])
    }
}

/// For the Join call: no certificate of our own yet, and control must prove to be the mesh's control
/// under the root that the token pins.
///
/// # Errors
/// Where rustls refuses the configuration.
pub fn join_client_config(
    token: &JoinToken,
    clock: &Arc<Clock>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = provider();
    let verifier = JoinVerifier::new(token, Arc::clone(clock), &provider);
    let config = client_builder(&provider, clock)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(client_without_resumption(
        config,
        vec![Alpn::Http2.protocol()],
    )))
}

fn client_builder(
    provider: &Arc<CryptoProvider>,
    clock: &Arc<Clock>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_details(Arc::clone(provider), Arc::clone(clock) as _)
        .with_protocol_versions(&[&TLS13])
}

fn without_resumption(mut config: ServerConfig, alpn: Vec<Vec<u8>>) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn;
    config
}

fn client_without_resumption(mut config: ClientConfig, alpn: Vec<Vec<u8>>) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = alpn;
    config
}
