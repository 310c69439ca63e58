//! `testudo watch list|show|ack|mute|close`: what is unusual, with its evidence.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::{Api, ApiError, query_value};
use crate::commands::block_on;
use crate::failure::Failure;
use crate::site::Remote;
use crate::terminal::{self, Format, Style, Table, escape};

/// Columns of text that is wrapped.
const WIDTH: usize = 88;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Wanted {
    /// Nobody has looked at them.
    #[default]
    Open,
    Acknowledged,
    Muted,
    Closed,
    All,
}

impl Wanted {
    const fn as_str(self) -> &'static str {
        match self {
            Wanted::Open => "open",
            Wanted::Acknowledged => "acknowledged",
            Wanted::Muted => "muted",
            Wanted::Closed => "closed",
            Wanted::All => "all",
        }
    }
}

#[derive(clap::Args)]
pub(super) struct ListArgs {
    /// Which ones
    #[arg(long, value_enum, default_value_t)]
    state: Wanted,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
pub(super) struct ShowArgs {
    /// Its id, for example inc-4f1c2a9b03
    id: String,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
pub(super) struct StepArgs {
    /// Its id, for example inc-4f1c2a9b03
    id: String,
    /// What is to be remembered about it
    #[arg(long)]
    note: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
pub(super) struct MuteArgs {
    /// For how long, at most 30d
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    length: String,
    #[command(flatten)]
    step: StepArgs,
}

pub(super) fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let list = block_on(api.get(&format!("incidents?state={}", args.state.as_str())))?;
    if let Some(printed) = terminal::print_data(args.output, &list) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let list = list.as_array().cloned().unwrap_or_default();
    if list.is_empty() {
        let what = match args.state {
            Wanted::All => String::new(),
            state => format!("{} ", state.as_str()),
        };
        terminal::line(&format!("no {what}incidents"))?;
        return Ok(ExitCode::SUCCESS);
    }
    terminal::print(&table(&list).render(Style::for_stdout()))?;
    terminal::line("evidence and what to do: testudo watch show ID")?;
    Ok(ExitCode::SUCCESS)
}

/// One line for each.
pub(super) fn table(list: &[Value]) -> Table {
    let mut table = Table::new(["ID", "SEVERITY", "STATE", "SINCE", "COUNT", "WHAT"]);
    for incident in list {
        let contained = incident.get("containment").is_some_and(|c| !c.is_null());
        table.row([
            text(incident, "id"),
            text(incident, "severity"),
            if contained {
                format!("{}, contained", text(incident, "state"))
            } else {
                text(incident, "state")
            },
            time(incident, "first"),
            incident
                .get("count")
                .and_then(Value::as_u64)
                .unwrap_or(0)
                .to_string(),
            text(incident, "title"),
        ]);
    }
    table
}

pub(super) fn show(args: &ShowArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let path = format!("incidents/{}", query_value(&args.id));
    let incident = block_on(async { api.try_get(&path).await.map_err(ApiError::into_failure) })?;
    if let Some(printed) = terminal::print_data(args.output, &incident) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    terminal::print(&describe(&incident, Style::for_stdout()))?;
    Ok(ExitCode::SUCCESS)
}

/// An incident for people.
pub(super) fn describe(incident: &Value, style: Style) -> String {
    let headline = format!(
        "{}  {}  {}, {}",
        raw(incident, "/id"),
        raw(incident, "/title"),
        raw(incident, "/severity"),
        raw(incident, "/state"),
    );
    let mut out = format!("{}\n", style.bold(&escape(&headline)));
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let name = style.dim(&format!("{name:<10}"));
            out.push_str(&format!("{name}{}\n", escape(value)));
        }
    };
    line("detector", &raw(incident, "/detector"));
    line(
        "who",
        &format!(
            "{} {}",
            raw(incident, "/who/kind"),
            raw(incident, "/who/name")
        ),
    );
    line("what", &what(incident));
    line(
        "when",
        &format!(
            "{} to {}, in {} windows",
            time(incident, "first"),
            time(incident, "last"),
            raw(incident, "/count")
        ),
    );
    line("seen", &compared(incident));
    for reason in ["/mitre", "/owasp"] {
        line(&reason[1..], &references(incident, reason));
    }
    for context in strings(incident, "/context") {
        line("context", &context);
    }
    let related = strings(incident, "/related").join(" ");
    line("related", &related);
    if let Some(containment) = incident.get("containment").filter(|c| !c.is_null()) {
        let until = raw(containment, "/until");
        let action = raw(containment, "/action");
        line(
            "contained",
            &format!("{} {action} until {until}", raw(containment, "/id")),
        );
    }
    line("muted", &raw(incident, "/muted_until"));
    line("seen by", &raw(incident, "/acknowledged_by"));
    line("note", &raw(incident, "/note"));
    for (number, part) in wrap(&raw(incident, "/suggestion")).iter().enumerate() {
        line(if number == 0 { "do" } else { "" }, part);
    }
    line("policy", &raw(incident, "/policy"));
    for sample in strings(incident, "/samples") {
        line("sample", &format!("testudo why {sample}"));
    }
    out
}

