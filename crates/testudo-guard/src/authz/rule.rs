//! One policy taken apart: whom its scope names, which operations it covers, what its conditions read.

use std::collections::HashSet;
use std::sync::Arc;

use cedar_policy_core::ast::{
    ActionConstraint, BinaryOp, Effect, EntityReference, EntityType, EntityUID, Expr, ExprKind,
    Literal, Policy, PrincipalOrResourceConstraint, Var,
};
use testudo_model::PolicyRef;

use super::names::ActionNames;
use crate::authn::ANONYMOUS;

/// A policy that cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It has slots (`?principal`), which nothing here fills.
    #[error("policy templates are not supported")]
    Template,
}

/// Whom the scope of a policy names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everyone: users, anonymous, services.
    Everyone,
    /// Every user with a credential.
    Users,
    /// The one user with this id (`ISSUER:ID`).
    User(Arc<str>),
    /// Every user in this role.
    Role(Arc<str>),
    /// Whoever comes without a credential.
    Anonymous,
    /// Every service, the gateway included.
    Services,
    /// This service.
    Service(Arc<str>),
    /// Every service in this role.
    ServiceRole(Arc<str>),
    /// Nobody: the scope contradicts itself.
    Nobody,
}

/// One policy of the bundle.
#[derive(Debug)]
pub struct Rule {
    /// The policy, as Cedar parsed it.
    pub policy: Policy,
    /// Where it begins.
    pub source: PolicyRef,
    /// The service whose folder it is in: it applies to no other.
    pub only: Option<Arc<str>>,
    /// Whom its scope names.
    pub who: Who,
    /// What its conditions read.
    pub reads: Reads,
    /// The actions that its scope names.
    actions: Actions,
    owners: Option<HashSet<Box<str>>>,
}

/// The actions that a scope names, taken apart once: bundles have many policies and many operations, and
/// each is held against each.
#[derive(Debug)]
enum Actions {
    /// Every action.
    Any,
    /// This one.
    One(Box<str>),
    /// These, and those in these groups.
    In(HashSet<Box<str>>),
}

impl Actions {
    fn of(policy: &Policy) -> Self {
        // What is no action is a type error elsewhere, and covers nothing.
        let name = |uid: &EntityUID| {
            let id: &str = uid.eid().as_ref();
            is_type(uid.entity_type(), "Action").then(|| Box::from(id))
        };
        match policy.action_constraint() {
            ActionConstraint::Any => Actions::Any,
            ActionConstraint::Eq(uid) => {
                name(uid).map_or_else(|| Actions::In(HashSet::new()), Actions::One)
            }
            ActionConstraint::In(uids) => {
                Actions::In(uids.iter().filter_map(|uid| name(uid)).collect())
            }
        }
    }

    fn cover(&self, names: &ActionNames) -> bool {
        match self {
            Actions::Any => true,
            Actions::One(name) => **name == *names.operation,
            Actions::In(list) => {
                list.contains(&*names.operation)
                    || names.groups.iter().any(|group| list.contains(&**group))
            }
        }
    }
}

/// The services whose actions are named; `None`: those of every service.
fn owners(actions: &Actions) -> Option<HashSet<Box<str>>> {
    let owner = |name: &str| name.split_once(':').map(|(owner, _)| Box::from(owner));
    match actions {
        Actions::Any => None,
        Actions::One(name) => owner(name).map(|owner| HashSet::from([owner])),
        Actions::In(list) => list.iter().map(|name| owner(name)).collect(),
    }
}

impl Rule {
    /// Takes a policy apart.
    ///
    /// # Errors
    /// [`RuleError::Template`].
    pub fn new(
        policy: Policy,
        source: PolicyRef,
        only: Option<Arc<str>>,
    ) -> Result<Self, RuleError> {
        if !policy.is_static() || policy.template().slots().next().is_some() {
            return Err(RuleError::Template);
        }
        let actions = Actions::of(&policy);
        Ok(Rule {
            owners: owners(&actions),
            actions,
            who: who(policy.principal_constraint().as_inner()),
            reads: policy
                .non_scope_constraints()
                .map(Reads::of)
                .unwrap_or_default(),
            policy,
            source,
            only,
        })
    }

    /// Whether it is a `forbid`.
    pub fn forbids(&self) -> bool {
        self.policy.effect() == Effect::Forbid
    }

    /// What is left to decide once the scope matches; `None`: nothing.
    pub fn condition(&self) -> Option<&Arc<Expr>> {
        self.policy.non_scope_constraints_arc()
    }

    /// Whether its scope admits this operation, whoever calls it.
    pub fn covers(&self, names: &ActionNames) -> bool {
        self.may_cover(&names.service) && self.actions.cover(names)
    }

    /// Whether it could cover any operation of this service: quicker than [`Rule::covers`], and true wherever that is.
    pub fn may_cover(&self, service: &str) -> bool {
        self.only.as_ref().is_none_or(|only| **only == *service)
            && self
                .owners
                .as_ref()
                .is_none_or(|owners| owners.contains(service))
            && self.covers_resource(service)
    }

