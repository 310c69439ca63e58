//! The mesh port, as proxies use it.

use std::time::{Duration, Instant};

use serde_json::json;
use testudo_identity::{KeyRequest, tls};
use testudo_model::mesh::{
    Ack, Hello, PartsRequest, RenewRequest, TokenKey, from_control, from_proxy,
};

use crate::running::{BUNDLE, Running, manifest_number};

#[tokio::test]
async fn a_join_token_works_once_for_its_role_and_names_come_from_control() {
    let control = Running::start();
    let (status, body) = control
        .post(
            "/api/v1/identities/join",
            json!({"role": "sidecar", "service": "ordres"}),
        )
        .await;
    assert_eq!(status, 422);
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("orders, payments"),
        "{body}"
    );

    let token = control.join_token("sidecar", Some("orders")).await;
    let member = control
        .join_with(&token, "sidecar", "orders")
        .await
        .unwrap();
    assert_eq!(member.name, "orders-1");
    let again = control.join_with(&token, "sidecar", "orders").await;
    assert_eq!(again.err().unwrap().code(), tonic::Code::PermissionDenied);

    let token = control.join_token("sidecar", Some("orders")).await;
    let other = control.join_with(&token, "sidecar", "payments").await;
    assert_eq!(other.err().unwrap().code(), tonic::Code::PermissionDenied);
    // A token that was tried for something else is used up.
    assert!(
        control
            .join_with(&token, "sidecar", "orders")
            .await
            .is_err()
    );

    let second = control.join("sidecar", Some("orders")).await;
    assert_eq!(second.name, "orders-2");
}

