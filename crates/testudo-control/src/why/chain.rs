//! The hops of one trace in the order in which they followed from each other: caller before service, and
//! the gaps where one must have been that is not kept.

use testudo_model::{Event, Hop, Reason, Verdict};
use testudo_policy::config::Sidecar;

use super::{HopView, Knowledge, is_refused_outbound};

/// Differences of clocks between hosts that are forgiven (microseconds).
const SKEW: i64 = 250_000;

/// Hops, caller before service.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// In order.
    pub hops: Vec<Link>,
    /// Hops that must exist and are not kept.
    pub gaps: Vec<Gap>,
}

/// One hop and what led to it.
#[derive(Clone, Debug)]
pub struct Link {
    /// What was recorded.
    pub event: Event,
    /// `edge`, `mesh 1`, …
    pub at: String,
    /// The hop that led here.
    pub parent: Option<usize>,
    /// How many hops led here.
    pub depth: usize,
}

/// A hop that must exist and is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// `edge`, `mesh 1`, …
    pub at: String,
    /// Who called, where that is known.
    pub caller: Option<String>,
    /// Who was called; `gateway` for the edge.
    pub service: String,
    /// It stands before this one of the hops; `None`: behind all.
    pub before: Option<usize>,
}

/// A gap before it has a place.
struct Hole {
    caller: Option<String>,
    service: String,
}

/// What follows from one event.
#[derive(Default)]
struct Node {
    parent: Option<usize>,
    children: Vec<usize>,
    /// Missing between the parent (or the beginning) and this one.
    above: Vec<Hole>,
    /// Missing behind this one.
    below: Option<Hole>,
}

impl Chain {
    /// Orders the events of one trace.
    #[must_use]
    pub fn new(mut events: Vec<Event>, knowledge: Option<Knowledge<'_>>) -> Chain {
        // An edge hop and those of the mesh may begin within one microsecond of each other.
        events.sort_by_key(|event| (event.time, event.hop == Hop::Mesh));
        events.dedup_by(|a, b| {
            (&a.proxy, &a.request_id, a.time, &a.service)
                == (&b.proxy, &b.request_id, b.time, &b.service)
        });
        let mut nodes: Vec<Node> = (0..events.len())
            .map(|index| Node {
                parent: parent(&events, index),
                ..Node::default()
            })
            .collect();
        let edge = events.iter().position(|event| event.hop == Hop::Edge);
        for (index, event) in events.iter().enumerate() {
            let Some(node) = nodes.get_mut(index) else {
                continue;
            };
            if node.parent.is_none() && event.hop == Hop::Mesh {
                node.above = holes_above(event, edge.and_then(|edge| events.get(edge)));
                node.parent = edge.filter(|_| !node.above.is_empty());
            }
            if let Some(parent) = node.parent
                && let Some(parent) = nodes.get_mut(parent)
            {
                parent.children.push(index);
            }
        }
        for (node, event) in nodes.iter_mut().zip(&events) {
            if node.children.is_empty() && must_go_on(event, knowledge) {
                node.below = event.service.clone().map(|service| Hole {
                    caller: Some("gateway".to_owned()),
                    service,
                });
            }
        }
        Order {
            events: events.into_iter().map(Some).collect(),
            nodes,
            chain: Chain::default(),
            mesh: 0,
        }
        .run()
    }

    /// As the API shows them.
    #[must_use]
    pub fn into_views(self) -> Vec<HopView> {
        self.hops
            .into_iter()
            .map(|mut link| HopView {
                at: link.at,
                parent: link.parent,
                checks: std::mem::take(&mut link.event.checks),
                event: link.event,
            })
            .collect()
    }

    /// The hop that led to this one, if it is kept.
    #[must_use]
    pub fn parent_of(&self, index: usize) -> Option<&Link> {
        // Where a hop is missing in between, its parent was not this one.
        if self.gaps.iter().any(|gap| gap.before == Some(index)) {
            return None;
        }
        self.hops.get(self.hops.get(index)?.parent?)
    }

    /// Whether the hop that led to this one must exist and is not kept.
    #[must_use]
    pub fn parent_is_missing(&self, index: usize) -> bool {
        self.gaps.iter().any(|gap| gap.before == Some(index))
    }
}

