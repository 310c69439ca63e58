//! `testudo control`: the control plane alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use testudo_control::{ControlError, ControlOptions};
use testudo_policy::diagnostic::Diagnostic;
use tokio_util::sync::CancellationToken;

use crate::commands::up::Stop;
use crate::commands::{block_on, check};
use crate::failure::{Failure, NO};
use crate::lifeline::{self, AtParentsEnd};
use crate::logging::LogArgs;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The bundle's folder
    dir: PathBuf,
    /// Folder for the store, the authority's keys and the API token (0700)
    #[arg(long, value_name = "FOLDER")]
    state: PathBuf,
    /// Address of the HTTP API; left out: as the bundle says
    #[arg(long, value_name = "ADDR")]
    api: Option<SocketAddr>,
    /// Address of the mesh port; left out: as the bundle says
    #[arg(long, value_name = "ADDR")]
    mesh: Option<SocketAddr>,
    /// Apply the bundle's files when they are saved
    #[arg(long)]
    watch: bool,
    /// End when this process does
    #[arg(long, hide = true)]
    parent_pid: Option<u32>,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    if let Some(parent) = args.parent_pid {
        lifeline::tie_to(parent, AtParentsEnd::Stop)?;
    }
    lifeline::write_privately();
    args.log.start()?;
    let options = ControlOptions {
        bundle_dir: args.dir.clone(),
        state_dir: args.state,
        api: args.api,
        mesh: args.mesh,
        watch: args.watch,
    };
    let ended = block_on(async move {
        let mut asked = Stop::new()?;
        let stop = CancellationToken::new();
        let mut running = std::pin::pin!(testudo_control::run(options, stop.clone()));
        Ok(tokio::select! {
            ended = &mut running => ended,
            () = asked.asked() => {
                stop.cancel();
                running.await
            }
        })
    })?;
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(ControlError::Bundle(found)) => refused(&args.dir, &found),
        Err(error) => Err(Failure::because("the control plane cannot go on", &error)),
    }
}

/// The bundle has errors and there is no earlier revision to go on with.
fn refused(dir: &std::path::Path, found: &[Diagnostic]) -> Result<ExitCode, Failure> {
    let checked = check::load(dir)?;
    if checked.is_ok() {
        // What the control plane saw has been mended meanwhile, or is about its own host.
        for diagnostic in found {
            eprintln!("{}: {}", diagnostic.code, diagnostic.message);
        }
    } else {
        checked.print_table()?;
    }
    Ok(ExitCode::from(NO))
}
