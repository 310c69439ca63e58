//! JSON read strictly, in one pass: what two readers could understand differently is refused.
//!
//! RFC 8259 grammar, and besides: no duplicate names in an object, no lone surrogates, no integers
//! outside i64, no numbers beyond f64, at most [`MAX_DEPTH`] levels, UTF-8 without a byte order mark.

use serde_json::{Map, Number, Value};

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;

/// Why a text was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at {}", display_pointer(.path))]
pub struct JsonError {
    /// What is wrong.
    pub kind: JsonErrorKind,
    /// From the innermost name or index to the outermost.
    path: Vec<String>,
}

/// What is wrong with a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    /// It breaks the grammar at this byte.
    #[error("not JSON (byte {0})")]
    Syntax(usize),
    /// It is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// An object has the same name twice.
    #[error("duplicate name")]
    Duplicate,
    /// Half of a surrogate pair.
    #[error("lone surrogate")]
    LoneSurrogate,
    /// An integer outside i64.
    #[error("integer outside 64 bits")]
    Integer,
    /// A number that f64 cannot hold.
    #[error("number out of range")]
    Number,
    /// Nested too deeply.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Depth,
}

impl JsonError {
    fn new(kind: JsonErrorKind) -> JsonError {
        JsonError {
            kind,
            path: Vec::new(),
        }
    }

    /// Whether readers could disagree about the text, as opposed to all of them refusing it.
    pub fn is_ambiguous(&self) -> bool {
        match self.kind {
            JsonErrorKind::Syntax(_) => false,
            JsonErrorKind::Utf8
            | JsonErrorKind::Duplicate
            | JsonErrorKind::LoneSurrogate
            | JsonErrorKind::Integer
            | JsonErrorKind::Number
            | JsonErrorKind::Depth => true,
        }
    }

    fn within(mut self, segment: String) -> JsonError {
        self.path.push(segment);
        self
    }
}

fn display_pointer(path: &[String]) -> String {
    if path.is_empty() {
        return "the top".to_owned();
    }
    let mut pointer = String::new();
    for segment in path.iter().rev() {
        push_segment(&mut pointer, segment);
    }
    super::printable(&pointer)
}

/// Appends a segment to a JSON Pointer (RFC 6901).
pub(super) fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
}

/// Reads one JSON text.
///
/// # Errors
/// See [`JsonErrorKind`].
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(text).map_err(|_| JsonError::new(JsonErrorKind::Utf8))?;
    let mut reader = Reader {
        text,
        bytes: text.as_bytes(),
        at: 0,
    };
    let value = reader.value(0)?;
    reader.skip_space();
    if reader.at < reader.bytes.len() {
        return Err(reader.syntax());
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn syntax(&self) -> JsonError {
        JsonError::new(JsonErrorKind::Syntax(self.at))
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// The next byte that is not space, which is consumed.
    fn token(&mut self) -> Result<u8, JsonError> {
        self.skip_space();
        let byte = self.peek().ok_or_else(|| self.syntax())?;
        self.at += 1;
        Ok(byte)
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::new(JsonErrorKind::Depth));
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                self.at += 1;
                Ok(Value::String(self.string()?))
            }
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => Ok(Value::Number(self.number()?)),
            Some(_) | None => Err(self.syntax()),
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(self.syntax());
        }
        self.at += word.len();
        Ok(value)
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut members = Map::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            if self.token()? != b'"' {
                self.at -= 1;
                return Err(self.syntax());
            }
            let name = self.string()?;
            if self.token()? != b':' {
                self.at -= 1;
                return Err(self.syntax());
            }
            if members.contains_key(&name) {
                return Err(JsonError::new(JsonErrorKind::Duplicate).within(name));
            }
            match self.value(depth + 1) {
                Ok(value) => members.insert(name, value),
                Err(error) => return Err(error.within(name)),
            };
            match self.token()? {
                b',' => {}
                b'}' => return Ok(Value::Object(members)),
                _ => {
                    self.at -= 1;
                    return Err(self.syntax());
                }
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            match self.value(depth + 1) {
                Ok(value) => items.push(value),
                Err(error) => return Err(error.within(items.len().to_string())),
            }
            match self.token()? {
                b',' => {}
                b']' => return Ok(Value::Array(items)),
                _ => {
                    self.at -= 1;
                    return Err(self.syntax());
                }
            }
        }
    }

    /// The rest of a string after its opening quote.
    fn string(&mut self) -> Result<String, JsonError> {
        let mut out = String::new();
        loop {
            let start = self.at;
            let special = self
                .bytes
                .get(start..)
                .unwrap_or_default()
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            let Some(length) = special else {
                self.at = self.bytes.len();
                return Err(self.syntax());
            };
            self.at = start + length;
            // Quotes, backslashes and controls are ASCII, so both ends are character boundaries.
            let plain = self.text.get(start..self.at).unwrap_or_default();
            if self.peek() == Some(b'"') {
                self.at += 1;
                if out.is_empty() {
                    return Ok(plain.to_owned());
                }
                out.push_str(plain);
                return Ok(out);
            }
            out.push_str(plain);
            if self.peek() != Some(b'\\') {
                return Err(self.syntax());
            }
            self.at += 1;
            out.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let byte = self.peek().ok_or_else(|| self.syntax())?;
        let plain = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode_escape();
            }
            _ => return Err(self.syntax()),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let lone = || JsonError::new(JsonErrorKind::LoneSurrogate);
        let first = self.hex4()?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).ok_or_else(lone);
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if first >= 0xdc00 || !rest.starts_with(b"\\u") {
            return Err(lone());
        }
        self.at += 2;
        let second = self.hex4()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(lone());
        }
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or_else(lone)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.syntax())?;
            self.at += 1;
        }
        Ok(code)
    }

    fn number(&mut self) -> Result<Number, JsonError> {
        let start = self.at;
        let rest = self.text.get(start..).unwrap_or_default();
        let (length, integer) = number_length(rest);
        if length == 0 {
            return Err(self.syntax());
        }
        self.at = start + length;
        let text = rest.get(..length).unwrap_or_default();
        if integer {
            let value = text.parse::<i64>();
            return value
                .map(Number::from)
                .map_err(|_| JsonError::new(JsonErrorKind::Integer));
        }
        let value = text.parse::<f64>().ok().and_then(Number::from_f64);
        value.ok_or_else(|| JsonError::new(JsonErrorKind::Number))
    }
}

