//! gRPC through gateway and sidecar: messages and trailers pass, denials are gRPC statuses.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::issuer::Issuer;
use crate::mesh::{Mesh, Ports};

/// A gRPC server that echoes its first message and says how many bytes it saw in a trailer.
fn serve_grpc() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(echo);
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
    });
    address
}

async fn echo(
    request: Request<hyper::body::Incoming>,
) -> Result<
    Response<StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>>>,
    Infallible,
> {
    let user = request.headers().get("x-testudo-user").cloned();
    let body = http_body_util::Limited::new(request.into_body(), 1 << 20)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-bytes", body.len().into());
    if let Some(user) = user {
        trailers.insert("x-saw-user", user);
    }
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(StreamBody::new(futures_util::stream::iter(frames)));
    Ok(response.unwrap())
}

/// What a gRPC client sees of a call.
struct Outcome {
    http: u16,
    headers: HeaderMap,
    trailers: HeaderMap,
    message: Bytes,
}

impl Outcome {
    /// Status from trailers, or from a trailers-only response's headers.
    fn status(&self) -> Option<&str> {
        self.trailers
            .get("grpc-status")
            .or_else(|| self.headers.get("grpc-status"))
            .and_then(|value| value.to_str().ok())
    }
}

async fn call(mesh: &Mesh, path: &str, token: Option<&str>) -> Outcome {
    let config = crate::http::client_config(&mesh.roots_pem, &[b"h2"]);
    let stream = tokio::net::TcpStream::connect(mesh.gateway).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("grpc.e2e.test").unwrap();
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut request = Request::post(format!("https://grpc.e2e.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let message = Bytes::from_static(b"\0\0\0\0\x05hello");
    let response = sender
        .send_request(request.body(Full::new(message)).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = http_body_util::Limited::new(body, 1 << 20)
        .collect()
        .await
        .unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    Outcome {
        http: parts.status.as_u16(),
        headers: parts.headers,
        trailers,
        message: body.to_bytes(),
    }
}

#[tokio::test]
async fn messages_and_trailers_pass_and_denials_are_grpc_statuses() {
    let issuer = Issuer::new();
    let (app, other) = (serve_grpc(), serve_grpc());
    let ports = Ports::free();
    let yaml = format!(
        "version: 1
trust_domain: e2e.test
{control}gateway:
  listen: 127.0.0.1:{gateway}
  routes:
    - {{host: grpc.e2e.test, path: /shop.Orders, service: orders}}
    - {{host: grpc.e2e.test, path: /shop.Secrets, service: secrets}}
    - {{host: grpc.e2e.test, path: /shop.Down, service: down}}
users:
  jwt:
    e2e: {{issuer: 'https://id.e2e.test', audiences: [e2e], jwks: keys/jwks.json, id: /sub, roles: {{claim: roles, allow: [customer, admin]}}}}
services:
  orders: {{app: ['{app}'], protocol: http2}}
  secrets: {{app: ['{other}'], protocol: http2}}
  down: {{app: ['127.0.0.1:{closed}'], protocol: http2}}
policies: policies
limits:
  - {{name: calls, match: {{service: orders}}, per: user, rate: 2/m, burst: 2}}
",
        control = ports.control(),
        gateway = ports.gateway,
        closed = crate::mesh::free_port(),
    );
    let policies = r#"
permit (principal in Role::"customer", action in [Action::"orders:POST", Action::"down:POST"], resource);
permit (principal in Role::"admin", action == Action::"secrets:POST", resource);
"#;
    let files = [
        ("testudo.yaml", yaml),
        ("policies/all.cedar", policies.to_string()),
        ("keys/jwks.json", issuer.jwks()),
    ];
    let mesh = tokio::task::spawn_blocking(move || Mesh::up(&ports, &files, 4))
        .await
        .unwrap();
    let alice = issuer.token("alice", &["customer"]);

    let fine = call(&mesh, "/shop.Orders/Create", Some(&alice)).await;
    assert_eq!(
        (fine.http, fine.status()),
        (200, Some("0")),
        "{:?} {:?}",
        fine.headers,
        fine.trailers
    );
    assert_eq!(fine.message, &b"\0\0\0\0\x05hello"[..]);
    assert_eq!(fine.trailers["x-bytes"], "10");
    assert_eq!(fine.trailers["x-saw-user"], "e2e:alice");

    let expected: HashMap<&str, (&str, &str, Option<&str>)> = HashMap::from([
        ("/shop.Orders/Create", ("16", "authn.missing", None)),
        (
            "/shop.Secrets/Read",
            ("7", "authz.user", Some(alice.as_str())),
        ),
        (
            "/shop.Unknown/Read",
            ("12", "route.none", Some(alice.as_str())),
        ),
        (
            "/shop.Down/Read",
            ("14", "upstream.unavailable", Some(alice.as_str())),
        ),
    ]);
    for (path, (status, reason, token)) in expected {
        let denied = call(&mesh, path, token).await;
        assert_eq!(
            (
                denied.http,
                denied.status(),
                denied
                    .headers
                    .get("x-testudo-reason")
                    .map(|value| value.to_str().unwrap())
            ),
            (200, Some(status), Some(reason)),
            "{path}: {:?} {:?}",
            denied.headers,
            denied.trailers
        );
        assert!(denied.headers.contains_key("x-request-id"));
    }

    let forged = call(
        &mesh,
        "/shop.Orders/Create",
        Some(&Issuer::new().token("alice", &["admin"])),
    )
    .await;
    assert_eq!(forged.status(), Some("16"));
    call(&mesh, "/shop.Orders/Create", Some(&alice)).await;
    let limited = call(&mesh, "/shop.Orders/Create", Some(&alice)).await;
    assert_eq!(limited.status(), Some("8"), "{:?}", limited.headers);
    assert!(limited.headers.contains_key("retry-after"));

    is_contained(&mesh, &alice).await;
}

/// Who is contained gets permission denied.
async fn is_contained(mesh: &Mesh, alice: &str) {
    let args = [
        "watch",
        "contain",
        "e2e:alice",
        "down:POST",
        "--force",
        "--reason",
        "x",
    ];
    let contained = mesh.testudo(&args);
    assert!(contained.status.success(), "{contained:?}");
    let contained = call(mesh, "/shop.Down/Read", Some(alice)).await;
    assert_eq!((contained.http, contained.status()), (200, Some("7")));
    assert_eq!(contained.headers["x-testudo-reason"], "contained");
}
