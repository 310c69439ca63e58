//! How users are recognized: rules for guard's authenticators.

use std::collections::BTreeMap;
use std::sync::Arc;

use testudo_guard::authn::{
    ApiKeyEntry, ApiKeys, Authenticators, ClaimPath, IssuerRule, JwksSource, KeySet, RoleRule,
};
use testudo_guard::snapshot::Role;

use crate::bundle::Bundle;
use crate::config::{self, Config, Issuer, Jwks};
use crate::diagnostic::Diagnostics;

/// `None` without `users:`, and where something is wrong. Sidecars recognize users by transaction tokens alone.
pub(super) fn users(
    bundle: &Bundle,
    config: &Config,
    role: &Role,
    diagnostics: &mut Diagnostics,
) -> Option<Authenticators> {
    let users = config.users.as_ref()?;
    let gateway = *role == Role::Gateway;
    let issuers: Vec<IssuerRule> = users
        .jwt
        .iter()
        .filter(|_| gateway)
        .filter_map(|issuer| rule(bundle, issuer, diagnostics))
        .collect();
    let api_keys = match &users.api_keys {
        Some(file) if gateway => {
            if bundle.content(&file.path).is_none() {
                let message = format!("there is no file {}", file.path);
                diagnostics.error("file.missing", &file.span, message, None);
            }
            keys(file, diagnostics)
        }
        _ => None,
    };
    match Authenticators::new(issuers, api_keys, users.forward) {
        Ok(authenticators) => Some(authenticators),
        Err(error) => {
            let span = users.jwt.first().map(|issuer| issuer.span.clone());
            let span = span.unwrap_or_default();
            diagnostics.error("value.invalid", &span, error.to_string(), None);
            None
        }
    }
}

fn keys(file: &config::ApiKeys, diagnostics: &mut Diagnostics) -> Option<ApiKeys> {
    let entries = file.keys.iter().map(|key| ApiKeyEntry {
        id: key.id.clone(),
        hash: key.hash,
        user: key.user.clone(),
        roles: key.roles.iter().map(|(role, _)| role.clone()).collect(),
        expires: key.expires,
    });
    match ApiKeys::new(entries.collect()) {
        Ok(keys) => Some(keys),
        Err(error) => {
            diagnostics.error("value.invalid", &file.span, error.to_string(), None);
            None
        }
    }
}

fn rule(bundle: &Bundle, issuer: &Issuer, diagnostics: &mut Diagnostics) -> Option<IssuerRule> {
    let mut path = |text: &str| match text.parse::<ClaimPath>() {
        Ok(path) => Some(path),
        Err(error) => {
            diagnostics.error("value.invalid", &issuer.span, error.to_string(), None);
            None
        }
    };
    let id = path(&issuer.id);
    let roles = match &issuer.roles {
        None => None,
        Some(roles) => Some(RoleRule {
            claim: path(&roles.claim)?,
            map: roles
                .map
                .iter()
                .map(|(from, (to, _))| (from.clone(), to.clone()))
                .collect(),
            allow: roles
                .allow
                .as_ref()
                .map(|allow| allow.iter().map(|(role, _)| role.clone()).collect()),
        }),
    };
    let claims: Option<BTreeMap<Arc<str>, ClaimPath>> = issuer
        .claims
        .iter()
        .map(|(name, at)| Some((name.clone(), path(at)?)))
        .collect();
    Some(IssuerRule {
        name: issuer.name.clone(),
        issuer: Arc::from(issuer.issuer.as_str()),
        audiences: issuer
            .audiences
            .iter()
            .map(|a| Arc::from(a.as_str()))
            .collect(),
        jwks: source(bundle, issuer, diagnostics)?,
        id: id?,
        roles,
        claims: claims?,
    })
}

fn source(bundle: &Bundle, issuer: &Issuer, diagnostics: &mut Diagnostics) -> Option<JwksSource> {
    match &issuer.jwks {
        Jwks::Url(url) => Some(JwksSource::Url(Arc::from(url.as_str()))),
        Jwks::Discovery => Some(JwksSource::Discovery),
        Jwks::File(path) => key_set(bundle, path, issuer, diagnostics)
            .map(|keys| JwksSource::Inline(Arc::new(keys))),
    }
}

/// The keys in a file of the bundle.
pub(crate) fn key_set(
    bundle: &Bundle,
    path: &str,
    issuer: &Issuer,
    diagnostics: &mut Diagnostics,
) -> Option<KeySet> {
    let span = &issuer.jwks_span;
    let Some(content) = bundle.content(path) else {
        if !bundle.problems.iter().any(|problem| problem.span == *span) {
            let message = format!("there is no file {path}");
            diagnostics.error("file.missing", span, message, None);
        }
        return None;
    };
    match KeySet::parse(content) {
        Ok(keys) if keys.is_empty() => {
            let message = format!("{path} has no key that can verify tokens");
            let skipped = keys.skipped().join("; ");
            let hint = (!skipped.is_empty()).then_some(skipped);
            diagnostics.error("file.unreadable", span, message, hint);
            None
        }
        Ok(keys) => Some(keys),
        Err(error) => {
            let message = format!("{path}: {error}");
            let hint = "write a JSON Web Key Set: {\"keys\": [...]}".to_owned();
            diagnostics.error("file.unreadable", span, message, hint);
            None
        }
    }
}
