//! Table and property tests of the whole of `normalize`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts};
use proptest::prelude::*;
use testudo_model::Reason;

use super::*;
use crate::route::RouteTable;
use crate::snapshot::{Edge, EdgeTls, Service};

fn snapshot(role: Role, trusted: &[&str]) -> Snapshot {
    let edge = (role == Role::Gateway).then(|| Edge {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: EdgeTls::Plain,
        trusted_proxies: trusted.iter().map(|net| net.parse().unwrap()).collect(),
        routes: RouteTable::default(),
    });
    Snapshot {
        revision: 1,
        digest: Arc::from("0"),
        trust_domain: Arc::from("shop.test"),
        role,
        edge,
        services: HashMap::<Arc<str>, Arc<Service>>::new(),
        users: None,
        identity_ttl: Duration::from_secs(3600),
    }
}

fn client(server_name: Option<&str>) -> Peer {
    Peer::Client {
        address: IpAddr::from([203, 0, 113, 7]),
        tls: server_name.is_some(),
        server_name: server_name.map(Arc::from),
    }
}

fn workload(spiffe_id: &str) -> Peer {
    Peer::Workload {
        spiffe_id: Arc::from(spiffe_id),
        serial: Arc::from("01"),
        not_after: u64::MAX,
        address: IpAddr::from([127, 0, 0, 1]),
    }
}

fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = uri.parse::<Uri>().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    request.into_parts().0
}

fn get(uri: &str) -> Parts {
    head("GET", uri, &[("host", "api.shop.test")])
}

fn edge(head: &mut Parts) -> Result<Canonical, Denial> {
    inbound(
        head,
        &client(None),
        &snapshot(Role::Gateway, &[]),
        &mut Record::default(),
    )
}

fn with_headers(headers: &[(&str, &str)]) -> Parts {
    let mut all = vec![("host", "api.shop.test")];
    all.extend_from_slice(headers);
    head("POST", "/orders", &all)
}

#[track_caller]
fn refused(mut head: Parts, detail: &str) {
    let text = format!("{head:?}");
    match edge(&mut head) {
        Err(denial) => {
            assert_eq!(denial.reason, Reason::RequestMalformed, "{text}");
            assert!(denial.detail.contains(detail), "{}: {text}", denial.detail);
        }
        Ok(canonical) => panic!("passed as {} {canonical:?}: {text}", head.uri),
    }
}

