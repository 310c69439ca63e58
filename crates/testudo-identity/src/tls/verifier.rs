//! rustls verifiers: the other end's certificate must be an SVID of the mesh, not revoked, and where
//! a client asks for somebody, it must be them.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::MeshTls;
use crate::clock::Clock;
use crate::join::JoinToken;
use crate::spiffe_id::{SpiffeId, TrustDomain};
use crate::svid::{self, SvidError, Usage};
use crate::trust::TrustBundle;

/// What every verifier here says about signatures: TLS 1.3 and what the provider can check.
macro_rules! tls13_signatures_only {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(only_tls13())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

#[derive(Debug)]
pub(super) struct ClientVerifier {
    mesh: Arc<MeshTls>,
    mandatory: bool,
    grace: Duration,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
pub(super) struct ServerVerifier {
    mesh: Arc<MeshTls>,
    expected: Box<[SpiffeId]>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
pub(super) struct JoinVerifier {
    domain: TrustDomain,
    root_sha256: [u8; 32],
    clock: Arc<Clock>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub(super) fn new(mesh: &Arc<MeshTls>, mandatory: bool, grace: Duration) -> Self {
        ClientVerifier {
            mesh: Arc::clone(mesh),
            mandatory,
            grace,
            algorithms: mesh.provider.signature_verification_algorithms,
        }
    }
}

impl ServerVerifier {
    pub(super) fn new(mesh: &Arc<MeshTls>, expected: &[SpiffeId]) -> Self {
        ServerVerifier {
            mesh: Arc::clone(mesh),
            expected: expected.into(),
            algorithms: mesh.provider.signature_verification_algorithms,
        }
    }
}

impl JoinVerifier {
    pub(super) fn new(token: &JoinToken, clock: Arc<Clock>, provider: &CryptoProvider) -> Self {
        JoinVerifier {
            domain: token.trust_domain.clone(),
            root_sha256: token.root_sha256,
            clock,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    /// The pinned root comes with the chain: a certificate counts as a root because its hash is in
    /// the token, which came on a trusted way.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
    ) -> Result<(), SvidError> {
        let pinned = rest
            .iter()
            .take(svid::MAX_CHAIN)
            .find(|certificate| crate::sha256(certificate) == self.root_sha256)
            .ok_or(SvidError::NoTrust)?;
        let trust = TrustBundle::new(self.domain.clone(), [pinned.clone().into_owned()])
            .map_err(|_| SvidError::NoTrust)?;
        let now = self.clock.now();
        let peer = svid::verify_svid(leaf, rest, &trust, Usage::Server, now, Duration::ZERO)?;
        require(&peer.spiffe_id, &[SpiffeId::control(&self.domain)])
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Clients have one identity; hints would only tell strangers our roots' names.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = Duration::from_secs(now.as_secs());
        self.mesh
            .verify(end_entity, intermediates, Usage::Client, now, self.grace)
            .map(|_| ClientCertVerified::assertion())
            .map_err(to_tls_error)
    }

    tls13_signatures_only!();
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = Duration::from_secs(now.as_secs());
        let zero = Duration::ZERO;
        self.mesh
            .verify(end_entity, intermediates, Usage::Server, now, zero)
            .and_then(|peer| require(&peer.spiffe_id, &self.expected))
            .map(|()| ServerCertVerified::assertion())
            .map_err(to_tls_error)
    }

    tls13_signatures_only!();
}

impl ServerCertVerifier for JoinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates)
            .map(|()| ServerCertVerified::assertion())
            .map_err(to_tls_error)
    }

    tls13_signatures_only!();
}

fn require(found: &SpiffeId, expected: &[SpiffeId]) -> Result<(), SvidError> {
    if expected.contains(found) {
        return Ok(());
    }
    let wanted: Vec<_> = expected.iter().map(SpiffeId::as_str).collect();
    Err(SvidError::Unexpected {
        found: found.clone(),
        wanted: wanted.join(" or "),
    })
}

fn only_tls13() -> Error {
    Error::General("the mesh speaks TLS 1.3 only".to_owned())
}

/// The alert tells the peer little; our own error keeps the reason.
fn to_tls_error(error: SvidError) -> Error {
    let certificate_error = match error {
        SvidError::Malformed => CertificateError::BadEncoding,
        SvidError::Revoked(_) => CertificateError::Revoked,
        SvidError::Expired { not_after, now, .. } => CertificateError::ExpiredContext {
            time: seconds(now),
            not_after: seconds(not_after),
        },
        SvidError::NotYetValid {
            not_before, now, ..
        } => CertificateError::NotValidYetContext {
            time: seconds(now),
            not_before: seconds(not_before),
        },
        SvidError::Chain {
            source: webpki::Error::UnknownIssuer,
            ..
        } => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(certificate_error)
}

fn seconds(since_epoch: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(since_epoch))
}
