//! The detectors on labelled traffic of our own: what is found of sixteen kinds of attack at three
//! strengths, how soon, who would be contained, and what is said although nothing was wrong.
//!
//! The detectors were corrected with seed 4711, which the test runs on; `TESTUDO_LABELLED=SEED:HOURS` measures
//! others, and longer (bench/RESULTS.md).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    unreachable_pub
)]

mod attacks;
mod mesh;

use std::collections::{BTreeMap, BTreeSet};

use attacks::{Attack, Kind, Strength};
use mesh::{Mesh, Random};
use testudo_control::incidents::{Incident, Replay, Replayed};
use testudo_watch::detect::Settings;

/// A Monday, at six.
const BEGIN: u64 = 1_799_049_600 + 6 * 3600;
/// Honest traffic alone first: what is usual has to be learned by somebody.
const QUIET: u64 = 5400;
const EVERY: u64 = 150;
/// Three periods of ten seconds, and the grace of a window.
const SOON: u64 = 33;

struct Measured {
    /// By strength: attacks, found, found soon.
    found: BTreeMap<Strength, (u32, u32, u32)>,
    missed: Vec<(Kind, Strength)>,
    contained_right: u32,
    containable: u32,
    contained_wrong: u32,
    incidents: usize,
    false_incidents: Vec<Incident>,
    hours: f64,
}

fn plan(seed: u64, hours: u64) -> Vec<Attack> {
    let mut random = Random(seed ^ 0xa77ac);
    let mut attacks = Vec::new();
    let mut at = BEGIN + QUIET;
    let mut number = 0;
    while at + EVERY < BEGIN + hours * 3600 {
        let kind = Kind::ALL[usize::try_from(number % 16).unwrap()];
        let strength = Strength::ALL[usize::try_from((number / 16 + number) % 3).unwrap()];
        attacks.push(Attack {
            kind,
            strength,
            number,
            start: at + random.below(20),
            seconds: 60,
        });
        number += 1;
        at += EVERY;
    }
    attacks
}

fn run(seed: u64, hours: u64, attacks: &[Attack]) -> Replayed {
    let mut mesh = Mesh::new(seed);
    let mut replay = Replay::new(Settings::default(), Vec::new()).recording();
    let mut events = Vec::new();
    for at in BEGIN..BEGIN + hours * 3600 {
        events.clear();
        mesh.second(at, &mut events);
        for attack in attacks {
            if (attack.start..attack.start + attack.seconds).contains(&at) {
                attack.second(at, &mut mesh, &mut events);
            }
        }
        events.iter().for_each(|event| replay.add(event));
    }
    replay.finish()
}

fn seconds(at: jiff::Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap()
}

