use testudo_watch::detect::{Comparison, Severity};

use super::*;

fn anomaly(detector: Detector, who: Subject, service: &str, at: u64, seen: f64) -> Anomaly {
    Anomaly {
        detector,
        at,
        who,
        what: Target {
            caller: None,
            service: Some(service.into()),
            operation: None,
        },
        title: format!("{detector} {seen}"),
        severity: Severity::Medium,
        comparison: Comparison {
            what: "things".into(),
            usual: None,
            seen,
            unit: "things".into(),
        },
        samples: vec![format!("r{at}")],
    }
}

fn bob() -> Subject {
    Subject {
        kind: testudo_watch::detect::SubjectKind::User,
        name: "shop:bob".into(),
    }
}

fn none(_: Option<&str>) -> Vec<String> {
    vec!["revision 4 since 14:03".into()]
}

const T: u64 = 1_800_000_000;

fn walk(at: u64, seen: f64) -> Anomaly {
    anomaly(Detector::Enumeration, bob(), "orders", at, seen)
}

#[test]
fn one_cause_is_one_incident_that_grows_and_ends() {
    let mut book = Book::default();
    let opened = book.take(vec![walk(T, 50.0)], &none);
    assert_eq!(opened.first().unwrap().1, News::Opened);
    for n in 1..10 {
        let grown = book.take(vec![walk(T + 2 * n, 60.0)], &none);
        assert_eq!(grown.first().unwrap().1, News::Grew);
    }
    let incident = book.incidents().next().unwrap().clone();
    assert_eq!((book.incidents().count(), incident.count), (1, 10));
    assert_eq!(incident.title, "enumeration 60");
    assert_eq!(incident.context, ["revision 4 since 14:03"]);
    assert!(incident.samples.len() > 1 && incident.samples.len() <= SAMPLES);
    assert!(book.pass(timestamp(T + 100)).is_empty());
    let closed = book.pass(timestamp(T + 700));
    assert_eq!(closed.first().unwrap().1, News::Closed);
    // The same again soon is the same; much later it is another.
    let again = book.take(vec![walk(T + 1000, 50.0)], &none);
    assert_eq!(again.first().unwrap().1, News::Opened);
    assert_eq!(again.first().unwrap().0.id, incident.id);
    book.pass(timestamp(T + 2000));
    let other = book.take(vec![walk(T + 9000, 50.0)], &none);
    assert_ne!(other.first().unwrap().0.id, incident.id);
}

#[test]
fn other_principals_and_services_are_other_incidents() {
    let mut book = Book::default();
    let alice = Subject {
        name: "shop:alice".into(),
        ..bob()
    };
    book.take(
        vec![
            walk(T, 50.0),
            anomaly(Detector::Enumeration, alice, "orders", T, 50.0),
            anomaly(Detector::Enumeration, bob(), "catalog", T, 50.0),
        ],
        &none,
    );
    assert_eq!(book.incidents().count(), 3);
    let of_bob: Vec<_> = book.incidents().filter(|i| i.who == bob()).collect();
    assert!(of_bob.iter().all(|incident| incident.related.len() == 1));
}

#[test]
fn symptoms_go_to_what_explains_them() {
    let mut book = Book::default();
    let denials = |at| anomaly(Detector::Denials, bob(), "orders", at, 30.0);
    // A symptom alone has to last.
    assert!(book.take(vec![denials(T)], &none).is_empty());
    assert!(book.take(vec![denials(T + 2)], &none).is_empty());
    assert_eq!(book.take(vec![denials(T + 4)], &none).len(), 1);
    // Then its cause shows: one incident is left.
    let changed = book.take(vec![walk(T + 6, 50.0), denials(T + 6)], &none);
    assert!(changed.iter().any(|(_, news)| *news == News::Opened));
    let left: Vec<_> = book.incidents().collect();
    assert_eq!(left.len(), 1);
    let incident = left.first().unwrap();
    assert_eq!(incident.detector, Detector::Enumeration);
    assert_eq!(incident.first, timestamp(T + 4));
    assert!(
        incident
            .context
            .iter()
            .any(|line| line.starts_with("denials: "))
    );
    assert_eq!(book.take_gone().len(), 1);
    // So do errors of the service it is about.
    let edge = Subject::edge(None, "orders");
    let errors = |at| anomaly(Detector::Errors, edge.clone(), "orders", at, 30.0);
    for n in 0..5 {
        book.take(vec![walk(T + 8 + n, 50.0), errors(T + 8 + n)], &none);
    }
    assert_eq!(book.incidents().count(), 1);
}

#[test]
fn mutes_end_by_themselves() {
    let mut book = Book::default();
    book.take(vec![walk(T, 50.0)], &none);
    let mut muted = book.incidents().next().unwrap().clone();
    muted.state = State::Muted;
    muted.muted_until = Some(timestamp(T + 3600));
    book.replace(muted);
    // It is counted, but not opened again, and quiet does not close it.
    let grown = book.take(vec![walk(T + 60, 70.0)], &none);
    assert_eq!(grown.first().unwrap().1, News::Grew);
    assert!(book.pass(timestamp(T + 1800)).is_empty());
    book.take(vec![walk(T + 3590, 70.0)], &none);
    let ended = book.pass(timestamp(T + 3601));
    assert_eq!(ended.first().unwrap().1, News::Opened);
}

#[test]
fn room_is_bounded_and_open_ones_stay() {
    let mut book = Book::default();
    book.take(vec![walk(T, 50.0)], &none);
    for n in 0..1500_u64 {
        let who = Subject {
            name: format!("10.{}.{}.1", n / 250, n % 250),
            kind: testudo_watch::detect::SubjectKind::Address,
        };
        let low = Anomaly {
            severity: Severity::Low,
            ..anomaly(Detector::Scan, who, "orders", T + 1, 20.0)
        };
        book.take(vec![low], &none);
    }
    assert_eq!(book.incidents().count(), MOST);
    assert!(
        book.incidents()
            .any(|i| i.detector == Detector::Enumeration)
    );
    assert_eq!(book.take_gone().len(), 501);
}