/// How many bytes at the start of `text` are a JSON number (0: none), and whether it is an integer literal.
pub(super) fn number_length(text: &str) -> (usize, bool) {
    let bytes = text.as_bytes();
    let byte = |at: usize| bytes.get(at).copied();
    let digits = |mut at: usize| {
        let start = at;
        while byte(at).is_some_and(|byte| byte.is_ascii_digit()) {
            at += 1;
        }
        (at > start).then_some(at)
    };
    let start = usize::from(byte(0) == Some(b'-'));
    let whole = if byte(start) == Some(b'0') {
        Some(start + 1)
    } else {
        digits(start)
    };
    let Some(mut end) = whole else {
        return (0, false);
    };
    let mut integer = true;
    if byte(end) == Some(b'.') {
        let Some(after) = digits(end + 1) else {
            return (0, false);
        };
        (end, integer) = (after, false);
    }
    if let Some(b'e' | b'E') = byte(end) {
        let sign = usize::from(matches!(byte(end + 1), Some(b'+' | b'-')));
        let Some(after) = digits(end + 1 + sign) else {
            return (0, false);
        };
        (end, integer) = (after, false);
    }
    (end, integer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refusals_name_the_place() {
        let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        for (text, expected) in [
            (r#"{"a":1,"a":2}"#, "duplicate name at /a"),
            (r#"{"a":1,"\u0061":2}"#, "duplicate name at /a"),
            (
                r#"{"x":[0,{"a/b":1,"a/b":1}]}"#,
                "duplicate name at /x/1/a~1b",
            ),
            (r#"{"a":"\ud800"}"#, "lone surrogate at /a"),
            (r#"{"a":"\ud800\u0041"}"#, "lone surrogate at /a"),
            (r#"["\udc00"]"#, "lone surrogate at /0"),
            ("[9223372036854775808]", "integer outside 64 bits at /0"),
            ("-9223372036854775809", "integer outside 64 bits at the top"),
            ("[1, 1e400]", "number out of range at /1"),
            (&deep, "nested deeper than 64 levels"),
            ("", "not JSON (byte 0) at the top"),
            ("{\"a\":1,}", "not JSON (byte 7) at the top"),
            ("[1 2]", "not JSON (byte 3) at the top"),
            ("01", "not JSON (byte 1) at the top"),
            ("{} {}", "not JSON (byte 3) at the top"),
            ("\u{feff}{}", "not JSON (byte 0) at the top"),
            ("\"a\nb\"", "not JSON (byte 2) at the top"),
            ("[1.]", "not JSON (byte 1) at /0"),
            ("+1", "not JSON (byte 0) at the top"),
            ("NaN", "not JSON (byte 0) at the top"),
            ("'a'", "not JSON (byte 0) at the top"),
            (r#""\x41""#, "not JSON (byte 2) at the top"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert_eq!(parse(b"\"\xff\"").unwrap_err().kind, JsonErrorKind::Utf8);
    }

    #[test]
    fn reads_what_it_should() {
        let depth = format!("{}1{}", "[".repeat(64), "]".repeat(64));
        for text in [
            r#" { "a" : [ 1 , -2.5e3 , true , false , null , "x\n\"\\\/\b\f\r\t\u00e9\ud83d\ude00y" ] } "#,
            "9223372036854775807",
            "-9223372036854775808",
            "1E2",
            "{}",
            "[]",
            "\"\u{e9}\"",
            &depth,
        ] {
            let ours = parse(text.as_bytes()).unwrap();
            let theirs: Value = serde_json::from_str(text).unwrap();
            assert_eq!(ours, theirs, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Never accepts what serde_json refuses, never panics, and reads the same.
        #[test]
        fn accepts_no_more_than_serde_json(text in r#"[\[\]{}:,"\\ua0-9eE.+\-tfn \x00-\x20é\u{10ffff}]{0,40}"#) {
            agrees(text.as_bytes())?;
        }

        #[test]
        fn mutated_documents(at in 0usize..120, byte in any::<u8>()) {
            let mut text = br#"{"id":17,"lines":[{"sku":"a-1","n":2.50,"ok":true},{"sku":"\ud83d\ude00","n":-1e3,"ok":null}],"note":"x\u0041y"}"#.to_vec();
            if let Some(slot) = text.get_mut(at) {
                *slot = byte;
            }
            agrees(&text)?;
        }

        #[test]
        fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            agrees(&text)?;
        }
    }

    fn agrees(text: &[u8]) -> Result<(), TestCaseError> {
        if let Ok(ours) = parse(text) {
            let theirs: Result<Value, _> = serde_json::from_slice(text);
            prop_assert!(theirs.is_ok(), "accepted {:?}", text);
            prop_assert!(
                same(&ours, &theirs.unwrap()),
                "read differently: {:?}",
                text
            );
        }
        Ok(())
    }

    /// Equal, numbers up to the last bit of f64 (`-0` is an integer here and a float there).
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                (a - b).abs() <= a.abs() * 1e-15
            }
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
            }
            _ => a == b,
        }
    }
}
