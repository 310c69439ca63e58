//! The access matrix: what policy lets every role, service and anonymous client do, before any request is made.
//!
//! The outcomes are guard's ([`testudo_guard::authz::Outlook`]); here they are only put together with what
//! `testudo.yaml` says of each service (`user:`, routes). [`reach`] follows them through the mesh.

pub mod coverage;
pub mod reach;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use testudo_guard::authn::User;
use testudo_guard::authz::{ActionNames, Outcome, Outlook};
use testudo_guard::schema::Undocumented;
use testudo_guard::snapshot::UserRule;
use testudo_model::PolicyRef;

use crate::api::ApiModel;
use crate::cedar::Compiled;
use crate::config::{Config, Service, policy_ref};

/// Who could ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A user with this role and no other.
    Role(Arc<str>),
    /// A user with a credential and without any role.
    AnyUser,
    /// One user whom a policy names, apart from the roles that they may have.
    User(Arc<str>),
    /// Whoever comes without a credential.
    Anonymous,
    /// A service, as the caller.
    Service(Arc<str>),
}

impl Subject {
    /// `role`, `user`, `anonymous` or `service`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Subject::Role(_) => "role",
            Subject::AnyUser | Subject::User(_) => "user",
            Subject::Anonymous => "anonymous",
            Subject::Service(_) => "service",
        }
    }

    /// Its name; that of [`Subject::AnyUser`] is `*`.
    pub fn name(&self) -> &str {
        match self {
            Subject::Role(name) | Subject::User(name) | Subject::Service(name) => name,
            Subject::AnyUser => "*",
            Subject::Anonymous => "anonymous",
        }
    }

    /// Whether the user question is asked of it.
    pub const fn is_user(&self) -> bool {
        !matches!(self, Subject::Service(_))
    }

    fn as_user(&self) -> Option<Arc<User>> {
        let (id, issuer, roles) = match self {
            Subject::Role(role) => (":", "", vec![role.clone()]),
            Subject::AnyUser => (":", "", Vec::new()),
            Subject::User(id) => (&**id, id.split(':').next().unwrap_or_default(), Vec::new()),
            Subject::Anonymous => return Some(User::anonymous()),
            Subject::Service(_) => return None,
        };
        Some(Arc::new(User {
            id: id.into(),
            issuer: issuer.into(),
            roles: roles.into(),
            ..User::clone(&User::anonymous())
        }))
    }
}

/// An operation that somebody may call.
#[derive(Clone, Debug)]
pub struct Target {
    /// `SERVICE:OPERATION`.
    pub operation: Arc<str>,
    /// The service.
    pub service: Arc<str>,
    /// Its method; `*` for what the specification lacks.
    pub method: String,
    /// Path template.
    pub path: Arc<str>,
}

/// What policy says of one subject and one operation.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Index into [`Access::subjects`].
    pub subject: usize,
    /// Index into [`Access::operations`].
    pub operation: usize,
    /// What is certain.
    pub outcome: Outcome,
}

/// The whole matrix. A subject and an operation without a cell: no policy permits it.
pub struct Access {
    /// Users first, then services, each in alphabetical order.
    pub subjects: Vec<Subject>,
    /// By service, in the order of the specifications.
    pub operations: Vec<Target>,
    /// By operation, then by subject; also the denials that a `forbid` makes.
    pub cells: Vec<Cell>,
    /// For each operation, what the gateway may call through its first route.
    pub by_gateway: Vec<Outcome>,
}

impl Access {
    /// Asks of every subject and operation. `more_roles`: roles that users were seen to have, where the bundle
    /// does not say which there are.
    pub fn of(
        config: &Config,
        apis: &BTreeMap<Arc<str>, ApiModel>,
        policies: &Compiled,
        more_roles: &BTreeSet<Arc<str>>,
    ) -> Access {
        let subjects = subjects(config, policies, more_roles);
        let mut access = Access {
            operations: Vec::new(),
            cells: Vec::new(),
            by_gateway: Vec::new(),
            subjects,
        };
        let asking = Asking {
            config,
            policies,
            users: access.subjects.iter().map(Subject::as_user).collect(),
        };
        for api in apis.values() {
            let Some(service) = config.services.get(&api.service) else {
                continue;
            };
            let route = route_to(config, &service.name);
            let rules = policies.rules_for(&service.name);
            for (names, target) in targets(service, api) {
                let outlook = policies.outlook(&names, &rules);
                let by_gateway = route
                    .as_ref()
                    .map_or(Outcome::Deny(None), |route| outlook.gateway(route));
                access.add(&asking, service, &outlook, &by_gateway);
                access.by_gateway.push(by_gateway);
                access.operations.push(target);
            }
        }
        access
    }

