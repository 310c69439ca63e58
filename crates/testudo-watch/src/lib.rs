//! Watching the traffic: what is counted, kept and shown of decisions.
//!
//! Requests put their events into a bounded queue ([`EventSender`]); one thread ([`Recorder`]) takes
//! them out and feeds [`Metrics`], the [`DecisionLog`], the [`Ring`] that `why` reads, the [`window`] that
//! counts what happens now, and bounded channels towards the control plane. A request never waits for any of this, and none of it panics or
//! stops when a disk is full: what is lost is counted.

pub mod baseline;
mod decision_log;
pub mod detect;
mod escape;
mod metrics;
mod recorder;
mod ring;
pub mod window;

pub use decision_log::{DecisionLog, LogOptions};
pub use escape::escape_for_terminal;
pub use metrics::{ConnectionKind, Metrics};
pub use recorder::{ClosedWindow, EventSender, Recorder, RecorderOptions, WindowOptions};
pub use ring::{Bounds, Hits, Ring, RingOptions, RingReader, Wanted};
