//! The control plane.

pub mod fleet;
pub mod store;
