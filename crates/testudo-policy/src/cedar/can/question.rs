//! `PRINCIPAL OPERATION [key=value…]`, typed by the specification.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy_core::ast::{Expr, ExprKind, Var};
use testudo_guard::authn::{Claim, User};
use testudo_guard::authz::{ClaimKind, ENTITY_TYPES, Facts, GATEWAY, Rule, Who};
use testudo_guard::schema::{Value, Values};
use testudo_guard::{Caller, Now};
use testudo_model::Hop;

use crate::api::{ApiModel, Location, OperationModel, ValueKind};
use crate::cedar::suggest::{list, nearest};
use crate::config::{Config, Service};

/// Who asks.
#[derive(Clone, Debug)]
pub enum Principal {
    /// A user; anonymous among them.
    User(Arc<User>),
    /// A service, or `gateway`.
    Service(Arc<str>),
}

/// A request that somebody thinks of.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who asks.
    pub principal: Principal,
    /// `SERVICE:OPERATION`.
    pub operation: Arc<str>,
    /// Parameters, headers and body.
    pub values: Values,
    /// `context.user` of a service's question.
    pub user: Option<Arc<User>>,
    /// `context.caller` of a user's question.
    pub caller: Option<Caller>,
    /// `context.source_ip`.
    pub source_ip: Option<IpAddr>,
    /// `context.time`.
    pub now: Now,
    /// `context.hop`.
    pub hop: Hop,
    roles_of_caller: Vec<Arc<str>>,
}

/// A question that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QuestionError {
    message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl QuestionError {
    fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        QuestionError {
            message: message.into(),
            hint,
        }
    }

    fn unknown<'a>(
        message: String,
        written: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) -> Self {
        let hint = match nearest(written, known.clone()) {
            Some(near) => Some(format!("did you mean {near}?")),
            None => {
                Some(format!("there are: {}", list(known))).filter(|hint| !hint.ends_with(": "))
            }
        };
        QuestionError::new(message, hint)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::User(user) if user.is_anonymous() => {
                formatter.write_str("Anonymous::\"anonymous\"")
            }
            Principal::User(user) => {
                write!(formatter, "User::\"{}\"", user.id)?;
                if !user.roles.is_empty() {
                    write!(formatter, " in {}", user.roles.join(", "))?;
                }
                Ok(())
            }
            Principal::Service(name) => write!(formatter, "Service::\"{name}\""),
        }
    }
}

impl Question {
    /// Reads what `testudo can` is given.
    ///
    /// `principal`: `anonymous`, a service, `gateway`, or a user (`alice`, `ISSUER:ID`); `user:` and
    /// `service:` before a name say which is meant. `settings`: `role=`, `claim.NAME=`, `user=`,
    /// `caller=`, `source_ip=`, `time=`, `hop=`, and the operation's parameters by their names
    /// (`param.NAME=`, `header.NAME=` and `body.NAME=` where a name is used twice).
    ///
    /// # Errors
    /// [`QuestionError`] for what does not exist or has another type.
    pub fn parse(
        principal: &str,
        operation: &str,
        settings: &[String],
        now: Now,
        config: &Config,
        apis: &BTreeMap<Arc<str>, ApiModel>,
    ) -> Result<Question, QuestionError> {
        let (service, model) = find(operation, apis)?;
        let mut reader = Reader {
            config,
            model,
            roles: Vec::new(),
            claims: BTreeMap::new(),
            question: Question {
                principal: Principal::User(User::anonymous()),
                operation: format!(
                    "{service}:{}",
                    model.map_or("undocumented", |model| &model.name)
                )
                .into(),
                values: Values::default(),
                user: None,
                caller: None,
                source_ip: None,
                now,
                hop: default_hop(principal, service, config),
                roles_of_caller: Vec::new(),
            },
        };
        for setting in settings {
            let (key, value) = setting.split_once('=').ok_or_else(|| {
                QuestionError::new(
                    format!("{setting} has no value"),
                    Some("write KEY=VALUE".into()),
                )
            })?;
            reader.set(key, value)?;
        }
        if model.is_none_or(|model| !model.body.is_empty()) && reader.question.values.body.is_none()
        {
            reader.question.values.body = Some(Vec::new());
        }
        reader.finish(principal)
    }

