//! End to end: the real binary, real sockets, real mTLS; seen from outside.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod adopt;
mod alone;
mod audit;
mod contained;
mod graph;
mod grpc;
mod http;
mod issuer;
mod lifecycle;
mod mesh;
mod outbound;
mod reasons;
mod smuggling;
mod upstream;
mod watching;
mod why;
mod wide;
