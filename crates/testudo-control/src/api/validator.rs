//! Our own validator in front of our own API: parameters and bodies are judged by the same code that
//! judges the services of the mesh, from the document that `openapi.json` shows.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{StatusCode, header};
use serde_json::json;
use testudo_guard::authz::OperationPolicies;
use testudo_guard::schema::{
    BodyRule, Operation, OperationMatch, OperationMatcher, Values, Violation,
};
use testudo_policy::bundle::{Bundle, BundleFile, MAX_TOTAL_BYTES};
use testudo_policy::diagnostic::Diagnostics;
use testudo_policy::openapi;

use super::{OPENAPI, problem, problem_with};

const FILE: &str = "openapi.json";

/// Largest body: a whole bundle, in base64.
const MAX_BODY: u64 = MAX_TOTAL_BYTES / 3 * 4 + 64 * 1024;

/// Our own OpenAPI document, compiled.
pub struct Validator {
    operations: Vec<Arc<Operation>>,
    matcher: OperationMatcher,
}

/// The document does not read: a fault of this program.
#[derive(Debug, thiserror::Error)]
#[error("the OpenAPI document of the API: {0}")]
pub struct ValidatorError(String);

impl Validator {
    /// Compiles the document.
    ///
    /// # Errors
    /// When it does not read; a test sees to it that it does.
    pub fn new() -> Result<Validator, ValidatorError> {
        let mut bundle = Bundle::default();
        let content = Arc::from(OPENAPI.as_bytes());
        bundle.files.insert(
            FILE.into(),
            BundleFile {
                content,
                audience: testudo_model::Audience::Control,
            },
        );
        let mut diagnostics = Diagnostics::default();
        let service: Arc<str> = Arc::from("control");
        let model = openapi::read(FILE, &bundle, &service, &mut diagnostics);
        let failed = diagnostics.has_errors();
        let Some(model) = model.filter(|_| !failed) else {
            let first = diagnostics.sorted().into_iter().next();
            return Err(ValidatorError(
                first.map(|first| first.message).unwrap_or_default(),
            ));
        };
        let operations: Vec<_> = model
            .operations
            .into_iter()
            .map(|operation| {
                Arc::new(Operation {
                    id: operation.name,
                    source: None,
                    method: operation.method,
                    template: operation.template,
                    websocket: operation.websocket,
                    schema: operation.schema,
                    policies: OperationPolicies::default(),
                })
            })
            .collect();
        let matcher = OperationMatcher::new(&operations);
        Ok(Validator {
            operations,
            matcher,
        })
    }

    /// Passes a request on if it keeps to the document; the answer to it otherwise.
    pub(super) async fn check(&self, request: Request) -> Result<Request, Response> {
        let (parts, body) = request.into_parts();
        let uri = &parts.uri;
        let mut values = Values::default();
        let (operation, rule) = match self.matcher.find(&parts.method, uri.path()) {
            OperationMatch::Found { index, path_params } => {
                let Some(operation) = self.operations.get(index) else {
                    return Err(nothing());
                };
                operation
                    .schema
                    .check_head(&path_params, uri.query(), &parts.headers, &mut values)
                    .map_err(|violation| refuse(&violation))?;
                let has_body = !http_body::Body::is_end_stream(&body);
                let rule = operation
                    .schema
                    .check_content_type(&parts.headers, has_body)
                    .map_err(|violation| refuse(&violation))?;
                (operation, rule)
            }
            OperationMatch::Method(methods) => return Err(wrong_method(&methods)),
            OperationMatch::None => return Err(nothing()),
        };
        let limit = usize::try_from(MAX_BODY).unwrap_or(usize::MAX);
        let Ok(body) = axum::body::to_bytes(body, limit).await else {
            return Err(problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request.too_large",
                "the body is too large",
            ));
        };
        if !matches!(rule, BodyRule::Unchecked) {
            operation
                .schema
                .check_body(rule, &body, &mut values)
                .map_err(|violation| refuse(&violation))?;
        }
        Ok(Request::from_parts(parts, Body::from(body)))
    }
}

fn refuse(violation: &Violation) -> Response {
    problem_with(
        violation.reason.status(),
        violation.reason.code(),
        &violation.detail,
        json!({"reason": violation.reason}),
    )
}

fn nothing() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "path.unknown",
        "there is nothing here; GET /api/v1/openapi.json lists what there is",
    )
}

fn wrong_method(methods: &[http::Method]) -> Response {
    let allowed = methods
        .iter()
        .map(http::Method::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let mut response = problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method.unknown",
        &format!("this path answers to {allowed}"),
    );
    if let Ok(allowed) = allowed.parse() {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(method: &str, uri: &str, body: &str) -> Result<(), u16> {
        let mut request = http::Request::builder().method(method).uri(uri);
        if !body.is_empty() {
            request = request
                .header("content-type", "application/json")
                .header("content-length", body.len());
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        Validator::new()
            .unwrap()
            .check(request)
            .await
            .map(drop)
            .map_err(|response| response.status().as_u16())
    }

    #[tokio::test]
    async fn our_own_api_is_judged_by_our_own_validator() {
        assert_eq!(check("GET", "/api/v1/status", "").await, Ok(()));
        assert_eq!(
            check("GET", "/api/v1/decisions?verdict=deny&limit=5", "").await,
            Ok(())
        );
        assert_eq!(
            check("GET", "/api/v1/decisions?verdict=maybe", "").await,
            Err(400)
        );
        assert_eq!(
            check("GET", "/api/v1/decisions?limit=5&limit=6", "").await,
            Err(400)
        );
        assert_eq!(
            check("GET", "/api/v1/decisions?limit=many", "").await,
            Err(400)
        );
        assert_eq!(check("GET", "/api/v1/nothing", "").await, Err(404));
        assert_eq!(check("DELETE", "/api/v1/status", "").await, Err(405));
        assert_eq!(
            check(
                "POST",
                "/api/v1/identities/join",
                r#"{"role":"sidecar","service":"orders"}"#
            )
            .await,
            Ok(())
        );
        assert_eq!(
            check("POST", "/api/v1/identities/join", r#"{"role":"king"}"#).await,
            Err(400)
        );
        assert_eq!(
            check(
                "POST",
                "/api/v1/identities/join",
                r#"{"role":"gateway","role":"sidecar"}"#
            )
            .await,
            Err(400)
        );
        assert_eq!(check("POST", "/api/v1/identities/join", "").await, Err(400));
    }
}
