//! The words that every part of Testudo shares: reasons, events, revisions, and the messages
//! between control and proxies. Knows nothing of HTTP servers, files or policies.

mod event;
mod manifest;
mod reason;

pub use event::{Check, CheckResult, Event, Finding, Hop, Mode, PolicyRef, Verdict};
pub use manifest::{Audience, Manifest, PartRef};
pub use reason::Reason;

/// The gRPC messages and stubs of `proto/mesh.proto`.
#[cfg(feature = "mesh")]
pub mod mesh {
    #![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
    tonic::include_proto!("testudo.mesh.v1");
}

/// Names that no service of a bundle may have (DESIGN §3).
pub const RESERVED_SERVICES: [&str; 3] = ["gateway", "control", "anonymous"];