#[test]
fn paths_become_one_spelling() {
    for (raw, canonical) in [
        ("/", "/"),
        ("/orders/17", "/orders/17"),
        ("/orders/", "/orders/"),
        ("/%6f%72ders/%7Ejoe", "/orders/~joe"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a/./b", "/a/b"),
        ("/./a", "/a"),
        ("/a/.", "/a/"),
        ("/%2e/a", "/a"),
        ("/.", "/"),
        ("/a%20b", "/a%20b"),
        ("/a%3ab:c", "/a%3Ab:c"),
        ("/a%3fb%23c", "/a%3Fb%23c"),
        ("/100%25", "/100%25"),
        ("/100%25/x", "/100%25/x"),
        ("/a{b}|c^d", "/a%7Bb%7D%7Cc%5Ed"),
        ("/...", "/..."),
        ("/.well-known/x", "/.well-known/x"),
        ("/a?", "/a"),
        ("/a?x=%61&y=%2f", "/a?x=a&y=%2F"),
        ("/a?x=1;y=2", "/a?x=1%3By=2"),
        ("/a?next=%252Fx", "/a?next=%252Fx"),
        ("/a?text=a%0d%0ab", "/a?text=a%0D%0Ab"),
        ("/a?f[x]=1|2", "/a?f%5Bx%5D=1%7C2"),
        ("/a?b=/c?d", "/a?b=/c?d"),
    ] {
        let mut head = get(raw);
        edge(&mut head).unwrap_or_else(|denial| panic!("{raw}: {}", denial.detail));
        assert_eq!(head.uri, canonical, "{raw}");
    }
}

#[test]
fn ambiguous_paths_are_refused() {
    for (raw, detail) in [
        ("/orders/../admin", "climbs"),
        ("/..", "climbs"),
        ("/a/%2e%2e/b", "climbs"),
        ("/a/.%2E", "climbs"),
        ("/orders/..;/admin", "climbs"),
        ("/orders/..;x=1/admin", "climbs"),
        ("/a/.;/b", "parameters on a dot segment"),
        ("/a//b", "empty segment"),
        ("//a", "empty segment"),
        ("/a%2fb", "encoded slash"),
        ("/a%2Fb", "encoded slash"),
        ("/a%5cb", "encoded slash"),
        ("/a\\b", "backslash"),
        ("/a%252fb", "encoded twice"),
        ("/a%2541", "encoded twice"),
        ("/a%25%32%46", "encoded twice"),
        ("/a%252525", "encoded twice"),
        ("/a%3bb", "encoded semicolon"),
        ("/a%00", "NUL"),
        ("/a%0d%0ab", "control byte"),
        ("/a%7f", "control byte"),
        ("/a%", "cut off"),
        ("/a%4", "cut off"),
        ("/a%zz", "not hexadecimal"),
        ("/a%u002f", "not hexadecimal"),
        ("/a%+1", "not hexadecimal"),
        ("/a%ff", "not UTF-8"),
        ("/a%c0%af", "not UTF-8"),
        ("/a%c3", "not UTF-8"),
        ("/a\u{e9}", "outside ASCII"),
        ("/a?x=%00", "NUL"),
        ("/a?x=%1b", "control byte"),
        ("/a?x=%ff", "not UTF-8"),
        ("/a?x=%4", "cut off"),
    ] {
        refused(get(raw), detail);
    }
}

#[test]
fn path_parameters_are_told_about() {
    let mut head = get("/orders;v=1/17");
    assert!(edge(&mut head).unwrap().path_parameters);
    assert_eq!(head.uri, "/orders;v=1/17");
    assert!(!edge(&mut get("/orders")).unwrap().path_parameters);
}

#[test]
fn methods_and_overrides_are_refused() {
    refused(head("TRACE", "/", &[("host", "a.test")]), "TRACE");
    refused(
        head("CONNECT", "a.test:443", &[("host", "a.test:443")]),
        "CONNECT",
    );
    for name in [
        "x-http-method-override",
        "X-HTTP-Method",
        "X-Method-Override",
    ] {
        refused(with_headers(&[(name, "DELETE")]), "overrides the method");
    }
    refused(
        head("POST", "/a?x=1&_method=DELETE", &[("host", "a.test")]),
        "query overrides",
    );
    edge(&mut get("/a?_method=x")).unwrap();
    // OPTIONS * asks about the proxy, not about a service.
    refused(
        head("OPTIONS", "*", &[("host", "a.test")]),
        "begin with a slash",
    );
}

#[test]
fn framing_that_leaves_a_choice_is_refused() {
    let both = [("transfer-encoding", "chunked"), ("content-length", "5")];
    refused(with_headers(&both), "with Content-Length");
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "x",
        "",
        "chunked;q=1",
        "\u{b}chunked",
    ] {
        if HeaderValue::from_str(coding).is_ok() {
            refused(
                with_headers(&[("transfer-encoding", coding)]),
                "unknown transfer coding",
            );
        }
    }
    let twice = [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "chunked"),
    ];
    refused(with_headers(&twice), "unknown transfer coding");
    for length in ["", "+5", "-1", "5, 5", "0x5", "5 5", "18446744073709551616"] {
        refused(with_headers(&[("content-length", length)]), "not a number");
    }
    refused(
        with_headers(&[("content-length", "5"), ("content-length", "5")]),
        "more than once",
    );
    let mut old = with_headers(&[("transfer-encoding", "chunked")]);
    old.version = Version::HTTP_10;
    refused(old, "a version without it");
    refused(
        with_headers(&[("expect", "200-maybe")]),
        "unknown expectation",
    );
}

