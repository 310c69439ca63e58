//! A mesh's certificates, made for one test.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::sign::CertifiedKey;
use testudo_identity::{Authority, Clock, KeyRequest, MeshTls, SpiffeId, TrustDomain};

/// An authority of its own, with a folder that goes away with it.
pub struct Pki {
    authority: Authority,
    domain: TrustDomain,
    clock: Arc<Clock>,
    _folder: tempfile::TempDir,
}

impl Pki {
    /// A new authority for this trust domain.
    pub fn new(domain: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new(domain).unwrap();
        let clock = Arc::new(Clock::system());
        let authority =
            Authority::load_or_create(&folder.path().join("ca"), &domain, clock.unix_seconds())
                .unwrap();
        Pki {
            authority,
            domain,
            clock,
            _folder: folder,
        }
    }

    /// The trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Mutual TLS as this identity, valid for an hour.
    pub fn identity(&self, id: &SpiffeId) -> Arc<MeshTls> {
        self.identity_for(id, Duration::from_secs(3600))
    }

    /// The same with another life.
    pub fn identity_for(&self, id: &SpiffeId, ttl: Duration) -> Arc<MeshTls> {
        let mesh = MeshTls::new(self.domain.clone(), self.clock.clone());
        mesh.set_trust(self.authority.trust().clone()).unwrap();
        self.renew(&mesh, id, ttl);
        mesh
    }

    /// Gives a party a new SVID.
    pub fn renew(&self, mesh: &MeshTls, id: &SpiffeId, ttl: Duration) {
        let request = KeyRequest::generate().unwrap();
        let now = self.clock.unix_seconds();
        let issued = self
            .authority
            .issue_svid(request.csr(), id, ttl, now)
            .unwrap();
        let identity = request
            .accept(issued.chain, self.authority.trust(), id, self.clock.now())
            .unwrap();
        mesh.set_identity(identity.shared()).unwrap();
    }

    /// The id of a service.
    pub fn service(&self, name: &str) -> SpiffeId {
        SpiffeId::service(&self.domain, name).unwrap()
    }

    /// The gateways' id.
    pub fn gateway(&self) -> SpiffeId {
        SpiffeId::gateway(&self.domain)
    }

    /// An edge certificate for these names.
    pub fn edge_key(&self, names: &[&str]) -> Arc<CertifiedKey> {
        let request = KeyRequest::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let ttl = Duration::from_secs(3600);
        let now = self.clock.unix_seconds();
        let issued = self
            .authority
            .issue_edge(request.csr(), &names, ttl, now)
            .unwrap();
        let provider = testudo_identity::tls::provider();
        let edge = request.accept_edge(issued.chain).unwrap();
        Arc::new(edge.certified_key(&provider).unwrap())
    }

    /// What a client of the edge needs to trust it.
    pub fn edge_client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        for root in self.authority.trust().roots() {
            roots.add(root.clone()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(testudo_identity::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A certificate of its own authority, as a bundle names it.
pub struct SelfSigned {
    /// PEM.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
    /// DER, to trust and to compare.
    pub der: rustls::pki_types::CertificateDer<'static>,
}

/// A self-signed server certificate for these names.
pub fn self_signed(names: &[&str]) -> SelfSigned {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    SelfSigned {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

/// What a client needs to trust these certificates, in these TLS versions.
pub fn trusting(
    certificates: &[&SelfSigned],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.der.clone()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(testudo_identity::tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
