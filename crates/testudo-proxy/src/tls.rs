//! TLS of the edge: certificates of the bundle by server name, or the one from the mesh's CA. TLS inside
//! the mesh is `testudo_identity::MeshTls`.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, crypto::CryptoProvider};
use testudo_guard::snapshot::{EdgeCertificate, EdgeTls, Snapshot};

use crate::shared::Shared;

/// Why the edge cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EdgeTlsError {
    /// The certificate or key cannot be read.
    #[error("{file}:{line}: the certificate or its key cannot be read")]
    Pem {
        file: String,
        line: u32,
        source: rustls::pki_types::pem::Error,
    },
    /// They do not fit together, or rustls does not take them.
    #[error("{file}:{line}: the certificate and its key cannot be used")]
    Key {
        file: String,
        line: u32,
        source: rustls::Error,
    },
    /// The bundle names no certificate and control has not issued one yet.
    #[error("control has not issued an edge certificate yet")]
    NotIssued,
    /// rustls refuses the configuration.
    #[error("the TLS configuration cannot be used")]
    Config(#[source] rustls::Error),
}

/// One core's TLS configuration of the edge, remade when the certificates change.
#[derive(Default)]
pub(crate) struct EdgeConfig {
    made: RefCell<Option<Made>>,
}

struct Made {
    snapshot: Option<Arc<Snapshot>>,
    issued: Option<Arc<CertifiedKey>>,
    config: Arc<ServerConfig>,
}

impl EdgeConfig {
    /// The configuration for the snapshot in force. `None` as a snapshot: for answering `not_ready`.
    pub(crate) fn of(
        &self,
        shared: &Shared,
        snapshot: Option<&Arc<Snapshot>>,
    ) -> Result<Arc<ServerConfig>, EdgeTlsError> {
        let issued = shared.installed.edge_key.load_full();
        let mut made = self.made.borrow_mut();
        if let Some(made) = made.as_mut()
            && made.holds(snapshot, issued.as_ref())
        {
            made.snapshot = snapshot.cloned();
            return Ok(made.config.clone());
        }
        let keys = keys(snapshot, issued.as_ref())?;
        let config = server_config(keys)?;
        *made = Some(Made {
            snapshot: snapshot.cloned(),
            issued,
            config: config.clone(),
        });
        Ok(config)
    }
}

impl Made {
    /// Whether it is still right. A new revision with the same certificates keeps it, and with it the
    /// sessions that clients may resume.
    fn holds(&self, snapshot: Option<&Arc<Snapshot>>, issued: Option<&Arc<CertifiedKey>>) -> bool {
        let same_snapshot = match (&self.snapshot, snapshot) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new) || same_tls(old, new),
            (None, None) => true,
            _ => false,
        };
        let same_issued = match (&self.issued, issued) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        same_snapshot && same_issued
    }
}

fn same_tls(old: &Snapshot, new: &Snapshot) -> bool {
    let tls = |snapshot: &Snapshot| {
        snapshot
            .edge
            .as_ref()
            .map(|edge| certificates(&edge.tls).to_vec())
    };
    match (tls(old), tls(new)) {
        (Some(old), Some(new)) => {
            old.len() == new.len()
                && old
                    .iter()
                    .zip(&new)
                    .all(|(old, new)| old.chain_pem == new.chain_pem && old.key_pem == new.key_pem)
        }
        _ => false,
    }
}

fn certificates(tls: &EdgeTls) -> &[EdgeCertificate] {
    match tls {
        EdgeTls::Certificates(list) => list,
        EdgeTls::Mesh | EdgeTls::Plain => &[],
    }
}

fn keys(
    snapshot: Option<&Arc<Snapshot>>,
    issued: Option<&Arc<CertifiedKey>>,
) -> Result<Vec<Arc<CertifiedKey>>, EdgeTlsError> {
    let edge = snapshot.and_then(|snapshot| snapshot.edge.as_ref());
    let named = edge.map(|edge| certificates(&edge.tls)).unwrap_or_default();
    if named.is_empty() {
        return Ok(vec![issued.ok_or(EdgeTlsError::NotIssued)?.clone()]);
    }
    let provider = testudo_identity::tls::provider();
    named
        .iter()
        .map(|certificate| certified_key(certificate, &provider).map(Arc::new))
        .collect()
}

fn certified_key(
    certificate: &EdgeCertificate,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, EdgeTlsError> {
    let place = || (certificate.source.file.to_string(), certificate.source.line);
    let pem_error = |source| {
        let (file, line) = place();
        EdgeTlsError::Pem { file, line, source }
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate.chain_pem)
        .collect::<Result<_, _>>()
        .map_err(pem_error)?;
    let key = PrivateKeyDer::from_pem_slice(&certificate.key_pem).map_err(pem_error)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| {
        let (file, line) = place();
        EdgeTlsError::Key { file, line, source }
    })
}

fn server_config(keys: Vec<Arc<CertifiedKey>>) -> Result<Arc<ServerConfig>, EdgeTlsError> {
    let mut config = ServerConfig::builder_with_provider(testudo_identity::tls::provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(EdgeTlsError::Config)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ByServerName { keys }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A replayed request is a request that nobody made.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The certificate that is valid for the server name; the first one where none is, or no name was sent.
/// Whether such a request is answered is guard's matter (`request.misdirected`).
#[derive(Debug)]
struct ByServerName {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if self.keys.len() == 1 {
            return self.keys.first().cloned();
        }
        let named = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            self.keys.iter().find(|key| is_for(key, &name))
        });
        named.or(self.keys.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    key.end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .and_then(|leaf| verify_server_name(&leaf, name))
        .is_ok()
}
