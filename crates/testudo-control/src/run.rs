//! Start and stop of the control plane.
//!
//! Order of the start: state folder → store → newest revision → the bundle's files → authority →
//! sockets → `control.json`, which tells others that it answers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;
use testudo_identity::files::{FileError, ensure_private_folder, read_private, write_private};
use testudo_identity::manifest_key::ManifestKeyError;
use testudo_identity::svid::SvidError;
use testudo_identity::{
    Authority, AuthorityError, Clock, IdentityError, KeyRequest, ManifestKey, MeshTls, SpiffeId,
    SpiffeIdError, TrustDomain,
};
use testudo_model::mesh::mesh_server::MeshServer;
use testudo_policy::bundle;
use testudo_policy::diagnostic::Diagnostic;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiState};
use crate::containment::{self, Containments, Past};
use crate::decisions::Decisions;
use crate::fleet::Fleet;
use crate::grpc::MeshService;
use crate::incidents::{self, Incidents};
use crate::modes::Modes;
use crate::observed::{self, Observed};
use crate::revisions::{ApplyError, Revisions};
use crate::store::{Store, StoreError, with_cause};
use crate::views::Views;
use crate::windows::{self, Windows};
use crate::{Control, files, listener, unix_now};

/// Life of control's own SVID; it issues itself a new one at half of it.
const OWN_TTL: Duration = Duration::from_secs(24 * 3600);

/// How often control looks after its own certificates: a machine that slept finds them ended.
const UPKEEP: Duration = Duration::from_secs(10);

/// How long streams and requests may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Files of the state folder.
const STORE: &str = "store.redb";
const MANIFEST_KEY: &str = "manifest.key";
const CA: &str = "ca";
const AUTHORITY: [&str; 3] = ["ca/root.pem", "ca/issuing.pem", "ca/trust.pem"];

/// Largest gRPC message down: one file of a bundle.
const MAX_MESSAGE: usize = 17 * 1024 * 1024;

/// What to run.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// The bundle's folder.
    pub bundle_dir: PathBuf,
    /// The state folder (0700).
    pub state_dir: PathBuf,
    /// Address of the HTTP API; `None`: as the bundle says.
    pub api: Option<SocketAddr>,
    /// Address of the mesh port; `None`: as the bundle says.
    pub mesh: Option<SocketAddr>,
    /// Whether saved files are applied.
    pub watch: bool,
}

/// What keeps control from running.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no revision to start with, and the bundle has errors.
    #[error("the bundle has errors")]
    Bundle(Vec<Diagnostic>),
    /// The bundle could not be applied.
    #[error(transparent)]
    Apply(ApplyError),
    /// A state file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Our own identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key that signs manifests.
    #[error(transparent)]
    ManifestKey(#[from] ManifestKeyError),
    /// The roots.
    #[error(transparent)]
    Trust(#[from] SvidError),
    /// rustls.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The trust domain.
    #[error(transparent)]
    TrustDomain(#[from] SpiffeIdError),
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} ({what})\nhint: {hint}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for.
        what: &'static str,
        /// What to do.
        hint: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The API would be reachable from elsewhere without TLS.
    #[error(
        "control.api is {0}, which others can reach, and the API has no TLS; use a loopback address and a tunnel"
    )]
    ApiExposed(SocketAddr),
    /// A part of the state folder is gone, and making it anew would lose what the others rely on.
    #[error(
        "{missing} is missing, but {folder} is of a mesh that has {kept}\nhint: restore it from a backup; or begin a new mesh with another state folder, which every proxy joins anew"
    )]
    StateIncomplete {
        /// The file that is not there, or empty.
        missing: PathBuf,
        /// The state folder.
        folder: PathBuf,
        /// What shows that it was there.
        kept: &'static str,
    },
    /// A fault of this program.
    #[error("this is a fault of Testudo: {0}")]
    Internal(String),
}

