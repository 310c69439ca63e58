//! Services that can be gone around, that nobody can reach, or whose softer mode has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use testudo_guard::snapshot::{AppAddress, UserRule};

use super::{CheckOptions, operations};
use crate::api::ApiModel;
use crate::config::{Config, GatewayTls, Service, Sidecar};
use crate::diagnostic::Diagnostics;

pub(super) fn check(
    config: &Config,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    options: CheckOptions,
    diagnostics: &mut Diagnostics,
) {
    control(config, diagnostics);
    edge(config, diagnostics);
    for service in config.services.values() {
        users_asked_for(service, config, diagnostics);
        exposed(service, diagnostics);
        missing_app(service, config, diagnostics);
        egress(service, diagnostics);
        if let Some(api) = apis.get(&service.name) {
            probes(service, api, diagnostics);
        }
        if let (Some(until), Some(span), Some(now)) =
            (service.mode_until, &service.until_span, options.now)
            && until <= now
        {
            let message = "this is past: mode enforce holds";
            let hint = "remove `mode` and `until`, or choose a later date".to_owned();
            diagnostics.warning("mode.ended", span, message, hint);
        }
    }
}

fn control(config: &Config, diagnostics: &mut Diagnostics) {
    let api = config.control.api;
    if !api.ip().is_loopback() {
        let message = "the HTTP API has no TLS, so it stays on loopback";
        let hint = format!("write 127.0.0.1:{}", api.port());
        diagnostics.error("value.invalid", &config.control.api_span, message, hint);
    }
}

fn edge(config: &Config, diagnostics: &mut Diagnostics) {
    let Some(gateway) = &config.gateway else {
        return;
    };
    if matches!(gateway.tls, GatewayTls::Plain) && !gateway.listen.ip().is_loopback() {
        let message = "credentials cross the network unencrypted";
        let hint = "remove `tls: none`, or listen on loopback behind something that ends TLS";
        diagnostics.warning("tls.plain", &gateway.listen_span, message, hint.to_owned());
    }
    for (net, span) in &gateway.trusted_proxies {
        if net.prefix_len() == 0 {
            let message = "every client may say what its address is";
            let hint = "name the networks of your own proxies".to_owned();
            diagnostics.warning("trust.everybody", span, message, hint);
        }
    }
}

fn exposed(service: &Service, diagnostics: &mut Diagnostics) {
    without_sidecar(service, diagnostics);
    if let Sidecar::None(span) = &service.sidecar {
        let message = format!("{} is called in plain: nothing protects it", service.name);
        let hint = "give it a sidecar as soon as possible".to_owned();
        diagnostics.warning("sidecar.none", span, message, hint);
        return;
    }
    for (address, span) in &service.app {
        let who = match address {
            AppAddress::Unix(_) => continue,
            AppAddress::Tcp(address) if address.ip().is_loopback() => "anybody on the host",
            AppAddress::Tcp(_) | AppAddress::Dns(..) => "anybody on the network",
        };
        let message = format!("{who} can go around {}'s sidecar", service.name);
        let hint = format!("listen on a Unix socket: unix:run/{}.sock", service.name);
        diagnostics.warning("app.exposed", span, message, hint);
    }
}

/// What only a sidecar does.
fn without_sidecar(service: &Service, diagnostics: &mut Diagnostics) {
    if !matches!(service.sidecar, Sidecar::None(_)) {
        return;
    }
    let egress = service.egress.first().map(|(_, span)| ("egress", span));
    let alone = service.acts_alone_spans.first();
    let alone = alone.map(|(_, span)| ("acts_alone", span));
    for (key, span) in egress.into_iter().chain(alone) {
        let message = format!("{key} does nothing: {} has no sidecar", service.name);
        let hint = "give it a sidecar, or remove the key".to_owned();
        diagnostics.warning("value.unused", span, message, hint);
    }
}

/// What is asked of users where nobody can be one.
fn users_asked_for(service: &Service, config: &Config, diagnostics: &mut Diagnostics) {
    if let (None, Some(span), UserRule::Authorize | UserRule::Require) =
        (&config.users, &service.user_span, service.user)
    {
        let message = "without `users:` only callers are judged: this does nothing";
        let hint = "add `users:`, or remove it".to_owned();
        diagnostics.warning("value.unused", span, message, hint);
    }
}

fn missing_app(service: &Service, config: &Config, diagnostics: &mut Diagnostics) {
    let mut routes = config.gateway.iter().flat_map(|gateway| &gateway.routes);
    let routed = routes.any(|route| route.service() == Some(&service.name));
    if service.app.is_empty() && routed {
        let message = format!("a route leads to {}, but it has no `app`", service.name);
        let hint = format!(
            "add `app: [unix:run/{}.sock]`, or run sidecars with --app",
            service.name
        );
        diagnostics.warning("app.missing", &service.span, message, hint);
    }
}

fn egress(service: &Service, diagnostics: &mut Diagnostics) {
    for (host, span) in &service.egress {
        let name = host.rsplit_once(':').map_or(&**host, |(name, _)| name);
        if name.ends_with(".mesh") {
            let message = format!("{name} is inside of the mesh");
            let hint = "policies say who may call services; egress is for other hosts".to_owned();
            diagnostics.error("value.invalid", span, message, hint);
        }
    }
}

/// Probes are open to everybody: one that is a resource of the API opens that.
fn probes(service: &Service, api: &ApiModel, diagnostics: &mut Diagnostics) {
    for (path, span) in &service.probes {
        let opened = api.operations.iter().find(|operation| {
            operation.method == http::Method::GET
                && operation.template.contains('{')
                && operations::is(&operation.template, path)
        });
        let exact = api
            .operations
            .iter()
            .any(|operation| *operation.template == **path);
        if let (Some(opened), false) = (opened, exact) {
            let message = format!("opens a resource of {} to everybody", opened.name);
            let hint = "probe a path that serves health checks alone".to_owned();
            diagnostics.warning("probe.open", span, message, hint);
        }
    }
}
