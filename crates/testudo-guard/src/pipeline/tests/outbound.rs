//! At a sidecar's outbound port.

use testudo_model::Reason;

use super::fixture::*;
use crate::outbound::{Destination, OutboundPermit, Sender, check};
use crate::pipeline::*;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn send(mesh: &mut Mesh, sender: Sender, head: &mut Parts) -> Result<OutboundPermit, Denial> {
    mesh.record = Record::default();
    check(
        &mesh.snapshot,
        &mesh.live,
        sender,
        head,
        &mut mesh.record,
        now(),
    )
}

fn call(method: &str, uri: &str, host: &'static str) -> Parts {
    let mut head = request(method, uri, &[]);
    head.headers
        .insert("host", http::HeaderValue::from_static(host));
    head
}

#[test]
fn names_of_the_mesh_and_listed_hosts_are_reached() {
    let mut mesh = Setup::sidecar().mesh();
    let mut head = call("GET", "http://payments.mesh/charge", "payments.mesh");
    let permit = send(&mut mesh, Sender::Application, &mut head).unwrap();
    assert!(
        matches!(permit.destination(), Destination::Service(service) if &*service.name == "payments")
    );
    assert_eq!(head.uri, "/charge");
    assert_eq!(mesh.record.caller.as_deref(), Some("orders"));
    assert_eq!(mesh.record.service.as_deref(), Some("payments"));
    let mut head = call("CONNECT", "api.example.com:443", "api.example.com:443");
    let permit = send(&mut mesh, Sender::Application, &mut head).unwrap();
    assert!(matches!(
        permit.destination(),
        Destination::Tunnel { port: 443, .. }
    ));
}

#[test]
fn everything_else_is_refused() {
    let mut mesh = Setup::sidecar().mesh();
    for (expected, method, uri, host) in [
        (Reason::RouteNone, "GET", "/x", "nowhere.mesh"),
        (Reason::RouteNone, "GET", "/x", "mesh"),
        (
            Reason::AuthzCaller,
            "GET",
            "http://evil.test/x",
            "evil.test",
        ),
        (Reason::AuthzCaller, "GET", "/x", "api.example.com"),
        (
            Reason::AuthzCaller,
            "CONNECT",
            "evil.test:443",
            "evil.test:443",
        ),
        (
            Reason::RequestMalformed,
            "CONNECT",
            "payments.mesh:80",
            "payments.mesh:80",
        ),
        (
            Reason::RequestMalformed,
            "GET",
            "http://payments.mesh/x",
            "orders.mesh",
        ),
        (Reason::RequestMalformed, "GET", "/a/../b", "payments.mesh"),
    ] {
        let denial = send(&mut mesh, Sender::Application, &mut call(method, uri, host))
            .err()
            .unwrap();
        assert_eq!(denial.reason, expected, "{method} {uri} {host}");
        assert_eq!(mesh.record.reason, Some(expected));
    }
    let denial = send(
        &mut mesh,
        Sender::Foreign,
        &mut call("GET", "/x", "payments.mesh"),
    )
    .err()
    .unwrap();
    assert_eq!(denial.reason, Reason::AuthzCaller);
}

#[test]
fn only_tokens_that_came_in_go_out() {
    let mut mesh = Setup::sidecar().mesh();
    let alice = mesh.token("alice");
    let token = || http::HeaderValue::from_str(&alice).unwrap();
    let mut stolen = call("GET", "/x", "payments.mesh");
    stolen.headers.insert("txn-token", token());
    let denial = send(&mut mesh, Sender::Application, &mut stolen.clone())
        .err()
        .unwrap();
    assert_eq!(denial.reason, Reason::AuthnInvalid);

    let mut inbound = request(
        "GET",
        "/orders",
        &[("txn-token", &alice), ("traceparent", TRACE)],
    );
    mesh.request(&workload("service/storefront"), &mut inbound, "")
        .unwrap();
    send(&mut mesh, Sender::Application, &mut stolen).unwrap();
    assert_eq!(stolen.headers["txn-token"], alice);

    let mut traced = call("GET", "/x", "payments.mesh");
    traced
        .headers
        .insert("traceparent", http::HeaderValue::from_static(TRACE));
    send(&mut mesh, Sender::Application, &mut traced).unwrap();
    assert_eq!(traced.headers["txn-token"], alice);

    let mut untraced = call("GET", "/x", "payments.mesh");
    send(&mut mesh, Sender::Application, &mut untraced).unwrap();
    assert!(!untraced.headers.contains_key("txn-token"));

    // Nothing of ours leaves the mesh.
    let mut outside = call("GET", "http://api.example.com:443/x", "api.example.com:443");
    outside.headers.insert("txn-token", token());
    outside
        .headers
        .insert("x-testudo-user", http::HeaderValue::from_static("root"));
    send(&mut mesh, Sender::Application, &mut outside).unwrap();
    assert_eq!(outside.headers.len(), 1, "{:?}", outside.headers);
}

#[test]
fn report_mode_opens_the_egress_list_and_lends_nobody_an_identity() {
    let mut mesh = Setup {
        mode: Mode::Report,
        ..Setup::sidecar()
    }
    .mesh();
    let mut head = call("GET", "http://other.test/x", "other.test");
    send(&mut mesh, Sender::Application, &mut head).unwrap();
    assert_eq!(mesh.record.reason, Some(Reason::AuthzCaller));
    let denial = send(
        &mut mesh,
        Sender::Foreign,
        &mut call("GET", "/x", "payments.mesh"),
    )
    .err()
    .unwrap();
    assert_eq!(denial.reason, Reason::AuthzCaller);
}
