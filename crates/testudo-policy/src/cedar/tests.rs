//! Diagnostics as people see them, slices of a subset, `can` and dead ends, over one small shop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod answers;
mod fixture;
mod messages;
mod paths;
