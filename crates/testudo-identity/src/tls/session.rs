//! One connection's peer over its life: cheap to ask for each request, judged anew when the roots or
//! the revocations change.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::MeshTls;
use crate::authority::BACKDATE;
use crate::svid::{SvidError, Usage, VerifiedPeer};

/// The verified other end of one connection.
#[derive(Debug)]
pub struct PeerSession {
    mesh: Arc<MeshTls>,
    peer: VerifiedPeer,
    chain: Vec<CertificateDer<'static>>,
    usage: Usage,
    /// When this connection has served its last request: before either end's certificate expires.
    last_request: u64,
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
        let ends = mesh
            .own_not_after()
            .map_or(peer.not_after, |own| own.min(peer.not_after));
        Ok(PeerSession {
            last_request: ends.saturating_sub(margin(&peer)),
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

    /// Whether a client may send another request on this connection: the peer is still to be believed,
    /// and neither its certificate nor the one that we showed is about to expire, which would end the
    /// connection under the request.
    pub fn takes_another_request(&self, now: u64) -> bool {
        now <= self.last_request && self.check(now).is_ok()
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

/// A tenth of an SVID's life, at most half a minute.
fn margin(peer: &VerifiedPeer) -> u64 {
    let issued = peer.not_before.saturating_add(BACKDATE.as_secs());
    (peer.not_after.saturating_sub(issued) / 10).min(30)
}
