//! The HTTP API, the files, and the start.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testudo_control::{ControlError, ControlOptions};
use tokio_util::sync::CancellationToken;

use crate::running::{BUNDLE, Running, client, manifest_number, options};

#[tokio::test]
async fn the_api_wants_the_token_and_its_own_host() {
    let control = Running::start();
    let url = format!("http://{}/api/v1/status", control.api);
    let response = client().get(&url).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let response = client()
        .get(&url)
        .bearer_auth("wrong")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    let response = client()
        .get(&url)
        .bearer_auth(&control.token)
        .header("host", "evil.example")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 421);
    let in_query = client()
        .get(format!("{url}?token={}", control.token))
        .send()
        .await
        .unwrap();
    assert_eq!(in_query.status(), 401);

    let (status, body) = control.get("/api/v1/status").await;
    assert_eq!(
        (status, &body["revision"], &body["trust_domain"]),
        (200, &json!(1), &json!("shop.test"))
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(control.dir.path().join("state/admin.token"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

/// With or without a dashboard in the binary: a page that anybody may see, on our Hosts alone, that can run nothing
/// but what is served here.
#[tokio::test]
async fn the_page_needs_no_token_but_our_host_and_its_policy() {
    let control = Running::start();
    let url = format!("http://{}/", control.api);
    let page = client().get(&url).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let html = page.text().await.unwrap();
    assert!(!html.contains(&control.token));
    let elsewhere = client().get(&url).header("host", "evil.example");
    assert_eq!(elsewhere.send().await.unwrap().status(), 421);
    for path in [
        "assets/..%2f..%2fadmin.token",
        "assets/nothing.js",
        "index.html",
    ] {
        let missing = client().get(format!("{url}{path}")).send().await.unwrap();
        assert_eq!(missing.status(), 404, "{path}");
    }
    let written = client().post(&url).send().await.unwrap();
    assert_eq!(written.status(), 405);
}

#[tokio::test]
async fn saved_files_become_a_revision_and_broken_ones_change_nothing() {
    let control = Running::start();
    let member = control.join("sidecar", Some("orders")).await;
    let mut stream = member.sync(member.hello()).await.unwrap();
    stream
        .until("revision 1", |message| {
            manifest_number(message).filter(|number| *number == 1)
        })
        .await;

    let started = Instant::now();
    std::fs::write(
        control.bundle(),
        BUNDLE.replace("path: /,", "path: /orders,"),
    )
    .unwrap();
    stream
        .until("revision 2", |message| {
            manifest_number(message).filter(|number| *number == 2)
        })
        .await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );

    std::fs::write(
        control.bundle(),
        BUNDLE.replace("service: orders", "service: ordres"),
    )
    .unwrap();
    let start = Instant::now();
    let broken = loop {
        let (_, body) = control.get("/api/v1/status").await;
        if !body["bundle_error"].is_null() {
            break body;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(broken["revision"], 2);
    assert!(
        broken["bundle_error"]
            .as_str()
            .unwrap()
            .contains("testudo.yaml:"),
        "{broken}"
    );
}

#[tokio::test]
async fn revisions_are_uploaded_compared_and_refused() {
    use base64::Engine as _;
    let control = Running::start();
    let encode = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
    let upload = |parent: Value, text: &str| json!({"parent": parent, "note": "test", "files": {"testudo.yaml": encode(text)}});

    let (_, list) = control.get("/api/v1/revisions").await;
    let first = list[0]["digest"].clone();
    let (status, body) = control
        .post("/api/v1/revisions", upload(first.clone(), BUNDLE))
        .await;
    assert_eq!((status, &body["changed"]), (200, &json!(false)), "{body}");

    let changed = BUNDLE.replace("path: /,", "path: /shop,");
    let (status, body) = control
        .post("/api/v1/revisions", upload(first.clone(), &changed))
        .await;
    assert_eq!((status, &body["number"]), (201, &json!(2)), "{body}");
    let (status, body) = control
        .post("/api/v1/revisions", upload(first, BUNDLE))
        .await;
    assert_eq!(status, 409, "{body}");

    let broken = BUNDLE.replace("service: orders", "service: ordres");
    let (status, body) = control
        .post("/api/v1/revisions", upload(Value::Null, &broken))
        .await;
    assert_eq!(status, 422, "{body}");
    assert_eq!(
        body["diagnostics"][0]["code"], "route.unknown_service",
        "{body}"
    );
    let foreign = BUNDLE.replace("shop.test", "other.test");
    let (status, body) = control
        .post("/api/v1/revisions", upload(Value::Null, &foreign))
        .await;
    assert_eq!(
        (status, &body["code"]),
        (422, &json!("bundle.trust_domain")),
        "{body}"
    );
    let (_, status) = control.get("/api/v1/status").await;
    assert_eq!(status["revision"], 2);

    // A newer revision in the store outlives a restart, and so does the token.
    let token = control.token.clone();
    let control = Running::start_in(control.stop());
    assert_eq!(control.token, token);
    let (_, list) = control.get("/api/v1/revisions").await;
    assert!(
        list.as_array()
            .unwrap()
            .iter()
            .any(|revision| revision["number"] == 2),
        "{list}"
    );
}

#[tokio::test]
async fn a_broken_bundle_or_a_busy_port_ends_the_start_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bundle")).unwrap();
    let start = |options| testudo_control::run(options, CancellationToken::new());
    assert!(
        matches!(start(options(dir.path())).await, Err(ControlError::Bundle(list)) if !list.is_empty())
    );

    std::fs::write(dir.path().join("bundle/testudo.yaml"), BUNDLE).unwrap();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = ControlOptions {
        api: Some(busy.local_addr().unwrap()),
        ..options(dir.path())
    };
    let error = start(taken).await.unwrap_err();
    assert!(
        error.to_string().contains("another process has this port"),
        "{error}"
    );

    let open = ControlOptions {
        api: Some("0.0.0.0:0".parse().unwrap()),
        ..options(dir.path())
    };
    assert!(matches!(
        start(open).await,
        Err(ControlError::ApiExposed(_))
    ));
}
