//! What the authority signs, refuses, keeps and survives.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::identity::KeyRequest;
use crate::svid::{SvidError, Usage, read_svid, verify_svid};

const NOW: u64 = 1_800_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

fn domain() -> TrustDomain {
    TrustDomain::new("shop.test").unwrap()
}

fn orders() -> SpiffeId {
    SpiffeId::service(&domain(), "orders").unwrap()
}

fn open(folder: &Path) -> Authority {
    Authority::load_or_create(folder, &domain(), NOW).unwrap()
}

fn private_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca");
    (folder, path)
}

fn verify(issued: &Issued, trust: &TrustBundle, at: u64) -> Result<String, SvidError> {
    let (leaf, rest) = issued.chain.split_first().unwrap();
    verify_svid(
        leaf,
        rest,
        trust,
        Usage::Client,
        Duration::from_secs(at),
        Duration::ZERO,
    )
    .map(|peer| peer.spiffe_id.to_string())
}

#[test]
fn an_svid_says_what_was_granted_and_not_what_was_asked() {
    let (_keep, folder) = private_folder();
    let authority = open(&folder);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut wish = CertificateParams::new(vec!["control.mesh".to_owned()]).unwrap();
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    wish.subject_alt_names.push(SanType::URI(
        "spiffe://shop.test/control".try_into().unwrap(),
    ));
    let csr = wish.serialize_request(&key).unwrap();

    let issued = authority
        .issue_svid(csr.der(), &orders(), DAY, NOW)
        .unwrap();
    let peer = read_svid(&issued.chain[0]).unwrap();
    assert_eq!(peer.spiffe_id, orders());
    assert_eq!(peer.not_before, NOW - 300);
    assert_eq!(
        (peer.not_after, issued.not_after),
        (NOW + 86_400, NOW + 86_400)
    );
    assert_eq!(peer.serial, issued.serial);
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert!(names.critical && !leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.code_signing);
    assert_eq!(
        verify(&issued, authority.trust(), NOW).unwrap(),
        orders().as_str()
    );

    let again = authority
        .issue_svid(csr.der(), &orders(), DAY, NOW)
        .unwrap();
    assert_ne!(again.serial, issued.serial);
}

#[test]
fn bad_requests_are_refused() {
    let (_keep, folder) = private_folder();
    let authority = open(&folder);
    let issue = |csr: &[u8]| authority.issue_svid(csr, &orders(), DAY, NOW).map(|_| ());
    let good = KeyRequest::generate().unwrap();

    let mut forged = good.csr().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(
        issue(&forged),
        Err(AuthorityError::Csr(
            CsrError::Signature | CsrError::Malformed
        ))
    ));
    let mut trailing = good.csr().to_vec();
    trailing.push(0);
    assert!(matches!(
        issue(&trailing),
        Err(AuthorityError::Csr(CsrError::Malformed))
    ));
    assert!(matches!(
        issue(b""),
        Err(AuthorityError::Csr(CsrError::Malformed))
    ));
    assert!(matches!(
        issue(&[0; 20_000]),
        Err(AuthorityError::Csr(CsrError::TooLarge))
    ));
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        assert!(matches!(
            issue(csr.der()),
            Err(AuthorityError::Csr(CsrError::KeyType))
        ));
    }
    for id in ["spiffe://other.test/service/orders", "spiffe://shop.test"] {
        let id = SpiffeId::parse(id).unwrap();
        let refused = authority.issue_svid(good.csr(), &id, DAY, NOW);
        assert!(matches!(refused, Err(AuthorityError::ForeignId { .. })));
    }
}

