//! The embedded certificate authority: a root that only signs issuing certificates and can be kept
//! offline, and an issuing certificate that signs everything else.
//!
//! Its folder (0700) holds three files (0600), each replaced whole:
//! - `root.pem`: the root's key and certificate. May be moved away; it is needed once in some months
//!   to renew the issuing certificate, and for rotation.
//! - `issuing.pem`: the issuing key and its certificate.
//! - `trust.pem`: the roots that members of the mesh trust, without keys.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, DnsName};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::csr::{self, CsrError};
use crate::files::{self, FileError};
use crate::pem::{self, KeyAndChain, PemError};
use crate::revocation::serial_text;
use crate::spiffe_id::{SpiffeId, TrustDomain};
use crate::trust::{TrustBundle, TrustError};

mod rotation;

/// Certificates are valid from so long before they are made, for clocks that run behind.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// How long a root lives.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long an issuing certificate lives; it is renewed at half of it.
pub const ISSUING_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Names that one edge certificate may have.
pub const MAX_EDGE_NAMES: usize = 256;

const ROOT_FILE: &str = "root.pem";
const ISSUING_FILE: &str = "issuing.pem";
const TRUST_FILE: &str = "trust.pem";

/// What keeps the authority from working.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of it.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of it cannot be used.
    #[error("{path} cannot be used")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: PemError,
    },
    /// A file of it does not hold what it should.
    #[error("{path} does not hold a certificate authority of {domain} and its key")]
    Content {
        /// Which.
        path: PathBuf,
        /// Of which mesh it should be.
        domain: TrustDomain,
    },
    /// The trust bundle cannot be used.
    #[error("the trusted roots cannot be used")]
    Trust(#[from] TrustError),
    /// Members trust a root, and neither its key nor an issuing key is there. Never replaced silently.
    #[error(
        "{folder} has {TRUST_FILE} but neither {ISSUING_FILE} nor {ROOT_FILE}\nhint: restore one of them from a backup; to start over with a new root, which every proxy must join anew, move {folder} away"
    )]
    KeysLost {
        /// The authority's folder.
        folder: PathBuf,
    },
    /// The root is needed and not there.
    #[error(
        "{why}, and that needs the root's key\nhint: put {ROOT_FILE} back into {folder} for a moment"
    )]
    RootOffline {
        /// What needs it.
        why: &'static str,
        /// The authority's folder.
        folder: PathBuf,
    },
    /// The root has ended, or the clock is ahead.
    #[error(
        "the clock says {} and the root certificate ended {}\nhint: is the clock of this machine right? Nothing is issued by a root that has ended", date(*now), date(*not_after)
    )]
    RootEnded {
        /// Seconds since the epoch.
        now: u64,
        /// Seconds since the epoch.
        not_after: u64,
    },
    /// The clock is wrong: the authority was made in its future.
    #[error(
        "the clock says {} and the authority is valid from {}\nhint: the clock of this machine was set back; nothing is issued until it is right", date(*now), date(*not_before)
    )]
    ClockBehind {
        /// Seconds since the epoch.
        now: u64,
        /// Seconds since the epoch.
        not_before: u64,
    },
    /// Another mesh's identity was asked for.
    #[error("{id} is not of the trust domain {domain}")]
    ForeignId {
        /// What was asked for.
        id: SpiffeId,
        /// What is issued here.
        domain: TrustDomain,
    },
    /// The certificate request.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// A name that an edge certificate cannot have.
    #[error("{0:?} is not a host name or an address that a certificate can have")]
    EdgeName(String),
    /// None, or over [`MAX_EDGE_NAMES`].
    #[error("an edge certificate has 1 to {MAX_EDGE_NAMES} names")]
    EdgeNames,
    /// Nothing is waiting to take over.
    #[error("no new root is staged")]
    NothingStaged,
    /// The root that signs cannot be dropped.
    #[error("this root signs the issuing certificate, or is not in the trust bundle")]
    RootInUse,
    /// Making or signing a certificate failed.
    #[error("the certificate could not be made")]
    Certificate(#[from] rcgen::Error),
}

/// A certificate that was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then the issuing certificate. The root is not part of it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Valid until, in seconds since the epoch.
    pub not_after: u64,
    /// Lower-case hex without leading zeros.
    pub serial: String,
}

