//! Why was this request permitted or denied? All of its hops, from the proxies' rings, ordered into a
//! chain; the hop that decided, the cause across hops, and what would have to be true for a permit.
//!
//! [`explain`] is pure: events in, an answer out, the policies in force beside it. [`collect`] asks the
//! proxies of a running mesh ([`gather`]); [`local`] reads the rings on this host without control.

pub mod chain;
pub mod collect;
pub mod gather;
pub mod local;

mod cause;
mod permit;
mod repeat;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use testudo_model::{Check, Event, Hop, Reason, Verdict};
use testudo_policy::api::ApiModel;
use testudo_policy::cedar::Compiled;
use testudo_policy::config::Config;

use chain::Chain;

/// The answer, as `why -o json` and the HTTP API show it (DESIGN §12).
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// The request that was asked about.
    pub request_id: String,
    /// Its trace.
    pub trace_id: String,
    /// What became of it where it was decided.
    pub verdict: Verdict,
    /// Why it was denied, or would have been in mode enforce.
    pub reason: Option<Reason>,
    /// Who made the answer that the cause is about.
    pub by: By,
    /// Which of the hops decided: an index.
    pub decided: Option<usize>,
    /// Caller before service.
    pub hops: Vec<HopView>,
    /// What led to it, across hops; null where there is nothing to explain.
    pub cause: Option<String>,
    /// What would have to be true for a permit, one possibility each.
    pub permit_if: Vec<String>,
    /// The revision that `permit_if` is about; null: that of the files on this host.
    pub permit_revision: Option<u64>,
    /// Hops that must exist and are not kept, and proxies that could not be asked.
    pub missing: Vec<Missing>,
    /// A curl line that repeats the request, without its credentials; null where it began in the mesh.
    pub curl: Option<String>,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A request, by its id.
    Request(&'a str),
    /// The newest denial or would-be denial.
    LastDenial,
    /// The newest request.
    Last,
}

/// Whose answer it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// A check of ours denied, or would have.
    Testudo,
    /// The application answered with an error itself; every check of ours passed.
    Application,
    /// Nothing went wrong.
    Nobody,
}

/// One hop.
#[derive(Clone, Debug, Serialize)]
pub struct HopView {
    /// `edge`, `mesh 1`, …
    pub at: String,
    /// Which of the hops led here: an index.
    pub parent: Option<usize>,
    /// What its proxy recorded.
    #[serde(flatten)]
    pub event: Event,
    /// Always there, even where it is empty.
    #[serde(rename = "checks")]
    pub checks: Vec<Check>,
}

/// A hop that is not kept, or a proxy that could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The proxy, as far as it is known.
    pub proxy: String,
    /// Why it is missing.
    pub why: String,
    /// `mesh 1`, …; null: the proxy may have seen nothing of this request.
    pub at: Option<String>,
    /// Who called, where that is known.
    pub caller: Option<String>,
    /// Who was called; `gateway` for the edge.
    pub service: Option<String>,
    /// It stands before this one of the hops; null with `at`: behind all of them.
    pub before: Option<usize>,
}

/// What is known of the bundle.
#[derive(Clone, Copy)]
pub struct Knowledge<'a> {
    /// `testudo.yaml`.
    pub config: &'a Config,
    /// The APIs by service.
    pub apis: &'a BTreeMap<Arc<str>, ApiModel>,
    /// The policies.
    pub policies: &'a Compiled,
    /// The revision; `None`: files that may not be in force.
    pub revision: Option<u64>,
}

/// A proxy that could have seen the request.
#[derive(Clone, Debug)]
pub struct KnownProxy {
    /// Its name.
    pub name: String,
    /// Its service, or `gateway`.
    pub service: String,
    /// Where it is reached.
    pub advertise: Option<String>,
}

/// Everything that an explanation is made of.
pub struct Evidence<'a> {
    /// The request that was asked about.
    pub request_id: &'a str,
    /// Events of one trace.
    pub events: Vec<Event>,
    /// Proxies whose word is missing or not whole, and why.
    pub silent: BTreeMap<String, String>,
    /// Who could have seen the request.
    pub proxies: Vec<KnownProxy>,
    /// The bundle, where it can be had.
    pub knowledge: Option<Knowledge<'a>>,
}

