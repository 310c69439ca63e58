//! The counting: GCRA over bounded tables, lock-free, one compare-and-swap a request.
//!
//! Each limit has a table of its own, by name, so that no limit's keys push out another's and counts
//! outlive snapshots. A table is an array of buckets of one cache line, each of eight words; a word is
//! the *theoretical arrival time* (TAT) of a key, tagged with 16 bits of the key's hash:
//!
//! ```text
//! 63            16 15      0
//! [ TAT in 256 ns ][  tag  ]      TAT ≤ now: the key has its whole burst, so the slot is free
//! ```
//!
//! *Never more than burst + rate × time.* A new key takes the slot with the least TAT of its bucket and
//! starts from that TAT if it lies ahead: times in a table only grow, so two cores that bring the same
//! new key choose the same slot, one of them fails its compare-and-swap and finds the other's entry.
//!
//! *A flood of new keys* cannot reset a busy one: the least busy slot is always taken first, and while
//! a bucket is full of keys in debt a newcomer inherits the least of those debts instead of a fresh
//! burst. A table that is too small for an attack makes limits stricter, never looser.
//!
//! Two keys share a count when bucket and tag are the same (28 bits of a hash with a random seed); then
//! both together get the burst of one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ahash::RandomState;
use arc_swap::ArcSwap;

use super::{LimitRule, LimitScope};
use crate::now::Now;
use crate::record::LimitState;

/// Keys that a table can tell apart at one time: 32,768, in 256 KiB.
const BUCKETS: usize = 1 << 12;
const WAYS: usize = 8;
/// More names than these share the tables of the least recently made.
const MAX_TABLES: usize = 256;

const TICK_NANOS: u128 = 256;
/// How far two cores' readings of the clock may lie apart: a debt that looks too large to a core that
/// lags is left alone. One minute.
const CLOCK_SLACK: u64 = 60_000_000_000 / 256;
const TAG_BITS: u32 = 16;
const TIME_MASK: u64 = (1 << (64 - TAG_BITS)) - 1;

/// Rate-limit state of all limits, shared by all cores and kept over snapshots.
pub struct Limiter {
    tables: ArcSwap<HashMap<Arc<str>, Arc<Table>, RandomState>>,
    hasher: RandomState,
    fleet: AtomicU32,
}

struct Table {
    buckets: Box<[Bucket]>,
}

/// One cache line.
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// A rule's numbers in ticks.
struct Rate {
    interval: u64,
    window: u64,
    burst: u32,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter {
            tables: ArcSwap::default(),
            hasher: RandomState::new(),
            fleet: AtomicU32::new(1),
        }
    }
}

impl Limiter {
    /// Counts one request under `key` and says whether it may pass. Keys are hashed with a seed that
    /// nobody knows; the same bytes under another limit are another key.
    ///
    /// # Errors
    /// The state, with the time until a request is possible.
    pub fn count(&self, rule: &LimitRule, key: &[u8], now: Now) -> Result<LimitState, LimitState> {
        let fleet = match rule.scope {
            LimitScope::Proxy => 1,
            LimitScope::Fleet => self.fleet.load(Ordering::Relaxed).max(1),
        };
        let rate = Rate::of(rule, fleet);
        let now = ticks(now.monotonic) & TIME_MASK;
        let hash = self.hasher.hash_one(key);
        let outcome = match self.tables.load().get(&rule.name) {
            Some(table) => table.count(hash, &rate, now),
            None => self.make_table(&rule.name).count(hash, &rate, now),
        };
        let state = |tat: u64, retry_after: u64| LimitState {
            name: Arc::clone(&rule.name),
            burst: rate.burst,
            window: from_ticks(rate.window),
            remaining: rate.window.saturating_sub(tat.saturating_sub(now)) / rate.interval,
            retry_after: from_ticks(retry_after),
            reset_after: from_ticks(tat.saturating_sub(now)),
        };
        match outcome {
            Ok(tat) => Ok(state(tat, 0)),
            Err(tat) => {
                let possible_at = tat
                    .saturating_add(rate.interval)
                    .saturating_sub(rate.window);
                Err(state(tat, possible_at.saturating_sub(now).max(1)))
            }
        }
    }

    /// Live proxies that see the same traffic, for scope `fleet` (at least 1).
    pub fn set_fleet(&self, proxies: u32) {
        self.fleet.store(proxies.max(1), Ordering::Relaxed);
    }

