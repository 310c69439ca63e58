use super::*;

const LIMITS: HeadLimits = HeadLimits {
    target_bytes: 64,
    head_bytes: 1024,
    fields: 8,
};

/// What passes of `bytes` when they come in pieces of `size`, and how it ended.
fn screen(bytes: &[u8], size: usize) -> (Vec<u8>, Next) {
    let mut screen = Screen::new(LIMITS);
    let (mut kept, mut passed) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(size.max(1)) {
        kept.extend_from_slice(piece);
        let (length, next) = screen.feed(&kept);
        passed.extend(kept.drain(..length));
        if next != Next::More {
            return (passed, next);
        }
    }
    (passed, Next::More)
}

/// The same, whatever the pieces are.
fn every_way(bytes: &[u8]) -> (Vec<u8>, Next) {
    let whole = screen(bytes, bytes.len());
    for size in 1..bytes.len() {
        let pieces = screen(bytes, size);
        // What can be read of a refused head differs; what passed and why it was refused does not.
        match (&pieces.1, &whole.1) {
            (Next::Refuse(one), Next::Refuse(other)) => {
                assert_eq!((one.detail, one.status), (other.detail, other.status));
                assert_eq!(pieces.0, whole.0, "in pieces of {size}");
            }
            _ => assert_eq!(pieces, whole, "in pieces of {size}"),
        }
    }
    whole
}

fn refused(head: &str) -> Refusal {
    match every_way(head.as_bytes()) {
        (passed, Next::Refuse(refusal)) => {
            assert_eq!(passed, b"", "{head:?}");
            *refusal
        }
        other => panic!("{head:?}: {other:?}"),
    }
}

fn passes(bytes: &str) {
    let (passed, next) = every_way(bytes.as_bytes());
    assert_eq!(next, Next::More, "{bytes:?}");
    assert_eq!(String::from_utf8_lossy(&passed), bytes);
}

#[test]
fn messages_pass_whole_one_after_another() {
    passes("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    passes("\r\nGET / HTTP/1.0\r\n\r\n");
    passes("OPTIONS * HTTP/1.1\r\nHost:a\r\nX: \t\r\nY:\r\n\r\n");
    passes("GET http://a/{b}?c=%20| HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\r\n\r\n");
    passes(
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPOST /b HTTP/1.1\r\nHost: a\r\n\
         Transfer-Encoding: Chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0a\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n\
         GET /c HTTP/1.1\r\nHost: a\r\n\r\n",
    );
}

#[test]
fn what_is_read_differently_elsewhere_is_refused() {
    let host = "Host: a\r\n";
    for (head, why) in [
        (
            "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
            "carriage return",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}A: b\n\r\n"),
            "carriage return",
        ),
        (format!("GET  / HTTP/1.1\r\n{host}\r\n"), "request line"),
        (format!("GET / HTTP/1.1 \r\n{host}\r\n"), "request line"),
        (format!("GET\t/ HTTP/1.1\r\n{host}\r\n"), "request line"),
        (format!("GET /\r\n{host}\r\n"), "request line"),
        (format!("GET / HTTP/2.0\r\n{host}\r\n"), "version"),
        (format!("GET / http/1.1\r\n{host}\r\n"), "version"),
        (format!("G(T / HTTP/1.1\r\n{host}\r\n"), "token"),
        (format!("GET /a#b HTTP/1.1\r\n{host}\r\n"), "URI"),
        (format!("GET /a<b HTTP/1.1\r\n{host}\r\n"), "URI"),
        (format!("GET / HTTP/1.1\r\n{host}A : b\r\n\r\n"), "colon"),
        (format!("GET / HTTP/1.1\r\n{host}A\r\n\r\n"), "colon"),
        (format!("GET / HTTP/1.1\r\n{host}: b\r\n\r\n"), "no name"),
        (
            format!("GET / HTTP/1.1\r\n{host}A: b\r\n c\r\n\r\n"),
            "continued",
        ),
        (format!("GET / HTTP/1.1\r\n {host}\r\n"), "continued"),
        (
            format!("GET / HTTP/1.1\r\n{host}A: b\rc\r\n\r\n"),
            "control",
        ),
        (format!("GET / HTTP/1.1\r\n{host}A: \0\r\n\r\n"), "control"),
        (format!("GET / HTTP/1.1\r\n{host}{host}\r\n"), "Host"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "Host is missing"),
        (
            format!("GET / HTTP/1.1\r\n{host}Content-Length: +3\r\n\r\n"),
            "not a number",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}Content-Length: 3, 3\r\n\r\n"),
            "not a number",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}Content-Length:\r\n\r\n"),
            "not a number",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}Content-Length: 99999999999999999999\r\n\r\n"),
            "not a number",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}Content-Length: 3\r\ncontent-length: 3\r\n\r\n"),
            "more than once",
        ),
        (
            format!(
                "GET / HTTP/1.1\r\n{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            "with Content-Length",
        ),
        (
            format!("GET / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n"),
            "coding",
        ),
        (
            format!(
                "GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            "more than once",
        ),
        (
            format!("GET / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n"),
            "version without it",
        ),
        (
            format!("\r\n\r\nGET / HTTP/1.1\r\n{host}\r\n"),
            "empty lines",
        ),
    ] {
        let refusal = refused(&head);
        assert_eq!(refusal.reason, Reason::RequestMalformed);
        assert!(refusal.detail.contains(why), "{head:?}: {}", refusal.detail);
    }
}

