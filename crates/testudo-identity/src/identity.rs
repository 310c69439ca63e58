//! A workload's own identity: its key, which is made here and never leaves, and the SVID for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::authority::BACKDATE;
use crate::files::{self, FileError};
use crate::pem::{self, PemError};
use crate::spiffe_id::SpiffeId;
use crate::svid::{self, SvidError, Usage, VerifiedPeer};
use crate::trust::TrustBundle;

/// In a proxy's state: its key and its chain. Replaced whole.
const IDENTITY_FILE: &str = "svid.pem";
/// In a gateway's state: key and chain of the edge.
const EDGE_FILE: &str = "edge.pem";

/// What is wrong with an identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its file cannot be used.
    #[error("the stored identity cannot be used")]
    Pem(#[from] PemError),
    /// The key could not be made or read.
    #[error("the private key cannot be used")]
    Key(#[source] rcgen::Error),
    /// The certificate is for another key.
    #[error("the certificate is for another key than ours")]
    KeyMismatch,
    /// The certificate is not to be believed.
    #[error("the certificate cannot be used")]
    Svid(#[from] SvidError),
    /// It is somebody else's.
    #[error("the certificate is for {found} and not for {wanted}")]
    WrongId {
        /// Whose it is.
        found: SpiffeId,
        /// Whose it should be.
        wanted: SpiffeId,
    },
    /// rustls does not take it.
    #[error("the identity cannot be used for TLS")]
    Tls(#[source] rustls::Error),
}

/// A new key, and the request to certify it.
pub struct KeyRequest {
    key: KeyPair,
    csr: Vec<u8>,
}

impl KeyRequest {
    /// Makes a P-256 key. The request names nothing: control decides who we are.
    ///
    /// # Errors
    /// Where the system has no randomness to give.
    pub fn generate() -> Result<Self, IdentityError> {
        let key =
            KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(IdentityError::Key)?;
        let csr = request.der().to_vec();
        Ok(KeyRequest { key, csr })
    }

    /// The certificate request, PKCS #10 in DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Takes the certificate that came back, once it is ours: for this key, for `wanted`, and trusted.
    ///
    /// # Errors
    /// Where it is not.
    pub fn accept(
        self,
        chain: Vec<CertificateDer<'static>>,
        trust: &TrustBundle,
        wanted: &SpiffeId,
        now: Duration,
    ) -> Result<Identity, IdentityError> {
        let (leaf, rest) = chain.split_first().ok_or(SvidError::Missing)?;
        let zero = Duration::ZERO;
        let peer = svid::verify_svid(leaf, rest, trust, Usage::Client, now, zero)?;
        if peer.spiffe_id != *wanted {
            return Err(IdentityError::WrongId {
                found: peer.spiffe_id,
                wanted: wanted.clone(),
            });
        }
        Identity::new(&self.key, chain)
    }

    /// The same for a server certificate of the edge, which is no SVID: the key is compared, and
    /// control's connection vouches for the rest.
    ///
    /// # Errors
    /// Where the certificate is for another key.
    pub fn accept_edge(
        self,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<EdgeIdentity, IdentityError> {
        EdgeIdentity::new(&self.key, chain)
    }
}

/// A gateway's key and server certificate from the mesh's authority.
pub struct EdgeIdentity {
    key: Zeroizing<Vec<u8>>,
    chain: Vec<CertificateDer<'static>>,
    not_before: u64,
    not_after: u64,
}

impl EdgeIdentity {
    fn new(key: &KeyPair, chain: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(SvidError::Missing)?;
        check_key(key, leaf)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| SvidError::Malformed)?;
        let seconds = |time: i64| u64::try_from(time).map_err(|_| SvidError::Malformed);
        let not_before = seconds(parsed.validity().not_before.timestamp())?;
        let not_after = seconds(parsed.validity().not_after.timestamp())?;
        Ok(EdgeIdentity {
            key: Zeroizing::new(key.serialize_der()),
            chain,
            not_before,
            not_after,
        })
    }

    /// Reads it from a proxy's state folder; `None` where there is none.
    ///
    /// # Errors
    /// Where the file cannot be used, or others may read it.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(text) = files::read_private(&folder.join(EDGE_FILE))? else {
            return Ok(None);
        };
        let stored = pem::decode_key_and_chain(&text)?;
        let key = KeyPair::try_from(&stored.key).map_err(IdentityError::Key)?;
        EdgeIdentity::new(&key, stored.chain).map(Some)
    }

    /// Keeps it in a proxy's state folder (0600).
    ///
    /// # Errors
    /// Where it cannot be written; what was there stays.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let text = pem::encode_key_and_chain(&self.key, &self.chain);
        files::write_private(&folder.join(EDGE_FILE), text.as_bytes())?;
        Ok(())
    }

    /// Valid until, in seconds since the epoch.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// When to renew; see [`Identity::renew_at`].
    pub fn renew_at(&self, jitter: f64) -> Duration {
        half_life(self.not_before, self.not_after, jitter)
    }

    /// For rustls.
    ///
    /// # Errors
    /// Where rustls does not take the key.
    pub fn certified_key(&self, provider: &CryptoProvider) -> Result<CertifiedKey, IdentityError> {
        certified_key(&self.key, &self.chain, provider)
    }
}

