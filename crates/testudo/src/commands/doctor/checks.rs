//! What `doctor` looks at. Pure: the answers of the API and the clock go in, findings come out; only
//! [`examine_state`] looks at files.

pub(super) mod edge;
mod narrowing;
mod watching;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Renewal happens at half life; less than a quarter left means that it failed for a while.
const RENEWAL_SHARE: i64 = 4;
/// Before then, the issuing authority must have been renewed.
const AUTHORITY_WARNING: SignedDuration = SignedDuration::from_hours(24 * 30);
/// SVIDs are backdated by so much; a clock that is off further breaks them.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    Warning,
    Bad,
}

/// One line of the report.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) about: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

impl Finding {
    fn new(level: Level, about: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            level,
            about,
            message: message.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: &'static str) -> Finding {
        self.hint = Some(hint);
        self
    }

    pub(super) fn to_json(&self) -> Value {
        let level = match self.level {
            Level::Good => "ok",
            Level::Warning => "warning",
            Level::Bad => "bad",
        };
        json!({"level": level, "about": self.about, "message": self.message, "hint": self.hint})
    }
}

/// What the control plane says.
pub(super) struct Mesh {
    pub(super) status: Value,
    pub(super) proxies: Vec<Value>,
    pub(super) services: Vec<Value>,
    pub(super) identities: Vec<Value>,
    pub(super) modes: Vec<Value>,
    pub(super) containments: Vec<Value>,
    pub(super) now: Timestamp,
}

/// Everything but files.
pub(super) fn examine(mesh: &Mesh) -> Vec<Finding> {
    let mut findings = vec![bundle(mesh), revisions(mesh), readiness(mesh)];
    findings.extend(workloads(mesh));
    findings.push(certificates(mesh));
    findings.extend(authority(mesh));
    findings.push(exposure(mesh));
    findings.push(clock(mesh));
    findings.push(dropped(mesh));
    findings.extend(watching::examine(mesh));
    findings.extend(narrowing::modes(mesh));
    findings.extend(narrowing::containments(mesh));
    findings
}

fn bundle(mesh: &Mesh) -> Finding {
    match mesh.status.get("bundle_error").and_then(Value::as_str) {
        Some(error) => Finding::new(
            Level::Bad,
            "bundle",
            format!("what was saved last is not applied: {error}"),
        )
        .hint("`testudo check` shows every error"),
        None => Finding::new(
            Level::Good,
            "bundle",
            format!("revision {}", number(&mesh.status, "revision")),
        ),
    }
}

fn revisions(mesh: &Mesh) -> Finding {
    let newest = number(&mesh.status, "revision");
    let behind: Vec<String> = mesh
        .proxies
        .iter()
        .filter(|proxy| number(proxy, "revision") != newest)
        .map(|proxy| {
            let error = proxy
                .get("error")
                .and_then(Value::as_str)
                .unwrap_or("not yet installed");
            format!(
                "{} runs {} ({error})",
                text(proxy, "name"),
                number(proxy, "revision")
            )
        })
        .collect();
    if newest == 0 {
        return Finding::new(
            Level::Bad,
            "revisions",
            "there is no revision yet: every request is denied (not_ready)",
        )
        .hint("`testudo policy apply DIR`, or fix the bundle that control watches");
    }
    if behind.is_empty() {
        Finding::new(
            Level::Good,
            "revisions",
            format!("all {} proxies run revision {newest}", mesh.proxies.len()),
        )
    } else {
        Finding::new(Level::Bad, "revisions", behind.join("; "))
            .hint("`testudo proxy show NAME` says why")
    }
}

