use super::*;

const STEP: i64 = 300;
const DAY: i64 = 86_400;

/// Repeatable noise between -1 and 1 (SplitMix64).
fn noise(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    f64::from(u32::try_from((z ^ (z >> 31)) >> 32).unwrap()) / f64::from(u32::MAX) * 2.0 - 1.0
}

/// A shop's requests: by day more than by night, on weekends half.
fn seasonal(at: i64, seed: &mut u64) -> f64 {
    let hour = f64::from(u32::try_from(at.rem_euclid(DAY)).unwrap()) / 3600.0;
    let day = 1.0 + 0.6 * ((hour - 9.0) / 24.0 * std::f64::consts::TAU).sin();
    let weekend = if at.div_euclid(DAY).rem_euclid(7) >= 5 {
        0.5
    } else {
        1.0
    };
    100.0 * day * weekend * (1.0 + 0.08 * noise(seed))
}

fn said(readings: impl Iterator<Item = Reading>) -> usize {
    let mut alarm = Alarm::new(100);
    readings
        .filter(|reading| alarm.admit(reading.score) >= UNUSUAL)
        .count()
}

#[test]
fn weeks_of_seasonal_traffic_say_little_and_its_absence_is_said() {
    let mut baseline = Baseline::new();
    let mut seed = 7;
    let mut observe = |at: i64| baseline.observe(at, seasonal(at, &mut seed));
    let learned = said((0..21 * DAY / STEP).map(|n| observe(n * STEP)));
    // Two weekends in, the week's pattern is known: a week of it is nothing new.
    let known = said((21 * DAY / STEP..28 * DAY / STEP).map(|n| observe(n * STEP)));
    assert!(learned <= 25, "{learned}");
    assert!(known <= 3, "{known}");
    // A Monday noon that looks like night.
    let at = 28 * DAY + 12 * 3600;
    let reading = baseline.observe(at, 15.0);
    assert!(reading.score >= UNUSUAL, "{reading:?}");
    assert!(!reading.above);
    assert_ne!(reading.predictor, Predictor::Level);
}

#[test]
fn nothing_is_said_while_warming_up() {
    let mut baseline = Baseline::new();
    for n in 0..i64::from(WARM_UP) - 1 {
        let value = if n % 40 == 39 { 10_000.0 } else { 10.0 };
        assert!(baseline.observe(n * 10, value).score <= 0.0);
        assert!(!baseline.is_warm());
    }
}

#[test]
fn an_anomaly_hardly_teaches() {
    let mut baseline = Baseline::new();
    let mut seed = 3;
    for n in 0..500 {
        baseline.observe(n * 10, 100.0 + 5.0 * noise(&mut seed));
    }
    let before = baseline.usual();
    for n in 500..510 {
        assert!(baseline.observe(n * 10, 1e9).score >= UNUSUAL || n > 500);
    }
    assert!(
        (baseline.usual() - before).abs() < 2.0,
        "{}",
        baseline.usual()
    );
}

#[test]
fn a_change_that_stays_becomes_the_new_level_and_is_said_once() {
    let mut baseline = Baseline::new();
    let mut seed = 4;
    for n in 0..500 {
        baseline.observe(n * 10, 100.0 + 5.0 * noise(&mut seed));
    }
    let mut shifts = Vec::new();
    for n in 500..900 {
        shifts.extend(
            baseline
                .observe(n * 10, 300.0 + 5.0 * noise(&mut seed))
                .shift,
        );
    }
    assert_eq!(shifts.len(), 1, "{shifts:?}");
    assert!((baseline.usual() - 300.0).abs() < 20.0);
}

#[test]
fn drift_is_followed_in_silence() {
    let mut baseline = Baseline::new();
    let mut seed = 5;
    let count = said((0..20_000).map(|n| {
        let level = 100.0 + f64::from(u32::try_from(n).unwrap()) * 0.01;
        baseline.observe(n * 10, level + 10.0 * noise(&mut seed))
    }));
    assert!(count <= 2, "{count}");
}

#[test]
fn what_is_no_number_does_no_harm() {
    let mut baseline = Baseline::new();
    for n in 0..300 {
        let value = match n % 3 {
            0 => f64::NAN,
            1 => f64::INFINITY,
            _ => 5.0,
        };
        let reading = baseline.observe(n * 10, value);
        assert!(reading.score.is_finite() && reading.expected.is_finite());
    }
    baseline.observe(i64::MAX, f64::MAX);
    baseline.observe(i64::MIN, f64::MIN);
    assert!(baseline.usual().is_finite());
}

#[test]
fn it_survives_being_stored_and_stays_small() {
    let mut baseline = Baseline::new();
    let mut seed = 9;
    for n in 0..10 * DAY / STEP {
        baseline.observe(n * STEP, seasonal(n * STEP, &mut seed));
    }
    let stored = serde_json::to_vec(&baseline).unwrap();
    assert!(stored.len() < 16 * 1024, "{}", stored.len());
    let mut again: Baseline = serde_json::from_slice(&stored).unwrap();
    let at = 10 * DAY;
    assert_eq!(again.observe(at, 500.0), baseline.observe(at, 500.0));
}