    /// The gateway asks for itself.
    pub(super) fn is_gateway(&self) -> bool {
        matches!(&self.principal, Principal::Service(name) if &**name == GATEWAY)
    }

    /// The same with claims of the types that policies use them as; what cannot be read so stays text.
    pub(super) fn with_claims_as(&self, kinds: &BTreeMap<Arc<str>, ClaimKind>) -> Question {
        let retyped = |user: &Arc<User>| {
            let claims = user.claims.iter().map(|(name, claim)| {
                let kind = kinds.get(name).copied().unwrap_or_default();
                (name.clone(), claim_as(kind, claim))
            });
            Arc::new(User {
                claims: Arc::new(claims.collect()),
                ..User::clone(user)
            })
        };
        let mut question = self.clone();
        if let Principal::User(user) = &mut question.principal {
            *user = retyped(user);
        }
        question.user = question.user.as_ref().map(retyped);
        question
    }

    /// With the facts that guard is given.
    pub(super) fn with_facts<T>(&self, ask: impl FnOnce(&Facts<'_>) -> T) -> T {
        let caller = match &self.principal {
            Principal::User(_) => self.caller.clone(),
            Principal::Service(name) => Some(caller(name)),
        };
        let user = match &self.principal {
            Principal::User(user) => Some(user),
            Principal::Service(_) => self.user.as_ref(),
        };
        ask(&Facts {
            source_ip: self.source_ip,
            now: self.now,
            hop: self.hop,
            user,
            caller: caller.as_ref(),
        })
    }

    /// Whether a scope answers this kind of question at all.
    pub(super) fn is_about(&self, who: &Who) -> bool {
        match who {
            Who::Everyone => true,
            Who::Users | Who::User(_) | Who::Role(_) | Who::Anonymous => {
                matches!(self.principal, Principal::User(_))
            }
            Who::Services | Who::Service(_) | Who::ServiceRole(_) => {
                matches!(self.principal, Principal::Service(_))
            }
            Who::Nobody => false,
        }
    }

    /// Whether a scope's principal holds for the one who asks.
    pub(super) fn matches(&self, who: &Who) -> bool {
        match (&self.principal, who) {
            (_, Who::Everyone) | (Principal::Service(_), Who::Services) => true,
            (Principal::User(user), Who::Anonymous) => user.is_anonymous(),
            (Principal::User(user), Who::Users) => !user.is_anonymous(),
            (Principal::User(user), Who::User(id)) => user.id == *id,
            (Principal::User(user), Who::Role(role)) => user.roles.contains(role),
            (Principal::Service(name), Who::Service(other)) => name == other,
            (Principal::Service(_), Who::ServiceRole(role)) => self.roles_of_caller.contains(role),
            _ => false,
        }
    }

    /// What a policy reads and the question does not say, as keys of the question.
    pub(super) fn not_said(&self, rule: &Rule) -> Vec<String> {
        let Some(condition) = rule.condition() else {
            return Vec::new();
        };
        let has = |values: &[(Arc<str>, Value)], name: &str| {
            values.iter().any(|(known, _)| &**known == name)
        };
        let mut keys: Vec<String> = attributes(condition)
            .into_iter()
            .filter_map(|(group, name)| {
                let (values, key) = match group.as_str() {
                    "params" => (self.values.params.as_slice(), name.clone()),
                    "headers" => (self.values.headers.as_slice(), format!("header.{name}")),
                    _ => (
                        self.values.body.as_deref().unwrap_or(&[]),
                        format!("body.{name}"),
                    ),
                };
                (!has(values, &name)).then_some(key)
            })
            .collect();
        if rule.reads.source_ip && self.source_ip.is_none() {
            keys.push("source_ip".to_owned());
        }
        keys
    }
}

fn caller(name: &Arc<str>) -> Caller {
    if &**name == GATEWAY {
        Caller::Gateway
    } else {
        Caller::Service(name.clone())
    }
}

fn default_hop(principal: &str, service: &str, config: &Config) -> Hop {
    let mut routes = config.gateway.iter().flat_map(|gateway| &gateway.routes);
    let routed = routes.any(|route| route.service().is_some_and(|name| &**name == service));
    let is_service = principal == GATEWAY
        || principal.starts_with("service:")
        || config.services.contains_key(principal);
    if routed && !is_service {
        Hop::Edge
    } else {
        Hop::Mesh
    }
}

fn find<'a>(
    operation: &'a str,
    apis: &'a BTreeMap<Arc<str>, ApiModel>,
) -> Result<(&'a str, Option<&'a OperationModel>), QuestionError> {
    let ids = || {
        apis.values().flat_map(|api| {
            let names = api.operations.iter().map(|known| &known.name);
            names.map(|name| format!("{}:{name}", api.service))
        })
    };
    let unknown = || {
        let ids: Vec<String> = ids().collect();
        let message = format!("there is no operation {operation}");
        QuestionError::unknown(message, operation, ids.iter().map(String::as_str))
    };
    let Some((service, name)) = operation.split_once(':') else {
        // A name that only one service has says enough.
        let mut called_so = apis.values().flat_map(|api| {
            let named = api
                .operations
                .iter()
                .filter(|known| &*known.name == operation);
            named.map(|model| (&*api.service, Some(model)))
        });
        return match (called_so.next(), called_so.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(unknown()),
        };
    };
    let api = apis.get(service).ok_or_else(unknown)?;
    if name == "undocumented" {
        return Ok((service, None));
    }
    let model = api.operations.iter().find(|known| &*known.name == name);
    model
        .map(|model| (service, Some(model)))
        .ok_or_else(unknown)
}

