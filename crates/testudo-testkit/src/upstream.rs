//! A server that records what it gets and answers as the test says. It runs on a thread of its own, so that
//! a test may block.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

/// A body that a test can make of anything.
pub type Body = BoxBody<Bytes, Infallible>;

/// A complete body.
pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// A request as the server got it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Method.
    pub method: Method,
    /// As it came: origin-form in HTTP/1.1.
    pub uri: Uri,
    /// Version.
    pub version: Version,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

impl Recorded {
    /// A header's text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

type Answer = dyn Fn(&Recorded) -> Response<Body> + Send + Sync;
type Raw = dyn Fn(Request<Incoming>) -> RawAnswer + Send + Sync;
type RawAnswer = std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

enum Handler {
    Recorded(Box<Answer>),
    Raw(Box<Raw>),
}

/// A running server.
pub struct Upstream {
    address: Option<SocketAddr>,
    socket: Option<PathBuf>,
    recorded: Arc<Mutex<Vec<Recorded>>>,
    connections: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Upstream {
    /// On a free port; every request is recorded and answered by `answer`.
    pub fn start(answer: impl Fn(&Recorded) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::run(Handler::Recorded(Box::new(answer)), None)
    }

    /// The same on a Unix socket.
    pub fn start_unix(
        path: &Path,
        answer: impl Fn(&Recorded) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::run(Handler::Recorded(Box::new(answer)), Some(path))
    }

    /// On a free port; requests are handed over as they come, unread (streams, upgrades, stalls). Nothing is
    /// recorded.
    pub fn start_raw<F>(answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let raw: Box<Raw> = Box::new(move |request| Box::pin(answer(request)));
        Self::run(Handler::Raw(raw), None)
    }

    /// Answers 200 with `ok` to everything.
    pub fn ok() -> Self {
        Self::start(|_| Response::new(full("ok")))
    }

    fn run(handler: Handler, path: Option<&Path>) -> Self {
        let (listener, address) = match path {
            None => {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                listener.set_nonblocking(true).unwrap();
                let address = listener.local_addr().unwrap();
                (Listener::Tcp(listener), Some(address))
            }
            Some(path) => {
                let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
                listener.set_nonblocking(true).unwrap();
                (Listener::Unix(listener), None)
            }
        };
        let (stop, stopped) = watch::channel(false);
        let state = Arc::new(State {
            handler,
            recorded: Arc::default(),
            connections: Arc::default(),
        });
        let (recorded, connections) = (state.recorded.clone(), state.connections.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, state, stopped));
        });
        Upstream {
            address,
            socket: path.map(Path::to_owned),
            recorded,
            connections,
            stop,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// It listens on a Unix socket.
    pub fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    /// `HOST:PORT` or `unix:PATH`, as a bundle writes it.
    pub fn app(&self) -> String {
        match (&self.address, &self.socket) {
            (Some(address), _) => address.to_string(),
            (None, Some(path)) => format!("unix:{}", path.display()),
            (None, None) => String::new(),
        }
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.recorded.lock().unwrap().clone()
    }

    /// The last request.
    ///
    /// # Panics
    /// There was none.
    pub fn last(&self) -> Recorded {
        self.requests().pop().expect("the upstream got no request")
    }

    /// How many connections were made to it so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Stops at once: connections break, the port is closed.
    pub fn stop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

struct State {
    handler: Handler,
    recorded: Arc<Mutex<Vec<Recorded>>>,
    connections: Arc<AtomicUsize>,
}

async fn serve(listener: Listener, state: Arc<State>, mut stopped: watch::Receiver<bool>) {
    let accept = async {
        match listener {
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(connection(stream, state.clone()));
                    }
                }
            }
            Listener::Unix(listener) => {
                let listener = UnixListener::from_std(listener).unwrap();
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(connection(stream, state.clone()));
                    }
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

async fn connection<S>(mut stream: S, state: Arc<State>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    state.connections.fetch_add(1, Ordering::SeqCst);
    // Four bytes tell HTTP/2 with prior knowledge from any HTTP/1.1 method that tests use.
    let mut first = [0; 4];
    if stream.read_exact(&mut first).await.is_err() {
        return;
    }
    let http2 = first == *b"PRI ";
    let (read, write) = tokio::io::split(stream);
    let stream = tokio::io::join(std::io::Cursor::new(first).chain(read), write);
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(&state, request).await) }
    });
    // How a connection ends is seen by the test on its own side.
    if http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
    }
}

async fn answer(state: &State, request: Request<Incoming>) -> Response<Body> {
    let respond = match &state.handler {
        Handler::Raw(handle) => return handle(request).await,
        Handler::Recorded(respond) => respond,
    };
    let (head, mut body) = request.into_parts();
    let (mut bytes, mut trailers) = (BytesMut::new(), None);
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let recorded = Recorded {
        method: head.method,
        uri: head.uri,
        version: head.version,
        headers: head.headers,
        body: bytes.freeze(),
        trailers,
    };
    let response = respond(&recorded);
    state.recorded.lock().unwrap().push(recorded);
    response
}
