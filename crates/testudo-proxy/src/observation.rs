//! One request's evidence: begun when its head is complete, ended when its response body has been sent
//! or dropped, and then one event in a bounded queue.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use testudo_guard::screen::Refusal;
use testudo_guard::{Denial, Now, Record};
use testudo_model::{Check, CheckResult, Event, Hop, Reason, Verdict};

use crate::core::{Core, Side};
use crate::trace::{Ids, OpenTrace, OpenTraces};

/// Longest method, host and path that an event holds (DESIGN §12).
const MAX_METHOD: usize = 32;
const MAX_HOST: usize = 255;
const MAX_PATH: usize = 1024;
const MAX_AGENT: usize = 128;

/// Counters that the request body fills while somebody else holds the [`Observation`].
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// Bytes of the request body that were read.
    pub(crate) bytes_in: Cell<u64>,
    /// Why reading the request body ended early.
    pub(crate) failure: Cell<Option<Reason>>,
    /// Whether more of it is to come, so that waiting for the response is not the service's fault.
    pub(crate) streaming: Cell<bool>,
}

/// One request, from its head to the last byte of its response.
pub(crate) struct Observation {
    core: Rc<Core>,
    side: Side,
    /// When its head was complete.
    pub(crate) started: Now,
    revision: u64,
    /// What the request is called.
    pub(crate) ids: Ids,
    /// What the checks found out.
    pub(crate) record: Record,
    /// Time spent in guard.
    pub(crate) guard: Duration,
    pub(crate) transfer: Rc<Transfer>,
    pub(crate) bytes_out: u64,
    method: String,
    host: String,
    path: String,
    agent: Option<String>,
    status: Option<StatusCode>,
    inside: Option<Reason>,
    denied: bool,
    open_trace: Option<OpenTrace>,
}

impl Observation {
    /// Begins; the head is read as it came, before anything is rewritten.
    pub(crate) fn start(
        core: &Rc<Core>,
        side: Side,
        head: &Parts,
        ids: Ids,
        started: Now,
        revision: u64,
    ) -> Self {
        let host = head
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| head.uri.authority().map(http::uri::Authority::as_str))
            .unwrap_or_default();
        Observation {
            core: core.clone(),
            side,
            started,
            revision,
            ids,
            record: Record::default(),
            guard: Duration::ZERO,
            transfer: Rc::default(),
            bytes_out: 0,
            method: cut(head.method.as_str(), MAX_METHOD),
            host: cut(host, MAX_HOST),
            path: cut(head.uri.path(), MAX_PATH),
            agent: (side == Side::Edge).then(|| agent(head)).flatten(),
            status: None,
            inside: None,
            denied: false,
            open_trace: None,
        }
    }

    /// The application works on this request until the observation ends.
    pub(crate) fn open_trace(&mut self) {
        self.open_trace = Some(OpenTraces::enter(&self.core.shared, &self.ids.trace_id));
    }

    /// The path as it was judged.
    pub(crate) fn judged_path(&mut self, path: &str) {
        if self.path != path {
            self.path = cut(path, MAX_PATH);
        }
    }

    /// Its head never became a request; what could be read of it is all there is.
    pub(crate) fn refused(&mut self, refusal: &Refusal, denial: &Denial) {
        self.method = cut(&refusal.method, MAX_METHOD);
        self.path = cut(
            refusal.target.split('?').next().unwrap_or_default(),
            MAX_PATH,
        );
        self.host = String::new();
        self.record.checks.push(Check {
            name: "normalize".into(),
            result: CheckResult::Fail,
            detail: denial.detail.clone(),
            policy: None,
            us: 0,
        });
    }

    /// It was refused here.
    pub(crate) fn denied(&mut self, denial: &Denial) {
        self.denied = true;
        self.record.reason = Some(denial.reason);
        if denial.policy.is_some() {
            self.record.policy.clone_from(&denial.policy);
        }
        let known = self
            .record
            .findings
            .iter()
            .any(|finding| finding.code == denial.reason.code());
        if !known && !denial.detail.is_empty() {
            self.record.findings.push(testudo_model::Finding {
                check: "verdict".into(),
                code: denial.reason.code().into(),
                detail: denial.detail.to_string(),
            });
        }
    }

    /// The status that the client gets.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The answer is a denial by a proxy further inside.
    pub(crate) fn denied_inside(&mut self, reason: &HeaderValue) {
        self.inside = reason.to_str().ok().and_then(Reason::from_code);
    }

    fn event(&mut self) -> Event {
        let record = std::mem::take(&mut self.record);
        let owned = |text: &Arc<str>| text.to_string();
        Event {
            time: jiff::Timestamp::from_microsecond(micros_signed(self.started.wall))
                .unwrap_or_default(),
            request_id: self.ids.request_id.to_string(),
            trace_id: self.ids.trace_id.to_string(),
            trace_guessed: self.ids.guessed,
            proxy: self.core.shared.name().to_string(),
            hop: match self.side {
                Side::Edge => Hop::Edge,
                Side::Inbound | Side::Outbound => Hop::Mesh,
            },
            revision: self.revision,
            caller: record.caller.as_ref().map(owned),
            user: record.user.as_ref().map(owned),
            roles: record
                .roles
                .iter()
                .flat_map(|roles| roles.iter().map(owned))
                .collect(),
            source_ip: record.source_ip,
            credential: record.credential.map(|name| format!("{name:016x}")),
            agent: self.agent.take(),
            service: record.service.as_ref().map(owned),
            operation: record.operation.as_ref().map(owned),
            method: std::mem::take(&mut self.method),
            host: std::mem::take(&mut self.host),
            path: std::mem::take(&mut self.path),
            status: self.status.map(|status| status.as_u16()),
            inside: self.inside,
            verdict: if self.denied {
                Verdict::Deny
            } else {
                Verdict::Permit
            },
            reason: record.reason,
            mode: record.mode,
            policy: record.policy,
            findings: record.findings,
            bytes_in: self.transfer.bytes_in.get(),
            bytes_out: self.bytes_out,
            duration_us: micros(crate::clock::monotonic().saturating_sub(self.started.monotonic)),
            guard_us: micros(self.guard),
            checks: record.checks.into_vec(),
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        // An outbound request is judged and seen by the other side's inbound; only refusals end here.
        if self.side == Side::Outbound && !self.denied {
            return;
        }
        let event = self.event();
        self.core.shared.events.send(event);
    }
}

/// What the client says it is; what is not text in it is replaced.
fn agent(head: &Parts) -> Option<String> {
    let bytes = head.headers.get(header::USER_AGENT)?.as_bytes();
    let start = bytes.get(..MAX_AGENT).unwrap_or(bytes);
    Some(match std::str::from_utf8(start) {
        Ok(text) => text.to_owned(),
        Err(_) => cut(&String::from_utf8_lossy(start), MAX_AGENT),
    })
}

/// The first `max` bytes, cut at a character.
fn cut(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn micros_signed(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(cut("abc", 5), "abc");
        assert_eq!(cut("aéb", 2), "a");
        assert_eq!(cut("", 2), "");
    }
}
