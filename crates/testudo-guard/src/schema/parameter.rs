//! Parameters of an operation and the styles they are written in (OpenAPI 3, Parameter Object;
//! RFC 6570).

use std::sync::Arc;

use testudo_model::PolicyRef;

use super::ValueKind;
use super::validator::Schema;

/// Where a parameter is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// In the path.
    Path,
    /// In the query.
    Query,
    /// In a header.
    Header,
    /// In a cookie (not readable by policies).
    Cookie,
}

impl Location {
    /// As OpenAPI calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Location::Path => "path",
            Location::Query => "query",
            Location::Header => "header",
            Location::Cookie => "cookie",
        }
    }
}

/// How arrays and objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `3,4,5` (path, header).
    Simple,
    /// `.3.4.5` (path).
    Label,
    /// `;id=3;id=4` (path).
    Matrix,
    /// `id=3&id=4` or `id=3,4` (query, cookie).
    Form,
    /// `id=3%204` (query).
    SpaceDelimited,
    /// `id=3|4` (query).
    PipeDelimited,
    /// `id[a]=3&id[b]=4` (query).
    DeepObject,
    /// The text is JSON (`content: {application/json: …}`).
    Json,
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name as on the wire; headers in lower case.
    pub name: Arc<str>,
    /// Where it is carried.
    pub location: Location,
    /// Whether a request without it is refused.
    pub required: bool,
    /// How arrays and objects are written.
    pub style: Style,
    /// Whether arrays and objects become separate values.
    pub explode: bool,
    /// `allowEmptyValue`: an empty value is valid whatever the schema says.
    pub allow_empty: bool,
    /// What its value must be.
    pub schema: Arc<Schema>,
    /// As what policies read it; `None`: they cannot.
    pub kind: Option<ValueKind>,
    /// Where it stands in the specification.
    pub source: PolicyRef,
}
