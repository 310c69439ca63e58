//! Path and query in one spelling (RFC 3986 §6.2.2), or refused.
//!
//! | in the path | becomes |
//! |---|---|
//! | `%41` (an unreserved character) | the character |
//! | `%c3%a9` | `%C3%A9`, if it is UTF-8 |
//! | `"` `<` `>` `[` `]` `^` `` ` `` `{` `\|` `}` | its escape |
//! | `/./` | `/` |
//! | `..` in any spelling | refused: browsers and libraries resolve it themselves |
//! | `//` | refused: some servers collapse it, some don't |
//! | `\`, `%5C`, `%2F` | refused: some servers read a slash |
//! | `%25` before two hex digits | refused: a second decoding would find another escape |
//! | `;` | kept, and the caller told; `%3B` and `;` beside a dot segment: refused |
//! | control bytes, escaped or not; anything outside ASCII; bad escapes; bad UTF-8 | refused |
//!
//! A query is more liberal, since its values are data: slashes, `%25` and line breaks are kept as
//! escapes, `;` becomes `%3B` so that nobody reads it as a separator; NUL, other control bytes, bad
//! escapes and bad UTF-8 are refused.

use std::borrow::Cow;

/// The canonical path.
///
/// # Errors
/// What is wrong with it.
pub(super) fn canonical_path(raw: &str) -> Result<Cow<'_, str>, &'static str> {
    let Some(relative) = raw.strip_prefix('/') else {
        return Err("the path does not begin with a slash");
    };
    if is_plain_path(raw) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut canonical = String::with_capacity(raw.len() + 8);
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        canonical.push('/');
        if segment.is_empty() {
            if is_last {
                break;
            }
            return Err("the path has an empty segment");
        }
        let start = canonical.len();
        push_canonical(segment.as_bytes(), Part::Path, &mut canonical)?;
        let written = canonical.get(start..).unwrap_or_default();
        let name = written.split(';').next().unwrap_or_default();
        if name == ".." {
            return Err("the path has a dot segment that climbs");
        }
        if name == "." {
            if written.len() > 1 {
                return Err("the path has parameters on a dot segment");
            }
            // `/a/./b` is `/a/b`; `/a/.` is `/a/`.
            canonical.truncate(if is_last { start } else { start - 1 });
        }
    }
    if canonical.is_empty() {
        canonical.push('/');
    }
    Ok(Cow::Owned(canonical))
}

/// The canonical query.
///
/// # Errors
/// What is wrong with it.
pub(super) fn canonical_query(raw: &str) -> Result<Cow<'_, str>, &'static str> {
    let plain = |byte: u8| is_plain(byte) || matches!(byte, b'/' | b'?');
    if raw.bytes().all(plain) {
        return Ok(Cow::Borrowed(raw));
    }
    let mut canonical = String::with_capacity(raw.len() + 8);
    push_canonical(raw.as_bytes(), Part::Query, &mut canonical)?;
    Ok(Cow::Owned(canonical))
}

/// Whether a canonical query has a `_method` field, which some frameworks take for the method.
pub(super) fn has_method_override(query: &str) -> bool {
    query
        .split('&')
        .any(|field| field.split('=').next() == Some("_method"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Query,
}

/// Nothing to decode, to escape or to refuse: the usual path, recognized in one scan.
fn is_plain_path(path: &str) -> bool {
    let mut previous = 0;
    for byte in path.bytes() {
        if !(is_plain(byte) || byte == b'/') || (previous == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        previous = byte;
    }
    true
}

/// Unreserved, a sub-delimiter but `;`, `:` or `@` (RFC 3986 §3.3).
const fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
        )
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn push_canonical(raw: &[u8], part: Part, canonical: &mut String) -> Result<(), &'static str> {
    let start = canonical.len();
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        let value = if byte == b'%' {
            let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else {
                return Err("a percent escape is cut off");
            };
            let (Some(high), Some(low)) = (hex_digit(high), hex_digit(low)) else {
                return Err("a percent escape is not hexadecimal");
            };
            let value = high << 4 | low;
            check_escaped(value, part)?;
            if is_unreserved(value) {
                canonical.push(char::from(value));
            } else {
                push_escape(value, canonical);
            }
            value
        } else {
            push_raw(byte, part, canonical)?;
            byte
        };
        decoded.push(value);
    }
    if std::str::from_utf8(&decoded).is_err() {
        return Err("the target is not UTF-8");
    }
    let written = canonical.get(start..).unwrap_or_default();
    if part == Part::Path && has_double_encoding(written.as_bytes()) {
        return Err("the path is encoded twice");
    }
    Ok(())
}

/// What no escape may hide.
const fn check_escaped(value: u8, part: Part) -> Result<(), &'static str> {
    match (part, value) {
        (_, 0) => Err("the target has a NUL"),
        (Part::Query, b'\t' | b'\n' | b'\r') => Ok(()),
        (_, 1..=0x1f | 0x7f) => Err("the target has a control byte"),
        (Part::Path, b'/' | b'\\') => Err("the path has an encoded slash or backslash"),
        (Part::Path, b';') => Err("the path has an encoded semicolon"),
        _ => Ok(()),
    }
}

fn push_raw(byte: u8, part: Part, canonical: &mut String) -> Result<(), &'static str> {
    match (part, byte) {
        (_, 0..=0x20 | 0x7f) => return Err("the target has a control byte or a space"),
        (_, 0x80..) => return Err("the target has a byte outside ASCII"),
        (_, b'#') => return Err("the target has a fragment"),
        (Part::Path, b'\\') => return Err("the path has a backslash"),
        (Part::Path, b';') | (Part::Query, b'/' | b'?') => canonical.push(char::from(byte)),
        _ if is_plain(byte) => canonical.push(char::from(byte)),
        _ => push_escape(byte, canonical),
    }
    Ok(())
}

fn has_double_encoding(canonical: &[u8]) -> bool {
    canonical.windows(5).any(|window| {
        window.starts_with(b"%25") && window.iter().skip(3).all(u8::is_ascii_hexdigit)
    })
}

fn push_escape(byte: u8, canonical: &mut String) {
    canonical.push('%');
    for digit in [byte >> 4, byte & 0xf] {
        let digit = char::from_digit(u32::from(digit), 16).unwrap_or('0');
        canonical.push(digit.to_ascii_uppercase());
    }
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}
