//! What speaks for a call and against it: how it ended, who made it, whose objects it asked for.

use std::collections::BTreeSet;

use testudo_guard::schema::{Location, ValueKind};

use super::Principal;
use super::observed::{Call, Distinct, is_about_policy};
use super::render::{own_condition, plain};
use crate::api::OperationModel;

/// From so many requests of so many users on, a parameter that always is the user's own id has to be.
const SURE_REQUESTS: u64 = 5;
const SURE_USERS: usize = 2;

/// Path parameters that were the user's own id in enough requests of enough users, and never anything else.
pub(super) fn own_parameters(
    principal: &Principal,
    operation: &OperationModel,
    call: &Call,
) -> Vec<String> {
    if !matches!(principal, Principal::Role(_) | Principal::Users) {
        return Vec::new();
    }
    let sure = |name: &str| {
        call.objects.get(name).is_some_and(|objects| {
            objects.other == 0 && objects.own >= SURE_REQUESTS && call.users.count() >= SURE_USERS
        })
    };
    path_parameters(operation)
        .filter(|name| sure(name))
        .map(str::to_owned)
        .collect()
}

/// Those that policies can compare with a user's id.
fn path_parameters(operation: &OperationModel) -> impl Iterator<Item = &str> {
    operation
        .params
        .iter()
        .filter(|param| param.location == Location::Path && param.kind == Some(ValueKind::String))
        .map(|param| &*param.name)
}

/// What is to be known of an operation before it is permitted.
pub(super) fn notes(principal: &Principal, operation: &OperationModel, call: &Call) -> Vec<String> {
    let mut notes = Vec::new();
    let is_user = matches!(principal, Principal::Role(_) | Principal::Users);
    if is_user {
        notes.extend(describe(&call.users));
        notes.extend(objects(principal, operation, call));
    }
    if call.refused > 0 {
        notes.push(format!("the application itself refused {}", call.refused));
    }
    if call.counts.denied > 0 {
        notes.push(format!("{} denied", call.counts.denied));
    }
    if learnable(call) < 3 {
        notes.push("seen so rarely: is it meant?".to_owned());
    }
    notes
}

/// Whose objects were asked for.
fn objects(principal: &Principal, operation: &OperationModel, call: &Call) -> Vec<String> {
    let own = own_parameters(principal, operation, call);
    let always = |name: &String| format!("{} was always the user's own id", plain(name));
    let mut notes: Vec<String> = own.iter().map(always).collect();
    let mut tied = !own.is_empty();
    for name in path_parameters(operation).filter(|name| !own.iter().any(|own| own == name)) {
        let Some(objects) = call.objects.get(name) else {
            continue;
        };
        let condition = own_condition(name);
        let name = plain(name);
        if objects.own > 0 && objects.other == 0 {
            tied = true;
            notes.push(format!(
                "{name} was always the user's own id, in too few requests to be sure: when {{ {condition} }}?"
            ));
        } else if objects.own > objects.other {
            tied = true;
            notes.push(format!(
                "{name} was the user's own id {}, and another {} ({}): when {{ {condition} }}?",
                times(objects.own),
                times(objects.other),
                names(&objects.others),
            ));
        }
    }
    if tied {
        return notes;
    }
    // Nothing ties the objects to the user: everyone whom this permits may ask for every one of them.
    for (name, objects) in &call.objects {
        if objects.values.count() > call.users.count() {
            notes.push(format!(
                "whose {} it is, is not asked: {} different ones by {}",
                plain(name),
                objects.values.describe(),
                match call.users.describe().as_str() {
                    "1" => "one user".to_owned(),
                    users => format!("{users} users"),
                }
            ));
        }
    }
    notes
}

/// Requests that were let through, or that a policy alone would have stopped.
///
/// What was looked at was let through, even where it is not counted (yet).
pub(super) fn learnable(call: &Call) -> u64 {
    let counted = call.counts.permitted.saturating_add(call.counts.reported);
    counted.max(call.looked_at)
}

/// How calls ended of which nothing can be learned.
pub(super) fn ended(call: &Call) -> String {
    let list = |about_policy: bool| {
        let reasons = call.denied_for.keys().chain(call.reported_for.keys());
        let reasons = reasons.filter(|reason| is_about_policy(**reason) == about_policy);
        let codes: BTreeSet<&str> = reasons.map(|reason| reason.code()).collect();
        match codes.is_empty() {
            true => String::new(),
            false => format!(" ({})", Vec::from_iter(codes).join(", ")),
        }
    };
    let mut parts = Vec::new();
    if call.counts.denied > 0 {
        parts.push(format!(
            "denied {}{}",
            times(call.counts.denied),
            list(true)
        ));
    }
    if call.counts.unfit > 0 {
        let count = times(call.counts.unfit);
        parts.push(format!(
            "{count} something else spoke against it{}",
            list(false)
        ));
    }
    parts.join(", ")
}

/// Requests that were denied, or would have been.
pub(super) const fn stopped(call: &Call) -> u64 {
    call.counts.denied.saturating_add(call.counts.reported)
}

/// `12 users`, or the names of a few.
pub(super) fn describe(users: &Distinct) -> Option<String> {
    match users.count() {
        0 => None,
        count if count <= users.names.len() => Some(names(users)),
        1 => Some("one user".to_owned()),
        _ => Some(format!("{} users", users.describe())),
    }
}

/// `shop:bob, shop:eve and 3 more`.
fn names(users: &Distinct) -> String {
    let shown: Vec<String> = users.names.iter().map(|name| plain(name)).collect();
    match users.count().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        _ if shown.is_empty() => format!("by {} of its users", users.describe()),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `once`, `12 times`.
pub(super) fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}
