//! What was seen of calls: who called what, how often, how it ended, and what that says about whose objects they
//! were. Fed with events and bounded in every direction; names neither a credential nor an object.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use testudo_model::{Event, Reason, Verdict};

/// Different calls that are kept; beyond that new ones are counted and not kept.
pub const MAX_CALLS: usize = 20_000;
/// Different sets of roles that are kept for one caller and operation.
const MAX_IDENTITIES: usize = 64;
/// Users and values that are told apart; there are "more than" so many beyond that.
const MAX_DISTINCT: usize = 32;
/// Names that are kept as examples.
const MAX_NAMES: usize = 3;
/// Longest key in bytes: names of services and operations are bounded, roles come from identity providers.
const MAX_KEY_BYTES: usize = 1024;

/// Whose request it was, as far as policies tell users apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// No user travelled along.
    None,
    /// A user without a credential.
    Anonymous,
    /// A user with these roles, sorted; there may be none.
    Roles(Vec<String>),
}

/// Who called what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CallKey {
    /// The called service.
    pub service: String,
    /// `SERVICE:OPERATION`.
    pub operation: String,
    /// The calling service or `gateway`; `None` at the edge.
    pub caller: Option<String>,
    /// For whom.
    pub identity: Identity,
}

/// How requests of one kind ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Let through.
    pub permitted: u64,
    /// Stopped, since no policy permits it or one forbids it.
    pub denied: u64,
    /// The same, but let through in report mode.
    pub reported: u64,
    /// Something else spoke against it: a bad credential, a malformed body, a limit.
    #[serde(default)]
    pub unfit: u64,
}

/// One kind of call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// How they ended.
    #[serde(flatten)]
    pub counts: Counts,
    /// The first one.
    pub first: Timestamp,
    /// The newest one.
    pub last: Timestamp,
    /// Why some were denied.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denied_for: BTreeMap<Reason, u64>,
    /// Why some would have been.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reported_for: BTreeMap<Reason, u64>,
    /// Requests that were let through and looked at. Under load not all are.
    #[serde(default)]
    pub looked_at: u64,
    /// Those of them that the application itself refused (401, 403).
    #[serde(default)]
    pub refused: u64,
    /// The users that came, except for denied requests.
    #[serde(default)]
    pub users: Distinct,
    /// The users whose requests were denied.
    #[serde(default)]
    pub stopped: Distinct,
    /// Whose objects the path named, by parameter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub objects: BTreeMap<String, Objects>,
    /// Since [`Calls::take_changed`].
    #[serde(skip)]
    changed: bool,
}

/// How a path parameter went with the user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Objects {
    /// It was the user's own id.
    pub own: u64,
    /// It was something else.
    pub other: u64,
    /// How many different values there were.
    pub values: Distinct,
    /// Users for whom it was something else.
    pub others: Distinct,
}

/// How many different ones there were, up to a bound, and a few of their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distinct {
    hashes: Vec<u64>,
    /// The first few; none where names are not to be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl Distinct {
    fn add(&mut self, text: &str, named: bool) {
        let bytes = *blake3::hash(text.as_bytes()).as_bytes();
        let hash = bytes
            .iter()
            .take(8)
            .fold(0_u64, |hash, byte| (hash << 8) | u64::from(*byte));
        if self.hashes.contains(&hash) || self.hashes.len() > MAX_DISTINCT {
            return;
        }
        self.hashes.push(hash);
        if named && self.names.len() < MAX_NAMES {
            self.names.push(text.chars().take(100).collect());
        }
    }

    /// Both together.
    pub fn merge(&mut self, other: &Distinct) {
        for hash in &other.hashes {
            if !self.hashes.contains(hash) && self.hashes.len() <= MAX_DISTINCT {
                self.hashes.push(*hash);
            }
        }
        for name in &other.names {
            if !self.names.contains(name) && self.names.len() < MAX_NAMES {
                self.names.push(name.clone());
            }
        }
    }

    /// How many; where [`Distinct::is_more`], at least so many.
    pub fn count(&self) -> usize {
        self.hashes.len().min(MAX_DISTINCT)
    }

    /// Whether there were more than can be told apart.
    pub fn is_more(&self) -> bool {
        self.hashes.len() > MAX_DISTINCT
    }

    /// `3`, or `more than 32`.
    pub fn describe(&self) -> String {
        if self.is_more() {
            format!("more than {MAX_DISTINCT}")
        } else {
            self.count().to_string()
        }
    }
}

