//! X.509-SVIDs: what one says, and whether to believe it (X509-SVID standard §2–§5, RFC 5280 §6).

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::revocation::serial_text;
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::trust::{TrustBundle, check_authority};

/// More certificates than any honest chain has.
pub const MAX_CHAIN: usize = 8;

/// Whose certificate it is in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The client's.
    Client,
    /// The server's.
    Server,
}

/// What an SVID says. Proven only where it comes from a verified connection or [`verify_svid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// Valid from, in seconds since the epoch.
    pub not_before: u64,
    /// Valid until, in seconds since the epoch.
    pub not_after: u64,
    /// The certificate's serial: lower-case hex without leading zeros.
    pub serial: String,
}

impl VerifiedPeer {
    /// Whether the certificate is within its time at `now` (seconds since the epoch). Ask for each request.
    pub fn is_valid_at(&self, now: u64) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it is past its end. Such a peer may only renew.
    pub fn is_expired_at(&self, now: u64) -> bool {
        now > self.not_after
    }
}

/// Why an SVID is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No certificate came.
    #[error("no certificate was presented")]
    Missing,
    /// Over [`MAX_CHAIN`].
    #[error("over {MAX_CHAIN} certificates were presented")]
    ChainTooLong,
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Malformed,
    /// A signing certificate is no identity (X509-SVID §3.2).
    #[error("the certificate is a certificate authority's, not a workload's")]
    Authority,
    /// X509-SVID §4.3.
    #[error("the certificate's key usage is not digitalSignature alone")]
    KeyUsage,
    /// X509-SVID §4.4.
    #[error("the certificate is not for both ends of TLS (extended key usage)")]
    ExtendedKeyUsage,
    /// X509-SVID §2: exactly one.
    #[error("the certificate names {0} URIs where a SPIFFE identity has exactly one")]
    UriNames(usize),
    /// The URI is no SPIFFE id.
    #[error("the certificate's URI is not a SPIFFE id")]
    Id(#[source] SpiffeIdError),
    /// X509-SVID §5.2.
    #[error("{0} names a trust domain, not a workload")]
    NoPath(SpiffeId),
    /// From another mesh.
    #[error("{id} is not of the trust domain {wanted}")]
    ForeignTrustDomain {
        /// Who it says it is.
        id: SpiffeId,
        /// Whom we trust.
        wanted: String,
    },
    /// Not yet valid: usually a clock is wrong.
    #[error(
        "the certificate of {id} is valid from {not_before}, and the clock here says {now} (seconds since 1970)\nhint: compare the clocks of both machines"
    )]
    NotYetValid {
        /// Whose.
        id: SpiffeId,
        /// Seconds since the epoch.
        not_before: u64,
        /// Seconds since the epoch.
        now: u64,
    },
    /// Past its end.
    #[error("the certificate of {id} expired {} s ago", now - not_after)]
    Expired {
        /// Whose.
        id: SpiffeId,
        /// Seconds since the epoch.
        not_after: u64,
        /// Seconds since the epoch.
        now: u64,
    },
    /// No valid chain leads to a root that is trusted.
    #[error("the certificate of {id} does not lead to a trusted root")]
    Chain {
        /// Who it says it is.
        id: SpiffeId,
        /// What the path validation says.
        #[source]
        source: webpki::Error,
    },
    /// A certificate in the chain may not sign others.
    #[error("an intermediate certificate may not sign certificates")]
    Intermediate,
    /// It is on the revocation list.
    #[error("{0} is revoked")]
    Revoked(SpiffeId),
    /// Somebody else answers.
    #[error("{found} answered where {wanted} was expected")]
    Unexpected {
        /// Who answered.
        found: SpiffeId,
        /// Who should have.
        wanted: String,
    },
    /// Nothing to trust yet: this proxy has not joined.
    #[error("there are no trusted roots yet")]
    NoTrust,
}

/// The identity that the certificates of a connection prove, once rustls has verified them with
/// one of this crate's configurations.
///
/// # Errors
/// Where the leaf is no well-formed SVID.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Result<VerifiedPeer, SvidError> {
    read_svid(certificates.first().ok_or(SvidError::Missing)?)
}

