//! `testudo audit`: who changed what, and whether the record of it is whole.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use crate::api::Api;
use crate::commands::{block_on, exit_code};
use crate::failure::Failure;
use crate::site::Remote;
use crate::terminal::{self, Format, Style, Table};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Follow the chain of hashes through the whole log; exit 1 where it breaks
    Verify(VerifyArgs),
}

#[derive(clap::Args)]
struct ListArgs {
    /// How many of the newest entries
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
struct VerifyArgs {
    /// The newest hash of an earlier time, kept elsewhere: proves that nothing was cut off since
    #[arg(long, value_name = "HASH", value_parser = hash)]
    contains: Option<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

fn hash(text: &str) -> Result<String, String> {
    let hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a hash has 64 hexadecimal digits; `testudo audit verify` prints the newest".to_owned())
    }
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        None => list(&args.list),
        Some(Command::Verify(args)) => verify(&args),
    }
}

fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let entries = block_on(api.get(&format!("audit?limit={}", args.limit)))?;
    if let Some(printed) = terminal::print_data(args.output, &entries) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["ENTRY", "AT", "BY", "ACTION", "DETAIL", "HASH"]);
    for entry in entries.as_array().into_iter().flatten() {
        let text = |name: &str| match entry.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let short = |text: String, length: usize| text.chars().take(length).collect::<String>();
        table.row([
            text("sequence"),
            // Without fractions of a second; -o json has them.
            short(text("at"), 19),
            text("by"),
            text("action"),
            short(text("detail"), 60),
            short(text("hash"), 12),
        ]);
    }
    terminal::print(&table.render(Style::for_stdout()))?;
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &VerifyArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let path = match &args.contains {
        Some(hash) => format!("audit/verify?contains={hash}"),
        None => "audit/verify".to_owned(),
    };
    let check = block_on(api.get(&path))?;
    let ok = check.get("ok").and_then(Value::as_bool) == Some(true);
    if let Some(printed) = terminal::print_data(args.output, &check) {
        printed?;
    } else {
        terminal::print(&verdict(&check, ok, Style::for_stdout()))?;
    }
    Ok(exit_code(ok))
}

fn verdict(check: &Value, ok: bool, style: Style) -> String {
    let entries = check.get("entries").and_then(Value::as_u64).unwrap_or(0);
    let newest = check
        .get("newest")
        .and_then(Value::as_str)
        .unwrap_or("none");
    if let Some(broken) = check.get("broken").filter(|broken| !broken.is_null()) {
        let sequence = broken.get("sequence").and_then(Value::as_u64).unwrap_or(0);
        let why = broken.get("why").and_then(Value::as_str).unwrap_or("");
        return format!(
            "{} entry {sequence}: {}\nThe log was changed by something other than Testudo; entries before {sequence} hold.\n",
            style.red("✗"),
            terminal::escape(why)
        );
    }
    if !ok {
        return format!(
            "{} the chain holds, but no entry has that hash: entries were cut off, or it is another mesh's\n",
            style.red("✗")
        );
    }
    format!(
        "{} {entries} entries, unbroken     newest {newest}\nNote that hash elsewhere; later: testudo audit verify --contains {}…\n",
        style.green("✓"),
        newest.get(..8).unwrap_or(newest)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_verdict_names_the_entry_where_the_chain_breaks() {
        let broken =
            json!({"ok": false, "entries": 9, "broken": {"sequence": 4, "why": "it was changed"}});
        let text = verdict(&broken, false, Style::PLAIN);
        assert!(text.starts_with("✗ entry 4: it was changed\n"), "{text}");
        let cut = json!({"ok": false, "entries": 9, "broken": null, "contains": false});
        assert!(verdict(&cut, false, Style::PLAIN).contains("cut off"));
        let fine = json!({"ok": true, "entries": 9, "newest": "ab".repeat(32), "broken": null});
        assert!(verdict(&fine, true, Style::PLAIN).starts_with("✓ 9 entries, unbroken"));
    }

    #[test]
    fn hashes_are_hexadecimal() {
        assert!(hash(&"AB".repeat(32)).is_ok());
        assert!(hash("ab").is_err());
        assert!(hash(&"x".repeat(64)).is_err());
    }
}
