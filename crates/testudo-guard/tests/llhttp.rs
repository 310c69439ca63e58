//! The request cases of llhttp's test suite (`llhttp-md`): what its strict parser refuses, the screen refuses
//! too; where the screen is stricter, the test says why. The corpus is outside the repository;
//! `TESTUDO_CORPORA` names its folder.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

use std::path::Path;

use testudo_guard::screen::{HeadLimits, Next, Screen};

/// Refused by the screen, accepted by llhttp.
const STRICTER: [(&str, &str); 7] = [
    ("Host is missing", "llhttp leaves Host to its user"),
    (
        "the version is neither 1.1 nor 1.0",
        "no other version is spoken here (RFC 9112 §2.3)",
    ),
    (
        "the request line is not METHOD TARGET VERSION",
        "HTTP/0.9 and several spaces",
    ),
    (
        "an unknown transfer coding",
        "only `chunked` is taken off here",
    ),
    (
        "empty lines before the request",
        "one is forgiven (RFC 9112 §2.2), not several",
    ),
    (
        "the target is not a URI (RFC 9112 §3.2)",
        "fragments, and bytes that a URI does not have",
    ),
    (
        "a header field is continued on a second line",
        "obs-fold is deprecated (RFC 9112 §5.2)",
    ),
];

/// Refused by llhttp, which knows the methods that it lists: here any token is a method, and the route decides.
const UNKNOWN_METHODS: [&str; 2] = ["HTTP protocol and ANNOUNCE method", "Invalid method"];

struct Case {
    name: String,
    bytes: Vec<u8>,
    refused: bool,
}

/// Cases without leniency and without the callbacks' own errors.
fn cases(file: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut cases = Vec::new();
    let (mut title, mut strict, mut request) = (String::new(), false, None);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') {
            title = line.trim_start_matches('#').trim().to_owned();
        } else if line.starts_with("<!-- meta") {
            strict = line.contains(r#""type": "request""#) && !line.contains("pause");
        } else if line == "```http" {
            let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            request = Some(bytes(&body));
        } else if line == "```log" {
            let log: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if let (Some(bytes), true) = (request.take(), strict) {
                cases.push(Case {
                    name: format!("{}: {title}", file.file_name().unwrap().display()),
                    bytes,
                    // 21 and 22: its user paused it, for instance for another protocol.
                    refused: log.iter().any(|line| {
                        line.contains("error code=")
                            && !line.contains("error code=21")
                            && !line.contains("error code=22")
                    }),
                });
            }
        }
    }
    cases
}

/// The suite's notation: lines end with CRLF unless a backslash ends them.
fn bytes(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let (line, joined) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (*line, false),
        };
        let line = line
            .replace("\\r", "\r")
            .replace("\\n", "\n")
            .replace("\\t", "\t")
            .replace("\\f", "\u{c}");
        out.extend_from_slice(line.as_bytes());
        if !joined && number + 1 < lines.len() {
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

/// Why nothing or not all of it passes; `None`: it passes.
fn judge(bytes: &[u8]) -> Option<String> {
    let mut screen = Screen::new(HeadLimits {
        target_bytes: 8 * 1024,
        head_bytes: 64 * 1024,
        fields: 128,
    });
    let mut rest = bytes;
    loop {
        let (passed, next) = screen.feed(rest);
        rest = &rest[passed..];
        match next {
            // A head that is not complete has not passed, and never will by itself.
            Next::More if screen.heads() == 0 => return Some("incomplete".to_owned()),
            Next::More => return None,
            Next::Refuse(refusal) => return Some(refusal.denial().detail.into_owned()),
            Next::Break(why) => return Some(why.to_owned()),
            // As if the answer was a tunnel, where llhttp stops too.
            Next::Wait => screen.decide(true),
        }
    }
}

fn with_host(bytes: &[u8]) -> Vec<u8> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return bytes.to_vec();
    };
    [&bytes[..end], b"\r\nHost: a", &bytes[end..]].concat()
}

#[test]
fn what_llhttp_refuses_is_refused() {
    let root = std::env::var_os("TESTUDO_CORPORA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora"),
        Into::into,
    );
    let folder = root.join("llhttp-md/test/request");
    let Ok(files) = std::fs::read_dir(&folder) else {
        eprintln!(
            "skipped: {} is not there (set TESTUDO_CORPORA)",
            folder.display()
        );
        return;
    };
    let (mut run, mut wrong) = (0, Vec::new());
    for case in files.flat_map(|file| cases(&file.unwrap().path())) {
        run += 1;
        let mut why = judge(&case.bytes);
        if why.as_deref() == Some("Host is missing") {
            why = judge(&with_host(&case.bytes));
        }
        match (case.refused, &why) {
            (true, Some(_)) | (false, None) => {}
            (true, None) if UNKNOWN_METHODS.iter().any(|name| case.name.ends_with(name)) => {}
            (false, Some(why)) if STRICTER.iter().any(|(known, _)| why == known) => {}
            (true, None) | (false, Some(_)) => {
                let text = String::from_utf8_lossy(&case.bytes).into_owned();
                wrong.push(format!("{}: {why:?} {text:?}", case.name));
            }
        }
    }
    assert!(run > 80, "{run}");
    assert!(
        wrong.is_empty(),
        "{} of {run}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
