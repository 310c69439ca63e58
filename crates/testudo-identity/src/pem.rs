//! Writing and reading PEM (RFC 7468): certificates, and one private key beside them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// Why a PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It is not PEM.
    #[error("it is not PEM")]
    Syntax,
    /// A section that has no place there.
    #[error("it holds something else than certificates and one PKCS #8 private key")]
    Unexpected,
    /// No key, though one is needed.
    #[error("it holds no private key")]
    NoKey,
    /// No certificate.
    #[error("it holds no certificate")]
    NoCertificate,
}

/// A private key and the certificates after it, leaf first.
pub(crate) struct KeyAndChain {
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// One PEM section.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 80));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Certificates, one after the other.
pub fn encode_certificates(chain: &[CertificateDer<'_>]) -> String {
    chain
        .iter()
        .map(|certificate| encode("CERTIFICATE", certificate).to_string())
        .collect()
}

/// A key, then its certificates.
pub(crate) fn encode_key_and_chain(key: &[u8], chain: &[CertificateDer<'_>]) -> Zeroizing<String> {
    let mut text = encode("PRIVATE KEY", key);
    text.push_str(&encode_certificates(chain));
    text
}

/// Reads certificates; anything else is an error.
///
/// # Errors
/// Where it is not PEM, holds none, or something else.
pub fn decode_certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let (key, chain) = sections(text)?;
    match key {
        Some(_) => Err(PemError::Unexpected),
        None => Ok(chain),
    }
}

/// Reads a key and its certificates.
pub(crate) fn decode_key_and_chain(text: &[u8]) -> Result<KeyAndChain, PemError> {
    let (key, chain) = sections(text)?;
    let key = key.ok_or(PemError::NoKey)?;
    Ok(KeyAndChain { key, chain })
}

type Sections = (
    Option<PrivatePkcs8KeyDer<'static>>,
    Vec<CertificateDer<'static>>,
);

fn sections(text: &[u8]) -> Result<Sections, PemError> {
    let mut key = None;
    let mut chain = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|_| PemError::Syntax)?;
        match kind {
            SectionKind::Certificate => chain.push(CertificateDer::from(der)),
            SectionKind::PrivateKey if key.is_none() => key = Some(PrivatePkcs8KeyDer::from(der)),
            _ => return Err(PemError::Unexpected),
        }
    }
    if chain.is_empty() {
        return Err(PemError::NoCertificate);
    }
    Ok((key, chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let chain = [
            CertificateDer::from(vec![7; 100]),
            CertificateDer::from(vec![9; 48]),
        ];
        let text = encode_key_and_chain(&[1, 2, 3], &chain);
        let read = decode_key_and_chain(text.as_bytes()).unwrap();
        assert_eq!(read.key.secret_pkcs8_der(), [1, 2, 3]);
        assert_eq!(read.chain, chain);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert!(matches!(
            decode_certificates(text.as_bytes()),
            Err(PemError::Unexpected)
        ));
        let broken = text.replace("-----END CERTIFICATE-----", "");
        assert!(decode_key_and_chain(broken.as_bytes()).is_err());
        assert!(matches!(
            decode_certificates(b"hello"),
            Err(PemError::NoCertificate)
        ));
    }
}
