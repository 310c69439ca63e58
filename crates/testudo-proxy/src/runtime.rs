//! Start and stop of one proxy: data threads, listeners, the control thread's tasks, drain.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use testudo_guard::snapshot::Role;
use testudo_watch::{LogOptions, Metrics, Recorder, RecorderOptions, RingOptions, WindowOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::admin;
use crate::control::{self, Link, LinkError};
use crate::core::{self, Assignment, Side};
use crate::drain::Phase;
use crate::edge_address::{self, Edge};
use crate::jwks;
use crate::listener;
use crate::options::{ListenAddress, ProxyOptions};
use crate::peer_uid::{self, AppUidError};
use crate::shared::{Bound, Evidence, Shared, Uplink};
use crate::state::{self, Ready};

/// Events that may wait for the link to control.
const FORWARDED_EVENTS: usize = 8192;
/// Windows that may wait for it: what control can still use when it comes back.
const CLOSED_WINDOWS: usize = 8;

/// Why a proxy could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The state folder cannot be used.
    #[error("the state folder {path} cannot be used")]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what})\nhint: is another process there? ss -ltnp shows who listens; --{flag} takes another address", flag = flag(what))]
    Bind {
        /// `gateway`, `inbound`, `outbound` or `admin`.
        what: &'static str,
        /// Which.
        address: String,
        /// Why; most often another process listens there.
        source: io::Error,
    },
    /// The operating system gives no thread or no runtime.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// There is no link to a mesh.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The application cannot be told by its user.
    #[error(transparent)]
    AppUid(#[from] AppUidError),
    /// A data thread ended by a panic.
    #[error("a data thread panicked")]
    Panicked,
}

/// The argument that moves a listener.
fn flag(what: &str) -> &str {
    if what == "gateway" { "listen" } else { what }
}

/// Runs a proxy until it is told to stop (SIGTERM, SIGINT) and has drained.
///
/// # Errors
/// It cannot start; see [`ProxyError`].
pub fn run(options: ProxyOptions) -> Result<(), ProxyError> {
    let (shared, recorder) = prepare(options)?;
    let result = control::open(&shared)
        .map_err(ProxyError::from)
        .and_then(|link| serve_linked(&shared, Some(link)));
    // What is queued is written before the process ends.
    recorder.stop();
    result
}

/// Makes the state folder, everything that threads share, and the thread that records events; nothing
/// listens yet.
///
/// # Errors
/// The state folder cannot be used.
pub fn prepare(options: ProxyOptions) -> Result<(Arc<Shared>, Recorder), ProxyError> {
    if let Some(uid) = options.app_uid {
        peer_uid::check(uid)?;
    }
    let dir = options.state_dir.clone();
    let state_error = |source| ProxyError::State {
        path: dir.clone(),
        source,
    };
    state::prepare(&dir).map_err(state_error)?;
    let secret = state::outbound_secret(&dir).map_err(state_error)?;
    let metrics = Arc::new(Metrics::new());
    let (forward, forwarded) = mpsc::channel(FORWARDED_EVENTS);
    let (closed, windows) = mpsc::channel(CLOSED_WINDOWS);
    let service = match &options.role {
        Role::Gateway => None,
        Role::Sidecar(service) => Some(service.clone()),
    };
    let (events, recorder) = Recorder::start(RecorderOptions {
        metrics: metrics.clone(),
        decision_log: Some((dir.join("decisions.jsonl"), LogOptions::default())),
        ring: Some((dir.join("ring"), RingOptions::default())),
        forward: Some(forward),
        windows: Some(WindowOptions { service, closed }),
    })
    .map_err(state_error)?;
    let evidence = Evidence {
        metrics,
        events,
        uplink: Uplink {
            events: forwarded,
            windows,
        },
    };
    Ok((Arc::new(Shared::new(options, secret, evidence)), recorder))
}

/// Runs what [`prepare`] made, on this thread and its data threads, until it has drained. Without a
/// control plane: whoever calls this fills [`Shared::installed`].
///
/// # Errors
/// An address cannot be bound, or a thread not started.
pub fn serve(shared: &Arc<Shared>) -> Result<(), ProxyError> {
    serve_linked(shared, None)
}

fn serve_linked(shared: &Arc<Shared>, link: Option<Link>) -> Result<(), ProxyError> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ProxyError::Thread)?;
    let cores = Cores::start(shared)?;
    let local = LocalSet::new();
    let result = local.block_on(&runtime, control_thread(shared, &cores, link));
    // Whatever happened, data threads end before this returns.
    shared.drain.advance(Phase::Forced);
    let joined = cores.join();
    state::remove_ready(&shared.options.state_dir);
    result.and(joined)
}

