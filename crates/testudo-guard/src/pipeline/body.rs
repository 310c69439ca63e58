//! The second half: a request whose head was permitted, its body, and the permit.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use testudo_model::{Hop, Mode, Reason};

use super::arrival::report_violation;
use super::judge::Judge;
use super::question::{Asked, Questions};
use super::target::Target;
use crate::authn::User;
use crate::now::Now;
use crate::peer::Caller;
use crate::record::{Denial, Record};
use crate::schema::{BodyRule, Strictness, Values};

/// A request whose head was permitted; its body is still to be judged.
pub struct BodyCheck {
    target: Target,
    rule: BodyRule,
    values: Values,
    /// Questions that read the body.
    deferred: Asked,
    hop: Hop,
    source_ip: Option<IpAddr>,
    user: Option<Arc<User>>,
    caller: Option<Caller>,
    mode: Mode,
}

/// How the body must be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// Nothing reaches upstream before all of it was judged; at most so many bytes.
    Buffer(u64),
    /// It may stream; at most so many bytes (`request.too_large` ends it).
    Stream(u64),
}

/// Proof that guard permitted this request. Only guard can make one:
///
/// ```compile_fail
/// fn forged(target: testudo_guard::pipeline::Target) -> testudo_guard::Permit {
///     testudo_guard::Permit { target }
/// }
/// ```
pub struct Permit {
    target: Target,
}

impl BodyCheck {
    pub(super) fn new(
        mut target: Target,
        rule: BodyRule,
        values: Values,
        deferred: Asked,
        questions: &Questions<'_>,
        mode: Mode,
    ) -> BodyCheck {
        target.set_mode(mode);
        BodyCheck {
            target,
            rule,
            values,
            deferred,
            hop: questions.hop,
            source_ip: questions.source_ip,
            user: questions.user.cloned(),
            caller: questions.caller.cloned(),
            mode,
        }
    }

    /// How the body must be handled.
    pub fn plan(&self) -> BodyPlan {
        let api = &self.target.service.api;
        if self.mode == Mode::Observe {
            return BodyPlan::Stream(u64::MAX);
        }
        let judged = self.rule.needs_body() && api.requests != Strictness::Off;
        if judged || !self.deferred.is_empty() {
            BodyPlan::Buffer(api.max_body)
        } else {
            BodyPlan::Stream(api.max_body)
        }
    }

    /// Where it goes if permitted.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Judges a complete body ([`BodyPlan::Buffer`]; empty where none follows).
    ///
    /// # Errors
    /// The denial.
    pub fn finish(mut self, body: &Bytes, record: &mut Record, now: Now) -> Result<Permit, Denial> {
        match self.judge(body, record, now) {
            Ok(()) => Ok(Permit {
                target: self.target,
            }),
            Err(denial) => Err(self.target.with_response_headers(denial)),
        }
    }

    fn judge(&mut self, body: &[u8], record: &mut Record, now: Now) -> Result<(), Denial> {
        let mut judge = Judge::resume(record, self.mode);
        let (BodyPlan::Buffer(cap) | BodyPlan::Stream(cap)) = self.plan();
        if u64::try_from(body.len()).unwrap_or(u64::MAX) > cap {
            let denial = Denial::new(Reason::RequestTooLarge, "the body is over max_body");
            return Err(judge.refuse("body", denial));
        }
        let Some(operation) = self.target.operation.clone() else {
            return Ok(());
        };
        let mut violation = None;
        if self.rule.needs_body() && self.mode != Mode::Observe {
            match operation
                .schema
                .check_body(self.rule, body, &mut self.values)
            {
                Ok(()) => judge.pass("body", "", operation.source.as_ref()),
                Err(found) => violation = Some(found),
            }
        }
        // As with the head: first whether it may be done at all, then whether it is done well.
        if !self.deferred.is_empty() {
            self.values.body.get_or_insert_default();
            let questions = Questions {
                hop: self.hop,
                source_ip: self.source_ip,
                user: self.user.as_ref(),
                caller: self.caller.as_ref(),
            };
            let asked = std::mem::take(&mut self.deferred);
            let violation = violation.as_ref();
            questions.ask(asked, &operation, &self.values, violation, &mut judge, now)?;
        }
        match violation {
            Some(violation) => {
                let strictness = self.target.service.api.requests;
                report_violation(strictness, "body", violation, &mut judge)
            }
            None => Ok(()),
        }
    }

    /// Permits streaming ([`BodyPlan::Stream`]); the caller enforces the cap as bytes pass.
    ///
    /// # Errors
    /// The denial, if the plan is not to stream.
    pub fn stream(self, record: &mut Record) -> Result<Permit, Denial> {
        match self.plan() {
            BodyPlan::Stream(_) => Ok(Permit {
                target: self.target,
            }),
            BodyPlan::Buffer(_) => {
                let detail = "the body must be judged before it is sent on";
                let denial = Denial::new(Reason::AuthzError, detail);
                let mut judge = Judge::resume(record, Mode::Enforce);
                Err(self
                    .target
                    .with_response_headers(judge.refuse("body", denial)))
            }
        }
    }
}

impl Permit {
    /// Where the request goes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The same, without the permit: it has been used.
    pub fn into_target(self) -> Target {
        self.target
    }
}
