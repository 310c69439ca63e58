//! A whole mesh on this machine: control plane, gateway, a sidecar for each workload and `run:`
//! commands, each a child process. Used by `up` and `demo`; speaks to its children through the same
//! protocols and files as separate machines would.

mod children;
mod plan;
mod summary;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;
use testudo_policy::config::Config;

use crate::api::Api;
use crate::failure::{Failure, OrFail as _};
use crate::site::{ControlFile, ReadyFile, Remote, STATE_FOLDER};
use crate::supervise::{Event, Events, Supervisor, What, log_tail};

pub(crate) use children::{needs_token, own_program, set_proxy};
pub(crate) use plan::{Plan, Workload};
pub(crate) use summary::dashboard_link;

/// The gateway's name.
const GATEWAY: &str = "gateway-1";
/// From the first child to the last one ready.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// For the newest revision to be in force everywhere.
const SYNC_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at the files that children write once they are ready.
const POLL: Duration = Duration::from_millis(15);
/// A child that ends so often before it was ever ready will not get better by itself.
const START_ATTEMPTS: u32 = 2;

/// How a mesh is started.
#[derive(Clone, Debug)]
pub(crate) struct MeshOptions {
    /// The bundle's folder, absolute.
    pub(crate) dir: PathBuf,
    /// Data threads of each sidecar; `None`: their default.
    pub(crate) sidecar_threads: Option<u16>,
    /// Data threads of the gateway.
    pub(crate) gateway_threads: Option<u16>,
    /// Log filter of the children.
    pub(crate) log: String,
}

/// Paths in a mesh's state folder.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
    pub(crate) state: PathBuf,
}

impl Paths {
    pub(crate) fn new(dir: &Path) -> Paths {
        Paths {
            dir: dir.to_owned(),
            state: dir.join(STATE_FOLDER),
        }
    }

    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.state.join("logs").join(format!("{part}.log"))
    }

    pub(crate) fn proxy(&self, name: &str) -> PathBuf {
        self.state.join("proxies").join(name)
    }

    /// The mesh's root certificate, for clients of the gateway.
    pub(crate) fn root_certificate(&self) -> PathBuf {
        self.state.join("root.pem")
    }
}

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Control,
    Gateway,
    Sidecar,
    Application,
}

#[derive(Debug)]
struct Part {
    kind: Kind,
    pid: u32,
    /// Ends since it was last ready.
    ends: u32,
    ready: bool,
}

/// Where proxies turned out to listen; kept so that a restarted one is found where it was.
pub(crate) type Learned = Rc<RefCell<BTreeMap<String, ReadyFile>>>;

/// A mesh that runs.
pub(crate) struct Mesh {
    pub(crate) paths: Paths,
    pub(crate) plan: Plan,
    pub(crate) learned: Learned,
    pub(crate) api: Option<Api>,
    options: MeshOptions,
    supervisor: Supervisor,
    events: Events,
    parts: BTreeMap<String, Part>,
    /// Held as long as the mesh runs: two cannot share a folder.
    _lock: std::fs::File,
}

impl Mesh {
    /// Starts everything and waits until it serves. Must be called within a `LocalSet`.
    pub(crate) async fn start(options: MeshOptions, config: &Config) -> Result<Mesh, Failure> {
        let paths = Paths::new(&options.dir);
        let lock = prepare_folder(&paths)?;
        let (supervisor, events) = Supervisor::new();
        let mut mesh = Mesh {
            plan: Plan::new(config),
            learned: Learned::default(),
            api: None,
            supervisor,
            events,
            parts: BTreeMap::new(),
            _lock: lock,
            paths,
            options,
        };
        match mesh.start_all().await {
            Ok(()) => Ok(mesh),
            Err(failure) => {
                mesh.supervisor.stop(|_| true).await;
                Err(failure)
            }
        }
    }

    async fn start_all(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_DEADLINE;
        self.start_part("control", Kind::Control, None);
        self.wait(deadline, |kind| kind == Kind::Control).await?;
        self.connect_api()?;
        if self.plan.gateway.is_some() {
            self.start_part(GATEWAY, Kind::Gateway, None);
        }
        for workload in self.plan.workloads.clone() {
            self.start_sidecar(&workload);
        }
        self.wait(deadline, |kind| {
            matches!(kind, Kind::Gateway | Kind::Sidecar)
        })
        .await?;
        for workload in self.plan.workloads.clone() {
            self.start_application(&workload);
        }
        self.wait(deadline, |_| true).await?;
        self.wait_in_sync().await?;
        self.save_root_certificate().await
    }

