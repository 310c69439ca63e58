//! What a denial looks like on the wire: RFC 9457 problem details for HTTP, a trailers-only response for
//! gRPC. Clients see the reason and the request id; the detail stays in the log.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use testudo_guard::Denial;
use testudo_model::Reason;

/// Names the reason of our denials, and tells them from the application's own.
pub(crate) const REASON_HEADER: HeaderName = HeaderName::from_static("x-testudo-reason");
/// Names the request, from the edge on.
pub(crate) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How the client wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// As any HTTP client.
    Http,
    /// As a gRPC client: status 200, the outcome in `grpc-status`.
    Grpc,
}

impl Wire {
    /// By the request's content type (`application/grpc`, `application/grpc+proto`, …; not `grpc-web`).
    pub(crate) fn of(headers: &HeaderMap) -> Wire {
        let grpc = headers.get(CONTENT_TYPE).is_some_and(|value| {
            value
                .as_bytes()
                .strip_prefix(b"application/grpc")
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        });
        if grpc { Wire::Grpc } else { Wire::Http }
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    reason: Reason,
    request_id: &'a str,
}

/// The response to a denied request. `None` in the body: no body at all.
pub(crate) fn denial(denial: Denial, wire: Wire, request_id: &str) -> Response<Option<Bytes>> {
    let mut response = match wire {
        Wire::Http => problem(denial.reason, denial.status, request_id),
        Wire::Grpc => trailers_only(denial.reason),
    };
    let headers = response.headers_mut();
    for (name, value) in denial.headers.iter() {
        headers.append(name, value.clone());
    }
    headers.insert(
        REASON_HEADER,
        HeaderValue::from_static(denial.reason.code()),
    );
    // A denial is about this request and this moment.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID_HEADER, value);
    }
    response
}

fn problem(reason: Reason, status: StatusCode, request_id: &str) -> Response<Option<Bytes>> {
    let body = serde_json::to_vec(&Problem {
        r#type: format!("urn:testudo:reason:{}", reason.code()),
        title: reason.title(),
        status: status.as_u16(),
        reason,
        request_id,
    })
    .unwrap_or_default();
    let mut response = Response::new(Some(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}

/// gRPC over HTTP/2, "Responses": status and message in the one header block that also ends the stream.
fn trailers_only(reason: Reason) -> Response<Option<Bytes>> {
    let mut response = Response::new(None);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(
        GRPC_STATUS,
        HeaderValue::from(u16::from(reason.grpc_status())),
    );
    // Titles are plain ASCII without '%', so that they need no percent-encoding; a test holds them to it.
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(reason.title()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_problem() {
        for reason in Reason::ALL {
            let response = denial(Denial::new(*reason, "secret detail"), Wire::Http, "id-1");
            assert_eq!(response.status(), reason.status());
            assert_eq!(response.headers()["x-testudo-reason"], reason.code());
            assert_eq!(response.headers()["x-request-id"], "id-1");
            assert_eq!(
                response.headers()["content-type"],
                "application/problem+json"
            );
            let body = response.into_body().unwrap();
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(json["reason"], reason.code());
            assert_eq!(json["status"], reason.status().as_u16());
            assert_eq!(json["request_id"], "id-1");
            assert!(json["title"].is_string() && json["type"].is_string());
            assert!(!String::from_utf8_lossy(&body).contains("secret"));
        }
    }

    #[test]
    fn every_reason_has_its_grpc_status() {
        for reason in Reason::ALL {
            let response = denial(Denial::new(*reason, ""), Wire::Grpc, "id-1");
            assert_eq!(response.status(), StatusCode::OK);
            let status = response.headers()["grpc-status"].to_str().unwrap();
            assert_eq!(status, reason.grpc_status().to_string());
            assert_eq!(response.headers()["x-testudo-reason"], reason.code());
            let message = response.headers()["grpc-message"].to_str().unwrap();
            assert!(
                message
                    .bytes()
                    .all(|byte| (0x20..0x7f).contains(&byte) && byte != b'%')
            );
            assert!(response.body().is_none(), "trailers only");
        }
    }

    #[test]
    fn a_more_exact_status_and_headers_are_kept() {
        let mut too_long =
            Denial::new(Reason::RequestTooLarge, "").with_status(StatusCode::URI_TOO_LONG);
        too_long
            .headers
            .insert("retry-after", HeaderValue::from_static("3"));
        let response = denial(too_long, Wire::Http, "id");
        assert_eq!(response.status(), StatusCode::URI_TOO_LONG);
        assert_eq!(response.headers()["retry-after"], "3");
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (content_type, wire) in [
            ("application/grpc", Wire::Grpc),
            ("application/grpc+proto", Wire::Grpc),
            ("application/grpc;charset=x", Wire::Grpc),
            ("application/grpc-web", Wire::Http),
            ("application/json", Wire::Http),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(Wire::of(&headers), wire, "{content_type}");
        }
    }
}
