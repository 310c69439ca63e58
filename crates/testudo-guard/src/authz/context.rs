//! One question put to Cedar's evaluator: the request, `context` and entities, as far as the conditions
//! that are asked read them. Values stay typed; nothing goes through JSON.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy_core::ast::{
    Context, Entity, EntityUID, EntityUIDEntry, Expr, ExtensionFunction, Literal, PartialValue,
    Request, Value as CedarValue, ValueKind,
};
use cedar_policy_core::entities::Entities;
use cedar_policy_core::evaluator::Evaluator;
use cedar_policy_core::extensions::Extensions;
use smallvec::SmallVec;
use smol_str::{SmolStr, format_smolstr};

use super::directory::{Directory, ServiceEntity, Types, add_entities};
use super::rule::{Reads, may_read_value};
use super::{Facts, GATEWAY, Inner};
use crate::authn::User;
use crate::now::Now;
use crate::peer::Caller;
use crate::schema::{Value, Values};

type Record = BTreeMap<SmolStr, CedarValue>;

/// One principal, one operation, one request.
pub(super) struct Asked<'a> {
    inner: &'a Inner,
    principal: &'a Arc<EntityUID>,
    question: Question,
    facts: &'a Facts<'a>,
    values: &'a Values,
}

/// Which of the two questions is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    User,
    Caller,
}

/// Evaluates conditions of one question. The request is put together with the first of them.
pub(super) struct Evaluation<'a> {
    asked: &'a Asked<'a>,
    reads: Reads,
    prepared: OnceCell<Result<Prepared<'a>, String>>,
}

struct Prepared<'a> {
    request: Request,
    entities: Known<'a>,
}

enum Known<'a> {
    Shared(&'a Entities),
    Own(Entities),
}

impl<'a> Asked<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        principal: &'a Arc<EntityUID>,
        question: Question,
        facts: &'a Facts<'a>,
        values: &'a Values,
    ) -> Self {
        Asked {
            inner,
            principal,
            question,
            facts,
            values,
        }
    }

    /// Ready for conditions that read no more than `reads`.
    pub(super) fn evaluation(&'a self, reads: Reads) -> Evaluation<'a> {
        Evaluation {
            asked: self,
            reads,
            prepared: OnceCell::new(),
        }
    }

    /// A condition must not see a value that no Cedar value can hold: whatever stood in its place, a
    /// comparison would have an answer.
    ///
    /// # Errors
    /// Which value.
    pub(super) fn refuses(&self, condition: &Expr) -> Result<(), String> {
        let values = self.values;
        let body = values.body.iter().flatten();
        let unreadable = (values.params.iter().chain(&values.headers).chain(body))
            .filter(|(_, value)| *value == Value::Unreadable)
            .find(|(name, _)| may_read_value(condition, name));
        if let Some((name, _)) = unreadable {
            return Err(format!("policies cannot read the value of {name}"));
        }
        let claims = self.facts.user.iter().flat_map(|user| user.claims.iter());
        let kind = |name| self.inner.directory.claim_kind(name);
        let mut unfit = claims.filter(|(name, claim)| kind(name).value(claim).is_none());
        match unfit.find(|(name, _)| may_read_value(condition, name)) {
            Some((name, _)) => Err(format!(
                "the claim {name} is not of the type that policies use"
            )),
            None => Ok(()),
        }
    }

    fn prepare(&self, reads: Reads) -> Result<Prepared<'a>, String> {
        Ok(Prepared {
            request: Request::new_unchecked(
                known(self.principal.clone()),
                known(self.inner.action.clone()),
                known(self.inner.resource.clone()),
                Some(Context::Value(Arc::new(self.context(reads)?))),
            ),
            entities: self.entities(reads)?,
        })
    }

    fn context(&self, reads: Reads) -> Result<Record, String> {
        let types = self.inner.directory.types();
        let mut context = Record::new();
        let mut put = |name, value| {
            context.insert(SmolStr::new_static(name), value);
        };
        if reads.params {
            put("params", record(types, &self.values.params)?);
        }
        if reads.headers {
            put("headers", record(types, &self.values.headers)?);
        }
        if reads.body
            && self.inner.has_body
            && let Some(body) = &self.values.body
        {
            put("body", record(types, body)?);
        }
        if reads.source_ip
            && let Some(address) = self.facts.source_ip
        {
            put("source_ip", source_ip(types, address)?);
        }
        if reads.time {
            put("time", time(types, self.facts.now)?);
        }
        if reads.hop {
            put("hop", string(self.facts.hop.as_str()));
        }
        if reads.user
            && let Some(user) = self.facts.user
            && !user.is_anonymous()
        {
            put("user", entity(Arc::new(types.user(&user.id))));
        }
        if reads.caller
            && let Some(caller) = self.caller()
        {
            put("caller", entity(caller.uid.clone()));
        }
        Ok(context)
    }

    fn caller(&self) -> Option<&'a ServiceEntity> {
        let name = match self.facts.caller? {
            Caller::Gateway => GATEWAY,
            Caller::Service(name) => name,
            Caller::Unknown => return None,
        };
        self.inner.directory.service(name)
    }

    /// What conditions can reach. Without the user that does not change from request to request;
    /// with the user it is put together from as little as will do.
    fn entities(&self, reads: Reads) -> Result<Known<'a>, String> {
        let asks_for_user = self.question == Question::User;
        let user = self.facts.user.filter(|user| {
            // A policy may also write the user out: `User::"shop:alice" in Role::"admin"`.
            let reached = reads.user || reads.others || (reads.principal && asks_for_user);
            reached && !user.is_anonymous()
        });
        let Some(user) = user else {
            return Ok(Known::Shared(&self.inner.entities));
        };
        let mut more: SmallVec<[Arc<Entity>; 3]> = SmallVec::new();
        more.push(Arc::new(user_entity(&self.inner.directory, user)));
        let start = if reads.others {
            self.inner.entities.clone()
        } else {
            if reads.caller || (reads.principal && !asks_for_user) {
                more.extend(self.caller().map(|caller| caller.entity.clone()));
            }
            if reads.action {
                more.push(self.inner.action_entity.clone());
            }
            Entities::new()
        };
        add_entities(start, more)
            .map(Known::Own)
            .map_err(|error| error.to_string())
    }
}

