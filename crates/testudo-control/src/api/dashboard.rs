//! The dashboard's files, carried in the binary: static, the same for everybody, and served without the token, which
//! the page takes from its link's fragment and sends to the API alone. A look-up in a table of names is all there is:
//! no path of a request ever reaches the file system.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{ApiState, handlers};

/// One file of the dashboard.
pub(super) struct Asset {
    /// Where it is served, without the leading slash.
    path: &'static str,
    plain: &'static [u8],
    /// The same, compressed when the dashboard was built.
    gzip: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/dashboard_assets.rs"));

/// Only what we serve runs, nothing is inline, text never becomes markup (the one trusted-types policy is the one of
/// Svelte, for its own compiled templates), and the page talks to this origin alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types svelte-trusted-html";

/// What `GET /` shows in a binary that was built without the dashboard.
const ABSENT: &str = include_str!("dashboard_absent.html");

pub(super) fn routes() -> Router<Arc<ApiState>> {
    Router::new()
        .route("/", get(index))
        .route(
            "/favicon.svg",
            get(|headers: HeaderMap| async move { file("favicon.svg", &headers) }),
        )
        .route("/assets/{name}", get(asset))
}

/// Whether this binary carries the dashboard.
#[must_use]
pub fn is_embedded() -> bool {
    !ASSETS.is_empty()
}

async fn index(headers: HeaderMap) -> Response {
    if is_embedded() {
        return file("index.html", &headers);
    }
    let mut response = ABSENT.into_response();
    secure(
        response.headers_mut(),
        "text/html; charset=utf-8",
        "no-store",
    );
    response
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    file(&format!("assets/{name}"), &headers)
}

fn file(path: &str, request: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return missing();
    };
    let compressed = asset.gzip.filter(|_| accepts_gzip(request));
    let mut response = Body::from(compressed.unwrap_or(asset.plain)).into_response();
    let headers = response.headers_mut();
    // The names of what is in assets/ hold a hash of the content: they are good for ever.
    let cache = if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    secure(headers, content_type(path), cache);
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if compressed.is_some() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn missing() -> Response {
    super::problem(
        StatusCode::NOT_FOUND,
        "path.unknown",
        handlers::NOTHING_HERE,
    )
}

fn secure(headers: &mut HeaderMap, content_type: &'static str, cache: &'static str) {
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, cache),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// `gzip` is listed and not refused with `q=0` (RFC 9110 §12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip"))
                && !parts.any(|parameter| {
                    parameter
                        .strip_prefix("q=")
                        .and_then(|quality| quality.parse::<f32>().ok())
                        .is_some_and(|quality| quality <= 0.0)
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_goes_only_to_those_who_take_it() {
        assert!(accepts_gzip(&accepting("br, gzip;q=0.5")));
        assert!(accepts_gzip(&accepting("GZIP")));
        assert!(!accepts_gzip(&accepting("gzip;q=0, br")));
        assert!(!accepts_gzip(&accepting("gzipped")));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn only_names_in_the_table_are_served() {
        for path in [
            "assets/../index.html",
            "assets/",
            "../Cargo.toml",
            "assets/..%2findex.html",
            ".gitignore",
        ] {
            assert_eq!(
                file(path, &HeaderMap::new()).status(),
                StatusCode::NOT_FOUND,
                "{path}"
            );
        }
    }

    #[test]
    fn every_file_has_its_type_and_the_policy() {
        for asset in ASSETS {
            let response = file(asset.path, &accepting("gzip"));
            assert_eq!(response.status(), StatusCode::OK);
            let headers = response.headers();
            assert_ne!(
                headers[header::CONTENT_TYPE],
                "application/octet-stream",
                "{}",
                asset.path
            );
            assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY);
            assert_eq!(
                headers.contains_key(header::CONTENT_ENCODING),
                asset.gzip.is_some()
            );
        }
    }

    #[tokio::test]
    async fn there_is_always_a_page() {
        let response = index(HeaderMap::new()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/html; charset=utf-8"
        );
        assert!(POLICY.contains("script-src 'self'") && !POLICY.contains("unsafe"));
    }
}
