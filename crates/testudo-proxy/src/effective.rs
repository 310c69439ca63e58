//! What is in force at this proxy, as JSON, for `proxy show` and `proxy diff`. No secrets, no keys.

use serde_json::{Value, json};
use testudo_guard::snapshot::{AppAddress, Service, Snapshot};

use crate::shared::Shared;

/// The effective configuration.
pub fn json(shared: &Shared) -> Value {
    let snapshot = shared.installed.snapshot.load_full();
    let addresses = shared.installed.addresses.load_full();
    let bound = shared.bound().cloned().unwrap_or_default();
    let mut services: Vec<&std::sync::Arc<Service>> = snapshot
        .iter()
        .flat_map(|snapshot| snapshot.services.values())
        .collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    json!({
        "name": &*shared.name(),
        "role": shared.options.role_name(),
        "ready": shared.not_ready().is_none(),
        "detail": shared.not_ready(),
        "revision": snapshot.as_ref().map(|snapshot| snapshot.revision),
        "digest": snapshot.as_ref().map(|snapshot| &*snapshot.digest),
        "threads": shared.options.thread_count(),
        "connections": shared.connections.open(),
        "panics": shared.panics.count(),
        "refused_handshakes": shared.refused_handshakes.count(),
        "events_dropped": shared.events.dropped(),
        "listen": bound.listen,
        "inbound": bound.inbound,
        "outbound": bound.outbound,
        "admin": bound.admin,
        "routes": snapshot.as_deref().map(routes),
        "services": services.iter().map(|service| json!({
            "name": &*service.name,
            "mode": service.mode,
            "mode_until": service.mode_until,
            "protocol": format!("{:?}", service.protocol).to_lowercase(),
            "app": service.app.iter().map(app_text).collect::<Vec<_>>(),
            "addresses": addresses.of(&service.name).iter().map(|address| &**address).collect::<Vec<_>>(),
            "operations": service.api.operations.len(),
            "timeout_ms": u64::try_from(service.timeout.as_millis()).unwrap_or(u64::MAX),
            "limits": service.limits.iter().map(|limit| &*limit.name).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

fn routes(snapshot: &Snapshot) -> Vec<Value> {
    use testudo_guard::route::RouteTarget;
    let routes = snapshot.edge.iter().flat_map(|edge| edge.routes.routes());
    routes
        .map(|route| {
            json!({
                "host": route.host.as_deref(),
                "path": &*route.path,
                "service": match &route.target {
                    RouteTarget::Service { service, .. } => Some(&**service),
                    RouteTarget::Redirect { .. } => None,
                },
            })
        })
        .collect()
}

/// An application's address as the bundle writes it.
pub(crate) fn app_text(app: &AppAddress) -> String {
    match app {
        AppAddress::Tcp(address) => address.to_string(),
        AppAddress::Unix(path) => format!("unix:{}", path.display()),
        AppAddress::Dns(name, port) => format!("dns:{name}:{port}"),
    }
}
