//! `testudo watch`: what is unusual, and what is done about it.

mod contain;
mod incidents;
mod simulate;

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
    /// What is unusual now
    List(incidents::ListArgs),
    /// One incident with its evidence, and what to do about it
    Show(incidents::ShowArgs),
    /// Say that an incident was seen
    Ack(incidents::StepArgs),
    /// Neither tell nor contain an incident for a while
    Mute(incidents::MuteArgs),
    /// Say that an incident is over
    Close(incidents::StepArgs),
    /// What the detectors would have found in decision logs, and whom they would have contained
    Simulate(simulate::SimulateArgs),
    /// Narrow one verified user or service on one operation or service, for a while
    Contain(contain::ContainArgs),
    /// Take a containment back at once
    Release(contain::ReleaseArgs),
    /// Who is contained where, why and until when
    Contained(contain::ContainedArgs),
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::List(args) => incidents::list(&args),
        Command::Show(args) => incidents::show(&args),
        Command::Ack(args) => incidents::acknowledge(&args),
        Command::Mute(args) => incidents::mute(&args),
        Command::Close(args) => incidents::close(&args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Contain(args) => contain::contain(&args),
        Command::Release(args) => contain::release(&args),
        Command::Contained(args) => contain::contained(&args),
    }
}
