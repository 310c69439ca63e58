//! `testudo up`: the mesh that a bundle describes, on this machine, until Ctrl-C.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::{block_on, check};
use crate::failure::{Failure, NO, OrFail as _};
use crate::mesh::{Mesh, MeshOptions};
use crate::terminal::{self, Style};

/// How often the revision is looked at; policy itself reaches proxies without this.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The bundle's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Log filter of the mesh's processes
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let dir = std::fs::canonicalize(&args.dir)
        .or_fail(|| format!("cannot open {}", args.dir.display()))?;
    let checked = check::load(&dir)?;
    if !checked.diagnostics().is_empty() {
        checked.print_table()?;
    }
    let Some(config) = checked.config() else {
        return Ok(ExitCode::from(NO));
    };
    let options = MeshOptions {
        dir,
        sidecar_threads: None,
        gateway_threads: None,
        log: args.log,
    };
    block_on(tokio::task::LocalSet::new().run_until(async move {
        let begun = Instant::now();
        // Signals count from here on: one that comes during start-up ends it as well.
        let mut stop = Stop::new()?;
        let mut mesh = tokio::select! {
            mesh = Mesh::start(options, config) => mesh?,
            () = stop.asked() => return Ok(ExitCode::SUCCESS),
        };
        let revision = mesh.revision().await;
        terminal::print(&mesh.summary(
            revision.unwrap_or(0),
            begun.elapsed(),
            Style::for_stdout(),
        ))?;
        supervise(&mut mesh, &mut stop, revision).await;
        terminal::line("stopping; again Ctrl-C to cut it short")?;
        tokio::select! {
            () = mesh.stop() => {}
            () = stop.asked() => {}
        }
        Ok(ExitCode::SUCCESS)
    }))
}

async fn supervise(mesh: &mut Mesh, stop: &mut Stop, mut revision: Option<u64>) {
    let mut timer = tokio::time::interval(FOLLOW_EVERY);
    loop {
        tokio::select! {
            () = stop.asked() => return,
            message = mesh.next_message() => say(&message),
            _ = timer.tick() => {
                let now = mesh.revision().await;
                if now.is_some() && now != revision {
                    revision = now;
                    say(&format!("revision {}", now.unwrap_or(0)));
                    follow(mesh).await;
                }
            }
        }
    }
}

/// Workloads come and go with the bundle.
async fn follow(mesh: &mut Mesh) {
    match check::load(&mesh.paths.dir) {
        Ok(checked) => {
            if let Some(config) = checked.config() {
                mesh.follow(config)
                    .await
                    .iter()
                    .for_each(|message| say(message));
            }
        }
        Err(failure) => say(&failure.to_string()),
    }
}

fn say(message: &str) {
    let now = jiff::Zoned::now();
    eprintln!("{} {}", now.strftime("%H:%M:%S"), terminal::escape(message));
}

impl Mesh {
    /// The newest revision, if control answers.
    pub(crate) async fn revision(&self) -> Option<u64> {
        let status = self.api.as_ref()?.get("status").await.ok()?;
        status.get("revision").and_then(Value::as_u64)
    }
}

/// SIGINT or SIGTERM.
pub(crate) struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    pub(crate) fn new() -> Result<Stop, Failure> {
        let listen = |kind| signal(kind).or_fail(|| "cannot listen for signals");
        Ok(Stop {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