async fn control_thread(
    shared: &Arc<Shared>,
    cores: &Cores,
    link: Option<Link>,
) -> Result<(), ProxyError> {
    let mut stop = Stop::new(shared)?;
    let mut link = std::pin::pin!(keep_link(shared, link.map(Rc::new)));
    let admin_address = ListenAddress::Tcp(shared.options.admin_address());
    let (admin_socket, admin) =
        listener::bind(&admin_address, 1).map_err(bind_error("admin", &admin_address))?;
    shared
        .panics
        .spawn_named("admin", admin::serve(shared.clone(), admin_socket));
    shared
        .panics
        .spawn_named("key sets", jwks::run(shared.clone()));

    let edge = tokio::select! {
        bound = bind_all(shared, cores, admin) => {
            let (bound, edge) = bound?;
            shared.bound.store(Some(Arc::new(bound)));
            shared.installed.changed();
            edge
        }
        error = &mut link => return Err(error.into()),
        () = stop.wait() => return Ok(()),
    };
    tokio::select! {
        () = report_ready(shared) => {}
        never = follow(edge, shared, cores) => match never {},
        error = &mut link => return Err(error.into()),
        () = stop.wait() => {}
    }
    drain(shared, cores).await;
    Ok(())
}

/// Runs the link to control as a task, again if it panics. Ends only where the proxy has no place in
/// the mesh.
async fn keep_link(shared: &Arc<Shared>, link: Option<Rc<Link>>) -> LinkError {
    let Some(link) = link else {
        return std::future::pending().await;
    };
    loop {
        let running = Rc::clone(&link);
        let task = async move { running.run().await };
        match shared.panics.spawn_named("control link", task).await {
            Ok(Ok(never)) => match never {},
            Ok(Err(error)) => return error,
            Err(_panicked) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Binds what this role needs and hands one socket of each to every core.
async fn bind_all(
    shared: &Arc<Shared>,
    cores: &Cores,
    admin: String,
) -> Result<(Bound, Option<Edge>), ProxyError> {
    let mut bound = Bound {
        admin,
        ..Bound::default()
    };
    match &shared.options.role {
        Role::Gateway => {
            let edge = edge_address::bind(shared, cores).await?;
            bound.listen = Some(edge.address());
            Ok((bound, Some(edge)))
        }
        Role::Sidecar(_) => {
            let inbound = ListenAddress::Tcp(shared.options.inbound_address());
            let inbound = cores.listen(Side::Inbound, "inbound", &inbound).await?;
            bound.inbound = Some(inbound.address);
            let outbound = shared.options.outbound_address();
            let outbound = cores.listen(Side::Outbound, "outbound", &outbound).await?;
            bound.outbound = Some(outbound.address);
            Ok((bound, None))
        }
    }
}

async fn follow(edge: Option<Edge>, shared: &Shared, cores: &Cores) -> Infallible {
    match edge {
        Some(edge) => edge.follow(shared, cores).await,
        None => std::future::pending().await,
    }
}

/// Keeps `ready.json` as true as it can be. Never ends by itself.
async fn report_ready(shared: &Arc<Shared>) {
    let mut changes = shared.installed.changes();
    let mut written = None;
    loop {
        let bound = shared.bound();
        if written != bound && shared.not_ready().is_none() {
            let told = bound.clone();
            let bound = bound.map_or_else(Bound::default, |bound| Bound::clone(&bound));
            let ready = Ready {
                listen: bound.listen,
                inbound: bound.inbound,
                outbound: bound.outbound,
                admin: bound.admin,
                pid: std::process::id(),
            };
            match state::write_ready(&shared.options.state_dir, &ready) {
                Ok(()) => {
                    written = told;
                    tracing::info!(proxy = %shared.name(), ?ready, "ready");
                }
                Err(error) => tracing::error!(%error, "cannot write ready.json"),
            }
        }
        shared.installed.drop_retired();
        publish(shared);
        let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
    }
}

/// What the metrics say of the proxy itself.
fn publish(shared: &Shared) {
    if let Some(snapshot) = shared.installed.snapshot.load_full() {
        shared.metrics.set_revision(snapshot.revision);
        let services = snapshot.services.keys();
        shared
            .metrics
            .set_services(services.map(|service| &**service));
    }
    let mesh = shared.installed.mesh();
    if let Some(identity) = mesh.and_then(|mesh| mesh.identity()) {
        shared.metrics.set_svid_expiry(identity.not_after());
    }
}

/// Not ready → wait → responses close their connections → idle ones last → deadline → force.
async fn drain(shared: &Arc<Shared>, cores: &Cores) {
    let options = shared.options.drain;
    tracing::info!(proxy = %shared.name(), open = shared.connections.open(), "draining");
    state::remove_ready(&shared.options.state_dir);
    shared.drain.advance(Phase::Leaving);
    tokio::time::sleep(options.wait).await;
    shared.drain.advance(Phase::Closing);
    if tokio::time::timeout(options.deadline, cores.finished())
        .await
        .is_err()
    {
        tracing::warn!(
            open = shared.connections.open(),
            "drain deadline: cutting off what still runs"
        );
    }
    shared.drain.advance(Phase::Forced);
}

/// What makes a proxy stop: a signal, or [`Shared::stop`].
struct Stop<'a> {
    shared: &'a Shared,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl<'a> Stop<'a> {
    fn new(shared: &'a Shared) -> Result<Self, ProxyError> {
        Ok(Stop {
            shared,
            terminate: signal(SignalKind::terminate()).map_err(ProxyError::Thread)?,
            interrupt: signal(SignalKind::interrupt()).map_err(ProxyError::Thread)?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = self.shared.drain.reached(Phase::Leaving) => {}
        }
    }
}

/// An address that every core listens on.
pub(crate) struct Listening {
    /// As it was bound.
    pub(crate) address: String,
    end: tokio::sync::watch::Sender<bool>,
}

impl Listening {
    /// Closes it; connections stay.
    pub(crate) fn end(&self) {
        self.end.send_replace(true);
    }
}

/// The data threads.
pub(crate) struct Cores {
    senders: Vec<mpsc::Sender<Assignment>>,
    handles: Vec<JoinHandle<()>>,
    done: tokio::sync::watch::Sender<usize>,
}

impl Cores {
    fn start(shared: &Arc<Shared>) -> Result<Self, ProxyError> {
        let mut cores = Cores {
            senders: Vec::new(),
            handles: Vec::new(),
            done: tokio::sync::watch::Sender::new(0),
        };
        for index in 0..shared.options.thread_count() {
            let (sender, receiver) = mpsc::channel(4);
            let shared = shared.clone();
            let done = cores.done.clone();
            let handle = std::thread::Builder::new()
                .name(format!("data-{index}"))
                .spawn(move || {
                    let _done = Done(done);
                    core::run(&shared, receiver);
                })
                .map_err(ProxyError::Thread)?;
            cores.senders.push(sender);
            cores.handles.push(handle);
        }
        Ok(cores)
    }

    /// Binds an address once for each core; says which address it got.
    pub(crate) async fn listen(
        &self,
        side: Side,
        what: &'static str,
        address: &ListenAddress,
    ) -> Result<Listening, ProxyError> {
        let (sockets, address) =
            listener::bind(address, self.senders.len()).map_err(bind_error(what, address))?;
        let (end, ended) = tokio::sync::watch::channel(false);
        for (sender, socket) in self.senders.iter().zip(sockets) {
            let end = ended.clone();
            let assignment = Assignment { side, socket, end };
            if sender.send(assignment).await.is_err() {
                return Err(ProxyError::Panicked);
            }
        }
        Ok(Listening { address, end })
    }

    /// Waits until every data thread has ended.
    async fn finished(&self) {
        let count = self.handles.len();
        let _ = self.done.subscribe().wait_for(|done| *done >= count).await;
    }

    fn join(self) -> Result<(), ProxyError> {
        let mut result = Ok(());
        for handle in self.handles {
            if handle.join().is_err() {
                result = Err(ProxyError::Panicked);
            }
        }
        result
    }
}

/// Counts a data thread that ended, however it did.
struct Done(tokio::sync::watch::Sender<usize>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count += 1);
    }
}

fn bind_error(what: &'static str, address: &ListenAddress) -> impl FnOnce(io::Error) -> ProxyError {
    let address = address.to_string();
    move |source| ProxyError::Bind {
        what,
        address,
        source,
    }
}

/// A proxy holds two sockets for each connection; the soft limit (often 1,024) is no measure of that.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
