//! Listening on TCP or a Unix socket and handing whole requests to a service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};

use crate::http::{self as shop, Answer, Call};

/// More than any honest order, and little enough to keep the process alive.
const MAX_BODY_BYTES: usize = 64 << 20;

/// One of the four.
pub(crate) type Service = Box<dyn Handle>;

/// Answers requests.
pub(crate) trait Handle {
    /// Answers one.
    fn handle<'a>(&'a self, call: Call) -> Pin<Box<dyn Future<Output = Answer> + 'a>>;
}

/// Where to listen.
pub(crate) enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Listen {
    pub(crate) fn parse(text: &str) -> Option<Listen> {
        match text.strip_prefix("unix:") {
            Some(path) => Some(Listen::Unix(path.into())),
            None => text.parse().ok().map(Listen::Tcp),
        }
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn serve(
    listen: Listen,
    service: Service,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let service: Rc<dyn Handle> = Rc::from(service);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tasks = tokio::task::LocalSet::new();
    let accepting = accept(listen, service);
    tasks
        .run_until(async {
            tokio::select! {
                result = accepting => result,
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
            }
        })
        .await
}

async fn accept(
    listen: Listen,
    service: Rc<dyn Handle>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| format!("cannot listen on {address}: {error}"))?;
            eprintln!("listening on http://{}", listener.local_addr()?);
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::task::spawn_local(connection(stream, service.clone()));
            }
        }
        Listen::Unix(path) => {
            let listener = bind_unix(&path)
                .map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
            eprintln!("listening on unix:{}", path.display());
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::task::spawn_local(connection(stream, service.clone()));
            }
        }
    }
}

/// Replaces a socket that an earlier process left behind. Only this user may connect.
fn bind_unix(path: &std::path::Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn connection<S>(stream: S, service: Rc<dyn Handle>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let handler = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, std::convert::Infallible>(respond(service.as_ref(), request).await) }
    });
    // A client that goes away is no concern of a shop.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), handler)
        .await;
}

async fn respond(service: &dyn Handle, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let Ok(body) = shop::read(body, MAX_BODY_BYTES).await else {
        return shop::bad_request("the body could not be read");
    };
    let path = shop::resolve(head.uri.path());
    if path == ["healthz"] {
        return shop::ok(&json!({"status": "ok"}));
    }
    let call = Call {
        method: head.method,
        path,
        query: shop::parse_query(head.uri.query().unwrap_or_default()),
        headers: head.headers,
        body,
    };
    service.handle(call).await
}
