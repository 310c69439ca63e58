//! The names that policies may use: roles, services, issuers, claims and labels of the bundle.

use std::collections::BTreeSet;
use std::sync::Arc;

use testudo_guard::authn::API_KEY_ISSUER;
use testudo_guard::authz::GATEWAY;

use crate::bundle::Bundle;
use crate::config::Config;
use crate::diagnostic::Diagnostics;
use crate::yaml::{self, Node, Value};

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
    /// Declared claims.
    pub(super) claims: BTreeSet<Arc<str>>,
    /// Labels that a service has.
    pub(super) labels: BTreeSet<Arc<str>>,
}

impl Vocabulary {
    /// Of a bundle.
    pub(super) fn of(bundle: &Bundle, config: &Config) -> Self {
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
            claims: BTreeSet::new(),
            labels: services()
                .flat_map(|service| service.labels.keys().cloned())
                .collect(),
        };
        if let Some(users) = &config.users {
            vocabulary.add_issuers(users);
            if let Some((path, _)) = &users.api_keys {
                vocabulary.issuers.insert(API_KEY_ISSUER.into());
                let roles = api_key_roles(bundle, path);
                vocabulary
                    .roles
                    .iter_mut()
                    .for_each(|known| known.extend(roles.iter().cloned()));
            }
        }
        vocabulary
    }

    fn add_issuers(&mut self, users: &crate::config::Users) {
        for issuer in &users.jwt {
            self.issuers.insert(issuer.name.clone());
            self.claims.extend(issuer.claims.keys().cloned());
            let Some(roles) = &issuer.roles else {
                continue;
            };
            if roles.allow.is_empty() {
                self.roles = None;
            } else if let Some(known) = &mut self.roles {
                known.extend(roles.allow.iter().cloned());
            }
        }
    }
}

/// The roles that the file of API keys gives. What is wrong with the file itself is said elsewhere.
fn api_key_roles(bundle: &Bundle, path: &str) -> BTreeSet<Arc<str>> {
    let mut roles = BTreeSet::new();
    let Some(content) = bundle.content(path) else {
        return roles;
    };
    let Some(root) = yaml::parse(path, content, &mut Diagnostics::default()) else {
        return roles;
    };
    let mut rest = vec![&root];
    while let Some(node) = rest.pop() {
        match &node.value {
            Value::Seq(items) => rest.extend(items),
            Value::Map(entries) => {
                for (key, value) in entries {
                    if key.name == "roles" {
                        roles.extend(strings(value));
                    }
                    rest.push(value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {}
        }
    }
    roles
}

fn strings(node: &Node) -> Vec<Arc<str>> {
    let Value::Seq(items) = &node.value else {
        return Vec::new();
    };
    items
        .iter()
        .filter_map(|item| match &item.value {
            Value::String(text) => Some(text.as_str().into()),
            _ => None,
        })
        .collect()
}
