//! `gateway:` and its routes.

use std::sync::Arc;

use testudo_guard::route::{Cors, Route as RouteRule, RouteTarget};

use super::fields::Fields;
use super::{
    CertificateSource, Gateway, GatewayTls, Route, SecretSource, defaults, keys, policy_ref, values,
};
use crate::bundle;
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::Node;

pub(super) fn read(node: &Node, diagnostics: &mut Diagnostics) -> Gateway {
    let fields = Fields::new(node, &keys::GATEWAY);
    let (listen, listen_span) = fields
        .address("listen")
        .unwrap_or_else(|| (defaults::GATEWAY_LISTEN, node.span.clone()));
    let tls = match fields.get("tls") {
        None => GatewayTls::Mesh,
        Some(node) if node.as_str() == Some("none") => GatewayTls::Plain,
        Some(node) => certificates(node, diagnostics),
    };
    let trusted_proxies = fields
        .names("trusted_proxies")
        .into_iter()
        .filter_map(|(text, span)| Some((values::cidr(&text).ok()?, span)))
        .collect();
    Gateway {
        listen,
        listen_span,
        tls,
        trusted_proxies,
        routes: fields
            .get("routes")
            .map(|node| routes(node, diagnostics))
            .unwrap_or_default(),
    }
}

fn certificates(node: &Node, diagnostics: &mut Diagnostics) -> GatewayTls {
    let items = node.as_seq().unwrap_or(&[]);
    if items.is_empty() && node.as_seq().is_some() {
        let message = "gateway.tls has no certificate";
        let hint = "leave it out for a certificate from the mesh's CA; `tls: none` is plain HTTP";
        diagnostics.error("value.invalid", &node.span, message, hint.to_owned());
    }
    let certificates = items.iter().filter_map(|item| {
        let fields = Fields::new(item, &keys::CERTIFICATE);
        Some(CertificateSource {
            certificate: secret(&item.span.file, fields.text("certificate")?)?,
            key: secret(&item.span.file, fields.text("key")?)?,
            span: fields.span("certificate"),
            key_span: fields.span("key"),
        })
    });
    GatewayTls::Certificates(certificates.collect())
}

/// Where a value that may be secret comes from; `None`: its path leads out, which `bundle` has reported.
fn secret(file: &str, text: &str) -> Option<SecretSource> {
    let inside = |prefix: &str| {
        let name = text.strip_prefix(prefix)?.strip_suffix('}')?;
        Some(name.to_owned())
    };
    if let Some(name) = inside("${env:") {
        return Some(SecretSource::Environment(name));
    }
    if let Some(path) = inside("${file:") {
        return Some(SecretSource::File(path));
    }
    bundle::resolve(file, text).map(SecretSource::Bundle)
}

pub(super) fn routes(node: &Node, diagnostics: &mut Diagnostics) -> Vec<Route> {
    let items = node.as_seq().unwrap_or(&[]);
    items
        .iter()
        .filter_map(|item| route(item, diagnostics))
        .collect()
}

fn route(node: &Node, diagnostics: &mut Diagnostics) -> Option<Route> {
    node.as_map()?;
    let fields = Fields::new(node, &keys::ROUTE);
    let path = fields.text("path").unwrap_or(defaults::ROUTE_PATH);
    let path = match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    let service = fields.get("service");
    let target = target(&fields, path, diagnostics)?;
    let rule = RouteRule {
        source: policy_ref(&node.span),
        host: fields.text("host").map(|host| host.to_lowercase().into()),
        path: path.into(),
        target,
        cors: fields.get("cors").map(|node| cors(node, diagnostics)),
    };
    Some(Route {
        rule: Arc::new(rule),
        span: node.span.clone(),
        path_span: fields.span("path"),
        service_span: service.map(|node| node.span.clone()),
    })
}

