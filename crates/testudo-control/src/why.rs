//! Why was this request permitted or denied: all of its hops, from the proxies' rings.

pub mod gather;