    /// As told by [`Limiter::set_fleet`].
    pub fn fleet(&self) -> u32 {
        self.fleet.load(Ordering::Relaxed)
    }

    /// Forgets the counts of limits that are in no snapshot any more.
    pub fn retain(&self, is_used: impl Fn(&str) -> bool) {
        self.tables.rcu(|tables| {
            let mut tables = HashMap::clone(tables);
            tables.retain(|name, _| is_used(name));
            tables
        });
    }

    fn make_table(&self, name: &Arc<str>) -> Arc<Table> {
        let made = Arc::new(Table::new());
        self.tables.rcu(|tables| {
            let mut tables = HashMap::clone(tables);
            if !tables.contains_key(name) {
                // Beyond the bound a limit shares a table with another: stricter, never looser.
                let table = match tables.values().next() {
                    Some(shared) if tables.len() >= MAX_TABLES => Arc::clone(shared),
                    _ => Arc::clone(&made),
                };
                tables.insert(Arc::clone(name), table);
            }
            tables
        });
        let tables = self.tables.load();
        tables.get(name).map_or(made, Arc::clone)
    }
}

impl Rate {
    fn of(rule: &LimitRule, fleet: u32) -> Rate {
        // Rounded up: never more permissive than written. Half the clock's range is years.
        const LONGEST: u64 = TIME_MASK / 2;
        let nanos = rule.interval.as_nanos() * u128::from(fleet);
        let interval = u64::try_from(nanos.div_ceil(TICK_NANOS))
            .unwrap_or(LONGEST)
            .clamp(1, LONGEST);
        // Each proxy of a fleet gives its share of the burst too, rounded up.
        let burst = rule.burst.max(1).div_ceil(fleet);
        let window = interval.saturating_mul(u64::from(burst)).min(LONGEST);
        Rate {
            interval,
            window,
            burst,
        }
    }
}

impl Table {
    fn new() -> Table {
        let bucket = || Bucket(std::array::from_fn(|_| AtomicU64::new(0)));
        Table {
            buckets: std::iter::repeat_with(bucket).take(BUCKETS).collect(),
        }
    }

    /// Counts a request: the key's new TAT, or its present one when it must not pass.
    fn count(&self, hash: u64, rate: &Rate, now: u64) -> Result<u64, u64> {
        // Never zero, so that a slot that was never used is nobody's.
        let tag = (hash >> (64 - TAG_BITS)).max(1);
        let index = usize::try_from(hash).unwrap_or_default() % BUCKETS;
        let Some(bucket) = self.buckets.get(index) else {
            return Err(now.saturating_add(rate.window));
        };
        loop {
            let (slot, seen) = bucket.find(tag);
            let tat = seen >> TAG_BITS;
            let limit = now.saturating_add(rate.window).min(TIME_MASK);
            let debt = tat.max(now);
            let next = debt.saturating_add(rate.interval);
            let written = if next <= limit {
                next
            } else if debt <= limit.saturating_add(CLOCK_SLACK) {
                return Err(debt);
            } else {
                // Left from a slower rule, or from before the clock wrapped around: the key is as deep
                // in debt as it can be, and works it off from here.
                limit
            };
            let word = (written << TAG_BITS) | tag;
            if slot
                .compare_exchange(seen, word, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                return if written == next {
                    Ok(next)
                } else {
                    Err(written)
                };
            }
        }
    }
}

impl Bucket {
    /// The key's slot, or the one with the least TAT, with what it held.
    fn find(&self, tag: u64) -> (&AtomicU64, u64) {
        let [first, others @ ..] = &self.0;
        let mut least = (first, first.load(Ordering::Acquire));
        if least.1 & !(!0 << TAG_BITS) == tag {
            return least;
        }
        for slot in others {
            let word = slot.load(Ordering::Acquire);
            if word & !(!0 << TAG_BITS) == tag {
                return (slot, word);
            }
            // The tag never decides: of equal times the first slot is taken, by every core.
            if word >> TAG_BITS < least.1 >> TAG_BITS {
                least = (slot, word);
            }
        }
        least
    }
}

fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() / TICK_NANOS).unwrap_or(u64::MAX)
}

fn from_ticks(ticks: u64) -> Duration {
    let nanos = u128::from(ticks) * TICK_NANOS;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
