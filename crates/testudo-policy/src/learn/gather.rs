//! What of the calls that were seen becomes a permit, and what is left out.
//!
//! Only what was let through counts: denied calls never become permits, and neither do those that the application
//! itself refused, those with a credential that did not hold, or those that came without one unless the people who
//! ask for the policies say that they may.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use testudo_guard::authn::User;
use testudo_guard::authz::{ActionNames, Outcome, group_of_method};
use testudo_guard::schema::{Location, ValueKind};
use testudo_guard::snapshot::UserRule;

use super::evidence::{describe, ended, learnable, notes, own_parameters, stopped, times};
use super::observed::{Call, CallKey, Calls, Distinct, Identity};
use super::render::{own_condition, plain, subject};
use super::{Evidence, LearnOptions, LeftOut, Permit, Principal};
use crate::api::{ApiModel, OperationModel};
use crate::cedar::Compiled;
use crate::config::{Config, Service};

/// What one user alone does is remarkable where a role has so many.
const FEW_OF: usize = 3;

type Apis = BTreeMap<Arc<str>, ApiModel>;

/// What was gathered.
pub(super) struct Gathered {
    pub(super) permits: Vec<Permit>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) permitted_already: usize,
}

pub(super) struct Gatherer<'a> {
    pub(super) config: &'a Config,
    apis: &'a Apis,
    pub(super) policies: &'a Compiled,
    options: &'a LearnOptions,
    /// For whom operations may be called, by what is there or by what is learned.
    pub(super) passing: HashSet<(String, Identity)>,
    gathered: Gathered,
}

/// An operation that is to be permitted to somebody, with its requests.
pub(super) struct Wanted<'a> {
    pub(super) principal: Principal,
    pub(super) service: &'a Service,
    pub(super) operation: &'a OperationModel,
    pub(super) call: Call,
    /// Notes beside those that the requests give.
    pub(super) notes: Vec<String>,
}

pub(super) fn gather(
    config: &Config,
    apis: &Apis,
    policies: &Compiled,
    calls: &Calls,
    options: &LearnOptions,
) -> Gathered {
    let mut gatherer = Gatherer {
        config,
        apis,
        policies,
        options,
        passing: HashSet::new(),
        gathered: Gathered {
            permits: Vec::new(),
            left_out: Vec::new(),
            permitted_already: 0,
        },
    };
    let mut wanted = Vec::new();
    if config.users.is_some() {
        gatherer.users(calls, &mut wanted);
    }
    gatherer.callers(calls, &mut wanted);
    gatherer.permits(wanted);
    let mut gathered = gatherer.gathered;
    gathered
        .left_out
        .sort_by(|one, other| (&one.service, &one.what).cmp(&(&other.service, &other.what)));
    gathered
}

impl<'a> Gatherer<'a> {
    /// What users did, by operation and roles.
    fn users(&mut self, calls: &Calls, wanted: &mut Vec<Wanted<'a>>) {
        // Calls through the gateway and through other services are one question to policies.
        let mut by_operation: BTreeMap<&str, BTreeMap<&Identity, Call>> = BTreeMap::new();
        for (key, call) in calls.of_users().filter(|(key, _)| self.is_asked_for(key)) {
            let identities = by_operation.entry(&key.operation).or_default();
            let known = identities.entry(&key.identity);
            known
                .and_modify(|known| known.merge(call))
                .or_insert_with(|| call.clone());
        }
        let popularity = popularity(calls);
        for (id, identities) in by_operation {
            let Some((service, operation)) = self.find(id) else {
                self.left_out_unknown(
                    id,
                    identities.values().map(|call| call.counts.total()).sum(),
                );
                continue;
            };
            if !matches!(service.user, UserRule::Authorize | UserRule::Optional) {
                continue;
            }
            let mut role_sets = Vec::new();
            for (identity, call) in identities {
                match identity {
                    Identity::None => {}
                    Identity::Anonymous => {
                        if self.anonymous(service, operation, call, wanted) {
                            self.passing.insert((id.to_owned(), identity.clone()));
                        }
                    }
                    Identity::Roles(roles) => {
                        let principal = match roles.as_slice() {
                            [] => Principal::Users,
                            roles => Principal::Role(roles.join(" and ")),
                        };
                        let user = user_with(roles);
                        let outcome =
                            self.outlook(service, operation, |outlook| outlook.user(&user));
                        let passes = outcome.is_possible();
                        let learned =
                            self.is_learnable(service, operation, &principal, &call, outcome);
                        if passes || learned {
                            self.passing.insert((id.to_owned(), identity.clone()));
                        }
                        if learned {
                            role_sets.push((roles, call));
                        }
                    }
                }
            }
            assign(role_sets, &popularity, service, operation, wanted);
        }
    }

