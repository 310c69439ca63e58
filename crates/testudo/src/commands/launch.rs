//! `testudo launch` (hidden): becomes another program that ends when its parent does.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::failure::Failure;
use crate::lifeline::{self, AtParentsEnd};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    parent_pid: u32,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Returns only on failure.
pub(crate) fn run(args: &Args) -> Failure {
    if let Err(failure) = lifeline::tie_to(args.parent_pid, AtParentsEnd::Kill) {
        return failure;
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Failure::usage("there is no command to run");
    };
    let error = Command::new(program).args(arguments).exec();
    Failure::because(format!("cannot run {}", program.to_string_lossy()), &error)
        .hint("is it on the PATH, and executable?")
}
