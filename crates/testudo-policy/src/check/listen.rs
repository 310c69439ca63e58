//! Two listeners on one address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use testudo_guard::snapshot::AppAddress;

use crate::config::{Config, Sidecar};
use crate::diagnostic::{Diagnostics, Span};

/// Something that listens.
struct Listener<'a> {
    what: String,
    address: Address<'a>,
    span: &'a Span,
}

enum Address<'a> {
    Tcp(SocketAddr),
    Unix(&'a Path),
}

pub(super) fn check(config: &Config, diagnostics: &mut Diagnostics) {
    let listeners = listeners(config);
    // Only what shares a port or a socket's path can collide.
    let mut before: HashMap<(u16, Option<&Path>), Vec<&Listener<'_>>> = HashMap::new();
    for second in &listeners {
        let key = match &second.address {
            Address::Tcp(address) => (address.port(), None),
            Address::Unix(path) => (0, Some(*path)),
        };
        let group = before.entry(key).or_default();
        let first = group
            .iter()
            .find(|first| collide(&first.address, &second.address));
        let Some(first) = first else {
            group.push(second);
            continue;
        };
        let address = match &second.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(path) => path.display().to_string(),
        };
        let message = format!(
            "{} and {} both listen on {address}",
            first.what, second.what
        );
        let hint = format!(
            "{} is at {}:{}",
            first.what, first.span.file, first.span.line
        );
        diagnostics.error("listen.duplicate", second.span, message, hint);
    }
}

/// Defaults first: the place that is shown is one that somebody wrote.
fn listeners(config: &Config) -> Vec<Listener<'_>> {
    let tcp = |what: &str, address: SocketAddr, span| Listener {
        what: what.to_owned(),
        address: Address::Tcp(address),
        span,
    };
    let control = &config.control;
    let mut all = vec![
        tcp("control.api", control.api, &control.api_span),
        tcp("control.mesh", control.mesh, &control.mesh_span),
    ];
    if let Some(gateway) = &config.gateway {
        all.push(tcp("the gateway", gateway.listen, &gateway.listen_span));
    }
    for service in config.services.values() {
        let name = &service.name;
        if let Sidecar::Addresses { inbound, outbound } = &service.sidecar {
            for (part, at) in [("inbound", inbound), ("outbound", outbound)] {
                if let Some((address, span)) = at {
                    all.push(tcp(&format!("{name}'s sidecar ({part})"), *address, span));
                }
            }
        }
        for (address, span) in &service.app {
            let what = format!("{name}'s application");
            match address {
                AppAddress::Tcp(address) => all.push(tcp(&what, *address, span)),
                AppAddress::Unix(path) => all.push(Listener {
                    what,
                    address: Address::Unix(path),
                    span,
                }),
                AppAddress::Dns(..) => {}
            }
        }
    }
    all
}

fn collide(one: &Address<'_>, other: &Address<'_>) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (Address::Tcp(one), Address::Tcp(other)) => {
            let (a, b) = (one.ip(), other.ip());
            let same = a == b
                || (a.is_unspecified() && (a.is_ipv6() || b.is_ipv4()))
                || (b.is_unspecified() && (b.is_ipv6() || a.is_ipv4()));
            same && one.port() == other.port() && one.port() != 0
        }
        (Address::Unix(_), Address::Tcp(_)) | (Address::Tcp(_), Address::Unix(_)) => false,
    }
}
