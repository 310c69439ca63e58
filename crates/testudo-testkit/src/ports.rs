//! Ports for programs that a test starts.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range from which the system takes ports for `:0` and for clients (32768 and up on
/// Linux): a port from there can be given away between the look and the program's start.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// A port on loopback that nobody listens on; never the same one twice in a process, and other test
/// processes begin elsewhere.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let number = start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + number % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free between {FIRST} and {}", FIRST + COUNT);
}