/// Runs the control plane until `stop`.
///
/// # Errors
/// See [`ControlError`]; nothing listens then.
pub async fn run(options: ControlOptions, stop: CancellationToken) -> Result<(), ControlError> {
    let control = open(&options)?;
    let current = control
        .revisions
        .current()
        .ok_or_else(|| ControlError::Bundle(Vec::new()))?;
    let api = listen(
        options.api.unwrap_or(current.config.control.api),
        "control.api",
    )
    .await?;
    let mesh = listen(
        options.mesh.unwrap_or(current.config.control.mesh),
        "control.mesh",
    )
    .await?;
    let (api_address, mesh_address) = (local(&api)?, local(&mesh)?);
    if !api_address.ip().is_loopback() {
        return Err(ControlError::ApiExposed(api_address));
    }
    let token = admin_token(&options.state_dir)?;
    let state = ApiState::new(Arc::clone(&control), token, api_address)
        .map_err(|error| ControlError::Internal(error.to_string()))?;

    let serving = stop.child_token();
    renew_own_identity(&control)?;
    let incoming = listener::accept(mesh, Arc::clone(&control.tls), serving.clone())?;
    let service = MeshServer::new(MeshService {
        control: Arc::clone(&control),
    })
    .max_decoding_message_size(8 * 1024 * 1024)
    .max_encoding_message_size(MAX_MESSAGE);
    let mut tasks = tokio::task::JoinSet::new();
    let ended = serving.clone();
    tasks.spawn(async move {
        let served = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, ended.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the mesh port stopped");
        }
    });
    tasks.spawn(api::serve(api, state, serving.clone()));
    tasks.spawn(upkeep(Arc::clone(&control), serving.clone()));
    tasks.spawn(keep_observed(Arc::clone(&control), serving.clone()));
    tasks.spawn(containment::keep_past(
        Arc::clone(&control),
        control.windows.subscribe(),
        serving.clone(),
    ));
    tasks.spawn(observed::count_windows(
        Arc::clone(&control),
        serving.clone(),
    ));
    tasks.spawn(end_what_is_over(Arc::clone(&control), serving.clone()));
    tasks.spawn(incidents::run(
        Arc::clone(&control),
        control.windows.subscribe(),
        serving.clone(),
    ));
    tasks.spawn(windows::keep_complete(
        Arc::clone(&control),
        serving.clone(),
    ));
    if options.watch {
        tasks.spawn(files::watch(
            Arc::clone(&control),
            options.bundle_dir.clone(),
            serving.clone(),
        ));
    }
    announce(&options.state_dir, api_address, mesh_address)?;
    tracing::info!(api = %api_address, mesh = %mesh_address, revision = current.number, "control is ready");
    drop(current);

    stop.cancelled().await;
    // Streams end first, so that proxies reconnect to a successor at once.
    control.fleet.disconnect_all();
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::debug!("some requests were still open when control stopped");
    }
    Ok(())
}

/// Everything before the first socket.
fn open(options: &ControlOptions) -> Result<Arc<Control>, ControlError> {
    ensure_private_folder(&options.state_dir)?;
    let folder = Folder(&options.state_dir);
    // A new store would forget who is revoked, a new key sign what no proxy accepts, a new authority know nobody.
    let authority = AUTHORITY.iter().any(|file| folder.has(file));
    folder.needs(STORE, authority, "an authority")?;
    let store = Store::open(&options.state_dir.join(STORE))?;
    folder.needs(
        MANIFEST_KEY,
        store.newest_revision()?.is_some(),
        "revisions",
    )?;
    folder.needs(CA, !authority && !store.proxies()?.is_empty(), "proxies")?;
    let manifest_key = ManifestKey::load_or_create(&options.state_dir.join(MANIFEST_KEY))?;
    let fleet = Arc::new(Fleet::default());
    let public_key = manifest_key.public();
    let revisions = Revisions::open(store.clone(), manifest_key, Arc::clone(&fleet))
        .map_err(ControlError::Apply)?;
    let bundle_error = apply_at_start(&revisions, &options.bundle_dir)?;
    let current = revisions
        .current()
        .ok_or_else(|| ControlError::Bundle(Vec::new()))?;
    let domain = TrustDomain::new(&current.config.trust_domain)?;
    let authority = Authority::load_or_create(&options.state_dir.join("ca"), &domain, unix_now())?;
    let tls = MeshTls::new(domain.clone(), Clock::system().into());
    tls.set_trust(authority.trust().clone())?;
    fleet.publish_trust(
        authority
            .trust()
            .roots()
            .iter()
            .map(|root| root.to_vec())
            .collect(),
    );
    let containments = Containments::open(&store)?;
    let modes = Modes::open(&store)?;
    let control = Arc::new(Control {
        observed: Observed::open(store.clone())?,
        incidents: Incidents::open(store.clone())?,
        views: Views::default(),
        store,
        fleet,
        decisions: Decisions::default(),
        containments,
        past: Past::default(),
        modes,
        windows: Windows::default(),
        searches: crate::why::gather::Searches::default(),
        revisions,
        bundle_dir: options.bundle_dir.clone(),
        started: jiff::Timestamp::now(),
        authority: RwLock::new(authority),
        manifest_key: public_key,
        domain,
        tls,
        bundle_error: Mutex::new(bundle_error),
    });
    control.spread_revocations()?;
    control.spread_containments();
    control.spread_modes();
    control.fleet.preset_token_keys(control.token_keys()?);
    Ok(control)
}

/// The state folder, before anything is made in it.
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    /// An empty file holds nothing either.
    fn has(&self, file: &str) -> bool {
        let found = std::fs::metadata(self.0.join(file));
        // What cannot be looked at is whoever opens it to report.
        found.map_or_else(
            |error| error.kind() != std::io::ErrorKind::NotFound,
            |file| file.len() > 0,
        )
    }

    fn needs(&self, file: &str, needed: bool, kept: &'static str) -> Result<(), ControlError> {
        // An authority's folder alone is none.
        if !needed || (file != CA && self.has(file)) {
            return Ok(());
        }
        Err(ControlError::StateIncomplete {
            missing: self.0.join(file),
            folder: self.0.to_owned(),
            kept,
        })
    }
}

