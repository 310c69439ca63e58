//! What is unusual in the traffic: pure functions over merged windows.
//!
//! Each detector has a file that says what it looks for, what it remembers and which knobs it has. All
//! of them see every window in order ([`Detectors::detect`]) and say what they found as [`Anomaly`]s;
//! grouping these into incidents, telling people and containing somebody is control's.
//!
//! Rules that hold for all of them (DESIGN §11): only verified users and proven services are credited, so
//! nobody is accused by another's forged tokens; addresses are named but can never be contained; a
//! deployment is context ([`Deploys`]), not an alarm; memory is bounded, and what finds no room is not
//! judged.

mod anomaly;
mod denials;
mod deploys;
mod dropped_user;
mod enumeration;
mod errors;
mod keyed;
mod latency;
mod new_edge;
mod probing;
mod rate;
mod references;
mod scan;
mod settings;
mod sliding;
mod stuffing;
mod token_sharing;
mod undocumented;
mod usual;
mod volume;

use serde::{Deserialize, Serialize};

use crate::window::MergedWindow;

pub use anomaly::{Anomaly, Comparison, Detector, Severity, Subject, SubjectKind, Target};
pub use deploys::Deploys;
pub use references::Reference;
pub use settings::{KnobError, Settings};

/// What detectors may know besides the window.
pub struct Context<'a> {
    /// The end of the window, in seconds since the epoch.
    pub now: u64,
    /// When this mesh was first watched.
    pub since: u64,
    /// The knobs.
    pub settings: &'a Settings,
    /// Deployments so far.
    pub deploys: &'a Deploys,
    /// Whether users arrive at a gateway; else they are judged where they are first seen, in the mesh.
    pub has_edge: bool,
}

impl Context<'_> {
    /// For how long the mesh has been watched, in seconds.
    pub fn age(&self) -> u64 {
        self.now.saturating_sub(self.since)
    }

    /// Where users are judged: once, however many hops their requests take.
    fn user_hop(&self) -> testudo_model::Hop {
        if self.has_edge {
            testudo_model::Hop::Edge
        } else {
            testudo_model::Hop::Mesh
        }
    }
}

/// One detector: state, and a pure step.
trait Detect {
    /// Which one it is.
    const DETECTOR: Detector;

    /// Takes in a window; windows come in order.
    fn detect(&mut self, window: &MergedWindow, context: &Context<'_>) -> Vec<Anomaly>;
}

/// All detectors with what they learned. Serializable: baselines survive restarts, sums over the last
/// minute do not.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Detectors {
    /// When the first window came; 0: none yet.
    since: u64,
    last_edge: u64,
    deploys: Deploys,
    enumeration: enumeration::Enumeration,
    token_sharing: token_sharing::TokenSharing,
    stuffing: stuffing::Stuffing,
    scan: scan::Scan,
    volume: volume::Volume,
    dropped_user: dropped_user::DroppedUser,
    new_edge: new_edge::NewEdge,
    undocumented: undocumented::Undocumented,
    probing: probing::Probing,
    denials: denials::Denials,
    errors: errors::Errors,
    latency: latency::Latency,
    rate: rate::Rate,
}

/// How long the edge counts as there after its last event.
const EDGE_SEEN: u64 = 3600;

impl Detectors {
    /// Nothing learned yet.
    pub fn new() -> Detectors {
        Detectors::default()
    }

    /// Deployments so far.
    pub fn deploys(&self) -> &Deploys {
        &self.deploys
    }

    /// Takes in the next window: what is unusual in it, the most specific detectors first.
    pub fn detect(&mut self, window: &MergedWindow, settings: &Settings) -> Vec<Anomaly> {
        if self.since == 0 {
            self.since = window.start;
        }
        self.deploys.take_in(window);
        let is_edge = |key: &crate::window::EdgeKey| key.hop == testudo_model::Hop::Edge;
        if window.counts.edges.keys().any(is_edge) {
            self.last_edge = window.start;
        }
        let context = Context {
            now: window.end(),
            since: self.since,
            settings,
            deploys: &self.deploys,
            has_edge: window.start.saturating_sub(self.last_edge) < EDGE_SEEN,
        };
        let mut found = Vec::new();
        run(&mut self.enumeration, window, &context, &mut found);
        run(&mut self.token_sharing, window, &context, &mut found);
        run(&mut self.stuffing, window, &context, &mut found);
        run(&mut self.scan, window, &context, &mut found);
        run(&mut self.volume, window, &context, &mut found);
        run(&mut self.dropped_user, window, &context, &mut found);
        run(&mut self.new_edge, window, &context, &mut found);
        run(&mut self.undocumented, window, &context, &mut found);
        run(&mut self.probing, window, &context, &mut found);
        run(&mut self.denials, window, &context, &mut found);
        run(&mut self.errors, window, &context, &mut found);
        run(&mut self.latency, window, &context, &mut found);
        run(&mut self.rate, window, &context, &mut found);
        found
    }
}

/// A detector that is off learns all the same, so that switching it on starts from what is usual.
fn run<D: Detect>(
    detector: &mut D,
    window: &MergedWindow,
    context: &Context<'_>,
    found: &mut Vec<Anomaly>,
) {
    let anomalies = detector.detect(window, context);
    if !context.settings.is_off(D::DETECTOR) {
        found.extend(anomalies);
    }
}

#[cfg(test)]
mod tests;
