use testudo_model::Hop;
use testudo_policy::bundle::Bundle;
use testudo_policy::check::{CheckOptions, Checked, check};

use super::super::Call;
use super::*;

const NOW: u64 = 1_800_000_000;

const BUNDLE: &str = "version: 1
trust_domain: shop.test
gateway: {listen: 127.0.0.1:8443, routes: [{host: api.shop.test, path: /, service: orders}]}
users:
  jwt:
    shop: {issuer: https://id.shop.test, audiences: [shop], id: /sub}
services:
  orders: {app: [127.0.0.1:9101], user: ignore}
  catalog: {app: [127.0.0.1:9102], user: ignore}
  payments: {app: [127.0.0.1:9103], user: ignore}
watch: {respond: contain, max_share: 20%, contain_for: 10m, protect: [payments, 'shop:ceo']}
";

const POLICY: &str = "permit (principal, action, resource);";

struct World {
    checked: Checked,
    traffic: Traffic,
    known: Vec<Stored>,
    /// Whether throttles stop somebody at this moment.
    stops: bool,
    now: u64,
}

impl World {
    fn new() -> World {
        let files = [
            ("testudo.yaml".to_owned(), BUNDLE.as_bytes().to_vec()),
            ("policies/all.cedar".to_owned(), POLICY.as_bytes().to_vec()),
        ];
        let bundle = Bundle::from_files(files.into_iter().collect()).unwrap();
        let checked = check(&bundle, &CheckOptions { now: None });
        assert!(checked.config.is_some(), "{:?}", checked.diagnostics);
        let mut world = World {
            checked,
            traffic: Traffic {
                from: NOW - 120,
                until: NOW,
                ..Traffic::default()
            },
            known: Vec::new(),
            stops: true,
            now: NOW,
        };
        // Ten users, ten requests each, over the last 100 seconds.
        for user in 0..10 {
            world.calls(&format!("shop:u{user}"), 10, NOW - 100);
            world.calls(&format!("shop:u{user}"), 1, NOW - 1);
        }
        world
    }

    fn calls(&mut self, user: &str, count: u64, at: u64) {
        self.traffic.served.push((at, count));
        self.traffic.calls.push(Call {
            at,
            hop: Hop::Edge,
            kind: Kind::User,
            principal: Arc::from(user),
            service: Arc::from("orders"),
            operation: Some(Arc::from("orders:GET")),
            count,
            served: count,
        });
    }

    fn edge(&mut self, caller: &str, service: &str, count: u64) {
        self.traffic.served.push((NOW - 50, count));
        self.traffic.calls.push(Call {
            at: NOW - 50,
            hop: Hop::Mesh,
            kind: Kind::Service,
            principal: Arc::from(caller),
            service: Arc::from(service),
            operation: None,
            count,
            served: count,
        });
    }

    fn plan(&self, request: &ContainRequest) -> Result<Planned, ContainError> {
        plan(
            request,
            &Facts {
                config: self.checked.config.as_ref().unwrap(),
                apis: &self.checked.apis,
                traffic: &|| Arc::new(self.traffic.clone()),
                known: &self.known,
                stops_now: &|_| self.stops,
                now: self.now,
            },
        )
    }

    /// Does what was planned; says what the audit log would.
    fn apply(&mut self, request: &ContainRequest) -> Result<(Containment, &'static str), String> {
        match self.plan(request).map_err(|error| error.to_string())? {
            Planned::Unchanged(containment) => Ok((containment, "unchanged")),
            Planned::Changed { stored, action } => {
                let key = stored.containment.key();
                self.known.retain(|other| other.containment.key() != key);
                self.known.push(stored.clone());
                Ok((stored.containment, action))
            }
        }
    }

    fn refusal(&self, request: &ContainRequest) -> String {
        self.plan(request).unwrap_err().to_string()
    }
}

fn watch(principal: &str, action: Action) -> ContainRequest {
    ContainRequest {
        kind: Kind::User,
        principal: principal.to_owned(),
        service: "orders".to_owned(),
        operation: Some("orders:GET".to_owned()),
        action,
        rate: None,
        length: None,
        reason: "214 different orders in 60 s".to_owned(),
        incident: Some("inc-1".to_owned()),
        by: By::Watch,
        force: false,
        anomaly_since: Some(NOW - 10),
    }
}

fn admin(principal: &str) -> ContainRequest {
    ContainRequest {
        by: By::Admin,
        anomaly_since: None,
        incident: None,
        ..watch(principal, Action::Deny)
    }
}

fn service(principal: &str, to: &str, request: ContainRequest) -> ContainRequest {
    ContainRequest {
        kind: Kind::Service,
        principal: principal.to_owned(),
        service: to.to_owned(),
        operation: None,
        ..request
    }
}

#[test]
fn a_detector_throttles_first_and_denies_if_it_goes_on() {
    let mut world = World::new();
    // Whoever walks order numbers makes most of the traffic now; by what was usual it is judged.
    world.calls("shop:u1", 5_000, NOW - 5);
    let deny = watch("shop:u1", Action::Deny);
    let (first, said) = world.apply(&deny).unwrap();
    assert_eq!(
        (first.action, said),
        (Action::Throttle, "containment.added")
    );
    assert_eq!(first.rate, Some(1.0), "10 requests in 100 s are usual");
    assert_eq!(first.until, timestamp(NOW + 600));
    assert!(first.id.starts_with("ctn-") && first.id.len() == 14);

    world.now = NOW + 2;
    assert_eq!(world.apply(&deny).unwrap().1, "unchanged", "too early");
    world.now = NOW + 6;
    world.stops = false;
    let (same, said) = world.apply(&deny).unwrap();
    assert_eq!((&same, said), (&first, "unchanged"), "she keeps to it");
    world.stops = true;
    let (second, said) = world.apply(&deny).unwrap();
    assert_eq!(
        (second.action, said),
        (Action::Deny, "containment.escalated")
    );
    assert_eq!(
        (&second.id, second.since, second.rate),
        (&first.id, first.since, None)
    );
    // As long as it goes on it is prolonged, now and then, for a day at most.
    world.now = NOW + 8;
    assert_eq!(world.apply(&deny).unwrap().1, "unchanged");
    world.now = NOW + 400;
    let (third, said) = world.apply(&deny).unwrap();
    assert_eq!(said, "containment.prolonged");
    assert_eq!(
        (third.action, third.until),
        (Action::Deny, timestamp(NOW + 1_000))
    );
    for _ in 0..400 {
        world.now += 400;
        if world.now >= NOW + 86_400 {
            break;
        }
        world.apply(&deny).unwrap();
    }
    assert_eq!(world.known[0].containment.until, timestamp(NOW + 86_400));
}

#[test]
fn only_the_verified_and_never_the_protected() {
    let mut world = World::new();
    for (request, said) in [
        (watch("anonymous", Action::Deny), "never contained"),
        (watch("gateway", Action::Deny), "never contained"),
        (watch("shop:ceo", Action::Deny), "watch.protect"),
        (watch("shop:nobody", Action::Deny), "was not verified"),
        (watch("10.0.0.1", Action::Deny), "no user"),
        (
            watch("other:bob", Action::Deny),
            "an issuer of testudo.yaml",
        ),
        (
            service("payments", "orders", watch("", Action::Deny)),
            "watch.protect",
        ),
        (
            service("control", "orders", watch("", Action::Deny)),
            "never contained",
        ),
        (
            service("catalog", "orders", watch("", Action::Deny)),
            "was not verified",
        ),
        (
            service("nothing", "orders", watch("", Action::Deny)),
            "no service nothing",
        ),
        (
            service("catalog", "nothing", watch("", Action::Deny)),
            "no service nothing",
        ),
        (admin("shop:ceo"), "watch.protect"),
        (
            ContainRequest {
                force: true,
                ..admin("shop:ceo")
            },
            "watch.protect",
        ),
        (
            ContainRequest {
                reason: " ".to_owned(),
                ..admin("shop:u1")
            },
            "a reason",
        ),
        (
            ContainRequest {
                operation: Some("orders:nothing".to_owned()),
                ..admin("shop:u1")
            },
            "no operation orders:nothing",
        ),
        (
            ContainRequest {
                length: Some(Duration::from_hours(25)),
                ..admin("shop:u1")
            },
            "24 h at most",
        ),
        (
            ContainRequest {
                rate: Some(f64::NAN),
                ..admin("shop:u1")
            },
            "rate",
        ),
    ] {
        let refusal = world.refusal(&request);
        assert!(refusal.contains(said), "{request:?}: {refusal}");
    }
    // Forged tokens that name somebody are events without a user: they credit nobody.
    let calls = &mut world.traffic.calls;
    calls.retain(|call| &*call.principal != "shop:u1");
    let refusal = world.refusal(&watch("shop:u1", Action::Deny));
    assert!(refusal.contains("was not verified"), "{refusal}");
    // An administrator may know what is coming.
    world.apply(&admin("shop:nobody")).unwrap();
}

#[test]
fn all_automatic_ones_together_touch_a_share_at_most() {
    let mut world = World::new();
    let deny = |user: &str| ContainRequest {
        rate: Some(0.001),
        ..watch(user, Action::Deny)
    };
    // Each has 10% of the usual traffic: two may be stopped, a third not.
    world.apply(&deny("shop:u1")).unwrap();
    world.apply(&deny("shop:u2")).unwrap();
    let refusal = world.apply(&deny("shop:u3")).unwrap_err();
    assert!(
        refusal.contains("would touch 29.7") && refusal.contains("max_share is 20.0%"),
        "{refusal}"
    );
    // A throttle to what is usual touches nobody's usual traffic.
    world.apply(&watch("shop:u3", Action::Throttle)).unwrap();
    // And it cannot become a denial.
    world.now += 10;
    let refusal = world.apply(&deny("shop:u3")).unwrap_err();
    assert!(refusal.contains("max_share"), "{refusal}");

    // An administrator's own is measured alone, and may go beyond.
    world.calls("shop:big", 200, NOW - 60);
    let refusal = world.apply(&admin("shop:big")).unwrap_err();
    assert!(refusal.contains("force"), "{refusal}");
    let forced = ContainRequest {
        force: true,
        ..admin("shop:big")
    };
    assert_eq!(world.apply(&forced).unwrap().0.action, Action::Deny);
}

#[test]
fn the_last_path_is_not_cut() {
    let mut world = World::new();
    world.calls("shop:u1", 2_000, NOW - 300);
    world.edge("orders", "catalog", 10);
    let edge = service("orders", "catalog", watch("", Action::Deny));
    world.apply(&edge).unwrap();
    world.now += 10;
    let refusal = world.apply(&edge).unwrap_err();
    assert!(
        refusal.contains("the last one that uses catalog"),
        "{refusal}"
    );
    // With another caller there it may be.
    world.edge("payments", "catalog", 1);
    assert_eq!(world.apply(&edge).unwrap().0.action, Action::Deny);
    // Whose turn it then is not.
    let other = service("payments", "catalog", admin(""));
    let mut unprotected = World::new();
    unprotected.traffic = world.traffic.clone();
    unprotected.known = world.known.clone();
    unprotected
        .checked
        .config
        .as_mut()
        .unwrap()
        .watch
        .protect
        .clear();
    let refusal = unprotected.refusal(&other);
    assert!(refusal.contains("last one"), "{refusal}");
    let forced = ContainRequest {
        force: true,
        ..other
    };
    unprotected.apply(&forced).unwrap();
}

#[test]
fn what_an_administrator_did_no_detector_undoes() {
    let mut world = World::new();
    let by_hand = ContainRequest {
        action: Action::Throttle,
        rate: Some(5.0),
        ..admin("shop:u1")
    };
    let (first, _) = world.apply(&by_hand).unwrap();
    world.now += 10;
    let (same, said) = world.apply(&watch("shop:u1", Action::Deny)).unwrap();
    assert_eq!((&same, said), (&first, "unchanged"));
    // An administrator takes over a detector's, under the same id.
    let (automatic, _) = world.apply(&watch("shop:u2", Action::Deny)).unwrap();
    let (taken, said) = world.apply(&admin("shop:u2")).unwrap();
    assert_eq!((&taken.id, said), (&automatic.id, "containment.changed"));
    assert_eq!((taken.action, taken.by), (Action::Deny, By::Admin));
    // Released, it stays so for a while.
    world.known.last_mut().unwrap().released = Some(world.now);
    let refusal = world.refusal(&watch("shop:u2", Action::Deny));
    assert!(refusal.contains("released"), "{refusal}");
    let elsewhere = ContainRequest {
        operation: None,
        ..watch("shop:u2", Action::Deny)
    };
    assert!(world.refusal(&elsewhere).contains("released"));
    world.now += 3_600;
    world.apply(&watch("shop:u2", Action::Deny)).unwrap();
}

#[test]
fn their_number_is_bounded() {
    let mut world = World::new();
    for n in 0..=MAX_AUTOMATIC {
        world.calls(&format!("shop:many{n}"), 1, NOW - 60);
    }
    let slow = |user: String| ContainRequest {
        rate: Some(100.0),
        ..watch(&user, Action::Throttle)
    };
    for n in 0..MAX_AUTOMATIC {
        world.apply(&slow(format!("shop:many{n}"))).unwrap();
    }
    let refusal = world
        .apply(&slow(format!("shop:many{MAX_AUTOMATIC}")))
        .unwrap_err();
    assert!(refusal.contains("64 containments"), "{refusal}");
    world.apply(&admin("shop:u1")).unwrap();
}

#[test]
fn a_bundle_that_came_later_ends_what_it_forbids() {
    let mut world = World::new();
    let (automatic, _) = world.apply(&watch("shop:u1", Action::Deny)).unwrap();
    let (by_hand, _) = world.apply(&admin("shop:u2")).unwrap();
    let watch = &mut world.checked.config.as_mut().unwrap().watch;
    assert_eq!(forbidden_now(&automatic, watch), None);
    watch.respond = Respond::Alert;
    assert!(forbidden_now(&automatic, watch).is_some());
    assert!(matches!(
        world.plan(&super::tests::watch("shop:u3", Action::Deny)),
        Err(ContainError::AlertOnly)
    ));
    let watch = &mut world.checked.config.as_mut().unwrap().watch;
    assert_eq!(forbidden_now(&by_hand, watch), None);
    let protected = Containment {
        principal: "shop:ceo".to_owned(),
        ..by_hand
    };
    assert!(forbidden_now(&protected, watch).is_some());
}
