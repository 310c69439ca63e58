//! What the newest revision lets whom do, worked out once and kept until it changes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use testudo_policy::access::Access;
use testudo_policy::learn::observed::{Calls, Identity};

use crate::Control;
use crate::revisions::Current;

/// Roles that were seen and that the bundle does not name are shown up to so many.
const MAX_ROLES: usize = 200;

/// The matrix of one revision.
#[derive(Default)]
pub struct Views {
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    digest: String,
    roles: BTreeSet<Arc<str>>,
    access: Arc<Access>,
}

impl Control {
    /// The newest revision and its access matrix; `None` before the first revision. Takes up to a second of
    /// computing where the revision is new and large.
    pub fn access(&self) -> Option<(Arc<Current>, Arc<Access>)> {
        let current = self.revisions.current()?;
        let roles = self.observed.with(roles);
        let mut kept = self
            .views
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref()
            && kept.digest == current.digest
            && kept.roles == roles
        {
            return Some((current, Arc::clone(&kept.access)));
        }
        let access = Access::of(&current.config, &current.apis, &current.policies, &roles);
        let access = Arc::new(access);
        *kept = Some(Kept {
            digest: current.digest.clone(),
            roles,
            access: Arc::clone(&access),
        });
        Some((current, access))
    }
}

/// The roles of users who came.
fn roles(calls: &Calls) -> BTreeSet<Arc<str>> {
    let roles = calls.iter().flat_map(|(key, _)| match &key.identity {
        Identity::Roles(roles) => roles.as_slice(),
        Identity::None | Identity::Anonymous => &[],
    });
    let roles: BTreeSet<&String> = roles.collect();
    roles
        .into_iter()
        .take(MAX_ROLES)
        .map(|role| Arc::from(role.as_str()))
        .collect()
}
