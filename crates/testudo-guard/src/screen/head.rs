//! A request's head, line by line (RFC 9112 §2–6): nothing that another reader could read differently.

use http::{StatusCode, Uri};

use super::body::Body;
use super::{HeadLimits, Wrong};

/// Longest method.
const MAX_METHOD: usize = 64;

/// How far the reading has come.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the line that is being read begins, from the first byte of the head.
    line: usize,
    /// Up to where no end of that line was found.
    searched: usize,
    /// Empty lines before the request line.
    blank: usize,
    request_line: bool,
    http10: bool,
    connect: bool,
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// What the bytes so far came to.
pub(super) enum Line {
    /// The head is not complete.
    Incomplete,
    /// It is.
    Ended(Ended),
}

/// A complete head.
pub(super) struct Ended {
    /// Its bytes, the empty line included.
    pub(super) length: usize,
    /// What follows it.
    pub(super) body: Body,
    /// It asks for another protocol.
    pub(super) switches: bool,
}

impl Head {
    /// Goes on reading; `bytes` begin with the head's first byte.
    pub(super) fn read(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Line, Wrong> {
        loop {
            let unsearched = bytes.get(self.searched..).unwrap_or_default();
            let Some(found) = memchr::memchr(b'\n', unsearched) else {
                self.searched = bytes.len();
                self.check_size(bytes.len(), limits)?;
                return Ok(Line::Incomplete);
            };
            let end = self.searched + found;
            let line = bytes.get(self.line..end).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r") else {
                return Err(Wrong::malformed("a line ends without a carriage return"));
            };
            self.line = end + 1;
            self.searched = end + 1;
            self.check_size(self.line, limits)?;
            if !line.is_empty() {
                self.take(line, limits)?;
            } else if self.request_line {
                return self.finish();
            } else {
                // RFC 9112 §2.2: one is for old clients that end a body with an extra line.
                self.blank += 1;
                if self.blank > 1 {
                    return Err(Wrong::malformed("empty lines before the request"));
                }
            }
        }
    }

    fn check_size(&self, bytes: usize, limits: &HeadLimits) -> Result<(), Wrong> {
        if !self.request_line && bytes > limits.target_bytes + MAX_METHOD + 16 {
            return Err(uri_too_long());
        }
        if bytes > limits.head_bytes {
            return Err(too_large());
        }
        Ok(())
    }

    fn take(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Wrong> {
        if !self.request_line {
            self.request_line = true;
            return self.request_line(line, limits);
        }
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(too_large());
        }
        let (name, value) = field(line)?;
        self.note(name, value)
    }

    /// RFC 9112 §3: exactly one space between the three parts, no other white space anywhere.
    fn request_line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Wrong> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Wrong::malformed(
                "the request line is not METHOD TARGET VERSION",
            ));
        };
        if method.is_empty() || method.len() > MAX_METHOD || !all(method, TOKEN) {
            return Err(Wrong::malformed("the method is not a token"));
        }
        if target.len() > limits.target_bytes {
            return Err(uri_too_long());
        }
        // What is plain is a path of few characters; everything else is read as the library will.
        let plain = target.first() == Some(&b'/') && all(target, PLAIN);
        if !plain && (target.is_empty() || target.contains(&b'#') || Uri::try_from(target).is_err())
        {
            return Err(Wrong::malformed("the target is not a URI (RFC 9112 §3.2)"));
        }
        self.http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(Wrong::malformed("the version is neither 1.1 nor 1.0")),
        };
        self.connect = method == b"CONNECT";
        Ok(())
    }

    /// What frames the message. Looked at by length first: most fields are none of these.
    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Wrong> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err(Wrong::malformed("Host came more than once"));
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Wrong::malformed("Content-Length came more than once"));
                }
                self.length = Some(content_length(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked {
                    return Err(Wrong::malformed("Transfer-Encoding came more than once"));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Wrong::malformed("an unknown transfer coding"));
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&self) -> Result<Line, Wrong> {
        if self.chunked && self.http10 {
            return Err(Wrong::malformed(
                "Transfer-Encoding in a version without it",
            ));
        }
        if self.chunked && self.length.is_some() {
            return Err(Wrong::malformed("Transfer-Encoding with Content-Length"));
        }
        if self.hosts == 0 && !self.http10 {
            return Err(Wrong::malformed("Host is missing"));
        }
        let body = if self.chunked {
            Body::chunked()
        } else {
            Body::Length(self.length.unwrap_or(0))
        };
        Ok(Line::Ended(Ended {
            length: self.line,
            body,
            switches: self.upgrade || self.connect,
        }))
    }
}

/// RFC 9112 §5: a token, a colon right behind it, and a value without control characters. A line that
/// begins with white space would continue the last one (§5.2), which nobody needs.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Wrong> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Wrong::malformed(
            "a header field is continued on a second line",
        ));
    }
    let length = line.iter().take_while(|byte| is(**byte, TOKEN)).count();
    let (name, rest) = line.split_at_checked(length).unwrap_or_default();
    let Some((b':', value)) = rest.split_first() else {
        return Err(Wrong::malformed(
            "a header field's name is not a token and a colon",
        ));
    };
    if name.is_empty() {
        return Err(Wrong::malformed("a header field has no name"));
    }
    if !all(value, VALUE) {
        return Err(Wrong::malformed("a header field has control characters"));
    }
    Ok((name, trim(value)))
}

/// RFC 9110 §8.6: digits, nothing else.
fn content_length(value: &[u8]) -> Result<u64, Wrong> {
    let wrong = Wrong::malformed("Content-Length is not a number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(wrong);
    }
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse::<u64>().ok())
        .filter(|length| *length <= u64::MAX / 2)
        .ok_or(wrong)
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let Some((b' ' | b'\t', rest)) = value.split_first() {
        value = rest;
    }
    while let Some((b' ' | b'\t', rest)) = value.split_last() {
        value = rest;
    }
    value
}

const fn uri_too_long() -> Wrong {
    Wrong::too_large(StatusCode::URI_TOO_LONG, "the target is too long")
}

const fn too_large() -> Wrong {
    Wrong::too_large(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "the head is too large",
    )
}

/// RFC 9110 §5.6.2.
const TOKEN: u8 = 1;
/// What a field's value may hold: visible characters, space, tab, and bytes beyond ASCII.
const VALUE: u8 = 2;
/// What a target may hold without a closer look.
const PLAIN: u8 = 4;

const CLASSES: [u8; 256] = classes();

#[expect(
    clippy::indexing_slicing,
    reason = "a constant; an index out of bounds would not compile"
)]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let character = byte as u8;
        let mut class = 0;
        if character.is_ascii_alphanumeric()
            || matches!(
                character,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
        {
            class |= TOKEN;
        }
        if character == b'\t' || (character >= b' ' && character != 0x7f) {
            class |= VALUE;
        }
        if character.is_ascii_alphanumeric()
            || matches!(
                character,
                b'/' | b'-'
                    | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b'?'
                    | b'='
                    | b'&'
                    | b'+'
                    | b','
                    | b':'
                    | b'@'
                    | b'!'
                    | b'$'
                    | b'('
                    | b')'
                    | b'*'
                    | b'\''
                    | b';'
            )
        {
            class |= PLAIN;
        }
        table[byte] = class;
        byte += 1;
    }
    table
}

fn is(byte: u8, class: u8) -> bool {
    CLASSES
        .get(usize::from(byte))
        .is_some_and(|classes| classes & class != 0)
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| is(*byte, class))
}