/// Verifies an SVID: its form, its trust domain, its time, and a chain to a trusted root.
/// A leaf that expired at most `grace` ago passes; callers that give a grace look at
/// [`VerifiedPeer::is_expired_at`].
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_svid(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    trust: &TrustBundle,
    usage: Usage,
    now: Duration,
    grace: Duration,
) -> Result<VerifiedPeer, SvidError> {
    if intermediates.len() >= MAX_CHAIN {
        return Err(SvidError::ChainTooLong);
    }
    let peer = read_svid(leaf)?;
    if !peer.spiffe_id.is_member_of(trust.domain()) {
        return Err(SvidError::ForeignTrustDomain {
            id: peer.spiffe_id,
            wanted: trust.domain().to_string(),
        });
    }
    let judged_at = check_time(&peer, now.as_secs(), grace.as_secs())?;
    verify_chain(leaf, intermediates, trust, usage, judged_at).map_err(|error| match error {
        ChainError::Path(source) => SvidError::Chain {
            id: peer.spiffe_id.clone(),
            source,
        },
        ChainError::Intermediate => SvidError::Intermediate,
        ChainError::Malformed => SvidError::Malformed,
    })?;
    Ok(peer)
}

/// Reads a leaf and checks its form, not who signed it.
///
/// # Errors
/// Where it is no X.509-SVID of a workload.
pub fn read_svid(der: &[u8]) -> Result<VerifiedPeer, SvidError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| SvidError::Malformed)?;
    if !rest.is_empty() {
        return Err(SvidError::Malformed);
    }
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| SvidError::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(SvidError::Authority);
    }
    check_usages(&certificate)?;
    let spiffe_id = only_id(&certificate)?;
    let seconds = |time: i64| u64::try_from(time).map_err(|_| SvidError::Malformed);
    Ok(VerifiedPeer {
        spiffe_id,
        not_before: seconds(certificate.validity().not_before.timestamp())?,
        not_after: seconds(certificate.validity().not_after.timestamp())?,
        serial: serial_text(&crate::hex(certificate.raw_serial())),
    })
}

fn check_usages(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let usage = certificate
        .key_usage()
        .map_err(|_| SvidError::Malformed)?
        .ok_or(SvidError::KeyUsage)?
        .value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(SvidError::KeyUsage);
    }
    let extended = certificate
        .extended_key_usage()
        .map_err(|_| SvidError::Malformed)?;
    match extended {
        Some(usage) if !(usage.value.server_auth && usage.value.client_auth) => {
            Err(SvidError::ExtendedKeyUsage)
        }
        _ => Ok(()),
    }
}

fn only_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| SvidError::Malformed)?
        .ok_or(SvidError::UriNames(0))?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (first, more) = (uris.next(), uris.count());
    let Some(uri) = first else {
        return Err(SvidError::UriNames(0));
    };
    if more > 0 {
        return Err(SvidError::UriNames(1 + more));
    }
    let id = SpiffeId::parse(uri).map_err(SvidError::Id)?;
    if id.path().is_empty() {
        return Err(SvidError::NoPath(id));
    }
    Ok(id)
}

/// The moment at which the chain is judged: now, or within the grace the leaf's last second.
fn check_time(peer: &VerifiedPeer, now: u64, grace: u64) -> Result<u64, SvidError> {
    if now < peer.not_before {
        return Err(SvidError::NotYetValid {
            id: peer.spiffe_id.clone(),
            not_before: peer.not_before,
            now,
        });
    }
    if now <= peer.not_after {
        return Ok(now);
    }
    if now - peer.not_after <= grace {
        return Ok(peer.not_after);
    }
    Err(SvidError::Expired {
        id: peer.spiffe_id.clone(),
        not_after: peer.not_after,
        now,
    })
}

enum ChainError {
    Malformed,
    Intermediate,
    Path(webpki::Error),
}

fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    trust: &TrustBundle,
    usage: Usage,
    at: u64,
) -> Result<(), ChainError> {
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| ChainError::Malformed)?;
    let usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let path = leaf
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            trust.anchors(),
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(at)),
            usage,
            None,
            None,
        )
        .map_err(ChainError::Path)?;
    // webpki checks the CA flag of intermediates but not their key usage.
    for intermediate in path.intermediate_certificates() {
        check_authority(&intermediate.der()).map_err(|_| ChainError::Intermediate)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
