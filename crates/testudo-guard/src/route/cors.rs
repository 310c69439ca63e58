//! CORS (WHATWG Fetch §3.2): preflights are answered before authentication, since browsers send them
//! without credentials; every other answer, denials too, says which origin may read it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// CORS of a route.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Exact origins; `*` allows any (then without credentials).
    pub origins: Vec<Arc<str>>,
    /// Allowed methods; empty: those of the matching operations.
    pub methods: Vec<Method>,
    /// Allowed request headers, lower case.
    pub headers: Vec<Arc<str>>,
    /// Response headers that scripts may read.
    pub expose: Vec<Arc<str>>,
    /// Whether credentials are allowed.
    pub credentials: bool,
    /// How long a preflight may be cached.
    pub max_age: Option<Duration>,
}

impl Cors {
    /// Whether this origin is named, or any is allowed.
    pub fn allows(&self, origin: &str) -> bool {
        self.any_origin() || self.names(origin)
    }

    /// Whether this very origin is named: what a WebSocket handshake needs, which `*` does not open.
    pub fn names(&self, origin: &str) -> bool {
        self.origins
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    fn any_origin(&self) -> bool {
        self.origins.iter().any(|allowed| &**allowed == "*")
    }

    /// Headers of a preflight's answer. `methods`: those of the operations at this path.
    pub(crate) fn preflight_headers(&self, origin: &str, methods: &[Method]) -> HeaderMap {
        let mut headers = self.origin_headers(origin);
        headers.append(
            header::VARY,
            HeaderValue::from_static(
                "access-control-request-method, access-control-request-headers",
            ),
        );
        if !self.allows(origin) {
            return headers;
        }
        let methods = if self.methods.is_empty() {
            methods
        } else {
            &self.methods
        };
        let methods = methods.iter().map(Method::as_str);
        insert_list(&mut headers, header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = self.headers.iter().map(|name| &**name);
        insert_list(&mut headers, header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        if let Some(max_age) = self.max_age {
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, max_age.as_secs().into());
        }
        headers
    }

    /// Headers of every other response to a request with this `Origin`; the answer depends on the
    /// origin even where it has none.
    pub(crate) fn response_headers(&self, origin: Option<&str>) -> HeaderMap {
        let Some(origin) = origin else {
            let mut headers = HeaderMap::new();
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
            return headers;
        };
        let mut headers = self.origin_headers(origin);
        if self.allows(origin) {
            let expose = self.expose.iter().map(|name| &**name);
            insert_list(&mut headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
        headers
    }

    /// Who may read: a named origin by its name, and only such with credentials; others by `*`.
    fn origin_headers(&self, origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        if self.any_origin() {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                HeaderValue::from_static("*"),
            );
        } else if self.names(origin)
            && let Ok(value) = HeaderValue::from_str(origin)
        {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
            if self.credentials {
                headers.insert(
                    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                    HeaderValue::from_static("true"),
                );
            }
        }
        headers
    }
}

/// Whether a request asks for permission instead of doing something (WHATWG Fetch §4.8): its origin
/// and the method that it asks for.
pub(crate) fn preflight<'a>(method: &Method, headers: &'a HeaderMap) -> Option<(&'a str, Method)> {
    if method != Method::OPTIONS {
        return None;
    }
    let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let wanted = Method::from_bytes(wanted.as_bytes()).ok()?;
    Some((origin(headers)?, wanted))
}

/// The `Origin`, if it is text.
pub(crate) fn origin(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ORIGIN)?.to_str().ok()
}

fn insert_list<'a>(
    headers: &mut HeaderMap,
    name: HeaderName,
    values: impl Iterator<Item = &'a str>,
) {
    let list = values.collect::<Vec<_>>().join(", ");
    if list.is_empty() {
        return;
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(list)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        Cors {
            origins: origins.iter().map(|origin| Arc::from(*origin)).collect(),
            methods: Vec::new(),
            headers: vec![Arc::from("authorization"), Arc::from("content-type")],
            expose: vec![Arc::from("x-total")],
            credentials,
            max_age: Some(Duration::from_secs(600)),
        }
    }

    #[test]
    fn a_named_origin_is_echoed_with_credentials() {
        let cors = cors(&["https://shop.test"], true);
        let headers = cors.preflight_headers("https://shop.test", &[Method::GET, Method::POST]);
        assert_eq!(headers["access-control-allow-origin"], "https://shop.test");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-allow-methods"], "GET, POST");
        assert_eq!(
            headers["access-control-allow-headers"],
            "authorization, content-type"
        );
        assert_eq!(headers["access-control-max-age"], "600");
        let headers = cors.response_headers(Some("https://shop.test"));
        assert_eq!(headers["access-control-expose-headers"], "x-total");
        assert_eq!(headers["vary"], "origin");
    }

    #[test]
    fn any_origin_never_comes_with_credentials() {
        let cors = cors(&["*", "https://shop.test"], true);
        let headers = cors.response_headers(Some("https://shop.test"));
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(!headers.contains_key("access-control-allow-credentials"));
        assert!(!cors.names("https://evil.test"));
    }

    #[test]
    fn other_origins_get_nothing() {
        let cors = cors(&["https://shop.test"], true);
        for origin in ["https://evil.test", "null", "https://shop.test.evil.test"] {
            let headers = cors.preflight_headers(origin, &[Method::GET]);
            assert!(
                headers.keys().all(|name| name == header::VARY),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn only_options_with_origin_and_method_is_a_preflight() {
        let mut headers = HeaderMap::new();
        assert!(preflight(&Method::OPTIONS, &headers).is_none());
        headers.insert("origin", HeaderValue::from_static("https://a.test"));
        assert!(preflight(&Method::OPTIONS, &headers).is_none());
        headers.insert(
            "access-control-request-method",
            HeaderValue::from_static("PUT"),
        );
        assert_eq!(
            preflight(&Method::OPTIONS, &headers),
            Some(("https://a.test", Method::PUT))
        );
        assert!(preflight(&Method::GET, &headers).is_none());
    }
}
