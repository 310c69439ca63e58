//! Limits that can never count anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use testudo_guard::limit::LimitMatch;
use testudo_guard::schema::Undocumented;

use super::operations;
use crate::api::{ApiModel, OperationModel};
use crate::config::{Config, Limit, did_you_mean};
use crate::diagnostic::{Diagnostics, Fix, Span};

pub(super) fn check(
    config: &Config,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    diagnostics: &mut Diagnostics,
) {
    for limit in &config.limits {
        one(limit, config, apis, diagnostics);
    }
}

fn one(
    limit: &Limit,
    config: &Config,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    diagnostics: &mut Diagnostics,
) {
    let matches = &limit.rule.matches;
    let named = |name: &Arc<str>| {
        matches
            .service
            .as_ref()
            .is_none_or(|service| service == name)
    };
    let services: Vec<_> = config
        .services
        .values()
        .filter(|s| named(&s.name))
        .collect();
    // What cannot be read may match; what does not exist is reported as such.
    if services.is_empty()
        || services
            .iter()
            .any(|service| !apis.contains_key(&service.name))
    {
        return;
    }
    let candidates: Vec<(&str, &OperationModel)> = services
        .iter()
        .filter_map(|service| apis.get(&service.name))
        .flat_map(|api| api.operations.iter().map(|o| (&*api.service, o)))
        .collect();
    let full = |service: &str, operation: &OperationModel| format!("{service}:{}", operation.name);
    if let Some(name) = &matches.operation
        && !candidates.iter().any(|(s, o)| full(s, o) == **name)
    {
        return;
    }
    if candidates
        .iter()
        .any(|(s, o)| counts(matches, &full(s, o), o))
    {
        return;
    }
    let open = services.iter().any(|service| {
        let undocumented =
            service.api.openapi.is_some() && service.api.undocumented != Undocumented::Deny;
        let prefix = matches.path.as_deref().unwrap_or("/");
        let probe = service
            .probes
            .iter()
            .any(|(p, _)| operations::under(p, prefix));
        matches.operation.is_none() && (undocumented || probe)
    });
    if open {
        return;
    }
    let Some((key, span)) = blamed(limit) else {
        return;
    };
    let message = format!("matches 0 of {} operations", candidates.len());
    let hint = match key {
        "path" => path_hint(matches, &candidates),
        "method" => Some(method_hint(matches, &candidates)),
        _ => Some("the other conditions leave none of them".to_owned()),
    };
    diagnostics.error("limit.never", span, message, hint);
    if let ("path", Some(path), Some(last)) = (
        key,
        closest_path(matches, &candidates),
        diagnostics.list.last_mut(),
    ) {
        last.fix = Some(Fix {
            span: span.clone(),
            replacement: path.to_owned(),
        });
    }
}

/// The condition to look at first: the most particular one.
fn blamed(limit: &Limit) -> Option<(&'static str, &Span)> {
    ["path", "method", "operation", "service"]
        .into_iter()
        .find_map(|key| {
            let found = limit.match_spans.iter().find(|(name, _)| *name == key);
            found.map(|(name, span)| (*name, span))
        })
}

fn counts(matches: &LimitMatch, full_name: &str, operation: &OperationModel) -> bool {
    let method = |wanted: &Method| {
        *wanted == operation.method || (*wanted == Method::HEAD && operation.method == Method::GET)
    };
    matches
        .operation
        .as_deref()
        .is_none_or(|name| name == full_name)
        && matches.method.as_ref().is_none_or(method)
        && matches
            .path
            .as_deref()
            .is_none_or(|path| operations::under(&operation.template, path))
}

/// The fixed beginnings of the candidates' paths.
fn paths<'a>(candidates: &[(&'a str, &'a OperationModel)]) -> Vec<&'a str> {
    let mut paths: Vec<&str> = candidates
        .iter()
        .map(|(_, operation)| operations::fixed(&operation.template))
        .filter(|path| *path != "/")
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn closest_path<'a>(
    matches: &LimitMatch,
    candidates: &[(&'a str, &'a OperationModel)],
) -> Option<&'a str> {
    did_you_mean(matches.path.as_deref()?, &paths(candidates))
}

fn path_hint(matches: &LimitMatch, candidates: &[(&str, &OperationModel)]) -> Option<String> {
    let all = paths(candidates);
    let Some(path) = closest_path(matches, candidates) else {
        let shown: Vec<&str> = all.iter().copied().take(6).collect();
        return (!shown.is_empty()).then(|| format!("paths begin with {}", shown.join(" ")));
    };
    let matching: Vec<&OperationModel> = candidates
        .iter()
        .map(|(_, operation)| *operation)
        .filter(|operation| operations::under(&operation.template, path))
        .collect();
    let names = operations::listed(matching.iter().copied());
    Some(format!("{path} matches {}: {names}", matching.len()))
}

fn method_hint(matches: &LimitMatch, candidates: &[(&str, &OperationModel)]) -> String {
    let mut methods: Vec<&str> = candidates
        .iter()
        .filter(|(service, operation)| {
            let full = format!("{service}:{}", operation.name);
            matches.operation.as_deref().is_none_or(|name| name == full)
        })
        .map(|(_, operation)| operation.method.as_str())
        .collect();
    methods.sort_unstable();
    methods.dedup();
    format!("methods: {}", methods.join(" "))
}