/// The event that led to this one.
fn parent(events: &[Event], index: usize) -> Option<usize> {
    let event = events.get(index)?;
    let caller = event.caller.as_deref()?;
    if event.hop == Hop::Edge {
        return None;
    }
    let led = |other: &Event| match caller {
        "gateway" => other.hop == Hop::Edge && other.service == event.service,
        _ => other.service.as_deref() == Some(caller) && is_inbound(other),
    };
    let mut best = None;
    for (at, other) in events.iter().enumerate() {
        let age = event.time.as_microsecond() - other.time.as_microsecond();
        let later = at > index;
        // The other way round only where clocks differ, and never for a service that calls itself.
        if at == index || !led(other) || (later && (age < -SKEW || other.caller == event.service)) {
            continue;
        }
        let lasted = i64::try_from(other.duration_us).unwrap_or(i64::MAX);
        let open = age <= lasted.saturating_add(SKEW);
        let same = other.request_id == event.request_id;
        let candidate = (same, open, !later, -age.saturating_abs(), at);
        if best.is_none_or(|best| candidate > best) {
            best = Some(candidate);
        }
    }
    best.map(|(.., at)| at)
}

fn is_inbound(event: &Event) -> bool {
    event.hop == Hop::Mesh && !is_refused_outbound(event)
}

/// What must have come before a mesh hop whose caller's own hop is not there.
fn holes_above(event: &Event, edge: Option<&Event>) -> Vec<Hole> {
    let hole = |caller: Option<&str>, service: &str| Hole {
        caller: caller.map(str::to_owned),
        service: service.to_owned(),
    };
    match event.caller.as_deref() {
        Some("gateway") => vec![hole(None, "gateway")],
        Some(caller) => match edge {
            // Between the edge and here there was its hop, called by the gateway or by one further on.
            Some(edge) if edge.service.as_deref() == Some(caller) => {
                vec![hole(Some("gateway"), caller)]
            }
            Some(_) => vec![hole(None, caller)],
            // A user comes with a token, and that came from somewhere.
            None if event.user.is_some() => vec![hole(None, caller)],
            None => Vec::new(),
        },
        None => Vec::new(),
    }
}

/// Whether the gateway passed this on to a sidecar.
fn must_go_on(event: &Event, knowledge: Option<Knowledge<'_>>) -> bool {
    let Some(service) = &event.service else {
        return false;
    };
    let passed = event.verdict == Verdict::Permit || event.reason == Some(Reason::SchemaResponse);
    let answered_here = event.checks.iter().any(|check| check.name == "cors");
    let plain = knowledge
        .and_then(|knowledge| knowledge.config.services.get(service.as_str()))
        .is_some_and(|service| matches!(service.sidecar, Sidecar::None(_)));
    event.hop == Hop::Edge && passed && !answered_here && !plain && event.status.is_some()
}

/// Walks the tree, roots first, each with all that follows from it.
struct Order {
    events: Vec<Option<Event>>,
    nodes: Vec<Node>,
    chain: Chain,
    mesh: usize,
}

impl Order {
    fn run(mut self) -> Chain {
        // Events that wait, with the place and depth of what led to them; the next one last.
        let mut waiting: Vec<(usize, Option<usize>, usize)> = (0..self.nodes.len())
            .rev()
            .filter(|index| {
                let node = self.nodes.get(*index);
                node.is_some_and(|node| node.parent.is_none())
            })
            .map(|index| (index, None, 0))
            .collect();
        while let Some((index, parent, depth)) = waiting.pop() {
            let Some(place) = self.add(index, parent, depth) else {
                continue;
            };
            let children = self.nodes.get(index).map(|node| node.children.as_slice());
            let children = children.unwrap_or_default().iter().rev();
            waiting.extend(children.map(|child| (*child, Some(place), depth + 1)));
        }
        self.chain
    }

    fn add(&mut self, index: usize, parent: Option<usize>, depth: usize) -> Option<usize> {
        let event = self.events.get_mut(index)?.take()?;
        let place = self.chain.hops.len();
        let node = self.nodes.get_mut(index)?;
        let (above, below) = (std::mem::take(&mut node.above), node.below.take());
        for hole in above {
            self.gap(hole, Some(place));
        }
        let at = match event.hop {
            Hop::Edge => "edge".to_owned(),
            Hop::Mesh => self.next_mesh(),
        };
        self.chain.hops.push(Link {
            event,
            at,
            parent,
            depth,
        });
        if let Some(hole) = below {
            self.gap(hole, None);
        }
        Some(place)
    }

    fn gap(&mut self, hole: Hole, before: Option<usize>) {
        let at = match hole.service.as_str() {
            "gateway" => "edge".to_owned(),
            _ => self.next_mesh(),
        };
        self.chain.gaps.push(Gap {
            at,
            caller: hole.caller,
            service: hole.service,
            before,
        });
    }

    fn next_mesh(&mut self) -> String {
        self.mesh += 1;
        format!("mesh {}", self.mesh)
    }
}
