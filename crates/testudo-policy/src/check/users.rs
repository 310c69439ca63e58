//! Keys and certificates that cannot be used.

use super::CheckOptions;
use crate::bundle::Bundle;
use crate::certificate;
use crate::compile;
use crate::config::{CertificateSource, Config, GatewayTls, Jwks, SecretSource};
use crate::diagnostic::{Diagnostics, Span};

pub(super) fn check(
    bundle: &Bundle,
    config: &Config,
    options: CheckOptions,
    diagnostics: &mut Diagnostics,
) {
    for issuer in config.users.iter().flat_map(|users| &users.jwt) {
        let Jwks::File(path) = &issuer.jwks else {
            continue;
        };
        private_keys(bundle, path, &issuer.jwks_span, diagnostics);
        if let Some(keys) = compile::key_set(bundle, path, issuer, diagnostics) {
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

/// Whoever has a private key of an issuer can be every user: only public ones belong into a bundle (RFC 7517 §9.2).
fn private_keys(bundle: &Bundle, path: &str, span: &Span, diagnostics: &mut Diagnostics) {
    let content = bundle.content(path).unwrap_or_default();
    let set: Option<serde_json::Value> = serde_json::from_slice(content).ok();
    let keys = set.as_ref().and_then(|set| set.get("keys")?.as_array());
    let secret = |key: &serde_json::Value| key.get("d").is_some() || key.get("k").is_some();
    if keys.is_some_and(|keys| keys.iter().any(secret)) {
        let message = format!("{path} holds a private key of the issuer");
        let hint = "keep public keys alone: remove the member `d`; then change the key".to_owned();
        diagnostics.error("secret.inline", span, message, hint);
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
