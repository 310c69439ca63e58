//! The SPIFFE corpus: id vectors, and good and bad SVIDs of other implementations. Lives outside the
//! repository (`TESTUDO_CORPORA`, or `../shared/corpora` beside it); where it is absent the tests say so.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use testudo_identity::svid::{SvidError, Usage, read_svid, verify_svid};
use testudo_identity::{SpiffeId, TrustBundle, TrustDomain};
use x509_parser::prelude::{FromDer, X509Certificate};

fn corpus() -> Option<PathBuf> {
    let root = std::env::var_os("TESTUDO_CORPORA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora"),
        PathBuf::from,
    );
    let folder = root.join("spiffe");
    if folder.is_dir() {
        return Some(folder);
    }
    // Straight to stderr: the harness would swallow what a passing test prints.
    let message = format!("SKIPPED: no SPIFFE corpus at {}\n", folder.display());
    std::io::stderr().write_all(message.as_bytes()).unwrap();
    None
}

#[test]
fn id_vectors() {
    let Some(folder) = corpus() else { return };
    let text = std::fs::read_to_string(folder.join("spiffeid_vectors.jsonl")).unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for line in text.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let parsed = SpiffeId::parse(case["input"].as_str().unwrap());
        let as_expected = match &parsed {
            Ok(id) => {
                case["valid"] == true
                    && case["trust_domain"] == id.trust_domain()
                    && case["path"] == id.path()
            }
            Err(_) => case["valid"] == false,
        };
        if !as_expected {
            wrong.push(format!("{line}: {parsed:?}"));
        }
        count += 1;
    }
    assert!(count > 300, "only {count} vectors");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn pem(folder: &std::path::Path, name: &str) -> Vec<CertificateDer<'static>> {
    let text = std::fs::read(folder.join("go-spiffe/svid/x509svid/testdata").join(name)).unwrap();
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .unwrap()
}

/// Certificates one after the other, as the Workload API sends them.
fn der(folder: &std::path::Path, name: &str) -> Vec<CertificateDer<'static>> {
    let bytes = std::fs::read(folder.join("rust-spiffe-testdata").join(name)).unwrap();
    let mut rest = bytes.as_slice();
    let mut chain = Vec::new();
    while !rest.is_empty() {
        let (after, _) = X509Certificate::from_der(rest).unwrap();
        let used = rest.len() - after.len();
        chain.push(CertificateDer::from(rest[..used].to_vec()));
        rest = after;
    }
    chain
}

#[test]
fn leaves_of_go_spiffe_and_rust_spiffe() {
    let Some(folder) = corpus() else { return };
    for good in [
        "good-leaf-only.pem",
        "good-leaf-and-intermediate.pem",
        "good-cert-and-key.pem",
        "good-key-and-cert.pem",
    ] {
        let peer = read_svid(&pem(&folder, good)[0]).unwrap();
        assert_eq!(
            peer.spiffe_id.as_str(),
            "spiffe://example.org/workload-1",
            "{good}"
        );
    }
    for good in [
        "1-svid-chain",
        "expired-svid-chain",
        "svid-with-dns",
        "empty-subject-name",
    ] {
        let chain = der(&folder, &format!("svid/x509/{good}.der"));
        let peer = read_svid(&chain[0]).unwrap();
        assert_eq!(peer.spiffe_id.trust_domain(), "example.org", "{good}");
    }
    for (bad, why) in [
        ("wrong-leaf-ca-true", SvidError::Authority),
        ("wrong-leaf-cert-sign", SvidError::KeyUsage),
        ("wrong-leaf-crl-sign", SvidError::KeyUsage),
        ("wrong-leaf-no-digital-signature", SvidError::KeyUsage),
        ("wrong-leaf-empty-id", SvidError::UriNames(0)),
    ] {
        let go = &pem(&folder, &format!("{bad}.pem"))[0];
        assert_eq!(read_svid(go), Err(why.clone()), "{bad}.pem");
        let rust = &der(&folder, &format!("svid/x509/{bad}.der"))[0];
        assert_eq!(read_svid(rust), Err(why), "{bad}.der");
    }
    for corrupt in [
        "svid/x509/corrupted",
        "svid/x509/1-key.der",
        "bundle/x509/corrupted",
    ] {
        let bytes = std::fs::read(folder.join("rust-spiffe-testdata").join(corrupt)).unwrap();
        assert_eq!(read_svid(&bytes), Err(SvidError::Malformed), "{corrupt}");
    }
}

#[test]
fn chains() {
    let Some(folder) = corpus() else { return };
    let domain = TrustDomain::new("example.org").unwrap();
    let chain = der(&folder, "svid/x509/1-svid-chain.der");
    let trust = TrustBundle::new(domain.clone(), [chain[1].clone()]).unwrap();
    let at = Duration::from_secs(1_800_000_000);
    let verify = |domain: &TrustDomain, at| {
        let trust = TrustBundle::new(domain.clone(), trust.roots().iter().cloned()).unwrap();
        verify_svid(&chain[0], &[], &trust, Usage::Server, at, Duration::ZERO)
    };
    let peer = verify(&domain, at).unwrap();
    assert_eq!(peer.spiffe_id.as_str(), "spiffe://example.org/service");
    let other = TrustDomain::new("example.com").unwrap();
    assert!(matches!(
        verify(&other, at),
        Err(SvidError::ForeignTrustDomain { .. })
    ));
    let past = Duration::from_secs(1_500_000_000);
    assert!(matches!(
        verify(&domain, past),
        Err(SvidError::NotYetValid { .. })
    ));

    let expired = der(&folder, "svid/x509/expired-svid-chain.der");
    let judged = verify_svid(
        &expired[0],
        &expired[1..],
        &trust,
        Usage::Client,
        at,
        Duration::ZERO,
    );
    assert!(matches!(judged, Err(SvidError::Expired { .. })));
    let grace = Duration::from_secs(3_600_000_000);
    let judged = verify_svid(&expired[0], &expired[1..], &trust, Usage::Client, at, grace);
    assert!(matches!(judged, Err(SvidError::Chain { .. })), "{judged:?}");
}

#[test]
fn signing_certificates_that_may_not_sign() {
    let Some(folder) = corpus() else { return };
    let domain = TrustDomain::new("example.org").unwrap();
    for bad in [
        "wrong-intermediate-no-ca",
        "wrong-intermediate-no-key-cert-sign",
    ] {
        for chain in [
            pem(&folder, &format!("{bad}.pem")),
            der(&folder, &format!("svid/x509/{bad}.der")),
        ] {
            assert!(
                TrustBundle::new(domain.clone(), [chain[1].clone()]).is_err(),
                "{bad}"
            );
        }
    }
    // Roots without basic constraints and key usage, which X509-SVID §4 demands.
    let roots = der(&folder, "bundle/x509/bundle.der");
    assert_eq!(roots.len(), 2);
    assert!(TrustBundle::new(domain, roots).is_err());
}
