//! `users:`: issuers of JWTs and the API keys' file.

use std::collections::BTreeMap;
use std::sync::Arc;

use testudo_guard::authn::API_KEY_ISSUER;

use super::fields::Fields;
use super::{ApiKeys, Issuer, Jwks, Roles, Users, api_keys, defaults, keys, values};
use crate::bundle::{self, Bundle};
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::{Key, Node};

pub(super) fn read(node: &Node, bundle: &Bundle, diagnostics: &mut Diagnostics) -> Users {
    let fields = Fields::new(node, &keys::USERS);
    let entries = fields.get("jwt").and_then(Node::as_map).unwrap_or(&[]);
    let several = entries.len() > 1;
    let mut jwt: Vec<Issuer> = Vec::new();
    if entries.len() > defaults::ISSUERS_MAX {
        let message = format!("there are more than {} issuers", defaults::ISSUERS_MAX);
        diagnostics.error("value.invalid", &node.span, message, None);
    }
    for (key, node) in entries.iter().take(defaults::ISSUERS_MAX) {
        let Some(issuer) = issuer(key, node, several, diagnostics) else {
            continue;
        };
        if let Some(first) = jwt.iter().find(|other| other.issuer == issuer.issuer) {
            let message = format!("{} and {} trust the same issuer", first.name, issuer.name);
            let hint = "a token could not say which of them it means: keep one".to_owned();
            diagnostics.error("name.duplicate", &issuer.span, message, hint);
        }
        jwt.push(issuer);
    }
    let api_keys = fields.get("api_keys").and_then(|node| {
        let path = bundle::resolve(&node.span.file, node.as_str()?)?;
        Some(ApiKeys {
            keys: api_keys::read(&path, bundle, diagnostics),
            path,
            span: node.span.clone(),
        })
    });
    if entries.is_empty() && fields.get("api_keys").is_none() {
        let message = "users: no user can be recognized";
        let hint = "add `jwt:` or `api_keys:`; without `users:` only callers are judged".to_owned();
        diagnostics.error("key.missing", &node.span, message, hint);
    }
    Users {
        jwt,
        api_keys,
        forward: fields.bool("forward").unwrap_or(defaults::FORWARD),
    }
}

fn issuer(key: &Key, node: &Node, several: bool, diagnostics: &mut Diagnostics) -> Option<Issuer> {
    node.as_map()?;
    let fields = Fields::new(node, &keys::ISSUER);
    if key.name == API_KEY_ISSUER || key.name == "anonymous" {
        let message = format!("{} cannot be an issuer's name", key.name);
        let hint = "users of API keys are called key:USER: choose another name".to_owned();
        diagnostics.error("name.reserved", &key.span, message, hint);
    }
    if key.name.contains(['/', '@']) {
        let message = format!("{} cannot be an issuer's name", key.name);
        let hint = "it is the first part of users' ids: letters, digits and . _ -".to_owned();
        diagnostics.error("value.invalid", &key.span, message, hint);
    }
    let audiences: Vec<String> = fields
        .texts("audiences")
        .into_iter()
        .map(str::to_owned)
        .collect();
    if audiences.is_empty()
        && fields
            .get("audiences")
            .is_some_and(|n| n.as_seq().is_some())
    {
        let message = "audiences is empty: tokens for other applications would be taken";
        let hint = "name what stands in the tokens' aud".to_owned();
        diagnostics.error("value.invalid", &fields.span("audiences"), message, hint);
    }
    let jwks = match fields.get("jwks") {
        None => {
            discoverable(&fields, diagnostics);
            Jwks::Discovery
        }
        Some(node) => match node.as_str() {
            Some(url) if url.contains("://") => Jwks::Url(url.to_owned()),
            Some(path) => Jwks::File(bundle::resolve(&node.span.file, path)?),
            None => Jwks::Discovery,
        },
    };
    let roles = fields.get("roles").filter(|node| node.as_map().is_some());
    let roles = roles.map(|node| roles_of(node, several, diagnostics));
    let claims = fields.get("claims").and_then(Node::as_map).unwrap_or(&[]);
    Some(Issuer {
        name: Arc::from(key.name.as_str()),
        span: key.span.clone(),
        issuer: fields.text("issuer").unwrap_or_default().to_owned(),
        audiences,
        jwks_span: fields
            .get("jwks")
            .map_or(&key.span, |node| &node.span)
            .clone(),
        jwks,
        id: fields.text("id").unwrap_or(defaults::USER_ID).to_owned(),
        roles,
        claims: claims
            .iter()
            .filter_map(|(key, node)| Some((key.name.as_str().into(), node.as_str()?.to_owned())))
            .collect(),
    })
}

/// OIDC discovery asks the issuer itself, so that it must be a URL.
fn discoverable(fields: &Fields<'_>, diagnostics: &mut Diagnostics) {
    if let Some(issuer) = fields.text("issuer")
        && let Err((message, _)) = values::url(issuer)
    {
        let message = format!("its keys cannot be discovered: {message}");
        let hint = "add `jwks:` with a file or an https URL".to_owned();
        diagnostics.error("value.invalid", &fields.span("issuer"), message, hint);
    }
}

fn roles_of(node: &Node, several: bool, diagnostics: &mut Diagnostics) -> Roles {
    let fields = Fields::new(node, &keys::ROLES);
    let allow = fields.get("allow").filter(|node| node.as_seq().is_some());
    let allow = allow.map(|_| fields.names("allow"));
    if several && fields.get("allow").is_none() {
        let message = "roles need `allow` where several issuers are trusted";
        let hint = "name the roles that this issuer may give: another one's admin is not yours";
        diagnostics.error("key.missing", &node.span, message, hint.to_owned());
    }
    let entries = fields.get("map").and_then(Node::as_map).unwrap_or(&[]);
    let map: BTreeMap<String, (Arc<str>, Span)> = entries
        .iter()
        .filter_map(|(key, node)| {
            let role = Arc::from(node.as_str()?);
            Some((key.name.clone(), (role, node.span.clone())))
        })
        .collect();
    if let Some(allow) = &allow {
        for (role, span) in map.values() {
            if !allow.iter().any(|(allowed, _)| allowed == role) {
                let message = format!("{role} is mapped to but not allowed: nobody gets it");
                let hint = format!("add {role} to `allow`");
                diagnostics.error("role.never", span, message, hint);
            }
        }
    }
    Roles {
        claim: fields.text("claim").unwrap_or_default().to_owned(),
        map,
        allow,
        span: node.span.clone(),
    }
}
