//! Transaction tokens that a workload's inbound side verified: what its outbound side may pass on, and
//! what it re-attaches where an application forwards only `traceparent`.
//!
//! Inbound and outbound of one workload may run on different cores, so the book is shared. It is split
//! into shards under plain mutexes: a sidecar has two cores, a shard is held for one map operation, and
//! a lock that is nearly never contended costs less than an atomic map with its own reclamation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cache::Clock;
use super::encoding::sha256;
use crate::now::Now;

const SHARDS: usize = 16;
/// Distinct unexpired tokens, each with its text: about 1 KiB.
const TOKENS: usize = 32_768;
/// Traces whose token can be re-attached. They share the text with the tokens.
const TRACES: usize = 16_384;

/// Transaction tokens that a workload's inbound side verified, by token and by trace id; bounded. What
/// is pushed out is not passed on: the book fails closed.
pub struct TokenBook {
    /// By SHA-256 of the token.
    tokens: Vec<Mutex<Clock<[u8; 32], Known>>>,
    traces: Vec<Mutex<Clock<u128, Trace>>>,
}

struct Known {
    token: Arc<str>,
    exp: u64,
}

struct Trace {
    digest: [u8; 32],
    exp: u64,
    /// `None`: more than one distinct token came with this trace id.
    token: Option<Arc<str>>,
}

impl Default for TokenBook {
    fn default() -> Self {
        let shards = |capacity| (0..SHARDS).map(move |_| capacity / SHARDS);
        TokenBook {
            tokens: shards(TOKENS).map(|n| Mutex::new(Clock::new(n))).collect(),
            traces: shards(TRACES).map(|n| Mutex::new(Clock::new(n))).collect(),
        }
    }
}

impl TokenBook {
    /// Remembers a token that inbound verified. `trace_id`: 32 hex digits (W3C Trace Context §3.2.2.3),
    /// without which only the token is remembered; `exp`: of the token, in seconds since the epoch.
    pub fn saw(&self, trace_id: &str, token: &str, exp: u64, now: Now) {
        let now = now.unix_seconds();
        if now >= exp {
            return;
        }
        let digest = sha256(token.as_bytes());
        let Some(token) = self.remember(digest, token, exp) else {
            return;
        };
        let Some(trace_id) = trace_id_bits(trace_id) else {
            return;
        };
        let Some(mut traces) = self.trace_shard(trace_id) else {
            return;
        };
        match traces.find(&trace_id) {
            Some(trace) if now < trace.exp && trace.digest != digest => {
                // Stays ambiguous until the last of the tokens has expired.
                trace.token = None;
                trace.exp = trace.exp.max(exp);
            }
            Some(trace) if now < trace.exp => {}
            Some(_) | None => traces.insert(
                trace_id,
                Trace {
                    digest,
                    exp,
                    token: Some(token),
                },
            ),
        }
    }

    /// Keeps the text of a token once, however many requests carry it.
    fn remember(&self, digest: [u8; 32], token: &str, exp: u64) -> Option<Arc<str>> {
        let mut tokens = self.token_shard(&digest)?;
        if let Some(known) = tokens.find(&digest) {
            return Some(known.token.clone());
        }
        let token: Arc<str> = Arc::from(token);
        let known = Known {
            token: token.clone(),
            exp,
        };
        tokens.insert(digest, known);
        Some(token)
    }

    /// Whether inbound verified this very token and it has not expired: only such may leave.
    pub fn knows(&self, token: &str, now: Now) -> bool {
        let digest = sha256(token.as_bytes());
        let Some(mut tokens) = self.token_shard(&digest) else {
            return false;
        };
        let Some(known) = tokens.find(&digest) else {
            return false;
        };
        if now.unix_seconds() >= known.exp {
            tokens.remove(&digest);
            return false;
        }
        true
    }

