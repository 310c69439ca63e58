//! Which limits count at which moment.

use std::sync::Arc;

use http::request::Parts;
use smallvec::SmallVec;
use testudo_model::{Hop, Reason};

use super::judge::Judge;
use crate::authn::User;
use crate::limit::{self, LimitKey, LimitRule, Subject};
use crate::live::Live;
use crate::now::Now;
use crate::peer::{Caller, Peer};
use crate::record::{Denial, LimitState};

/// What each limit that counted came to.
pub(super) type States = SmallVec<[LimitState; 4]>;

/// Before or after the user is known and permitted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Early,
    Late,
}

/// What both stages count.
pub(super) struct Counted<'a> {
    pub(super) rules: &'a [Arc<LimitRule>],
    pub(super) service: &'a str,
    pub(super) operation: Option<&'a str>,
    pub(super) peer: &'a Peer,
    pub(super) caller: Option<&'a Caller>,
    pub(super) hop: Hop,
    pub(super) now: Now,
}

/// Counts the request under every limit of this stage that covers it; the first that is used up fails.
pub(super) fn count(
    stage: Stage,
    counted: &Counted<'_>,
    live: &Live,
    head: &Parts,
    user: Option<&Arc<User>>,
    states: &mut States,
    judge: &mut Judge<'_>,
) -> Result<(), Denial> {
    let subject = Subject {
        service: counted.service,
        operation: counted.operation,
        method: &head.method,
        path: head.uri.path(),
        headers: &head.headers,
        // The client's where it is known; else the connection's.
        address: judge
            .record()
            .source_ip
            .unwrap_or_else(|| counted.peer.address()),
        caller: counted.caller,
        user,
    };
    for rule in counted.rules {
        if stage_of(&rule.per, counted.hop) != stage || !rule.matches.covers(&subject) {
            continue;
        }
        match live
            .limiter
            .count(rule, &rule.per.value(&subject), counted.now)
        {
            Ok(state) => {
                let used = u64::from(state.burst).saturating_sub(state.remaining);
                judge.pass(
                    "limit",
                    format!("{used} of {}", state.burst),
                    Some(&rule.source),
                );
                states.push(state);
            }
            Err(state) => {
                let detail = format!("{} is used up", rule.name);
                let mut denial = Denial::new(Reason::LimitExceeded, detail)
                    .with_policy(Some(rule.source.clone()));
                limit::retry_after_header(&state, &mut denial.headers);
                states.push(state);
                limit::state_headers(states, &mut denial.headers);
                judge.fail("limit", denial)?;
            }
        }
    }
    Ok(())
}

/// Limits by identity are late everywhere; those by address too inside the mesh, where only the
/// transaction token knows the client's address.
fn stage_of(per: &LimitKey, hop: Hop) -> Stage {
    if per.is_identity() || (hop == Hop::Mesh && *per == LimitKey::Address) {
        Stage::Late
    } else {
        Stage::Early
    }
}
