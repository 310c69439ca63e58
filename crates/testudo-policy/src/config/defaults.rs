//! What holds where `testudo.yaml` says nothing (DESIGN §3), each with its reason. Nothing else in the crate
//! fills in values.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use testudo_guard::limit::LimitScope;
use testudo_guard::schema::{Strictness, Undocumented};
use testudo_guard::snapshot::{Protocol, UserRule};
use testudo_model::Mode;

use super::{Respond, WebhookFormat};

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// `control.api`: loopback, because it has no TLS of its own.
pub const CONTROL_API: SocketAddr = loopback(7100);
/// `control.mesh`: loopback until somebody decides otherwise.
pub const CONTROL_MESH: SocketAddr = loopback(7101);
/// `gateway.listen`: loopback until somebody decides otherwise.
pub const GATEWAY_LISTEN: SocketAddr = loopback(8443);
/// `identity.ttl`: renewal at half life leaves half a day to repair what keeps it from renewing.
pub const IDENTITY_TTL: Duration = Duration::from_hours(24);
/// Shortest `identity.ttl`: below, renewal would be most of what proxies do.
pub const IDENTITY_TTL_MIN: Duration = Duration::from_secs(10);
/// Longest `identity.ttl`: a stolen key is of use for as long.
pub const IDENTITY_TTL_MAX: Duration = Duration::from_hours(24 * 90);
/// `routes[].path`: everything of the host.
pub const ROUTE_PATH: &str = "/";
/// `redirect.status`: permanent, and the method stays.
pub const REDIRECT_STATUS: u16 = 308;
/// `users.forward`: services trust the mesh's token, so the credential stays at the edge.
pub const FORWARD: bool = false;
/// `users.jwt.*.id`: RFC 7519 §4.1.2.
pub const USER_ID: &str = "/sub";
/// `services.*.mode`: safe unless said otherwise.
pub const MODE: Mode = Mode::Enforce;
/// `services.*.protocol`.
pub const PROTOCOL: Protocol = Protocol::Auto;
/// `services.*.user`: both questions are asked.
pub const USER: UserRule = UserRule::Authorize;
/// `services.*.timeout`: longer than honest requests take, shorter than people wait.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// `api.requests`: what breaks the specification does not reach the service.
pub const REQUESTS: Strictness = Strictness::Enforce;
/// `api.responses`: answers that break it are the service's own mistakes; denying them is a choice.
pub const RESPONSES: Strictness = Strictness::Report;
/// `api.undocumented`: what nobody described, nobody reviewed.
pub const UNDOCUMENTED: Undocumented = Undocumented::Deny;
/// `api.max_body`: bodies are held in memory while they are judged.
pub const MAX_BODY: u64 = 1 << 20;
/// Largest `api.max_body`.
pub const MAX_BODY_MAX: u64 = 1 << 30;
/// Most limits of a bundle: each request looks at each limit of its service.
pub const LIMITS_MAX: usize = 1000;
/// Most issuers of JWTs.
pub const ISSUERS_MAX: usize = 100;
/// `limits[].scope`.
pub const LIMIT_SCOPE: LimitScope = LimitScope::Proxy;

/// `watch.respond`: people first see what would be contained.
pub const WATCH_RESPOND: Respond = Respond::Alert;
/// `watch.contain_for`: long enough for somebody to look, short enough to be forgiven.
pub const CONTAIN_FOR: Duration = Duration::from_mins(10);
/// Shortest `watch.contain_for`: below, a containment ends before it has reached every proxy.
pub const CONTAIN_FOR_MIN: Duration = Duration::from_secs(10);
/// Longest `watch.contain_for`: what should last belongs into a policy.
pub const CONTAIN_FOR_MAX: Duration = Duration::from_hours(24 * 7);
/// `watch.max_share`: a mistake of a detector may not become an outage.
pub const MAX_SHARE: f64 = 0.05;
/// Most entries of `watch.notify`.
pub const WEBHOOKS_MAX: usize = 16;
/// `watch.notify[].format`.
pub const WEBHOOK_FORMAT: WebhookFormat = WebhookFormat::Generic;

/// A default as the reference and the schema show it; `None`: there is none, or it is empty.
pub(crate) fn shown(object: &str, key: &str) -> Option<String> {
    let text = match (object, key) {
        ("control", "api") => CONTROL_API.to_string(),
        ("control", "mesh") => CONTROL_MESH.to_string(),
        ("control", "store") => "embedded".to_owned(),
        ("identity", "ttl") => duration(IDENTITY_TTL),
        ("gateway", "listen") => GATEWAY_LISTEN.to_string(),
        ("a route", "path") => ROUTE_PATH.to_owned(),
        ("a redirect", "status") => REDIRECT_STATUS.to_string(),
        ("users", "forward") => FORWARD.to_string(),
        ("an issuer", "id") => USER_ID.to_owned(),
        ("a service", "mode") => match MODE {
            Mode::Enforce => "enforce".to_owned(),
            Mode::Report => "report".to_owned(),
            Mode::Observe => "observe".to_owned(),
        },
        ("a service", "protocol") => match PROTOCOL {
            Protocol::Auto => "auto".to_owned(),
            Protocol::Http1 => "http1".to_owned(),
            Protocol::Http2 => "http2".to_owned(),
        },
        ("a service", "api") => "none".to_owned(),
        ("a service", "user") => match USER {
            UserRule::Authorize => "authorize".to_owned(),
            UserRule::Require => "require".to_owned(),
            UserRule::Optional => "optional".to_owned(),
            UserRule::Ignore => "ignore".to_owned(),
        },
        ("a service", "timeout") => duration(TIMEOUT),
        ("an API", "requests") => strictness(REQUESTS),
        ("an API", "responses") => strictness(RESPONSES),
        ("an API", "undocumented") => match UNDOCUMENTED {
            Undocumented::Deny => "deny".to_owned(),
            Undocumented::Report => "report".to_owned(),
            Undocumented::Allow => "allow".to_owned(),
        },
        ("an API", "max_body") => format!("{}MiB", MAX_BODY >> 20),
        ("watch", "respond") => match WATCH_RESPOND {
            Respond::Alert => "alert".to_owned(),
            Respond::Contain => "contain".to_owned(),
        },
        ("watch", "contain_for") => duration(CONTAIN_FOR),
        ("watch", "max_share") => format!("{}%", MAX_SHARE * 100.0),
        ("a webhook", "format") => match WEBHOOK_FORMAT {
            WebhookFormat::Generic => "generic".to_owned(),
            WebhookFormat::Slack => "slack".to_owned(),
        },
        ("a limit", "scope") => match LIMIT_SCOPE {
            LimitScope::Proxy => "proxy".to_owned(),
            LimitScope::Fleet => "fleet".to_owned(),
        },
        _ => return None,
    };
    Some(text)
}

fn strictness(of: Strictness) -> String {
    match of {
        Strictness::Enforce => "enforce".to_owned(),
        Strictness::Report => "report".to_owned(),
        Strictness::Off => "off".to_owned(),
    }
}

fn duration(of: Duration) -> String {
    match of.as_secs() {
        seconds if seconds % 3600 != 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds => format!("{seconds}s"),
    }
}
