//! Two listeners on one address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use testudo_guard::snapshot::AppAddress;

use crate::config::{Config, Sidecar};
use crate::diagnostic::{Diagnostics, Span};

/// Something that listens.
struct Listener<'a> {
    what: String,
    address: Address<'a>,
    span: &'a Span,
    /// Whether it is a part of Testudo; applications may run on hosts of their own.
    ours: bool,
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
        let first = group.iter().find(|first| collide(first, second));
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
        ours: true,
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
                AppAddress::Tcp(address) => all.push(Listener {
                    ours: false,
                    ..tcp(&what, *address, span)
                }),
                AppAddress::Unix(path) => all.push(Listener {
                    what,
                    address: Address::Unix(path),
                    span,
                    ours: false,
                }),
                AppAddress::Dns(..) => {}
            }
        }
    }
    all
}

/// Whether both cannot listen on one host. Equal addresses collide; the unspecified one has every address of its
/// host, and `[::]` those of IPv4 too. An application at an address that is not loopback may be on another host
/// than our own listeners, so that these do not have its address for sure.
fn collide(one: &Listener<'_>, other: &Listener<'_>) -> bool {
    match (&one.address, &other.address) {
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (Address::Tcp(a), Address::Tcp(b)) if a.port() != b.port() || a.port() == 0 => false,
        (Address::Tcp(a), Address::Tcp(b)) => {
            let (a, b) = (a.ip().to_canonical(), b.ip().to_canonical());
            a == b || has(one, a, other, b) || has(other, b, one, a)
        }
        (Address::Unix(_), Address::Tcp(_)) | (Address::Tcp(_), Address::Unix(_)) => false,
    }
}

/// Whether `all`, listening on `ip`, has the address of `single` too.
fn has(all: &Listener<'_>, ip: IpAddr, single: &Listener<'_>, address: IpAddr) -> bool {
    let here = single.ours || all.ours == single.ours;
    ip.is_unspecified()
        && (ip.is_ipv6() || address.is_ipv4())
        && (here || address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener<'a>(address: &str, ours: bool, span: &'a Span) -> Listener<'a> {
        Listener {
            what: String::new(),
            address: Address::Tcp(address.parse().unwrap()),
            span,
            ours,
        }
    }

    #[test]
    fn only_what_cannot_stand_beside_each_other_collides() {
        let span = Span::start_of("testudo.yaml");
        for (one, other, expected) in [
            ("127.0.0.1:7", "127.0.0.1:7", true),
            ("127.0.0.1:7", "127.0.0.2:7", false),
            ("127.0.0.1:7", "127.0.0.1:8", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:7", "127.0.0.1:7", true),
            ("0.0.0.0:7", "10.0.0.1:7", true),
            ("0.0.0.0:7", "0.0.0.0:7", true),
            ("0.0.0.0:7", "[::1]:7", false),
            ("[::]:7", "127.0.0.1:7", true),
            ("[::]:7", "0.0.0.0:7", true),
            ("[::]:7", "[::1]:7", true),
            ("[::ffff:127.0.0.1]:7", "127.0.0.1:7", true),
        ] {
            let (one_, other_) = (listener(one, true, &span), listener(other, true, &span));
            assert_eq!(collide(&one_, &other_), expected, "{one} {other}");
            assert_eq!(collide(&other_, &one_), expected, "{other} {one}");
        }
        // A gateway on every address of its host, an application on another host.
        let gateway = listener("0.0.0.0:8443", true, &span);
        assert!(!collide(&gateway, &listener("10.0.0.5:8443", false, &span)));
        assert!(collide(&gateway, &listener("127.0.0.1:8443", false, &span)));
    }
}