    /// [`Rule::covers`] whatever folder it is in.
    pub fn scope_covers(&self, names: &ActionNames) -> bool {
        self.actions.cover(names) && self.covers_resource(&names.service)
    }

    /// Whether its scope admits this service as the one that is called.
    pub fn covers_resource(&self, service: &str) -> bool {
        let this = |reference: &EntityReference| match reference {
            EntityReference::EUID(uid) => {
                is_type(uid.entity_type(), "Api") && uid.eid().as_ref() == service
            }
            EntityReference::Slot(_) => false,
        };
        match self.policy.resource_constraint().as_inner() {
            PrincipalOrResourceConstraint::Any => true,
            PrincipalOrResourceConstraint::Is(kind) => is_type(kind, "Api"),
            PrincipalOrResourceConstraint::Eq(reference)
            | PrincipalOrResourceConstraint::In(reference) => this(reference),
            PrincipalOrResourceConstraint::IsIn(kind, reference) => {
                is_type(kind, "Api") && this(reference)
            }
        }
    }
}

/// The scope's principal. `in` is reflexive, and nothing but roles has members.
fn who(constraint: &PrincipalOrResourceConstraint) -> Who {
    match constraint {
        PrincipalOrResourceConstraint::Any => Who::Everyone,
        PrincipalOrResourceConstraint::Is(kind) => match kind.to_string().as_str() {
            "User" => Who::Users,
            "Anonymous" => Who::Anonymous,
            "Service" => Who::Services,
            _ => Who::Nobody,
        },
        PrincipalOrResourceConstraint::Eq(reference) => one(reference),
        PrincipalOrResourceConstraint::In(reference) => member(reference),
        PrincipalOrResourceConstraint::IsIn(kind, reference) => {
            let member = member(reference);
            let expected = match member {
                Who::User(_) | Who::Role(_) => "User",
                Who::Service(_) | Who::ServiceRole(_) => "Service",
                Who::Anonymous => "Anonymous",
                Who::Everyone | Who::Users | Who::Services | Who::Nobody => return Who::Nobody,
            };
            if is_type(kind, expected) {
                member
            } else {
                Who::Nobody
            }
        }
    }
}

fn one(reference: &EntityReference) -> Who {
    let EntityReference::EUID(uid) = reference else {
        return Who::Nobody;
    };
    let id: &str = uid.eid().as_ref();
    match uid.entity_type().to_string().as_str() {
        "User" => Who::User(id.into()),
        "Service" => Who::Service(id.into()),
        "Anonymous" if id == ANONYMOUS => Who::Anonymous,
        _ => Who::Nobody,
    }
}

fn member(reference: &EntityReference) -> Who {
    let EntityReference::EUID(uid) = reference else {
        return Who::Nobody;
    };
    let id: &str = uid.eid().as_ref();
    match uid.entity_type().to_string().as_str() {
        "Role" => Who::Role(id.into()),
        "ServiceRole" => Who::ServiceRole(id.into()),
        _ => one(reference),
    }
}

fn is_type(entity_type: &EntityType, name: &str) -> bool {
    let found = entity_type.name();
    found.is_unqualified() && AsRef::<str>::as_ref(found.basename_as_ref()) == name
}

/// What conditions read: only that is put together for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// `context.params`.
    pub params: bool,
    /// `context.headers`.
    pub headers: bool,
    /// `context.body`.
    pub body: bool,
    /// `context.source_ip`.
    pub source_ip: bool,
    /// `context.time`.
    pub time: bool,
    /// `context.hop`.
    pub hop: bool,
    /// `context.user`.
    pub user: bool,
    /// `context.caller`.
    pub caller: bool,
    /// The principal, as an entity.
    pub principal: bool,
    /// The action, as an entity.
    pub action: bool,
    /// Entities that are written out, where what they are in or have is asked for.
    pub others: bool,
}

impl Reads {
    const EVERYTHING_OF_CONTEXT: Reads = Reads {
        params: true,
        headers: true,
        body: true,
        source_ip: true,
        time: true,
        hop: true,
        user: true,
        caller: true,
        principal: false,
        action: false,
        others: false,
    };

    /// What `expression` can read. `context` on its own counts as all of it.
    pub fn of(expression: &Expr) -> Self {
        let mut reads = Reads::default();
        let mut rest = vec![expression];
        while let Some(expression) = rest.pop() {
            reads.visit(expression, &mut rest);
        }
        reads
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Reads) -> Reads {
        Reads {
            params: self.params | other.params,
            headers: self.headers | other.headers,
            body: self.body | other.body,
            source_ip: self.source_ip | other.source_ip,
            time: self.time | other.time,
            hop: self.hop | other.hop,
            user: self.user | other.user,
            caller: self.caller | other.caller,
            principal: self.principal | other.principal,
            action: self.action | other.action,
            others: self.others | other.others,
        }
    }