    /// The token to re-attach to a call of this trace: the only one seen with it. `None` if there was
    /// none or more than one.
    pub fn reattach(&self, trace_id: &str, now: Now) -> Option<Arc<str>> {
        let trace_id = trace_id_bits(trace_id)?;
        let mut traces = self.trace_shard(trace_id)?;
        let trace = traces.find(&trace_id)?;
        if now.unix_seconds() >= trace.exp {
            traces.remove(&trace_id);
            return None;
        }
        trace.token.clone()
    }

    fn token_shard(&self, digest: &[u8; 32]) -> Option<MutexGuard<'_, Clock<[u8; 32], Known>>> {
        let at = usize::from(*digest.first()?) % SHARDS;
        Some(lock(self.tokens.get(at)?))
    }

    fn trace_shard(&self, trace_id: u128) -> Option<MutexGuard<'_, Clock<u128, Trace>>> {
        // The low bits are the random ones (W3C Trace Context level 2 §4.1).
        let at = usize::try_from(trace_id % SHARDS as u128).ok()?;
        Some(lock(self.traces.get(at)?))
    }
}

/// A thread that panicked here left a map that is whole: each operation is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 32 lower-case hex digits, not all zero.
fn trace_id_bits(text: &str) -> Option<u128> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 32 || !text.bytes().all(hex) {
        return None;
    }
    u128::from_str_radix(text, 16)
        .ok()
        .filter(|bits| *bits != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn at(seconds: u64) -> Now {
        Now {
            wall: Duration::from_secs(seconds),
            monotonic: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn one_token_of_a_trace_is_reattached() {
        let book = TokenBook::default();
        book.saw(TRACE, "a", 60, at(0));
        book.saw(TRACE, "a", 60, at(1));
        assert_eq!(book.reattach(TRACE, at(59)).as_deref(), Some("a"));
        assert!(book.knows("a", at(59)) && !book.knows("b", at(59)));
        assert_eq!(book.reattach(&TRACE.replace('0', "1"), at(1)), None);
    }

    #[test]
    fn two_tokens_of_a_trace_are_none() {
        let book = TokenBook::default();
        book.saw(TRACE, "a", 60, at(0));
        book.saw(TRACE, "b", 90, at(0));
        book.saw(TRACE, "a", 60, at(1));
        assert_eq!(book.reattach(TRACE, at(2)), None);
        assert_eq!(book.reattach(TRACE, at(75)), None, "b lives still");
        assert!(book.knows("a", at(2)) && book.knows("b", at(75)));
        book.saw(TRACE, "c", 150, at(91));
        assert_eq!(book.reattach(TRACE, at(92)).as_deref(), Some("c"));
    }

    #[test]
    fn expired_tokens_are_unknown() {
        let book = TokenBook::default();
        book.saw(TRACE, "a", 60, at(0));
        assert!(!book.knows("a", at(60)));
        assert_eq!(book.reattach(TRACE, at(60)), None);
        book.saw(TRACE, "late", 60, at(60));
        assert!(!book.knows("late", at(60)) && book.reattach(TRACE, at(60)).is_none());
    }

    #[test]
    fn a_token_without_a_trace_may_leave_but_is_not_reattached() {
        let book = TokenBook::default();
        for bad in ["", "zz", &"0".repeat(32), &"A".repeat(32), &"g".repeat(32)] {
            book.saw(bad, "a", 60, at(0));
            assert_eq!(book.reattach(bad, at(0)), None, "{bad:?}");
        }
        assert!(book.knows("a", at(0)));
    }

    #[test]
    fn the_book_is_bounded_and_fails_closed() {
        let book = TokenBook::default();
        for n in 0..(TRACES as u128 + TRACES as u128 / 2) {
            book.saw(&format!("{:032x}", n + 1), &n.to_string(), 60, at(0));
        }
        let kept: usize = book.traces.iter().map(|shard| lock(shard).len()).sum();
        assert_eq!(kept, TRACES);
        assert_eq!(book.reattach(&format!("{:032x}", 1), at(0)), None);
    }
}