    fn add(
        &mut self,
        asking: &Asking<'_>,
        service: &Service,
        outlook: &Outlook,
        by_gateway: &Outcome,
    ) {
        let operation = self.operations.len();
        for (subject, (who, user)) in self.subjects.iter().zip(&asking.users).enumerate() {
            let outcome = match (who, user) {
                (Subject::Service(name), _) => asking.policies.caller_outcome(outlook, name),
                // Without `users:` nobody is asked who they are: a route lets everyone in.
                _ if asking.config.users.is_none() => by_gateway.clone(),
                (_, Some(user)) => user_outcome(outlook, user, service),
                (_, None) => Outcome::Deny(None),
            };
            if outcome != Outcome::Deny(None) {
                self.cells.push(Cell {
                    subject,
                    operation,
                    outcome,
                });
            }
        }
    }

    /// The cell of a subject and an operation; `None`: no policy permits it.
    pub fn cell(&self, subject: usize, operation: usize) -> Option<&Cell> {
        let at = self
            .cells
            .binary_search_by_key(&(operation, subject), |cell| (cell.operation, cell.subject));
        self.cells.get(at.ok()?)
    }
}

struct Asking<'a> {
    config: &'a Config,
    policies: &'a Compiled,
    /// Each subject as guard knows users; none for services.
    users: Vec<Option<Arc<User>>>,
}

/// As `user:` of the service says.
fn user_outcome(outlook: &Outlook, user: &User, service: &Service) -> Outcome {
    match service.user {
        UserRule::Authorize => outlook.user(user),
        UserRule::Optional if !user.is_anonymous() => outlook.user(user),
        UserRule::Optional | UserRule::Require | UserRule::Ignore => {
            Outcome::Permit(policy_ref(&service.span))
        }
    }
}

fn subjects(config: &Config, policies: &Compiled, more_roles: &BTreeSet<Arc<str>>) -> Vec<Subject> {
    let mut subjects = vec![];
    if let Some(users) = &config.users {
        let (roles, named) = policies.named_users();
        let known = users.roles();
        // A role that no user can have would only be an empty row.
        let more = roles.into_iter().chain(more_roles.iter().cloned());
        let more = more.filter(|role| known.as_ref().is_none_or(|known| known.contains(role)));
        let roles: BTreeSet<Arc<str>> = known.iter().flatten().cloned().chain(more).collect();
        subjects.extend(roles.into_iter().map(Subject::Role));
        subjects.push(Subject::AnyUser);
        subjects.extend(named.into_iter().map(Subject::User));
    }
    subjects.push(Subject::Anonymous);
    let services: BTreeSet<Arc<str>> = config.services.keys().cloned().collect();
    subjects.extend(services.into_iter().map(Subject::Service));
    subjects
}

fn targets<'a>(
    service: &'a Service,
    api: &'a ApiModel,
) -> impl Iterator<Item = (ActionNames, Target)> + 'a {
    let named = api.operations.iter().map(|operation| {
        let names = ActionNames::new(&api.service, &operation.name, &operation.method);
        let target = Target {
            operation: names.operation.clone(),
            service: api.service.clone(),
            method: operation.method.to_string(),
            path: operation.template.clone(),
        };
        (names, target)
    });
    let open = service.api.openapi.is_some() && service.api.undocumented != Undocumented::Deny;
    let undocumented = open.then(|| {
        let names = ActionNames::undocumented(&api.service);
        let target = Target {
            operation: names.operation.clone(),
            service: api.service.clone(),
            method: "*".into(),
            path: "*".into(),
        };
        (names, target)
    });
    named.chain(undocumented)
}

/// The first route that leads to a service.
fn route_to(config: &Config, service: &Arc<str>) -> Option<PolicyRef> {
    let mut routes = config.gateway.iter().flat_map(|gateway| &gateway.routes);
    routes
        .find(|route| route.service() == Some(service))
        .map(|route| route.rule.source.clone())
}

#[cfg(test)]
mod tests;