    /// Returns whether anonymous users may call the operation now.
    fn anonymous(
        &mut self,
        service: &'a Service,
        operation: &'a OperationModel,
        call: Call,
        wanted: &mut Vec<Wanted<'a>>,
    ) -> bool {
        let principal = Principal::Anonymous;
        let nobody = User::anonymous();
        let outcome = self.outlook(service, operation, |outlook| outlook.user(&nobody));
        let passes = outcome.is_possible();
        if !self.is_learnable(service, operation, &principal, &call, outcome) {
            return passes;
        }
        let id = id_of(service, operation);
        let group = format!("{}:*", service.name);
        let public = self
            .options
            .anonymous
            .iter()
            .any(|named| *named == id || *named == group);
        let want = Wanted {
            principal,
            service,
            operation,
            call,
            notes: vec!["anybody may, without a credential: said with --anonymous".to_owned()],
        };
        if public {
            wanted.push(want);
            return true;
        }
        let what = subject(&want.principal, &id);
        let requests = learnable(&want.call);
        let mut permit = permit_of(&[&want], Vec::new(), vec![id.clone()]);
        permit.evidence.clear();
        self.left_out(LeftOut {
            service: service.name.to_string(),
            what,
            why: format!(
                "{} without a credential; if everybody may: --anonymous {id}",
                times(requests)
            ),
            permit: Some(permit),
        });
        false
    }

    pub(super) fn is_asked_for(&self, key: &CallKey) -> bool {
        self.options
            .service
            .as_deref()
            .is_none_or(|service| key.service == service || key.caller.as_deref() == Some(service))
    }

    pub(super) fn find(&self, id: &str) -> Option<(&'a Service, &'a OperationModel)> {
        let (service, name) = id.split_once(':')?;
        let config = self.config;
        let apis = self.apis;
        let mut operations = apis.get(service)?.operations.iter();
        let operation = operations.find(|operation| &*operation.name == name)?;
        Some((config.services.get(service)?, operation))
    }

    pub(super) fn outlook(
        &self,
        service: &Service,
        operation: &OperationModel,
        ask: impl FnOnce(&testudo_guard::authz::Outlook) -> Outcome,
    ) -> Outcome {
        let names = ActionNames::new(&service.name, &operation.name, &operation.method);
        let rules = self.policies.rules_for(&service.name);
        ask(&self.policies.outlook(&names, &rules))
    }

    /// Whether existing policies leave a call to be permitted, and whether it should be; says why not.
    pub(super) fn is_learnable(
        &mut self,
        service: &Service,
        operation: &OperationModel,
        principal: &Principal,
        call: &Call,
        outcome: Outcome,
    ) -> bool {
        let id = id_of(service, operation);
        let why = match outcome {
            Outcome::Permit(_) => {
                self.gathered.permitted_already += 1;
                return false;
            }
            Outcome::Depends(line) => match stopped(call) {
                0 => {
                    self.gathered.permitted_already += 1;
                    return false;
                }
                count => Some(format!(
                    "{}:{} decides by its conditions; {} it denied, or would have",
                    line.file,
                    line.line,
                    times(count)
                )),
            },
            Outcome::Deny(Some(line)) => Some(format!(
                "{}:{} forbids it; seen {}",
                line.file,
                line.line,
                times(call.counts.total())
            )),
            // Seen, but not counted yet.
            Outcome::Deny(None) if learnable(call) + call.counts.total() == 0 => return false,
            Outcome::Deny(None) => self.reason_against(principal, call),
        };
        let Some(why) = why else {
            return learnable(call) > 0;
        };
        self.left_out(LeftOut {
            service: service.name.to_string(),
            what: subject(principal, &id),
            why,
            permit: None,
        });
        false
    }

    /// Why a call that no policy permits should not be permitted either.
    fn reason_against(&self, principal: &Principal, call: &Call) -> Option<String> {
        let requests = learnable(call);
        let is_user = !matches!(principal, Principal::Service(_));
        let by = |users: &Distinct| match describe(users).filter(|_| is_user) {
            Some(users) => format!("; {users}"),
            None => String::new(),
        };
        if requests == 0 {
            let users = if call.counts.denied > 0 {
                &call.stopped
            } else {
                &call.users
            };
            return Some(format!("{}{}", ended(call), by(users)));
        }
        if is_user && call.refused > 0 && call.refused == call.looked_at {
            let users = by(&call.users);
            return Some(format!(
                "the application itself refused it {} (401 or 403){users}",
                times(call.refused)
            ));
        }
        (requests < self.options.min_requests)
            .then(|| format!("seen {} only (--min-requests)", times(requests)))
    }