#[test]
fn transfer_encoding_in_disguise_never_gets_through() {
    // Gadgets of defparam/smuggler and PortSwigger's DesyncBox: each with Content-Length beside it.
    for gadget in [
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: chunked ",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, cow",
        "TrAnSfEr-EnCoDiNg: ChUnKeD",
        "Transfer-Encoding: , chunked",
        "X-Transfer-Encoding: chunked",
        "Transfer%2DEncoding: chunked",
        "Transfer-Encoding: chunked\u{ff}",
        "Transfer.Encoding: chunked",
    ] {
        let (name, value) = gadget.split_once(':').unwrap();
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.trim().as_bytes()),
        ) else {
            continue;
        };
        let mut head = with_headers(&[("content-length", "5")]);
        head.headers.append(name, value);
        if edge(&mut head).is_ok() {
            for name in head.headers.keys() {
                let read_as = name.as_str().replace('_', "-");
                assert_ne!(read_as, "transfer-encoding", "{gadget}");
            }
        }
    }
}

#[test]
fn fields_that_may_come_once_do() {
    for name in [
        "authorization",
        "content-type",
        "x-request-id",
        "range",
        "txn-token",
    ] {
        refused(with_headers(&[(name, "a"), (name, "a")]), "more than once");
    }
    refused(
        with_headers(&[("cookie", "a=1"), ("cookie", "b=2")]),
        "cookie",
    );
    let mut head = with_headers(&[
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("accept", "x"),
        ("accept", "y"),
    ]);
    head.version = Version::HTTP_2;
    edge(&mut head).unwrap();
    assert_eq!(head.headers["cookie"], "a=1; b=2");
    assert_eq!(head.headers.get_all("accept").iter().count(), 2);
}

#[test]
fn hosts_become_one_spelling() {
    for (raw, canonical) in [
        ("API.Shop.Test", "api.shop.test"),
        ("api.shop.test.", "api.shop.test"),
        ("api.shop.test:8443", "api.shop.test:8443"),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ("[::1]", "[::1]"),
        ("127.0.0.1:08443", "127.0.0.1:8443"),
    ] {
        let mut head = head("GET", "/", &[("host", raw)]);
        edge(&mut head).unwrap_or_else(|denial| panic!("{raw}: {}", denial.detail));
        assert_eq!(head.headers["host"], canonical);
    }
    for raw in [
        "", "a b", "a@b", "a/b", "a:", "a:x", "a:65536", "a..b", ".a", "[::1", "::1", "a%2eb",
        "a,b", "a:80:80", "[::1]x:1",
    ] {
        refused(head("GET", "/", &[("host", raw)]), "Host");
    }
    refused(head("GET", "/", &[]), "missing");
    refused(
        head("GET", "/", &[("host", "a"), ("host", "a")]),
        "more than once",
    );
}

#[test]
fn authority_and_host_agree() {
    let mut absolute = head("GET", "http://a.test:80/x", &[("host", "A.test")]);
    edge(&mut absolute).unwrap();
    assert_eq!(absolute.uri, "/x");
    refused(
        head("GET", "http://b.test/x", &[("host", "a.test")]),
        "disagrees",
    );
    refused(
        head("GET", "http://a.test:81/x", &[("host", "a.test")]),
        "disagrees",
    );
    refused(head("GET", "http://a.test/x", &[]), "missing");
    refused(
        head("GET", "ftp://a.test/x", &[("host", "a.test")]),
        "scheme",
    );
    let mut http2 = head("GET", "https://a.test/x?y", &[]);
    http2.version = Version::HTTP_2;
    edge(&mut http2).unwrap();
    assert_eq!(http2.uri, "/x?y");
    assert_eq!(http2.headers["host"], "a.test");
}

