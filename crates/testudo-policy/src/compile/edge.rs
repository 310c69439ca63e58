//! What only a gateway needs: routes and certificates.

use std::path::Path;
use std::sync::Arc;

use testudo_guard::route::RouteTable;
use testudo_guard::snapshot::{Edge, EdgeCertificate, EdgeTls};

use crate::bundle::Bundle;
use crate::certificate;
use crate::config::{CertificateSource, Config, GatewayTls, SecretSource, policy_ref};
use crate::diagnostic::{Diagnostics, Span};

pub(super) fn edge(
    bundle: &Bundle,
    config: &Config,
    base_dir: &Path,
    diagnostics: &mut Diagnostics,
) -> Option<Edge> {
    let Some(gateway) = &config.gateway else {
        let start = Span::start_of(crate::bundle::ROOT_FILE);
        let message = "this revision has no gateway";
        diagnostics.error("key.missing", &start, message, None);
        return None;
    };
    let tls = match &gateway.tls {
        GatewayTls::Mesh => EdgeTls::Mesh,
        GatewayTls::Plain => EdgeTls::Plain,
        GatewayTls::Certificates(sources) => {
            let certificates = sources
                .iter()
                .filter_map(|source| edge_certificate(bundle, source, base_dir, diagnostics));
            EdgeTls::Certificates(certificates.collect())
        }
    };
    let routes = gateway.routes.iter().map(|route| route.rule.clone());
    Some(Edge {
        listen: gateway.listen,
        tls,
        trusted_proxies: gateway
            .trusted_proxies
            .iter()
            .map(|(net, _)| *net)
            .collect(),
        routes: RouteTable::new(routes.collect()),
    })
}

fn edge_certificate(
    bundle: &Bundle,
    source: &CertificateSource,
    base_dir: &Path,
    diagnostics: &mut Diagnostics,
) -> Option<EdgeCertificate> {
    let mut part = |of: &SecretSource, span: &Span| match resolve(bundle, of, base_dir) {
        Ok(bytes) => Some(bytes),
        Err(message) => {
            diagnostics.error("file.unreadable", span, message, None);
            None
        }
    };
    let chain = part(&source.certificate, &source.span);
    let key = part(&source.key, &source.key_span);
    let (chain_pem, key_pem) = (chain?, key?);
    match certificate::inspect(&chain_pem, &key_pem) {
        Ok(_) => Some(EdgeCertificate {
            chain_pem,
            key_pem: Arc::from(key_pem),
            source: policy_ref(&source.span),
        }),
        Err(error) => {
            diagnostics.error("tls.invalid", &source.span, error.to_string(), None);
            None
        }
    }
}

/// The bytes; messages name where they were looked for, never what was found.
fn resolve(bundle: &Bundle, source: &SecretSource, base_dir: &Path) -> Result<Vec<u8>, String> {
    match source {
        SecretSource::Bundle(path) => bundle
            .content(path)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| format!("there is no file {path}")),
        SecretSource::File(path) => std::fs::read(base_dir.join(path))
            .map_err(|error| format!("{path} cannot be read on this host: {error}")),
        SecretSource::Environment(name) => std::env::var_os(name)
            .map(std::os::unix::ffi::OsStringExt::into_vec)
            .ok_or_else(|| format!("the environment variable {name} is not set on this host")),
    }
}
