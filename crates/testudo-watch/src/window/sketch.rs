//! The sketches of a window: quantiles, distinct counts and heavy hitters in bounded space.
//!
//! Merging two of them gives exactly what counting everything at once would have given (heavy hitters:
//! within their error), in any order. That, small size where little was counted, and being safe to read
//! from a proxy that lies, is why these are not the crates `sketches-ddsketch` (dense chunks of 1 KiB for a
//! single value, and collapsing depends on the order) and `datasketches` (its images bring their own size
//! and floating-point estimator state, which a receiver would have to trust).

use std::net::IpAddr;
use std::sync::Arc;

use indexmap::{Equivalent, IndexMap};

/// Buckets grow by this factor: a quantile is within 2 % of a value that was counted.
const GAMMA: f64 = 1.02 / 0.98;
/// The bucket of the largest values (about 30 minutes in microseconds).
const LAST_BUCKET: u16 = 533;

/// A DDSketch (Masson, Rim, Lee 2019) of positive integers, in microseconds for example: quantiles with a
/// relative error of 2 %. Sparse: eight bytes for each bucket in use, at most 534.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Bucket and count, in order of buckets. Bucket 0 is value 0, bucket `n` ends at `GAMMA^(n-1)`.
    buckets: Vec<(u16, u32)>,
    max: u64,
}

impl Quantiles {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        self.max = self.max.max(value);
        self.count_in(bucket(value), 1);
    }

    /// Takes in what another one counted.
    pub fn merge(&mut self, other: &Quantiles) {
        self.max = self.max.max(other.max);
        for (bucket, count) in &other.buckets {
            self.count_in(*bucket, *count);
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .map(|(_, count)| u64::from(*count))
            .sum()
    }

    /// The largest value that was counted.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The value that a share `q` (0 to 1) of what was counted does not exceed; `None` where nothing was.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank below the count"
        )]
        let rank = (q.clamp(0.0, 1.0) * (count - 1) as f64) as u64;
        let mut below = 0;
        for (bucket, count) in &self.buckets {
            below += u64::from(*count);
            if below > rank {
                return Some(value(*bucket).min(self.max));
            }
        }
        Some(self.max)
    }

    fn count_in(&mut self, bucket: u16, count: u32) {
        match self.buckets.binary_search_by_key(&bucket, |entry| entry.0) {
            Ok(place) => {
                if let Some(entry) = self.buckets.get_mut(place) {
                    entry.1 = entry.1.saturating_add(count);
                }
            }
            Err(place) => self.buckets.insert(place, (bucket, count)),
        }
    }

    pub(super) fn parts(&self) -> (&[(u16, u32)], u64) {
        (&self.buckets, self.max)
    }

    /// From what a proxy sent: buckets that cannot be are left out.
    pub(super) fn from_parts(buckets: impl Iterator<Item = (u16, u32)>, max: u64) -> Quantiles {
        let mut quantiles = Quantiles {
            buckets: Vec::new(),
            max,
        };
        for (bucket, count) in buckets {
            if bucket <= LAST_BUCKET && count > 0 {
                quantiles.count_in(bucket, count);
            }
        }
        quantiles
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the logarithm of a u64 is small and not negative"
)]
fn bucket(value: u64) -> u16 {
    if value == 0 {
        return 0;
    }
    let exponent = ((value as f64).ln() / GAMMA.ln()).ceil();
    (exponent as u16).saturating_add(1).min(LAST_BUCKET)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bounded by the last bucket"
)]
fn value(bucket: u16) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let upper = GAMMA.powi(i32::from(bucket) - 1);
    (2.0 * upper / (1.0 + GAMMA)).round().max(1.0) as u64
}

/// Up to so many distinct values are known exactly, and take four bytes each.
const EXACT: usize = 128;
/// The logarithm of the number of registers beyond that: a standard error of 4.6 %.
const PRECISION: u32 = 9;
const REGISTERS: usize = 1 << PRECISION;
/// The largest value of a register: a hash has 32 bits.
const MAX_RANK: u8 = 24;