fn target(fields: &Fields<'_>, path: &str, diagnostics: &mut Diagnostics) -> Option<RouteTarget> {
    let span = &fields.node.span;
    let strip_prefix = fields.bool("strip_prefix").unwrap_or(false);
    let timeout = timeout(fields, diagnostics);
    let redirect = fields.get("redirect");
    match (fields.get("service"), redirect) {
        (Some(service), None) => {
            if strip_prefix && path == "/" {
                let message = "strip_prefix has nothing to cut off";
                let hint = "give the route a path, or remove strip_prefix".to_owned();
                diagnostics.error("value.invalid", &fields.span("strip_prefix"), message, hint);
            }
            Some(RouteTarget::Service {
                service: Arc::from(service.as_str()?),
                strip_prefix,
                timeout,
            })
        }
        (None, Some(redirect)) => {
            for key in ["strip_prefix", "timeout"] {
                if let Some(node) = fields.get(key) {
                    let message = format!("{key} means nothing beside redirect");
                    diagnostics.error("value.invalid", &node.span, message, None);
                }
            }
            target_of_redirect(redirect, diagnostics)
        }
        (Some(_), Some(redirect)) => {
            let message = "a route leads to a service or redirects, not both";
            diagnostics.error("value.invalid", &redirect.span, message, None);
            None
        }
        (None, None) => {
            let absent = fields.node.get("weights").is_some();
            if !absent {
                let message = "the route leads nowhere";
                let hint = "add `service: NAME` or `redirect: URL`".to_owned();
                diagnostics.error("key.missing", span, message, hint);
            }
            None
        }
    }
}

fn target_of_redirect(node: &Node, diagnostics: &mut Diagnostics) -> Option<RouteTarget> {
    if let Some(location) = node.as_str() {
        return Some(RouteTarget::Redirect {
            status: defaults::REDIRECT_STATUS,
            location: location.into(),
        });
    }
    let fields = Fields::new(node, &keys::REDIRECT);
    let status = fields.get("status").and_then(Node::as_i64);
    let status = match status {
        None => defaults::REDIRECT_STATUS,
        Some(301) => 301,
        Some(302) => 302,
        Some(307) => 307,
        Some(308) => 308,
        Some(other) => {
            let message = format!("{other} is no status of a redirect");
            let hint = "301, 302, 307 or 308".to_owned();
            diagnostics.error("value.invalid", &fields.span("status"), message, hint);
            return None;
        }
    };
    Some(RouteTarget::Redirect {
        status,
        location: fields.text("to")?.into(),
    })
}

fn cors(node: &Node, diagnostics: &mut Diagnostics) -> Cors {
    let fields = Fields::new(node, &keys::CORS);
    let texts = |key| -> Vec<Arc<str>> {
        let texts = fields.texts(key).into_iter();
        texts.map(|text| text.to_lowercase().into()).collect()
    };
    let origins: Vec<Arc<str>> = fields.texts("origins").into_iter().map(Arc::from).collect();
    let credentials = fields.bool("credentials").unwrap_or(false);
    if origins.is_empty() {
        let message = "cors allows no origin";
        diagnostics.error("value.invalid", &fields.span("origins"), message, None);
    }
    if credentials && origins.iter().any(|origin| &**origin == "*") {
        let message = "credentials for every origin would hand users' sessions to every site";
        let hint = "name the origins".to_owned();
        diagnostics.error("value.invalid", &fields.span("credentials"), message, hint);
    }
    let methods = fields.texts("methods").into_iter();
    Cors {
        origins,
        methods: methods.filter_map(|text| text.parse().ok()).collect(),
        headers: texts("headers"),
        expose: texts("expose"),
        credentials,
        max_age: fields.duration("max_age"),
    }
}

/// `timeout:` of a route or a service; zero would refuse every request.
pub(super) fn timeout(
    fields: &Fields<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<std::time::Duration> {
    let timeout = fields.duration("timeout")?;
    if timeout.is_zero() {
        let span: Span = fields.span("timeout");
        let message = "a timeout of zero refuses every request";
        diagnostics.error("value.invalid", &span, message, None);
        return None;
    }
    Some(timeout)
}
