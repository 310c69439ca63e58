//! A bundle compiled into the snapshot of one proxy.
//!
//! It works on the parts that the proxy gets. `check` says everything that is wrong; here whatever is wrong with
//! what this proxy needs refuses the whole revision, so that the last good one stays.

mod edge;
mod users;

pub(crate) use users::key_set;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use testudo_guard::Snapshot;
use testudo_guard::schema::{
    Api, ApiKind, Operation, OperationMatcher, OperationSchema, Undocumented,
};
use testudo_guard::snapshot::{AppAddress, Role, Service};
use testudo_model::PolicyRef;

use crate::api::{ApiModel, OperationModel};
use crate::bundle::{Bundle, ROOT_FILE};
use crate::cedar::{self, Compiled};
use crate::config::{self, Config, Sidecar, policy_ref};
use crate::diagnostic::{Diagnostics, Span};
use crate::openapi;

/// Compiles what `role` needs. `digest`: hex SHA-256 of the revision's manifest; `base_dir`: what relative Unix
/// sockets and `${file:…}` are relative to.
///
/// # Errors
/// Everything that is wrong with it.
pub fn compile(
    bundle: &Bundle,
    revision: u64,
    digest: &str,
    role: &Role,
    base_dir: &Path,
) -> Result<Snapshot, Diagnostics> {
    // Files that the bundle's folder lacks; parts of a revision have no such problems.
    let mut diagnostics = Diagnostics {
        list: bundle.problems.clone(),
    };
    let snapshot = snapshot(bundle, revision, digest, role, base_dir, &mut diagnostics);
    match snapshot {
        Some(snapshot) if !diagnostics.has_errors() => Ok(snapshot),
        _ => Err(diagnostics),
    }
}

fn snapshot(
    bundle: &Bundle,
    revision: u64,
    digest: &str,
    role: &Role,
    base_dir: &Path,
    diagnostics: &mut Diagnostics,
) -> Option<Snapshot> {
    let start = Span::start_of(ROOT_FILE);
    let Some(config) = config::read(bundle, diagnostics) else {
        if !diagnostics.has_errors() {
            diagnostics.error("file.missing", &start, "there is no testudo.yaml", None);
        }
        return None;
    };
    if let Role::Sidecar(name) = role
        && !config.services.contains_key(name)
    {
        let message = format!("there is no service {name} in this revision");
        diagnostics.error("ref.unknown", &start, message, None);
        return None;
    }
    let mut apis = apis(bundle, &config, role, diagnostics);
    let policies = cedar::compile(bundle, &config, &apis, false, diagnostics);
    let services: HashMap<Arc<str>, Arc<Service>> = config
        .services
        .keys()
        .filter_map(|name| {
            if matches!(role, Role::Sidecar(own) if own == name) {
                sockets(config.services.get(name)?, base_dir, diagnostics);
            }
            let api = api(&config, name, apis.remove(name), &policies)?;
            let service = service(&config, name, api, base_dir)?;
            Some((name.clone(), Arc::new(service)))
        })
        .collect();
    let edge = match role {
        Role::Gateway => Some(edge::edge(bundle, &config, base_dir, diagnostics)?),
        Role::Sidecar(_) => None,
    };
    Some(Snapshot {
        revision,
        digest: Arc::from(digest),
        trust_domain: config.trust_domain.clone(),
        role: role.clone(),
        edge,
        services,
        users: users::users(bundle, &config, role, diagnostics),
        identity_ttl: config.identity_ttl,
    })
}

