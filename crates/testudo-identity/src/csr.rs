//! Reading certificate requests (PKCS #10, RFC 2986). Of a request only the public key counts, and the
//! proof that whoever asks has the private one; names, usages and the CA flag in it are not even looked at.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

/// More than any request with one P-256 key takes.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// Why a certificate request is refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// Over [`MAX_CSR_BYTES`].
    #[error("the certificate request is over {MAX_CSR_BYTES} bytes")]
    TooLarge,
    /// It cannot be read.
    #[error("the certificate request cannot be read")]
    Malformed,
    /// Another kind of key.
    #[error("the certificate request's key is not ECDSA on P-256")]
    KeyType,
    /// Whoever asks does not have the key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
}

/// The public key of a request whose signature holds.
///
/// # Errors
/// Where the request is malformed, not signed by its own key, or the key is not on P-256.
pub fn verified_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLarge);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    let curve = key
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(CsrError::KeyType);
    }
    request
        .verify_signature()
        .map_err(|_| CsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::Malformed)
}