fn what(incident: &Value) -> String {
    let caller = raw(incident, "/what/caller");
    let mut place = raw(incident, "/what/operation");
    if place.is_empty() {
        place = raw(incident, "/what/service");
    }
    match (caller.is_empty(), place.is_empty()) {
        (true, _) => place,
        (false, true) => caller,
        (false, false) => format!("{caller} → {place}"),
    }
}

fn compared(incident: &Value) -> String {
    let number = |path| incident.pointer(path).and_then(Value::as_f64);
    let unit = raw(incident, "/baseline/unit");
    let seen = number("/baseline/seen").unwrap_or(0.0);
    let usual = match number("/baseline/usual") {
        Some(usual) => format!("usual {}", rounded(usual)),
        None => "usual not known".to_owned(),
    };
    format!(
        "{} {unit} ({}; {usual})",
        rounded(seen),
        raw(incident, "/baseline/what")
    )
}

fn rounded(value: f64) -> String {
    if value.fract().abs() < 0.05 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

fn references(incident: &Value, path: &str) -> String {
    let list = incident.pointer(path).and_then(Value::as_array);
    let each = list.into_iter().flatten();
    let each: Vec<String> = each
        .map(|one| format!("{} {}", raw(one, "/id"), raw(one, "/name")))
        .collect();
    each.join("; ")
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

pub(super) fn acknowledge(args: &StepArgs) -> Result<ExitCode, Failure> {
    step(args, "ack", &json!({"note": args.note}))
}

pub(super) fn mute(args: &MuteArgs) -> Result<ExitCode, Failure> {
    let body = json!({"note": args.step.note, "for": args.length});
    step(&args.step, "mute", &body)
}

pub(super) fn close(args: &StepArgs) -> Result<ExitCode, Failure> {
    step(args, "close", &json!({"note": args.note}))
}

fn step(args: &StepArgs, step: &str, body: &Value) -> Result<ExitCode, Failure> {
    let mut body = body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    let api = Api::new(args.remote.resolve()?)?;
    let path = format!("incidents/{}/{step}", query_value(&args.id));
    let changed = block_on(async {
        let changed = api.post(&path, &body).await;
        changed.map_err(ApiError::into_failure)
    })?;
    let until = match raw(&changed, "/muted_until") {
        until if until.is_empty() => String::new(),
        until => format!(" until {until}"),
    };
    terminal::line(&format!(
        "{} is {}{until}: {}",
        text(&changed, "id"),
        text(&changed, "state"),
        text(&changed, "title"),
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value, name: &str) -> String {
    escape(value.get(name).and_then(Value::as_str).unwrap_or("–"))
}

/// A string or number; empty where there is none. Not escaped.
fn raw(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn strings(value: &Value, path: &str) -> Vec<String> {
    let list = value.pointer(path).and_then(Value::as_array);
    let each = list.into_iter().flatten();
    each.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The time of day where it is today (UTC), else with its date.
fn time(value: &Value, name: &str) -> String {
    let text = value.get(name).and_then(Value::as_str).unwrap_or("–");
    let today = jiff::Timestamp::now().to_string();
    match (text.split_once('T'), today.split_once('T')) {
        (Some((day, time)), Some((now, _))) if day == now => escape(time.trim_end_matches('Z')),
        _ => escape(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_for_people() {
        let incident = json!({
            "id": "inc-1", "detector": "enumeration", "severity": "high", "state": "open",
            "title": "shop:bob\u{1b}[2J asked orders:getOrder for 120 different objects in a minute",
            "first": "2025-11-25T14:35:50Z", "last": "2025-11-25T14:35:54Z", "count": 3,
            "who": {"kind": "user", "name": "shop:bob"},
            "what": {"caller": null, "service": "orders", "operation": "orders:getOrder"},
            "baseline": {"what": "distinct paths a minute", "usual": 3.0, "seen": 120.0, "unit": "paths"},
            "samples": ["r1", "r2"],
            "mitre": [{"id": "T1530", "name": "Data from Cloud Storage"}],
            "owasp": [{"id": "API1:2023", "name": "Broken Object Level Authorization"}],
            "suggestion": "Let users ask for their own objects only.",
            "policy": "forbid (…);", "containment": null, "context": ["revision 4 since 14:03"],
            "related": [], "acknowledged_by": null, "note": null, "muted_until": null,
        });
        insta::assert_snapshot!(describe(&incident, Style::PLAIN));
    }
}