    /// A proxy that was here before is ready at once, with what it enforced last; the newest revision follows.
    /// One that cannot take it goes on with its last good one, and so do we.
    async fn wait_in_sync(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + SYNC_DEADLINE;
        let Some(api) = &self.api else { return Ok(()) };
        let proxies = self
            .parts
            .values()
            .filter(|part| matches!(part.kind, Kind::Gateway | Kind::Sidecar))
            .count();
        loop {
            let status = api.get("status").await?;
            let in_sync = status.pointer("/proxies/in_sync").and_then(Value::as_u64);
            if in_sync.is_some_and(|count| usize::try_from(count).unwrap_or(0) >= proxies) {
                return Ok(());
            }
            if Instant::now() > deadline {
                eprintln!(
                    "not every proxy runs the newest revision yet; `testudo doctor` says why"
                );
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn start_sidecar(&mut self, workload: &Workload) {
        if workload.sidecar {
            self.start_part(&workload.name, Kind::Sidecar, Some(workload));
        }
    }

    fn start_application(&mut self, workload: &Workload) {
        if workload.run.is_some() {
            self.start_part(&workload.application(), Kind::Application, Some(workload));
        }
    }

    fn start_part(&mut self, name: &str, kind: Kind, workload: Option<&Workload>) {
        let part = children::part(name, kind, workload, self);
        self.parts.insert(
            name.to_owned(),
            Part {
                kind,
                pid: 0,
                ends: 0,
                ready: false,
            },
        );
        self.supervisor.start(part);
    }

    fn connect_api(&mut self) -> Result<(), Failure> {
        let endpoint = Remote::default().resolve_in(Some(&self.paths.state))?;
        self.api = Some(Api::new(endpoint)?);
        Ok(())
    }

    async fn save_root_certificate(&self) -> Result<(), Failure> {
        let Some(api) = &self.api else { return Ok(()) };
        let trust = api.get("trust").await?;
        let pem = trust
            .get("roots_pem")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let path = self.paths.root_certificate();
        std::fs::write(&path, pem).or_fail(|| format!("cannot write {}", path.display()))
    }

    /// Waits until every child of these kinds is ready.
    async fn wait(
        &mut self,
        deadline: Instant,
        kinds: impl Fn(Kind) -> bool,
    ) -> Result<(), Failure> {
        loop {
            self.look();
            let waiting = self
                .parts
                .iter()
                .find(|(_, part)| kinds(part.kind) && !part.ready);
            let Some((name, part)) = waiting else {
                return Ok(());
            };
            if part.ends >= START_ATTEMPTS {
                return Err(self.start_failure(name, "does not start"));
            }
            if Instant::now() > deadline {
                return Err(self.start_failure(name, "is not ready in time"));
            }
            tokio::select! {
                event = self.events.recv() => {
                    if let Some(event) = event {
                        self.note(&event);
                    }
                }
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    fn start_failure(&self, name: &str, what: &str) -> Failure {
        let log = self.paths.log(name);
        let tail = log_tail(&log, 6);
        let failure = Failure::new(if tail.is_empty() {
            format!("{name} {what}")
        } else {
            format!("{name} {what}:\n    {}", tail.join("\n    "))
        });
        let text = tail.join("\n").to_lowercase();
        let failure = failure.at(log.display());
        if text.contains("in use") {
            failure.hint(
                "another program listens there: stop it, or change the address in testudo.yaml",
            )
        } else {
            failure
        }
    }

    /// Keeps the books; `None`: nothing that a person should know.
    fn note(&mut self, event: &Event) -> Option<String> {
        let part = self.parts.get_mut(&event.name)?;
        match &event.what {
            What::Started { pid } => {
                let again = part.pid != 0;
                part.pid = *pid;
                again.then(|| format!("{} is back (process {pid})", event.name))
            }
            What::Ended {
                status,
                after,
                retry_in,
            } => {
                part.ends += 1;
                part.ready = false;
                let after = after.as_secs_f64();
                Some(format!(
                    "{} ended ({status}) after {after:.1} s; again in {:.1} s",
                    event.name,
                    retry_in.as_secs_f64()
                ))
            }
            What::CannotStart { failure, retry_in } => {
                part.ends += 1;
                Some(format!(
                    "{} cannot start: {failure}; again in {:.1} s",
                    event.name,
                    retry_in.as_secs_f64()
                ))
            }
        }
    }

    /// Reads the files that children write once they serve.
    fn look(&mut self) {
        for (name, part) in self
            .parts
            .iter_mut()
            .filter(|(_, part)| !part.ready && part.pid != 0)
        {
            part.ready = match part.kind {
                Kind::Control => {
                    ControlFile::read(&self.paths.state).is_ok_and(|file| file.pid == part.pid)
                }
                Kind::Gateway | Kind::Sidecar => match ReadyFile::read(&self.paths.proxy(name)) {
                    Some(file) if file.pid == part.pid => {
                        self.learned.borrow_mut().insert(name.clone(), file);
                        true
                    }
                    _ => false,
                },
                Kind::Application => {
                    let workload = self
                        .plan
                        .workloads
                        .iter()
                        .find(|workload| workload.application() == *name);
                    workload.is_none_or(|workload| workload.answers(&self.paths.dir))
                }
            };
            if part.ready {
                part.ends = 0;
            }
        }
    }

    /// Waits for something that a person should know of a running mesh.
    pub(crate) async fn next_message(&mut self) -> String {
        loop {
            tokio::select! {
                event = self.events.recv() => {
                    if let Some(message) = event.and_then(|event| self.note(&event)) {
                        return message;
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => self.look(),
            }
        }
    }

    /// Processes of the mesh, for measuring.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&str, Kind, u32)> {
        self.parts
            .iter()
            .map(|(name, part)| (name.as_str(), part.kind, part.pid))
    }

    /// What a proxy said of its addresses.
    pub(crate) fn proxy(&self, name: &str) -> Option<ReadyFile> {
        self.learned.borrow().get(name).cloned()
    }

    /// After a new revision: starts workloads that came, stops those that went, restarts changed commands.
    pub(crate) async fn follow(&mut self, config: &Config) -> Vec<String> {
        let new = Plan::new(config);
        let old = std::mem::replace(&mut self.plan, new.clone());
        let mut messages = Vec::new();
        if old.control != new.control {
            messages.push(
                "control.api and control.mesh take effect when you start `testudo up` again"
                    .to_owned(),
            );
        }
        match (old.gateway.is_some(), new.gateway.is_some()) {
            (false, true) => {
                messages.push("the gateway comes".to_owned());
                self.start_part(GATEWAY, Kind::Gateway, None);
            }
            (true, false) => {
                messages.push("the gateway goes".to_owned());
                self.supervisor.stop(|name| name == GATEWAY).await;
                self.parts.remove(GATEWAY);
            }
            _ => {}
        }
        for change in old.changes(&new) {
            messages.push(change.to_string());
            let (gone, come) = (change.gone(), change.come());
            self.supervisor
                .stop(|name| gone.iter().any(|gone| gone == name))
                .await;
            for name in &gone {
                self.parts.remove(name);
            }
            if let Some(workload) = come {
                self.start_sidecar(workload);
                self.start_application(workload);
            }
        }
        messages
    }

    /// Stops everything in the order in which requests flow.
    pub(crate) async fn stop(mut self) {
        let kinds: BTreeMap<String, Kind> = self
            .parts
            .iter()
            .map(|(name, part)| (name.clone(), part.kind))
            .collect();
        for stage in [
            Kind::Gateway,
            Kind::Sidecar,
            Kind::Application,
            Kind::Control,
        ] {
            self.supervisor
                .stop(|name| kinds.get(name) == Some(&stage))
                .await;
        }
        self.supervisor.stop(|_| true).await;
    }
}

/// Makes the state folder private and locks it.
fn prepare_folder(paths: &Paths) -> Result<std::fs::File, Failure> {
    use std::os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    };
    let state = &paths.state;
    let make = |path: &Path| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .or_fail(|| format!("cannot make {}", path.display()))
    };
    make(state)?;
    let metadata =
        std::fs::symlink_metadata(state).or_fail(|| format!("cannot read {}", state.display()))?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(
            Failure::new(format!("{} is not a folder of this user", state.display()))
                .hint("remove it, or run as the user who owns it"),
        );
    }
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700))
        .or_fail(|| format!("cannot make {} private", state.display()))?;
    for folder in ["logs", "proxies", "run"] {
        make(&state.join(folder))?;
    }
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(state.join("lock"))
        .or_fail(|| format!("cannot write in {}", state.display()))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| {
            Failure::new(format!("a mesh runs from {} already", paths.dir.display()))
                .hint("stop it first, or use another folder")
        },
    )?;
    Ok(lock)
}
