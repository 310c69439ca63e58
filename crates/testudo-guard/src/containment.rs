//! Which verified principals are narrowed at this moment, and where: throttled, or denied with
//! `contained`. Control says so, for a while; `now` decides when that is over, whether control is
//! there or not.
//!
//! Only verified subjects can be in here: a user whose credential was checked, a service that mTLS
//! proved. There is no containment of addresses: many people share one (NAT, offices, carriers), so an
//! attacker behind it would have the others denied, and what comes unauthenticated proves nothing about
//! who sent it (DESIGN §11). Floods of such requests are what limits `per: address` are for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::RandomState;
use smallvec::SmallVec;

use crate::now::Now;
use crate::seldom::Emptiness;

/// Entries that one set holds; control keeps fewer.
pub const MAX_ENTRIES: usize = 4096;

/// What nobody may contain: all anonymous users, all users of the edge, the mesh's own parts.
const NEVER: [&str; 3] = ["anonymous", "gateway", "control"];

/// Whom a containment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContainedKind {
    /// A user, `ISSUER:ID`.
    User,
    /// A calling service, by name.
    Service,
}

/// What is done with the principal's requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ContainedAction {
    /// So many requests a second pass, over the whole mesh.
    Throttle(f64),
    /// None passes.
    Deny,
}

/// One principal on one operation, or on all operations of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Containment {
    /// Its id, for people.
    pub id: Arc<str>,
    /// Whom it is of.
    pub kind: ContainedKind,
    /// `ISSUER:ID`, or a service's name.
    pub principal: Arc<str>,
    /// The called service.
    pub service: Arc<str>,
    /// `SERVICE:OPERATION`; `None`: every operation of the service.
    pub operation: Option<Arc<str>>,
    /// What is done.
    pub action: ContainedAction,
    /// Seconds since the epoch; from then on it does nothing.
    pub until: u64,
    /// Why, for the decision log.
    pub reason: Arc<str>,
}

/// A containment that cannot be: nobody is contained by it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadContainment {
    /// Not a kind.
    #[error("a containment is of a user or a service, not of a {0:?}")]
    Kind(String),
    /// Neither throttle nor deny.
    #[error("a containment throttles or denies; it does not {0:?}")]
    Action(String),
    /// Nothing would ever pass, or everything.
    #[error("a throttle's rate is a number over zero")]
    Rate,
    /// Anonymous users, gateways and control are never contained.
    #[error("{0} is never contained")]
    Never(String),
    /// The set is full.
    #[error("there are more than {MAX_ENTRIES} containments")]
    TooMany,
}

impl ContainedKind {
    /// As the mesh protocol and the API spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ContainedKind::User => "user",
            ContainedKind::Service => "service",
        }
    }
}

impl std::str::FromStr for ContainedKind {
    type Err = BadContainment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "user" => Ok(ContainedKind::User),
            "service" => Ok(ContainedKind::Service),
            other => Err(BadContainment::Kind(other.to_owned())),
        }
    }
}

impl ContainedAction {
    /// `throttle` or `deny`, with the rate of a throttle.
    ///
    /// # Errors
    /// Where it is neither, or the rate is none.
    pub fn new(action: &str, rate: f64) -> Result<ContainedAction, BadContainment> {
        match action {
            "deny" => Ok(ContainedAction::Deny),
            "throttle" if rate.is_finite() && rate > 0.0 => Ok(ContainedAction::Throttle(rate)),
            "throttle" => Err(BadContainment::Rate),
            other => Err(BadContainment::Action(other.to_owned())),
        }
    }

    /// As the mesh protocol and the API spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ContainedAction::Throttle(_) => "throttle",
            ContainedAction::Deny => "deny",
        }
    }
}

/// Whether this name can be contained at all.
///
/// # Errors
/// For anonymous users, gateways and control.
pub fn may_be_contained(principal: &str) -> Result<(), BadContainment> {
    match NEVER.contains(&principal) || principal.is_empty() {
        true => Err(BadContainment::Never(principal.to_owned())),
        false => Ok(()),
    }
}

/// All containments in force: the whole set, replaced when it changes. Finding that somebody is not
/// contained costs one look at an empty map, or one look-up.
#[derive(Default)]
pub struct Containments {
    users: Principals,
    services: Principals,
}

type Principals = HashMap<Arc<str>, Places, RandomState>;
/// By `SERVICE:OPERATION` or `SERVICE`; service names have no colon.
type Places = HashMap<Arc<str>, SmallVec<[Arc<Entry>; 1]>, RandomState>;

/// A containment with what its throttle has let through.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) containment: Containment,
    throttle: Arc<Throttle>,
}