impl Counts {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.permitted
            .saturating_add(self.denied)
            .saturating_add(self.reported)
            .saturating_add(self.unfit)
    }

    /// Adds the other's.
    pub const fn add(&mut self, other: Counts) {
        self.permitted = self.permitted.saturating_add(other.permitted);
        self.denied = self.denied.saturating_add(other.denied);
        self.reported = self.reported.saturating_add(other.reported);
        self.unfit = self.unfit.saturating_add(other.unfit);
    }
}

impl Call {
    /// Nothing seen yet, but when.
    pub fn new(at: Timestamp) -> Call {
        Call {
            counts: Counts::default(),
            first: at,
            last: at,
            denied_for: BTreeMap::new(),
            reported_for: BTreeMap::new(),
            looked_at: 0,
            refused: 0,
            users: Distinct::default(),
            stopped: Distinct::default(),
            objects: BTreeMap::new(),
            changed: true,
        }
    }

    /// Both together.
    pub fn merge(&mut self, other: &Call) {
        self.counts.add(other.counts);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        for (reason, count) in &other.denied_for {
            *self.denied_for.entry(*reason).or_default() += count;
        }
        for (reason, count) in &other.reported_for {
            *self.reported_for.entry(*reason).or_default() += count;
        }
        self.looked_at = self.looked_at.saturating_add(other.looked_at);
        self.refused = self.refused.saturating_add(other.refused);
        self.users.merge(&other.users);
        self.stopped.merge(&other.stopped);
        for (name, objects) in &other.objects {
            let known = self.objects.entry(name.clone()).or_default();
            known.own += objects.own;
            known.other += objects.other;
            known.values.merge(&objects.values);
            known.others.merge(&objects.others);
        }
    }

    fn count(&mut self, event: &Event) {
        match (event.verdict, event.reason) {
            (Verdict::Permit, None) => self.counts.permitted += 1,
            (_, Some(reason)) if !is_about_policy(reason) => self.counts.unfit += 1,
            (Verdict::Deny, _) => self.counts.denied += 1,
            (Verdict::Permit, Some(_)) => self.counts.reported += 1,
        }
    }

    /// What an event says besides that it happened.
    fn look_at(&mut self, event: &Event, template: Option<&str>) {
        let reasons = match event.verdict {
            Verdict::Deny => &mut self.denied_for,
            Verdict::Permit => &mut self.reported_for,
        };
        if let Some(reason) = event.reason {
            *reasons.entry(reason).or_default() += 1;
        }
        if event.verdict == Verdict::Deny {
            if let Some(user) = &event.user {
                self.stopped.add(user, true);
            }
            return;
        }
        if event.reason.is_some_and(|reason| !is_about_policy(reason)) {
            return;
        }
        self.looked_at += 1;
        let Some(user) = event.user.as_deref() else {
            self.refused += u64::from(is_refusal(event));
            return;
        };
        self.users.add(user, true);
        if is_refusal(event) {
            // Not the user's to have: it says nothing about whose objects are asked for.
            self.refused += 1;
            return;
        }
        let Some((_, id)) = user.split_once(':') else {
            return;
        };
        for (name, value) in template
            .into_iter()
            .flat_map(|template| parameters(template, &event.path))
        {
            let objects = self.objects.entry(name.to_owned()).or_default();
            objects.values.add(&value, false);
            if value == id {
                objects.own += 1;
            } else {
                objects.other += 1;
                objects.others.add(user, true);
            }
        }
    }
}

/// Whether it is for want of a policy, or by one, that a request was denied.
pub const fn is_about_policy(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AuthzUser | Reason::AuthzCaller | Reason::AuthzError | Reason::AuthnMissing
    )
}

/// Whether the application itself refused: not a proxy further inside, whose answer it passed on.
fn is_refusal(event: &Event) -> bool {
    event.inside.is_none() && matches!(event.status, Some(401 | 403))
}

