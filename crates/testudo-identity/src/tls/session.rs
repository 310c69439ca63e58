//! One connection's peer over its life: cheap to ask for each request, judged anew when the roots or
//! the revocations change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::MeshTls;
use crate::svid::{SvidError, Usage, VerifiedPeer};

/// The verified other end of one connection.
#[derive(Debug)]
pub struct PeerSession {
    mesh: Arc<MeshTls>,
    peer: VerifiedPeer,
    chain: Vec<CertificateDer<'static>>,
    usage: Usage,
    /// The generation of roots and revocations under which it was last judged.
    judged: AtomicU64,
}

impl PeerSession {
    pub(super) fn new(
        mesh: &Arc<MeshTls>,
        certificates: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Result<Self, SvidError> {
        let generation = mesh.generation.load(Ordering::Acquire);
        let (leaf, rest) = certificates.split_first().ok_or(SvidError::Missing)?;
        let peer = mesh.verify(leaf, rest, usage, mesh.clock.now(), Duration::ZERO)?;
        Ok(PeerSession {
            mesh: Arc::clone(mesh),
            peer,
            chain: certificates
                .iter()
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
            usage,
            judged: AtomicU64::new(generation),
        })
    }

    /// Who it is.
    pub fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// Whether the peer is still to be believed at `now` (seconds since the epoch). Ask for each
    /// request; on an error close the connection.
    ///
    /// # Errors
    /// Where its certificate expired, it was revoked, or its root is not trusted any more.
    pub fn check(&self, now: u64) -> Result<(), SvidError> {
        if self.peer.is_expired_at(now) {
            return Err(SvidError::Expired {
                id: self.peer.spiffe_id.clone(),
                not_after: self.peer.not_after,
                now,
            });
        }
        let generation = self.mesh.generation.load(Ordering::Acquire);
        if self.judged.load(Ordering::Relaxed) == generation {
            return Ok(());
        }
        let (leaf, rest) = self.chain.split_first().ok_or(SvidError::Missing)?;
        let at = Duration::from_secs(now.max(self.peer.not_before));
        self.mesh
            .verify(leaf, rest, self.usage, at, Duration::ZERO)?;
        self.judged.store(generation, Ordering::Relaxed);
        Ok(())
    }
}
