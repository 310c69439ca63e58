//! `testudo doctor`: what is wrong with a running mesh, or will be soon. Exit 1 when anything is.

mod checks;

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::Api;
use crate::commands::{block_on, check, exit_code};
use crate::failure::Failure;
use crate::site::{Remote, state_dir_above};
use crate::terminal::{self, Format, Style};

use checks::{Finding, Level, Mesh};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let state = std::env::current_dir()
        .ok()
        .and_then(|dir| state_dir_above(&dir));
    let api = Api::new(args.remote.resolve()?)?;
    let mesh = block_on(async {
        Ok(Mesh {
            status: api.get("status").await?,
            proxies: list(api.get("proxies").await?),
            services: list(api.get("services").await?),
            identities: list(api.get("identities").await?),
            modes: list(api.get("modes").await?),
            containments: list(api.get("containments").await?),
            now: jiff::Timestamp::now(),
        })
    })?;
    let mut findings = checks::examine(&mesh);
    if let Some(state) = &state {
        findings.extend(checks::examine_state(state));
        if let Some(dir) = state.parent()
            && let Ok(checked) = check::load(dir)
            && let Some(config) = checked.read_config()
        {
            findings.extend(checks::edge::examine(dir, config, mesh.now));
        }
    }
    let healthy = findings.iter().all(|finding| finding.level != Level::Bad);
    let data: Vec<Value> = findings.iter().map(Finding::to_json).collect();
    if let Some(printed) =
        terminal::print_data(args.output, &json!({"ok": healthy, "findings": data}))
    {
        printed?;
        return Ok(exit_code(healthy));
    }
    let style = Style::for_stdout();
    for finding in &findings {
        let mark = match finding.level {
            Level::Good => style.green("✓"),
            Level::Warning => style.yellow("!"),
            Level::Bad => style.red("✗"),
        };
        terminal::line(&format!(
            "{mark} {:<13} {}",
            finding.about,
            terminal::escape(&finding.message)
        ))?;
        if let Some(hint) = &finding.hint {
            terminal::line(&format!("    {} {hint}", style.bold("hint:")))?;
        }
    }
    Ok(exit_code(healthy))
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}