#[tokio::test]
async fn identity_decides_what_a_proxy_may_say_and_fetch() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let payments = control.join("sidecar", Some("payments")).await;

    let lie = Hello {
        service: "payments".into(),
        ..orders.hello()
    };
    assert_eq!(
        orders.sync(lie).await.err().unwrap().code(),
        tonic::Code::PermissionDenied
    );
    let lie = Hello {
        proxy: payments.name.clone(),
        ..orders.hello()
    };
    assert_eq!(
        orders.sync(lie).await.err().unwrap().code(),
        tonic::Code::PermissionDenied
    );

    let edge = orders
        .client()
        .await
        .edge_certificate(RenewRequest { csr: vec![] })
        .await;
    assert_eq!(edge.err().unwrap().code(), tonic::Code::PermissionDenied);
    let unknown = PartsRequest {
        digests: vec!["00".repeat(32)],
    };
    assert_eq!(
        orders
            .client()
            .await
            .parts(unknown)
            .await
            .err()
            .unwrap()
            .code(),
        tonic::Code::PermissionDenied
    );

    let (_, list) = control.get("/api/v1/revisions").await;
    let digest = list[0]["parts"][0]["digest"].as_str().unwrap().to_string();
    let mut parts = orders
        .client()
        .await
        .parts(PartsRequest {
            digests: vec![digest.clone()],
        })
        .await
        .unwrap()
        .into_inner();
    let part = parts.message().await.unwrap().unwrap();
    assert_eq!(
        (part.digest.as_str(), part.content.as_slice()),
        (digest.as_str(), BUNDLE.as_bytes())
    );

    let stream = orders.sync(orders.hello()).await.unwrap();
    stream
        .send(from_proxy::Message::TokenKey(TokenKey {
            kid: "k".into(),
            public_key: vec![4; 65],
            ..TokenKey::default()
        }))
        .await;
    let mut stream = stream;
    let ended = loop {
        match stream.down.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert_eq!(ended.unwrap().code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn token_keys_reach_the_gateway_after_the_sidecars() {
    let control = Running::start();
    let gateway = control.join("gateway", None).await;
    let orders = control.join("sidecar", Some("orders")).await;
    let mut down = gateway.sync(gateway.hello()).await.unwrap();
    let mut side = orders.sync(orders.hello()).await.unwrap();
    let has_key = |message: &from_control::Message| match message {
        from_control::Message::TokenKeys(keys) => {
            keys.keys.iter().any(|key| key.kid == "k1").then_some(())
        }
        _ => None,
    };
    let key = TokenKey {
        kid: "k1".into(),
        public_key: vec![4; 65],
        gateway: "liar".into(),
        not_after: u64::MAX,
    };
    down.send(from_proxy::Message::TokenKey(key)).await;
    let (sequence, ()) = side.until("the key at the sidecar", has_key).await;
    let early = tokio::time::timeout(
        Duration::from_millis(300),
        down.until("the key too early", has_key),
    )
    .await;
    assert!(
        early.is_err(),
        "the gateway got the go-ahead before the sidecar acknowledged"
    );
    side.send(from_proxy::Message::Seen(testudo_model::mesh::Seen {
        sequence,
    }))
    .await;
    down.until("the key at the gateway", has_key).await;
}

#[tokio::test]
async fn acknowledgements_and_events_are_shown() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let mut stream = orders.sync(orders.hello()).await.unwrap();
    stream.until("revision 1", manifest_number).await;
    let (_, revisions) = control.get("/api/v1/revisions").await;
    let digest = revisions[0]["digest"].as_str().unwrap().to_string();
    stream
        .send(from_proxy::Message::Ack(Ack {
            revision: 1,
            digest,
            installed: true,
            error: String::new(),
        }))
        .await;
    // More than what a stream begins with: it knows everything, the addresses of others too.
    stream
        .send(from_proxy::Message::Seen(testudo_model::mesh::Seen {
            sequence: 100,
        }))
        .await;
    let event = |proxy: &str, service: &str, id: &str| {
        json!({
            "time": "2026-01-01T00:00:00Z", "request_id": id, "trace_id": "0", "proxy": proxy, "hop": "mesh", "revision": 1,
            "caller": "gateway", "user": "anonymous", "roles": [], "source_ip": null, "service": service,
            "operation": "orders:GET", "method": "GET", "host": "h", "path": "/", "status": 403, "verdict": "deny",
            "reason": "authz.user", "mode": "enforce", "policy": null, "findings": [], "bytes_in": 0, "bytes_out": 0,
            "duration_us": 1, "guard_us": 1
        })
        .to_string()
        .into_bytes()
    };
    let json = vec![
        event("orders-1", "orders", "mine"),
        event("orders-1", "payments", "foreign"),
        event("payments-1", "payments", "lie"),
    ];
    stream
        .send(from_proxy::Message::Events(testudo_model::mesh::Events {
            json,
            dropped: 0,
        }))
        .await;

    let start = Instant::now();
    let decisions = loop {
        let (_, list) = control.get("/api/v1/decisions?verdict=deny").await;
        if list.as_array().is_some_and(|list| !list.is_empty()) {
            break list;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(
        decisions.as_array().unwrap().len(),
        1,
        "a proxy's word counts for its own service only: {decisions}"
    );
    assert_eq!(decisions[0]["request_id"], "mine");
    let (_, status) = control.get("/api/v1/status").await;
    assert_eq!(
        (
            &status["proxies"]["in_sync"],
            &status["decisions"]["dropped"]
        ),
        (&json!(1), &json!(2)),
        "{status}"
    );
    let (_, proxies) = control.get("/api/v1/proxies").await;
    assert_eq!(
        (&proxies[0]["name"], &proxies[0]["revision"]),
        (&json!("orders-1"), &json!(1)),
        "{proxies}"
    );
}

#[tokio::test]
async fn a_revoked_workload_loses_its_stream_and_cannot_renew() {
    let control = Running::start();
    let orders = control.join("sidecar", Some("orders")).await;
    let request = KeyRequest::generate().unwrap();
    let renewed = orders
        .client()
        .await
        .renew(RenewRequest {
            csr: request.csr().to_vec(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(renewed.spiffe_id, "spiffe://shop.test/service/orders");
    assert_eq!(renewed.proxy, "orders-1");

    let mut stream = orders.sync(orders.hello()).await.unwrap();
    stream.until("revision 1", manifest_number).await;
    let body = json!({"kind": "workload", "value": "spiffe://shop.test/service/orders", "reason": "stolen"});
    let (status, _) = control.post("/api/v1/revocations", body).await;
    assert_eq!(status, 201);
    let ended = tokio::time::timeout(Duration::from_secs(10), async {
        while let Ok(Some(_)) = stream.down.message().await {}
    });
    ended.await.expect("the revoked proxy's stream goes on");
    let config = orders
        .tls
        .client_config(
            std::slice::from_ref(&orders.control),
            &[testudo_identity::Alpn::Http2],
        )
        .unwrap();
    let stream = tokio::net::TcpStream::connect(control.mesh).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    // TLS 1.3: the client may learn of the refusal only when it reads.
    let refused = match connector.connect(tls::server_name(), stream).await {
        Err(_) => true,
        Ok(mut stream) => {
            use tokio::io::AsyncReadExt as _;
            let mut buffer = [0; 64];
            let read = tokio::time::timeout(Duration::from_secs(5), async {
                loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                }
            });
            read.await.is_ok()
        }
    };
    assert!(refused, "a revoked workload still connects");
}
