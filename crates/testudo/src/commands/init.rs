//! `testudo init`: a report-mode bundle for services that already run.

use std::path::PathBuf;
use std::process::ExitCode;

use testudo_policy::init::{self, InitError};

use crate::commands::check;
use crate::failure::{Failure, NO};
use crate::terminal;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Services and where they run: orders=127.0.0.1:9101, ledger=unix:/run/ledger.sock
    #[arg(required = true, value_name = "NAME=ADDR", value_parser = service)]
    services: Vec<(String, String)>,
    /// The OpenAPI document of the service whose name it fits, or else of the first
    #[arg(long, value_name = "FILE")]
    openapi: Option<PathBuf>,
    /// Where to write
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
}

fn service(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
            Ok((name.to_owned(), address.to_owned()))
        }
        _ => Err("write NAME=ADDR, for example orders=127.0.0.1:9101".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    match init::write(args.openapi.as_deref(), &args.services, &args.dir) {
        Ok(written) => {
            for path in &written {
                terminal::line(&format!("wrote {}", path.display()))?;
            }
            let dir = args.dir.display();
            terminal::line(&format!(
                "nothing is blocked yet: services are in mode report     next: testudo up {dir}     then: testudo observe"
            ))?;
            terminal::line(
                "when requests have come by: testudo policy learn     it writes policies from what was seen, for mode enforce",
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(InitError::Specification(rejected)) => {
            terminal::print(&check::table(rejected.checked.report(&rejected.bundle)))?;
            eprintln!("the specification has errors; nothing was written");
            Ok(ExitCode::from(NO))
        }
        Err(error @ (InitError::NoService | InitError::Name(_) | InitError::Address { .. })) => {
            Err(Failure::usage(error.to_string()))
        }
        Err(error) => Err(Failure::because("no bundle was written", &error)),
    }
}
