//! The baseline on the Numenta Anomaly Benchmark: its scoring implemented from its paper and
//! configuration, checked on the null and the perfect detector, and a floor under our score.
//!
//! The corpus is not part of this repository: without it (`TESTUDO_CORPORA`, else `../shared/corpora`)
//! the test says so and passes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use testudo_watch::baseline::{Alarm, Baseline, UNUSUAL};

/// Published scores: random cut forest 51.7, relative entropy 54.6.
const FLOOR: f64 = 60.0;

struct Series {
    times: Vec<i64>,
    values: Vec<f64>,
    windows: Vec<(usize, usize)>,
}

#[derive(serde::Deserialize)]
struct Profile {
    #[serde(rename = "CostMatrix")]
    costs: Costs,
}

#[derive(serde::Deserialize)]
struct Costs {
    #[serde(rename = "fpWeight")]
    false_positive: f64,
    #[serde(rename = "fnWeight")]
    false_negative: f64,
}

/// One record's contribution, were it detected.
struct Point {
    score: f64,
    gain: f64,
    window: Option<(usize, usize)>,
}

fn corpus() -> Option<PathBuf> {
    let folder = std::env::var_os("TESTUDO_CORPORA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpora"),
        PathBuf::from,
    );
    let folder = folder.join("NAB");
    folder.join("labels").is_dir().then_some(folder)
}

fn seconds(text: &str) -> i64 {
    let time: jiff::civil::DateTime = text.get(..19).unwrap().parse().unwrap();
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
    zoned.timestamp().as_second()
}

fn load(folder: &Path) -> Vec<Series> {
    let labels = std::fs::read(folder.join("labels/combined_windows.json")).unwrap();
    let labels: BTreeMap<String, Vec<(String, String)>> = serde_json::from_slice(&labels).unwrap();
    let read = |(name, labels): (String, Vec<(String, String)>)| {
        let text = std::fs::read_to_string(folder.join("data").join(&name)).ok()?;
        let rows = text
            .lines()
            .skip(1)
            .map(|line| line.split_once(',').unwrap());
        let (times, values): (Vec<i64>, Vec<f64>) = rows
            .map(|(time, value)| (seconds(time), value.trim().parse::<f64>().unwrap()))
            .unzip();
        let place = |time: &str| times.iter().position(|t| *t == seconds(time)).unwrap();
        let windows = labels.iter().map(|(a, b)| (place(a), place(b))).collect();
        Some(Series {
            times,
            values,
            windows,
        })
    };
    labels.into_iter().filter_map(read).collect()
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// NAB's scaled sigmoid: 1 well within a window, -1 well behind it.
fn sigmoid(position: f64) -> f64 {
    if position > 3.0 {
        -1.0
    } else {
        2.0 / (1.0 + (5.0 * position).exp()) - 1.0
    }
}

/// NAB's sweep: what each record outside the probationary part would count.
fn sweep(file: usize, series: &Series, scores: &[f64], costs: &Costs) -> Vec<Point> {
    let probation = (series.values.len() * 15 / 100).min(750);
    let mut points = Vec::new();
    for (index, score) in scores.iter().enumerate().skip(probation) {
        let within = |(_, (from, to)): &(usize, &(usize, usize))| (*from..=*to).contains(&index);
        let window = series.windows.iter().enumerate().find(within);
        let before = series.windows.iter().rfind(|(_, to)| *to < index);
        let gain = match (window, before) {
            (Some((_, (from, to))), _) => {
                sigmoid(-number(to - index + 1) / number(to - from + 1)) / sigmoid(-1.0)
            }
            (None, None) => -costs.false_positive,
            (None, Some((from, to))) => {
                sigmoid(number(index - to) / number(to - from)) * costs.false_positive
            }
        };
        points.push(Point {
            score: *score,
            gain,
            window: window.map(|(number, _)| (file, number)),
        });
    }
    points
}

/// The normalized score and its threshold: `fixed`, or the best one of the whole corpus, as NAB does.
fn rate(all: &[Series], scores: &[Vec<f64>], costs: &Costs, fixed: Option<f64>) -> (f64, f64) {
    let windows = number(all.iter().map(|series| series.windows.len()).sum());
    let mut points: Vec<Point> = all
        .iter()
        .zip(scores)
        .enumerate()
        .flat_map(|(file, (series, scores))| sweep(file, series, scores, costs))
        .collect();
    points.sort_by(|a, b| b.score.total_cmp(&a.score));
    let null = -windows * costs.false_negative;
    let (mut total, mut best, mut threshold) = (null, null, f64::INFINITY);
    let mut found: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let mut points = points.iter().peekable();
    while let Some(point) = points.next() {
        if fixed.is_some_and(|fixed| point.score < fixed) {
            break;
        }
        match point.window {
            None => total += point.gain,
            Some(window) => {
                let part = found.entry(window).or_insert(-costs.false_negative);
                total += (point.gain - *part).max(0.0);
                *part = part.max(point.gain);
            }
        }
        // Records of one score are detected together.
        let last = points.peek().is_none_or(|next| next.score < point.score);
        if last && (total > best || fixed.is_some()) {
            (best, threshold) = (total, point.score);
        }
    }
    (100.0 * (best - null) / (windows - null), threshold)
}

fn constant(all: &[Series], score: impl Fn(&Series, usize) -> f64) -> Vec<Vec<f64>> {
    let scores = |series: &Series| (0..series.values.len()).map(|i| score(series, i)).collect();
    all.iter().map(scores).collect()
}

fn ours(series: &Series) -> Vec<f64> {
    let (mut baseline, mut alarm) = (Baseline::new(), Alarm::new(100));
    let pairs = series.times.iter().zip(&series.values);
    pairs
        .map(|(at, value)| alarm.admit(baseline.observe(*at, *value).score))
        .collect()
}

#[test]
fn the_baseline_stays_above_the_floor() {
    let Some(folder) = corpus() else {
        println!("skipped: there is no NAB corpus; set TESTUDO_CORPORA to have it scored");
        return;
    };
    let profiles = std::fs::read(folder.join("config/profiles.json")).unwrap();
    let profiles: BTreeMap<String, Profile> = serde_json::from_slice(&profiles).unwrap();
    let standard = &profiles["standard"].costs;
    let all = load(&folder);
    assert!(all.len() >= 30, "{} series", all.len());
    let (score, _) = rate(&all, &constant(&all, |_, _| 0.0), standard, None);
    assert!(score.abs() < 1e-9, "the null detector has {score}");
    let first = |series: &Series, index| series.windows.iter().any(|(from, _)| *from == index);
    let perfect = constant(&all, |series, index| {
        f64::from(u8::from(first(series, index)))
    });
    let (score, _) = rate(&all, &perfect, standard, None);
    assert!(
        (score - 100.0).abs() < 1e-9,
        "the perfect detector has {score}"
    );

    let scores: Vec<_> = all.iter().map(ours).collect();
    for (name, profile) in &profiles {
        let (score, threshold) = rate(&all, &scores, &profile.costs, None);
        println!(
            "{name}: {score:.1} at threshold {threshold:.2}, {} series",
            all.len()
        );
    }
    let (best, _) = rate(&all, &scores, standard, None);
    let (used, _) = rate(&all, &scores, standard, Some(UNUSUAL));
    println!("standard at the threshold that is used, {UNUSUAL}: {used:.1}");
    assert!(best >= FLOOR, "{best:.1} is below {FLOOR}");
    assert!(
        used >= FLOOR - 5.0,
        "{used:.1} at the threshold that is used"
    );
}
