//! The control plane from outside: its HTTP API over a real socket, and its mesh port as a proxy uses it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod access;
mod api;
mod counted;
mod mesh;
mod narrowing;
mod running;
mod why;
