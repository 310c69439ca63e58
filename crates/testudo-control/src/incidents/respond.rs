//! Who is to be contained: the rules that are the detectors'. How far it may go is
//! [`Control::contain`](crate::Control)'s to say, for everybody.

use testudo_watch::detect::{Detector, SubjectKind};

use super::{Incident, State};
use crate::Control;
use crate::containment::{Action, By, ContainRequest, Kind};

/// Whether an incident asks for a containment: its detector is one where narrowing helps, somebody who
/// proved who they are did it, on a known service, and nobody muted or closed it.
pub fn wants_containment(incident: &Incident) -> bool {
    incident.detector.is_containable()
        && incident.who.is_verified()
        && incident.what.service.is_some()
        && matches!(incident.state, State::Open | State::Acknowledged)
}

/// Asks for it, again as long as it goes on: the first time throttles, and where that does not end it,
/// denies. The containment as JSON, if it is in force; why not is logged once.
pub(super) fn contain(control: &Control, incident: &Incident) -> Option<serde_json::Value> {
    let kind = match incident.who.kind {
        SubjectKind::User => Kind::User,
        SubjectKind::Service => Kind::Service,
        SubjectKind::Address | SubjectKind::Edge => return None,
    };
    let request = ContainRequest {
        kind,
        principal: incident.who.name.clone(),
        service: incident.what.service.clone()?,
        operation: incident.what.operation.clone(),
        action: Action::Deny,
        rate: None,
        length: None,
        reason: cut(&incident.title),
        incident: Some(incident.id.clone()),
        by: By::Watch,
        force: false,
        anomaly_since: u64::try_from(incident.first.as_second())
            .ok()
            .map(|first| first.saturating_sub(evidence(incident.detector))),
    };
    match control.contain(&request) {
        Ok(containment) => serde_json::to_value(containment).ok(),
        Err(error) => {
            // It is asked for again in two seconds.
            if incident.count == 1 {
                tracing::warn!(id = incident.id, %error, "an incident is not contained");
            } else {
                tracing::debug!(id = incident.id, %error, "an incident is not contained");
            }
            None
        }
    }
}

/// Titles hold names from traffic, which may be long.
fn cut(title: &str) -> String {
    let mut end = title.len().min(400);
    while !title.is_char_boundary(end) {
        end -= 1;
    }
    title.get(..end).unwrap_or_default().to_owned()
}

/// Over how many seconds a detector sums up: what was before the first sight of an incident may be part
/// of it, and is no measure of what is usual.
const fn evidence(detector: Detector) -> u64 {
    match detector {
        Detector::TokenSharing => 300,
        _ => 60,
    }
}
