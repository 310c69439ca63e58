//! Keys and certificates that cannot be used.

use super::CheckOptions;
use crate::bundle::Bundle;
use crate::certificate;
use crate::compile;
use crate::config::{CertificateSource, Config, GatewayTls, Jwks, SecretSource};
use crate::diagnostic::Diagnostics;

pub(super) fn check(
    bundle: &Bundle,
    config: &Config,
    options: CheckOptions,
    diagnostics: &mut Diagnostics,
) {
    for issuer in config.users.iter().flat_map(|users| &users.jwt) {
        if let Jwks::File(path) = &issuer.jwks
            && let Some(keys) = compile::key_set(bundle, path, issuer, diagnostics)
        {
            for skipped in keys.skipped() {
                let message = format!("{path}: {skipped}");
                diagnostics.warning("value.unused", &issuer.jwks_span, message, None);
            }
        }
    }
    let tls = config.gateway.as_ref().map(|gateway| &gateway.tls);
    if let Some(GatewayTls::Certificates(sources)) = tls {
        for source in sources {
            edge_certificate(bundle, source, options, diagnostics);
        }
    }
}

/// Only what lies in the bundle can be looked at here; secrets are resolved where they are used.
fn edge_certificate(
    bundle: &Bundle,
    source: &CertificateSource,
    options: CheckOptions,
    diagnostics: &mut Diagnostics,
) {
    let content = |of: &SecretSource| match of {
        SecretSource::Bundle(path) => bundle.content(path),
        SecretSource::File(_) | SecretSource::Environment(_) => None,
    };
    let (Some(chain), Some(key)) = (content(&source.certificate), content(&source.key)) else {
        return;
    };
    let inspected = match certificate::inspect(chain, key) {
        Ok(inspected) => inspected,
        Err(error) => {
            diagnostics.error("tls.invalid", &source.span, error.to_string(), None);
            return;
        }
    };
    let Some(now) = options.now.and_then(|now| i64::try_from(now).ok()) else {
        return;
    };
    let message = match () {
        () if now >= inspected.not_after => "the certificate has expired",
        () if now < inspected.not_before => "the certificate is not valid yet",
        () => return,
    };
    let hint = "renew it".to_owned();
    diagnostics.error("tls.expired", &source.span, message, hint);
}
