//! The data plane: listeners, TLS, HTTP, upstream pools, snapshots and drain.
//!
//! One process is one proxy, a gateway or the sidecar of one workload. `--threads` data threads each
//! run a single-threaded runtime and share nothing but what [`Shared`] holds; the thread that calls
//! [`run`] runs everything that is not a request: the control link, key sets, renewal, administration.
//!
//! Read [`request`] first: it is a request's whole way through a proxy.

pub mod addresses;
pub mod clock;
pub mod effective;
pub mod installed;
pub mod options;
pub mod shared;

mod admin;
mod core;
mod drain;
mod events;
mod io;
mod listener;
mod request;
mod respond;
mod runtime;
mod state;
mod tasks;
mod trace;

pub use addresses::Addresses;
pub use installed::Installed;
pub use options::{Caps, DrainOptions, ListenAddress, ProxyOptions};
pub use runtime::{ProxyError, prepare, run, serve};
pub use shared::{Bound, Shared};
