//! Request smuggling: every gadget of the corpus (`http-smuggling`) is refused with a reason, an id and an
//! event, or forwarded so that one reading of it is left.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::http::{Response, Target, read_response};
use crate::mesh::{Mesh, Ports};
use crate::upstream::{Seen, Upstream, respond};

fn corpus(file: &str) -> Option<String> {
    let root = std::env::var_os("TESTUDO_CORPORA").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora"),
        Into::into,
    );
    let path = root.join("http-smuggling").join(file);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        eprintln!(
            "skipped: {} is not there (set TESTUDO_CORPORA)",
            path.display()
        );
    }
    text
}

fn answer(_: &Seen) -> Option<Vec<u8>> {
    respond(200, &[("content-type", "text/plain")], "fine")
}

fn mesh(app: &Upstream) -> Mesh {
    let ports = Ports::free();
    let yaml = format!(
        "version: 1
trust_domain: smuggling.test
{control}gateway:
  listen: 127.0.0.1:{gateway}
  tls: none
  routes: [{{path: /, service: app}}]
services:
  app: {{app: ['{app}']}}
",
        control = ports.control(),
        gateway = ports.gateway,
        app = app.address,
    );
    Mesh::up(&ports, &[("testudo.yaml", yaml)], 2)
}

/// What a client of the corpus sends: to a reader by length one request, to a reader by chunks two.
fn attack(number: usize, gadget: &[u8]) -> Vec<u8> {
    let hidden = format!("GET /hidden/{number} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let body = format!("1\r\nZ\r\n0\r\n\r\n{hidden}");
    let mut bytes = format!("POST /open/{number} HTTP/1.1\r\nHost: a.test\r\n").into_bytes();
    bytes.extend_from_slice(gadget);
    let rest = format!("\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// One of the readings that attackers hope for: a name that some server takes for Transfer-Encoding.
fn looks_like_coding(name: &str) -> bool {
    let letters: String = name
        .chars()
        .filter(char::is_ascii_alphabetic)
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    letters.contains("transferencoding")
}

fn assert_refused(response: &Response, gadget: &str) {
    assert_eq!(
        response.verdict(),
        (400, Some("request.malformed".to_owned())),
        "{gadget}"
    );
    assert!(
        response
            .header("x-request-id")
            .is_some_and(|id| !id.is_empty()),
        "{gadget}"
    );
}

#[test]
fn every_gadget_is_refused_or_has_one_reading() {
    let Some(text) = corpus("te_gadgets.jsonl") else {
        return;
    };
    let app = Upstream::start(answer);
    let mesh = mesh(&app);
    let target = Target::plain(mesh.gateway);
    let mut forwarded = BTreeMap::new();
    let mut refused = 0;
    for (number, line) in text.lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let gadget = unhex(case["gadget_hex"].as_str().unwrap());
        let shown = case["gadget"].as_str().unwrap();
        let response = target
            .raw(&attack(number, &gadget))
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        if response.status == 200 {
            forwarded.insert(number, shown.to_owned());
        } else {
            assert_refused(&response, shown);
            refused += 1;
        }
    }
    let seen = app.seen();
    assert_eq!(seen.len(), forwarded.len());
    for request in &seen {
        assert!(!request.path.starts_with("/hidden"), "{request:?}");
        let number: usize = request.path.rsplit('/').next().unwrap().parse().unwrap();
        let gadget = &forwarded[&number];
        assert!(
            !request
                .headers
                .iter()
                .any(|(name, _)| looks_like_coding(name)),
            "{gadget}: {request:?}"
        );
        // By its length, whole.
        assert!(request.body.ends_with(b"Host: a.test\r\n\r\n"), "{gadget}");
    }
    eprintln!(
        "{refused} refused, {} forwarded: {:?}",
        forwarded.len(),
        forwarded.values()
    );
    assert!(refused > 1_200, "{refused}");
}

#[test]
fn what_is_refused_beneath_http_has_an_event_and_ends_the_connection() {
    let app = Upstream::start(answer);
    let mesh = mesh(&app);
    let target = Target::plain(mesh.gateway);
    let mut stream = target.connect().unwrap();
    // The first request is answered; what follows it on the same connection is refused.
    let good = "GET /good HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let bad = "POST /bad?token=secret HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(good.as_bytes()).unwrap();
    assert_eq!(read_response(&mut *stream, false).unwrap().status, 200);
    stream.write_all(format!("{bad}{good}").as_bytes()).unwrap();
    let response = read_response(&mut *stream, false).unwrap();
    assert_refused(&response, "CL and TE");
    assert_eq!(response.header("connection"), Some("close"));
    assert!(read_response(&mut *stream, false).is_err(), "it is closed");
    assert_eq!(app.seen().len(), 1);
    let id = response.header("x-request-id").unwrap();
    let event = mesh.decision("the refusal", |event| event["request_id"] == id);
    assert_eq!(event["reason"], "request.malformed");
    assert_eq!(event["path"], "/bad");
    assert_eq!(event["method"], "POST");
    assert!(
        event["findings"]
            .to_string()
            .contains("Transfer-Encoding with Content-Length"),
        "{event}"
    );

    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "a".repeat(20_000)
    );
    let response = target.raw(long.as_bytes()).unwrap();
    assert_eq!(
        response.verdict(),
        (414, Some("request.too_large".to_owned()))
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n",
        "A: b\r\n".repeat(200)
    );
    let response = target.raw(many.as_bytes()).unwrap();
    assert_eq!(
        response.verdict(),
        (431, Some("request.too_large".to_owned()))
    );
}

#[test]
fn pieces_make_no_difference() {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    let app = Upstream::start(answer);
    let mesh = mesh(&app);
    let target = Target::plain(mesh.gateway);
    let request = b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for at in 1..request.len() {
        let mut stream = target.connect().unwrap();
        let (first, second) = request.split_at(at);
        stream.write_all(first).unwrap();
        stream.flush().unwrap();
        std::thread::yield_now();
        stream.write_all(second).unwrap();
        let response = read_response(&mut *stream, false).unwrap();
        assert_eq!(response.status, 200, "cut at {at}");
        SENT.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(app.seen().len(), SENT.load(Ordering::Relaxed));
    assert!(app.seen().iter().all(|seen| seen.body == b"abc"));
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|byte| u8::from_str_radix(&text[byte * 2..byte * 2 + 2], 16).unwrap())
        .collect()
}
