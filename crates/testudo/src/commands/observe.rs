//! `testudo observe`: decisions of the whole mesh as lines, as they are made.

mod line;
mod sse;

use std::pin::pin;
use std::process::ExitCode;

use futures_util::StreamExt as _;
use serde_json::Value;
use testudo_model::Reason;

use crate::api::{Api, query_value};
use crate::commands::block_on;
use crate::failure::Failure;
use crate::site::Remote;
use crate::terminal::{self, Format, Style};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only calls of this service
    #[arg(long)]
    service: Option<String>,
    /// Only this operation (SERVICE:OPERATION)
    #[arg(long)]
    operation: Option<String>,
    /// Only what was permitted, or denied
    #[arg(long, value_parser = ["permit", "deny"])]
    verdict: Option<String>,
    /// Only this reason, for example authz.user
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// Only this user (ISSUER:ID, a bare id, or anonymous)
    #[arg(long)]
    user: Option<String>,
    /// Only calls by this service, or gateway
    #[arg(long)]
    caller: Option<String>,
    /// Only decisions of this proxy
    #[arg(long)]
    proxy: Option<String>,
    /// Only this status, or a class of them such as 4xx
    #[arg(long, value_parser = status)]
    status: Option<StatusFilter>,
    /// Only this request (x-request-id)
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Print the newest N first; without --follow, end then
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    last: Option<u32>,
    /// Go on with new decisions as they come (the default unless --last is given)
    #[arg(long, short)]
    follow: bool,
    /// table: lines for people; json: one object a line
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

/// `404` or `4xx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StatusFilter {
    low: u16,
    high: u16,
}

fn reason(text: &str) -> Result<String, String> {
    match Reason::from_code(text) {
        Some(reason) => Ok(reason.code().to_owned()),
        None => {
            let codes: Vec<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
            Err(format!("reasons are {}", codes.join(", ")))
        }
    }
}

fn status(text: &str) -> Result<StatusFilter, String> {
    let parsed = match text.strip_suffix("xx") {
        Some(class) => class.parse().ok().map(|class: u16| {
            (
                class.saturating_mul(100),
                class.saturating_mul(100).saturating_add(99),
            )
        }),
        None => text.parse().ok().map(|status| (status, status)),
    };
    match parsed {
        Some((low, high)) if (100..600).contains(&low) => Ok(StatusFilter { low, high }),
        _ => Err("a status is 100 to 599, or a class such as 4xx".to_owned()),
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    block_on(observe(&args, &api))
}

async fn observe(args: &Args, api: &Api) -> Result<ExitCode, Failure> {
    let printer = Printer {
        format: args.output,
        style: Style::for_stdout(),
        status: args.status,
    };
    if args.last.is_some() && !args.follow {
        let events = api.get(&format!("decisions?{}", query(args))).await?;
        for event in in_order(events.as_array().map(Vec::as_slice).unwrap_or_default()) {
            printer.print(event)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let stream = api
        .stream(&format!("decisions/stream?{}", query(args)))
        .await?;
    let mut stream = pin!(stream);
    let mut reader = sse::Reader::default();
    while let Some(Ok(chunk)) = stream.next().await {
        for message in reader.push(&chunk) {
            if message.event == "missed" {
                eprintln!("… {} decisions came too fast to be shown", message.data);
            } else if let Ok(event) = serde_json::from_str(&message.data) {
                printer.print(&event)?;
            }
        }
    }
    Err(Failure::new("the control plane ended the stream")
        .hint("is it still running? `testudo doctor`"))
}

/// Lines read downwards, whatever the order of the list.
fn in_order(events: &[Value]) -> Vec<&Value> {
    let mut events: Vec<&Value> = events.iter().collect();
    events.sort_by_key(|event| time_of(event));
    events
}

fn time_of(event: &Value) -> Option<jiff::Timestamp> {
    event.get("time")?.as_str()?.parse().ok()
}

fn query(args: &Args) -> String {
    let last = args.last.map(|last| last.to_string());
    let exact = args.status.filter(|status| status.low == status.high);
    let status = exact.map(|status| status.low.to_string());
    let pairs = [
        ("service", &args.service),
        ("operation", &args.operation),
        ("verdict", &args.verdict),
        ("reason", &args.reason),
        ("user", &args.user),
        ("caller", &args.caller),
        ("proxy", &args.proxy),
        ("status", &status),
        ("request_id", &args.request),
        ("limit", &last),
    ];
    let pairs = pairs.into_iter().filter_map(|(name, value)| {
        let value = value.as_deref()?;
        Some(format!("{name}={}", query_value(value)))
    });
    pairs.collect::<Vec<_>>().join("&")
}

struct Printer {
    format: Format,
    style: Style,
    status: Option<StatusFilter>,
}

impl Printer {
    fn print(&self, event: &Value) -> Result<(), Failure> {
        let status = event.get("status").and_then(Value::as_u64);
        if let Some(wanted) = self.status
            && !status.is_some_and(|status| {
                (u64::from(wanted.low)..=u64::from(wanted.high)).contains(&status)
            })
        {
            return Ok(());
        }
        match self.format {
            Format::Table => terminal::line(&line::event_line(event, self.style)),
            // JSON escapes control characters by itself.
            Format::Json => terminal::line(&event.to_string()),
            Format::Yaml => terminal::print(&format!("---\n{}", terminal::yaml(event))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_classes() {
        assert_eq!(
            status("404"),
            Ok(StatusFilter {
                low: 404,
                high: 404
            })
        );
        assert_eq!(
            status("5xx"),
            Ok(StatusFilter {
                low: 500,
                high: 599
            })
        );
        for bad in ["", "xx", "0xx", "9xx", "99", "600", "4x"] {
            assert!(status(bad).is_err(), "{bad}");
        }
    }
}
