//! What Cedar's validator cannot know: names of services and issuers, roles that nobody can have,
//! policies that would silently do nothing.

mod effects;
mod literals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy_core::parser::Loc;
use testudo_guard::authz::{ActionNames, Rule};

use super::vocabulary::Vocabulary;
use crate::api::{ApiModel, OperationModel};
use crate::config::Config;

pub(super) use effects::effects;
pub(super) use literals::literals;

/// What policies are judged against.
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    pub(super) apis: &'a BTreeMap<Arc<str>, ApiModel>,
    pub(super) vocabulary: &'a Vocabulary,
}

/// What is known to be wrong already, so that nothing is said twice.
#[derive(Default)]
pub(super) struct Wrong {
    policies: BTreeSet<usize>,
    places: BTreeSet<(usize, usize, usize)>,
}

impl Wrong {
    pub(super) fn add(&mut self, policy: usize, loc: Option<&Loc>) {
        self.policies.insert(policy);
        if let Some(loc) = loc {
            self.places.insert((policy, loc.start(), loc.end()));
        }
    }

    pub(super) fn has_policy(&self, policy: usize) -> bool {
        self.policies.contains(&policy)
    }

    /// Whether something was said about this very place.
    pub(super) fn has_place(&self, policy: usize, loc: Option<&Loc>) -> bool {
        loc.is_some_and(|loc| self.places.contains(&(policy, loc.start(), loc.end())))
    }
}

impl<'a> Context<'a> {
    /// Every operation with its service's API.
    pub(super) fn operations(&self) -> impl Iterator<Item = (&'a ApiModel, &'a OperationModel)> {
        self.apis
            .values()
            .flat_map(|api| api.operations.iter().map(move |operation| (api, operation)))
    }

    /// The operations that a policy's scope admits.
    pub(super) fn covered(&self, rule: &Rule) -> Vec<(&'a ApiModel, &'a OperationModel)> {
        self.operations()
            .filter(|(api, operation)| {
                // Names are put together only where one of them could matter.
                rule.may_cover(&api.service)
                    && rule.covers(&ActionNames::new(
                        &api.service,
                        &operation.name,
                        &operation.method,
                    ))
            })
            .collect()
    }
}