fn measure(replayed: &Replayed, attacks: &[Attack], hours: u64) -> Measured {
    let by_id: BTreeMap<&str, &Incident> = replayed
        .incidents
        .iter()
        .map(|incident| (incident.id.as_str(), incident))
        .collect();
    let mut measured = Measured {
        found: BTreeMap::new(),
        missed: Vec::new(),
        contained_right: 0,
        containable: 0,
        contained_wrong: 0,
        incidents: replayed.incidents.len(),
        false_incidents: Vec::new(),
        hours: f64::from(u32::try_from(hours).unwrap()),
    };
    let mut explained: BTreeSet<&str> = BTreeSet::new();
    for attack in attacks {
        let who = attack.who();
        let end = attack.start + attack.seconds + 90;
        let mut first = None;
        for (at, id) in &replayed.sightings {
            let incident = by_id[id.as_str()];
            let what = &incident.what;
            let of_it = incident.who.name == who
                || (incident.detector.is_symptom()
                    && attack.touches(what.caller.as_deref(), what.service.as_deref()));
            if !of_it || !(attack.start..end).contains(&seconds(*at)) {
                continue;
            }
            explained.insert(&incident.id);
            if incident.who.name == who && incident.detector == attack.kind.detector() {
                first = first.min(Some(seconds(*at))).or(Some(seconds(*at)));
            }
        }
        let entry = measured.found.entry(attack.strength).or_default();
        entry.0 += 1;
        entry.1 += u32::from(first.is_some());
        entry.2 += u32::from(first.is_some_and(|at| at <= attack.start + SOON));
        if first.is_none_or(|at| at > attack.start + SOON) {
            measured.missed.push((attack.kind, attack.strength));
        }
        if attack.is_containable() && attack.strength >= Strength::Medium {
            measured.containable += 1;
            let contained = replayed.contained.keys().any(|id| {
                by_id
                    .get(id.as_str())
                    .is_some_and(|incident| incident.who.name == who)
            });
            measured.contained_right += u32::from(contained);
        }
    }
    let evil: BTreeSet<String> = attacks
        .iter()
        .filter(|attack| attack.is_containable())
        .map(Attack::who)
        .collect();
    for id in replayed.contained.keys() {
        let name = by_id.get(id.as_str()).map(|incident| &incident.who.name);
        measured.contained_wrong += u32::from(name.is_some_and(|name| !evil.contains(name)));
    }
    measured.false_incidents = replayed
        .incidents
        .iter()
        .filter(|incident| !explained.contains(incident.id.as_str()))
        .cloned()
        .collect();
    measured
}

fn print(seed: u64, measured: &Measured) {
    println!(
        "seed {seed}, {} hours, {} incidents",
        measured.hours, measured.incidents
    );
    for (strength, (all, found, soon)) in &measured.found {
        println!("  {strength:?}: {found} of {all} found, {soon} within three periods");
    }
    println!(
        "  contained: {} of {} right, {} wrong",
        measured.contained_right, measured.containable, measured.contained_wrong
    );
    println!("  false incidents: {}", measured.false_incidents.len());
    for incident in &measured.false_incidents {
        println!(
            "    {} {} at {}",
            incident.detector, incident.title, incident.first
        );
    }
    let mut missed: BTreeMap<String, u32> = BTreeMap::new();
    for (kind, strength) in &measured.missed {
        *missed.entry(format!("{strength:?} {kind:?}")).or_default() += 1;
    }
    println!("  late or missed: {missed:?}");
}

fn settings_of_the_run() -> (u64, u64) {
    let wanted = std::env::var("TESTUDO_LABELLED").unwrap_or_default();
    let (seed, hours) = wanted.split_once(':').unwrap_or(("4711", "3"));
    (seed.parse().unwrap(), hours.parse().unwrap())
}

#[test]
fn attacks_are_found_and_honest_traffic_is_left_alone() {
    let (seed, hours) = settings_of_the_run();
    let attacks = plan(seed, hours);
    let replayed = run(seed, hours, &attacks);
    let measured = measure(&replayed, &attacks, hours);
    print(seed, &measured);
    let (all, _, soon) = measured.found[&Strength::Medium];
    assert!(
        soon * 100 >= all * 95,
        "recall at medium strength: {soon} of {all}"
    );
    let (all, _, soon) = measured.found[&Strength::Strong];
    assert!(
        soon * 100 >= all * 98,
        "recall at full strength: {soon} of {all}"
    );
    let wrong = measured.false_incidents.len();
    assert!(wrong * 10 <= measured.incidents, "precision: {wrong} false");
    assert_eq!(measured.contained_wrong, 0);
    assert!(measured.contained_right * 100 >= measured.containable * 95);
}

#[test]
fn hours_without_an_attack_are_hours_without_an_incident() {
    let (seed, hours) = settings_of_the_run();
    let replayed = run(seed + 1, hours, &[]);
    let said: Vec<_> = replayed.incidents.iter().map(|i| &i.title).collect();
    println!("{} events, {} incidents", replayed.events, said.len());
    assert!(said.is_empty(), "{said:?}");
}