#[test]
fn it_is_the_same_after_a_restart_and_with_the_root_offline() {
    let (_keep, folder) = private_folder();
    let csr = KeyRequest::generate().unwrap();
    let first = open(&folder)
        .issue_svid(csr.csr(), &orders(), DAY, NOW)
        .unwrap();
    assert_eq!(
        fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
    for file in [ROOT_FILE, ISSUING_FILE, TRUST_FILE] {
        let mode = fs::metadata(folder.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    fs::remove_file(folder.join(ROOT_FILE)).unwrap();
    let authority = open(&folder);
    assert!(verify(&first, authority.trust(), NOW).is_ok());
    let second = authority
        .issue_svid(csr.csr(), &orders(), DAY, NOW)
        .unwrap();
    assert!(verify(&second, authority.trust(), NOW).is_ok());
    assert_eq!(
        authority.root_sha256().unwrap(),
        crate::sha256(&authority.trust().roots()[0])
    );
    let trust = fs::read_to_string(folder.join(TRUST_FILE)).unwrap();
    assert!(!trust.contains("PRIVATE"));
}

#[test]
fn missing_and_loose_files_are_clear_errors() {
    let (_keep, folder) = private_folder();
    open(&folder);
    fs::set_permissions(folder.join(ISSUING_FILE), fs::Permissions::from_mode(0o644)).unwrap();
    let error = Authority::load_or_create(&folder, &domain(), NOW).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");

    fs::remove_file(folder.join(ISSUING_FILE)).unwrap();
    let root = fs::read(folder.join(ROOT_FILE)).unwrap();
    fs::remove_file(folder.join(ROOT_FILE)).unwrap();
    let error = Authority::load_or_create(&folder, &domain(), NOW).unwrap_err();
    assert!(matches!(error, AuthorityError::KeysLost { .. }), "{error}");

    files::write_private(&folder.join(ROOT_FILE), &root).unwrap();
    assert!(open(&folder).root_sha256().is_ok());

    let other = TrustDomain::new("other.test").unwrap();
    let error = Authority::load_or_create(&folder, &other, NOW).unwrap_err();
    assert!(error.to_string().contains("other.test"), "{error}");
    files::write_private(&folder.join(ISSUING_FILE), b"garbage").unwrap();
    let error = Authority::load_or_create(&folder, &domain(), NOW).unwrap_err();
    assert!(error.to_string().contains(ISSUING_FILE), "{error}");
}

#[test]
fn times_are_kept_within_the_issuers() {
    let (_keep, folder) = private_folder();
    let csr = KeyRequest::generate().unwrap();
    let mut authority = open(&folder);
    let early = authority.issue_svid(csr.csr(), &orders(), DAY, NOW - 3600);
    let error = early.unwrap_err();
    assert!(matches!(error, AuthorityError::ClockBehind { .. }));
    assert!(error.to_string().contains("set back"));

    let long = authority
        .issue_svid(csr.csr(), &orders(), ISSUING_LIFETIME * 5, NOW + 3600)
        .unwrap();
    assert_eq!(long.not_after, authority.issuing_not_after());

    // Half of its life later the issuing certificate is renewed, if the root is there.
    let later = NOW + ISSUING_LIFETIME.as_secs() / 2 + 3600;
    let root = fs::read(folder.join(ROOT_FILE)).unwrap();
    fs::remove_file(folder.join(ROOT_FILE)).unwrap();
    assert!(!authority.maintain(later).unwrap());
    let much_later = NOW + ISSUING_LIFETIME.as_secs() * 4 / 5;
    let error = authority.maintain(much_later).unwrap_err();
    assert!(error.to_string().contains("root.pem"), "{error}");
    files::write_private(&folder.join(ROOT_FILE), &root).unwrap();
    assert!(authority.maintain(later).unwrap());
    assert!(authority.issuing_not_after() > NOW + ISSUING_LIFETIME.as_secs());
    let issued = authority
        .issue_svid(csr.csr(), &orders(), DAY, later)
        .unwrap();
    assert!(verify(&issued, authority.trust(), later).is_ok());
}

#[test]
fn a_clock_that_was_ahead_for_a_while_leaves_a_working_authority() {
    let (_keep, folder) = private_folder();
    let mut authority = Authority::load_or_create(&folder, &domain(), NOW).unwrap();
    let issuing = fs::read(folder.join(ISSUING_FILE)).unwrap();
    // Beyond the root's end: nothing is made, and nothing replaced.
    let beyond = NOW + 2 * ROOT_LIFETIME.as_secs();
    let error = authority.maintain(beyond).unwrap_err();
    assert!(matches!(error, AuthorityError::RootEnded { .. }), "{error}");
    assert!(Authority::load_or_create(&folder, &domain(), beyond).is_err());
    assert_eq!(fs::read(folder.join(ISSUING_FILE)).unwrap(), issuing);
    // Within it an issuing certificate is made that is not valid yet once the clock is right again.
    assert!(
        authority
            .maintain(NOW + 2 * ISSUING_LIFETIME.as_secs())
            .unwrap()
    );
    assert!(authority.maintain(NOW + 60).unwrap());
    let csr = KeyRequest::generate().unwrap();
    let issued = authority
        .issue_svid(csr.csr(), &orders(), DAY, NOW + 60)
        .unwrap();
    assert!(verify(&issued, authority.trust(), NOW + 60).is_ok());
    assert!(Authority::load_or_create(&folder, &domain(), NOW + 120).is_ok());
}

#[test]
fn a_root_is_rotated_while_both_are_trusted() {
    let (_keep, folder) = private_folder();
    let csr = KeyRequest::generate().unwrap();
    let mut authority = open(&folder);
    let old_root = authority.root_sha256().unwrap();
    let old_trust = authority.trust().clone();
    let old = authority
        .issue_svid(csr.csr(), &orders(), DAY, NOW)
        .unwrap();
    assert!(matches!(
        authority.promote_root(NOW),
        Err(AuthorityError::NothingStaged)
    ));

    let new_root = authority.stage_root(NOW).unwrap();
    assert_eq!(authority.stage_root(NOW).unwrap(), new_root);
    assert_eq!(
        authority.root_sha256().unwrap(),
        old_root,
        "the old one signs until promotion"
    );
    authority.promote_root(NOW).unwrap();
    assert_eq!(authority.root_sha256().unwrap(), new_root);
    let new = authority
        .issue_svid(csr.csr(), &orders(), DAY, NOW)
        .unwrap();
    for issued in [&old, &new] {
        assert!(verify(issued, authority.trust(), NOW).is_ok());
    }
    assert!(matches!(
        verify(&new, &old_trust, NOW),
        Err(SvidError::Chain { .. })
    ));

    assert!(matches!(
        authority.retire_root(&new_root),
        Err(AuthorityError::RootInUse)
    ));
    authority.retire_root(&old_root).unwrap();
    let authority = open(&folder);
    assert!(matches!(
        verify(&old, authority.trust(), NOW),
        Err(SvidError::Chain { .. })
    ));
    assert!(verify(&new, authority.trust(), NOW).is_ok());
}

#[test]
fn edge_certificates_name_hosts_and_prove_nothing_in_the_mesh() {
    let (_keep, folder) = private_folder();
    let authority = open(&folder);
    let csr = KeyRequest::generate().unwrap();
    let names = ["api.shop.test", "*.shop.test", "127.0.0.1", "::1"].map(str::to_owned);
    let issued = authority.issue_edge(csr.csr(), &names, DAY, NOW).unwrap();
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    assert_eq!(
        leaf.subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        4
    );
    assert!(verify(&issued, authority.trust(), NOW).is_err());
    for wrong in [
        "",
        "a b",
        "*.*.test",
        "spiffe://shop.test/gateway",
        "ä.test",
    ] {
        let refused = authority.issue_edge(csr.csr(), &[wrong.to_owned()], DAY, NOW);
        assert!(
            matches!(refused, Err(AuthorityError::EdgeName(_))),
            "{wrong}"
        );
    }
    assert!(matches!(
        authority.issue_edge(csr.csr(), &[], DAY, NOW),
        Err(AuthorityError::EdgeNames)
    ));
}
