//! The request pipeline as pure code: what a request is, what it asks for, who asks, whether it may.
//! No tokio, no sockets, no clock: the caller passes [`Now`]. The proxy, `testudo can`, replay and
//! shadow evaluation all run this code and no other.
//!
//! Read [`pipeline::check_head`] first: it is the whole order of the checks, each with its reason.

pub mod authn;
pub mod authz;
pub mod containment;
pub mod limit;
pub mod modes;
pub mod normalize;
pub mod outbound;
pub mod pipeline;
pub mod record;
pub mod route;
pub mod schema;
pub mod screen;
pub mod seldom;
pub mod snapshot;

mod live;
mod now;
mod peer;

pub use live::{Live, Local};
pub use now::Now;
pub use peer::{Caller, Peer};
pub use pipeline::{BodyCheck, HeadOutcome, Incoming, Permit, check_head};
pub use record::{Denial, Record};
pub use snapshot::Snapshot;
