//! The blast radius: everything that policy lets somebody reach who stole a service's key, hop by hop.
//!
//! The thief speaks as the service. Where a called service asks for a user, a token of one who came by is needed;
//! such tokens pass on through services that are reached. What is reached is an upper bound: every service is taken
//! to make every call that it may, conditions are taken to hold, and a user is taken to have one role.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use testudo_guard::authz::{GATEWAY, Outcome};
use testudo_guard::snapshot::{ActsAlone, UserRule};
use testudo_model::PolicyRef;

use super::{Access, Subject};
use crate::config::Config;

/// In whose name something is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum As {
    /// The stolen key is enough.
    Itself,
    /// A user who comes by is needed.
    Users,
}

impl As {
    /// `itself` or `users`.
    pub const fn as_str(self) -> &'static str {
        match self {
            As::Itself => "itself",
            As::Users => "users",
        }
    }
}

/// One operation that is reached.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Index into [`Access::operations`].
    pub operation: usize,
    /// The services on the way, from the stolen one to the called one.
    pub via: Vec<Arc<str>>,
    /// The line that permits the last hop.
    pub policy: PolicyRef,
    /// Whether that line has conditions.
    pub depends: bool,
    /// In whose name.
    pub as_whom: As,
}

/// What is known of a service that is reached.
#[derive(Clone, Default)]
struct State {
    /// Whether the stolen key is enough to get here.
    alone: bool,
    /// Users (indexes of subjects) whose tokens get here.
    users: BTreeSet<usize>,
    via: Vec<Arc<str>>,
}

struct Mesh<'a> {
    access: &'a Access,
    config: &'a Config,
    /// Permitted calls of each service: operation and outcome.
    calls: BTreeMap<Arc<str>, Vec<(usize, &'a Outcome)>>,
    /// Users that each operation could admit.
    admitted: Vec<BTreeSet<usize>>,
}

/// What the thief of `service`'s key reaches; `gateway` is understood too. By operation.
pub fn reach(access: &Access, config: &Config, service: &Arc<str>) -> Vec<Reached> {
    let mesh = Mesh::new(access, config);
    let mut states = BTreeMap::from([(
        service.clone(),
        State {
            alone: true,
            users: mesh.tokens(service),
            via: vec![service.clone()],
        },
    )]);
    let mut found: BTreeMap<usize, Reached> = BTreeMap::new();
    // Breadth first, so that `via` is a shortest way; again and again where more users get somewhere.
    let mut queue = std::collections::VecDeque::from([service.clone()]);
    while let Some(caller) = queue.pop_front() {
        let Some(state) = states.get(&caller).cloned() else {
            continue;
        };
        let mut next: BTreeMap<Arc<str>, State> = BTreeMap::new();
        for (operation, outcome) in mesh.calls.get(&caller).into_iter().flatten() {
            mesh.step(&caller, &state, *operation, outcome, &mut next, &mut found);
        }
        for (name, reached) in next {
            let known = states.entry(name.clone()).or_default();
            let grows = (reached.alone && !known.alone) || !reached.users.is_subset(&known.users);
            let first = known.via.is_empty();
            known.alone |= reached.alone;
            known.users.extend(reached.users);
            if first {
                known.via = reached.via;
            }
            if grows || first {
                queue.push_back(name);
            }
        }
    }
    found.into_values().collect()
}

impl<'a> Mesh<'a> {
    fn new(access: &'a Access, config: &'a Config) -> Self {
        let mut mesh = Mesh {
            calls: BTreeMap::new(),
            admitted: vec![BTreeSet::new(); access.operations.len()],
            access,
            config,
        };
        for cell in access
            .cells
            .iter()
            .filter(|cell| cell.outcome.is_possible())
        {
            match access.subjects.get(cell.subject) {
                Some(Subject::Service(name)) => {
                    mesh.add_call(name, cell.operation, &cell.outcome);
                }
                Some(_) => {
                    if let Some(admitted) = mesh.admitted.get_mut(cell.operation) {
                        admitted.insert(cell.subject);
                    }
                }
                None => {}
            }
        }
        let gateway: Arc<str> = GATEWAY.into();
        for (operation, outcome) in access.by_gateway.iter().enumerate() {
            if outcome.is_possible() {
                mesh.add_call(&gateway, operation, outcome);
            }
        }
        mesh
    }

    fn add_call(&mut self, caller: &Arc<str>, operation: usize, outcome: &'a Outcome) {
        let calls = self.calls.entry(caller.clone()).or_default();
        calls.push((operation, outcome));
    }