/// Puts the answer together; `None` where nothing is kept of the request.
#[must_use]
pub fn explain(evidence: Evidence<'_>) -> Option<Why> {
    let Evidence {
        request_id,
        events,
        silent,
        proxies,
        knowledge,
    } = evidence;
    let chain = Chain::new(events, knowledge);
    let asked = chain
        .hops
        .iter()
        .position(|hop| hop.event.request_id == request_id)?;
    let (decided, by) = cause::decide(&chain, request_id);
    let shown = decided.unwrap_or(asked);
    let event = &chain.hops.get(shown)?.event;
    let (verdict, reason) = match by {
        By::Testudo => (event.verdict, event.reason),
        By::Application | By::Nobody => (Verdict::Permit, None),
    };
    let permit_if = match (decided, by) {
        (Some(index), By::Testudo) => permit::permit_if(&chain, index, knowledge),
        _ => Vec::new(),
    };
    Some(Why {
        request_id: request_id.to_owned(),
        trace_id: event.trace_id.clone(),
        verdict,
        reason,
        by,
        decided,
        cause: match decided {
            Some(index) => cause::cause(&chain, index, by, knowledge),
            None => cause::unanswered(&chain, request_id),
        },
        permit_revision: knowledge
            .and_then(|knowledge| knowledge.revision)
            .filter(|_| !permit_if.is_empty()),
        permit_if,
        missing: missing(&chain, &silent, &proxies),
        curl: repeat::curl(&chain, knowledge, &proxies),
        hops: chain.into_views(),
    })
}

fn missing(
    chain: &Chain,
    silent: &BTreeMap<String, String>,
    proxies: &[KnownProxy],
) -> Vec<Missing> {
    let mut named = Vec::new();
    let mut missing: Vec<Missing> = chain
        .gaps
        .iter()
        .map(|gap| {
            let of_service = proxies.iter().filter(|proxy| proxy.service == gap.service);
            let names: Vec<&str> = of_service.map(|proxy| proxy.name.as_str()).collect();
            let silent = names
                .iter()
                .find_map(|name| Some((*name, silent.get(*name)?)));
            named.extend(silent.map(|(name, _)| name.to_owned()));
            Missing {
                proxy: match (&silent, names.as_slice()) {
                    (Some((name, _)), _) => (*name).to_owned(),
                    (None, []) if gap.service == "gateway" => "a gateway".to_owned(),
                    (None, []) => format!("a sidecar of {}", gap.service),
                    (None, names) => names.join(" or "),
                },
                why: silent.map_or_else(
                    || "its ring does not have it: washed out, or sent around it".to_owned(),
                    |(_, why)| why.clone(),
                ),
                at: Some(gap.at.clone()),
                caller: gap.caller.clone(),
                service: Some(gap.service.clone()),
                before: gap.before,
            }
        })
        .collect();
    let others = silent.iter().filter(|(name, _)| !named.contains(name));
    missing.extend(others.map(|(name, why)| Missing {
        proxy: name.clone(),
        why: why.clone(),
        at: None,
        caller: None,
        service: None,
        before: None,
    }));
    missing
}

/// Whether this was recorded by the caller's own sidecar, which did not even let it out.
#[must_use]
pub fn is_refused_outbound(event: &Event) -> bool {
    let has = |name: &str| event.checks.iter().any(|check| check.name == name);
    event.hop == Hop::Mesh
        && event.verdict == Verdict::Deny
        && !has("mtls")
        && (event.caller.is_some() || has("sender"))
}

/// The service whose proxy recorded this, or `gateway`.
fn service_of(event: &Event) -> String {
    let service = match event.hop {
        Hop::Edge => return "gateway".to_owned(),
        Hop::Mesh if is_refused_outbound(event) => &event.caller,
        Hop::Mesh => &event.service,
    };
    service.clone().unwrap_or_default()
}