/// The path parameters that are whole segments. A gateway may have cut off what stands before the template, and
/// may not have: the segments are counted from the end.
fn parameters<'a>(template: &'a str, path: &'a str) -> Vec<(&'a str, Cow<'a, str>)> {
    let template: Vec<&str> = template.trim_matches('/').split('/').collect();
    let path: Vec<&str> = path.trim_matches('/').split('/').collect();
    let Some(skipped) = path.len().checked_sub(template.len()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (expected, segment) in template.iter().zip(path.iter().skip(skipped)) {
        match expected
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            Some(name) if !name.contains('{') => {
                let value = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
                found.push((name, value));
            }
            _ if expected.contains('{') || expected == segment => {}
            // Another path: nothing can be said.
            _ => return Vec::new(),
        }
    }
    found
}

/// All calls that were seen.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    calls: HashMap<CallKey, Call>,
    identities: HashMap<(String, Option<String>), usize>,
    not_kept: u64,
}

impl Calls {
    /// Who called what in this event; `None` where that is not known.
    pub fn key_of(event: &Event) -> Option<CallKey> {
        let identity = match event.user.as_deref() {
            None => Identity::None,
            Some("anonymous") => Identity::Anonymous,
            Some(_) => {
                let mut roles = event.roles.clone();
                roles.sort();
                roles.dedup();
                Identity::Roles(roles)
            }
        };
        Some(CallKey {
            service: event.service.clone()?,
            operation: event.operation.clone()?,
            caller: event.caller.clone(),
            identity,
        })
    }

    /// Counts a request and looks at it. `template`: the path template of its operation; `at`: when it counts as
    /// seen.
    pub fn add(&mut self, event: &Event, template: Option<&str>, at: Timestamp) {
        if let Some(call) = Calls::key_of(event).and_then(|key| self.entry(key, at)) {
            call.count(event);
            call.look_at(event, template);
        }
    }

    /// Looks at a request that is counted otherwise.
    pub fn look_at(&mut self, event: &Event, template: Option<&str>, at: Timestamp) {
        if let Some(call) = Calls::key_of(event).and_then(|key| self.entry(key, at)) {
            call.look_at(event, template);
        }
    }

    /// Counts requests that nothing else is known of.
    pub fn count(&mut self, key: CallKey, counts: Counts, first: Timestamp, last: Timestamp) {
        if let Some(call) = self.entry(key, first) {
            call.counts.add(counts);
            call.last = call.last.max(last);
        } else {
            self.not_kept = self
                .not_kept
                .saturating_add(counts.total().saturating_sub(1));
        }
    }

    /// Takes in what was kept elsewhere.
    pub fn merge(&mut self, key: CallKey, call: &Call) {
        if let Some(known) = self.entry(key, call.first) {
            known.merge(call);
        }
    }

    /// The call with this key, where there is room for it; it counts as seen at `at`.
    fn entry(&mut self, key: CallKey, at: Timestamp) -> Option<&mut Call> {
        if !self.calls.contains_key(&key) {
            let group = (key.operation.clone(), key.caller.clone());
            let alike = self.identities.entry(group).or_default();
            let full = self.calls.len() >= MAX_CALLS || *alike >= MAX_IDENTITIES;
            if full || key.bytes() > MAX_KEY_BYTES {
                self.not_kept = self.not_kept.saturating_add(1);
                return None;
            }
            *alike += 1;
        }
        let call = self.calls.entry(key).or_insert_with(|| Call::new(at));
        call.first = call.first.min(at);
        call.last = call.last.max(at);
        call.changed = true;
        Some(call)
    }

    /// The calls that changed since this was asked last, for whoever keeps them.
    pub fn take_changed(&mut self) -> Vec<(CallKey, Call)> {
        let changed = self.calls.iter_mut().filter(|(_, call)| call.changed);
        changed
            .map(|(key, call)| {
                call.changed = false;
                (key.clone(), call.clone())
            })
            .collect()
    }

    /// What users did, each request once: the sidecar behind a route sees again what the edge has seen.
    pub fn of_users(&self) -> impl Iterator<Item = (&CallKey, &Call)> {
        let edge: HashSet<(&str, &Identity)> = self
            .calls
            .keys()
            .filter(|key| key.caller.is_none())
            .map(|key| (key.operation.as_str(), &key.identity))
            .collect();
        self.calls.iter().filter(move |(key, _)| {
            let seen_before = edge.contains(&(key.operation.as_str(), &key.identity));
            key.caller.as_deref() != Some("gateway") || !seen_before
        })
    }

