//! What an application may send through its sidecar: where to, and with whose identity (DESIGN §3, §5).

use std::sync::Arc;

use http::request::Parts;

use crate::live::Live;
use crate::now::Now;
use crate::record::{Denial, Record};
use crate::snapshot::{Service, Snapshot};

/// Who sent a request to the outbound port, as far as the proxy could prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The sidecar's own application (Unix socket, peer uid, or the secret of `HTTP_PROXY`).
    Application,
    /// Anything else on this host.
    Foreign,
}

/// Where a permitted outbound request goes.
#[derive(Clone)]
pub enum Destination {
    /// A service of the mesh.
    Service(Arc<Service>),
    /// An address outside, as in `egress:`; spoken to in plain HTTP.
    Egress {
        /// Host name or address.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// A `CONNECT` tunnel to an address outside, as in `egress:`.
    Tunnel {
        /// Host name or address.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
}

/// Proof that guard permitted this outbound request. Only guard can make one.
pub struct OutboundPermit {
    destination: Destination,
}

impl OutboundPermit {
    /// Where the request goes.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }
}

/// Judges a request of the sidecar's own application. `head` is rewritten into the canonical request,
/// with the user's transaction token (re-)attached where one travels along.
///
/// # Errors
/// `request.malformed`, `route.none` for an unknown `NAME.mesh`, `authz.caller` for a foreign process or
/// a host that `egress:` lacks, `authn.invalid` for a token that the inbound side never verified.
pub fn check(
    _snapshot: &Arc<Snapshot>,
    _live: &Live,
    _sender: Sender,
    _head: &mut Parts,
    _record: &mut Record,
    _now: Now,
) -> Result<OutboundPermit, Denial> {
    Err(Denial::new(testudo_model::Reason::NotReady, "no checks"))
}
