//! `testudo schema`: the JSON Schema of testudo.yaml, for editors.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::terminal;

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args) -> Result<ExitCode, Failure> {
    terminal::line(&format!("{:#}", testudo_policy::json_schema::json_schema()))?;
    Ok(ExitCode::SUCCESS)
}
