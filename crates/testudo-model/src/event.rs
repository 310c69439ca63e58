//! One event for each request: what `observe` prints, what the decision log holds, what `why` reads.
//! Field names are contracts (DESIGN §12).

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Reason;

/// Where in the mesh a decision was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hop {
    /// At the gateway.
    Edge,
    /// At a sidecar.
    Mesh,
}

impl Hop {
    /// `edge` or `mesh`, as policies see it in `context.hop`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Hop::Edge => "edge",
            Hop::Mesh => "mesh",
        }
    }
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was let through. With a `reason`, it would have been denied in mode enforce.
    Permit,
    /// It was stopped.
    Deny,
}

/// Whether a failed check stops a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Decide and deny.
    #[default]
    Enforce,
    /// Decide, record the reason, let pass.
    Report,
    /// Record what came, decide nothing.
    Observe,
}

/// The line of a bundle that decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Path in the bundle.
    pub file: Cow<'static, str>,
    /// Line, from 1.
    pub line: u32,
}

/// Something that a check noticed, whether or not it blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check: `normalize`, `schema`, `authn`, …
    pub check: Cow<'static, str>,
    /// A stable code; that of a reason where it would have denied.
    pub code: Cow<'static, str>,
    /// For people. Never holds a credential or a body.
    pub detail: String,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// It held.
    Pass,
    /// It did not hold.
    Fail,
    /// It did not apply.
    Skip,
}

/// One check of one hop, as `why` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `normalize`, `route`, `mtls`, `authn`, `user`, `caller`, `schema`, `limit`, `body`, …
    pub name: Cow<'static, str>,
    /// How it ended.
    pub result: CheckResult,
    /// For people.
    pub detail: Cow<'static, str>,
    /// The line that decided, where a policy, a limit or a route did.
    pub policy: Option<PolicyRef>,
    /// Time spent, in microseconds.
    pub us: u32,
}

/// What happened to one request at one proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When the request arrived (RFC 3339 with microseconds, UTC).
    pub time: jiff::Timestamp,
    /// `x-request-id`; the edge makes it.
    pub request_id: String,
    /// W3C trace id, 32 hex digits.
    pub trace_id: String,
    /// The trace id is a guess: the application passed none on, and worked on one request only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trace_guessed: bool,
    /// The proxy's name, for example `gateway-1`.
    pub proxy: String,
    /// Edge or mesh.
    pub hop: Hop,
    /// The revision that decided; 0 for none.
    pub revision: u64,
    /// The service that made this hop (proven by mTLS), `gateway`, or null at the edge.
    pub caller: Option<String>,
    /// `ISSUER:ID`, `anonymous`, or null where no user travels along.
    pub user: Option<String>,
    /// The user's roles.
    pub roles: Vec<String>,
    /// The client's address at the edge; inside, the one that the gateway saw where it is known.
    pub source_ip: Option<IpAddr>,
    /// Which credential came at the edge, right or wrong: 16 hex digits of a BLAKE3 hash. Never the
    /// credential, and of a wrong one nothing that could be guessed at: its hash is keyed by the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// `User-Agent` at the edge, cut to 128 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The service that was called.
    pub service: Option<String>,
    /// `SERVICE:OPERATION`.
    pub operation: Option<String>,
    /// Request method, as sent, cut to 32 bytes.
    pub method: String,
    /// Host, as sent, cut.
    pub host: String,
    /// Path without query, as judged, cut to 1 KiB.
    pub path: String,
    /// HTTP status of the response; null where the connection broke before one.
    pub status: Option<u16>,
    /// The answer that was passed on is a denial by a proxy further inside, for this reason, and not the
    /// application's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Reason>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it was denied, or would have been in mode enforce.
    pub reason: Option<Reason>,
    /// The mode of the service.
    pub mode: Mode,
    /// The line that decided.
    pub policy: Option<PolicyRef>,
    /// What checks noticed.
    pub findings: Vec<Finding>,
    /// Request body bytes.
    pub bytes_in: u64,
    /// Response body bytes.
    pub bytes_out: u64,
    /// From the first byte judged to the last byte sent, in microseconds.
    pub duration_us: u64,
    /// Time spent in the guard, in microseconds.
    pub guard_us: u64,
    /// The checks, for `why`; the decision log leaves them out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

impl Event {
    /// As `observe` and the decision log show it: without its checks.
    #[must_use]
    pub fn without_checks(&self) -> Event {
        Event {
            checks: Vec::new(),
            ..self.clone()
        }
    }
}
