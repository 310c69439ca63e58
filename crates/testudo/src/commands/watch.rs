//! `testudo watch`: what is unusual, and what is done about it.

mod contain;

use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Failure;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Narrow one verified user or service on one operation or service, for a while
    Contain(contain::ContainArgs),
    /// Take a containment back at once
    Release(contain::ReleaseArgs),
    /// Who is contained where, why and until when
    Contained(contain::ContainedArgs),
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Contain(args) => contain::contain(&args),
        Command::Release(args) => contain::release(&args),
        Command::Contained(args) => contain::contained(&args),
    }
}
