//! The policies of one operation and one kind of principal, indexed by principal.

use std::collections::HashMap;
use std::sync::Arc;

use cedar_policy_core::ast::Expr;
use smallvec::SmallVec;
use testudo_model::PolicyRef;

use super::context::Asked;
use super::directory::Directory;
use super::outlook::Outcome;
use super::rule::{Reads, Rule, Who};
use super::{Decision, User};

/// Indexes into `Slice::entries`, ascending.
pub(super) type Candidates = SmallVec<[u32; 16]>;

/// Forbids first, then permits, each in the order of the bundle: the first that applies decides.
#[derive(Default)]
pub(super) struct Slice {
    entries: Vec<Entry>,
    reads: Reads,
    /// Whose scope holds for every principal of this kind.
    everyone: Candidates,
    by_role: Index,
    by_id: Index,
}

type Index = HashMap<Arc<str>, Candidates, ahash::RandomState>;

struct Entry {
    forbids: bool,
    condition: Option<Arc<Expr>>,
    reads: Reads,
    source: PolicyRef,
}

/// Where a slice keeps a policy.
enum Place {
    Everyone,
    Role(Arc<str>),
    Id(Arc<str>),
    Nowhere,
}

impl Slice {
    /// Policies that can apply to users with a credential.
    pub(super) fn of_users(rules: &[&Rule]) -> Self {
        Slice::new(rules, |who| match who {
            Who::Everyone | Who::Users => Place::Everyone,
            Who::Role(role) => Place::Role(role.clone()),
            Who::User(id) => Place::Id(id.clone()),
            Who::Anonymous
            | Who::Services
            | Who::Service(_)
            | Who::ServiceRole(_)
            | Who::Nobody => Place::Nowhere,
        })
    }

    /// Policies that can apply to `Anonymous::"anonymous"`.
    pub(super) fn of_anonymous(rules: &[&Rule]) -> Self {
        Slice::new(rules, |who| match who {
            Who::Everyone | Who::Anonymous => Place::Everyone,
            Who::Users
            | Who::User(_)
            | Who::Role(_)
            | Who::Services
            | Who::Service(_)
            | Who::ServiceRole(_)
            | Who::Nobody => Place::Nowhere,
        })
    }

    /// Policies that can apply to services. The roles of each are known, so that one look-up by name
    /// gives all of its candidates.
    pub(super) fn of_callers(rules: &[&Rule], directory: &Directory) -> Self {
        let mut slice = Slice::new(rules, |who| match who {
            Who::Everyone | Who::Services => Place::Everyone,
            Who::ServiceRole(role) => Place::Role(role.clone()),
            Who::Service(name) => Place::Id(name.clone()),
            Who::Users | Who::User(_) | Who::Role(_) | Who::Anonymous | Who::Nobody => {
                Place::Nowhere
            }
        });
        let mut by_name = Index::default();
        for (name, service) in directory.services() {
            // Whom nothing names has the candidates that everyone has.
            let named = slice.by_id.contains_key(name)
                || service
                    .roles
                    .iter()
                    .any(|role| slice.by_role.contains_key(role));
            if named {
                by_name.insert(name.clone(), slice.candidates(name, &service.roles));
            }
        }
        slice.by_id = by_name;
        slice.by_role = Index::default();
        slice
    }

    fn new(rules: &[&Rule], place: impl Fn(&Who) -> Place) -> Self {
        let mut slice = Slice {
            entries: Vec::new(),
            reads: Reads::default(),
            everyone: Candidates::new(),
            by_role: Index::default(),
            by_id: Index::default(),
        };
        let (forbids, permits): (Vec<&Rule>, Vec<&Rule>) =
            rules.iter().partition(|rule| rule.forbids());
        for rule in forbids.into_iter().chain(permits) {
            let Ok(index) = u32::try_from(slice.entries.len()) else {
                break;
            };
            match place(&rule.who) {
                Place::Everyone => slice.everyone.push(index),
                Place::Role(role) => slice.by_role.entry(role).or_default().push(index),
                Place::Id(id) => slice.by_id.entry(id).or_default().push(index),
                Place::Nowhere => continue,
            }
            slice.reads = slice.reads.and(rule.reads);
            slice.entries.push(Entry {
                forbids: rule.forbids(),
                condition: rule.condition().cloned(),
                reads: rule.reads,
                source: rule.source.clone(),
            });
        }
        slice
    }

