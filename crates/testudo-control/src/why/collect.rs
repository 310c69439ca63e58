//! `why` for a running mesh: what control still knows, and what the proxies' rings keep.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use testudo_model::mesh::Find;
use testudo_model::{Event, Hop};

use super::{Evidence, Knowledge, KnownProxy, Target, Why, explain};
use crate::Control;
use crate::decisions::Filter;

/// Clocks may differ so much (microseconds) between proxies: segments that ended earlier are not read.
const CLOCKS: i64 = 300 * 1_000_000;

/// Until the evidence of a request that has just been answered is written.
const SOON: Duration = Duration::from_millis(250);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotKept {
    /// Proxies that could not be asked, and why.
    pub silent: BTreeMap<String, String>,
}

/// Gathers all hops and explains them.
///
/// # Errors
/// Where no proxy keeps the request.
pub async fn why(control: &Control, target: Target<'_>) -> Result<Why, NotKept> {
    let mut silent = BTreeMap::new();
    let begun = Instant::now();
    let mut first = first_hop(control, target, &mut silent).await;
    // Where a proxy was waited for in vain, that was long enough.
    if first.is_none() && begun.elapsed() < SOON {
        // Somebody who asks at once is quicker than the evidence: it is written when an answer has been sent.
        tokio::time::sleep(SOON).await;
        first = first_hop(control, target, &mut silent).await;
    }
    let proxies = known_proxies(control, &mut silent);
    let Some(first) = first else {
        return Err(NotKept { silent });
    };
    let mut events = of_trace(control, &first, &mut silent).await;
    let filter = Filter {
        trace_id: Some(first.trace_id.clone()),
        ..Filter::default()
    };
    // What proxies told before: one of them may be gone.
    let told = control.decisions.newest(&filter, 64);
    for event in told
        .iter()
        .map(|event| Event::clone(event))
        .chain([first.clone()])
    {
        if !events.iter().any(|known| is_same(known, &event)) {
            events.push(event);
        }
    }
    let current = control.revisions.current();
    let knowledge = current.as_ref().map(|current| Knowledge {
        config: &current.config,
        apis: &current.apis,
        policies: &current.policies,
        revision: Some(current.number),
    });
    let evidence = Evidence {
        request_id: &first.request_id,
        events,
        silent: silent.clone(),
        proxies,
        knowledge,
    };
    explain(evidence).ok_or(NotKept { silent })
}

fn is_same(a: &Event, b: &Event) -> bool {
    (&a.proxy, &a.request_id, a.time, &a.service) == (&b.proxy, &b.request_id, b.time, &b.service)
}

/// An event of the request: from memory where control still knows it, else from the rings.
async fn first_hop(
    control: &Control,
    target: Target<'_>,
    silent: &mut BTreeMap<String, String>,
) -> Option<Event> {
    let (question, told) = match target {
        Target::Request(id) => {
            let filter = Filter {
                request_id: Some(id.to_owned()),
                ..Filter::default()
            };
            let told = control.decisions.newest(&filter, 64);
            let question = Find {
                request_id: id.to_owned(),
                not_before: time_of_id(id).map_or(0, early),
                ..Find::default()
            };
            (
                question,
                earliest(told.iter().map(|event| Event::clone(event))),
            )
        }
        Target::LastDenial | Target::Last => {
            let any = matches!(target, Target::Last);
            let question = Find {
                last: if any { "any" } else { "denial" }.to_owned(),
                ..Find::default()
            };
            (
                question,
                control
                    .decisions
                    .last(any)
                    .map(|event| Event::clone(&event)),
            )
        }
    };
    if told.is_some() {
        return told;
    }
    let gathered = control.searches.ask(&control.fleet, question).await;
    silent.extend(gathered.silent);
    match target {
        Target::Request(_) => earliest(gathered.events.into_iter()),
        Target::LastDenial | Target::Last => {
            gathered.events.into_iter().max_by_key(|event| event.time)
        }
    }
}

/// The first hop names the trace: further in, ids are given anew.
fn earliest(events: impl Iterator<Item = Event>) -> Option<Event> {
    events.min_by_key(|event| (event.hop == Hop::Mesh, event.time))
}

/// All that the rings keep of the trace.
async fn of_trace(
    control: &Control,
    first: &Event,
    silent: &mut BTreeMap<String, String>,
) -> Vec<Event> {
    if first.trace_id.is_empty() {
        return Vec::new();
    }
    let question = Find {
        trace_id: first.trace_id.clone(),
        not_before: early(first.time.as_microsecond()),
        ..Find::default()
    };
    let gathered = control.searches.ask(&control.fleet, question).await;
    silent.extend(gathered.silent);
    gathered.events
}

fn early(micros: i64) -> u64 {
    u64::try_from(micros.saturating_sub(CLOCKS)).unwrap_or(0)
}

/// When an id of ours was made (UUIDv7, RFC 9562 §5.7), in microseconds.
fn time_of_id(id: &str) -> Option<i64> {
    let (seconds, nanos) = uuid::Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    micros.checked_add(i64::from(nanos / 1000))
}

/// Proxies of the mesh; those that are not connected are silent.
fn known_proxies(control: &Control, silent: &mut BTreeMap<String, String>) -> Vec<KnownProxy> {
    let of = |role: &str, service: Option<&String>| match service {
        Some(service) if role != "gateway" => service.clone(),
        _ => "gateway".to_owned(),
    };
    let connected = control.fleet.proxies();
    let mut proxies: Vec<KnownProxy> = connected
        .into_iter()
        .map(|proxy| KnownProxy {
            service: of(&proxy.role, proxy.service.as_ref()),
            name: proxy.name,
            advertise: Some(proxy.advertise),
        })
        .collect();
    let now = crate::unix_now();
    for stored in control.store.proxies().unwrap_or_default() {
        let gone = stored.not_after < now || control.is_revoked(&stored.spiffe_id, &stored.serial);
        if gone || proxies.iter().any(|proxy| proxy.name == stored.name) {
            continue;
        }
        silent.insert(stored.name.clone(), "not connected".to_owned());
        proxies.push(KnownProxy {
            service: of(&stored.role, stored.service.as_ref()),
            name: stored.name,
            advertise: None,
        });
    }
    proxies
}