    /// One call that policy permits `caller`.
    fn step(
        &self,
        caller: &Arc<str>,
        state: &State,
        operation: usize,
        outcome: &Outcome,
        next: &mut BTreeMap<Arc<str>, State>,
        found: &mut BTreeMap<usize, Reached>,
    ) {
        let (Outcome::Permit(policy) | Outcome::Depends(policy), Some(target)) =
            (outcome, self.access.operations.get(operation))
        else {
            return;
        };
        if target.service == *caller {
            return;
        }
        let passing = self.passing(&state.users, operation, &target.service);
        let needs_user = self.needs_user(caller, operation, &target.service);
        if needs_user && passing.is_empty() {
            return;
        }
        let alone = state.alone && !needs_user;
        let mut via = state.via.clone();
        via.push(target.service.clone());
        let reached = next.entry(target.service.clone()).or_default();
        reached.alone |= alone;
        reached.users.extend(passing);
        if reached.via.is_empty() {
            reached.via.clone_from(&via);
        }
        let as_whom = if alone { As::Itself } else { As::Users };
        let better = found
            .get(&operation)
            .is_none_or(|known| as_whom < known.as_whom);
        if better {
            let depends = matches!(outcome, Outcome::Depends(_));
            let policy = policy.clone();
            found.insert(
                operation,
                Reached {
                    operation,
                    via,
                    policy,
                    depends,
                    as_whom,
                },
            );
        }
    }

    /// The users among `users` who get through to the called service.
    fn passing(
        &self,
        users: &BTreeSet<usize>,
        operation: usize,
        called: &Arc<str>,
    ) -> BTreeSet<usize> {
        match self.config.services.get(called).map(|called| called.user) {
            Some(UserRule::Authorize | UserRule::Optional) => {
                let admitted = self.admitted.get(operation);
                let admitted = admitted.into_iter().flatten();
                admitted
                    .filter(|subject| users.contains(subject))
                    .copied()
                    .collect()
            }
            Some(UserRule::Require | UserRule::Ignore) => users.clone(),
            None => BTreeSet::new(),
        }
    }

    /// Whether the called service refuses this call without a user.
    fn needs_user(&self, caller: &str, operation: usize, called: &Arc<str>) -> bool {
        if self.config.users.is_none() {
            return false;
        }
        let asks = match self.config.services.get(called).map(|called| called.user) {
            Some(UserRule::Authorize | UserRule::Require) => true,
            Some(UserRule::Optional | UserRule::Ignore) | None => false,
        };
        let alone = match self
            .config
            .services
            .get(caller)
            .map(|caller| &caller.acts_alone)
        {
            Some(ActsAlone::Always) => true,
            Some(ActsAlone::Operations(operations)) => self
                .access
                .operations
                .get(operation)
                .is_some_and(|target| operations.contains(&target.operation)),
            Some(ActsAlone::Never) | None => false,
        };
        asks && !alone
    }

    /// The users whose tokens come by at a service: those that routes let in, and those that callers bring along.
    /// The gateway makes tokens for whomever it likes.
    fn tokens(&self, service: &Arc<str>) -> BTreeSet<usize> {
        if self.config.users.is_none() {
            return BTreeSet::new();
        }
        let everyone = || {
            let subjects = self.access.subjects.iter().enumerate();
            let users = subjects.filter(|(_, subject)| subject.is_user());
            users.map(|(index, _)| index).collect::<BTreeSet<usize>>()
        };
        if **service == *GATEWAY {
            return everyone();
        }
        let gateway: Arc<str> = GATEWAY.into();
        let mut tokens = BTreeMap::from([(gateway.clone(), everyone())]);
        let mut queue = vec![gateway];
        while let Some(caller) = queue.pop() {
            let carried = tokens.get(&caller).cloned().unwrap_or_default();
            let mut more: BTreeMap<Arc<str>, BTreeSet<usize>> = BTreeMap::new();
            for (operation, _) in self.calls.get(&caller).into_iter().flatten() {
                let Some(target) = self.access.operations.get(*operation) else {
                    continue;
                };
                // An honest caller may pass on any user that it has; only the edge has asked already.
                let passing = if *caller == *GATEWAY {
                    self.passing(&carried, *operation, &target.service)
                } else {
                    carried.clone()
                };
                more.entry(target.service.clone())
                    .or_default()
                    .extend(passing);
            }
            for (called, users) in more {
                let known = tokens.entry(called.clone()).or_default();
                if !users.is_subset(known) {
                    known.extend(users);
                    queue.push(called);
                }
            }
        }
        tokens.remove(service).unwrap_or_default()
    }
}
