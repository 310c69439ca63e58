//! What the counting promises, on one core and on many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use testudo_model::PolicyRef;

use super::*;
use crate::limit::{LimitKey, LimitMatch};

fn rule(name: &str, interval: Duration, burst: u32) -> LimitRule {
    LimitRule {
        name: Arc::from(name),
        source: PolicyRef {
            file: "testudo.yaml".into(),
            line: 1,
        },
        matches: LimitMatch::default(),
        per: LimitKey::All,
        interval,
        burst,
        scope: LimitScope::Proxy,
    }
}

fn at(monotonic: Duration) -> Now {
    Now {
        wall: Duration::ZERO,
        monotonic,
    }
}

fn ms(milliseconds: u64) -> Now {
    at(Duration::from_millis(milliseconds))
}

#[test]
fn a_burst_and_then_the_rate() {
    let limiter = Limiter::default();
    let rule = rule("r", Duration::from_millis(100), 3);
    for left in [2, 1, 0] {
        let state = limiter.count(&rule, b"k", ms(0)).unwrap();
        assert_eq!(state.remaining, left);
        assert_eq!(state.retry_after, Duration::ZERO);
    }
    let denied = limiter.count(&rule, b"k", ms(0)).unwrap_err();
    assert_eq!(denied.remaining, 0);
    assert!((99..=101).contains(&denied.retry_after.as_millis()));
    assert!((299..=301).contains(&denied.reset_after.as_millis()));
    assert!(limiter.count(&rule, b"k", ms(99)).is_err());
    assert!(limiter.count(&rule, b"k", ms(101)).is_ok());
    assert!(limiter.count(&rule, b"k", ms(102)).is_err());
    // Another key, and the same key under another limit, have bursts of their own.
    assert!(limiter.count(&rule, b"other", ms(102)).is_ok());
    let second = self::rule("s", Duration::from_millis(100), 3);
    assert_eq!(limiter.count(&second, b"k", ms(102)).unwrap().remaining, 2);
    // After a pause the burst is whole again, and no more.
    let later = limiter.count(&rule, b"k", ms(60_000)).unwrap();
    assert_eq!(later.remaining, 2);
}

#[test]
fn a_denied_request_costs_nothing() {
    let limiter = Limiter::default();
    let rule = rule("r", Duration::from_millis(100), 1);
    limiter.count(&rule, b"k", ms(0)).unwrap();
    for at in 1..100 {
        assert!(limiter.count(&rule, b"k", ms(at)).is_err());
    }
    assert!(limiter.count(&rule, b"k", ms(101)).is_ok());
}

#[test]
fn a_fleet_shares_the_rate() {
    let limiter = Limiter::default();
    let mut rule = rule("r", Duration::from_millis(100), 1);
    rule.scope = LimitScope::Fleet;
    limiter.set_fleet(4);
    limiter.count(&rule, b"k", ms(0)).unwrap();
    assert!(limiter.count(&rule, b"k", ms(399)).is_err());
    assert!(limiter.count(&rule, b"k", ms(401)).is_ok());
    limiter.set_fleet(0);
    assert!(limiter.count(&rule, b"alone", ms(500)).is_ok());
    assert!(limiter.count(&rule, b"alone", ms(601)).is_ok());
    rule.burst = 10;
    limiter.set_fleet(4);
    let passed = (0..20).filter(|_| limiter.count(&rule, b"burst", ms(700)).is_ok());
    assert_eq!(passed.count(), 3);
}

#[test]
fn a_clock_that_goes_back_permits_nothing_more() {
    let limiter = Limiter::default();
    let rule = rule("r", Duration::from_millis(100), 2);
    limiter.count(&rule, b"k", ms(10_000)).unwrap();
    limiter.count(&rule, b"k", ms(10_000)).unwrap();
    for back in [9_999, 5_000, 0] {
        assert!(limiter.count(&rule, b"k", ms(back)).is_err());
    }
    // Nor does it forgive what is owed once the clock is right again.
    assert!(limiter.count(&rule, b"k", ms(10_000)).is_err());
}

