//! What was asked of what by whom in the last minutes, as far as control knows: the measure of what a
//! containment would touch.

use std::collections::BTreeMap;

use testudo_model::{Event, Hop, Verdict};

use super::{Containment, Kind};
use crate::decisions::{Decisions, Filter};

/// Events of the past that are looked at.
const EVENTS: usize = 8192;

/// Requests that were alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When, in seconds since the epoch.
    pub at: u64,
    /// Where it was judged.
    pub hop: Hop,
    /// The verified user.
    pub user: Option<String>,
    /// The proven caller.
    pub caller: Option<String>,
    /// The called service.
    pub service: String,
    /// `SERVICE:OPERATION`.
    pub operation: Option<String>,
    /// Let through, and not only because of mode report.
    pub served: bool,
    /// How many.
    pub count: u64,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// In no order.
    pub calls: Vec<Call>,
    /// When it ends, in seconds since the epoch.
    pub until: u64,
}

impl Traffic {
    /// From the decisions between these two moments.
    pub fn of(decisions: &Decisions, after: u64, until: u64) -> Traffic {
        let events = decisions.newest(&Filter::default(), EVENTS);
        let mut counted = BTreeMap::new();
        for event in &events {
            if let Some(call) = Call::of(event).filter(|call| call.at >= after) {
                let key = (
                    call.at,
                    call.hop.as_str(),
                    call.user.clone(),
                    call.caller.clone(),
                    call.operation.clone(),
                    (call.service.clone(), call.served),
                );
                counted
                    .entry(key)
                    .or_insert(Call { count: 0, ..call })
                    .count += 1;
            }
        }
        Traffic {
            calls: counted.into_values().collect(),
            until,
        }
    }

    /// What was served before `moment`; all that was served, where that is too little to tell.
    pub(super) fn usual(&self, moment: Option<u64>) -> Traffic {
        const ENOUGH: u64 = 50;
        let served = || self.calls.iter().filter(|call| call.served);
        let before = |call: &&Call| moment.is_none_or(|moment| call.at < moment);
        let earlier: u64 = served().filter(before).map(|call| call.count).sum();
        match (earlier >= ENOUGH, moment) {
            (true, Some(moment)) => Traffic {
                calls: served().filter(before).cloned().collect(),
                until: moment.min(self.until),
            },
            (true | false, _) => Traffic {
                calls: served().cloned().collect(),
                until: self.until,
            },
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.calls.iter().map(|call| call.count).sum()
    }

    /// Seconds from the first of them to the end, at least one.
    pub(super) fn seconds(&self) -> u64 {
        let first = self.calls.iter().map(|call| call.at).min();
        self.until
            .saturating_sub(first.unwrap_or(self.until))
            .max(1)
    }
}

impl Call {
    fn of(event: &Event) -> Option<Call> {
        Some(Call {
            at: u64::try_from(event.time.as_second()).ok()?,
            hop: event.hop,
            user: event.user.clone(),
            caller: event.caller.clone(),
            service: event.service.clone()?,
            operation: event.operation.clone(),
            served: event.verdict == Verdict::Permit && event.reason.is_none(),
            count: 1,
        })
    }

    /// Who a containment of this kind would be of.
    pub(super) fn principal(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::User => self.user.as_deref(),
            Kind::Service => self.caller.as_deref().filter(|_| self.hop == Hop::Mesh),
        }
    }

    /// Whether it goes to this operation, or to this service.
    pub(super) fn is_at(&self, service: &str, operation: Option<&str>) -> bool {
        self.service == service
            && operation.is_none_or(|operation| self.operation.as_deref() == Some(operation))
    }

    pub(super) fn is_touched(&self, containment: &Containment) -> bool {
        self.principal(containment.kind) == Some(containment.principal.as_str())
            && self.is_at(&containment.service, containment.operation.as_deref())
    }
}