/// The APIs that this proxy judges: a sidecar's own, a gateway's routed ones.
fn apis(
    bundle: &Bundle,
    config: &Config,
    role: &Role,
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Arc<str>, ApiModel> {
    let judged = |name: &Arc<str>| match role {
        Role::Sidecar(own) => name == own,
        Role::Gateway => route_to(config, name).is_some(),
    };
    config
        .services
        .values()
        .filter(|service| judged(&service.name))
        .filter_map(|service| {
            Some((
                service.name.clone(),
                read_api(bundle, service, diagnostics)?,
            ))
        })
        .collect()
}

/// The API of a service, from its specification or without one.
pub(crate) fn read_api(
    bundle: &Bundle,
    service: &config::Service,
    diagnostics: &mut Diagnostics,
) -> Option<ApiModel> {
    let Some((path, span)) = &service.api.openapi else {
        return Some(openapi::none(&service.name));
    };
    if bundle.content(path).is_none() {
        // `bundle` has said so where it looked for the file; a proxy may just not have got it.
        let message = format!("there is no file {path}");
        if !bundle.problems.iter().any(|problem| problem.span == *span) {
            diagnostics.error("file.missing", span, message, None);
        }
        return None;
    }
    openapi::read(path, bundle, &service.name, diagnostics)
}

/// The first route that leads to a service.
fn route_to(config: &Config, service: &Arc<str>) -> Option<PolicyRef> {
    let routes = config.gateway.iter().flat_map(|gateway| &gateway.routes);
    let mut leading = routes.filter(|route| route.service() == Some(service));
    leading.next().map(|route| route.rule.source.clone())
}

fn api(
    config: &Config,
    name: &Arc<str>,
    model: Option<ApiModel>,
    policies: &Compiled,
) -> Option<Api> {
    let settings = &config.services.get(name)?.api;
    let specified = settings.openapi.is_some();
    // Another proxy judges it where there is no model.
    let judged = model.is_some();
    let operations: Vec<Arc<Operation>> = model
        .map(|model| model.operations)
        .unwrap_or_default()
        .into_iter()
        .map(|operation| Arc::new(judged_operation(name, operation, policies, specified)))
        .collect();
    let undocumented = judged && specified && settings.undocumented != Undocumented::Deny;
    let undocumented_operation = undocumented.then(|| {
        Arc::new(Operation {
            id: format!("{name}:undocumented").into(),
            source: None,
            method: http::Method::GET,
            template: Arc::from("*"),
            websocket: false,
            schema: OperationSchema::default(),
            policies: policies.slice_undocumented(name),
        })
    });
    Some(Api {
        kind: if specified {
            ApiKind::OpenApi
        } else {
            ApiKind::None
        },
        requests: settings.requests,
        responses: settings.responses,
        undocumented: settings.undocumented,
        max_body: settings.max_body,
        matcher: OperationMatcher::new(&operations),
        operations,
        undocumented_operation,
    })
}

fn judged_operation(
    service: &Arc<str>,
    operation: OperationModel,
    policies: &Compiled,
    specified: bool,
) -> Operation {
    let slice = policies.slice(service, &operation);
    Operation {
        id: format!("{service}:{}", operation.name).into(),
        source: specified.then(|| policy_ref(&operation.span)),
        method: operation.method,
        template: operation.template,
        websocket: operation.websocket,
        schema: operation.schema,
        policies: slice,
    }
}

/// Longest path of a Unix socket: `sun_path` of Linux without its final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Where the bundle lies decides whether its sockets can be reached at all.
fn sockets(service: &config::Service, base_dir: &Path, diagnostics: &mut Diagnostics) {
    for (address, span) in &service.app {
        let AppAddress::Unix(path) = address else {
            continue;
        };
        let bytes = base_dir.join(path).as_os_str().len();
        if bytes > SOCKET_PATH_MAX {
            let message = format!(
                "the socket's whole path has {bytes} bytes, but {SOCKET_PATH_MAX} is the most"
            );
            let hint = "move the bundle to a shorter path, or name the socket by an absolute one";
            diagnostics.error("value.invalid", span, message, hint.to_owned());
        }
    }
}

fn service(config: &Config, name: &Arc<str>, api: Api, base_dir: &Path) -> Option<Service> {
    let service = config.services.get(name)?;
    let app = service.app.iter().map(|(address, _)| match address {
        AppAddress::Unix(path) => AppAddress::Unix(base_dir.join(path)),
        other => other.clone(),
    });
    let limits = config.limits.iter().filter(|limit| {
        let matches = &limit.rule.matches;
        let of_operation = |operation: &Arc<str>| {
            let service = operation.split(':').next().unwrap_or_default();
            service == &**name
        };
        matches
            .service
            .as_ref()
            .is_none_or(|service| service == name)
            && matches.operation.as_ref().is_none_or(of_operation)
    });
    Some(Service {
        name: name.clone(),
        source: policy_ref(&service.span),
        route: route_to(config, name),
        spiffe_id: config.spiffe_id(name).into(),
        mode: service.mode,
        mode_until: service.mode_until,
        app: app.collect(),
        plain: matches!(service.sidecar, Sidecar::None(_)),
        roles: service.roles.iter().map(|(role, _)| role.clone()).collect(),
        labels: service.labels.clone(),
        protocol: service.protocol,
        api,
        user: service.user,
        acts_alone: service.acts_alone.clone(),
        probes: service
            .probes
            .iter()
            .map(|(path, _)| path.clone())
            .collect(),
        egress: service
            .egress
            .iter()
            .map(|(host, _)| host.clone())
            .collect(),
        timeout: service.timeout,
        limits: limits.map(|limit| limit.rule.clone()).collect(),
    })
}

#[cfg(test)]
mod tests;
