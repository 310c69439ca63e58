//! How each child of a mesh is started: arguments, environment, join tokens.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use testudo_identity::Identity;
use tokio::process::Command;

use crate::api::{Api, ApiError};
use crate::commands::identity::{join_token, write_secret};
use crate::failure::{Failure, OrFail as _};
use crate::mesh::plan::app_text;
use crate::mesh::{Kind, Learned, Mesh, MeshOptions, Paths, Workload};
use crate::site::{ControlFile, Remote};
use crate::supervise::{Launch, Part};

/// A proxy drains for up to 20 s.
const PROXY_PATIENCE: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(8);
/// An application that comes with a new sidecar waits for it.
const SIDECAR_WAIT: Duration = Duration::from_secs(10);
/// The token is used at once.
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// An SVID that ends sooner than this when its proxy starts is not worth renewing.
const SVID_MARGIN_SECONDS: u64 = 60;

/// Everything that starting a child needs.
struct Child {
    name: String,
    kind: Kind,
    workload: Option<Workload>,
    paths: Paths,
    options: MeshOptions,
    learned: Learned,
    /// The gateway's port is left open.
    any_port: bool,
}

/// A supervised child of `mesh`.
pub(super) fn part(name: &str, kind: Kind, workload: Option<&Workload>, mesh: &Mesh) -> Part {
    let child = Rc::new(Child {
        name: name.to_owned(),
        kind,
        workload: workload.cloned(),
        paths: mesh.paths.clone(),
        options: mesh.options.clone(),
        learned: mesh.learned.clone(),
        any_port: mesh
            .plan
            .gateway
            .as_ref()
            .is_some_and(|gateway| gateway.any_port),
    });
    Part {
        name: name.to_owned(),
        log: mesh.paths.log(name),
        patience: match kind {
            Kind::Gateway | Kind::Sidecar => PROXY_PATIENCE,
            Kind::Control | Kind::Application => PATIENCE,
        },
        prepare: Box::new(move || {
            let child = child.clone();
            Box::pin(async move { child.launch().await })
        }),
    }
}

impl Child {
    async fn launch(&self) -> Result<Launch, Failure> {
        let mut command = Command::new(own_program()?);
        command
            .current_dir(&self.paths.dir)
            .env_remove("TESTUDO_TOKEN")
            .env_remove("TESTUDO_LOG");
        match self.kind {
            Kind::Control => self.control(&mut command),
            Kind::Gateway | Kind::Sidecar => self.proxy(&mut command).await?,
            Kind::Application => self.application(&mut command).await?,
        }
        Ok(Launch { command })
    }

    fn control(&self, command: &mut Command) {
        // An old file would tell of an old process.
        let _ = std::fs::remove_file(self.paths.state.join("control.json"));
        command.arg("control").arg(&self.paths.dir).arg("--watch");
        command.arg("--state").arg(&self.paths.state);
        self.common(command);
    }

    async fn proxy(&self, command: &mut Command) -> Result<(), Failure> {
        let state = self.paths.proxy(&self.name);
        let role = self
            .workload
            .as_ref()
            .map_or("gateway", |workload| workload.service.as_str());
        command
            .args(["proxy", role, "--name", &self.name])
            .arg("--state")
            .arg(&state);
        command.args(["--control", &ControlFile::read(&self.paths.state)?.mesh]);
        if needs_token(&state) {
            command
                .arg("--join-token-file")
                .arg(self.token(role).await?);
        }
        let learned = self.learned.borrow().get(&self.name).cloned();
        let known = |address: Option<String>| address.unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let admin = learned.as_ref().map(|ready| ready.admin.clone());
        command.args(["--admin", &known(admin)]);
        let mut threads = self.options.gateway_threads;
        if let Some(workload) = &self.workload {
            threads = self.options.sidecar_threads;
            let configured =
                |address: Option<std::net::SocketAddr>| address.map(|address| address.to_string());
            let inbound = learned.as_ref().and_then(|ready| ready.inbound.clone());
            let outbound = learned.as_ref().and_then(|ready| ready.outbound.clone());
            command.args([
                "--inbound",
                &known(configured(workload.inbound).or(inbound)),
            ]);
            command.args([
                "--outbound",
                &known(configured(workload.outbound).or(outbound)),
            ]);
            command.args(["--app", &app_text(&workload.app)]);
        } else if self.any_port
            && let Some(listen) = learned.as_ref().and_then(|ready| ready.listen.clone())
        {
            // It is found where it was; a port that the bundle names may change.
            command.args(["--listen", &listen]);
        }
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        self.common(command);
        Ok(())
    }

