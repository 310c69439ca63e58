//! What to do about an anomaly, in the names of the mesh it was found in: a limit, a line of policy.

use testudo_watch::detect::{Anomaly, Detector, SubjectKind};

/// What to do, and a line of Cedar that would close it where there is one.
pub(super) fn advice(anomaly: &Anomaly) -> (String, Option<String>) {
    let who = &anomaly.who.name;
    let what = &anomaly.what;
    let service = what.service.as_deref().unwrap_or("the service");
    let place = what.operation.as_deref().unwrap_or(service);
    let suggestion = match anomaly.detector {
        Detector::Enumeration => format!(
            "Let users ask {place} for their own objects only: compare the owner with principal.id in its permit. \
             A limit slows the walk: {}",
            limit(anomaly, 30)
        ),
        Detector::Scan => format!(
            "Paths that nobody serves are refused already; a limit for each address makes trying slow: {}",
            limit(anomaly, 60)
        ),
        Detector::Stuffing => format!(
            "Limit what one address may try: {}; and have the identity provider lock or challenge these accounts.",
            limit(anomaly, 20)
        ),
        Detector::TokenSharing => format!(
            "If {who} does not know these places: `testudo identity revoke --user {who}`, and a new sign-in. \
             Shorter token lifetimes make stolen ones useless sooner."
        ),
        Detector::Volume => format!(
            "Ask {who} what this is for; a limit bounds it: {}",
            limit(anomaly, 60)
        ),
        Detector::DroppedUser => format!(
            "{who} has to pass `Txn-Token` (or `traceparent`) on when it calls {place}. If this is a job of its own, \
             add {place} to its `acts_alone`."
        ),
        Detector::NewEdge => format!(
            "If {who} is meant to call {place}, acknowledge this; else revoke what permits it and look at {who}: its \
             key may be in other hands."
        ),
        Detector::Undocumented => format!(
            "Describe these operations in the specification of {service}, or set `undocumented: deny` for it."
        ),
        Detector::Probing => {
            "The limit holds. If this is a good client, it should honour Retry-After; else lower the limit.".to_owned()
        }
        Detector::Denials => format!(
            "Ask `testudo why` about a sample: either {who} may not do this, or a permit is missing at {place}."
        ),
        Detector::Errors => format!(
            "Look at the log of {service}; `testudo why` on a sample shows whether it answered or could not be reached."
        ),
        Detector::Latency => format!("Look at what {place} waits for: `testudo why` on a sample shows where time goes."),
        Detector::Rate => format!("If this is not wanted, bound it: {}", limit(anomaly, 600)),
    };
    (suggestion, policy(anomaly))
}

/// A line of `limits:` for the operation or service.
fn limit(anomaly: &Anomaly, rate: u32) -> String {
    let what = &anomaly.what;
    let operation = what
        .operation
        .as_deref()
        .and_then(|name| name.split_once(':'));
    let per = match anomaly.who.kind {
        SubjectKind::User => "user",
        SubjectKind::Service => "service",
        SubjectKind::Address | SubjectKind::Edge => "address",
    };
    let matched = match (operation, what.service.as_deref()) {
        (Some((service, operation)), _) => {
            format!("match: {{service: {service}, operation: {operation}}}, ")
        }
        (None, Some(service)) => format!("match: {{service: {service}}}, "),
        (None, None) => String::new(),
    };
    let name = operation.map_or("by-", |_| "operation-by-");
    format!("`limits: [{{name: {name}{per}, {matched}per: {per}, rate: {rate}/m}}]`")
}

/// Forbids exactly what was found; only for those who proved who they are.
fn policy(anomaly: &Anomaly) -> Option<String> {
    let principal = match anomaly.who.kind {
        SubjectKind::User => format!("User::{}", quoted(&anomaly.who.name)),
        SubjectKind::Service => format!("Service::{}", quoted(&anomaly.who.name)),
        SubjectKind::Address | SubjectKind::Edge => return None,
    };
    let useless = matches!(
        anomaly.detector,
        Detector::DroppedUser | Detector::Probing | Detector::TokenSharing
    );
    let what = &anomaly.what;
    let action = match (&what.operation, &what.service) {
        _ if useless => return None,
        (Some(operation), _) => format!("action == Action::{}", quoted(operation)),
        (None, Some(service)) => format!("action in Action::{}", quoted(&format!("{service}:*"))),
        (None, None) => return None,
    };
    Some(format!(
        "forbid (principal == {principal}, {action}, resource);"
    ))
}

/// A Cedar string: names come from traffic.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_default())
}
