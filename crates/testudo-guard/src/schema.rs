//! What an API's operations are, and whether a request keeps to them.
//!
//! `testudo-policy` reads OpenAPI documents into [`Api`]; this module matches operations, decodes
//! parameters, and validates parameters, bodies and responses.

use std::sync::Arc;

use testudo_model::{PolicyRef, Reason};

use crate::authz::OperationPolicies;

mod body;
mod explain;
mod head;
mod json;
mod matcher;
mod media;
mod operation;
mod parameter;
mod scalar;
mod shape;
mod text;
mod validator;

pub use body::{MediaType, RequestBody, ResponseRule, Responses, StatusRange};
pub use json::{JsonError, JsonErrorKind, MAX_DEPTH, parse as parse_json};
pub use matcher::{
    ANY_PATH, OperationMatch, OperationMatcher, PathParams, Template, TemplateError,
};
pub use media::MediaRange;
pub use operation::{OperationParts, OperationSchema};
pub use parameter::{Location, Parameter, Style};
pub use shape::{Shape, TypeSet};
pub use validator::{Schema, SchemaError, pattern};

/// How strictly something is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Deny what fails.
    Enforce,
    /// Record what fails, let it pass.
    Report,
    /// Do not look.
    Off,
}

/// What becomes of operations that the specification does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undocumented {
    /// `route.undocumented` (404), or `route.method` (405) where only the method is missing.
    Deny,
    /// Recorded; judged by policy as `SERVICE:undocumented`.
    Report,
    /// Judged by policy as `SERVICE:undocumented`.
    Allow,
}

/// A service's API.
pub struct Api {
    /// Where the operations come from.
    pub kind: ApiKind,
    /// For requests.
    pub requests: Strictness,
    /// For responses.
    pub responses: Strictness,
    /// For operations that the specification does not have.
    pub undocumented: Undocumented,
    /// Largest request body, in bytes.
    pub max_body: u64,
    /// The operations; with `api: none` one for each method.
    pub operations: Vec<Arc<Operation>>,
    /// `SERVICE:undocumented`, where it may be reached.
    pub undocumented_operation: Option<Arc<Operation>>,
    /// Paths to operations.
    pub matcher: OperationMatcher,
}

/// Where the operations come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKind {
    /// `api: none`: one operation a method.
    None,
    /// OpenAPI 3.0 or 3.1.
    OpenApi,
}

/// One thing that an API can do.
pub struct Operation {
    /// `SERVICE:OPERATION`, for example `orders:createOrder`.
    pub id: Arc<str>,
    /// Where it stands in the specification.
    pub source: Option<PolicyRef>,
    /// Its method; HEAD is its GET.
    pub method: http::Method,
    /// Path template as in the specification, for example `/orders/{id}`.
    pub template: Arc<str>,
    /// Whether it declares a `101` response: only such may be upgraded to WebSocket.
    pub websocket: bool,
    /// Parameters, body and responses.
    pub schema: OperationSchema,
    /// Who may call it.
    pub policies: OperationPolicies,
}

/// A value of a request as policies read it (DESIGN §4: single-valued, integers within i64, other
/// numbers decimals).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    String(Arc<str>),
    /// An integer within i64.
    Long(i64),
    /// Another number, as Cedar's decimal reads it (one to four digits after the point).
    Decimal(Arc<str>),
    /// A boolean.
    Bool(bool),
    /// A list of strings.
    Strings(Vec<Arc<str>>),
    /// It came, but cannot be read: a number with more than four digits after the point, or another
    /// type than declared. `has` must hold and reading it must fail: give Cedar a value of another
    /// type, an empty record.
    Unreadable,
}

/// Types that values of requests have in policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// `String`.
    String,
    /// `Long`.
    Long,
    /// `decimal`.
    Decimal,
    /// `Bool`.
    Bool,
    /// `Set<String>`.
    Strings,
}

/// What a request carries that policies may read. Filled by [`OperationSchema`], read by
/// [`OperationPolicies`]; names as in the specification (headers in lower case).
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// Path and query parameters.
    pub params: Vec<(Arc<str>, Value)>,
    /// Declared headers.
    pub headers: Vec<(Arc<str>, Value)>,
    /// Top-level scalars of the JSON (or form) body; `None` until it is complete.
    pub body: Option<Vec<(Arc<str>, Value)>>,
}

/// How a request or response breaks the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `schema.params`, `schema.body`, `schema.content_type`, `schema.response`, or `request.malformed` for what
    /// cannot be read unambiguously (duplicates, integers outside i64, lone surrogates).
    pub reason: Reason,
    /// What and where: parameter or JSON Pointer, and the rule. Never the whole value.
    pub detail: String,
    /// The line of the specification.
    pub source: Option<PolicyRef>,
}

/// What [`OperationSchema::check_content_type`] found out about the body that follows, for
/// [`OperationSchema::check_body`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyRule {
    /// Nothing is to be checked: it may stream.
    #[default]
    Unchecked,
    /// There must be none.
    Empty,
    /// JSON, by the media type with this index.
    Json(u16),
    /// A form (`application/x-www-form-urlencoded`), by the media type with this index.
    Form(u16),
}

impl BodyRule {
    /// Whether [`OperationSchema::check_body`] must see the complete body before anything goes upstream.
    pub const fn needs_body(self) -> bool {
        !matches!(self, BodyRule::Unchecked)
    }
}

/// Text from a request or a specification for details in logs: control characters escaped, cut.
fn printable(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut out: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<char>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests;