struct Reader<'a> {
    config: &'a Config,
    model: Option<&'a OperationModel>,
    roles: Vec<Arc<str>>,
    claims: BTreeMap<Arc<str>, Claim>,
    question: Question,
}

impl Reader<'_> {
    fn set(&mut self, key: &str, value: &str) -> Result<(), QuestionError> {
        let wrong =
            |what: &str| QuestionError::new(format!("{key}={value}: {value} is not {what}"), None);
        match key.split_once('.') {
            Some(("claim", name)) => {
                self.claims.insert(name.into(), Claim::String(value.into()));
                return Ok(());
            }
            Some(("param", name)) => return self.param(name, value, false),
            Some(("header", name)) => return self.param(name, value, true),
            Some(("body", name)) => return self.field(name, value),
            _ => {}
        }
        if self.declares(key) {
            return self.any(key, value);
        }
        match key {
            "role" | "roles" => self.add_roles(value)?,
            "user" => {
                let user = self.user(value);
                self.question.user = Some(user);
            }
            "caller" => {
                let service = self.service(value)?;
                self.question.caller = Some(caller(&service));
                self.question.hop = Hop::Mesh;
            }
            "source_ip" => {
                let address = value.parse().map_err(|_| wrong("an IP address"))?;
                self.question.source_ip = Some(address);
            }
            "time" => {
                let time: jiff::Timestamp = value
                    .parse()
                    .map_err(|_| wrong("a time such as 2026-01-31T12:00:00Z"))?;
                let seconds =
                    u64::try_from(time.as_second()).map_err(|_| wrong("a time after 1970"))?;
                self.question.now.wall = std::time::Duration::from_secs(seconds);
            }
            "hop" => {
                self.question.hop = match value {
                    "edge" => Hop::Edge,
                    "mesh" => Hop::Mesh,
                    _ => return Err(wrong("edge or mesh")),
                };
            }
            _ => return Err(self.unknown_key(key)),
        }
        Ok(())
    }

    fn declares(&self, name: &str) -> bool {
        self.model.is_some_and(|model| {
            model.params.iter().any(|param| &*param.name == name)
                || model.body.iter().any(|field| &*field.name == name)
        })
    }

    fn unknown_key(&self, key: &str) -> QuestionError {
        let model = self.model;
        let names = model.iter().flat_map(|model| {
            let params = model.params.iter().map(|param| &*param.name);
            params.chain(model.body.iter().map(|field| &*field.name))
        });
        let names: Vec<&str> = names
            .chain(["role", "user", "caller", "source_ip", "time", "hop"])
            .collect();
        let message = format!("{} has no parameter {key}", self.question.operation);
        QuestionError::unknown(message, key, names.into_iter())
    }

    /// A name that is used once: wherever it is.
    fn any(&mut self, name: &str, value: &str) -> Result<(), QuestionError> {
        let location = self.model.and_then(|model| {
            let param = model.params.iter().find(|param| &*param.name == name);
            param.map(|param| param.location)
        });
        match location {
            Some(Location::Header) => self.param(name, value, true),
            Some(Location::Path | Location::Query) => self.param(name, value, false),
            Some(Location::Cookie) => Err(QuestionError::new(
                format!("{name} is a cookie, which policies cannot read"),
                None,
            )),
            None => self.field(name, value),
        }
    }

    fn param(&mut self, name: &str, value: &str, header: bool) -> Result<(), QuestionError> {
        let params = self.model.map_or(&[][..], |model| &model.params);
        let param = params
            .iter()
            .find(|param| &*param.name == name && (param.location == Location::Header) == header)
            .ok_or_else(|| self.unknown_key(name))?;
        let kind = param
            .kind
            .ok_or_else(|| QuestionError::new(format!("policies cannot read {name}"), None))?;
        let entry = (param.name.clone(), typed(name, value, kind)?);
        let values = &mut self.question.values;
        if header {
            values.headers.push(entry)
        } else {
            values.params.push(entry)
        }
        Ok(())
    }

    fn field(&mut self, name: &str, value: &str) -> Result<(), QuestionError> {
        let fields = self.model.map_or(&[][..], |model| &model.body);
        let field = fields
            .iter()
            .find(|field| &*field.name == name)
            .ok_or_else(|| self.unknown_key(name))?;
        let entry = (field.name.clone(), typed(name, value, field.kind)?);
        self.question
            .values
            .body
            .get_or_insert_default()
            .push(entry);
        Ok(())
    }

    fn add_roles(&mut self, value: &str) -> Result<(), QuestionError> {
        let known = self.config.users.as_ref().and_then(|users| users.roles());
        for role in value.split(',').filter(|role| !role.is_empty()) {
            if let Some(known) = &known
                && !known.contains(role)
            {
                let message = format!("no user can have the role {role}");
                return Err(QuestionError::unknown(
                    message,
                    role,
                    known.iter().map(AsRef::as_ref),
                ));
            }
            self.roles.push(role.into());
        }
        Ok(())
    }

    fn service(&self, name: &str) -> Result<Arc<str>, QuestionError> {
        if name == GATEWAY || self.config.services.contains_key(name) {
            return Ok(name.into());
        }
        let known = self.config.services.keys().map(AsRef::as_ref);
        Err(QuestionError::unknown(
            format!("there is no service {name}"),
            name,
            known,
        ))
    }

    /// A user; without an issuer's name it is one of the first issuer.
    fn user(&self, id: &str) -> Arc<User> {
        if id == "anonymous" {
            return User::anonymous();
        }
        let users = self.config.users.as_ref();
        let issuers: Vec<&str> = users
            .iter()
            .flat_map(|users| users.jwt.iter().map(|issuer| &*issuer.name))
            .chain(["key"])
            .collect();
        let (issuer, id) = match id.split_once(':') {
            Some((issuer, rest)) if issuers.contains(&issuer) => (issuer, rest),
            _ => (issuers.first().copied().unwrap_or("key"), id),
        };
        let roles: BTreeSet<Arc<str>> = self.roles.iter().cloned().collect();
        Arc::new(User {
            id: format!("{issuer}:{id}").into(),
            issuer: issuer.into(),
            roles: roles.into_iter().collect(),
            claims: Arc::new(self.claims.clone()),
            expires: None,
            credential: [0; 32],
            key: Arc::from(""),
            source_ip: self.question.source_ip,
        })
    }

    fn finish(mut self, principal: &str) -> Result<Question, QuestionError> {
        // `Service::"orders"` is understood too.
        let (kind, name) = match principal.split_once("::") {
            Some((kind, name)) if ENTITY_TYPES.contains(&kind) => (kind, name.trim_matches('"')),
            _ => match principal.split_once(':') {
                Some(("service", name)) => ("Service", name),
                Some(("user", name)) => ("User", name),
                Some(("role", name)) => ("Role", name),
                _ if principal == GATEWAY || self.config.services.contains_key(principal) => {
                    ("Service", principal)
                }
                _ => ("User", principal),
            },
        };
        self.question.principal = match kind {
            "Service" => Principal::Service(self.service(name)?),
            "Role" => {
                self.add_roles(name)?;
                Principal::User(self.user("somebody"))
            }
            "User" | "Anonymous" => Principal::User(self.user(name)),
            _ => {
                let message = format!("{principal} is not somebody who asks");
                return Err(QuestionError::new(
                    message,
                    Some("a user, anonymous, or a service".into()),
                ));
            }
        };
        if let Principal::Service(name) = &self.question.principal {
            let roles = self.config.services.get(name).map(Service::role_names);
            self.question.roles_of_caller = roles.unwrap_or_default();
        }
        // `user=` may stand before `role=`.
        if let Some(user) = self.question.user.take() {
            self.question.user = Some(self.user(&user.id));
        }
        Ok(self.question)
    }
}

