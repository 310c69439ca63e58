//! Test support: a certificate authority in a temporary folder, users with signed tokens, servers that
//! record what they get, clients that say exactly what they send.
//!
//! For tests only: helpers panic where something is not as the test expects.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod client;
pub mod pki;
pub mod ports;
pub mod upstream;
pub mod users;

use std::time::{Duration, Instant};

pub use client::{Client, Reply};
pub use pki::Pki;
pub use ports::free_port;
pub use upstream::{Recorded, Upstream};
pub use users::Users;

/// Longest time that a condition is waited for: long enough for a busy machine, and never waited out
/// where the condition comes true.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
///
/// # Panics
/// It does not come true.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same in async code.
///
/// # Panics
/// It does not come true.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
