//! Who the user is: from a credential at the edge, from the transaction token in the mesh (DESIGN §5).

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header, request::Parts};
use testudo_model::{Hop, Reason};

use super::judge::Judge;
use crate::authn::{Authenticators, Authn, Fingerprints, User};
use crate::live::{Live, Local};
use crate::now::Now;
use crate::record::Denial;
use crate::snapshot::{Service, Snapshot, UserRule};

/// The header of transaction tokens (draft-ietf-oauth-transaction-tokens §5).
pub(crate) const TXN_TOKEN: HeaderName = HeaderName::from_static("txn-token");
/// The header of API keys.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The user that travels along. At the edge that is the anonymous one where no credential came; in the
/// mesh there may be none. A bad credential is never taken for none, but in mode report.
pub(super) fn authenticate(
    snapshot: &Snapshot,
    live: &Live,
    local: &mut Local,
    service: &Service,
    head: &mut Parts,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<Option<Arc<User>>, Denial> {
    let Some(users) = &snapshot.users else {
        // Nobody mints these, so nobody may bring one.
        head.headers.remove(TXN_TOKEN);
        judge.skip("authn", "the bundle has no users");
        return Ok(None);
    };
    if service.user == UserRule::Ignore {
        // Others may care: a token travels through, if it is one.
        if snapshot.hop() == Hop::Mesh
            && let Authn::Failed { .. } = verify_token(snapshot, live, local, head, now)
        {
            head.headers.remove(TXN_TOKEN);
        }
        judge.skip("authn", "the service ignores users");
        return Ok(None);
    }
    let user = match snapshot.hop() {
        Hop::Edge => Some(at_the_edge(users, live, local, head, judge, now)?),
        Hop::Mesh => in_the_mesh(snapshot, live, local, head, judge, now)?,
    };
    if let Some(user) = &user {
        let record = judge.record();
        record.user = Some(user.id.clone());
        record.roles = Some(user.roles.clone());
        if user.source_ip.is_some() {
            record.source_ip = user.source_ip;
        }
    }
    Ok(user)
}

fn at_the_edge(
    users: &Authenticators,
    live: &Live,
    local: &mut Local,
    head: &Parts,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<Arc<User>, Denial> {
    let authn = users.authenticate(
        &live.keys.load(),
        &live.revocations.load(),
        &mut local.tokens,
        &head.headers,
        now,
    );
    match authn {
        Authn::User(user) => {
            judge.record().credential = Some(Fingerprints::right(&user));
            judge.pass("authn", proof(&user, now), None);
            Ok(user)
        }
        Authn::Missing => {
            judge.pass("authn", "no credential: anonymous", None);
            Ok(User::anonymous())
        }
        Authn::Failed { reason, detail } => {
            // Without keys it is neither right nor wrong.
            if reason != Reason::AuthnUnavailable {
                judge.record().credential = live.fingerprints.wrong(&head.headers);
            }
            judge.fail("authn", unauthenticated(reason, detail))?;
            Ok(User::anonymous())
        }
    }
}

/// By what the user is known, for `why`: `shop, key 2026-11, 9 min left`.
fn proof(user: &User, now: Now) -> String {
    let (issuer, key) = (&user.issuer, &user.key);
    match user.expires.map(|at| at.saturating_sub(now.unix_seconds())) {
        Some(left @ 0..120) => format!("{issuer}, key {key}, {left} s left"),
        Some(left) => format!("{issuer}, key {key}, {} min left", left / 60),
        None => format!("{issuer}, key {key}"),
    }
}

fn in_the_mesh(
    snapshot: &Snapshot,
    live: &Live,
    local: &mut Local,
    head: &mut Parts,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<Option<Arc<User>>, Denial> {
    match verify_token(snapshot, live, local, head, now) {
        Authn::User(user) => {
            judge.pass("authn", "by Txn-Token", None);
            Ok(Some(user))
        }
        Authn::Missing => {
            judge.skip("authn", "no transaction token came along");
            Ok(None)
        }
        Authn::Failed { reason, detail } => {
            judge.fail("authn", unauthenticated(reason, detail))?;
            // Let pass by the mode, but what was not verified goes no further.
            head.headers.remove(TXN_TOKEN);
            Ok(None)
        }
    }
}

/// Verifies the transaction token of a request and writes it into the book: outbound passes only what
/// came in here (DESIGN §5).
fn verify_token(
    snapshot: &Snapshot,
    live: &Live,
    local: &mut Local,
    head: &Parts,
    now: Now,
) -> Authn {
    let Some(token) = head.headers.get(TXN_TOKEN) else {
        return Authn::Missing;
    };
    let Ok(token) = token.to_str() else {
        return Authn::Failed {
            reason: Reason::AuthnInvalid,
            detail: String::from("the transaction token is not text"),
        };
    };
    let authn = live.txn_keys.load().verify(
        token,
        &snapshot.trust_domain,
        &live.revocations.load(),
        &mut local.tokens,
        now,
    );
    if let Authn::User(user) = &authn
        && let Some(expires) = user.expires
    {
        let trace_id = trace_id(head).unwrap_or_default();
        live.token_book.saw(trace_id, token, expires, now);
    }
    authn
}

/// The trace id of `traceparent` (W3C Trace Context §3.2): 32 hex digits.
pub(crate) fn trace_id(head: &Parts) -> Option<&str> {
    let value = head.headers.get("traceparent")?.to_str().ok()?;
    let id = value.get(3..35)?;
    id.bytes()
        .all(|byte| byte.is_ascii_hexdigit())
        .then_some(id)
}

/// A denial of authentication, with the challenge that belongs to a 401 (RFC 6750 §3).
pub(super) fn unauthenticated(
    reason: Reason,
    detail: impl Into<std::borrow::Cow<'static, str>>,
) -> Denial {
    let mut denial = Denial::new(reason, detail);
    let challenge = if reason == Reason::AuthnMissing {
        r#"Bearer realm="api""#
    } else {
        r#"Bearer realm="api", error="invalid_token""#
    };
    if reason.status() == http::StatusCode::UNAUTHORIZED {
        denial.headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static(challenge),
        );
    }
    denial
}

/// Takes the original credential off at the edge, unless the bundle forwards it. A service that ignores
/// users gets it as it came: it may be a login.
pub(super) fn strip_credential(snapshot: &Snapshot, service: &Service, head: &mut Parts) {
    let Some(users) = &snapshot.users else {
        return;
    };
    if snapshot.hop() == Hop::Edge
        && service.user != UserRule::Ignore
        && !users.forwards_credential()
    {
        head.headers.remove(header::AUTHORIZATION);
        head.headers.remove(API_KEY);
    }
}