    /// The same without the names of users.
    #[must_use]
    pub fn without_names(mut self) -> Calls {
        for call in self.calls.values_mut() {
            let others = call.objects.values_mut().map(|objects| &mut objects.others);
            for users in [&mut call.users, &mut call.stopped]
                .into_iter()
                .chain(others)
            {
                users.names.clear();
            }
        }
        self
    }

    /// Forgets calls that were not seen since `time`; returns their keys.
    pub fn forget_before(&mut self, time: Timestamp) -> Vec<CallKey> {
        let old: Vec<CallKey> = self
            .calls
            .iter()
            .filter(|(_, call)| call.last < time)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &old {
            self.calls.remove(key);
            let group = (key.operation.clone(), key.caller.clone());
            if let Some(alike) = self.identities.get_mut(&group) {
                *alike = alike.saturating_sub(1);
                if *alike == 0 {
                    self.identities.remove(&group);
                }
            }
        }
        old
    }

    /// What is known of one call.
    pub fn get(&self, key: &CallKey) -> Option<&Call> {
        self.calls.get(key)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&CallKey, &Call)> {
        self.calls.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Requests of calls that found no room.
    pub const fn not_kept(&self) -> u64 {
        self.not_kept
    }
}

impl CallKey {
    fn bytes(&self) -> usize {
        let roles = match &self.identity {
            Identity::Roles(roles) => roles.iter().map(String::len).sum(),
            Identity::None | Identity::Anonymous => 0,
        };
        let caller = self.caller.as_ref().map_or(0, String::len);
        self.service.len() + self.operation.len() + caller + roles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_from_whole_segments() {
        let read = |template, path| -> Vec<(&str, String)> {
            let found = parameters(template, path);
            found
                .into_iter()
                .map(|(name, value)| (name, value.into_owned()))
                .collect()
        };
        let of = |name, value: &str| vec![(name, value.to_owned())];
        assert_eq!(read("/orders/{id}", "/orders/7"), of("id", "7"));
        assert_eq!(read("/orders/{id}", "/shop/orders/7"), of("id", "7"));
        assert_eq!(read("/users/{id}/x", "/users/a%40b/x"), of("id", "a@b"));
        assert!(read("/orders/{id}", "/carts/7").is_empty());
        assert!(read("/orders/{id}.json", "/orders/7.json").is_empty());
        assert!(read("/orders/{id}", "/").is_empty());
        assert!(read("*", "/anything").is_empty());
    }

    #[test]
    fn distinct_is_bounded() {
        let mut distinct = Distinct::default();
        for number in 0..1_000 {
            distinct.add(&number.to_string(), true);
            distinct.add("0", true);
        }
        assert_eq!((distinct.count(), distinct.is_more()), (MAX_DISTINCT, true));
        assert_eq!(distinct.names, ["0", "1", "2"]);
        assert_eq!(distinct.describe(), "more than 32");
    }

    #[test]
    fn calls_are_bounded_and_age_out() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key = |operation: usize, role: usize| CallKey {
            service: "s".into(),
            operation: format!("s:{operation}"),
            caller: None,
            identity: Identity::Roles(vec![role.to_string()]),
        };
        let one = Counts {
            permitted: 1,
            ..Counts::default()
        };
        let mut calls = Calls::default();
        for role in 0..MAX_IDENTITIES + 10 {
            calls.count(key(0, role), one, at(1), at(1));
        }
        assert_eq!((calls.len(), calls.not_kept()), (MAX_IDENTITIES, 10));
        for operation in 1..MAX_CALLS + 100 {
            calls.count(key(operation, 0), one, at(5), at(5));
        }
        assert_eq!(calls.len(), MAX_CALLS);
        assert_eq!(calls.forget_before(at(3)).len(), MAX_IDENTITIES);
        calls.count(key(0, 999), one, at(6), at(6));
        assert!(calls.get(&key(0, 999)).is_some());
        let long = CallKey {
            identity: Identity::Roles(vec!["x".repeat(2_000)]),
            ..key(0, 0)
        };
        calls.count(long.clone(), one, at(6), at(6));
        assert!(calls.get(&long).is_none());
    }
}
