//! Whether a PEM chain and a PEM private key can serve as a certificate, found out before a gateway tries.

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why they cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is no certificate in the text.
    #[error("the certificate is not PEM")]
    NoCertificate,
    /// A certificate does not parse.
    #[error("certificate {0} of the chain cannot be read")]
    BadCertificate(usize),
    /// The first certificate is a CA's.
    #[error("the chain begins with a CA instead of the gateway's own certificate")]
    Authority,
    /// There is no private key in the text.
    #[error("the private key is not unencrypted PEM")]
    NoKey,
    /// The key is of a kind that is not served with.
    #[error("the private key is neither RSA, P-256, P-384 nor Ed25519, or is damaged")]
    BadKey,
    /// They do not belong together.
    #[error("certificate and private key do not belong together")]
    Mismatch,
}

/// What matters of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// DNS names that it is for.
    pub names: Vec<String>,
}

/// Looks at a chain (leaf first) and its key.
///
/// # Errors
/// What keeps a gateway from using them.
pub fn inspect(chain_pem: &[u8], key_pem: &[u8]) -> Result<Inspected, CertificateError> {
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::NoCertificate)?;
    let parsed: Vec<X509Certificate<'_>> = chain
        .iter()
        .enumerate()
        .map(|(index, der)| match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(_) => Err(CertificateError::BadCertificate(index + 1)),
        })
        .collect::<Result<_, _>>()?;
    let leaf = parsed.first().ok_or(CertificateError::NoCertificate)?;
    if leaf.is_ca() && parsed.len() > 1 {
        return Err(CertificateError::Authority);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| CertificateError::NoKey)?;
    let public = public_key(&key).ok_or(CertificateError::BadKey)?;
    if public != *leaf.public_key().subject_public_key.data {
        return Err(CertificateError::Mismatch);
    }
    let names = match leaf.subject_alternative_name() {
        Ok(Some(extension)) => extension
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                x509_parser::prelude::GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    Ok(Inspected {
        not_before: leaf.validity().not_before.timestamp(),
        not_after: leaf.validity().not_after.timestamp(),
        names,
    })
}

/// The public key as it stands in a certificate's `subjectPublicKey`.
fn public_key(key: &PrivateKeyDer<'_>) -> Option<Vec<u8>> {
    let der = key.secret_der();
    let rsa = match key {
        PrivateKeyDer::Pkcs1(_) => rsa::KeyPair::from_der(der),
        _ => rsa::KeyPair::from_pkcs8(der),
    };
    if let Ok(pair) = rsa {
        return Some(pair.public_key().as_ref().to_vec());
    }
    for algorithm in [
        &ECDSA_P256_SHA256_ASN1_SIGNING,
        &ECDSA_P384_SHA384_ASN1_SIGNING,
    ] {
        let pair = match key {
            PrivateKeyDer::Sec1(_) => EcdsaKeyPair::from_private_key_der(algorithm, der),
            _ => EcdsaKeyPair::from_pkcs8(algorithm, der),
        };
        if let Ok(pair) = pair {
            return Some(pair.public_key().as_ref().to_vec());
        }
    }
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
    Some(pair.public_key().as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair as Pair};

    use super::*;

    fn params() -> CertificateParams {
        let mut params = CertificateParams::new(vec!["edge.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        params
    }

    fn signed(params: &CertificateParams, pair: &Pair) -> String {
        params.self_signed(pair).unwrap().pem()
    }

    #[test]
    fn pairs_that_belong_together_can_be_used() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ] {
            let pair = Pair::generate_for(algorithm).unwrap();
            let chain = signed(&params(), &pair);
            let inspected = inspect(chain.as_bytes(), pair.serialize_pem().as_bytes()).unwrap();
            assert_eq!(inspected.names, ["edge.test"]);
            assert_eq!(inspected.not_before, 1_577_836_800);
            assert_eq!(inspected.not_after, 1_609_459_200);
        }
    }

    #[test]
    fn what_a_gateway_could_not_use_is_told_apart() {
        let pair = Pair::generate().unwrap();
        let other = Pair::generate().unwrap();
        let (chain, key) = (signed(&params(), &pair), pair.serialize_pem());
        let mut authority = params();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let wrong_order = format!("{}{chain}", signed(&authority, &other));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let rubbish = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (chain, key, error) in [
            (
                chain.as_str(),
                other.serialize_pem().as_str(),
                CertificateError::Mismatch,
            ),
            (
                wrong_order.as_str(),
                key.as_str(),
                CertificateError::Authority,
            ),
            (damaged, key.as_str(), CertificateError::BadCertificate(1)),
            ("", key.as_str(), CertificateError::NoCertificate),
            (chain.as_str(), "", CertificateError::NoKey),
            (chain.as_str(), chain.as_str(), CertificateError::NoKey),
            (chain.as_str(), rubbish, CertificateError::BadKey),
        ] {
            assert_eq!(inspect(chain.as_bytes(), key.as_bytes()), Err(error));
        }
    }
}
