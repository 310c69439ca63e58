//! `testudo watch contain|release|contained`.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::{Api, ApiError, query_value};
use crate::commands::block_on;
use crate::commands::mode::left;
use crate::failure::Failure;
use crate::site::Remote;
use crate::terminal::{self, Format, Style, Table, escape};

#[derive(clap::Args)]
pub(super) struct ContainArgs {
    /// A user, ISSUER:ID, or the name of a calling service
    principal: String,
    /// SERVICE:OPERATION, or a SERVICE with all its operations
    #[arg(value_name = "OPERATION")]
    place: String,
    /// For how long, at most 24h; left out: watch.contain_for of the bundle
    #[arg(long = "for", value_name = "DURATION")]
    length: Option<String>,
    /// Why, for the audit log and everybody who asks `why`
    #[arg(long)]
    reason: String,
    /// Let so much pass instead of denying all, for example 1/s or 30/m
    #[arg(long, value_name = "RATE", value_parser = rate)]
    throttle: Option<f64>,
    /// The incident that it answers
    #[arg(long, value_name = "ID")]
    incident: Option<String>,
    /// Beyond watch.max_share, and where it is the last one on a path; never a protected one
    #[arg(long)]
    force: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
pub(super) struct ReleaseArgs {
    /// Its id, for example ctn-4f1c2a9b03
    id: String,
    /// Why, for the audit log
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
pub(super) struct ContainedArgs {
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

/// `1/s`, `30/m`: requests a second.
fn rate(text: &str) -> Result<f64, String> {
    testudo_policy::config::values::rate(text)
        .map(|rate| f64::from(rate.count) / rate.period.as_secs_f64())
        .map_err(|_| format!("{text} is no rate; for example 1/s or 30/m"))
}

pub(super) fn contain(args: &ContainArgs) -> Result<ExitCode, Failure> {
    let service = args.place.split(':').next().unwrap_or_default();
    let is_operation = args.place.contains(':');
    let request = json!({
        "kind": if args.principal.contains(':') { "user" } else { "service" },
        "principal": args.principal,
        "service": service,
        "operation": is_operation.then_some(&args.place),
        "action": if args.throttle.is_some() { "throttle" } else { "deny" },
        "rate": args.throttle,
        "for": args.length,
        "reason": args.reason,
        "incident": args.incident,
        "force": args.force,
    });
    let api = Api::new(args.remote.resolve()?)?;
    let made = block_on(async {
        let made = api.post("containments", &request).await;
        made.map_err(ApiError::into_failure)
    })?;
    if let Some(printed) = terminal::print_data(args.output, &made) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = text(&made, "id");
    terminal::line(&format!(
        "{id}  {} {} on {}, {}",
        text(&made, "principal"),
        done(&made),
        place(&made),
        left(made.get("until"), jiff::Timestamp::now()),
    ))?;
    terminal::line(&format!("taken back by: testudo watch release {id}"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn release(args: &ReleaseArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let path = format!(
        "containments/{}?reason={}",
        query_value(&args.id),
        query_value(&args.reason)
    );
    let released = block_on(async {
        let released = api.delete(&path).await;
        released.map_err(ApiError::into_failure)
    })?;
    terminal::line(&format!(
        "{} is released: {} on {} as policy says",
        text(&released, "id"),
        text(&released, "principal"),
        place(&released),
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn contained(args: &ContainedArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let list = block_on(api.get("containments"))?;
    if let Some(printed) = terminal::print_data(args.output, &list) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let list = list.as_array().cloned().unwrap_or_default();
    if list.is_empty() {
        terminal::line("nobody is contained")?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = jiff::Timestamp::now();
    let mut table = Table::new(["ID", "WHO", "WHERE", "WHAT", "UNTIL", "BY", "WHY"]);
    for entry in &list {
        table.row([
            text(entry, "id"),
            text(entry, "principal"),
            place(entry),
            done(entry),
            left(entry.get("until"), now),
            text(entry, "by"),
            text(entry, "reason"),
        ]);
    }
    terminal::print(&table.render(Style::for_stdout()))?;
    terminal::line("taken back by: testudo watch release ID")?;
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value, name: &str) -> String {
    escape(value.get(name).and_then(Value::as_str).unwrap_or("–"))
}

/// What is done with the principal's requests.
fn done(containment: &Value) -> String {
    match containment.get("rate").and_then(Value::as_f64) {
        Some(rate) => format!("throttled to {rate}/s"),
        None => "denied".to_owned(),
    }
}

fn place(containment: &Value) -> String {
    let operation = containment.get("operation").and_then(Value::as_str);
    operation.map_or_else(|| text(containment, "service"), escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_requests_a_second() {
        assert_eq!(rate("2/s"), Ok(2.0));
        assert_eq!(rate("30/m"), Ok(0.5));
        assert!(rate("fast").is_err());
    }

    #[test]
    fn what_is_done_is_said() {
        let throttled = json!({"rate": 1.5, "operation": "orders:getOrder", "service": "orders"});
        assert_eq!(done(&throttled), "throttled to 1.5/s");
        assert_eq!(place(&throttled), "orders:getOrder");
        let denied = json!({"rate": null, "operation": null, "service": "orders"});
        assert_eq!(
            (done(&denied), place(&denied)),
            ("denied".into(), "orders".into())
        );
    }
}
