//! `testudo identity`: who has which identity, join tokens for new proxies, and whether an SVID is to be believed.

mod api_key;
mod revoke;
mod verify;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::api::{Api, ApiError};
use crate::commands::block_on;
use crate::failure::{Failure, OrFail as _};
use crate::site::Remote;
use crate::terminal::{self, Format, Style, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every identity that was given out
    Show(ShowArgs),
    /// A one-time join token for a new proxy
    Issue(IssueArgs),
    /// A new API key for a program, and its entry for the bundle
    ApiKey(api_key::Args),
    /// Take back an identity, a user's access, a key or a token, at once
    Revoke(revoke::Args),
    /// Is this SVID to be believed? Exit 1 when not
    Verify(verify::Args),
}

#[derive(clap::Args)]
struct ShowArgs {
    /// Only those of this proxy or service
    name: Option<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
struct IssueArgs {
    /// Who may join with it: gateway, or a service
    #[arg(long, value_name = "gateway|SERVICE")]
    join: String,
    /// How long it may be used, once: 90s, 10m, 2h
    #[arg(long, default_value = "10m", value_parser = duration)]
    ttl: Duration,
    /// Write it to this file (0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

/// `90s`, `10m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no duration; for example 90s, 10m or 2h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    seconds
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Show(args) => show(&args),
        Command::Issue(args) => issue(&args),
        Command::ApiKey(args) => api_key::run(&args),
        Command::Revoke(args) => revoke::run(&args),
        Command::Verify(args) => verify::run(&args),
    }
}

fn show(args: &ShowArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let identities = block_on(api.get("identities"))?;
    let list = identities
        .as_array()
        .cloned()
        .unwrap_or_default()
        .into_iter();
    let wanted = |identity: &Value| match &args.name {
        None => true,
        Some(name) => ["name", "service", "role"]
            .iter()
            .any(|member| text(identity, member) == *name),
    };
    let list: Vec<Value> = list.filter(wanted).collect();
    if list.is_empty()
        && let Some(name) = &args.name
    {
        return Err(
            Failure::new(format!("nobody called {name} has an identity"))
                .hint("`testudo identity show` lists all"),
        );
    }
    let list = Value::Array(list);
    if let Some(printed) = terminal::print_data(args.output, &list) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["NAME", "SPIFFE ID", "ENDS", "STATE", "SERIAL"]);
    for identity in list.as_array().into_iter().flatten() {
        let is = |member: &str| identity.get(member) == Some(&Value::Bool(true));
        let state = match (is("revoked"), is("connected")) {
            (true, _) => "revoked",
            (false, true) => "connected",
            (false, false) => "away",
        };
        table.row([
            text(identity, "name"),
            text(identity, "spiffe_id"),
            text(identity, "not_after"),
            state.to_owned(),
            text(identity, "serial"),
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

fn issue(args: &IssueArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let token = block_on(async {
        join_token(&api, &args.join, args.ttl)
            .await
            .map_err(ApiError::into_failure)
    })?;
    match &args.out {
        None => terminal::line(&token)?,
        Some(path) => {
            write_secret(path, token.as_bytes())?;
            eprintln!("written to {}; it can be used once", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks control for a join token; `who`: `gateway` or a service.
pub(crate) async fn join_token(api: &Api, who: &str, ttl: Duration) -> Result<String, ApiError> {
    let request = match who {
        "gateway" => json!({"role": "gateway", "ttl_seconds": ttl.as_secs()}),
        service => json!({"role": "sidecar", "service": service, "ttl_seconds": ttl.as_secs()}),
    };
    let answer = api.post("identities/join", &request).await?;
    match answer.get("token").and_then(Value::as_str) {
        Some(token) => Ok(token.to_owned()),
        None => Err(ApiError::Failed(Failure::new(
            "the control plane issued no token",
        ))),
    }
}

/// Writes a secret that only this user may read.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let write = || {
        // An old file keeps its mode: it must go first.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(content)
    };
    write().or_fail(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        for bad in ["", "10", "m", "0s", "10d", "-1s", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_private_even_over_an_open_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "old").unwrap();
        write_secret(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