#[test]
fn the_edge_serves_the_name_that_tls_was_asked_for() {
    let gateway = snapshot(Role::Gateway, &[]);
    let check = |sni, host| {
        let mut head = head("GET", "/", &[("host", host)]);
        inbound(&mut head, &client(sni), &gateway, &mut Record::default())
    };
    check(Some("a.test"), "a.test:8443").unwrap();
    check(None, "a.test").unwrap();
    let denial = check(Some("a.test"), "b.test").unwrap_err();
    assert_eq!(denial.reason, Reason::RequestMisdirected);
    assert_eq!(denial.status, 421);
    for host in ["orders.mesh", "orders.mesh.", "ORDERS.MESH:80", "mesh"] {
        let denial = check(None, host).unwrap_err();
        assert_eq!(denial.reason, Reason::RequestMalformed, "{host}");
    }
}

#[test]
fn sizes_are_bounded() {
    let denial = edge(&mut get(&format!("/{}", "a".repeat(MAX_URI_BYTES)))).unwrap_err();
    assert_eq!(
        (denial.reason, denial.status.as_u16()),
        (Reason::RequestTooLarge, 414)
    );
    // Escaping must not get around the bound.
    let denial = edge(&mut get(&format!("/{}", "{".repeat(MAX_URI_BYTES - 10)))).unwrap_err();
    assert_eq!(denial.status, 414);
    let denial = edge(&mut with_headers(&[("a", &"a".repeat(MAX_HEAD_BYTES))])).unwrap_err();
    assert_eq!(
        (denial.reason, denial.status.as_u16()),
        (Reason::RequestTooLarge, 431)
    );
    let many: Vec<(String, String)> = (0..MAX_HEADERS)
        .map(|n| (format!("h{n}"), String::new()))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(edge(&mut with_headers(&many)).unwrap_err().status, 431);
}

