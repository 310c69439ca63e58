//! `Host` and `:authority` in one spelling (RFC 9110 §7.2, RFC 3986 §3.2.2).

use std::fmt;
use std::net::Ipv6Addr;

use crate::record::Denial;

use super::malformed;

/// Whom a request was sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

impl Host {
    /// Lower case, without a port and without a trailing dot; IPv6 addresses in brackets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, if one was given.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// The `NAME` of `NAME.mesh`.
    pub fn mesh_name(&self) -> Option<&str> {
        self.name.strip_suffix(".mesh")
    }

    /// Whether it is a name that only means something inside the mesh.
    pub fn is_mesh(&self) -> bool {
        self.name == "mesh" || self.mesh_name().is_some()
    }

    /// Whether both mean the same server; a port left out is that of the scheme, where one is known.
    pub(super) fn agrees_with(&self, other: &Host, scheme: Option<&str>) -> bool {
        let default = match scheme {
            Some("http") => Some(80),
            Some("https") => Some(443),
            _ => None,
        };
        self.name == other.name && self.port.or(default) == other.port.or(default)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Reads `uri-host [":" port]`. User information, escapes and everything that is not a DNS name or an
/// address is refused.
pub(super) fn parse(raw: &[u8]) -> Result<Host, Denial> {
    let text = std::str::from_utf8(raw).map_err(|_| malformed("Host is not ASCII"))?;
    let (name, port) = split_port(text)?;
    let name = if let Some(address) = name.strip_prefix('[') {
        let address: Ipv6Addr = address
            .strip_suffix(']')
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| malformed("Host has a bad IPv6 address"))?;
        format!("[{address}]")
    } else {
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_dns_name(name) {
            return Err(malformed("Host is not a name or an address"));
        }
        name.to_ascii_lowercase()
    };
    Ok(Host { name, port })
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), Denial> {
    let bad_port = || malformed("Host has a bad port");
    match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(bad_port());
            }
            Ok((name, Some(port.parse().map_err(|_| bad_port())?)))
        }
        Some(_) | None => Ok((text, None)),
    }
}

fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}
