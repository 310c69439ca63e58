//! One entry of `services:`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use testudo_guard::schema::{Strictness, Undocumented};
use testudo_guard::snapshot::{ActsAlone, Protocol, UserRule};
use testudo_model::{Mode, RESERVED_SERVICES};

use super::fields::Fields;
use super::{ApiConfig, Service, Sidecar, defaults, gateway, keys, values};
use crate::bundle;
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::{Key, Node};

pub(super) fn read(key: &Key, node: &Node, diagnostics: &mut Diagnostics) -> Service {
    let fields = Fields::new(node, &keys::SERVICE_KEYS);
    if RESERVED_SERVICES.contains(&key.name.as_str()) {
        let message = format!("{} is the name of a part of Testudo", key.name);
        let hint = format!("reserved: {}", RESERVED_SERVICES.join(" "));
        diagnostics.error("name.reserved", &key.span, message, hint);
    }
    let mode = mode(&fields);
    let app: Vec<_> = fields
        .names("app")
        .into_iter()
        .filter_map(|(text, span)| Some((values::app_address(&text).ok()?, span)))
        .collect();
    let (acts_alone, acts_alone_spans) = acts_alone(&fields);
    Service {
        name: Arc::from(key.name.as_str()),
        span: key.span.clone(),
        mode,
        mode_until: until(&fields, mode, diagnostics),
        until_span: fields.get("until").map(|node| node.span.clone()),
        run: run(&fields, diagnostics),
        app,
        sidecar: sidecar(&fields),
        roles: fields.names("roles"),
        labels: labels(&fields),
        protocol: match fields.text("protocol") {
            Some("auto") => Protocol::Auto,
            Some("http1") => Protocol::Http1,
            Some("http2") => Protocol::Http2,
            _ => defaults::PROTOCOL,
        },
        api: api(&fields, diagnostics),
        user: match fields.text("user") {
            Some("authorize") => UserRule::Authorize,
            Some("require") => UserRule::Require,
            Some("optional") => UserRule::Optional,
            Some("ignore") => UserRule::Ignore,
            _ => defaults::USER,
        },
        user_span: fields.get("user").map(|node| node.span.clone()),
        acts_alone,
        acts_alone_spans,
        probes: fields.names("probes"),
        egress: egress(&fields),
        timeout: gateway::timeout(&fields, diagnostics).unwrap_or(defaults::TIMEOUT),
    }
}

fn mode(fields: &Fields<'_>) -> Mode {
    match fields.text("mode") {
        Some("enforce") => Mode::Enforce,
        Some("report") => Mode::Report,
        Some("observe") => Mode::Observe,
        _ => defaults::MODE,
    }
}

fn until(fields: &Fields<'_>, mode: Mode, diagnostics: &mut Diagnostics) -> Option<u64> {
    let until = fields.get("until")?;
    if mode == Mode::Enforce && fields.text("mode").is_none_or(|text| text == "enforce") {
        let message = "until means nothing in mode enforce";
        let hint = "it ends `mode: report` or `mode: observe`".to_owned();
        diagnostics.error("value.invalid", &until.span, message, hint);
    }
    values::until(until.as_str()?).ok()
}

