//! What is in force at this proxy, as JSON, for `proxy show` and `proxy diff`. No secrets, no keys.

use serde_json::{Value, json};
use testudo_guard::containment::ContainedAction;
use testudo_guard::snapshot::{AppAddress, Service, Snapshot};
use testudo_guard::{Live, Now};

use crate::shared::Shared;

/// What is shown travels with every report of health.
const CONTAINMENTS_SHOWN: usize = 100;

/// The effective configuration.
pub fn json(shared: &Shared) -> Value {
    let snapshot = shared.installed.snapshot.load_full();
    let addresses = shared.installed.addresses.load_full();
    let bound = shared.bound().unwrap_or_default();
    let (live, now) = (&*shared.installed.live, shared.clock.now());
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
        "modes": modes(live, now),
        "containments": containments(live, now),
        "routes": snapshot.as_deref().map(routes),
        "services": services.iter().map(|service| json!({
            "name": &*service.name,
            "mode": live.mode_of(service, now),
            "configured_mode": service.mode,
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

/// Modes that hold for a while, and who set them.
fn modes(live: &Live, now: Now) -> Vec<Value> {
    let modes = live.modes.load();
    let mut list: Vec<_> = modes.active(now).collect();
    list.sort_by(|a, b| a.0.cmp(b.0));
    list.into_iter()
        .map(|(service, entry)| {
            json!({
                "service": &**service,
                "mode": entry.mode,
                "until": timestamp(entry.until),
                "set_by": if entry.on_host { "host" } else { "control" },
            })
        })
        .collect()
}

/// Who is contained here; the first so many by id.
fn containments(live: &Live, now: Now) -> Vec<Value> {
    let containments = live.containments.load();
    let mut list: Vec<_> = containments.active(now).collect();
    list.sort_by(|a, b| a.id.cmp(&b.id));
    list.into_iter()
        .take(CONTAINMENTS_SHOWN)
        .map(|entry| {
            json!({
                "id": &*entry.id,
                "kind": entry.kind.as_str(),
                "principal": &*entry.principal,
                "service": &*entry.service,
                "operation": entry.operation.as_deref(),
                "action": entry.action.as_str(),
                "rate": match entry.action {
                    ContainedAction::Throttle(rate) => Some(rate),
                    ContainedAction::Deny => None,
                },
                "until": timestamp(entry.until),
                "reason": &*entry.reason,
            })
        })
        .collect()
}

fn timestamp(seconds: u64) -> Option<jiff::Timestamp> {
    let seconds = i64::try_from(seconds).ok()?;
    jiff::Timestamp::from_second(seconds).ok()
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
