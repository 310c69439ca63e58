//! Who the client is where trusted proxies stand in front of the gateway.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::snapshot::Snapshot;

/// The socket's address, or the rightmost address of `X-Forwarded-For` that is not a trusted proxy's,
/// where the socket is one. What stands left of it anybody can have written.
pub(super) fn client_address(socket: IpAddr, headers: &HeaderMap, snapshot: &Snapshot) -> IpAddr {
    let mut address = socket.to_canonical();
    if !snapshot.is_trusted_proxy(address) {
        return address;
    }
    let hops = headers
        .get_all("x-forwarded-for")
        .iter()
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops {
        // Behind something unreadable nothing is known: the last hop that vouched for it stays.
        let Some(hop) = parse_hop(hop) else {
            break;
        };
        address = hop;
        if !snapshot.is_trusted_proxy(address) {
            break;
        }
    }
    address
}

/// An address, or an address with a port as some proxies write it.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let address = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()))
        .ok()?;
    Some(address.to_canonical())
}