impl Containments {
    /// The set with these entries, and what is wrong with others. Throttles go on counting where they
    /// were in `previous`: a new set is no new burst.
    pub fn new(
        entries: impl IntoIterator<Item = Containment>,
        previous: &Containments,
    ) -> (Containments, Vec<BadContainment>) {
        let mut set = Containments::default();
        let mut refused = Vec::new();
        let old: HashMap<&str, &Arc<Entry>> = previous
            .entries()
            .map(|entry| (&*entry.containment.id, entry))
            .collect();
        for (index, containment) in entries.into_iter().enumerate() {
            if index >= MAX_ENTRIES {
                refused.push(BadContainment::TooMany);
                break;
            }
            if let Err(bad) = may_be_contained(&containment.principal) {
                refused.push(bad);
                continue;
            }
            let throttle = old
                .get(&*containment.id)
                .map_or_else(Arc::default, |entry| Arc::clone(&entry.throttle));
            let place = containment.operation.as_ref();
            let place = Arc::clone(place.unwrap_or(&containment.service));
            set.of_kind_mut(containment.kind)
                .entry(Arc::clone(&containment.principal))
                .or_default()
                .entry(place)
                .or_default()
                .push(Arc::new(Entry {
                    containment,
                    throttle,
                }));
        }
        (set, refused)
    }

    /// Those that have not ended, in no order.
    pub fn active(&self, now: Now) -> impl Iterator<Item = &Containment> {
        self.entries()
            .map(|entry| &entry.containment)
            .filter(move |containment| now.unix_seconds() < containment.until)
    }

    /// What holds for this principal here and now.
    pub(crate) fn find<'a>(
        &'a self,
        kind: ContainedKind,
        principal: &str,
        service: &'a str,
        operation: Option<&'a str>,
        now: Now,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let places = match kind {
            ContainedKind::User => &self.users,
            ContainedKind::Service => &self.services,
        };
        // An empty map is not even hashed for.
        let places = match places.is_empty() {
            true => None,
            false => places.get(principal),
        };
        places
            .into_iter()
            .flat_map(move |places| {
                let here = places.get(service).into_iter();
                here.chain(operation.and_then(|operation| places.get(operation)))
            })
            .flatten()
            .filter(move |entry| now.unix_seconds() < entry.containment.until)
    }

    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.users
            .values()
            .chain(self.services.values())
            .flat_map(HashMap::values)
            .flatten()
    }

    fn of_kind_mut(&mut self, kind: ContainedKind) -> &mut Principals {
        match kind {
            ContainedKind::User => &mut self.users,
            ContainedKind::Service => &mut self.services,
        }
    }
}

impl Emptiness for Containments {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.services.is_empty()
    }
}

impl Entry {
    /// Lets a request pass or not. `proxies`: how many share the rate. `slack`: requests more at once,
    /// where an earlier hop has counted the same ones and they only come closer together.
    ///
    /// # Errors
    /// Until when to wait, for a throttle; `None`: until it ends.
    pub(crate) fn pass(&self, proxies: u32, slack: u32, now: Now) -> Result<(), Option<Duration>> {
        match self.containment.action {
            ContainedAction::Deny => Err(None),
            ContainedAction::Throttle(rate) => self
                .throttle
                .count(rate / f64::from(proxies.max(1)), slack, now)
                .map_err(Some),
        }
    }
}

/// One key's GCRA (see `limit::table`): the theoretical arrival time of the next request, in
/// nanoseconds of the monotonic clock.
#[derive(Debug, Default)]
struct Throttle(AtomicU64);