#[test]
fn sizes_have_statuses_of_their_own() {
    let long = "a".repeat(65);
    assert_eq!(
        refused(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")).status,
        414
    );
    assert_eq!(refused(&"a".repeat(200)).status, 414);
    let fields = "A: b\r\n".repeat(8);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert_eq!(refused(&many).status, 431);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "b".repeat(1024));
    assert_eq!(refused(&large).status, 431);
    assert_eq!(refused(&large).reason, Reason::RequestTooLarge);
}

#[test]
fn what_could_be_read_is_remembered() {
    let refusal = refused("POST /x?y=z HTTP/1.1\r\nHost : a\r\n\r\n");
    assert_eq!((&*refusal.method, &*refusal.target), ("POST", "/x?y=z"));
}

#[test]
fn a_second_head_is_refused_after_the_first_passed() {
    let first = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (passed, next) = every_way(format!("{first}GET / HTTP/1.1\r\nHost : a\r\n\r\n").as_bytes());
    assert_eq!(passed, first.as_bytes());
    assert!(matches!(next, Next::Refuse(_)));
}

#[test]
fn chunks_are_followed_to_the_byte() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        "-3\r\nabc\r\n",
        "0x3\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "1000000000000000\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\n\n",
        "0\r\r\n",
    ] {
        let bytes = format!("{head}{body}");
        for size in 1..bytes.len() {
            let (_, next) = screen(bytes.as_bytes(), size);
            assert!(
                matches!(next, Next::Break(_)),
                "{body:?} in {size}: {next:?}"
            );
        }
    }
    let extension = format!("{head}1;{}\r\n", "a".repeat(1000));
    assert!(matches!(screen(extension.as_bytes(), 7).1, Next::Break(_)));
    let trailers = format!("{head}0\r\n{}", "A: b\r\n".repeat(4000));
    assert!(matches!(screen(trailers.as_bytes(), 7).1, Next::Break(_)));
}

#[test]
fn another_protocol_waits_for_the_answer() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    let mut screen = Screen::new(LIMITS);
    assert_eq!(screen.feed(head), (head.len(), Next::Wait));
    assert!(screen.waits());
    assert_eq!(screen.feed(b"\0\n"), (0, Next::Wait));
    screen.decide(true);
    assert_eq!(screen.feed(b"\0\n"), (2, Next::More));

    let mut screen = Screen::new(LIMITS);
    let connect = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    assert_eq!(screen.feed(connect), (connect.len(), Next::Wait));
    screen.decide(false);
    assert!(matches!(screen.feed(b"\0\n"), (0, Next::Refuse(_))));
    assert_eq!(screen.heads(), 1);
}

#[test]
fn the_stand_in_passes_a_screen() {
    passes(std::str::from_utf8(STAND_IN).unwrap());
}
