//! `testudo observe`: decisions of the whole mesh as lines, as they are made.

mod line;
pub(crate) mod sse;

use std::pin::pin;
use std::process::ExitCode;

use futures_util::StreamExt as _;
use serde_json::Value;
use testudo_control::decisions::StatusRange;
use testudo_model::Reason;

use crate::api::{Api, query_value};
use crate::commands::block_on;
use crate::failure::Failure;
use crate::site::Remote;
use crate::terminal::{self, Format, Style};

/// As many of the past as the API gives.
const MOST: u32 = 1000;

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
    status: Option<String>,
    /// Only calls between these two: CALLER,SERVICE; `clients` and `gateway` are callers too
    #[arg(long, value_name = "CALLER,SERVICE", value_parser = edge, conflicts_with_all = ["caller", "service"])]
    edge: Option<Edge>,
    /// Begin with what arrived since then: 90s, 5m, 2h, 1d or a time such as 2026-01-31T12:00:00Z; without --follow, end then
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<jiff::Timestamp>,
    /// Only this request (x-request-id)
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Print the newest N first; without --follow, end then
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    last: Option<u32>,
    /// Go on with new decisions as they come (the default unless --last or --since is given)
    #[arg(long, short)]
    follow: bool,
    /// table: lines for people; json: one object a line
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

/// Who calls whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge {
    caller: String,
    service: String,
}

fn edge(text: &str) -> Result<Edge, String> {
    match text.split_once(',') {
        Some((caller, service)) if !caller.is_empty() && !service.is_empty() => Ok(Edge {
            caller: caller.to_owned(),
            service: service.to_owned(),
        }),
        _ => Err("an edge is CALLER,SERVICE, for example orders,payments".to_owned()),
    }
}

fn since(text: &str) -> Result<jiff::Timestamp, String> {
    let wrong = || "a time is 90s, 5m, 2h, 1d ago, or 2026-01-31T12:00:00Z".to_owned();
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: i64 = number.parse().map_err(|_| wrong())?;
    let ago = number.checked_mul(seconds).ok_or_else(wrong)?;
    let ago = jiff::SignedDuration::from_secs(ago);
    jiff::Timestamp::now().checked_sub(ago).map_err(|_| wrong())
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

fn status(text: &str) -> Result<String, String> {
    match text.parse::<StatusRange>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
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
    };
    if (args.last.is_some() || args.since.is_some()) && !args.follow {
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
    // All that is kept since then, where a time is given.
    let most = args.since.map(|_| MOST);
    let last = args.last.or(most).map(|last| last.to_string());
    let since = args.since.map(|since| since.to_string());
    let (mut caller, mut service, mut hop) = (args.caller.clone(), args.service.clone(), None);
    if let Some(edge) = &args.edge {
        service = Some(edge.service.clone());
        match edge.caller.as_str() {
            // What clients do is seen at the edge, where no caller is proven.
            "clients" => hop = Some("edge".to_owned()),
            other => caller = Some(other.to_owned()),
        }
    }
    let pairs = [
        ("service", &service),
        ("operation", &args.operation),
        ("verdict", &args.verdict),
        ("reason", &args.reason),
        ("user", &args.user),
        ("caller", &caller),
        ("proxy", &args.proxy),
        ("status", &args.status),
        ("hop", &hop),
        ("since", &since),
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
}

impl Printer {
    fn print(&self, event: &Value) -> Result<(), Failure> {
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
    fn edges_and_times() {
        let orders = Edge {
            caller: "orders".to_owned(),
            service: "payments".to_owned(),
        };
        assert_eq!(edge("orders,payments"), Ok(orders));
        for bad in ["", "orders", "orders,", ",payments"] {
            assert!(edge(bad).is_err(), "{bad}");
        }
        let ago = jiff::Timestamp::now().duration_since(since("5m").unwrap());
        assert!((299..302).contains(&ago.as_secs()), "{ago}");
        let exact: jiff::Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(since("2026-01-31T12:00:00Z"), Ok(exact));
        for bad in [
            "",
            "5",
            "m",
            "5w",
            "-5m",
            "99999999999999999999s",
            "99999999999999d",
        ] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_clients_do_is_seen_at_the_edge() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let query_of = |line: &str| {
            let words = std::iter::once("observe").chain(line.split(' '));
            query(&Line::try_parse_from(words).ok().unwrap().args)
        };
        assert_eq!(query_of("--edge clients,orders"), "service=orders&hop=edge");
        assert_eq!(
            query_of("--edge orders,payments --status 4xx -n 5"),
            "service=payments&caller=orders&status=4xx&limit=5"
        );
        assert_eq!(
            query_of("--since 2026-01-31T12:00:00Z"),
            "since=2026-01-31T12:00:00Z&limit=1000"
        );
        let both = "observe --edge a,b --service c".split(' ');
        assert!(Line::try_parse_from(both).is_err());
    }
}