impl Throttle {
    fn count(&self, rate: f64, slack: u32, now: Now) -> Result<(), Duration> {
        // One request in a day is the slowest, a million a second the fastest that is told apart.
        let rate = rate.clamp(1.0 / 86_400.0, 1e6);
        let interval = Duration::from_secs_f64(1.0 / rate);
        let at_once = Duration::from_secs_f64((rate.ceil() + f64::from(slack)) / rate);
        let (interval, window) = (nanos(interval), nanos(at_once));
        let now = nanos(now.monotonic);
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            // A debt from a slower rate is worked off from the new window's end.
            let debt = seen.clamp(now, now.saturating_add(window));
            let next = debt.saturating_add(interval);
            let limit = now.saturating_add(window);
            if next > limit {
                return Err(Duration::from_nanos(next - limit));
            }
            let swap =
                self.0
                    .compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire);
            match swap {
                Ok(_) => return Ok(()),
                Err(found) => seen = found,
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn containment(id: &str, principal: &str, operation: Option<&str>) -> Containment {
        Containment {
            id: Arc::from(id),
            kind: ContainedKind::User,
            principal: Arc::from(principal),
            service: Arc::from("orders"),
            operation: operation.map(Arc::from),
            action: ContainedAction::Deny,
            until: 100,
            reason: Arc::from("test"),
        }
    }

    fn at(seconds: f64) -> Now {
        Now {
            wall: Duration::from_secs_f64(seconds),
            monotonic: Duration::from_secs_f64(seconds),
        }
    }

    fn set(entries: Vec<Containment>) -> Containments {
        let (set, refused) = Containments::new(entries, &Containments::default());
        assert!(refused.is_empty(), "{refused:?}");
        set
    }

    fn found(set: &Containments, who: &str, service: &str, operation: Option<&str>) -> Vec<String> {
        set.find(ContainedKind::User, who, service, operation, at(99.0))
            .map(|entry| entry.containment.id.to_string())
            .collect()
    }

    #[test]
    fn one_principal_on_one_operation_or_on_all_of_a_service() {
        let set = set(vec![
            containment("one", "shop:bob", Some("orders:getOrder")),
            containment("all", "shop:eve", None),
            Containment {
                kind: ContainedKind::Service,
                ..containment("edge", "storefront", None)
            },
        ]);
        let get = Some("orders:getOrder");
        assert_eq!(found(&set, "shop:bob", "orders", get), ["one"]);
        assert!(found(&set, "shop:bob", "orders", Some("orders:listOrders")).is_empty());
        assert!(found(&set, "shop:bob", "orders", None).is_empty());
        assert!(found(&set, "shop:alice", "orders", get).is_empty());
        assert_eq!(found(&set, "shop:eve", "orders", get), ["all"]);
        assert_eq!(found(&set, "shop:eve", "orders", None), ["all"]);
        assert!(found(&set, "shop:eve", "catalog", None).is_empty());
        assert!(
            found(&set, "storefront", "orders", None).is_empty(),
            "a user named like a service is not that service"
        );
        assert_eq!(set.active(at(99.0)).count(), 3);
    }

    #[test]
    fn it_ends_by_the_clock_that_asks() {
        let set = set(vec![containment("one", "shop:bob", None)]);
        let at = |seconds| {
            set.find(ContainedKind::User, "shop:bob", "orders", None, at(seconds))
                .count()
        };
        assert_eq!((at(99.9), at(100.0), at(1e9)), (1, 0, 0));
    }

    #[test]
    fn some_are_never_contained() {
        let entries = ["anonymous", "gateway", "control", ""]
            .map(|name| containment("x", name, None))
            .into_iter()
            .chain([containment("ok", "shop:bob", None)]);
        let (set, refused) = Containments::new(entries, &Containments::default());
        assert_eq!(refused.len(), 4);
        assert_eq!(set.entries().count(), 1);
    }

    #[test]
    fn the_set_is_bounded() {
        let many = (0..=MAX_ENTRIES).map(|n| containment(&n.to_string(), &format!("u:{n}"), None));
        let (set, refused) = Containments::new(many, &Containments::default());
        assert_eq!(refused, [BadContainment::TooMany]);
        assert_eq!(set.entries().count(), MAX_ENTRIES);
    }

    #[test]
    fn a_throttle_passes_its_rate_and_a_new_set_is_no_new_burst() {
        let throttled = |rate| Containment {
            action: ContainedAction::Throttle(rate),
            ..containment("slow", "shop:bob", None)
        };
        let first = set(vec![throttled(2.0)]);
        let pass = |set: &Containments, seconds| {
            let entry = Arc::clone(set.entries().next().unwrap());
            entry.pass(1, 0, at(seconds))
        };
        assert!(pass(&first, 10.0).is_ok() && pass(&first, 10.0).is_ok());
        let wait = pass(&first, 10.0).unwrap_err().unwrap();
        assert_eq!(wait.as_millis(), 500);
        let (second, _) = Containments::new([throttled(2.0)], &first);
        assert!(pass(&second, 10.1).is_err());
        assert!(pass(&second, 10.6).is_ok());
        let passed = (0..1000).filter(|n| pass(&second, 11.0 + f64::from(*n) / 100.0).is_ok());
        assert!((19..=22).contains(&passed.count()), "2 a second, for 10 s");
        // Ten proxies share it.
        let entry = Arc::clone(set(vec![throttled(1.0)]).entries().next().unwrap());
        assert!(entry.pass(10, 0, at(1.0)).is_ok());
        assert_eq!(
            entry.pass(10, 0, at(1.0)).unwrap_err().unwrap().as_secs(),
            10
        );
        assert!(entry.pass(10, 1, at(1.0)).is_ok(), "one more where asked");
    }

    #[test]
    fn words_are_read() {
        assert_eq!("user".parse(), Ok(ContainedKind::User));
        assert!("address".parse::<ContainedKind>().is_err());
        assert_eq!(ContainedAction::new("deny", 0.0), Ok(ContainedAction::Deny));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(
                ContainedAction::new("throttle", rate),
                Err(BadContainment::Rate)
            );
        }
        assert!(ContainedAction::new("drop", 1.0).is_err());
    }
}
