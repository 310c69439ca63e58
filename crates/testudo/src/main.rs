//! `testudo`: the command line. Each command is one file in `commands`; what several share stands beside it.

mod api;
mod args;
mod commands;
mod demo;
mod failure;
mod lifeline;
mod logging;
mod mesh;
mod site;
mod supervise;
mod terminal;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Fails only where one is installed already, which is as good. Our own code passes its provider explicitly.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(cli.command) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Demo(args) => commands::demo::run(args),
        Command::Init(args) => commands::init::run(&args),
        Command::Up(args) => commands::up::run(args),
        Command::Control(args) => commands::control::run(args),
        Command::Proxy(args) => commands::proxy::run(*args),
        Command::Run(args) => commands::run::run(args),
        Command::Check(args) => commands::check::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Can(args) => commands::can::run(&args),
        Command::Policy(args) => commands::policy::run(args),
        Command::Why(args) => commands::why::run(&args),
        Command::Mode(args) => commands::mode::run(&args),
        Command::Watch(args) => commands::watch::run(args),
        Command::Observe(args) => commands::observe::run(args),
        Command::Top(args) => commands::top::run(&args),
        Command::Identity(args) => commands::identity::run(args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Audit(args) => commands::audit::run(args),
        Command::Schema(args) => commands::schema::run(&args),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Man(args) => commands::man::run(&args),
        Command::Launch(args) => Err(commands::launch::run(&args)),
    }
}