fn readiness(mesh: &Mesh) -> Finding {
    let waiting: Vec<String> = mesh
        .proxies
        .iter()
        .filter(|proxy| proxy.get("ready") != Some(&Value::Bool(true)))
        .map(|proxy| text(proxy, "name"))
        .collect();
    if waiting.is_empty() {
        Finding::new(
            Level::Good,
            "proxies",
            format!("{} connected and ready", mesh.proxies.len()),
        )
    } else {
        Finding::new(
            Level::Bad,
            "proxies",
            format!("not ready: {}", waiting.join(", ")),
        )
        .hint("their logs say why; under `testudo up` they are in .testudo/logs")
    }
}

/// Services that should have sidecars and have too few.
fn workloads(mesh: &Mesh) -> Vec<Finding> {
    let missing = mesh.services.iter().filter_map(|service| {
        if service.get("sidecar") != Some(&Value::Bool(true)) {
            return None;
        }
        let (wanted, ready) = (
            number(service, "workloads").max(1),
            number(service, "ready"),
        );
        (ready < wanted).then(|| {
            let name = text(service, "name");
            Finding::new(
                Level::Bad,
                "workloads",
                format!("{name} has {ready} of {wanted} sidecars ready"),
            )
            .hint(
                "`testudo identity issue --join SERVICE`, then `testudo proxy SERVICE …` beside it",
            )
        })
    });
    missing.collect()
}

fn certificates(mesh: &Mesh) -> Finding {
    let mut ending = Vec::new();
    let mut soonest: Option<(SignedDuration, String)> = None;
    for proxy in &mesh.proxies {
        let Some(end) = time(proxy, "svid_not_after") else {
            ending.push(format!("{} has no SVID", text(proxy, "name")));
            continue;
        };
        let left = end.duration_since(mesh.now);
        let lifetime = lifetime(mesh, proxy, end);
        if left.is_negative() {
            ending.push(format!("{}'s SVID has expired", text(proxy, "name")));
        } else if left.as_secs() < lifetime.as_secs() / RENEWAL_SHARE {
            ending.push(format!(
                "{}'s SVID ends in {}",
                text(proxy, "name"),
                days(left)
            ));
        }
        if soonest.as_ref().is_none_or(|(other, _)| left < *other) {
            soonest = Some((left, text(proxy, "name")));
        }
    }
    match (ending.is_empty(), soonest) {
        (false, _) => Finding::new(Level::Bad, "certificates", ending.join("; "))
            .hint("renewal happens at half life and needs the control plane's mesh port; see the proxy's log"),
        (true, Some((left, name))) => {
            Finding::new(Level::Good, "certificates", format!("the first to end is {name}'s, in {}; renewal is automatic", days(left)))
        }
        (true, None) => Finding::new(Level::Good, "certificates", "no proxy is connected"),
    }
}

/// How long the SVID is valid altogether, as far as known.
fn lifetime(mesh: &Mesh, proxy: &Value, end: Timestamp) -> SignedDuration {
    let name = text(proxy, "name");
    let identity = mesh
        .identities
        .iter()
        .find(|identity| text(identity, "name") == name);
    let issued =
        identity.and_then(|identity| time(identity, "issued").or_else(|| time(identity, "joined")));
    let day = SignedDuration::from_hours(24);
    issued.map_or(day, |issued| end.duration_since(issued).min(day))
}

fn authority(mesh: &Mesh) -> Vec<Finding> {
    let Some(authority) = mesh.status.get("authority") else {
        return Vec::new();
    };
    let parts = [
        ("root", "root_not_after"),
        ("issuing certificate", "issuing_not_after"),
    ];
    let findings = parts.into_iter().filter_map(|(name, member)| {
        let left = time(authority, member)?.duration_since(mesh.now);
        let message = format!("the mesh's {name} ends in {}", days(left));
        Some(if left.is_negative() {
            Finding::new(
                Level::Bad,
                "authority",
                format!("the mesh's {name} has expired"),
            )
        } else if left < AUTHORITY_WARNING {
            Finding::new(Level::Warning, "authority", message)
        } else {
            Finding::new(Level::Good, "authority", message)
        })
    });
    findings.collect()
}

