//! The whole order of the checks, for one request.
//!
//! [`check_head`] shows it; each stage is a plain call with the reason for its place. What a stage finds
//! wrong goes to [`judge::Judge`], which knows the service's mode: in `enforce` it denies, in `report` it
//! is written down and the request goes on. What cannot be forwarded safely is refused in every mode.

mod arrival;
mod body;
mod containment;
mod identity;
mod judge;
mod limits;
mod question;
mod target;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, StatusCode, request::Parts};
use testudo_model::{Hop, Mode};

use crate::live::{Live, Local};
use crate::normalize;
use crate::now::Now;
use crate::peer::Peer;
use crate::record::{Denial, Record};
use crate::schema::Values;
use crate::snapshot::Snapshot;

use arrival::{Arrival, Called};
use limits::Stage;
use question::Questions;

pub use body::{BodyCheck, BodyPlan, Permit};
pub use target::Target;

pub(crate) use containment::{Place, check as check_contained};
pub(crate) use identity::{TXN_TOKEN, trace_id};
pub(crate) use judge::Judge;

/// What the checks of the head came to.
pub enum HeadOutcome {
    /// Refused.
    Deny(Denial),
    /// Answered at this proxy: a CORS preflight, a redirect.
    Answer {
        /// Status of the answer.
        status: StatusCode,
        /// Its headers.
        headers: HeaderMap,
    },
    /// The body is next.
    Continue(Box<BodyCheck>),
}

/// A request as it came, before anything is believed.
pub struct Incoming<'a> {
    /// Who is at the other end of the connection.
    pub peer: &'a Peer,
    /// Its head; rewritten into the one canonical request that goes upstream.
    pub head: &'a mut Parts,
    /// Whether a body follows: not `Body::is_end_stream` at this moment.
    pub has_body: bool,
}

/// Judges a request's head. `incoming.head` is rewritten into the one canonical request that goes
/// upstream. Everything found out is put into `record`, whatever the outcome.
pub fn check_head(
    snapshot: &Arc<Snapshot>,
    live: &Live,
    local: &mut Local,
    incoming: Incoming<'_>,
    record: &mut Record,
    now: Now,
) -> HeadOutcome {
    // Filled on the way; whatever the answer is, it carries them (CORS, `RateLimit`).
    let mut response_headers = HeaderMap::new();
    let outcome = judge_head(
        snapshot,
        live,
        local,
        incoming,
        &mut Judge::new(record),
        &mut response_headers,
        now,
    );
    match outcome {
        Ok(outcome) => outcome,
        Err(mut denial) => {
            target::add_headers(&response_headers, &mut denial.headers);
            HeadOutcome::Deny(denial)
        }
    }
}

fn judge_head(
    snapshot: &Arc<Snapshot>,
    live: &Live,
    local: &mut Local,
    incoming: Incoming<'_>,
    judge: &mut Judge<'_>,
    response_headers: &mut HeaderMap,
    now: Now,
) -> Result<HeadOutcome, Denial> {
    let Incoming {
        peer,
        head,
        has_body,
    } = incoming;

    // First of all one reading of the request: everything below judges what upstream will get.
    let canonical = normalize::inbound(head, peer, snapshot, judge.record());
    let canonical = judge.must("normalize", canonical)?;
    judge.record().source_ip = canonical.source_ip;

    // Who calls is a fact of the connection and costs nothing; nobody else's requests are looked at.
    let caller = arrival::identify(peer, snapshot, live, judge, now)?;

    // Which service is meant decides mode, limits and policy. The edge answers redirects and CORS
    // preflights itself: browsers send those without credentials.
    let called = match arrival::find_service(snapshot, &canonical, head, judge, response_headers)? {
        Arrival::Called(called) => called,
        Arrival::Answer { status, headers } => return Ok(HeadOutcome::Answer { status, headers }),
    };
    let Called {
        service, timeout, ..
    } = &called;
    judge.set_service(service, live, now);
    let target = Target::new(service, *timeout, &head.method, snapshot.hop());
    let observes = judge.mode() == Mode::Observe;

    // The operation comes before limits and users, since both may differ by it; a probe is none.
    let probe = !has_body && !canonical.websocket && arrival::is_probe(service, head);
    let uri = head.uri.clone();
    let matched = if probe {
        judge.skip("operation", "a probe");
        None
    } else {
        arrival::find_operation(service, &canonical, &head.method, uri.path(), judge)?
    };
    let operation = matched.as_ref().map(|matched| &matched.operation);
    let place = Place {
        service: &service.name,
        operation: operation.map(|operation| &*operation.id),
        counted_before: snapshot.hop() == Hop::Mesh,
    };

    // A contained caller is proven by now, and costs nothing more. There is nothing of the kind for
    // addresses: nobody is contained for what others send from theirs (DESIGN §11).
    containment::check_caller(live, caller.as_ref(), place, judge, now)?;

    // Addresses are limited before any cryptography, so that a flood of bad tokens is cheap.
    let mut states = limits::States::default();
    let counted = limits::Counted {
        rules: &service.limits,
        service: &service.name,
        operation: operation.map(|operation| &*operation.id),
        peer,
        caller: caller.as_ref(),
        hop: snapshot.hop(),
        now,
    };
    if !observes {
        limits::count(Stage::Early, &counted, live, head, None, &mut states, judge)?;
    }

    // The user, from a credential at the edge, from the transaction token inside.
    let user = if probe {
        judge.skip("authn", "a probe");
        None
    } else {
        identity::authenticate(snapshot, live, local, service, head, judge, now)?
    };

    // A contained user is found as soon as it is certain who it is, and never before: a forged
    // credential that names somebody contains nobody.
    containment::check_user(live, user.as_ref(), place, judge, now)?;

    // Values are decoded before authorization, which reads them, but a violation is only reported
    // after it: who may not call an operation learns nothing about its parameters.
    let mut values = Values::default();
    let violation = matched
        .as_ref()
        .filter(|_| !observes)
        .and_then(|matched| matched.decode(head, &mut values).err());

    // Both questions, the user's first; those that read the body wait for it.
    let questions = Questions {
        hop: snapshot.hop(),
        source_ip: judge.record().source_ip,
        user: user.as_ref(),
        caller: caller.as_ref(),
    };
    let deferred = match operation {
        Some(operation) if !observes => {
            let asked = questions.plan(snapshot, service, operation);
            questions.ask(asked, operation, &values, violation.as_ref(), judge, now)?
        }
        Some(_) | None => question::Asked::default(),
    };

    // What the specification says about parameters, content type and upgrades.
    let rule = match &matched {
        Some(matched) if !observes => {
            matched.check_head(&called, &canonical, head, has_body, violation, judge)?
        }
        Some(_) | None => crate::schema::BodyRule::Unchecked,
    };

    // A limit by user counts only what that user was permitted to do, so nobody else can use it up.
    if !observes {
        let user = user.as_ref();
        limits::count(Stage::Late, &counted, live, head, user, &mut states, judge)?;
    }
    crate::limit::state_headers(&states, response_headers);

    // The credential has done its work; the service gets it only if the bundle says so.
    identity::strip_credential(snapshot, service, head);
    let target = target.complete(
        operation.cloned(),
        user.clone(),
        canonical.websocket,
        response_headers,
    );
    target.prepare_request(head);
    let body = BodyCheck::new(target, rule, values, deferred, &questions, judge.mode());
    Ok(HeadOutcome::Continue(Box::new(body)))
}
