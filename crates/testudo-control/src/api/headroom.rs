//! How much room is left under each limit: from the checks of the decisions that control keeps, which say how much of
//! its burst a key had used. What was decided longer ago than asked for doesn't count.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use testudo_guard::limit::LimitRule;
use testudo_model::{CheckResult, Event};

use crate::Control;
use crate::decisions::Filter;

/// More than are kept: all of them.
const ALL: usize = usize::MAX;

/// A limit of the bundle, and the fullest that any of its keys was.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Headroom {
    name: Arc<str>,
    service: Option<String>,
    /// Of the burst; 1 is used up. `null`: no kept decision counted against it.
    used_max: Option<f64>,
}

/// Every limit of the newest revision, in the bundle's order.
pub(super) fn headroom(control: &Control, since: Timestamp) -> Vec<Headroom> {
    let Some(current) = control.revisions.current() else {
        return Vec::new();
    };
    let limits = &current.config.limits;
    if limits.is_empty() {
        return Vec::new();
    }
    let kept = control.decisions.newest(&Filter::default(), ALL);
    let recent = kept.partition_point(|event| event.time < since);
    let recent = kept.get(recent..).unwrap_or_default();
    limits.iter().map(|limit| of(&limit.rule, recent)).collect()
}

fn of(rule: &LimitRule, events: &[Arc<Event>]) -> Headroom {
    let used_max = events
        .iter()
        .flat_map(|event| &event.checks)
        .filter(|check| check.name == "limit" && check.policy.as_ref() == Some(&rule.source))
        .filter_map(|check| match check.result {
            CheckResult::Fail => Some(1.0),
            CheckResult::Pass => share(&check.detail),
            CheckResult::Skip => None,
        })
        .reduce(f64::max);
    Headroom {
        name: Arc::clone(&rule.name),
        service: rule.matches.service.as_deref().map(str::to_owned),
        used_max,
    }
}

/// `3 of 200`, as guard writes it.
fn share(detail: &str) -> Option<f64> {
    let (used, burst) = detail.split_once(" of ")?;
    let (used, burst): (u32, u32) = (used.parse().ok()?, burst.parse().ok()?);
    (burst > 0).then(|| f64::from(used) / f64::from(burst))
}

#[cfg(test)]
mod tests {
    use testudo_guard::limit::{LimitKey, LimitMatch, LimitScope};
    use testudo_model::{Check, PolicyRef};

    use super::*;

    fn rule(line: u32) -> LimitRule {
        LimitRule {
            name: Arc::from("per-user"),
            source: source(line),
            matches: LimitMatch::default(),
            per: LimitKey::User,
            interval: std::time::Duration::from_millis(10),
            burst: 100,
            scope: LimitScope::Proxy,
        }
    }

    fn source(line: u32) -> PolicyRef {
        PolicyRef {
            file: "testudo.yaml".into(),
            line,
        }
    }

    fn event(result: CheckResult, detail: &'static str, line: u32) -> Arc<Event> {
        let mut event = crate::decisions::tests::event("orders", None, 1_800_000_000);
        event.checks.push(Check {
            name: "limit".into(),
            result,
            detail: detail.into(),
            policy: Some(source(line)),
            us: 1,
        });
        Arc::new(event)
    }

    #[test]
    fn the_fullest_key_says_how_much_room_there_is() {
        let events = [
            event(CheckResult::Pass, "3 of 100", 4),
            event(CheckResult::Pass, "42 of 100", 4),
            event(CheckResult::Pass, "99 of 100", 9),
            event(CheckResult::Pass, "nonsense", 4),
        ];
        assert_eq!(of(&rule(4), &events).used_max, Some(0.42));
        assert_eq!(of(&rule(5), &events).used_max, None);
        let used_up = [event(CheckResult::Fail, "per-user is used up", 4)];
        assert_eq!(of(&rule(4), &used_up).used_max, Some(1.0));
    }
}
