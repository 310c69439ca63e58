//! `testudo proxy`: one proxy alone, and what those of a running mesh say of themselves.

mod fleet;
mod start;

use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Failure;

pub(crate) use start::app_address;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    look: Option<Look>,
    #[command(flatten)]
    start: start::StartArgs,
}

#[derive(Subcommand)]
enum Look {
    /// Every proxy: revision, health, addresses
    List(fleet::ListArgs),
    /// One proxy with its effective configuration
    Show(fleet::ShowArgs),
    /// What a proxy runs against the newest revision, or against another proxy; exit 1 when they differ
    Diff(fleet::DiffArgs),
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.look {
        None => start::run(args.start),
        Some(Look::List(args)) => fleet::list(&args),
        Some(Look::Show(args)) => fleet::show(&args),
        Some(Look::Diff(args)) => fleet::diff(&args),
    }
}
