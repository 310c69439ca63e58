//! `testudo why`: every hop of a request, each check with its result, the line that decided, the cause
//! across hops, and what would have to be true for a permit.

mod offline;
pub(crate) mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use crate::api::{Api, ApiError, query_value};
use crate::commands::block_on;
use crate::failure::Failure;
use crate::site::{self, Remote};
use crate::terminal::{self, Format, Style};

#[derive(clap::Args)]
#[command(after_help = "\
Asks every proxy of the mesh what it keeps of the request. A hop that must exist and is not kept says so.
Where no control plane answers, the rings on this host are read.

  testudo why 01980c1e-6f0a-7cc1-8d2f-5b1f0b8a3f11      x-request-id of the response
  testudo why last                                      the newest denial, or would-be denial
  testudo why last --any -o json                        the newest request")]
pub(crate) struct Args {
    /// The request's id (`x-request-id` of the response), or `last`: the newest that was denied, or would have been
    #[arg(value_name = "REQUEST_ID|last", value_parser = request_id)]
    request: String,
    /// With `last`: the newest request, whatever became of it
    #[arg(long)]
    any: bool,
    /// Read the rings below this state folder instead of asking a control plane
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How to print; curl: a line that repeats the request, without its credentials
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
    Yaml,
    Curl,
}

fn request_id(text: &str) -> Result<String, String> {
    let readable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || text.len() > 128 || !text.bytes().all(readable) {
        return Err(
            "a request id is what x-request-id of the response says: letters, digits, - _ ."
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if args.any && args.request != "last" {
        return Err(Failure::usage("--any goes with `last`")
            .hint("`testudo why last --any` shows the newest request"));
    }
    let why = match &args.state {
        Some(state) => offline::why(state, &args.request, args.any)?,
        None => ask_or_read(args)?,
    };
    print(args.output, &why)?;
    Ok(ExitCode::SUCCESS)
}

/// The control plane's answer; where it does not answer and its mesh ran on this host, what the rings have.
fn ask_or_read(args: &Args) -> Result<Value, Failure> {
    let here = std::env::current_dir().ok();
    let state = here.as_deref().and_then(site::state_folder_above);
    let endpoint = match (args.remote.resolve(), &state) {
        (Ok(endpoint), _) => endpoint,
        (Err(_), Some(state)) if !args.remote.names_api() => {
            return read_instead(state, args);
        }
        (Err(failure), _) => return Err(failure),
    };
    let api = Api::new(endpoint)?;
    match (
        block_on(async { Ok(ask(&api, &args.request, args.any).await) })?,
        &state,
    ) {
        (Ok(why), _) => Ok(why),
        (Err(ApiError::Failed(_)), Some(state)) if !args.remote.names_api() => {
            read_instead(state, args)
        }
        (Err(error), _) => Err(refused(error)),
    }
}

fn read_instead(state: &Path, args: &Args) -> Result<Value, Failure> {
    eprintln!(
        "note: no control plane answers; read from the rings in {}",
        state.display()
    );
    offline::why(state, &args.request, args.any)
}

/// Asks the control plane.
pub(crate) async fn ask(api: &Api, request: &str, any: bool) -> Result<Value, ApiError> {
    let path = match (request, any) {
        ("last", true) => "why/last?any=true".to_owned(),
        ("last", false) => "why/last".to_owned(),
        (id, _) => format!("why/{}", query_value(id)),
    };
    api.try_get(&path).await
}

fn refused(error: ApiError) -> Failure {
    match error {
        ApiError::Refused(refusal) if refusal.status == reqwest::StatusCode::NOT_FOUND => {
            let detail = refusal.problem.get("detail").and_then(Value::as_str);
            Failure::new(detail.unwrap_or("no proxy keeps this request"))
                .hint("`testudo observe --last 100` lists the newest requests; the decision logs of the proxies go back further")
        }
        error => error.into_failure(),
    }
}

fn print(output: Output, why: &Value) -> Result<(), Failure> {
    let format = match output {
        Output::Json => Format::Json,
        Output::Yaml => Format::Yaml,
        Output::Table => Format::Table,
        Output::Curl => {
            let line = why.get("curl").and_then(Value::as_str);
            let line = line.ok_or_else(|| {
                Failure::new("the request did not begin at a gateway that is known here")
                    .hint("a call inside the mesh can be repeated only by the service that made it")
            })?;
            eprintln!(
                "# Credentials, queries and bodies are not kept: set TOKEN and BODY as far as they stand in it."
            );
            return terminal::line(&with_root_certificate(line));
        }
    };
    if let Some(printed) = terminal::print_data(format, why) {
        return printed;
    }
    let lines = text::whole(why, Style::for_stdout());
    terminal::print(&(lines.join("\n") + "\n"))
}

/// `$CA` becomes the file that `up` wrote, where there is one.
fn with_root_certificate(line: &str) -> String {
    let state = std::env::current_dir()
        .ok()
        .and_then(|dir| site::state_folder_above(&dir));
    match state.map(|state| state.join("root.pem")) {
        Some(file) if file.is_file() => {
            let file = file.display().to_string().replace('\'', "'\\''");
            line.replacen("\"$CA\"", &format!("'{file}'"), 1)
        }
        _ => line.to_owned(),
    }
}
