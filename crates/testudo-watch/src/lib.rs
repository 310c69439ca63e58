//! Watching the traffic: what is counted, kept and shown of decisions.

mod escape;

pub use escape::escape_for_terminal;
