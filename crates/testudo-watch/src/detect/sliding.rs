//! Sums over the last minute (or five): by key, in a ring of a few buckets, with a bounded number of
//! keys.

use std::collections::VecDeque;
use std::hash::Hash;

use crate::window::Table;

/// Request ids that a sum keeps.
pub(super) const SAMPLES: usize = 5;

/// What can be summed.
pub(super) trait Sum: Clone + Default {
    /// Takes in another part.
    fn merge(&mut self, other: &Self);
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Sliding<K, V> {
    bucket_seconds: u64,
    buckets: usize,
    most: usize,
    entries: Table<K, VecDeque<(u64, V)>>,
    cleaned: u64,
}

impl<K: Hash + Eq, V: Sum> Sliding<K, V> {
    /// Over the last `buckets * bucket_seconds` seconds, for at most `most` keys.
    pub(super) fn new(bucket_seconds: u64, buckets: usize, most: usize) -> Self {
        Sliding {
            bucket_seconds,
            buckets,
            most,
            entries: Table::default(),
            cleaned: 0,
        }
    }

    /// The last minute in steps of ten seconds.
    pub(super) fn minute(most: usize) -> Self {
        Sliding::new(10, 6, most)
    }

    /// Adds to the bucket of `at`; a key that finds no room is not summed. The whole sum comes back.
    pub(super) fn add(&mut self, key: K, at: u64, add: impl FnOnce(&mut V)) -> Option<V> {
        self.clean(at);
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            return None;
        }
        let bucket = at - at % self.bucket_seconds.max(1);
        let oldest = self.oldest(at);
        let buckets = self.entries.entry(key).or_default();
        while buckets.front().is_some_and(|(start, _)| *start <= oldest) {
            buckets.pop_front();
        }
        if buckets.back().is_none_or(|(start, _)| *start < bucket) {
            buckets.push_back((bucket, V::default()));
        }
        if let Some((_, value)) = buckets.back_mut() {
            add(value);
        }
        let mut sum = V::default();
        for (_, value) in buckets.iter() {
            sum.merge(value);
        }
        Some(sum)
    }

    /// Every key with its sum.
    pub(super) fn sums(&mut self, at: u64) -> impl Iterator<Item = (&K, V)> {
        self.clean(at);
        let oldest = self.oldest(at);
        self.entries.iter().map(move |(key, buckets)| {
            let mut sum = V::default();
            for (start, value) in buckets {
                if *start > oldest {
                    sum.merge(value);
                }
            }
            (key, sum)
        })
    }

    /// Buckets that start here or before are over.
    fn oldest(&self, at: u64) -> u64 {
        let bucket = at - at % self.bucket_seconds.max(1);
        let span = u64::try_from(self.buckets).unwrap_or(1) * self.bucket_seconds;
        bucket.saturating_sub(span)
    }

    /// Forgets keys whose buckets are all over; once a bucket.
    fn clean(&mut self, at: u64) {
        let bucket = at - at % self.bucket_seconds.max(1);
        if bucket == self.cleaned {
            return;
        }
        self.cleaned = bucket;
        let oldest = self.oldest(at);
        self.entries
            .retain(|_, buckets| buckets.back().is_some_and(|(start, _)| *start > oldest));
    }
}

/// Keeps a few more request ids; the newest replace the oldest.
pub(super) fn keep_samples(kept: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for id in more {
        if !kept.contains(&id) {
            kept.push(id);
        }
    }
    let surplus = kept.len().saturating_sub(SAMPLES);
    kept.drain(..surplus);
}