/// Applies the bundle's files. With an earlier revision in the store a broken bundle is no reason not
/// to start: the mesh goes on with that one, and `status` says why.
fn apply_at_start(revisions: &Revisions, dir: &Path) -> Result<Option<String>, ControlError> {
    let applied = match bundle::load(dir) {
        Ok(bundle) => revisions.apply(bundle, None, "files", "start"),
        Err(diagnostics) => Err(ApplyError::Refused(diagnostics.sorted())),
    };
    match applied {
        Ok(_) => Ok(None),
        Err(ApplyError::Refused(list)) if revisions.current().is_none() => {
            Err(ControlError::Bundle(list))
        }
        Err(error @ (ApplyError::Refused(_) | ApplyError::TrustDomain { .. })) => {
            let error = crate::describe(&error);
            tracing::error!("the bundle is not applied; the last revision goes on: {error}");
            Ok(Some(error))
        }
        Err(error) => Err(ControlError::Apply(error)),
    }
}

/// Control's own SVID lives in memory only: a restart makes a new one.
fn renew_own_identity(control: &Control) -> Result<(), ControlError> {
    let request = KeyRequest::generate()?;
    let id = SpiffeId::control(&control.domain);
    let now = unix_now();
    let authority = control.authority();
    let issued = authority.issue_svid(request.csr(), &id, OWN_TTL, now)?;
    let identity = request.accept(
        issued.chain,
        authority.trust(),
        &id,
        Duration::from_secs(now),
    )?;
    drop(authority);
    Ok(control.tls.set_identity(identity.shared())?)
}

/// Renews our own SVID at half of its life, and the authority's issuing certificate when that is due.
async fn upkeep(control: Arc<Control>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(UPKEEP) => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = control.authority_mut().maintain(unix_now()) {
            tracing::error!(%error, "the authority needs attention");
        }
        let half = OWN_TTL.as_secs() / 2;
        let due = control
            .tls
            .identity()
            .is_none_or(|own| own.not_after() < unix_now() + half);
        if due && let Err(error) = renew_own_identity(&control) {
            tracing::error!(%error, "control cannot renew its own identity");
        }
    }
}

/// Writes what was observed, rarely, and once more at the end.
async fn keep_observed(control: Arc<Control>, stop: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = tokio::time::sleep(observed::FLUSH) => false,
            () = stop.cancelled() => true,
        };
        let flushed = Arc::clone(&control);
        // Up to some megabytes: not on the thread that serves everybody.
        match tokio::task::spawn_blocking(move || flushed.observed.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %with_cause(&error), "observed calls cannot be kept");
            }
            Err(error) => tracing::error!(%error, "keeping observed calls panicked"),
        }
        if stopping {
            return;
        }
    }
}

/// Containments and modes end by themselves, at the proxies too; here they also leave the store.
async fn end_what_is_over(control: Arc<Control>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => return,
        }
        let ended = control.expire_containments();
        if let Err(error) = ended.and_then(|()| control.expire_modes()) {
            tracing::error!(
                error = crate::store::with_cause(&error),
                "what is over stays in the store"
            );
        }
    }
}

async fn listen(address: SocketAddr, what: &'static str) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address).await.map_err(|source| {
        let hint = match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another process has this port; stop it, or set another address in testudo.yaml"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need privileges; choose a higher one"
            }
            std::io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "choose another address in testudo.yaml",
        };
        ControlError::Listen {
            address,
            what,
            hint,
            source,
        }
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, ControlError> {
    listener
        .local_addr()
        .map_err(|error| ControlError::Internal(format!("a socket has no address: {error}")))
}

/// The token of the API: kept over restarts, made if missing.
fn admin_token(state_dir: &Path) -> Result<String, ControlError> {
    let path = state_dir.join("admin.token");
    if let Some(kept) = read_private(&path)? {
        let token = std::str::from_utf8(&kept).map_or("", str::trim);
        if token.len() >= 32 && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(token.to_string());
        }
        tracing::warn!(path = %path.display(), "the API token in it is damaged: a new one takes its place");
    }
    let token = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    write_private(&path, token.as_bytes())?;
    Ok(token)
}

/// Tells others on this machine where control answers.
fn announce(state_dir: &Path, api: SocketAddr, mesh: SocketAddr) -> Result<(), ControlError> {
    let ready = json!({"api": api, "mesh": mesh, "pid": std::process::id()});
    Ok(write_private(
        &state_dir.join("control.json"),
        ready.to_string().as_bytes(),
    )?)
}
