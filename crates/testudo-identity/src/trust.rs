//! The roots of a trust domain. During a rotation there are several.

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::spiffe_id::TrustDomain;

/// More roots than any rotation needs.
pub const MAX_ROOTS: usize = 16;

/// Why certificates are not a trust bundle.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// None was given.
    #[error("there is no root certificate")]
    Empty,
    /// Over [`MAX_ROOTS`].
    #[error("there are over {MAX_ROOTS} root certificates")]
    TooMany,
    /// It cannot be read as a certificate.
    #[error("a root is not a certificate")]
    Malformed,
    /// It may not sign certificates.
    #[error("a root is no certificate authority (CA flag and keyCertSign)")]
    NotAuthority,
}

/// The root certificates whose word counts in one trust domain.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustBundle {
    /// Checks the roots; the same one twice counts once.
    ///
    /// # Errors
    /// Where there is none, too many, or one is no CA certificate.
    pub fn new(
        domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, TrustError> {
        let mut bundle = TrustBundle {
            domain,
            roots: Vec::new(),
            anchors: Vec::new(),
        };
        for root in roots {
            if bundle.roots.contains(&root) {
                continue;
            }
            if bundle.roots.len() == MAX_ROOTS {
                return Err(TrustError::TooMany);
            }
            check_authority(&root)?;
            let anchor =
                webpki::anchor_from_trusted_cert(&root).map_err(|_| TrustError::Malformed)?;
            bundle.anchors.push(anchor.to_owned());
            bundle.roots.push(root);
        }
        if bundle.roots.is_empty() {
            return Err(TrustError::Empty);
        }
        Ok(bundle)
    }

    /// The trust domain that these roots speak for, and no other.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots, DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whether a root with this SHA-256 is among them.
    pub fn contains_sha256(&self, digest: &[u8; 32]) -> bool {
        self.roots.iter().any(|root| crate::sha256(root) == *digest)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// A signing certificate has the CA flag and `keyCertSign` (X509-SVID §3.2, §4.3).
pub(crate) fn check_authority(der: &[u8]) -> Result<(), TrustError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| TrustError::Malformed)?;
    if !rest.is_empty() {
        return Err(TrustError::Malformed);
    }
    let may_sign = certificate
        .key_usage()
        .map_err(|_| TrustError::Malformed)?
        .is_some_and(|usage| usage.value.key_cert_sign());
    if certificate.is_ca() && may_sign {
        Ok(())
    } else {
        Err(TrustError::NotAuthority)
    }
}
