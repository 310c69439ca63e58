//! What becomes of a check that fails: by the service's mode it denies, or is written down.

use std::borrow::Cow;
use std::time::Duration;

use testudo_model::{Check, CheckResult, Finding, Mode, PolicyRef};

use crate::live::Live;
use crate::now::Now;
use crate::record::{Denial, Record};
use crate::schema::Strictness;
use crate::snapshot::Service;

/// Writes each check down and applies the mode.
pub(crate) struct Judge<'a> {
    record: &'a mut Record,
    mode: Mode,
    /// When the last check ended, by the record's stopwatch.
    last: Duration,
}

impl<'a> Judge<'a> {
    /// Enforces until [`Judge::set_service`] says otherwise.
    pub(crate) fn new(record: &'a mut Record) -> Self {
        let last = record.stopwatch.map_or(Duration::ZERO, |read| read());
        Judge {
            mode: Mode::Enforce,
            record,
            last,
        }
    }

    /// Goes on with a mode that was decided before.
    pub(crate) fn resume(record: &'a mut Record, mode: Mode) -> Self {
        Judge {
            mode,
            ..Judge::new(record)
        }
    }

    pub(crate) fn record(&mut self) -> &mut Record {
        self.record
    }

    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        self.record.mode = mode;
    }

    pub(crate) fn set_service(&mut self, service: &Service, live: &Live, now: Now) {
        self.set_mode(live.mode_of(service, now));
        self.record.service = Some(service.name.clone());
    }

    /// The check held.
    pub(crate) fn pass(
        &mut self,
        name: &'static str,
        detail: impl Into<Cow<'static, str>>,
        policy: Option<&PolicyRef>,
    ) {
        self.write(name, CheckResult::Pass, detail.into(), policy.cloned());
    }

    /// The check does not apply.
    pub(crate) fn skip(&mut self, name: &'static str, why: &'static str) {
        self.write(name, CheckResult::Skip, Cow::Borrowed(why), None);
    }

    /// A check whose failure is refused in every mode.
    pub(crate) fn must<T>(
        &mut self,
        name: &'static str,
        outcome: Result<T, Denial>,
    ) -> Result<T, Denial> {
        match outcome {
            Ok(value) => {
                self.pass(name, "", None);
                Ok(value)
            }
            Err(denial) => Err(self.refuse(name, denial)),
        }
    }

    /// Refuses in every mode.
    pub(crate) fn refuse(&mut self, name: &'static str, denial: Denial) -> Denial {
        self.write_failure(name, &denial);
        self.record.reason = Some(denial.reason);
        self.record.policy.clone_from(&denial.policy);
        denial
    }

    /// The check failed: denies in mode enforce.
    ///
    /// # Errors
    /// The denial, in mode enforce.
    pub(crate) fn fail(&mut self, name: &'static str, denial: Denial) -> Result<(), Denial> {
        self.fail_in(self.mode, name, denial)
    }

    /// The same where the specification's own strictness may soften the mode.
    ///
    /// # Errors
    /// The denial, in mode enforce with strictness enforce.
    pub(crate) fn fail_strictly(
        &mut self,
        strictness: Strictness,
        name: &'static str,
        denial: Denial,
    ) -> Result<(), Denial> {
        let mode = match (self.mode, strictness) {
            (Mode::Enforce, Strictness::Enforce) => Mode::Enforce,
            (Mode::Enforce | Mode::Report, _) => Mode::Report,
            (Mode::Observe, _) => Mode::Observe,
        };
        self.fail_in(mode, name, denial)
    }

    fn fail_in(&mut self, mode: Mode, name: &'static str, denial: Denial) -> Result<(), Denial> {
        if mode == Mode::Enforce {
            return Err(self.refuse(name, denial));
        }
        self.write_failure(name, &denial);
        self.record.findings.push(Finding {
            check: Cow::Borrowed(name),
            code: Cow::Borrowed(denial.reason.code()),
            detail: denial.detail.into_owned(),
        });
        // The first reason is the one that would have denied.
        if mode == Mode::Report && self.record.reason.is_none() {
            self.record.reason = Some(denial.reason);
            self.record.policy = denial.policy;
        }
        Ok(())
    }

    fn write_failure(&mut self, name: &'static str, denial: &Denial) {
        let detail = denial.detail.clone();
        self.write(name, CheckResult::Fail, detail, denial.policy.clone());
    }

    fn write(
        &mut self,
        name: &'static str,
        result: CheckResult,
        detail: Cow<'static, str>,
        policy: Option<PolicyRef>,
    ) {
        let us = match self.record.stopwatch {
            None => 0,
            Some(read) => {
                let now = read();
                let spent = now.saturating_sub(self.last);
                self.last = now;
                u32::try_from(spent.as_micros()).unwrap_or(u32::MAX)
            }
        };
        self.record.checks.push(Check {
            name: Cow::Borrowed(name),
            result,
            detail,
            policy,
            us,
        });
    }
}
