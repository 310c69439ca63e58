//! Whether who asks is contained here. Only who was verified is looked at: a user by credential or
//! transaction token, a calling service by mTLS; anonymous users and gateways never are.

use std::sync::Arc;

use http::header;
use testudo_model::Reason;

use super::judge::Judge;
use crate::authn::User;
use crate::containment::{ContainedAction, ContainedKind, Entry};
use crate::live::Live;
use crate::now::Now;
use crate::peer::Caller;
use crate::record::Denial;

/// Where a request goes.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) service: &'a str,
    /// Unknown at outbound, where only containments of whole services can hold.
    pub(crate) operation: Option<&'a str>,
    /// Inside, most requests were counted by an earlier hop, and come closer together than there.
    pub(crate) counted_before: bool,
}

/// The user, as soon as the credential is verified: nothing more is done for a contained one.
pub(super) fn check_user(
    live: &Live,
    user: Option<&Arc<User>>,
    place: Place<'_>,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<(), Denial> {
    match user {
        Some(user) if !user.is_anonymous() => {
            check(live, ContainedKind::User, &user.id, place, judge, now)
        }
        Some(_) | None => Ok(()),
    }
}

/// The calling service, as soon as the operation is known.
pub(super) fn check_caller(
    live: &Live,
    caller: Option<&Caller>,
    place: Place<'_>,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<(), Denial> {
    match caller {
        Some(Caller::Service(name)) => check(live, ContainedKind::Service, name, place, judge, now),
        Some(Caller::Gateway | Caller::Unknown) | None => Ok(()),
    }
}

/// As every check: denies in mode enforce, and is written down otherwise.
pub(crate) fn check(
    live: &Live,
    kind: ContainedKind,
    principal: &str,
    place: Place<'_>,
    judge: &mut Judge<'_>,
    now: Now,
) -> Result<(), Denial> {
    let Some(containments) = live.containments.get() else {
        return Ok(());
    };
    let found = containments.find(kind, principal, place.service, place.operation, now);
    for entry in found {
        let slack = u32::from(place.counted_before);
        match entry.pass(live.limiter.fleet(), slack, now) {
            Ok(()) => judge.pass("contained", said(entry), None),
            Err(wait) => {
                let mut denial = Denial::new(Reason::Contained, said(entry));
                if let Some(wait) = wait {
                    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                    denial
                        .headers
                        .insert(header::RETRY_AFTER, seconds.max(1).into());
                }
                judge.fail("contained", denial)?;
            }
        }
    }
    Ok(())
}

fn said(entry: &Entry) -> String {
    let containment = &entry.containment;
    let (id, reason) = (&containment.id, &containment.reason);
    match containment.action {
        ContainedAction::Throttle(rate) => format!("{id} (throttled to {rate}/s): {reason}"),
        ContainedAction::Deny => format!("{id}: {reason}"),
    }
}
