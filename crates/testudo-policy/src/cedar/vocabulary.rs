//! The names that policies may use: roles, services, issuers, claims and labels of the bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use testudo_guard::authn::API_KEY_ISSUER;
use testudo_guard::authz::{ClaimKind, GATEWAY};

use crate::config::{Config, Users};

/// What policies can be written about.
pub(super) struct Vocabulary {
    /// Roles that users can have; `None`: an issuer without `allow` may give any.
    pub(super) roles: Option<BTreeSet<Arc<str>>>,
    /// Roles of services.
    pub(super) service_roles: BTreeSet<Arc<str>>,
    /// Services and the gateway.
    pub(super) services: BTreeSet<Arc<str>>,
    /// Short names of issuers, `key` among them where there are API keys.
    pub(super) issuers: BTreeSet<Arc<str>>,
    /// Declared claims, as policies use them.
    pub(super) claims: BTreeMap<Arc<str>, ClaimKind>,
    /// Labels that a service has.
    pub(super) labels: BTreeSet<Arc<str>>,
}

impl Vocabulary {
    /// Of a bundle.
    pub(super) fn of(config: &Config, kinds: &BTreeMap<Arc<str>, ClaimKind>) -> Self {
        let services = || config.services.values();
        let mut vocabulary = Vocabulary {
            roles: Some(BTreeSet::new()),
            service_roles: services()
                .flat_map(|service| &service.roles)
                .map(|(role, _)| role.clone())
                .collect(),
            services: services()
                .map(|service| service.name.clone())
                .chain([GATEWAY.into()])
                .collect(),
            issuers: BTreeSet::new(),
            claims: BTreeMap::new(),
            labels: services()
                .flat_map(|service| service.labels.keys().cloned())
                .collect(),
        };
        if let Some(users) = &config.users {
            vocabulary.add_issuers(users, kinds);
            if let Some(file) = &users.api_keys {
                vocabulary.issuers.insert(API_KEY_ISSUER.into());
                let roles = file.keys.iter().flat_map(|key| &key.roles);
                if let Some(known) = &mut vocabulary.roles {
                    known.extend(roles.map(|(role, _)| role.clone()));
                }
            }
        }
        vocabulary
    }

    fn add_issuers(&mut self, users: &Users, kinds: &BTreeMap<Arc<str>, ClaimKind>) {
        for issuer in &users.jwt {
            self.issuers.insert(issuer.name.clone());
            let kind = |name: &Arc<str>| kinds.get(name).copied().unwrap_or_default();
            let claims = issuer.claims.keys();
            self.claims
                .extend(claims.map(|name| (name.clone(), kind(name))));
            let Some(roles) = &issuer.roles else {
                continue;
            };
            match (&roles.allow, &mut self.roles) {
                (None, _) => self.roles = None,
                (Some(allowed), Some(known)) => {
                    known.extend(allowed.iter().map(|(role, _)| role.clone()));
                }
                (Some(_), None) => {}
            }
        }
    }
}
