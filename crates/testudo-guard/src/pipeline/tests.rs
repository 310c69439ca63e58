//! Every reason that guard can give, every mode, and what a permitted request looks like.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod containment;
mod edge;
mod fixture;
mod mesh;
mod modes;
mod outbound;