impl Evaluation<'_> {
    /// Whether a condition holds.
    ///
    /// # Errors
    /// Why Cedar could not evaluate it.
    pub(super) fn holds(&self, condition: &Expr) -> Result<bool, String> {
        let prepared = self
            .prepared
            .get_or_init(|| self.asked.prepare(self.reads))
            .as_ref()
            .map_err(Clone::clone)?;
        let entities = match &prepared.entities {
            Known::Shared(entities) => entities,
            Known::Own(entities) => entities,
        };
        let evaluator = Evaluator::new(
            prepared.request.clone(),
            entities,
            Extensions::all_available(),
        );
        let value = evaluator
            .interpret(condition, &HashMap::new())
            .map_err(|error| error.to_string())?;
        match value.value {
            ValueKind::Lit(Literal::Bool(holds)) => Ok(holds),
            ValueKind::Lit(_)
            | ValueKind::Set(_)
            | ValueKind::Record(_)
            | ValueKind::ExtensionValue(_) => Err("a condition is neither true nor false".into()),
        }
    }
}

fn known(uid: Arc<EntityUID>) -> EntityUIDEntry {
    EntityUIDEntry::Known {
        euid: uid,
        loc: None,
    }
}

fn entity(uid: Arc<EntityUID>) -> CedarValue {
    CedarValue::from(Literal::EntityUID(uid))
}

pub(super) fn string(text: impl Into<SmolStr>) -> CedarValue {
    CedarValue::from(Literal::String(text.into()))
}

pub(super) fn strings(texts: &[Arc<str>]) -> CedarValue {
    CedarValue::set(texts.iter().map(|text| string(text.clone())), None)
}

/// A record of request values. A name that comes twice is an error: one reader would see one value,
/// another the other.
fn record(types: &Types, values: &[(Arc<str>, Value)]) -> Result<CedarValue, String> {
    let mut record = Record::new();
    for (name, value) in values {
        let value = match value {
            Value::String(text) => string(text.clone()),
            Value::Long(number) => CedarValue::from(*number),
            Value::Decimal(text) => extension(types.decimal, text.clone())?,
            Value::Bool(truth) => CedarValue::from(*truth),
            Value::Strings(texts) => strings(texts),
            // For `has`; conditions that read it are never asked, see `Asked::refuses`.
            Value::Unreadable => CedarValue::empty_record(None),
        };
        if record.insert(SmolStr::from(name.clone()), value).is_some() {
            return Err(format!("the request has two values for {name}"));
        }
    }
    Ok(CedarValue::record_arc(Arc::new(record), None))
}

fn source_ip(types: &Types, address: IpAddr) -> Result<CedarValue, String> {
    extension(types.ip, format_smolstr!("{}", address.to_canonical()))
}

/// RFC 3339 in UTC with milliseconds, as Cedar's `datetime` reads it.
fn time(types: &Types, now: Now) -> Result<CedarValue, String> {
    let outside = || "the clock is outside the years 0 to 9999".to_owned();
    let milliseconds = i64::try_from(now.wall.as_millis()).map_err(|_| outside())?;
    let timestamp = jiff::Timestamp::from_millisecond(milliseconds).map_err(|_| outside())?;
    let text = format_smolstr!("{}", timestamp.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"));
    extension(types.datetime, text)
}

fn extension(function: &ExtensionFunction, text: impl Into<SmolStr>) -> Result<CedarValue, String> {
    match function.call(&[string(text)]) {
        Ok(PartialValue::Value(value)) => Ok(value),
        Ok(PartialValue::Residual(_)) => Err("a value is not known".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// `User` with `id` (without the issuer), `issuer`, `claims`, in its roles.
fn user_entity(directory: &Directory, user: &User) -> Entity {
    let types = directory.types();
    let id = user
        .id
        .strip_prefix(&*user.issuer)
        .and_then(|rest| rest.strip_prefix(':'))
        .unwrap_or(&user.id);
    let claims = user.claims.iter().map(|(name, claim)| {
        // What does not fit stands there for `has`; see `Asked::refuses`.
        let value = directory.claim_kind(name).value(claim);
        let value = value.unwrap_or_else(|| CedarValue::empty_record(None));
        (SmolStr::from(name.clone()), value)
    });
    Entity::new_with_attr_partial_value(
        types.user(&user.id),
        [
            (SmolStr::new_static("id"), string(id).into()),
            (
                SmolStr::new_static("issuer"),
                string(user.issuer.clone()).into(),
            ),
            (
                SmolStr::new_static("claims"),
                PartialValue::from(CedarValue::record(claims, None)),
            ),
        ],
        HashSet::new(),
        user.roles.iter().map(|role| types.role(role)).collect(),
        [],
    )
}