    /// How many policies there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What they read, all together.
    pub(super) fn reads(&self) -> Reads {
        self.reads
    }

    /// The policies that hold for every principal of this kind.
    pub(super) fn everyone(&self) -> &Candidates {
        &self.everyone
    }

    /// The policies whose scope holds for this user.
    pub(super) fn candidates_of_user(&self, user: &User) -> Candidates {
        self.candidates(&user.id, &user.roles)
    }

    /// The policies whose scope holds for this service of the directory.
    pub(super) fn candidates_of_service(&self, name: &str) -> &Candidates {
        self.by_id.get(name).unwrap_or(&self.everyone)
    }

    fn candidates(&self, id: &str, roles: &[Arc<str>]) -> Candidates {
        let mut candidates = self.everyone.clone();
        if let Some(more) = self.by_id.get(id) {
            candidates.extend_from_slice(more);
        }
        if !self.by_role.is_empty() {
            for role in roles {
                if let Some(more) = self.by_role.get(role) {
                    candidates.extend_from_slice(more);
                }
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }

    fn chosen(&self, candidates: &Candidates) -> impl Iterator<Item = &Entry> + Clone {
        candidates
            .iter()
            .filter_map(|index| self.entries.get(usize::try_from(*index).ok()?))
    }

    /// What these candidates decide whatever the request holds.
    pub(super) fn outcome(&self, candidates: &Candidates) -> Outcome {
        let (mut forbids, mut always, mut sometimes) = (None, None, None);
        for entry in self.chosen(candidates) {
            match (entry.forbids, &entry.condition) {
                (true, None) => return Outcome::Deny(Some(entry.source.clone())),
                (true, Some(_)) => forbids = forbids.or(Some(&entry.source)),
                (false, None) => always = always.or(Some(&entry.source)),
                (false, Some(_)) => sometimes = sometimes.or(Some(&entry.source)),
            }
        }
        match (always, sometimes, forbids) {
            (Some(_), _, Some(source)) | (None, Some(source), _) => {
                Outcome::Depends(source.clone())
            }
            (Some(source), _, None) => Outcome::Permit(source.clone()),
            (None, None, _) => Outcome::Deny(None),
        }
    }

    /// The same where the question is only whether one forbids: otherwise `source` permits.
    pub(super) fn outcome_of_forbids(
        &self,
        candidates: &Candidates,
        source: &PolicyRef,
    ) -> Outcome {
        let mut forbids = self.chosen(candidates).filter(|entry| entry.forbids);
        match forbids.clone().find(|entry| entry.condition.is_none()) {
            Some(entry) => Outcome::Deny(Some(entry.source.clone())),
            None => match forbids.next() {
                Some(entry) => Outcome::Depends(entry.source.clone()),
                None => Outcome::Permit(source.clone()),
            },
        }
    }

    /// Decides by these candidates: the first `forbid` that applies; else any error; else the first
    /// permit that applies.
    pub(super) fn decide(&self, candidates: &Candidates, asked: &Asked<'_>) -> Decision {
        let reads = self
            .chosen(candidates)
            .fold(Reads::default(), |reads, entry| reads.and(entry.reads));
        let evaluation = asked.evaluation(reads);
        let mut error = None;
        let mut permit = None;
        for entry in self.chosen(candidates) {
            let applies = match &entry.condition {
                None => Ok(true),
                Some(condition) => asked
                    .refuses(condition)
                    .and_then(|()| evaluation.holds(condition)),
            };
            match applies {
                Ok(false) => {}
                Ok(true) if entry.forbids => return Decision::Forbid(entry.source.clone()),
                Ok(true) => permit = permit.or(Some(&entry.source)),
                Err(detail) => error = error.or(Some((&entry.source, detail))),
            }
        }
        match (error, permit) {
            (Some((source, detail)), _) => Decision::Error {
                policy: Some(source.clone()),
                detail,
            },
            (None, Some(source)) => Decision::Permit(source.clone()),
            (None, None) => Decision::Default,
        }
    }
}
