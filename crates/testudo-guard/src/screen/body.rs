//! Where a message ends: a counted body, or chunks (RFC 9112 §6, §7.1).

use super::head::field;

/// Longest trailer section, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;
/// Longest chunk extensions of one chunk, in bytes. Nobody uses them; they are never passed on.
const MAX_EXTENSION: usize = 256;
/// Hexadecimal digits of a chunk's size: more than any body is long.
const MAX_DIGITS: u8 = 15;

/// What is left of a body.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunks(Chunk),
}

/// What comes next in a chunked body.
#[derive(Debug)]
pub(super) enum Chunk {
    Size {
        value: u64,
        digits: u8,
    },
    Extension {
        length: usize,
        size: u64,
        quoted: Quoted,
    },
    SizeEnd {
        size: u64,
    },
    Data(u64),
    DataReturn,
    DataEnd,
    Trailers {
        line: Vec<u8>,
        length: usize,
    },
}

/// Where in a chunk extension's quoted string (RFC 9110 §5.6.4) the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoted {
    No,
    Yes,
    Escape,
}

impl Body {
    pub(super) const fn chunked() -> Self {
        Body::Chunks(Chunk::Size {
            value: 0,
            digits: 0,
        })
    }

    /// How many of `bytes` belong to the body, and whether it ends with them.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<(usize, bool), &'static str> {
        match self {
            Body::Length(left) => {
                let taken = bytes_of(*left, bytes);
                *left -= taken as u64;
                Ok((taken, *left == 0))
            }
            Body::Chunks(chunk) => {
                let mut taken = 0;
                while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
                    let (length, ended) = chunk.step(rest)?;
                    taken += length;
                    if ended {
                        return Ok((taken, true));
                    }
                }
                Ok((taken, false))
            }
        }
    }
}

fn bytes_of(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

impl Chunk {
    /// One step; `bytes` is not empty. Says how many bytes it took and whether the body ends.
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, bool), &'static str> {
        let first = bytes.first().copied().unwrap_or_default();
        match self {
            Chunk::Size { value, digits } => {
                let (value, digits) = (*value, *digits);
                *self = match (first, char::from(first).to_digit(16)) {
                    (_, Some(digit)) if digits < MAX_DIGITS => Chunk::Size {
                        value: value * 16 + u64::from(digit),
                        digits: digits + 1,
                    },
                    (b';', None) if digits > 0 => Chunk::Extension {
                        length: 0,
                        size: value,
                        quoted: Quoted::No,
                    },
                    (b'\r', None) if digits > 0 => Chunk::SizeEnd { size: value },
                    _ => return Err("a chunk's size is not a number"),
                };
            }
            Chunk::Extension {
                length,
                size,
                quoted,
            } => match (first, *quoted) {
                (b'\r', Quoted::No) if *length > 0 => *self = Chunk::SizeEnd { size: *size },
                (b'\t' | b' '..=b'~', state) if *length < MAX_EXTENSION => {
                    *length += 1;
                    *quoted = match (first, state) {
                        (b'"', Quoted::No) | (_, Quoted::Escape) => Quoted::Yes,
                        (b'"', Quoted::Yes) => Quoted::No,
                        (b'\\', Quoted::Yes) => Quoted::Escape,
                        (_, state) => state,
                    };
                }
                _ => return Err("a chunk's extensions are not well-formed, or too long"),
            },
            Chunk::SizeEnd { size } => match (first, *size) {
                (b'\n', 0) => {
                    *self = Chunk::Trailers {
                        line: Vec::new(),
                        length: 0,
                    };
                }
                (b'\n', size) => *self = Chunk::Data(size),
                _ => return Err("a chunk's size does not end with a line feed"),
            },
            Chunk::Data(left) => {
                let taken = bytes_of(*left, bytes);
                *left -= taken as u64;
                if *left == 0 {
                    *self = Chunk::DataReturn;
                }
                return Ok((taken, false));
            }
            Chunk::DataReturn => match first {
                b'\r' => *self = Chunk::DataEnd,
                _ => return Err("a chunk is longer than its size"),
            },
            Chunk::DataEnd => match first {
                b'\n' => {
                    *self = Chunk::Size {
                        value: 0,
                        digits: 0,
                    };
                }
                _ => return Err("a chunk does not end with a line feed"),
            },
            Chunk::Trailers { line, length } => return trailers(line, length, bytes),
        }
        Ok((1, false))
    }
}

/// Trailer fields keep to the rules of header fields, and frame nothing (RFC 9110 §6.5.1).
fn trailers(
    line: &mut Vec<u8>,
    length: &mut usize,
    bytes: &[u8],
) -> Result<(usize, bool), &'static str> {
    let found = memchr::memchr(b'\n', bytes);
    let taken = found.map_or(bytes.len(), |found| found + 1);
    *length += taken;
    if *length > MAX_TRAILERS {
        return Err("the trailers are too large");
    }
    line.extend_from_slice(bytes.get(..taken).unwrap_or_default());
    if found.is_none() {
        return Ok((taken, false));
    }
    let Some(complete) = line.strip_suffix(b"\r\n") else {
        return Err("a trailer line ends without a carriage return");
    };
    if complete.is_empty() {
        return Ok((taken, true));
    }
    let (name, _) = field(complete).map_err(|wrong| wrong.detail)?;
    let frames = [
        "content-length",
        "transfer-encoding",
        "host",
        "trailer",
        "te",
    ];
    if frames
        .iter()
        .any(|frame| name.eq_ignore_ascii_case(frame.as_bytes()))
    {
        return Err("a trailer field that frames or routes a message");
    }
    line.clear();
    Ok((taken, false))
}
