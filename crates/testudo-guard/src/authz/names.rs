//! The names that policies use for operations and their groups (DESIGN §4).

use std::sync::Arc;

use http::Method;

/// The entity types of the generated schema, actions aside.
pub const ENTITY_TYPES: [&str; 6] = ["User", "Anonymous", "Service", "Api", "Role", "ServiceRole"];

/// The gateway as a service, and as `caller`.
pub const GATEWAY: &str = "gateway";

/// An operation and the groups that it belongs to.
#[derive(Clone, Debug)]
pub struct ActionNames {
    /// The service.
    pub service: Arc<str>,
    /// `SERVICE:OPERATION`.
    pub operation: Arc<str>,
    /// `SERVICE:read` or `SERVICE:write`, `SERVICE:*`, `read` or `write`, `*`; none for undocumented.
    pub groups: Vec<Arc<str>>,
}

impl ActionNames {
    /// The names of `operation` (without its service), which `method` calls.
    pub fn new(service: &Arc<str>, operation: &str, method: &Method) -> Self {
        let group = group_of_method(method);
        ActionNames {
            service: service.clone(),
            operation: format!("{service}:{operation}").into(),
            groups: vec![
                format!("{service}:{group}").into(),
                format!("{service}:*").into(),
                group.into(),
                "*".into(),
            ],
        }
    }

    /// `SERVICE:undocumented`, which is in no group.
    pub fn undocumented(service: &Arc<str>) -> Self {
        ActionNames {
            service: service.clone(),
            operation: format!("{service}:undocumented").into(),
            groups: Vec::new(),
        }
    }
}

/// `read` for safe methods (RFC 9110 §9.2.1), `write` for the others.
pub fn group_of_method(method: &Method) -> &'static str {
    if method.is_safe() { "read" } else { "write" }
}