/// How many different values there were: exact up to 128, HyperLogLog (Flajolet et al. 2007, estimated as
/// Ertl 2017) beyond. At most 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distinct(Values);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Values {
    /// Hashes, in order.
    Few(Vec<u32>),
    Many(Box<[u8; REGISTERS]>),
}

impl Default for Distinct {
    fn default() -> Self {
        Distinct(Values::Few(Vec::new()))
    }
}

impl Distinct {
    /// Counts a value by its [`hash`].
    pub fn add(&mut self, hash: u32) {
        match &mut self.0 {
            Values::Few(hashes) => {
                if let Err(place) = hashes.binary_search(&hash) {
                    if hashes.len() < EXACT {
                        hashes.insert(place, hash);
                    } else {
                        let mut registers = Box::new([0; REGISTERS]);
                        for hash in hashes.iter().chain([&hash]) {
                            raise(&mut registers, *hash);
                        }
                        self.0 = Values::Many(registers);
                    }
                }
            }
            Values::Many(registers) => raise(registers, hash),
        }
    }

    /// Takes in what another one counted.
    pub fn merge(&mut self, other: &Distinct) {
        match &other.0 {
            Values::Few(hashes) => hashes.iter().for_each(|hash| self.add(*hash)),
            Values::Many(theirs) => {
                let mut registers = theirs.clone();
                match &self.0 {
                    Values::Few(hashes) => {
                        hashes.iter().for_each(|hash| raise(&mut registers, *hash));
                    }
                    Values::Many(ours) => {
                        for (register, ours) in registers.iter_mut().zip(ours.iter()) {
                            *register = (*register).max(*ours);
                        }
                    }
                }
                self.0 = Values::Many(registers);
            }
        }
    }

    /// How many different values there were.
    pub fn count(&self) -> u64 {
        match &self.0 {
            Values::Few(hashes) => u64::try_from(hashes.len()).unwrap_or(u64::MAX),
            Values::Many(registers) => estimate(registers),
        }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Values::Few(hashes) if hashes.is_empty())
    }

    pub(super) fn parts(&self) -> Result<&[u32], &[u8; REGISTERS]> {
        match &self.0 {
            Values::Few(hashes) => Ok(hashes),
            Values::Many(registers) => Err(registers),
        }
    }

    /// From what a proxy sent.
    pub(super) fn from_registers(bytes: &[u8]) -> Option<Distinct> {
        let mut registers: Box<[u8; REGISTERS]> = Box::new(bytes.try_into().ok()?);
        for register in registers.iter_mut() {
            *register = (*register).min(MAX_RANK);
        }
        Some(Distinct(Values::Many(registers)))
    }
}

fn raise(registers: &mut [u8; REGISTERS], hash: u32) {
    let rest = hash << PRECISION;
    let rank = u8::try_from(rest.leading_zeros() + 1).unwrap_or(MAX_RANK);
    let place = usize::try_from(hash >> (32 - PRECISION)).unwrap_or(0);
    if let Some(register) = registers.get_mut(place) {
        *register = (*register).max(rank.min(MAX_RANK));
    }
}

/// The improved raw estimator (Ertl, "New cardinality estimation algorithms for HyperLogLog sketches",
/// §4): no tables, no thresholds, one formula for small, middle and large.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an estimate"
)]
fn estimate(registers: &[u8; REGISTERS]) -> u64 {
    let m = REGISTERS as f64;
    let mut histogram = [0_u32; MAX_RANK as usize + 1];
    for register in registers {
        if let Some(count) = histogram.get_mut(usize::from(*register)) {
            *count += 1;
        }
    }
    let counts = histogram.map(f64::from);
    let [first, middle @ .., last] = counts;
    let mut z = m * tau(1.0 - last / m);
    for count in middle.iter().rev() {
        z = 0.5 * (z + count);
    }
    z += m * sigma(first / m);
    let estimate = m * m / (2.0 * std::f64::consts::LN_2) / z;
    if estimate.is_finite() {
        estimate.round() as u64
    } else {
        u64::from(u32::MAX)
    }
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if (z - before).abs() <= f64::EPSILON * z {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if (before - z).abs() <= f64::EPSILON * z {
            return z / 3.0;
        }
    }
}

