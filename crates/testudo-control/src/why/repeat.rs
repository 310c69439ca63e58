//! A curl line that repeats a request at the edge. Credentials and bodies are never kept: shell variables
//! stand in their place.

use std::net::SocketAddr;

use testudo_guard::route::RouteTarget;
use testudo_model::{Event, Hop};
use testudo_policy::config::{Config, GatewayTls};

use super::chain::Chain;
use super::{Knowledge, KnownProxy};

/// `None` where the request did not begin at the edge, or nothing is known of the gateway.
pub(super) fn curl(
    chain: &Chain,
    knowledge: Option<Knowledge<'_>>,
    proxies: &[KnownProxy],
) -> Option<String> {
    let event = &chain
        .hops
        .iter()
        .find(|hop| hop.event.hop == Hop::Edge)?
        .event;
    let config = knowledge?.config;
    let gateway = config.gateway.as_ref()?;
    let bound = proxies
        .iter()
        .find(|proxy| proxy.name == event.proxy)
        .and_then(|proxy| proxy.advertise.as_deref()?.parse::<SocketAddr>().ok());
    let mut address = bound.unwrap_or(gateway.listen);
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let (scheme, ca) = match gateway.tls {
        GatewayTls::Plain => ("http", ""),
        GatewayTls::Mesh => ("https", " --cacert \"$CA\""),
        GatewayTls::Certificates(_) => ("https", ""),
    };
    let host = match event.host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => event.host.as_str(),
    };
    let mut line = format!("curl -i{ca}");
    if !host.is_empty() && host.parse::<std::net::IpAddr>().is_err() {
        let to = format!("{host}:{}:{}", address.port(), address.ip());
        line.push_str(&format!(" --resolve {}", quoted(&to)));
    }
    if event.method != "GET" {
        line.push_str(&format!(" -X {}", quoted(&event.method)));
    }
    let authority = match host {
        "" => address.to_string(),
        host => format!("{host}:{}", address.port()),
    };
    let url = format!("{scheme}://{authority}{}", path_at_the_edge(event, config));
    line.push_str(&format!(" {}", quoted(&url)));
    let had_credential = event.credential.is_some()
        || event
            .user
            .as_deref()
            .is_some_and(|user| user != "anonymous");
    if had_credential {
        line.push_str(" -H \"Authorization: Bearer $TOKEN\"");
    }
    if event.bytes_in > 0 {
        line.push_str(" -H 'Content-Type: application/json' --data-binary \"@$BODY\"");
    }
    Some(line)
}

/// The path before the route cut its prefix off.
fn path_at_the_edge(event: &Event, config: &Config) -> String {
    let taken = event.checks.iter().find(|check| check.name == "route");
    let route = taken.and_then(|check| {
        let source = check.policy.as_ref()?;
        let mut routes = config.gateway.iter().flat_map(|gateway| &gateway.routes);
        routes.find(|route| route.rule.source == *source)
    });
    match route.map(|route| (&route.rule.path, &route.rule.target)) {
        Some((
            prefix,
            RouteTarget::Service {
                strip_prefix: true, ..
            },
        )) => {
            format!("{prefix}{}", event.path)
        }
        _ => event.path.clone(),
    }
}

/// For a POSIX shell; control characters are made visible rather than sent.
fn quoted(text: &str) -> String {
    let text = testudo_watch::escape_for_terminal(text);
    format!("'{}'", text.replace('\'', "'\\''"))
}