#[test]
fn a_faster_rule_is_not_held_up_by_a_slower_ones_debt() {
    let limiter = Limiter::default();
    let slow = rule("r", Duration::from_secs(86_400), 1);
    limiter.count(&slow, b"k", ms(0)).unwrap();
    let fast = rule("r", Duration::from_millis(100), 2);
    assert!(limiter.count(&fast, b"k", ms(0)).is_err());
    assert!(limiter.count(&fast, b"k", ms(101)).is_ok());
}

#[test]
fn a_clock_that_wraps_around_recovers_within_a_window() {
    let limiter = Limiter::default();
    let rule = rule("r", Duration::from_millis(100), 1);
    let end = from_ticks(TIME_MASK);
    let _ = limiter.count(&rule, b"k", at(end - Duration::from_millis(101)));
    let after = |millis| at(end + Duration::from_millis(millis));
    let _ = limiter.count(&rule, b"k", after(10));
    assert!(limiter.count(&rule, b"k", after(250)).is_ok());
    assert!(limiter.count(&rule, b"k", after(260)).is_err());
}

#[test]
fn a_flood_of_new_keys_resets_no_busy_one() {
    let limiter = Limiter::default();
    let rule = rule("r", Duration::from_secs(1), 10);
    for _ in 0..10 {
        limiter.count(&rule, b"busy", ms(0)).unwrap();
    }
    for key in 0..500_000u32 {
        let _ = limiter.count(&rule, &key.to_be_bytes(), ms(1));
    }
    assert!(limiter.count(&rule, b"busy", ms(2)).is_err());
    // And the flood as a whole got no more than the slots can hold.
    let passed = (0..500_000u32)
        .filter(|key| limiter.count(&rule, &key.to_be_bytes(), ms(2)).is_ok())
        .count();
    assert!(passed <= BUCKETS * WAYS * 10, "{passed}");
}

#[test]
fn many_names_are_bounded() {
    let limiter = Limiter::default();
    for name in 0..MAX_TABLES + 20 {
        let rule = rule(&name.to_string(), Duration::from_secs(1), 1);
        limiter.count(&rule, b"k", ms(0)).ok();
        assert!(limiter.count(&rule, b"k", ms(0)).is_err());
    }
    limiter.retain(|name| name == "1");
    assert_eq!(limiter.tables.load().len(), 1);
}

#[test]
fn many_cores_never_get_more_than_one_would() {
    const THREADS: u64 = 8;
    for round in 0..10u64 {
        let limiter = Limiter::default();
        let rule = rule("r", Duration::from_micros(100), 50);
        let passed: Vec<AtomicUsize> = (0..16).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (limiter, rule, passed) = (&limiter, &rule, &passed);
                scope.spawn(move || {
                    for step in 0..4_000u64 {
                        let key = (step + thread + round) % 16;
                        // Up to 4 ms, each core with a clock of its own that lags a little.
                        let now = at(Duration::from_micros(step + thread));
                        if limiter.count(rule, &key.to_be_bytes(), now).is_ok() {
                            let index = usize::try_from(key).unwrap();
                            passed[index].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        for passed in passed {
            let passed = passed.into_inner();
            assert!((50..=50 + 41).contains(&passed), "{passed}");
        }
    }
}

#[test]
fn cores_that_bring_the_same_new_key_share_one_burst() {
    for round in 0..200u32 {
        let limiter = Limiter::default();
        let rule = rule("r", Duration::from_secs(60), 5);
        let passed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for step in 0..8 * 5u32 {
                        let key = (step / 5 + round).to_be_bytes();
                        if limiter.count(&rule, &key, ms(1)).is_ok() {
                            passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(passed.load(Ordering::Relaxed) <= 8 * 5);
    }
}

proptest! {
    #[test]
    fn never_more_than_burst_and_rate(
        burst in 1u32..20,
        interval_us in 1u64..5_000,
        steps in proptest::collection::vec(0u64..3_000, 1..200),
    ) {
        let limiter = Limiter::default();
        let rule = rule("r", Duration::from_micros(interval_us), burst);
        let (mut now, mut passed) = (0u64, 0u64);
        for step in steps {
            now += step;
            if limiter.count(&rule, b"k", at(Duration::from_micros(now))).is_ok() {
                passed += 1;
            }
            prop_assert!(passed <= u64::from(burst) + now / interval_us);
        }
    }
}
