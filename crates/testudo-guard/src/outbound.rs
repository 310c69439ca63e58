//! What an application may send through its sidecar: where to, and with whose identity (DESIGN §3, §5).

use std::sync::Arc;

use http::{HeaderValue, Method, request::Parts};
use testudo_model::Reason;

use crate::containment::ContainedKind;
use crate::live::Live;
use crate::normalize::{self, Canonical};
use crate::now::Now;
use crate::pipeline::{self, Judge, Place, TXN_TOKEN, trace_id};
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
    snapshot: &Arc<Snapshot>,
    live: &Live,
    sender: Sender,
    head: &mut Parts,
    record: &mut Record,
    now: Now,
) -> Result<OutboundPermit, Denial> {
    let judge = &mut Judge::new(record);
    // Whoever speaks here speaks as this service to everybody else: no mode of this service may lend
    // its identity to a foreign process.
    let Some(own) = snapshot
        .own_service()
        .filter(|_| sender == Sender::Application)
    else {
        let detail = "not this sidecar's own application";
        return Err(judge.refuse("sender", Denial::new(Reason::AuthzCaller, detail)));
    };
    judge.record().caller = Some(own.name.clone());
    // One reading of the request, so that the other side's sidecar judges what we resolved.
    let canonical = normalize::outbound(head, judge.record());
    let canonical = judge.must("normalize", canonical)?;
    let destination = find_destination(snapshot, live, own, &canonical, head, judge, now)?;
    check_contained(own, &destination, live, judge, now)?;
    attach_user(&destination, live, head, judge, now)?;
    Ok(OutboundPermit { destination })
}

/// A name of the mesh, or a host that the service may reach outside.
fn find_destination(
    snapshot: &Snapshot,
    live: &Live,
    own: &Arc<Service>,
    canonical: &Canonical,
    head: &Parts,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<Destination, Denial> {
    let host = &canonical.host;
    let is_tunnel = head.method == Method::CONNECT;
    if host.is_mesh() {
        if is_tunnel {
            // What is in a tunnel nobody could judge.
            let detail = "mesh services are called, not tunnelled to";
            return Err(judge.refuse("route", Denial::new(Reason::RequestMalformed, detail)));
        }
        let service = host
            .mesh_name()
            .and_then(|name| snapshot.services.get(name));
        return match service {
            Some(service) => {
                judge.record().service = Some(service.name.clone());
                judge.pass("route", "", Some(&service.source));
                Ok(Destination::Service(service.clone()))
            }
            None => {
                let detail = "there is no such service in the mesh";
                Err(judge.refuse("route", Denial::new(Reason::RouteNone, detail)))
            }
        };
    }
    let port = match (host.port(), is_tunnel) {
        (Some(port), _) => port,
        (None, true) => 443,
        (None, false) => 80,
    };
    let address = format!("{}:{port}", host.name());
    judge.set_mode(live.mode_of(own, now));
    if own.egress.contains(&*address) {
        judge.pass("egress", address, Some(&own.source));
    } else {
        let detail = format!("{address} is not in the egress list");
        judge.fail("egress", Denial::new(Reason::AuthzCaller, detail))?;
    }
    let host = Arc::from(host.name());
    Ok(if is_tunnel {
        Destination::Tunnel { host, port }
    } else {
        Destination::Egress { host, port }
    })
}

/// A service that is contained on the way to another does not even leave its own sidecar. What is
/// called is the other's operation, which is known at the other's inbound side alone; so containments of
/// single operations hold there. As with every check the called service's mode decides.
fn check_contained(
    own: &Service,
    destination: &Destination,
    live: &Live,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<(), Denial> {
    let Destination::Service(service) = destination else {
        return Ok(());
    };
    judge.set_mode(live.mode_of(service, now));
    let place = Place {
        service: &service.name,
        operation: None,
        counted_before: false,
    };
    let kind = ContainedKind::Service;
    pipeline::check_contained(live, kind, &own.name, place, judge, now)
}

/// The user travels to services of the mesh, by a token that this workload was given and no other; our
/// words never leave it.
fn attach_user(
    destination: &Destination,
    live: &Live,
    head: &mut Parts,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<(), Denial> {
    let in_mesh = matches!(destination, Destination::Service(service) if !service.plain);
    if !in_mesh {
        head.headers.remove(TXN_TOKEN);
        return Ok(());
    }
    if let Some(token) = head.headers.get(TXN_TOKEN) {
        let known = token
            .to_str()
            .is_ok_and(|token| live.token_book.knows(token, now));
        if known {
            judge.pass("user", "by Txn-Token", None);
            return Ok(());
        }
        let detail = "a transaction token that this workload never received";
        return Err(judge.refuse("user", Denial::new(Reason::AuthnInvalid, detail)));
    }
    let reattached = trace_id(head)
        .and_then(|trace_id| live.token_book.reattach(trace_id, now))
        .and_then(|token| HeaderValue::from_str(&token).ok());
    match reattached {
        Some(mut token) => {
            token.set_sensitive(true);
            head.headers.insert(TXN_TOKEN, token);
            judge.pass("user", "by traceparent", None);
        }
        None => judge.skip("user", "none travels along"),
    }
    Ok(())
}
