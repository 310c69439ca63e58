//! `testudo run SERVICE -- CMD`: a command with its sidecar attached; exits with the command's code.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::api::{Api, ApiError};
use crate::commands::block_on;
use crate::commands::identity::{join_token, write_secret};
use crate::commands::proxy::app_address;
use crate::commands::up::Stop;
use crate::failure::{Failure, OrFail as _};
use crate::mesh::{needs_token, own_program, set_proxy};
use crate::site::{ControlFile, ReadyFile, Remote, state_dir_above};
use crate::supervise::log_tail;

const READY_DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(15);
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// A sidecar drains for up to 20 s.
const SIDECAR_PATIENCE: Duration = Duration::from_secs(25);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The service, as the bundle names it
    service: String,
    /// The command, after --
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// The control plane's mesh port, HOST:PORT; left out: of the mesh that runs from this folder
    #[arg(long, value_name = "HOST:PORT")]
    control: Option<String>,
    /// File with a one-time join token; left out: asked of the control plane
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// The sidecar's state folder [default: .testudo/run-SERVICE]
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Where the command listens, HOST:PORT or unix:PATH; left out: as the bundle says
    #[arg(long, value_name = "ADDR", value_parser = |text: &str| app_address(text).map(|_| text.to_owned()))]
    app: Option<String>,
    /// Where other proxies connect by mTLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    inbound: std::net::SocketAddr,
    /// HOST:PORT under which others reach it; left out: the address that it bound
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Data threads of the sidecar
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    block_on(attach(args))
}

async fn attach(args: Args) -> Result<ExitCode, Failure> {
    let site = std::env::current_dir()
        .ok()
        .and_then(|dir| state_dir_above(&dir));
    let state = args
        .state
        .clone()
        .unwrap_or_else(|| default_state(site.as_deref(), &args.service));
    let mut stop = Stop::new()?;
    let log = state.join("sidecar.log");
    let mut sidecar = start_sidecar(&args, site.as_deref(), &state, &log).await?;
    let outbound = wait_ready(&mut sidecar, &state, &log, &mut stop).await?;
    let Some(outbound) = outbound else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut command = application(&args.command)?;
    set_proxy(&mut command, &state, &outbound)?;
    let name = args
        .command
        .first()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut child = command.spawn().or_fail(|| format!("cannot run {name}"))?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.or_fail(|| format!("cannot wait for {name}"))?,
            // A terminal's Ctrl-C reaches the command by itself; a SIGTERM is passed on. Its end decides.
            () = stop.asked() => signal(&child, Signal::TERM),
            ended = sidecar.wait() => {
                signal(&child, Signal::TERM);
                let status = ended.or_fail(|| "cannot wait for the sidecar")?;
                let _ = child.wait().await;
                return Err(Failure::new(format!("the sidecar ended ({status}); without it {} may not go on\n    {}",
                    args.service, log_tail(&log, 4).join("\n    "))).at(log.display()));
            }
        }
    };
    signal(&sidecar, Signal::TERM);
    if tokio::time::timeout(SIDECAR_PATIENCE, sidecar.wait())
        .await
        .is_err()
    {
        let _ = sidecar.kill().await;
    }
    Ok(exit_code(status))
}

fn default_state(site: Option<&Path>, service: &str) -> PathBuf {
    let folder = site.map_or_else(|| PathBuf::from(crate::site::STATE_FOLDER), Path::to_owned);
    folder.join(format!("run-{service}"))
}

async fn start_sidecar(
    args: &Args,
    site: Option<&Path>,
    state: &Path,
    log: &Path,
) -> Result<Child, Failure> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let make = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state);
    make.or_fail(|| format!("cannot make {}", state.display()))?;
    let control = match (&args.control, site) {
        (Some(control), _) => control.clone(),
        (None, Some(site)) => ControlFile::read(site)?.mesh,
        (None, None) => {
            return Err(Failure::usage("no mesh is running from this folder or one above it")
                .hint("give --control HOST:PORT and --join-token-file FILE, or run it in the bundle's folder"));
        }
    };
    let mut command = Command::new(own_program()?);
    command
        .args(["proxy", &args.service, "--control", &control])
        .arg("--state")
        .arg(state);
    command.args(["--inbound", &args.inbound.to_string()]);
    command.args(["--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    if let Some(file) = token_file(args, site, state).await? {
        command.arg("--join-token-file").arg(file);
    }
    for (flag, value) in [("--app", &args.app), ("--advertise", &args.advertise)] {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    if let Some(base) = site.and_then(Path::parent) {
        command.arg("--base").arg(base);
    }
    if let Some(threads) = args.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    command.args(["--parent-pid", &std::process::id().to_string()]);
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(log);
    let file = file.or_fail(|| format!("cannot write {}", log.display()))?;
    let errors = file.try_clone().or_fail(|| "cannot share the log")?;
    // A group of its own: Ctrl-C must reach the command first, and the sidecar only after it.
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true);
    command.env_remove("TESTUDO_TOKEN");
    command.spawn().or_fail(|| "cannot start the sidecar")
}

async fn token_file(
    args: &Args,
    site: Option<&Path>,
    state: &Path,
) -> Result<Option<PathBuf>, Failure> {
    if let Some(file) = &args.join_token_file {
        return Ok(Some(file.clone()));
    }
    if !needs_token(state) {
        return Ok(None);
    }
    let api = Api::new(args.remote.resolve_in(site)?)?;
    let token = join_token(&api, &args.service, TOKEN_TTL)
        .await
        .map_err(ApiError::into_failure)?;
    let path = state.join("join.token");
    write_secret(&path, token.as_bytes())?;
    Ok(Some(path))
}

/// The sidecar's outbound address; `None`: told to stop before it was ready.
async fn wait_ready(
    sidecar: &mut Child,
    state: &Path,
    log: &Path,
    stop: &mut Stop,
) -> Result<Option<String>, Failure> {
    let deadline = Instant::now() + READY_DEADLINE;
    let tail = || log_tail(log, 4).join("\n    ");
    loop {
        let ready = ReadyFile::read(state).filter(|ready| Some(ready.pid) == sidecar.id());
        if let Some(ready) = ready {
            return match ready.outbound {
                Some(outbound) => Ok(Some(outbound)),
                None => Err(Failure::new("the sidecar has no outbound side")),
            };
        }
        if Instant::now() > deadline {
            return Err(
                Failure::new(format!("the sidecar is not ready in time:\n    {}", tail()))
                    .at(log.display()),
            );
        }
        tokio::select! {
            status = sidecar.wait() => {
                let status = status.or_fail(|| "cannot wait for the sidecar")?;
                return Err(Failure::new(format!("the sidecar does not start ({status}):\n    {}", tail())).at(log.display()));
            }
            () = stop.asked() => return Ok(None),
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// The command, made to end when this process does.
fn application(command: &[OsString]) -> Result<Command, Failure> {
    let mut launch = Command::new(own_program()?);
    launch
        .args([
            "launch",
            "--parent-pid",
            &std::process::id().to_string(),
            "--",
        ])
        .args(command);
    launch.env_remove("TESTUDO_TOKEN").kill_on_drop(true);
    Ok(launch)
}

fn signal(child: &Child, signal: Signal) {
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = kill_process(pid, signal);
    }
}

/// As shells do: 128 and the signal's number for a command that a signal ended.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
