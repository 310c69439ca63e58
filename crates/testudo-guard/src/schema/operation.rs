//! Everything that one operation's specification says about requests and responses.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use testudo_model::PolicyRef;

use super::body::{self, RequestBody, Responses};
use super::head::Params;
use super::parameter::Parameter;
use super::{BodyRule, Values, Violation};

/// Parameters, body and responses of one operation. Built by `testudo-policy` with
/// [`OperationSchema::new`]; the default lets everything pass and reads nothing (`api: none`).
#[derive(Default)]
pub struct OperationSchema {
    params: Params,
    body: BodyDeclaration,
    responses: Responses,
    source: Option<PolicyRef>,
}

#[derive(Default)]
enum BodyDeclaration {
    /// There is no specification.
    #[default]
    Unspecified,
    /// The specification has no body here.
    None,
    Declared(RequestBody),
}

/// What [`OperationSchema::new`] builds an operation from.
pub struct OperationParts {
    /// Path, query, header and cookie parameters.
    pub parameters: Vec<Parameter>,
    /// Names in the query that are allowed and not looked at: API keys of `security`.
    pub ignored_query: Vec<Arc<str>>,
    /// Whether undeclared names in the query are allowed (`x-testudo-additional-query: true`).
    pub additional_query: bool,
    /// The body, if the operation takes one.
    pub body: Option<RequestBody>,
    /// Declared responses; none: responses are not judged.
    pub responses: Responses,
    /// Where the operation stands in the specification.
    pub source: PolicyRef,
}

impl OperationSchema {
    /// The schema of an operation that the specification describes.
    pub fn new(parts: OperationParts) -> OperationSchema {
        let source = Some(parts.source);
        OperationSchema {
            params: Params::new(
                parts.parameters,
                parts.ignored_query,
                parts.additional_query,
                source.clone(),
            ),
            body: parts
                .body
                .map_or(BodyDeclaration::None, BodyDeclaration::Declared),
            responses: parts.responses,
            source,
        }
    }

    /// Whether `;` may stand in the path: a path parameter in matrix style is declared (DESIGN §9).
    pub fn allows_semicolons(&self) -> bool {
        self.params.allows_semicolons()
    }

    /// Decodes and checks path, query, header and cookie parameters. `path_params` are raw, as
    /// [`super::OperationMatcher::find`] returns them.
    ///
    /// All parameters are decoded into `values` even after the first violation, so that report mode
    /// and policies still see what could be read. One that is not of its type is [`super::Value::Unreadable`].
    ///
    /// # Errors
    /// The first violation: `request.malformed` or `schema.params`.
    pub fn check_head(
        &self,
        path_params: &[(Arc<str>, &str)],
        raw_query: Option<&str>,
        headers: &HeaderMap,
        values: &mut Values,
    ) -> Result<(), Violation> {
        self.params.check(path_params, raw_query, headers, values)
    }

    /// Checks content type and coding. `has_body`: the head announces a body (content-length above
    /// zero, transfer-encoding, or HTTP/2 without end of stream).
    ///
    /// # Errors
    /// `schema.content_type` (415), `schema.body` where a required body is missing or none is declared,
    /// `request.malformed` for more than one content type.
    pub fn check_content_type(
        &self,
        headers: &HeaderMap,
        has_body: bool,
    ) -> Result<BodyRule, Violation> {
        let declared = match &self.body {
            BodyDeclaration::Unspecified => return Ok(BodyRule::Unchecked),
            BodyDeclaration::None => None,
            BodyDeclaration::Declared(body) => Some(body),
        };
        body::check_content_type(declared, self.source.as_ref(), headers, has_body)
    }

    /// Checks a complete body and reads its top-level scalars into `values.body`.
    ///
    /// # Errors
    /// `request.malformed` where it cannot be read unambiguously, `schema.body` otherwise.
    pub fn check_body(
        &self,
        rule: BodyRule,
        body: &[u8],
        values: &mut Values,
    ) -> Result<(), Violation> {
        values.body.get_or_insert_default();
        if let BodyDeclaration::Declared(declared) = &self.body {
            return body::check_request(declared, rule, body, values);
        }
        match (rule, &self.source) {
            (BodyRule::Empty, Some(source)) if !body.is_empty() => {
                Err(body::broken_body(source, "the operation takes none"))
            }
            (BodyRule::Empty | BodyRule::Unchecked | BodyRule::Json(_) | BodyRule::Form(_), _) => {
                Ok(())
            }
        }
    }

    /// Whether [`OperationSchema::check_response`] must see the complete body of such a response.
    /// Event streams never.
    pub fn response_needs_body(&self, status: StatusCode, content_type: Option<&str>) -> bool {
        self.responses.needs_body(status, content_type)
    }

    /// Checks a response; `body` is `None` where it is not needed (or there is none, as for HEAD).
    ///
    /// # Errors
    /// `schema.response`.
    pub fn check_response(
        &self,
        status: StatusCode,
        content_type: Option<&str>,
        body: Option<&[u8]>,
    ) -> Result<(), Violation> {
        self.responses
            .check(status, content_type, body, self.source.as_ref())
    }
}
