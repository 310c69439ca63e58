//! Deployments: a service whose revision changed or whose workload restarted. Context for everything
//! that is found soon after, and a reason for some detectors to wait.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::window::MergedWindow;

/// Proxies and changes that are remembered.
const MOST: usize = 4096;
/// For how long a change is context, in seconds.
const CONTEXT: u64 = 900;

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Deploys {
    proxies: BTreeMap<String, Seen>,
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Seen {
    started: u64,
    revision: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Change {
    at: u64,
    /// `None`: a gateway.
    service: Option<String>,
    what: String,
    /// A restarted workload, rather than a revision.
    restart: bool,
}

impl Deploys {
    /// Notes what changed. A proxy that is seen for the first time is a change only when it just started.
    pub fn take_in(&mut self, window: &MergedWindow) {
        let at = window.start;
        for seen in &window.proxies {
            let now = Seen {
                started: seen.started,
                revision: seen.revision,
            };
            let name = seen.proxy.to_string();
            let before = self.proxies.get(&name).copied();
            let service = seen.service.as_ref().map(ToString::to_string);
            let restarted = match before {
                Some(before) => before.started < now.started,
                None => at.saturating_sub(now.started) < CONTEXT,
            };
            if restarted {
                self.note(at, service.clone(), format!("{name} started"), true);
            }
            if before.is_some_and(|before| before.revision < now.revision) {
                let what = format!("revision {}", now.revision);
                self.note(at, service, what, false);
            }
            if before.is_some() || self.proxies.len() < MOST {
                self.proxies.insert(name, now);
            }
        }
        self.changes
            .retain(|change| at.saturating_sub(change.at) <= CONTEXT);
    }

    fn note(&mut self, at: u64, service: Option<String>, what: String, restart: bool) {
        let known = |change: &Change| change.service == service && change.what == what;
        if self.changes.len() < MOST && !self.changes.iter().any(known) {
            self.changes.push(Change {
                at,
                service,
                what,
                restart,
            });
        }
    }

    /// Whether a service (or, without one, a gateway) changed within the last `seconds`.
    pub fn recent(&self, service: Option<&str>, now: u64, seconds: u64) -> bool {
        self.changes
            .iter()
            .any(|c| c.service.as_deref() == service && now.saturating_sub(c.at) <= seconds)
    }

    /// Whether a workload of a service started within the last `seconds`: new code, which a new revision
    /// of the bundle is not.
    pub fn restarted(&self, service: &str, now: u64, seconds: u64) -> bool {
        let mut changes = self.changes.iter().filter(|change| change.restart);
        changes
            .any(|c| c.service.as_deref() == Some(service) && now.saturating_sub(c.at) <= seconds)
    }

    /// What changed lately for a service or anywhere at the edge, for people: `revision 4 since …`.
    pub fn context(&self, service: Option<&str>) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for change in &self.changes {
            let concerns = change.service.as_deref() == service
                || (!change.restart && change.service.is_none());
            if !concerns {
                continue;
            }
            let at = i64::try_from(change.at).unwrap_or(0);
            let at = jiff::Timestamp::from_second(at).unwrap_or_default();
            let word = if change.restart { "at" } else { "since" };
            let line = format!("{} {word} {at}", change.what);
            let same = |known: &String| known.starts_with(&format!("{} ", change.what));
            if !lines.iter().any(same) {
                lines.push(line);
            }
        }
        lines
    }
}
