//! The data plane: listeners, TLS, HTTP, upstream pools, snapshots and drain.
//!
//! One process is one proxy, a gateway or the sidecar of one workload. `--threads` data threads each
//! run a single-threaded runtime and share nothing but what [`Shared`] holds; the thread that calls
//! [`run`] runs everything that is not a request: the control link, key sets, renewal, administration.
//!
//! Read `request::handle` first: it is a request's whole way through a proxy.

pub mod addresses;
pub mod clock;
pub mod effective;
pub mod host_mode;
pub mod installed;
pub mod options;
pub mod shared;

mod admin;
mod body;
mod boot_clock;
mod connection;
mod control;
mod core;
mod drain;
mod edge_address;
mod exchange;
mod forwarding;
mod io;
mod jwks;
mod lifetime;
mod listener;
mod observation;
mod outbound;
mod peer_uid;
mod request;
mod respond;
mod runtime;
mod screened;
mod state;
mod tasks;
mod tls;
mod trace;
mod upstream;
mod watchdog;
mod websocket;

pub use addresses::Addresses;
pub use control::{JoinError, LinkError, StoreError, WhichApp};
pub use installed::Installed;
pub use options::{Caps, DrainOptions, ListenAddress, ProxyOptions};
pub use peer_uid::AppUidError;
pub use runtime::{ProxyError, prepare, run, serve};
pub use shared::{Bound, Shared, Uplink};

/// An error and everything that caused it, in one line, for logs and evidence.
pub(crate) fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let inner = cause.to_string();
        // Many errors say their cause again.
        if !text.ends_with(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        source = cause.source();
    }
    text
}