/// Signs the certificates of one trust domain.
pub struct Authority {
    folder: PathBuf,
    domain: TrustDomain,
    issuing: Signer,
    trust: TrustBundle,
}

/// A CA certificate with its key.
struct Signer {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_before: u64,
    not_after: u64,
}

impl Authority {
    /// Opens the authority in `folder`, or makes a new one where there is none. Renews the issuing
    /// certificate where that is due and the root is there. `now`: seconds since the epoch.
    ///
    /// # Errors
    /// Where files cannot be used or others may read them; where keys are missing that members rely on.
    pub fn load_or_create(
        folder: &Path,
        domain: &TrustDomain,
        now: u64,
    ) -> Result<Self, AuthorityError> {
        files::ensure_private_folder(folder)?;
        let root = load_signer(folder, ROOT_FILE, domain)?;
        let issuing = load_signer(folder, ISSUING_FILE, domain)?;
        let trust = load_trust(folder, domain)?;
        if trust.is_some() && root.is_none() && issuing.is_none() {
            return Err(AuthorityError::KeysLost {
                folder: folder.to_owned(),
            });
        }
        // Written in this order, so that a crash in between is completed by the next start.
        let root = match (root, &issuing) {
            (None, None) => Some(create_root(folder, ROOT_FILE, domain, now)?),
            (root, _) => root,
        };
        let trust = match (trust, &root) {
            (Some(trust), _) => trust,
            (None, Some(root)) => save_trust(folder, domain, [root.certificate.clone()])?,
            (None, None) => {
                return Err(AuthorityError::RootOffline {
                    why: "trust.pem is missing",
                    folder: folder.to_owned(),
                });
            }
        };
        let issuing = match (issuing, &root) {
            (Some(issuing), None) => issuing,
            (Some(issuing), Some(_)) if !issuing.is_due(now) => issuing,
            (_, Some(root)) => create_issuing(folder, domain, root, now)?,
            (None, None) => {
                return Err(AuthorityError::RootOffline {
                    why: "issuing.pem is missing",
                    folder: folder.to_owned(),
                });
            }
        };
        Ok(Authority {
            folder: folder.to_owned(),
            domain: domain.clone(),
            issuing,
            trust,
        })
    }

    /// The trust domain whose identities are issued here.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots that members trust.
    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// SHA-256 of the root that signs at present, for join tokens.
    ///
    /// # Errors
    /// Where the issuing certificate was signed by no root in the trust bundle.
    pub fn root_sha256(&self) -> Result<[u8; 32], AuthorityError> {
        self.trust
            .roots()
            .iter()
            .find(|root| signed_by(&self.issuing.certificate, root))
            .map(|root| crate::sha256(root))
            .ok_or_else(|| AuthorityError::Content {
                path: self.folder.join(ISSUING_FILE),
                domain: self.domain.clone(),
            })
    }

    /// Until when certificates can be issued, in seconds since the epoch. No leaf outlives it.
    pub fn issuing_not_after(&self) -> u64 {
        self.issuing.not_after
    }

    /// Renews the issuing certificate where half of its life is gone and the root is there. Call it
    /// now and then; says whether it did. `now`: seconds since the epoch.
    ///
    /// # Errors
    /// Where the root is offline and the issuing certificate about to end (a quarter of its life is left).
    pub fn maintain(&mut self, now: u64) -> Result<bool, AuthorityError> {
        if !self.issuing.is_due(now) {
            return Ok(false);
        }
        if let Some(root) = load_signer(&self.folder, ROOT_FILE, &self.domain)? {
            self.issuing = create_issuing(&self.folder, &self.domain, &root, now)?;
            return Ok(true);
        }
        let quarter = self
            .issuing
            .not_after
            .saturating_sub(self.issuing.not_before)
            / 4;
        if now.saturating_add(quarter) >= self.issuing.not_after {
            return Err(AuthorityError::RootOffline {
                why: "the issuing certificate must be renewed",
                folder: self.folder.clone(),
            });
        }
        Ok(false)
    }

    /// Issues an SVID for the key in a certificate request; everything else in the request is ignored.
    /// `now`: seconds since the epoch.
    ///
    /// # Errors
    /// Where the request is not in order, the id is another domain's, or the clock is before the
    /// authority's time.
    pub fn issue_svid(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: u64,
    ) -> Result<Issued, AuthorityError> {
        let key = csr::verified_key(csr)?;
        if !id.is_member_of(&self.domain) || id.path().is_empty() {
            return Err(AuthorityError::ForeignId {
                id: id.clone(),
                domain: self.domain.clone(),
            });
        }
        let mut params = leaf_params();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.sign(params, &key, ttl, now)
    }

