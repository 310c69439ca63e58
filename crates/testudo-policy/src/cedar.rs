//! Cedar: the schema generated from the APIs, policies with diagnostics, and their slices for each operation.
//!
//! `source` reads files into rules with places, `schema` generates the Cedar schema, `validate` and `lint`
//! say what is wrong with a policy or would silently do nothing, `can` answers for people, and
//! `dead_ends` follows a user's request through the mesh. The slices themselves are guard's
//! ([`testudo_guard::authz`]).

mod can;
mod dead_ends;
mod lint;
mod schema;
mod source;
mod suggest;
mod validate;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use testudo_guard::authz::{
    ActionNames, ClaimKind, Directory, OperationPolicies, Outcome, Outlook, Rule, Who, claim_kinds,
};

use crate::api::{ApiModel, OperationModel};
use crate::bundle::Bundle;
use crate::config::Config;
use crate::diagnostic::{Diagnostics, Span};

pub use can::{Answer, Principal, Question, QuestionError};
pub use dead_ends::dead_ends;

use source::Source;
use vocabulary::Vocabulary;

/// All policies of a bundle (or of the parts that one proxy has), ready to be sliced.
pub struct Compiled {
    policies: Vec<CompiledPolicy>,
    rules: Vec<Arc<Rule>>,
    /// `None` only where Cedar refused what it should always accept; then nothing is permitted.
    directory: Option<Arc<Directory>>,
    vocabulary: Vocabulary,
}

/// One policy and the text that it stands in.
struct CompiledPolicy {
    rule: Arc<Rule>,
    source: Arc<Source>,
}

impl CompiledPolicy {
    /// Its first word, for messages about the policy as a whole.
    fn head(&self) -> Span {
        self.source.head_of(self.rule.policy.loc())
    }
}

/// Reads the policies of a bundle.
///
/// `strict` (`check`): every policy is validated against the schema generated from `apis`, which then
/// must hold the API of each service. Otherwise (a proxy compiles the parts that it has) only what
/// cannot be parsed is an error: what other services are called does not matter there, and what fails
/// while it is evaluated denies.
pub fn compile(
    bundle: &Bundle,
    config: &Config,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    strict: bool,
    diagnostics: &mut Diagnostics,
) -> Compiled {
    let policies = source::read(bundle, config, diagnostics);
    let rules: Vec<Arc<Rule>> = policies.iter().map(|policy| policy.rule.clone()).collect();
    let kinds = claim_kinds(
        rules
            .iter()
            .filter_map(|rule| rule.condition().map(Arc::as_ref)),
    );
    let vocabulary = Vocabulary::of(config, &kinds);
    let compiled = Compiled {
        rules,
        directory: directory(config, kinds, diagnostics),
        policies,
        vocabulary,
    };
    if strict {
        let context = lint::Context {
            config,
            apis,
            vocabulary: &compiled.vocabulary,
        };
        schema::reserved_names(apis, diagnostics);
        let wrong = lint::literals(&compiled.policies, &context, diagnostics);
        let wrong = validate::types(&compiled.policies, &context, wrong, diagnostics);
        lint::effects(&compiled.policies, &context, &wrong, diagnostics);
    }
    compiled
}

fn directory(
    config: &Config,
    claims: BTreeMap<Arc<str>, ClaimKind>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<Directory>> {
    let services = config.services.values().map(|service| {
        let roles = service.roles.iter().map(|(role, _)| role.clone()).collect();
        (&service.name, roles, &service.labels)
    });
    match Directory::new(services) {
        Ok(directory) => Some(Arc::new(directory.with_claims(claims))),
        Err(error) => {
            let span = config.policies.as_ref().map(|(_, span)| span.clone());
            diagnostics.error(
                "policy.type",
                &span.unwrap_or_default(),
                error.to_string(),
                None,
            );
            None
        }
    }
}

impl Compiled {
    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there are none: then nothing is permitted.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The policies that can apply to one operation.
    pub fn slice(&self, service: &Arc<str>, operation: &OperationModel) -> OperationPolicies {
        let names = ActionNames::new(service, &operation.name, &operation.method);
        let policies = self.slice_of(&names);
        if operation.streamed {
            policies.without_body()
        } else {
            policies
        }
    }

    /// The policies that can apply to what the specification of `service` does not have.
    pub fn slice_undocumented(&self, service: &Arc<str>) -> OperationPolicies {
        self.slice_of(&ActionNames::undocumented(service))
            .without_body()
    }

    /// The policies that could apply to operations of a service, in the order of the bundle.
    pub fn rules_for(&self, service: &str) -> Vec<Arc<Rule>> {
        let rules = self.rules.iter();
        rules
            .filter(|rule| rule.may_cover(service))
            .cloned()
            .collect()
    }

    /// What is certain of one operation before any request is made.
    /// `rules`: at least those of [`Compiled::rules_for`] its service.
    pub fn outlook(&self, names: &ActionNames, rules: &[Arc<Rule>]) -> Outlook {
        match &self.directory {
            Some(directory) => Outlook::new(names, rules, directory),
            None => Outlook::default(),
        }
    }

    /// What an outlook says of a service as the caller.
    pub fn caller_outcome(&self, outlook: &Outlook, caller: &str) -> Outcome {
        match &self.directory {
            Some(directory) => outlook.caller(caller, directory),
            None => Outcome::Deny(None),
        }
    }

    /// The roles and the users that policies name.
    pub fn named_users(&self) -> (BTreeSet<Arc<str>>, BTreeSet<Arc<str>>) {
        let (mut roles, mut users) = (BTreeSet::new(), BTreeSet::new());
        for rule in &self.rules {
            match &rule.who {
                Who::Role(role) => roles.insert(role.clone()),
                Who::User(id) => users.insert(id.clone()),
                Who::Everyone
                | Who::Users
                | Who::Anonymous
                | Who::Services
                | Who::Service(_)
                | Who::ServiceRole(_)
                | Who::Nobody => false,
            };
        }
        (roles, users)
    }

    fn slice_of(&self, names: &ActionNames) -> OperationPolicies {
        self.directory
            .as_ref()
            .and_then(|directory| OperationPolicies::new(names, &self.rules, directory).ok())
            // Fails closed: the default permits nothing.
            .unwrap_or_default()
    }
}
