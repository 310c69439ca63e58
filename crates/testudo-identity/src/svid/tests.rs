//! Chains that are wrong in one way each.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::spiffe_id::TrustDomain;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const ID: &str = "spiffe://shop.test/service/orders";

fn authority(usages: &[KeyUsagePurpose], depth: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = usages.to_vec();
    params
}

fn leaf(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params
}

/// root → intermediate → leaf, judged.
fn judge(
    intermediate: CertificateParams,
    leaf: &CertificateParams,
) -> Result<VerifiedPeer, SvidError> {
    let root_key = KeyPair::generate().unwrap();
    let root = authority(&[KeyUsagePurpose::KeyCertSign], 1);
    let root_der = root.self_signed(&root_key).unwrap().der().clone();
    let root = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let intermediate_der = intermediate.signed_by(&key, &root).unwrap().der().clone();
    let issuing = Issuer::new(intermediate, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuing).unwrap().der().clone();
    let domain = TrustDomain::new("shop.test").unwrap();
    let trust = TrustBundle::new(domain, [root_der]).unwrap();
    verify_svid(
        &leaf,
        &[intermediate_der],
        &trust,
        Usage::Client,
        NOW,
        Duration::ZERO,
    )
}

#[test]
fn only_signing_certificates_sign() {
    let good = || authority(&[KeyUsagePurpose::KeyCertSign], 0);
    assert_eq!(judge(good(), &leaf(&[ID])).unwrap().spiffe_id.as_str(), ID);
    let crl_only = authority(&[KeyUsagePurpose::CrlSign], 0);
    assert_eq!(judge(crl_only, &leaf(&[ID])), Err(SvidError::Intermediate));
    assert_eq!(
        judge(authority(&[], 0), &leaf(&[ID])),
        Err(SvidError::Intermediate)
    );
    // Another workload's SVID as issuer.
    assert!(matches!(
        judge(leaf(&[ID]), &leaf(&[ID])),
        Err(SvidError::Chain { .. })
    ));
}

#[test]
fn leaves_name_exactly_one_workload_for_both_ends() {
    let judge = |leaf: &CertificateParams| {
        let error = judge(authority(&[KeyUsagePurpose::KeyCertSign], 0), leaf);
        error.unwrap_err()
    };
    assert_eq!(judge(&leaf(&[])), SvidError::UriNames(0));
    assert_eq!(judge(&leaf(&[ID, ID])), SvidError::UriNames(2));
    assert_eq!(
        judge(&leaf(&[ID, "https://shop.test/"])),
        SvidError::UriNames(2)
    );
    assert_eq!(
        judge(&leaf(&["https://shop.test/"])),
        SvidError::Id(SpiffeIdError::Scheme)
    );
    assert!(matches!(
        judge(&leaf(&["spiffe://shop.test"])),
        SvidError::NoPath(_)
    ));
    let foreign = leaf(&["spiffe://other.test/service/orders"]);
    assert!(matches!(
        judge(&foreign),
        SvidError::ForeignTrustDomain { .. }
    ));
    let mut one_end = leaf(&[ID]);
    one_end.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(judge(&one_end), SvidError::ExtendedKeyUsage);
}

#[test]
fn an_empty_or_endless_chain_is_refused() {
    assert_eq!(peer_identity(&[]), Err(SvidError::Missing));
    let certificate = CertificateDer::from(vec![0; 4]);
    assert_eq!(
        peer_identity(std::slice::from_ref(&certificate)),
        Err(SvidError::Malformed)
    );
    let key = KeyPair::generate().unwrap();
    let root = authority(&[KeyUsagePurpose::KeyCertSign], 1);
    let root = root.self_signed(&key).unwrap().der().clone();
    let trust = TrustBundle::new(TrustDomain::new("shop.test").unwrap(), [root]).unwrap();
    let many = vec![certificate.clone(); 100];
    let judged = verify_svid(&certificate, &many, &trust, Usage::Client, NOW, NOW);
    assert_eq!(judged, Err(SvidError::ChainTooLong));
}