/// Ports that anybody on the network reaches and that are not meant for them.
fn exposure(mesh: &Mesh) -> Finding {
    let mut exposed = Vec::new();
    for proxy in &mesh.proxies {
        for member in ["admin", "outbound", "app"] {
            let address = text(proxy, member);
            if !address.starts_with("unix:")
                && let Ok(address) = address.parse::<std::net::SocketAddr>()
                && !address.ip().is_loopback()
            {
                exposed.push(format!("{} {member} on {address}", text(proxy, "name")));
            }
        }
    }
    if exposed.is_empty() {
        Finding::new(
            Level::Good,
            "ports",
            "only gateways and inbound sides are open beyond loopback",
        )
    } else {
        Finding::new(Level::Bad, "ports", exposed.join("; "))
            .hint("bind --admin and --outbound to loopback, and applications to loopback or Unix sockets: who reaches them goes around their sidecars")
    }
}

/// A process that started in the future, or a revision from there, tells of a clock that was set back.
fn clock(mesh: &Mesh) -> Finding {
    let newest = mesh
        .identities
        .iter()
        .filter_map(|identity| time(identity, "joined"));
    let latest = newest.chain(time(&mesh.status, "started")).max();
    match latest.map(|latest| latest.duration_since(mesh.now)) {
        Some(ahead) if ahead > CLOCK_TOLERANCE => Finding::new(
            Level::Bad,
            "clock",
            format!(
                "this machine's clock is {} behind what the mesh recorded",
                days(ahead)
            ),
        )
        .hint("synchronize the clocks: certificates and tokens depend on them"),
        _ => Finding::new(Level::Good, "clock", "agrees with what the mesh recorded"),
    }
}

fn dropped(mesh: &Mesh) -> Finding {
    let dropped = mesh
        .status
        .pointer("/decisions/dropped")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    if dropped == 0 {
        Finding::new(
            Level::Good,
            "decisions",
            "none was dropped on its way to the control plane",
        )
    } else {
        Finding::new(
            Level::Warning,
            "decisions",
            format!(
                "{dropped} did not reach the control plane; proxies' own decisions.jsonl have those that the disk could take"
            ),
        )
    }
}

/// Whether others can read or change the mesh's secrets on this machine.
pub(super) fn examine_state(state: &Path) -> Vec<Finding> {
    let mut loose = Vec::new();
    walk(state, &mut loose, 0);
    if loose.is_empty() {
        return vec![Finding::new(
            Level::Good,
            "state",
            format!("{} is private", state.display()),
        )];
    }
    let message = format!("others may use {}", loose.join(", "));
    vec![
        Finding::new(Level::Bad, "state", message)
            .hint("chmod -R go-rwx .testudo, and replace the secrets if others may have read them"),
    ]
}

fn walk(path: &Path, loose: &mut Vec<String>, depth: usize) {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return;
    };
    let mode = metadata.permissions().mode() & 0o777;
    // What is inside a private folder is out of others' reach, whatever its own mode; secrets are not left to that.
    let secret = path.extension().is_some_and(|extension| {
        extension == "key" || extension == "token" || extension == "secret"
    });
    let foreign = metadata.uid() != rustix::process::geteuid().as_raw();
    if foreign || mode & 0o077 != 0 && (depth == 0 || secret) {
        loose.push(format!("{} ({mode:03o})", path.display()));
    }
    if metadata.is_dir() && depth < 4 {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), loose, depth + 1);
        }
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn text(value: &Value, name: &str) -> String {
    value
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn time(value: &Value, name: &str) -> Option<Timestamp> {
    value.get(name)?.as_str()?.parse().ok()
}

fn days(duration: SignedDuration) -> String {
    let hours = duration.as_hours();
    match hours {
        0 => format!("{} min", duration.as_mins()),
        1..48 => format!("{hours} h"),
        _ => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests;