    /// Issues a server certificate for the edge of a gateway. It names hosts and addresses and no
    /// SPIFFE id, so that it proves nothing inside the mesh. `now`: seconds since the epoch.
    ///
    /// # Errors
    /// As [`Authority::issue_svid`], and where a name cannot be in a certificate.
    pub fn issue_edge(
        &self,
        csr: &[u8],
        names: &[String],
        ttl: Duration,
        now: u64,
    ) -> Result<Issued, AuthorityError> {
        let key = csr::verified_key(csr)?;
        if names.is_empty() || names.len() > MAX_EDGE_NAMES {
            return Err(AuthorityError::EdgeNames);
        }
        let mut params = leaf_params();
        params.subject_alt_names = names
            .iter()
            .map(|name| edge_name(name))
            .collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, &key, ttl, now)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        ttl: Duration,
        now: u64,
    ) -> Result<Issued, AuthorityError> {
        if now < self.issuing.not_before {
            return Err(AuthorityError::ClockBehind {
                now,
                not_before: self.issuing.not_before,
            });
        }
        if now >= self.issuing.not_after {
            return Err(AuthorityError::RootOffline {
                why: "the issuing certificate has expired and must be renewed",
                folder: self.folder.clone(),
            });
        }
        let not_after = now
            .saturating_add(ttl.as_secs())
            .min(self.issuing.not_after);
        let not_before = now
            .saturating_sub(BACKDATE.as_secs())
            .max(self.issuing.not_before);
        let serial = set_times_and_serial(&mut params, not_before, not_after);
        let leaf = params.signed_by(key, &self.issuing.issuer)?;
        Ok(Issued {
            chain: vec![leaf.der().clone(), self.issuing.certificate.clone()],
            not_after,
            serial,
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("folder", &self.folder)
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl Signer {
    fn new(key: KeyPair, certificate: CertificateDer<'static>) -> Option<Self> {
        let (not_before, not_after) = {
            let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
            if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
                return None;
            }
            let validity = parsed.validity();
            (
                u64::try_from(validity.not_before.timestamp()).ok()?,
                u64::try_from(validity.not_after.timestamp()).ok()?,
            )
        };
        crate::trust::check_authority(&certificate).ok()?;
        Some(Signer {
            issuer: Issuer::from_ca_cert_der(&certificate, key).ok()?,
            certificate,
            not_before,
            not_after,
        })
    }

    /// Half of its life is gone; or it is not valid yet, since it was made while the clock was ahead.
    fn is_due(&self, now: u64) -> bool {
        let half = self.not_after.saturating_sub(self.not_before) / 2;
        now > self.not_before.saturating_add(half) || now < self.not_before
    }
}

fn load_signer(
    folder: &Path,
    name: &str,
    domain: &TrustDomain,
) -> Result<Option<Signer>, AuthorityError> {
    let path = folder.join(name);
    let Some(text) = files::read_private(&path)? else {
        return Ok(None);
    };
    let KeyAndChain { key, chain } =
        pem::decode_key_and_chain(&text).map_err(|source| AuthorityError::Pem {
            path: path.clone(),
            source,
        })?;
    let signer = KeyPair::try_from(&key)
        .ok()
        .zip(chain.into_iter().next())
        .filter(|(_, certificate)| is_of_domain(certificate, domain))
        .and_then(|(key, certificate)| Signer::new(key, certificate));
    match signer {
        Some(signer) => Ok(Some(signer)),
        None => Err(AuthorityError::Content {
            path,
            domain: domain.clone(),
        }),
    }
}

fn load_trust(folder: &Path, domain: &TrustDomain) -> Result<Option<TrustBundle>, AuthorityError> {
    let path = folder.join(TRUST_FILE);
    let Some(text) = files::read_private(&path)? else {
        return Ok(None);
    };
    let roots =
        pem::decode_certificates(&text).map_err(|source| AuthorityError::Pem { path, source })?;
    Ok(Some(TrustBundle::new(domain.clone(), roots)?))
}

fn save_trust(
    folder: &Path,
    domain: &TrustDomain,
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<TrustBundle, AuthorityError> {
    let trust = TrustBundle::new(domain.clone(), roots)?;
    let text = pem::encode_certificates(trust.roots());
    files::write_private(&folder.join(TRUST_FILE), text.as_bytes())?;
    Ok(trust)
}

fn create_root(
    folder: &Path,
    file: &str,
    domain: &TrustDomain,
    now: u64,
) -> Result<Signer, AuthorityError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = authority_params(domain, "root", BasicConstraints::Constrained(1))?;
    let not_before = now.saturating_sub(BACKDATE.as_secs());
    set_times_and_serial(&mut params, not_before, now + ROOT_LIFETIME.as_secs());
    let certificate = params.self_signed(&key)?.der().clone();
    save_signer(folder, file, domain, key, certificate)
}

fn create_issuing(
    folder: &Path,
    domain: &TrustDomain,
    root: &Signer,
    now: u64,
) -> Result<Signer, AuthorityError> {
    if now < root.not_before {
        return Err(AuthorityError::ClockBehind {
            now,
            not_before: root.not_before,
        });
    }
    if now >= root.not_after {
        return Err(AuthorityError::RootEnded {
            now,
            not_after: root.not_after,
        });
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = authority_params(domain, "issuing", BasicConstraints::Constrained(0))?;
    let not_after = (now + ISSUING_LIFETIME.as_secs()).min(root.not_after);
    let not_before = now.saturating_sub(BACKDATE.as_secs()).max(root.not_before);
    set_times_and_serial(&mut params, not_before, not_after);
    let certificate = params.signed_by(&key, &root.issuer)?.der().clone();
    save_signer(folder, ISSUING_FILE, domain, key, certificate)
}

/// A time as people read it.
fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| x509_parser::time::ASN1Time::from_timestamp(seconds).ok())
        .and_then(|time| time.to_rfc2822().ok());
    time.unwrap_or_else(|| format!("{seconds} s since 1970"))
}

fn save_signer(
    folder: &Path,
    file: &str,
    domain: &TrustDomain,
    key: KeyPair,
    certificate: CertificateDer<'static>,
) -> Result<Signer, AuthorityError> {
    let path = folder.join(file);
    let text = pem::encode_key_and_chain(key.serialized_der(), std::slice::from_ref(&certificate));
    files::write_private(&path, text.as_bytes())?;
    Signer::new(key, certificate).ok_or_else(|| AuthorityError::Content {
        path,
        domain: domain.clone(),
    })
}

/// No URI name constraints: webpki fails closed on them. The trust domain is checked by the verifier.
fn authority_params(
    domain: &TrustDomain,
    what: &str,
    constraints: BasicConstraints,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Testudo");
    // Several roots of one mesh must be told apart by name.
    let number: u32 = rand::random();
    name.push(DnType::CommonName, format!("{domain} {what} {number:08x}"));
    params.distinguished_name = name;
    params.subject_alt_names = vec![SanType::URI(domain.id().as_str().try_into()?)];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Without a subject, which makes the alternative names critical (RFC 5280 §4.2.1.6).
fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// The serial is random, 127 bits, positive (RFC 5280 §4.1.2.2).
fn set_times_and_serial(params: &mut CertificateParams, not_before: u64, not_after: u64) -> String {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    let serial = (rand::random::<u128>() >> 1) | 1;
    let bytes = serial.to_be_bytes();
    params.serial_number = Some(SerialNumber::from_slice(&bytes));
    serial_text(&crate::hex(&bytes))
}

fn edge_name(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let wrong = || AuthorityError::EdgeName(name.chars().take(260).collect());
    let bare = name.strip_prefix("*.").unwrap_or(name);
    DnsName::try_from(bare).map_err(|_| wrong())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| wrong())?))
}

fn is_of_domain(certificate: &[u8], domain: &TrustDomain) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return false;
    };
    names.value.general_names.iter().any(|name| {
        matches!(name, x509_parser::extensions::GeneralName::URI(uri) if *uri == domain.id().as_str())
    })
}

fn signed_by(certificate: &[u8], root: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, root))) = (
        X509Certificate::from_der(certificate),
        X509Certificate::from_der(root),
    ) else {
        return false;
    };
    certificate.issuer() == root.subject()
        && certificate
            .verify_signature(Some(root.public_key()))
            .is_ok()
}

#[cfg(test)]
mod tests;
