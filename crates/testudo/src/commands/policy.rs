//! `testudo policy`: learn policies from what was seen; give a bundle to the control plane as its next revision.

mod learn;

use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine as _;
use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::api::{Api, ApiError, Refusal};
use crate::commands::block_on;
use crate::failure::{Failure, NO};
use crate::site::Remote;
use crate::terminal::{self, Format};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Least-privilege policies from the calls that were seen, with their evidence
    Learn(Box<learn::Args>),
    /// Apply a bundle: checked again by the control plane, then everywhere within a second
    Apply(ApplyArgs),
}

#[derive(clap::Args)]
struct ApplyArgs {
    /// The bundle's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Why, for the audit log
    #[arg(long, default_value = "")]
    note: String,
    /// The revision's digest that this change builds on; left out: whatever is current now
    #[arg(long, value_name = "DIGEST")]
    parent: Option<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Learn(args) => learn::run(&args),
        Command::Apply(args) => apply(&args),
    }
}

fn apply(args: &ApplyArgs) -> Result<ExitCode, Failure> {
    let checked = super::check::load(&args.dir)?;
    if !checked.is_ok() {
        checked.print_table()?;
        return Ok(ExitCode::from(NO));
    }
    let api = Api::new(args.remote.resolve()?)?;
    let mut files = Map::new();
    for (path, file) in &checked.bundle.files {
        let content = base64::engine::general_purpose::STANDARD.encode(&file.content);
        files.insert(path.clone(), content.into());
    }
    block_on(async {
        let parent = match &args.parent {
            Some(parent) => Value::from(parent.as_str()),
            None => api
                .get("status")
                .await?
                .get("digest")
                .cloned()
                .unwrap_or_default(),
        };
        let request = json!({"parent": parent, "note": args.note, "files": files});
        match api.post("revisions", &request).await {
            Ok(applied) => print_applied(args.output, &applied),
            Err(ApiError::Refused(refusal)) if refusal.problem.get("diagnostics").is_some() => {
                print_refused(args.output, &refusal)
            }
            Err(error) => Err(error.into_failure()),
        }
    })
}

fn print_applied(output: Format, applied: &Value) -> Result<ExitCode, Failure> {
    if let Some(printed) = terminal::print_data(output, applied) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let number = applied.get("number").and_then(Value::as_u64).unwrap_or(0);
    terminal::line(&match applied.get("changed").and_then(Value::as_bool) {
        Some(false) => format!("nothing changed: this is revision {number} already"),
        _ => format!("applied as revision {number}     more: testudo proxy list"),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn print_refused(output: Format, refusal: &Refusal) -> Result<ExitCode, Failure> {
    if let Some(printed) = terminal::print_data(output, &refusal.problem) {
        printed?;
        return Ok(ExitCode::from(NO));
    }
    for diagnostic in refusal
        .problem
        .get("diagnostics")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = |name: &str| match diagnostic.get(name) {
            Some(Value::String(text)) => terminal::escape(text),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        terminal::line(&format!(
            "{} {}  {}:{}:{}\n    {}",
            text("severity"),
            text("code"),
            text("file"),
            text("line"),
            text("column"),
            text("message"),
        ))?;
    }
    Err(Failure::new("the control plane refused the bundle; nothing was changed")
        .hint("`testudo check` here found nothing: is control of another version, or on another machine than files and environment?"))
}
