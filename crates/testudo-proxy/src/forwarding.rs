//! What we add to a permitted request: who asks, in whose name, how it is called, which way it came. All
//! of it was stripped from what clients sent (see `testudo_guard::normalize`), so that what arrives is ours.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use testudo_guard::authn::{TxnError, TxnRequest, User};
use testudo_guard::pipeline::Target;
use testudo_guard::{Denial, Peer, Permit, Snapshot};
use testudo_model::Reason;

use crate::core::Side;
use crate::exchange::Exchange;

const USER: HeaderName = HeaderName::from_static("x-testudo-user");
const ROLES: HeaderName = HeaderName::from_static("x-testudo-roles");
const CALLER: HeaderName = HeaderName::from_static("x-testudo-caller");
const TXN_TOKEN: HeaderName = HeaderName::from_static("txn-token");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Completes the head of a permitted request.
///
/// # Errors
/// `authn.unavailable` where no transaction token can be made, `authn.expired` where the user's credential
/// ended meanwhile.
pub(crate) fn prepare(
    snapshot: &Snapshot,
    permit: &Permit,
    exchange: &mut Exchange,
    head: &mut Parts,
) -> Result<(), Denial> {
    let target = permit.target();
    exchange.observation.ids.write(&mut head.headers);
    match exchange.connection.side {
        Side::Edge => {
            came_from(exchange, &mut head.headers);
            if target.service.plain {
                // No sidecar will turn a token into these.
                identify(target, exchange, &mut head.headers);
            } else if snapshot.users.is_some() {
                mint(snapshot, target, exchange, &mut head.headers)?;
            }
        }
        Side::Inbound => {
            identify(target, exchange, &mut head.headers);
        }
        Side::Outbound => {}
    }
    Ok(())
}

/// `X-Forwarded-*`, from what the gateway itself saw.
fn came_from(exchange: &Exchange, headers: &mut HeaderMap) {
    let peer = &exchange.connection.peer;
    let socket = peer.address().to_canonical();
    let client = exchange.observation.record.source_ip.unwrap_or(socket);
    let chain = if client == socket {
        client.to_string()
    } else {
        format!("{client}, {socket}")
    };
    insert(headers, FORWARDED_FOR, chain.as_bytes());
    let tls = matches!(peer, Peer::Client { tls: true, .. });
    let proto = if tls { "https" } else { "http" };
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Says to the application who asks and in whose name.
fn identify(target: &Target, exchange: &Exchange, headers: &mut HeaderMap) {
    if let Some(user) = &target.user {
        insert(headers, USER, user.id.as_bytes());
        let mut roles = String::new();
        // A comma in a role's name would make two roles of it.
        for role in user.roles.iter().filter(|role| !role.contains(',')) {
            let separator = if roles.is_empty() { "" } else { "," };
            // Writing to a String cannot fail.
            let _ = write!(roles, "{separator}{role}");
        }
        insert(headers, ROLES, roles.as_bytes());
    }
    if let Some(caller) = &exchange.observation.record.caller {
        insert(headers, CALLER, caller.as_bytes());
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    match HeaderValue::from_bytes(value) {
        Ok(value) => {
            headers.insert(name, value);
        }
        // Rather no word than one that could be read differently.
        Err(_) => {
            headers.remove(name);
        }
    }
}

/// Makes the transaction token that carries the user through the mesh (DESIGN §5).
fn mint(
    snapshot: &Snapshot,
    target: &Target,
    exchange: &mut Exchange,
    headers: &mut HeaderMap,
) -> Result<(), Denial> {
    let operation: Arc<str> = match (&target.operation, &target.user) {
        (Some(operation), _) => operation.id.clone(),
        // A probe: nobody is asked for.
        (None, None) => return Ok(()),
        (None, Some(_)) => format!("{}:undocumented", target.service.name).into(),
    };
    let core = &exchange.core;
    let Some(signer) = core.shared.installed.txn_signer.load_full() else {
        return Err(Denial::new(
            Reason::AuthnUnavailable,
            "this gateway has no transaction-token key yet",
        ));
    };
    let user = target.user.clone().unwrap_or_else(User::anonymous);
    let name = core.shared.name();
    let request = TxnRequest {
        user: &user,
        operation: &operation,
        source_ip: Some(source(exchange)),
        gateway: &name,
        trust_domain: &snapshot.trust_domain,
    };
    let now = exchange.observation.started;
    let token = core
        .local
        .borrow_mut()
        .minter
        .token(&signer, &request, snapshot.revision, now)
        .map_err(|error| {
            let reason = match error {
                TxnError::Expired => Reason::AuthnExpired,
                TxnError::TooLarge => Reason::AuthnInvalid,
                TxnError::BadKey | TxnError::Sign => Reason::AuthnUnavailable,
            };
            Denial::new(reason, error.to_string())
        })?;
    insert(headers, TXN_TOKEN, token.as_bytes());
    Ok(())
}

fn source(exchange: &Exchange) -> IpAddr {
    let socket = exchange.connection.peer.address().to_canonical();
    exchange.observation.record.source_ip.unwrap_or(socket)
}