    pub(super) fn left_out_unknown(&mut self, id: &str, requests: u64) {
        let service = id.split(':').next().unwrap_or_default().to_owned();
        let why = if id.ends_with(":undocumented") {
            format!(
                "{}: the specification does not have what was called; add it there",
                times(requests)
            )
        } else {
            format!(
                "{}: the bundle does not have the operation any more",
                times(requests)
            )
        };
        self.left_out(LeftOut {
            service,
            what: plain(id),
            why,
            permit: None,
        });
    }

    pub(super) fn left_out(&mut self, left_out: LeftOut) {
        let known = self
            .gathered
            .left_out
            .iter()
            .any(|known| (&known.what, &known.why) == (&left_out.what, &left_out.why));
        if !known {
            self.gathered.left_out.push(left_out);
        }
    }

    /// One policy for each principal, service and condition.
    fn permits(&mut self, mut wanted: Vec<Wanted<'a>>) {
        note_queries(&mut wanted);
        let mut groups: BTreeMap<(&str, &Principal, Vec<String>), Vec<&Wanted<'_>>> =
            BTreeMap::new();
        for want in &wanted {
            let own = own_parameters(&want.principal, want.operation, &want.call);
            groups
                .entry((&want.service.name, &want.principal, own))
                .or_default()
                .push(want);
        }
        let permits = groups.into_iter().map(|((service, _, own), wanted)| {
            let used: BTreeSet<&str> = wanted.iter().map(|want| &*want.operation.name).collect();
            let actions = match self.apis.get(service) {
                Some(api) if own.is_empty() => actions(api, &used),
                _ => used
                    .iter()
                    .map(|name| format!("{service}:{name}"))
                    .collect(),
            };
            permit_of(&wanted, own, actions)
        });
        self.gathered.permits = permits.collect();
    }
}

/// Queries are not in events. One that is called like a path parameter which always is the user's own id is likely to
/// be the same thing.
fn note_queries(wanted: &mut [Wanted<'_>]) {
    let own: BTreeSet<(Arc<str>, String)> = wanted
        .iter()
        .flat_map(|want| {
            let own = own_parameters(&want.principal, want.operation, &want.call);
            let service = &want.service.name;
            own.into_iter().map(move |name| (service.clone(), name))
        })
        .collect();
    for want in wanted {
        if !matches!(want.principal, Principal::Role(_) | Principal::Users) {
            continue;
        }
        let queries = want.operation.params.iter().filter(|param| {
            param.location == Location::Query
                && param.required
                && param.kind == Some(ValueKind::String)
                && own.contains(&(want.service.name.clone(), param.name.to_string()))
        });
        want.notes.extend(queries.map(|param| {
            format!(
                "{} is in the query, which is not looked at; elsewhere it was always the user's own id: when {{ {} }}?",
                plain(&param.name),
                own_condition(&param.name)
            )
        }));
    }
}

/// How common a role is.
#[derive(Default)]
struct Popularity {
    /// Requests of users who have it.
    requests: u64,
    /// Those users.
    users: Distinct,
}

fn popularity(calls: &Calls) -> BTreeMap<&str, Popularity> {
    let mut roles: BTreeMap<&str, Popularity> = BTreeMap::new();
    for (key, call) in calls.iter() {
        if let Identity::Roles(names) = &key.identity {
            for name in names {
                let role = roles.entry(name).or_default();
                role.requests += call.counts.total();
                role.users.merge(&call.users);
            }
        }
    }
    roles
}

/// Gives each set of roles with which an operation was called one role that covers it: one that was there alone, or
/// that covers most sets, or that is rarest elsewhere.
fn assign<'a>(
    mut role_sets: Vec<(&Vec<String>, Call)>,
    popularity: &BTreeMap<&str, Popularity>,
    service: &'a Service,
    operation: &'a OperationModel,
    wanted: &mut Vec<Wanted<'a>>,
) {
    let mut want = |principal, calls: Vec<Call>, notes| {
        let mut calls = calls.into_iter();
        if let Some(mut call) = calls.next() {
            calls.for_each(|more| call.merge(&more));
            wanted.push(Wanted {
                principal,
                service,
                operation,
                call,
                notes,
            });
        }
    };
    if role_sets.iter().any(|(roles, _)| roles.is_empty()) {
        let roles: BTreeSet<&str> = role_sets
            .iter()
            .flat_map(|(roles, _)| roles.iter().map(String::as_str))
            .collect();
        let mut notes =
            vec!["users without any role came, so every user with a credential may".to_owned()];
        if !roles.is_empty() {
            let roles: Vec<String> = roles.into_iter().map(plain).collect();
            notes.push(format!("so did {}", roles.join(", ")));
        }
        want(
            Principal::Users,
            role_sets.into_iter().map(|(_, call)| call).collect(),
            notes,
        );
        return;
    }
    while !role_sets.is_empty() {
        let mut covers: BTreeMap<&String, (bool, usize)> = BTreeMap::new();
        for (roles, _) in &role_sets {
            for role in *roles {
                let entry = covers.entry(role).or_default();
                // Who has one role alone leaves no choice.
                entry.0 |= roles.len() == 1;
                entry.1 += 1;
            }
        }
        let best = covers.iter().max_by_key(|(role, (alone, sets))| {
            let elsewhere = popularity
                .get(role.as_str())
                .map_or(0, |role| role.requests);
            (*alone, *sets, std::cmp::Reverse(elsewhere))
        });
        let Some(role) = best.map(|(role, _)| (*role).clone()) else {
            return;
        };
        let (covered, rest): (Vec<_>, Vec<_>) = role_sets
            .into_iter()
            .partition(|(roles, _)| roles.contains(&role));
        let alone = covered.iter().any(|(roles, _)| roles.len() == 1);
        let others: BTreeSet<&String> = covered
            .iter()
            .flat_map(|(roles, _)| roles.iter())
            .filter(|other| **other != role)
            .collect();
        let mut notes = if alone || others.is_empty() {
            Vec::new()
        } else {
            let others: Vec<String> = others.into_iter().map(|other| plain(other)).collect();
            vec![format!(
                "its users had {} too: is {} the right one?",
                others.join(", "),
                plain(&role)
            )]
        };
        let mut users = Distinct::default();
        for (_, call) in &covered {
            users.merge(&call.users);
        }
        let all = popularity.get(role.as_str()).map(|role| &role.users);
        if let Some(all) = all.filter(|all| users.count() == 1 && all.count() >= FEW_OF) {
            notes.push(format!(
                "one user alone, of {} in that role",
                all.describe()
            ));
        }
        let calls = covered.into_iter().map(|(_, call)| call).collect();
        want(Principal::Role(role), calls, notes);
        role_sets = rest;
    }
}

