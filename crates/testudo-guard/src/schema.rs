//! What an API's operations are, and whether a request keeps to them.
//!
//! `testudo-policy` reads OpenAPI documents into [`Api`]; this module matches operations, decodes
//! parameters, and validates parameters, bodies and responses.

use std::sync::Arc;

use serde_json::Value as Json;
use testudo_model::PolicyRef;

use crate::authz::OperationPolicies;

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
    /// Another number, as Cedar's decimal reads it (at most four digits after the point).
    Decimal(Arc<str>),
    /// A boolean.
    Bool(bool),
    /// A list of strings.
    Strings(Vec<Arc<str>>),
}

/// What a request carries that policies may read. Filled by [`OperationSchema`], read by
/// [`OperationPolicies`]; names as in the specification (headers in lower case).
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// Path and query parameters.
    pub params: Vec<(Arc<str>, Value)>,
    /// Declared headers.
    pub headers: Vec<(Arc<str>, Value)>,
    /// Top-level scalars of the JSON body; `None` until it is complete.
    pub body: Option<Vec<(Arc<str>, Value)>>,
}

/// How a request or response breaks the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `schema.params`, `schema.body`, `schema.content_type`, `schema.response`, or `request.malformed` for what
    /// cannot be read unambiguously (duplicates, integers outside i64, lone surrogates).
    pub reason: testudo_model::Reason,
    /// What and where: parameter or JSON Pointer, and the rule. Never the whole value.
    pub detail: String,
    /// The line of the specification.
    pub source: Option<PolicyRef>,
}

/// A JSON document of the specification that policies never see.
pub type JsonValue = Json;

/// Finds the operation for a method and a canonical path. Built once by [`OperationMatcher::new`].
#[derive(Default)]
pub struct OperationMatcher {}

/// What [`OperationMatcher::find`] found.
pub enum OperationMatch<'a> {
    /// This operation, with the decoded path parameters in the order of the template.
    Found {
        /// Index into [`Api::operations`].
        index: usize,
        /// Raw (still percent-encoded) path parameter values with their names.
        path_params: smallvec::SmallVec<[(Arc<str>, &'a str); 4]>,
    },
    /// The path exists with other methods; for `Allow`.
    Method(Vec<http::Method>),
    /// Nothing matches.
    None,
}

/// Parameters, body and responses of one operation. Built by `testudo-policy` with
/// the constructors of this module.
#[derive(Default)]
pub struct OperationSchema {}