/// A key with its SVID.
pub struct Identity {
    key: Zeroizing<Vec<u8>>,
    chain: Vec<CertificateDer<'static>>,
    svid: VerifiedPeer,
}

impl Identity {
    /// Whoever has the key knows that the chain is for it; that it is trusted was checked before.
    fn new(key: &KeyPair, chain: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(SvidError::Missing)?;
        let svid = svid::read_svid(leaf)?;
        check_key(key, leaf)?;
        Ok(Identity {
            key: Zeroizing::new(key.serialize_der()),
            chain,
            svid,
        })
    }

    /// Reads the identity in a proxy's state folder; `None` where there is none. It may have expired.
    ///
    /// # Errors
    /// Where the file cannot be used, or others may read it.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(text) = files::read_private(&folder.join(IDENTITY_FILE))? else {
            return Ok(None);
        };
        let stored = pem::decode_key_and_chain(&text)?;
        let key = KeyPair::try_from(&stored.key).map_err(IdentityError::Key)?;
        Identity::new(&key, stored.chain).map(Some)
    }

    /// Keeps the identity in a proxy's state folder (0600), key and chain in one step.
    ///
    /// # Errors
    /// Where it cannot be written; what was there stays.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let text = pem::encode_key_and_chain(&self.key, &self.chain);
        files::write_private(&folder.join(IDENTITY_FILE), text.as_bytes())?;
        Ok(())
    }

    /// Who we are, until when, and the certificate's serial.
    pub fn svid(&self) -> &VerifiedPeer {
        &self.svid
    }

    /// Our SPIFFE id.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.svid.spiffe_id
    }

    /// Valid until, in seconds since the epoch.
    pub fn not_after(&self) -> u64 {
        self.svid.not_after
    }

    /// Leaf first, then intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// When to renew, since the epoch: at half of the SVID's life, earlier or later by up to a tenth
    /// of it, so that proxies that started together do not all ask at once. `jitter` is from 0 to 1.
    pub fn renew_at(&self, jitter: f64) -> Duration {
        half_life(self.svid.not_before, self.svid.not_after, jitter)
    }

    /// For rustls.
    ///
    /// # Errors
    /// Where rustls does not take the key.
    pub fn certified_key(&self, provider: &CryptoProvider) -> Result<CertifiedKey, IdentityError> {
        certified_key(&self.key, &self.chain, provider)
    }

    /// Shared, for hot swaps.
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("svid", &self.svid)
            .field("key", &"(secret)")
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for EdgeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeIdentity")
            .field("not_after", &self.not_after)
            .field("key", &"(secret)")
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRequest(secret)")
    }
}

fn half_life(not_before: u64, not_after: u64, jitter: f64) -> Duration {
    let issued = not_before + BACKDATE.as_secs();
    let life = Duration::from_secs(not_after.saturating_sub(issued));
    Duration::from_secs(issued) + life.mul_f64(0.4 + 0.2 * jitter.clamp(0.0, 1.0))
}

