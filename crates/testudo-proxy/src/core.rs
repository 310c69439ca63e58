//! One data thread: a single-threaded runtime, its listeners, its connections, its caches. Nothing in
//! here is shared with another core except through [`Shared`].

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use arc_swap::cache::Cache;
use futures_util::FutureExt;
use testudo_guard::{Local, Snapshot};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::drain::Phase;
use crate::listener::Bound;
use crate::shared::Shared;
use crate::tasks::Panics;
use crate::tls::EdgeConfig;
use crate::upstream::Upstreams;

/// Threads of one core for what would hold up its other requests.
const WORKERS: usize = 4;

/// How often a core looks after what requests do not.
const UPKEEP: Duration = Duration::from_secs(2);

/// Which side of a proxy a connection came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Clients of the gateway.
    Edge,
    /// Other proxies, by mTLS.
    Inbound,
    /// The sidecar's own application.
    Outbound,
}

/// A listening socket for one core.
pub(crate) struct Assignment {
    pub(crate) side: Side,
    pub(crate) socket: Bound,
    /// Tells the listener to close before the proxy stops.
    pub(crate) end: watch::Receiver<bool>,
}

type SnapshotCache = Cache<Arc<ArcSwapOption<Snapshot>>, Option<Arc<Snapshot>>>;

/// What the connections of one data thread have in common.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    /// Guard's caches of this core.
    pub(crate) local: RefCell<Local>,
    snapshot: RefCell<SnapshotCache>,
    pub(crate) edge_tls: EdgeConfig,
    pub(crate) upstreams: Upstreams,
    /// Connections, tunnels and everything else that a drain waits for.
    pub(crate) tracker: TaskTracker,
}

impl Core {
    fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Core {
            local: RefCell::default(),
            snapshot: RefCell::new(Cache::new(shared.installed.snapshot.clone())),
            edge_tls: EdgeConfig::default(),
            upstreams: Upstreams::default(),
            tracker: TaskTracker::new(),
            shared,
        })
    }

    /// The snapshot in force; one comparison unless it was just swapped.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.borrow_mut().load().clone()
    }

    /// For hyper's own tasks.
    pub(crate) fn executor(&self) -> LocalExecutor {
        LocalExecutor::new(&self.shared.panics)
    }

    /// Runs a task that a drain waits for; its panic is counted and ends nothing else.
    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let task = self.tracker.track_future(task);
        drop(self.shared.panics.spawn_local(name, task));
    }
}

/// Runs a data thread until it has drained.
pub(crate) fn run(shared: &Arc<Shared>, assignments: mpsc::Receiver<Assignment>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Large bodies are judged here, and names resolved.
        .max_blocking_threads(WORKERS)
        .thread_keep_alive(Duration::from_secs(10))
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a data thread has no runtime");
            return;
        }
    };
    LocalSet::new().block_on(&runtime, serve(Core::new(shared.clone()), assignments));
}

async fn serve(core: Rc<Core>, mut assignments: mpsc::Receiver<Assignment>) {
    let drain = core.shared.drain.clone();
    drop(
        core.shared
            .panics
            .spawn_local("upkeep", upkeep(core.clone())),
    );
    let mut listeners = Vec::new();
    loop {
        let assignment = tokio::select! {
            Some(assignment) = assignments.recv() => assignment,
            () = drain.reached(Phase::Closing) => break,
        };
        let listener = accept(core.clone(), assignment);
        listeners.push(core.shared.panics.spawn_local("listener", listener));
    }
    for listener in listeners {
        let _ = listener.await;
    }
    core.tracker.close();
    tokio::select! {
        () = core.tracker.wait() => {}
        () = drain.reached(Phase::Forced) => {}
    }
}

/// Closes upstream connections that nobody uses, and lets go of a snapshot that was replaced while
/// nothing was asked.
async fn upkeep(core: Rc<Core>) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        core.upstreams
            .sweep(core.shared.clock.wall().unix_seconds());
        drop(core.snapshot());
    }
}

/// A listener of this core's runtime.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What a listener brings.
enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Listener {
    fn new(socket: Bound) -> io::Result<Self> {
        match socket {
            Bound::Tcp(socket) => TcpListener::from_std(socket).map(Listener::Tcp),
            Bound::Unix(socket) => UnixListener::from_std(socket).map(Listener::Unix),
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Accepted::Tcp(stream, address))
            }
            Listener::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

/// Accepts until the drain closes connections; then takes what is queued already and stops: whoever is
/// in the queue has connected as far as he knows.
async fn accept(core: Rc<Core>, assignment: Assignment) {
    let listener = match Listener::new(assignment.socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listener cannot be used");
            return;
        }
    };
    let mut end = assignment.end;
    let mut closing = std::pin::pin!(closes(&core, assignment.side));
    let mut ended = std::pin::pin!(async {
        // Whoever could tell is gone: then only the drain ends it.
        if end.wait_for(|end| *end).await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut closing => break,
            () = &mut ended => break,
        };
        match accepted {
            Ok(accepted) => connect(&core, assignment.side, accepted),
            Err(error) => after_failure(&error).await,
        }
    }
    while let Some(Ok(accepted)) = listener.accept().now_or_never() {
        connect(&core, assignment.side, accepted);
    }
}

/// Waits until a listener must close. The application's side stays open while other proxies' requests run:
/// the application may need it to answer them.
async fn closes(core: &Core, side: Side) {
    let drain = &core.shared.drain;
    drain.reached(Phase::Closing).await;
    if side != Side::Outbound {
        return;
    }
    while core.shared.inbound.open() > 0 {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            () = drain.reached(Phase::Forced) => return,
        }
    }
}

/// A connection that was reset before it was accepted is nothing; with no file descriptors left, waiting
/// is all that helps.
async fn after_failure(error: &io::Error) {
    let transient = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    );
    if !transient {
        tracing::warn!(%error, "cannot accept a connection");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn connect(core: &Rc<Core>, side: Side, accepted: Accepted) {
    let address = match &accepted {
        Accepted::Tcp(_, address) => Some(address.ip()),
        Accepted::Unix(_) => None,
    };
    let Some(place) = core.shared.connections.admit(address) else {
        tracing::debug!(?address, "too many connections");
        return;
    };
    match accepted {
        Accepted::Tcp(stream, address) => {
            let task = connection::serve_tcp(core.clone(), side, stream, address.ip(), place);
            core.spawn("connection", task);
        }
        Accepted::Unix(stream) => {
            let task = connection::serve_unix(core.clone(), side, stream, place);
            core.spawn("connection", task);
        }
    }
}

/// Runs hyper's own tasks on this thread.
#[derive(Clone)]
pub(crate) struct LocalExecutor(Panics);

impl LocalExecutor {
    pub(crate) fn new(panics: &Panics) -> Self {
        LocalExecutor(panics.clone())
    }
}

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        drop(self.0.spawn_local("http2-stream", task));
    }
}
