//! What a service sees of a request and how it answers: JSON in, JSON out, and the naive habits
//! that make attacks worth trying.

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::peers::CallError;

/// What services answer with.
pub(crate) type Answer = Response<Full<Bytes>>;

/// A request, read whole.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Segments of the path as this service resolves it (see [`resolve`]).
    pub(crate) path: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    /// The last value of a query parameter: as so many frameworks, this one ignores the others.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON, whatever its content type says.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Whoever the request says it is for. Behind Testudo `x-testudo-user` is true; on its own
    /// this service believes anybody, and tokens without looking at their signature.
    pub(crate) fn user(&self) -> String {
        let header = |name: &str| {
            let value = self.headers.get(name)?.to_str().ok()?;
            Some(value.rsplit(':').next().unwrap_or(value).to_owned())
        };
        header("x-testudo-user")
            .or_else(|| header("x_testudo_user"))
            .or_else(|| self.token_subject())
            .unwrap_or_else(|| "anonymous".to_owned())
    }

    fn token_subject(&self) -> Option<String> {
        let authorization = self.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let payload = authorization.strip_prefix("Bearer ")?.split('.').nth(1)?;
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload)
            .ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        Some(claims.get("sub")?.as_str()?.to_owned())
    }
}

/// The segments of a path, resolved too generously: decoded until nothing changes, backslashes
/// as slashes, `;parameters` cut off, `.` and `..` followed.
pub(crate) fn resolve(path: &str) -> Vec<String> {
    let mut path = path.to_owned();
    for _ in 0..3 {
        let decoded = decode(&path);
        if decoded == path {
            break;
        }
        path = decoded;
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

/// Query parameters in order.
pub(crate) fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut ahead = rest.clone();
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = ahead;
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A body of at most so many bytes.
#[expect(clippy::disallowed_methods, reason = "`Limited` caps it")]
pub(crate) async fn read(body: Incoming, max_bytes: usize) -> Result<Bytes, CallError> {
    Ok(Limited::new(body, max_bytes).collect().await?.to_bytes())
}

/// A JSON answer.
pub(crate) fn answer(status: StatusCode, body: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// 200 with a body.
pub(crate) fn ok(body: &Value) -> Answer {
    answer(StatusCode::OK, body)
}

/// 404.
pub(crate) fn not_found() -> Answer {
    answer(StatusCode::NOT_FOUND, &json!({"error": "not found"}))
}

/// 400.
pub(crate) fn bad_request(what: &str) -> Answer {
    answer(StatusCode::BAD_REQUEST, &json!({"error": what}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve_generously() {
        for path in [
            "/admin",
            "/orders/..;/admin",
            "/orders/%2e%2e/admin",
            "/orders/%252e%252e/admin",
            "/orders/..%2fadmin",
            "//x\\..\\admin",
        ] {
            assert_eq!(resolve(path), ["admin"], "{path}");
        }
    }

    #[test]
    fn queries_decode() {
        assert_eq!(
            parse_query("a=1&b=%C3%BC&a=2&c"),
            [("a", "1"), ("b", "ü"), ("a", "2"), ("c", "")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }
}
