//! `testudo mode`: a service's mode for a while, which ends by itself. Through the control plane for the
//! whole mesh; on a proxy's own host also without one.

mod host;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use testudo_model::Mode;

use crate::api::{Api, ApiError, query_value};
use crate::commands::block_on;
use crate::commands::identity::duration;
use crate::failure::{Failure, OrFail as _};
use crate::site::Remote;
use crate::terminal::{self, Format, Style, Table, escape};

use host::HostProxy;

/// A control plane that says nothing for so long is away.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Whose mode; left out: all are listed
    service: Option<String>,
    /// enforce: deny; report: let pass and say what would be denied; observe: decide nothing
    #[arg(value_enum, requires = "length")]
    mode: Option<Word>,
    /// For how long, at most 24h; then the bundle's mode holds again
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, requires = "mode")]
    length: Option<Duration>,
    /// Why, for the audit log
    #[arg(long, default_value = "")]
    reason: String,
    /// Back to the bundle's mode now
    #[arg(long, requires = "service", conflicts_with_all = ["mode", "length"])]
    reset: bool,
    /// On this host only, for the proxy with this state folder; needs no control plane
    #[arg(long = "state", value_name = "FOLDER", requires = "service")]
    states: Vec<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

/// A mode as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Word {
    Enforce,
    Report,
    Observe,
}

impl Word {
    const fn mode(self) -> Mode {
        match self {
            Word::Enforce => Mode::Enforce,
            Word::Report => Mode::Report,
            Word::Observe => Mode::Observe,
        }
    }
}

const fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Report => "report",
        Mode::Observe => "observe",
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let set = args.mode.map(Word::mode).zip(args.length);
    match (&args.service, set, args.reset) {
        (None, ..) => list(args),
        (Some(service), Some((mode, length)), _) => set_mode(args, service, mode, length),
        (Some(service), None, true) => reset(args, service),
        (Some(service), None, false) => Err(Failure::usage(format!(
            "which mode should {service} have?"
        ))
        .hint(format!(
            "testudo mode {service} report --for 30m, or testudo mode {service} --reset"
        ))),
    }
}

/// The control plane, if it answers now. It is asked something harmless first: a change that waits in
/// the socket of one that hangs would be made when nobody expects it any more.
async fn control(args: &Args) -> Result<Option<Api>, Failure> {
    // Where control is not even known, this host may still have proxies.
    let Ok(endpoint) = args.remote.resolve() else {
        return Ok(None);
    };
    let api = Api::new(endpoint)?;
    match tokio::time::timeout(PATIENCE, api.try_get("status")).await {
        Ok(Ok(_)) => Ok(Some(api)),
        Ok(Err(refused @ ApiError::Refused(_))) => Err(refused.into_failure()),
        Ok(Err(ApiError::Failed(_))) | Err(_) => Ok(None),
    }
}