fn permit_of(wanted: &[&Wanted<'_>], own: Vec<String>, actions: Vec<String>) -> Permit {
    let evidence = wanted.iter().map(|want| Evidence {
        operation: id_of(want.service, want.operation),
        requests: learnable(&want.call),
        notes: want
            .notes
            .iter()
            .cloned()
            .chain(notes(&want.principal, want.operation, &want.call))
            .collect(),
    });
    let first = wanted.iter().map(|want| want.call.first).min();
    let last = wanted.iter().map(|want| want.call.last).max();
    let (principal, service) = match wanted.first() {
        Some(want) => (want.principal.clone(), want.service.name.to_string()),
        None => (Principal::Anonymous, String::new()),
    };
    Permit {
        principal,
        service,
        actions,
        own,
        evidence: evidence.collect(),
        seen: (
            first.unwrap_or(Timestamp::UNIX_EPOCH),
            last.unwrap_or(Timestamp::UNIX_EPOCH),
        ),
    }
}

/// The used operations; a group stands for its operations where all of them, and more than one, were used.
fn actions(api: &ApiModel, used: &BTreeSet<&str>) -> Vec<String> {
    let service = &api.service;
    let of_group = |group: &'static str| -> Vec<&str> {
        let operations = api.operations.iter();
        operations
            .filter(|operation| group_of_method(&operation.method) == group)
            .map(|operation| &*operation.name)
            .collect()
    };
    let (reads, writes) = (of_group("read"), of_group("write"));
    let whole = |group: &[&str]| group.len() > 1 && group.iter().all(|name| used.contains(name));
    if used.len() > 1 && used.len() == api.operations.len() {
        return vec![format!("{service}:*")];
    }
    let mut actions = Vec::new();
    for (name, group) in [("read", reads), ("write", writes)] {
        if whole(&group) {
            actions.push(format!("{service}:{name}"));
        } else {
            let mut names: Vec<&str> = group
                .into_iter()
                .filter(|name| used.contains(name))
                .collect();
            names.sort_unstable();
            actions.extend(names.into_iter().map(|name| format!("{service}:{name}")));
        }
    }
    actions
}

fn user_with(roles: &[String]) -> User {
    let mut roles: Vec<Arc<str>> = roles.iter().map(|role| role.as_str().into()).collect();
    roles.sort();
    User {
        id: ":".into(),
        roles: roles.into(),
        ..User::clone(&User::anonymous())
    }
}

fn id_of(service: &Service, operation: &OperationModel) -> String {
    format!("{}:{}", service.name, operation.name)
}
