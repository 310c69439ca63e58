//! The main file, and the included ones merged into it.

use std::sync::Arc;

use indexmap::IndexMap;

use super::fields::Fields;
use super::keys::{INCLUDED, ROOT};
use super::shape::{self, Kind};
use super::{
    Config, Control, Gateway, Limit, Service, Watch, defaults, gateway, keys, limits, services,
    users, watch,
};
use crate::bundle::{self, Bundle, ROOT_FILE};
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::{self, Node};

pub(super) fn read(bundle: &Bundle, diagnostics: &mut Diagnostics) -> Option<Config> {
    let content = bundle.content(ROOT_FILE)?;
    let root = yaml::parse(ROOT_FILE, content, diagnostics)?;
    shape::check(&root, Kind::Object(&ROOT), "", diagnostics);
    root.as_map()?;
    let fields = Fields::new(&root, &ROOT);
    fields.get("version");

    let mut merged = Merged::default();
    merged.add(&fields, diagnostics);
    let mut gateway = fields
        .get("gateway")
        .filter(|node| node.as_map().is_some())
        .map(|node| gateway::read(node, diagnostics));
    for tree in included(bundle, &fields, diagnostics) {
        let fields = Fields::new(&tree, &INCLUDED);
        merged.add(&fields, diagnostics);
        add_routes(&fields, gateway.as_mut(), diagnostics);
    }
    let users = fields
        .get("users")
        .filter(|node| node.as_map().is_some())
        .map(|node| users::read(node, bundle, diagnostics));
    let identity = fields.get("identity");
    Some(Config {
        trust_domain: Arc::from(fields.text("trust_domain").unwrap_or_default()),
        control: control(&fields),
        identity_ttl: identity.map_or(defaults::IDENTITY_TTL, |node| ttl(node, diagnostics)),
        gateway,
        users,
        services: merged.services,
        policies: policies(bundle, &fields),
        limits: merged.limits,
        watch: fields
            .get("watch")
            .filter(|node| node.as_map().is_some())
            .map_or_else(Watch::default, |node| watch::read(node, diagnostics)),
    })
}

/// The trees of the included files that can be read.
fn included(bundle: &Bundle, fields: &Fields<'_>, diagnostics: &mut Diagnostics) -> Vec<Node> {
    let mut paths: Vec<&str> = Vec::new();
    for pattern in fields.texts("include") {
        let Some(pattern) = bundle::resolve(ROOT_FILE, pattern) else {
            continue;
        };
        for path in bundle::included(bundle, &pattern) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    let mut trees = Vec::new();
    for path in paths {
        let content = bundle.content(path).unwrap_or_default();
        if let Some(tree) = yaml::parse(path, content, diagnostics) {
            shape::check(&tree, Kind::Object(&INCLUDED), "", diagnostics);
            if tree.as_map().is_some() {
                trees.push(tree);
            }
        }
    }
    trees
}

fn add_routes(fields: &Fields<'_>, gateway: Option<&mut Gateway>, diagnostics: &mut Diagnostics) {
    let Some(node) = fields.get("routes") else {
        return;
    };
    let routes = gateway::routes(node, diagnostics);
    match gateway {
        Some(gateway) => gateway.routes.extend(routes),
        None => {
            let message = "there are routes but no gateway";
            let hint = format!("add `gateway:` to {ROOT_FILE}");
            diagnostics.error("route.unreachable", &node.span, message, hint);
        }
    }
}

/// What may stand in every file.
#[derive(Default)]
struct Merged {
    services: IndexMap<Arc<str>, Service>,
    limits: Vec<Limit>,
}

impl Merged {
    fn add(&mut self, fields: &Fields<'_>, diagnostics: &mut Diagnostics) {
        let entries = fields.get("services").and_then(Node::as_map).unwrap_or(&[]);
        for (key, node) in entries {
            if let Some(first) = self.services.get(&*key.name) {
                twice("service", &key.name, &key.span, &first.span, diagnostics);
            } else {
                let service = services::read(key, node, diagnostics);
                self.services.insert(service.name.clone(), service);
            }
        }
        let items = fields.get("limits").and_then(Node::as_seq).unwrap_or(&[]);
        for item in items {
            // Each request looks at each limit of its service.
            if self.limits.len() >= defaults::LIMITS_MAX {
                let message = format!("there are more than {} limits", defaults::LIMITS_MAX);
                diagnostics.error("value.invalid", &item.span, message, None);
                break;
            }
            let Some(limit) = limits::read(item, diagnostics) else {
                continue;
            };
            let first = self.limits.iter().find(|l| l.rule.name == limit.rule.name);
            match first {
                Some(first) => {
                    twice(
                        "limit",
                        &limit.rule.name,
                        &limit.span,
                        &first.span,
                        diagnostics,
                    );
                }
                None => self.limits.push(limit),
            }
        }
    }
}

/// An error at the second thing of one name.
pub(super) fn twice(
    what: &str,
    name: &str,
    span: &Span,
    first: &Span,
    diagnostics: &mut Diagnostics,
) {
    let message = format!("there are two {what}s named {name}");
    let hint = format!("the first one is at {}:{}", first.file, first.line);
    diagnostics.error("name.duplicate", span, message, hint);
}

fn control(root: &Fields<'_>) -> Control {
    let default = |address| (address, root.node.span.clone());
    let node = root.get("control").filter(|node| node.as_map().is_some());
    let fields = node.map(|node| Fields::new(node, &keys::CONTROL));
    let address = |key| fields.as_ref().and_then(|fields| fields.address(key));
    let (api, api_span) = address("api").unwrap_or_else(|| default(defaults::CONTROL_API));
    let (mesh, mesh_span) = address("mesh").unwrap_or_else(|| default(defaults::CONTROL_MESH));
    if let Some(fields) = &fields {
        // Only what is the default passes `shape` so far.
        fields.get("store");
        fields.get("limits_store");
    }
    Control {
        api,
        api_span,
        mesh,
        mesh_span,
    }
}

fn ttl(node: &Node, diagnostics: &mut Diagnostics) -> std::time::Duration {
    let fields = Fields::new(node, &keys::IDENTITY);
    let Some(ttl) = fields.duration("ttl") else {
        return defaults::IDENTITY_TTL;
    };
    if ttl < defaults::IDENTITY_TTL_MIN || ttl > defaults::IDENTITY_TTL_MAX {
        let message = "identity.ttl is out of range";
        let hint = format!(
            "from {}s to {}d",
            defaults::IDENTITY_TTL_MIN.as_secs(),
            defaults::IDENTITY_TTL_MAX.as_secs() / 86_400
        );
        diagnostics.error("value.invalid", &fields.span("ttl"), message, hint);
        return defaults::IDENTITY_TTL;
    }
    ttl
}

/// The folder that is named, or the one of the usual name if there is one.
fn policies(bundle: &Bundle, fields: &Fields<'_>) -> Option<(String, Span)> {
    let span = fields.span("policies");
    match fields.text("policies") {
        Some(folder) => Some((bundle::resolve(ROOT_FILE, folder)?, span)),
        None => {
            let folder = bundle::DEFAULT_POLICIES;
            let inside = |path: &String| {
                path.strip_prefix(folder)
                    .is_some_and(|rest| rest.starts_with('/'))
            };
            let exists = bundle.files.keys().any(inside);
            exists.then(|| (folder.to_owned(), span))
        }
    }
}