fn set_mode(args: &Args, service: &str, mode: Mode, length: Duration) -> Result<ExitCode, Failure> {
    let local = host::given(&args.states)?;
    if !local.is_empty() {
        return host::change(&local, service, Some((mode, length)), &args.reason);
    }
    let request = json!({
        "service": service,
        "mode": word(mode),
        "for": format!("{}s", length.as_secs()),
        "reason": args.reason,
    });
    let answer = block_on(async {
        match control(args).await? {
            Some(api) => {
                let set = api.post("modes", &request).await;
                set.map(Some).map_err(ApiError::into_failure)
            }
            None => Ok(None),
        }
    });
    let Some(view) = answer? else {
        let local = host::found(service);
        if local.is_empty() {
            return Err(Failure::new("the control plane does not answer, and no proxy of this host judges requests to this service")
                .hint("on the proxy's host: testudo mode SERVICE report --for 30m --state FOLDER"));
        }
        terminal::line("the control plane does not answer; set on this host only:")?;
        return host::change(&local, service, Some((mode, length)), &args.reason);
    };
    if let Some(printed) = terminal::print_data(args.output, &view) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    terminal::line(&format!(
        "{} is in mode {} everywhere, {}; then {} again, by itself",
        escape(service),
        word(mode),
        left(view.get("until"), jiff::Timestamp::now()),
        view.get("configured")
            .and_then(Value::as_str)
            .unwrap_or("as the bundle says"),
    ))?;
    if mode != Mode::Enforce {
        terminal::line("what would be denied: testudo observe")?;
    }
    terminal::line(&format!(
        "taken back by: testudo mode {} --reset",
        escape(service)
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn reset(args: &Args, service: &str) -> Result<ExitCode, Failure> {
    let given = host::given(&args.states)?;
    if !given.is_empty() {
        return host::change(&given, service, None, &args.reason);
    }
    // What was set on this host goes too: it would go before.
    let local: Vec<HostProxy> = host::found(service)
        .into_iter()
        .filter(|proxy| proxy.has_set(service))
        .collect();
    let reset = block_on(async {
        let Some(api) = control(args).await? else {
            return Err(Failure::new("the control plane does not answer"));
        };
        let path = format!("modes/{}", query_value(service));
        let reset = api.delete(&path).await;
        reset.map_err(ApiError::into_failure)
    });
    match (reset, local.is_empty()) {
        (Err(failure), true) => return Err(failure),
        (Err(_), false) => {}
        (Ok(view), _) => terminal::line(&format!(
            "{} is in mode {} again, as the bundle says",
            escape(service),
            view.get("mode").and_then(Value::as_str).unwrap_or("–"),
        ))?,
    }
    match local.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => host::change(&local, service, None, &args.reason),
    }
}

fn list(args: &Args) -> Result<ExitCode, Failure> {
    let asked = block_on(async {
        let api = Api::new(args.remote.resolve()?)?;
        let both = async { Ok((api.get("services").await?, api.get("modes").await?)) };
        tokio::time::timeout(PATIENCE, both)
            .await
            .or_fail(|| "the control plane does not answer")?
    });
    let (services, set) = match asked {
        Ok(both) => both,
        Err(failure) => return list_host(args, failure),
    };
    if let Some(printed) = terminal::print_data(args.output, &set) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = jiff::Timestamp::now();
    let empty = Vec::new();
    let set = set.as_array().unwrap_or(&empty);
    let mut table = Table::new(["SERVICE", "MODE", "WHERE", "UNTIL", "BUNDLE", "BY", "WHY"]);
    for service in services.as_array().into_iter().flatten() {
        let name = text(service, "name");
        table.row([
            name.clone(),
            text(service, "mode"),
            "everywhere".to_owned(),
            left(service.get("mode_until"), now),
            text(service, "configured_mode"),
            String::new(),
            String::new(),
        ]);
        let own = set.iter().filter(|entry| text(entry, "service") == name);
        for entry in own {
            table.row([
                String::new(),
                text(entry, "mode"),
                match text(entry, "proxy").as_str() {
                    "–" => "everywhere".to_owned(),
                    proxy => proxy.to_owned(),
                },
                left(entry.get("until"), now),
                String::new(),
                text(entry, "by"),
                text(entry, "reason"),
            ]);
        }
    }
    terminal::print(&table.render(Style::for_stdout()))?;
    Ok(ExitCode::SUCCESS)
}

/// Without a control plane: what is set on this host.
fn list_host(args: &Args, failure: Failure) -> Result<ExitCode, Failure> {
    let set = host::all_set()?;
    if set.is_empty() {
        return Err(failure);
    }
    let list = Value::Array(set);
    if let Some(printed) = terminal::print_data(args.output, &list) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    terminal::line("the control plane does not answer; set on this host:")?;
    let now = jiff::Timestamp::now();
    let mut table = Table::new(["SERVICE", "MODE", "PROXY", "UNTIL"]);
    for entry in list.as_array().into_iter().flatten() {
        table.row([
            text(entry, "service"),
            text(entry, "mode"),
            text(entry, "proxy"),
            left(entry.get("until"), now),
        ]);
    }
    terminal::print(&table.render(Style::for_stdout()))?;
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value, name: &str) -> String {
    value
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or("–")
        .to_owned()
}

/// `29 min left, until 14:33:07`; `–` without an end.
pub(crate) fn left(until: Option<&Value>, now: jiff::Timestamp) -> String {
    let until = until.and_then(Value::as_str);
    let Some(until) = until.and_then(|until| until.parse::<jiff::Timestamp>().ok()) else {
        return "–".to_owned();
    };
    let seconds = until.duration_since(now).as_secs().max(0);
    let left = match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    };
    let clock = until.to_zoned(jiff::tz::TimeZone::system());
    format!("{left} left, until {}", clock.strftime("%H:%M:%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said() {
        let now: jiff::Timestamp = "2026-11-25T14:00:00Z".parse().unwrap();
        let left = |until: &str| left(Some(&Value::from(until)), now);
        assert!(left("2026-11-25T14:00:59Z").starts_with("59 s left, until "));
        assert!(left("2026-11-25T14:30:00Z").starts_with("30 min left"));
        assert!(left("2026-11-26T13:00:00Z").starts_with("23 h left"));
        assert!(left("2026-11-25T13:00:00Z").starts_with("0 s left"));
        assert_eq!(super::left(Some(&Value::Null), now), "–");
    }
}