impl Service {
    fn role_names(&self) -> Vec<Arc<str>> {
        self.roles.iter().map(|(role, _)| role.clone()).collect()
    }
}

fn claim_as(kind: ClaimKind, claim: &Claim) -> Claim {
    let Claim::String(text) = claim else {
        return claim.clone();
    };
    let typed = match kind {
        ClaimKind::String => None,
        ClaimKind::Long => text.parse().ok().map(Claim::Long),
        ClaimKind::Bool => text.parse().ok().map(Claim::Bool),
        ClaimKind::Strings => Some(Claim::Strings(text.split(',').map(Arc::from).collect())),
    };
    typed.unwrap_or_else(|| claim.clone())
}

fn typed(name: &str, value: &str, kind: ValueKind) -> Result<Value, QuestionError> {
    let wrong =
        |what: &str| QuestionError::new(format!("{name}={value}: {value} is not {what}"), None);
    Ok(match kind {
        ValueKind::String => Value::String(value.into()),
        ValueKind::Long => Value::Long(value.parse().map_err(|_| wrong("an integer"))?),
        ValueKind::Bool => Value::Bool(value.parse().map_err(|_| wrong("true or false"))?),
        ValueKind::Decimal => Value::Decimal(
            decimal(value)
                .ok_or_else(|| wrong("a number with at most four digits after the point"))?,
        ),
        ValueKind::Strings => Value::Strings(value.split(',').map(Arc::from).collect()),
    })
}

/// As Cedar's `decimal` reads it: with one to four digits after the point.
fn decimal(value: &str) -> Option<Arc<str>> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fits =
        digits(whole.strip_prefix('-').unwrap_or(whole)) && digits(fraction) && fraction.len() <= 4;
    fits.then(|| format!("{whole}.{fraction}").into())
}

/// `("params", "customerId")` for each parameter, header and field that a condition gets at (not those
/// that it only asks for with `has`).
fn attributes(condition: &Expr) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for expression in condition.subexpressions() {
        let ExprKind::GetAttr { expr, attr } = expression.expr_kind() else {
            continue;
        };
        let ExprKind::GetAttr {
            expr: base,
            attr: group,
        } = expr.expr_kind()
        else {
            continue;
        };
        let of_request = matches!(base.expr_kind(), ExprKind::Var(Var::Context));
        if of_request && matches!(group.as_str(), "params" | "headers" | "body") {
            found.insert((group.to_string(), attr.to_string()));
        }
    }
    found
}
