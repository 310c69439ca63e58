//! One entry of `limits:`.

use std::sync::Arc;

use testudo_guard::limit::{LimitKey, LimitMatch, LimitRule, LimitScope};

use super::fields::Fields;
use super::{Limit, defaults, keys, policy_ref, values};
use crate::diagnostic::Diagnostics;
use crate::yaml::Node;

/// `None`: a mandatory part is missing or wrong, and reported.
pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Option<Limit> {
    node.as_map()?;
    let fields = Fields::new(node, &keys::LIMIT);
    let name: Arc<str> = Arc::from(fields.text("name")?);
    let burst = fields.get("burst").and_then(Node::as_i64);
    let scope = match fields.text("scope") {
        Some("proxy") => LimitScope::Proxy,
        Some("fleet") => LimitScope::Fleet,
        _ => defaults::LIMIT_SCOPE,
    };
    let matched = fields.get("match").filter(|node| node.as_map().is_some());
    let (matches, match_spans) = match matched {
        Some(node) => matches(node, diagnostics),
        None => (LimitMatch::default(), Vec::new()),
    };
    let rate = values::rate(fields.text("rate")?).ok()?;
    let rule = LimitRule {
        name,
        source: policy_ref(&fields.span("name")),
        matches,
        per: per(fields.text("per")?)?,
        interval: rate.interval(),
        burst: match burst.map(u32::try_from) {
            Some(Ok(burst)) => burst.max(1),
            Some(Err(_)) => return None,
            None => rate.one_second(),
        },
        scope,
    };
    Some(Limit {
        rule: Arc::new(rule),
        span: fields.span("name"),
        per_span: fields.span("per"),
        match_spans,
    })
}

fn per(text: &str) -> Option<LimitKey> {
    match text.split_once(':') {
        None => match text {
            "user" => Some(LimitKey::User),
            "service" => Some(LimitKey::Service),
            "address" => Some(LimitKey::Address),
            "all" => Some(LimitKey::All),
            _ => None,
        },
        Some(("header", name)) => name.parse().ok().map(LimitKey::Header),
        Some(("claim", name)) => Some(LimitKey::Claim(name.into())),
        Some(_) => None,
    }
}

fn matches(
    node: &Node,
    diagnostics: &mut Diagnostics,
) -> (LimitMatch, Vec<(&'static str, crate::diagnostic::Span)>) {
    let fields = Fields::new(node, &keys::LIMIT_MATCH);
    let service = fields.text("service");
    let operation = fields.text("operation").map(|operation| match service {
        Some(service) if !operation.starts_with(&format!("{service}:")) => {
            format!("{service}:{operation}")
        }
        _ => operation.to_owned(),
    });
    if let Some(node) = fields.get("operation")
        && service.is_none()
        && !node.as_str().unwrap_or(":").contains(':')
    {
        let message = "match.operation needs match.service beside it";
        let hint = "operationIds belong to a service: add `service: NAME`".to_owned();
        diagnostics.error("key.missing", &node.span, message, hint);
    }
    let path = fields
        .text("path")
        .map(|path| match path.trim_end_matches('/') {
            "" => "/",
            path => path,
        });
    let spans = ["service", "operation", "method", "path"]
        .into_iter()
        .filter_map(|key| Some((key, fields.get(key)?.span.clone())))
        .collect();
    let matches = LimitMatch {
        service: service.map(Arc::from),
        operation: operation.map(Arc::from),
        method: fields.text("method").and_then(|text| text.parse().ok()),
        path: path.map(Arc::from),
    };
    (matches, spans)
}