/// The hash that [`Distinct`] counts: the same on every machine, since windows are merged. It is not keyed;
/// that somebody can choose values which hash alike hides these from each other and nothing else.
pub fn hash(bytes: &[u8]) -> u32 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = MULTIPLIER ^ u64::try_from(bytes.len()).unwrap_or(0);
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut tail = [0; 8];
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from;
    }
    for chunk in chunks.iter().chain([&tail]) {
        let product = u128::from(state ^ u64::from_le_bytes(*chunk)) * u128::from(MULTIPLIER);
        let [low, high] = halves(product);
        state = low ^ high.rotate_left(29);
    }
    state ^= state >> 33;
    state = state.wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^= state >> 33;
    state = state.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    u32::try_from(state >> 32).unwrap_or(0)
}

#[allow(clippy::cast_possible_truncation, reason = "both halves are taken")]
const fn halves(product: u128) -> [u64; 2] {
    [product as u64, (product >> 64) as u64]
}

/// The [`hash`] of an address.
pub fn hash_address(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    }
}

/// What is counted of heavy hitters: a path of a service, or an address or user without one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeavyKey {
    /// The service, for paths.
    pub scope: Option<Arc<str>>,
    /// What was counted.
    pub name: Box<str>,
}

#[derive(Hash)]
struct HeavyRef<'a> {
    scope: Option<&'a str>,
    name: &'a str,
}

impl Equivalent<HeavyKey> for HeavyRef<'_> {
    fn equivalent(&self, key: &HeavyKey) -> bool {
        self.scope == key.scope.as_deref() && *self.name == *key.name
    }
}

/// The most frequent values: every one above `total / 64` is among them. A Misra-Gries summary (1982;
/// mergeable as Agarwal et al. 2012): a count is too low by at most [`Heavy::error`].
#[derive(Clone, Debug, Default)]
pub struct Heavy {
    counts: IndexMap<HeavyKey, u64, ahash::RandomState>,
    error: u64,
}

/// Entries kept after a clean-up, which comes when there are twice as many.
const HEAVY: usize = 64;

impl Heavy {
    /// Counts a value once.
    pub fn add(&mut self, scope: Option<&Arc<str>>, name: &str) {
        let key = HeavyRef {
            scope: scope.map(|scope| &**scope),
            name,
        };
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
            return;
        }
        let key = HeavyKey {
            scope: scope.cloned(),
            name: name.into(),
        };
        self.insert(key, 1);
    }

    /// Takes in what another one counted.
    pub fn merge(&mut self, other: &Heavy) {
        self.error = self.error.saturating_add(other.error);
        for (key, count) in &other.counts {
            if let Some(ours) = self.counts.get_mut(key) {
                *ours = ours.saturating_add(*count);
            } else {
                self.counts.insert(key.clone(), *count);
            }
        }
        self.clean_up();
    }

    /// The most frequent ones, most frequent first, with counts that are too low by at most
    /// [`Heavy::error`].
    pub fn top(&self, limit: usize) -> Vec<(&HeavyKey, u64)> {
        let mut all: Vec<_> = self
            .counts
            .iter()
            .map(|(key, count)| (key, *count))
            .collect();
        all.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(other.0)));
        all.truncate(limit);
        all
    }

    /// By how much a count may be too low.
    pub const fn error(&self) -> u64 {
        self.error
    }

    pub(super) fn insert(&mut self, key: HeavyKey, count: u64) {
        let ours = self.counts.entry(key).or_default();
        *ours = ours.saturating_add(count);
        self.clean_up();
    }

    pub(super) fn add_error(&mut self, error: u64) {
        self.error = self.error.saturating_add(error);
    }

    /// Takes the count of the first one that does not fit from everybody.
    fn clean_up(&mut self) {
        if self.counts.len() <= 2 * HEAVY {
            return;
        }
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let (_, taken, _) = counts.select_nth_unstable_by(HEAVY, |one, other| other.cmp(one));
        let taken = *taken;
        self.error = self.error.saturating_add(taken);
        self.counts.retain(|_, count| {
            *count = count.saturating_sub(taken);
            *count > 0
        });
    }
}
