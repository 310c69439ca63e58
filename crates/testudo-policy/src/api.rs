//! What an API looks like to policies: the seam between specifications and Cedar.

use std::sync::Arc;

use testudo_guard::schema::OperationSchema;
pub use testudo_guard::schema::{Location, ValueKind};

use crate::diagnostic::Span;

/// The operations of one service.
pub struct ApiModel {
    /// The service's name.
    pub service: Arc<str>,
    /// In the order of the specification; with `api: none` one for each method.
    pub operations: Vec<OperationModel>,
    /// `info.title` and `info.version`, for people.
    pub title: String,
}

/// One operation.
pub struct OperationModel {
    /// Without the service: `createOrder`, or `POST /orders/{id}` without an operationId, or `GET` with `api: none`.
    pub name: Arc<str>,
    /// Its method.
    pub method: http::Method,
    /// Path template as the service sees paths: that of the specification behind the base path of its
    /// `servers`, for example `/v1/orders/{id}`.
    pub template: Arc<str>,
    /// Where it stands.
    pub span: Span,
    /// Path, query, header and cookie parameters.
    pub params: Vec<ParamModel>,
    /// Top-level properties of the JSON body that policies may read.
    pub body: Vec<FieldModel>,
    /// Whether the request body cannot be buffered (gRPC, WebSocket, `api: none`): policies must not read it.
    pub streamed: bool,
    /// Whether a `101` response is declared.
    pub websocket: bool,
    /// What guard enforces. The compiler takes it out.
    pub schema: OperationSchema,
}

/// A parameter as policies see it.
#[derive(Clone, Debug)]
pub struct ParamModel {
    /// Its name; headers in lower case.
    pub name: Arc<str>,
    /// Where it is carried.
    pub location: Location,
    /// Its type; `None`: policies cannot read it (objects, mixed types).
    pub kind: Option<ValueKind>,
    /// Whether the specification requires it (path parameters always).
    pub required: bool,
    /// Where it stands.
    pub span: Span,
}

/// A top-level property of a body.
#[derive(Clone, Debug)]
pub struct FieldModel {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub kind: ValueKind,
    /// Whether it is required.
    pub required: bool,
    /// Where it stands.
    pub span: Span,
}