    fn visit<'e>(&mut self, expression: &'e Expr, rest: &mut Vec<&'e Expr>) {
        match expression.expr_kind() {
            ExprKind::Var(Var::Context) => *self = self.and(Reads::EVERYTHING_OF_CONTEXT),
            ExprKind::Var(Var::Principal) => self.principal = true,
            ExprKind::Var(Var::Action) => self.action = true,
            ExprKind::Lit(Literal::EntityUID(_)) => self.others = true,
            ExprKind::BinaryApp {
                op: BinaryOp::Eq,
                arg1,
                arg2,
            } => rest.extend(
                [arg1, arg2]
                    .into_iter()
                    .filter(|arg| !is_name(arg))
                    .map(Arc::as_ref),
            ),
            ExprKind::BinaryApp {
                op: BinaryOp::In,
                arg1,
                arg2,
            } => {
                rest.push(arg1);
                rest.extend(Some(arg2.as_ref()).filter(|arg| !is_name(arg)));
            }
            ExprKind::GetAttr { expr, attr } | ExprKind::HasAttr { expr, attr } => {
                self.visit_attribute(expr, attr, rest);
            }
            ExprKind::ExtHasAttr { expr, attrs } => {
                self.visit_attribute(expr, attrs.first(), rest);
            }
            _ => push_children(expression, rest),
        }
    }

    fn visit_attribute<'e>(&mut self, of: &'e Expr, attribute: &str, rest: &mut Vec<&'e Expr>) {
        if !matches!(of.expr_kind(), ExprKind::Var(Var::Context)) {
            rest.push(of);
            return;
        }
        match attribute {
            "params" => self.params = true,
            "headers" => self.headers = true,
            "body" => self.body = true,
            "source_ip" => self.source_ip = true,
            "time" => self.time = true,
            "hop" => self.hop = true,
            "user" => self.user = true,
            "caller" => self.caller = true,
            // No request has it: Cedar finds it missing, as it should.
            _ => {}
        }
    }
}

/// An entity that is written out, or a set of such: compared with, or the right side of `in`, it is a
/// name only, and nothing about the entity itself is asked.
fn is_name(expression: &Expr) -> bool {
    match expression.expr_kind() {
        ExprKind::Lit(_) => true,
        ExprKind::Set(items) => items
            .iter()
            .all(|item| matches!(item.expr_kind(), ExprKind::Lit(_))),
        _ => false,
    }
}

/// Whether `expression` can read the value of a parameter, header or field called `name`; `has` alone
/// does not. A record of the request that is used whole (compared, say) counts as read.
pub(super) fn may_read_value(expression: &Expr, name: &str) -> bool {
    let mut rest = vec![expression];
    while let Some(expression) = rest.pop() {
        match expression.expr_kind() {
            _ if is_request_record(expression) => return true,
            ExprKind::GetAttr { attr, .. } if attr == name => return true,
            ExprKind::GetAttr { expr, .. } | ExprKind::HasAttr { expr, .. }
                if is_request_record(expr) => {}
            ExprKind::ExtHasAttr { expr, .. } if is_request_record(expr) => {}
            _ => push_children(expression, &mut rest),
        }
    }
    false
}

/// `context`, `context.params`, `context.headers`, `context.body`.
fn is_request_record(expression: &Expr) -> bool {
    match expression.expr_kind() {
        ExprKind::Var(Var::Context) => true,
        ExprKind::GetAttr { expr, attr } => {
            matches!(expr.expr_kind(), ExprKind::Var(Var::Context))
                && matches!(attr.as_str(), "params" | "headers" | "body")
        }
        _ => false,
    }
}

fn push_children<'e>(expression: &'e Expr, rest: &mut Vec<&'e Expr>) {
    match expression.expr_kind() {
        ExprKind::Lit(_) | ExprKind::Var(_) | ExprKind::Slot(_) | ExprKind::Unknown(_) => {}
        ExprKind::If {
            test_expr,
            then_expr,
            else_expr,
        } => rest.extend([test_expr.as_ref(), then_expr, else_expr]),
        ExprKind::And { left, right } | ExprKind::Or { left, right } => {
            rest.extend([left.as_ref(), right]);
        }
        ExprKind::BinaryApp { arg1, arg2, .. } => rest.extend([arg1.as_ref(), arg2]),
        ExprKind::ExtensionFunctionApp { args, .. } => rest.extend(args.iter()),
        ExprKind::UnaryApp { arg: expr, .. }
        | ExprKind::GetAttr { expr, .. }
        | ExprKind::HasAttr { expr, .. }
        | ExprKind::ExtHasAttr { expr, .. }
        | ExprKind::Like { expr, .. }
        | ExprKind::Is { expr, .. } => rest.push(expr),
        ExprKind::Set(items) => rest.extend(items.iter()),
        ExprKind::Record(fields) => rest.extend(fields.values()),
    }
}
