//! Names that refer to nothing: services of routes and limits, operations of limits and of `acts_alone`, claims.

use std::collections::BTreeMap;
use std::sync::Arc;

use testudo_guard::limit::LimitKey;
use testudo_guard::schema::Undocumented;

use crate::api::ApiModel;
use crate::config::shape::suggest;
use crate::config::{self, Config};
use crate::diagnostic::{Diagnostics, Span};

pub(super) fn check(
    config: &Config,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    diagnostics: &mut Diagnostics,
) {
    let services: Vec<&str> = config.services.keys().map(AsRef::as_ref).collect();
    for route in config.gateway.iter().flat_map(|gateway| &gateway.routes) {
        let (Some(service), Some(span)) = (route.service(), &route.service_span) else {
            continue;
        };
        if !config.services.contains_key(service) {
            let message = format!("there is no service {service}");
            suggest(
                "route.unknown_service",
                span,
                message,
                service,
                &services,
                diagnostics,
            );
        }
    }
    for service in config.services.values() {
        for (name, span) in &service.acts_alone_spans {
            operation(name, None, span, config, apis, diagnostics);
        }
    }
    for limit in &config.limits {
        let span = |key: &str| {
            limit
                .match_spans
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, s)| s)
        };
        let matches = &limit.rule.matches;
        let mut known = true;
        if let (Some(service), Some(span)) = (&matches.service, span("service"))
            && !config.services.contains_key(service)
        {
            known = false;
            let message = format!("there is no service {service}");
            suggest(
                "ref.unknown",
                span,
                message,
                service,
                &services,
                diagnostics,
            );
        }
        if let (true, Some(name), Some(span)) = (known, &matches.operation, span("operation"))
            && name.contains(':')
        {
            operation(
                name,
                matches.service.as_deref(),
                span,
                config,
                apis,
                diagnostics,
            );
        }
        if limit.rule.per == LimitKey::User && config.users.is_none() {
            let message = "there are no users: this counts by address";
            let hint = "write `per: address`, or add `users:`".to_owned();
            diagnostics.warning("value.unused", &limit.per_span, message, hint);
        }
        if let LimitKey::Claim(claim) = &limit.rule.per {
            declared_claim(claim, &limit.per_span, config, diagnostics);
        }
    }
}

/// `SERVICE:OPERATION`. `within`: the service stands beside it, so suggestions are without one.
fn operation(
    name: &str,
    within: Option<&str>,
    span: &Span,
    config: &Config,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    diagnostics: &mut Diagnostics,
) {
    let services: Vec<&str> = config.services.keys().map(AsRef::as_ref).collect();
    let Some((service, rest)) = name.split_once(':') else {
        let message = format!("{name} does not say whose operation it is");
        let all: Vec<String> = apis.values().flat_map(full_names).collect();
        let ends = |full: &&String| full.split_once(':').is_some_and(|(_, op)| op == name);
        let hint = all.iter().find(ends).map_or_else(
            || "write SERVICE:OPERATION".to_owned(),
            |f| format!("write {f}"),
        );
        diagnostics.error("ref.unknown", span, message, hint);
        return;
    };
    if !config.services.contains_key(service) {
        let message = format!("there is no service {service}");
        let close = config::did_you_mean(service, &services);
        let hint = close.map(|close| format!("did you mean {close}:{rest}?"));
        diagnostics.error("ref.unknown", span, message, hint);
        return;
    }
    // Without its API, which is broken and reported, nothing can be said.
    let Some(api) = apis.get(service) else {
        return;
    };
    if has_operation(api, rest, config) {
        return;
    }
    let message = format!("{service} has no operation {rest}");
    if within.is_some() {
        let known: Vec<&str> = api.operations.iter().map(|o| &*o.name).collect();
        suggest("ref.unknown", span, message, rest, &known, diagnostics);
    } else {
        let known = full_names(api);
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        suggest("ref.unknown", span, message, name, &known, diagnostics);
    }
}

/// What the specification does not have is an operation too where it may be reached.
fn has_operation(api: &ApiModel, name: &str, config: &Config) -> bool {
    let settings = config
        .services
        .get(&api.service)
        .map(|service| &service.api);
    let undocumented =
        settings.is_some_and(|api| api.openapi.is_some() && api.undocumented != Undocumented::Deny);
    (undocumented && name == "undocumented") || api.operations.iter().any(|o| &*o.name == name)
}

fn full_names(api: &ApiModel) -> Vec<String> {
    let operations = api.operations.iter();
    operations
        .map(|o| format!("{}:{}", api.service, o.name))
        .collect()
}

fn declared_claim(claim: &str, span: &Span, config: &Config, diagnostics: &mut Diagnostics) {
    let issuers = config.users.iter().flat_map(|users| &users.jwt);
    let known: Vec<&str> = issuers
        .flat_map(|issuer| issuer.claims.keys().map(AsRef::as_ref))
        .collect();
    if !known.contains(&claim) {
        let message = format!("no issuer declares the claim {claim}");
        let hint = match config::did_you_mean(claim, &known) {
            Some(close) => format!("did you mean claim:{close}?"),
            None => format!("add `claims: {{{claim}: /{claim}}}` to the issuer"),
        };
        diagnostics.error("ref.unknown", span, message, hint);
    }
}
