//! placeholder
pub fn dead_ends() {}