fn run(fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<String>> {
    let command = shell_words::split(fields.text("run")?).ok()?;
    let addresses = fields
        .get("app")
        .and_then(Node::as_seq)
        .unwrap_or(&[])
        .len();
    if addresses == 0 {
        let message = "run starts an application, but app says not where it listens";
        let hint = "add `app: [unix:run/NAME.sock]`, and let the command listen there".to_owned();
        diagnostics.error("value.invalid", &fields.span("run"), message, hint);
    }
    if addresses > 1 {
        let message = format!("run starts one application, but app has {addresses} addresses");
        let hint = "leave one address, or start the application yourself".to_owned();
        diagnostics.error("value.invalid", &fields.span("run"), message, hint);
    }
    Some(command)
}

fn sidecar(fields: &Fields<'_>) -> Sidecar {
    let Some(node) = fields.get("sidecar") else {
        return Sidecar::Addresses {
            inbound: None,
            outbound: None,
        };
    };
    if node.as_str() == Some("none") {
        return Sidecar::None(node.span.clone());
    }
    let fields = Fields::new(node, &keys::SIDECAR);
    Sidecar::Addresses {
        inbound: fields.address("inbound"),
        outbound: fields.address("outbound"),
    }
}

fn labels(fields: &Fields<'_>) -> BTreeMap<Arc<str>, Arc<str>> {
    let entries = fields.get("labels").and_then(Node::as_map).unwrap_or(&[]);
    entries
        .iter()
        .filter_map(|(key, node)| Some((key.name.as_str().into(), node.as_str()?.into())))
        .collect()
}

fn acts_alone(fields: &Fields<'_>) -> (ActsAlone, Vec<(Arc<str>, Span)>) {
    match fields.bool("acts_alone") {
        Some(true) => return (ActsAlone::Always, Vec::new()),
        Some(false) => return (ActsAlone::Never, Vec::new()),
        None => {}
    }
    let named = fields.names("acts_alone");
    if named.is_empty() {
        return (ActsAlone::Never, named);
    }
    let set: BTreeSet<Arc<str>> = named.iter().map(|(name, _)| name.clone()).collect();
    (ActsAlone::Operations(set), named)
}

fn egress(fields: &Fields<'_>) -> Vec<(Arc<str>, Span)> {
    fields
        .names("egress")
        .into_iter()
        .filter_map(|(text, span)| {
            let (host, port) = values::host_port(&text).ok()?;
            Some((format!("{host}:{port}").into(), span))
        })
        .collect()
}

fn api(service: &Fields<'_>, diagnostics: &mut Diagnostics) -> ApiConfig {
    let mut config = ApiConfig {
        openapi: None,
        requests: defaults::REQUESTS,
        responses: defaults::RESPONSES,
        undocumented: defaults::UNDOCUMENTED,
        max_body: defaults::MAX_BODY,
    };
    let node = service.get("api").filter(|node| node.as_map().is_some());
    let Some(node) = node else {
        return config;
    };
    let fields = Fields::new(node, &keys::API);
    let strictness = |key, default| match fields.text(key) {
        Some("enforce") => Strictness::Enforce,
        Some("report") => Strictness::Report,
        Some("off") => Strictness::Off,
        _ => default,
    };
    config.requests = strictness("requests", config.requests);
    config.responses = strictness("responses", config.responses);
    config.undocumented = match fields.text("undocumented") {
        Some("deny") => Undocumented::Deny,
        Some("report") => Undocumented::Report,
        Some("allow") => Undocumented::Allow,
        _ => config.undocumented,
    };
    if let Some(bytes) = fields
        .text("max_body")
        .and_then(|text| values::size(text).ok())
    {
        if (1..=defaults::MAX_BODY_MAX).contains(&bytes) {
            config.max_body = bytes;
        } else {
            let message = "max_body is out of range";
            let hint = "from 1B to 1GiB: bodies are held in memory while they are judged";
            let span = fields.span("max_body");
            diagnostics.error("value.invalid", &span, message, hint.to_owned());
        }
    }
    match fields.get("openapi") {
        Some(node) => {
            let path = node
                .as_str()
                .and_then(|path| bundle::resolve(&node.span.file, path));
            config.openapi = path.map(|path| (path, node.span.clone()));
        }
        None => {
            let later = ["graphql", "grpc", "mcp"];
            let named = later.iter().any(|key| node.get(key).is_some());
            for key in ["requests", "responses", "undocumented"] {
                if let Some(value) = fields.get(key).filter(|_| !named) {
                    let message = format!("{key} does nothing: the service has no specification");
                    let hint = "add `openapi: FILE`, or remove it".to_owned();
                    diagnostics.warning("value.unused", &value.span, message, hint);
                }
            }
        }
    }
    config
}