    fn common(&self, command: &mut Command) {
        command.args(["--log", &self.options.log]);
        command.args(["--parent-pid", &std::process::id().to_string()]);
    }

    async fn token(&self, role: &str) -> Result<PathBuf, Failure> {
        let api = Api::new(Remote::default().resolve_in(Some(&self.paths.state))?)?;
        let token = join_token(&api, role, TOKEN_TTL)
            .await
            .map_err(ApiError::into_failure)?;
        let path = self
            .paths
            .state
            .join("proxies")
            .join(format!("{}.join", self.name));
        write_secret(&path, token.as_bytes())?;
        Ok(path)
    }

    async fn application(&self, command: &mut Command) -> Result<(), Failure> {
        let workload = self.workload.as_ref();
        let Some((workload, run)) =
            workload.and_then(|workload| Some((workload, workload.run.as_ref()?)))
        else {
            return Err(Failure::new(format!("{} has no command to run", self.name)));
        };
        if workload.sidecar {
            let outbound = self.outbound_of(&workload.name).await?;
            set_proxy(command, &self.paths.proxy(&workload.name), &outbound)?;
        }
        command.env("PATH", path_with_own_folder()?);
        command
            .args([
                "launch",
                "--parent-pid",
                &std::process::id().to_string(),
                "--",
            ])
            .args(run);
        Ok(())
    }

    /// Where the application's sidecar takes calls, once it does.
    async fn outbound_of(&self, sidecar: &str) -> Result<String, Failure> {
        let deadline = Instant::now() + SIDECAR_WAIT;
        loop {
            let ready = self.learned.borrow().get(sidecar).cloned();
            if let Some(outbound) = ready.and_then(|ready| ready.outbound) {
                return Ok(outbound);
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{sidecar} is not ready")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Sets `HTTP_PROXY` and `http_proxy` for an application, with the secret that its sidecar asks for.
pub(crate) fn set_proxy(
    command: &mut Command,
    proxy_state: &Path,
    outbound: &str,
) -> Result<(), Failure> {
    let path = proxy_state.join("outbound.secret");
    let secret =
        std::fs::read_to_string(&path).or_fail(|| format!("cannot read {}", path.display()))?;
    let url = format!("http://testudo:{}@{outbound}", secret.trim());
    command.env("HTTP_PROXY", &url).env("http_proxy", &url);
    Ok(())
}

/// This program.
pub(crate) fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().or_fail(|| "cannot find the testudo program itself")
}

/// `PATH` with the folder of this program in front, so that programs shipped beside it are found.
fn path_with_own_folder() -> Result<OsString, Failure> {
    let own = own_program()?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path)))
        .or_fail(|| "cannot set PATH")
}

/// A proxy without an SVID, or with one that has ended, must join; so must one whose files are damaged.
pub(crate) fn needs_token(state: &Path) -> bool {
    let read = |file: &str| std::fs::read(state.join(file)).unwrap_or_default();
    if serde_json::from_slice::<serde::de::IgnoredAny>(&read("mesh.json")).is_err()
        || testudo_identity::pem::decode_certificates(&read("trust.pem")).is_err()
    {
        return true;
    }
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    match Identity::load(state) {
        Ok(Some(identity)) => identity.not_after() < now + SVID_MARGIN_SECONDS,
        Ok(None) | Err(_) => true,
    }
}
