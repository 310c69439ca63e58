//! What is not as the bundle says, for a while, and what the bundle itself does not enforce.

use serde_json::Value;

use super::{Finding, Level, Mesh, text, time};

/// Services that let pass what policy would deny: each with the time left.
pub(super) fn modes(mesh: &Mesh) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &mesh.services {
        let (name, mode) = (text(service, "name"), text(service, "mode"));
        let configured = text(service, "configured_mode");
        if mode.is_empty() || (mode == "enforce" && mode == configured) {
            continue;
        }
        let until = left(mesh, service, "mode_until");
        let message = match (mode.as_str(), mode == configured) {
            ("enforce", _) => format!("{name} enforces{until}, then {configured} again"),
            (_, true) => format!("{name} is in mode {mode}{until}: what policy denies passes"),
            (_, false) => format!(
                "{name} is in mode {mode}{until}, then {configured} again: what policy denies passes"
            ),
        };
        let finding = Finding::new(Level::Warning, "modes", message);
        findings.push(match (mode == configured, mode.as_str()) {
            (_, "enforce") => finding,
            (true, _) => finding.hint("`testudo observe` shows what would be denied; `mode: enforce` in testudo.yaml when that is nothing"),
            (false, _) => finding.hint("`testudo mode SERVICE --reset` ends it now"),
        });
    }
    for entry in &mesh.modes {
        let proxy = text(entry, "proxy");
        if proxy.is_empty() {
            continue;
        }
        let message = format!(
            "{proxy} has {} in mode {}{}, set on its host ({})",
            text(entry, "service"),
            text(entry, "mode"),
            left(mesh, entry, "until"),
            text(entry, "by"),
        );
        findings.push(Finding::new(Level::Warning, "modes", message));
    }
    if findings.is_empty() {
        findings.push(Finding::new(
            Level::Good,
            "modes",
            "every service enforces its policy",
        ));
    }
    findings
}

/// Who is narrowed now: people who ask what is wrong should hear of it.
pub(super) fn containments(mesh: &Mesh) -> Vec<Finding> {
    let said = mesh.containments.iter().map(|entry| {
        let place = entry.get("operation").and_then(Value::as_str);
        let place = place.map_or_else(|| text(entry, "service"), str::to_owned);
        let message = format!(
            "{} is contained on {place} ({}){}: {}",
            text(entry, "principal"),
            text(entry, "action"),
            left(mesh, entry, "until"),
            text(entry, "reason"),
        );
        Finding::new(Level::Warning, "contained", message)
            .hint("`testudo watch release ID` takes it back; `testudo watch contained` lists them")
    });
    said.collect()
}

fn left(mesh: &Mesh, value: &Value, name: &str) -> String {
    let Some(until) = time(value, name) else {
        return String::new();
    };
    let seconds = until.duration_since(mesh.now).as_secs().max(0);
    match seconds {
        0..120 => format!(" for {seconds} s more"),
        120..7_200 => format!(" for {} min more", seconds / 60),
        _ => format!(" for {} h more", seconds / 3_600),
    }
}