fn certified_key(
    key: &[u8],
    chain: &[CertificateDer<'static>],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, IdentityError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    CertifiedKey::from_der(chain.to_vec(), key, provider).map_err(IdentityError::Tls)
}

fn check_key(key: &KeyPair, leaf: &[u8]) -> Result<(), IdentityError> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| SvidError::Malformed)?;
    if leaf.public_key().subject_public_key.data.as_ref() == key.public_key_raw() {
        Ok(())
    } else {
        Err(IdentityError::KeyMismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::spiffe_id::TrustDomain;

    const NOW: u64 = 1_800_000_000;

    fn authority(folder: &Path) -> (Authority, SpiffeId) {
        let domain = TrustDomain::new("shop.test").unwrap();
        let authority = Authority::load_or_create(&folder.join("ca"), &domain, NOW).unwrap();
        (authority, SpiffeId::gateway(&domain))
    }

    #[test]
    fn an_identity_is_accepted_kept_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, id) = authority(folder.path());
        let state = folder.path().join("state");
        files::ensure_private_folder(&state).unwrap();
        assert!(Identity::load(&state).unwrap().is_none());

        let request = KeyRequest::generate().unwrap();
        let ttl = Duration::from_secs(1000);
        let issued = authority.issue_svid(request.csr(), &id, ttl, NOW).unwrap();
        let now = Duration::from_secs(NOW);
        let identity = request
            .accept(issued.chain, authority.trust(), &id, now)
            .unwrap();
        identity.save(&state).unwrap();
        let read = Identity::load(&state).unwrap().unwrap();
        assert_eq!(read.svid(), identity.svid());
        assert_eq!(read.not_after(), NOW + 1000);
        assert_eq!(read.renew_at(0.0), Duration::from_secs(NOW + 400));
        assert_eq!(read.renew_at(0.5), Duration::from_secs(NOW + 500));
        assert_eq!(read.renew_at(7.0), Duration::from_secs(NOW + 600));
        assert!(!format!("{read:?}").contains("key: ["));
    }

    #[test]
    fn an_edge_certificate_is_kept_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, _) = authority(folder.path());
        let names = ["localhost".to_owned()];
        let ttl = Duration::from_secs(1000);
        let request = KeyRequest::generate().unwrap();
        let issued = authority
            .issue_edge(request.csr(), &names, ttl, NOW)
            .unwrap();
        let other = KeyRequest::generate().unwrap();
        let refused = other.accept_edge(issued.chain.clone());
        assert!(matches!(refused, Err(IdentityError::KeyMismatch)));
        assert!(EdgeIdentity::load(folder.path()).unwrap().is_none());
        request
            .accept_edge(issued.chain)
            .unwrap()
            .save(folder.path())
            .unwrap();
        let read = EdgeIdentity::load(folder.path()).unwrap().unwrap();
        assert_eq!(read.not_after(), NOW + 1000);
        assert_eq!(read.renew_at(0.5), Duration::from_secs(NOW + 500));
        assert!(read.certified_key(&crate::tls::provider()).is_ok());
    }

    #[test]
    fn certificates_that_are_not_ours_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, id) = authority(folder.path());
        let ttl = Duration::from_secs(1000);
        let other = KeyRequest::generate().unwrap();
        let issued = authority.issue_svid(other.csr(), &id, ttl, NOW).unwrap();
        let accept = |chain, wanted: &SpiffeId| {
            let request = KeyRequest::generate().unwrap();
            request.accept(chain, authority.trust(), wanted, Duration::from_secs(NOW))
        };
        assert!(matches!(
            accept(issued.chain.clone(), &id),
            Err(IdentityError::KeyMismatch)
        ));
        let control = SpiffeId::parse("spiffe://shop.test/control").unwrap();
        assert!(matches!(
            accept(issued.chain, &control),
            Err(IdentityError::WrongId { .. })
        ));
        assert!(matches!(
            accept(Vec::new(), &id),
            Err(IdentityError::Svid(SvidError::Missing))
        ));
    }
}
