//! Our own certificate for a handshake: whatever identity is current at that moment.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::MeshTls;

/// The identity as it is.
#[derive(Debug)]
pub(super) struct MeshResolver(pub(super) Arc<MeshTls>);

/// The identity with the roots after it.
#[derive(Debug)]
pub(super) struct ControlResolver(pub(super) Arc<MeshTls>);

impl MeshTls {
    fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        current.as_ref().map(|current| Arc::clone(&current.key))
    }
}

impl ResolvesServerCert for MeshResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certified_key()
    }
}

impl ResolvesClientCert for MeshResolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.certified_key()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for ControlResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.0.certified_key()?;
        let trust = self.0.trust()?;
        let mut chain = key.cert.clone();
        chain.extend(trust.roots().iter().cloned());
        Some(Arc::new(CertifiedKey::new(chain, Arc::clone(&key.key))))
    }
}