#[test]
fn hop_by_hop_fields_end_here() {
    let mut head = with_headers(&[
        ("connection", "close, X-Private, authorization, te"),
        ("x-private", "1"),
        ("authorization", "Bearer x"),
        ("te", "gzip, trailers"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic x"),
        ("proxy", "http://evil"),
        ("upgrade", "foo/2"),
        ("trailer", "x-checksum"),
        ("transfer-encoding", "chunked"),
        ("expect", "100-continue"),
    ]);
    edge(&mut head).unwrap();
    let mut left: Vec<_> = head
        .headers
        .keys()
        .map(|name| name.as_str().to_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["host", "te", "trailer"]);
    assert_eq!(head.headers["te"], "trailers");
    for name in ["host", "content-length", "Transfer-Encoding"] {
        refused(with_headers(&[("connection", name)]), "names a field");
    }
}

#[test]
fn upgrades_are_websocket_or_nothing() {
    let handshake = [
        ("host", "a.test"),
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut whole = head("GET", "/", &handshake);
    assert!(edge(&mut whole).unwrap().websocket);
    assert_eq!(whole.headers["connection"], "upgrade");
    assert_eq!(whole.headers["upgrade"], "websocket");
    refused(head("POST", "/", &handshake), "not complete");
    for missing in 1..handshake.len() {
        let mut partial = handshake.to_vec();
        partial.remove(missing);
        let mut head = head("GET", "/", &partial);
        if handshake[missing].0 == "upgrade" {
            assert!(!edge(&mut head).unwrap().websocket);
        } else {
            refused(head, "not complete");
        }
    }
    refused(
        with_headers(&[
            ("connection", "upgrade, http2-settings"),
            ("upgrade", "h2c"),
        ]),
        "h2c",
    );
    refused(with_headers(&[("upgrade", "websocket, H2C")]), "h2c");
}

#[test]
fn clients_cannot_speak_for_us() {
    let ours = [
        "x-testudo-user",
        "x-testudo-anything",
        "txn-token",
        "x-request-id",
        "traceparent",
        "tracestate",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-real-ip",
        "x-original-url",
        "x_testudo_user",
        "x-testudo_user",
        "txn_token",
        "X_Forwarded_For",
    ];
    let headers: Vec<_> = ours.iter().map(|name| (*name, "1")).collect();
    let mut head = with_headers(&headers);
    let mut record = Record::default();
    inbound(
        &mut head,
        &client(None),
        &snapshot(Role::Gateway, &[]),
        &mut record,
    )
    .unwrap();
    assert_eq!(head.headers.len(), 1, "{:?}", head.headers);
    let codes: Vec<_> = record
        .findings
        .iter()
        .map(|finding| &*finding.code)
        .collect();
    assert_eq!(
        codes
            .iter()
            .filter(|code| **code == "header.underscore")
            .count(),
        4
    );
    assert_eq!(
        codes
            .iter()
            .filter(|code| **code == "header.forged")
            .count(),
        3
    );
}

#[test]
fn the_mesh_believes_what_its_gateway_and_its_peers_may_say() {
    let sidecar = snapshot(Role::Sidecar(Arc::from("orders")), &[]);
    let sent = [
        ("txn-token", "t"),
        ("x-request-id", "r"),
        ("traceparent", "p"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-testudo-user", "shop:root"),
    ];
    let check = |spiffe_id| {
        let mut head = with_headers(&sent);
        inbound(
            &mut head,
            &workload(spiffe_id),
            &sidecar,
            &mut Record::default(),
        )
        .unwrap();
        let mut names: Vec<_> = head
            .headers
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        check("spiffe://shop.test/gateway"),
        [
            "host",
            "traceparent",
            "txn-token",
            "x-forwarded-for",
            "x-request-id"
        ]
    );
    assert_eq!(
        check("spiffe://shop.test/service/storefront"),
        ["host", "traceparent", "txn-token", "x-request-id"]
    );
}

#[test]
fn outbound_takes_absolute_form_and_connect() {
    let mut record = Record::default();
    let mut call = head(
        "GET",
        "http://orders.mesh/orders/17",
        &[
            ("host", "orders.mesh"),
            ("x-testudo-caller", "admin"),
            ("x-request-id", "r"),
            ("txn-token", "t"),
            ("proxy-authorization", "Basic secret"),
        ],
    );
    let canonical = outbound(&mut call, &mut record).unwrap();
    assert_eq!(canonical.host.mesh_name(), Some("orders"));
    assert_eq!(call.uri, "/orders/17");
    let mut names: Vec<_> = call.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "txn-token"]);
    let mut tunnel = head(
        "CONNECT",
        "api.example.com:443",
        &[("host", "api.example.com:443")],
    );
    let canonical = outbound(&mut tunnel, &mut record).unwrap();
    assert_eq!(
        (canonical.host.name(), canonical.host.port()),
        ("api.example.com", Some(443))
    );
}

#[test]
fn the_client_is_the_rightmost_hop_that_is_not_trusted() {
    let socket = [203, 0, 113, 7];
    for (trusted, forwarded, expected) in [
        (&[][..], &["192.0.2.1"][..], "203.0.113.7"),
        (&["203.0.113.0/24"], &["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
        (
            &["203.0.113.0/24"],
            &["6.6.6.6, 192.0.2.1, 203.0.113.9"],
            "192.0.2.1",
        ),
        (
            &["203.0.113.0/24"],
            &["6.6.6.6", "192.0.2.1", "203.0.113.9"],
            "192.0.2.1",
        ),
        (
            &["203.0.113.0/24"],
            &["203.0.113.1, 203.0.113.2"],
            "203.0.113.1",
        ),
        (&["203.0.113.0/24"], &["192.0.2.1, unknown"], "203.0.113.7"),
        (&["203.0.113.0/24"], &["[2001:db8::1]:4711"], "2001:db8::1"),
        (&["203.0.113.0/24"], &["192.0.2.1:4711"], "192.0.2.1"),
        (&["203.0.113.0/24"], &[], "203.0.113.7"),
    ] {
        let mut headers = vec![("host", "a.test")];
        headers.extend(forwarded.iter().map(|value| ("x-forwarded-for", *value)));
        let mut head = head("GET", "/", &headers);
        let gateway = snapshot(Role::Gateway, trusted);
        let canonical =
            inbound(&mut head, &client(None), &gateway, &mut Record::default()).unwrap();
        assert_eq!(
            canonical.source_ip,
            Some(expected.parse().unwrap()),
            "{forwarded:?}"
        );
        assert!(!head.headers.contains_key("x-forwarded-for"));
        assert_eq!(client(None).address(), IpAddr::from(socket));
    }
}

#[test]
fn responses_and_trailers_lose_what_is_ours() {
    let mut response = with_headers(&[
        ("x-testudo-reason", "authz.user"),
        ("x_testudo_reason", "x"),
        ("connection", "close, x-private"),
        ("x-private", "1"),
        ("keep-alive", "1"),
        ("set-cookie", "a=1"),
        ("x_legacy", "stays"),
    ])
    .headers;
    response_headers(&mut response);
    let mut names: Vec<_> = response.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["host", "set-cookie", "x_legacy"]);
    let mut late = with_headers(&[
        ("x-testudo-user", "1"),
        ("x_testudo_user", "1"),
        ("authorization", "1"),
        ("content-length", "1"),
        ("grpc-status", "0"),
        ("x-checksum", "1"),
    ])
    .headers;
    trailers(&mut late);
    assert_eq!(late.len(), 2, "{late:?}");
}

fn any_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/".to_owned()),
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just(";".to_owned()),
        Just("%".to_owned()),
        Just("%2".to_owned()),
        Just("%25".to_owned()),
        Just("\\".to_owned()),
        "%[0-9a-fA-F]{2}",
        "[!-~]{1,3}",
        "[a-z0-9]{1,4}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn canonical_is_a_fixed_point_and_has_nothing_refused(path in any_path(), query in any_path()) {
        let Ok(uri) = format!("{path}?{query}").parse::<Uri>() else { return Ok(()); };
        let mut once = get("/");
        once.uri = uri;
        if edge(&mut once).is_err() {
            return Ok(());
        }
        let path = once.uri.path().to_owned();
        prop_assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\\'));
        prop_assert!(path.split('/').all(|segment| !matches!(segment, "." | "..")), "{}", path);
        for escape in ["%2F", "%5C", "%00", "%0D", "%0A", "%3B"] {
            prop_assert!(!path.contains(escape), "{}", path);
        }
        // Decoding once more finds no further escape.
        let decoded = percent_encoding::percent_decode_str(&path).decode_utf8().unwrap().into_owned();
        let again = percent_encoding::percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
        prop_assert_eq!(&decoded, &again);
        let mut twice = get("/");
        twice.uri = once.uri.clone();
        prop_assert!(edge(&mut twice).is_ok(), "{}", once.uri);
        prop_assert_eq!(once.uri, twice.uri);
    }

    #[test]
    fn arbitrary_heads_never_panic_and_stay_canonical(
        names in proptest::collection::vec("[a-zA-Z_-]{1,20}|connection|te|upgrade|content-length|transfer-encoding|host", 0..12),
        values in proptest::collection::vec("[ -~]{0,20}|chunked|upgrade|websocket|close|5|host", 12),
        host in "[a-zA-Z0-9.:\\[\\]@-]{0,12}",
    ) {
        let mut request = with_headers(&[]);
        if let Ok(value) = HeaderValue::from_str(&host) {
            request.headers.insert("host", value);
        }
        for (name, value) in names.iter().zip(&values) {
            let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) else { continue; };
            request.headers.append(name, value);
        }
        if edge(&mut request).is_ok() {
            let before = request.headers.clone();
            prop_assert!(before.keys().all(|name| !name.as_str().contains('_')));
            prop_assert_eq!(before.get_all("host").iter().count(), 1);
            prop_assert!(edge(&mut request).is_ok());
            prop_assert_eq!(before, request.headers);
        }
    }
}
