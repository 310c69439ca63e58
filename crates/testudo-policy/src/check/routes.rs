//! Routes that no request reaches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use testudo_guard::route::RouteTarget;
use testudo_guard::schema::Undocumented;

use super::operations;
use crate::api::ApiModel;
use crate::config::{Config, Route, Service};
use crate::diagnostic::{Diagnostics, Span};

pub(super) fn check(
    config: &Config,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    diagnostics: &mut Diagnostics,
) {
    let mut seen: HashMap<(Option<&str>, &str), &Span> = HashMap::new();
    for route in config.gateway.iter().flat_map(|gateway| &gateway.routes) {
        let rule = &route.rule;
        let key = (rule.host.as_deref(), &*rule.path);
        if let Some(first) = seen.get(&key) {
            let message = format!("the route on line {} takes every request", first.line);
            let hint = format!(
                "same host and path as {}:{}; remove one of them",
                first.file, first.line
            );
            diagnostics.error("route.unreachable", &route.path_span, message, hint);
            continue;
        }
        seen.insert(key, &route.span);
        if rule
            .host
            .as_deref()
            .is_some_and(|host| host == "mesh" || host.ends_with(".mesh"))
        {
            let message = "hosts below .mesh are never served at the edge";
            let hint = "those are the services' names inside of the mesh: remove `host`".to_owned();
            diagnostics.error("route.unreachable", &route.span, message, hint);
        }
        let service = route.service().and_then(|name| config.services.get(name));
        if let Some(service) = service {
            reaches_an_operation(route, service, apis, diagnostics);
        }
    }
}

/// A prefix that no operation of the specification has: every request would be `route.undocumented`.
fn reaches_an_operation(
    route: &Route,
    service: &Service,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    diagnostics: &mut Diagnostics,
) {
    let RouteTarget::Service { strip_prefix, .. } = &route.rule.target else {
        return;
    };
    let judged = service.api.openapi.is_some() && service.api.undocumented == Undocumented::Deny;
    let Some(api) = apis.get(&service.name).filter(|_| judged && !strip_prefix) else {
        return;
    };
    let path = &*route.rule.path;
    let probe = service
        .probes
        .iter()
        .any(|(probe, _)| operations::under(probe, path));
    let operation = api
        .operations
        .iter()
        .any(|o| operations::under(&o.template, path));
    if probe || operation || api.operations.is_empty() {
        return;
    }
    let message = format!(
        "matches 0 of {} operations of {}",
        api.operations.len(),
        service.name
    );
    let mut paths: Vec<&str> = api
        .operations
        .iter()
        .map(|o| operations::fixed(&o.template))
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let stripped = path.rsplit_once('/').map_or("", |(_, last)| last);
    paths.truncate(5);
    let hint = format!(
        "its paths begin with {}; `strip_prefix: true` would cut /{stripped} off",
        paths.join(", ")
    );
    diagnostics.error("route.unreachable", &route.path_span, message, hint);
}
