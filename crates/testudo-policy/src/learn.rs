//! `testudo policy learn`: least-privilege policies from calls that were seen.

pub mod observed;
