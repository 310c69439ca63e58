//! What several detectors need of principals: which of them to look at, and the sums over a minute of
//! what they did.

use testudo_model::Hop;

use super::Context;
use super::sliding::{Sum, keep_samples};
use crate::window::{Distinct, MergedWindow, Outcome, Principal, PrincipalKey, PrincipalStats};

/// Principals where they are judged: users once, addresses at the edge, services in the mesh.
pub(super) fn judged<'w>(
    window: &'w MergedWindow,
    context: &Context<'_>,
) -> impl Iterator<Item = (&'w PrincipalKey, &'w PrincipalStats)> {
    let user_hop = context.user_hop();
    window
        .counts
        .principals
        .iter()
        .filter(move |(key, _)| match key.principal {
            Principal::User(_) => key.hop == user_hop,
            Principal::Address(_) => key.hop == Hop::Edge,
            Principal::Service(_) => key.hop == Hop::Mesh,
        })
}

/// Request ids, those of requests that were stopped first.
pub(super) fn samples<'s>(all: impl Iterator<Item = (Outcome, &'s str)>) -> Vec<String> {
    let mut ids: Vec<(bool, &str)> = all
        .map(|(outcome, id)| (outcome == Outcome::Permitted, id))
        .collect();
    ids.sort_by_key(|(permitted, _)| *permitted);
    ids.into_iter().map(|(_, id)| id.to_owned()).collect()
}

/// A count with request ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) count: u64,
    pub(super) samples: Vec<String>,
}

impl Sum for Counted {
    fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        keep_samples(&mut self.samples, other.samples.iter().cloned());
    }
}

/// Distinct values with a count and request ids.
#[derive(Clone, Debug, Default)]
pub(super) struct DistinctCounted {
    pub(super) distinct: Distinct,
    pub(super) count: u64,
    pub(super) samples: Vec<String>,
}

impl Sum for DistinctCounted {
    fn merge(&mut self, other: &Self) {
        self.distinct.merge(&other.distinct);
        self.count = self.count.saturating_add(other.count);
        keep_samples(&mut self.samples, other.samples.iter().cloned());
    }
}

/// A count as a number to compare with.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}
