//! Would this be permitted, by which line, and what would have to be true: `testudo can` and `why`.

mod question;

use std::sync::Arc;

use testudo_guard::authz::{ActionNames, Decision, Rule, Who};
use testudo_guard::snapshot::UserRule;
use testudo_model::PolicyRef;

use super::source::Source;
use super::{Compiled, CompiledPolicy};
use crate::api::ApiModel;
use crate::config::Config;

pub use question::{Principal, Question, QuestionError};

/// The answer to a [`Question`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whether it is permitted.
    pub permitted: bool,
    /// What guard says.
    pub decision: Decision,
    /// The principal as policies write it.
    pub principal: String,
    /// `SERVICE:OPERATION`.
    pub operation: Arc<str>,
    /// The line that decided, if one did.
    pub policy: Option<PolicyRef>,
    /// What policies that could apply read and the question did not say, as keys of the question.
    pub missing: Vec<String>,
    /// What would have to be true, one possibility each; empty where it is permitted.
    pub permit_if: Vec<String>,
    /// What else decides there.
    pub notes: Vec<String>,
}

impl Compiled {
    /// Answers a question with the code that proxies run. `None` where there is no such operation.
    pub fn can(
        &self,
        question: &Question,
        config: &Config,
        apis: &std::collections::BTreeMap<Arc<str>, ApiModel>,
    ) -> Option<Answer> {
        let (service, name) = question.operation.split_once(':')?;
        let api = apis.get(service)?;
        let names = if name == "undocumented" {
            ActionNames::undocumented(&api.service)
        } else {
            let operation = api.operations.iter().find(|known| &*known.name == name)?;
            ActionNames::new(&api.service, name, &operation.method)
        };
        let slice = self.slice_of(&names);
        let question = &question.with_claims_as(&self.vocabulary.claims);
        let decision = question.with_facts(|facts| match &question.principal {
            Principal::User(_) => slice.user(facts, &question.values),
            Principal::Service(_) => slice.caller(facts, &question.values),
        });
        let gateway = question.is_gateway();
        let permitted =
            matches!(decision, Decision::Permit(_)) || (gateway && decision == Decision::Default);
        let about: Vec<&CompiledPolicy> = self
            .policies
            .iter()
            .filter(|policy| policy.rule.covers(&names) && question.is_about(&policy.rule.who))
            .collect();
        Some(Answer {
            permitted,
            principal: question.principal.to_string(),
            operation: names.operation,
            policy: line(&decision),
            missing: missing(question, &about),
            permit_if: if permitted {
                Vec::new()
            } else {
                permit_if(&decision, question, &about)
            },
            notes: notes(question, &api.service, config),
            decision,
        })
    }
}

fn missing(question: &Question, about: &[&CompiledPolicy]) -> Vec<String> {
    let mut missing: Vec<String> = about
        .iter()
        .filter(|policy| question.matches(&policy.rule.who))
        .flat_map(|policy| question.not_said(&policy.rule))
        .collect();
    missing.sort();
    missing.dedup();
    missing
}

fn line(decision: &Decision) -> Option<PolicyRef> {
    match decision {
        Decision::Permit(source) | Decision::Forbid(source) => Some(source.clone()),
        Decision::Default => None,
        Decision::Error { policy, .. } => policy.clone(),
    }
}

fn permit_if(decision: &Decision, question: &Question, about: &[&CompiledPolicy]) -> Vec<String> {
    if let Decision::Forbid(source) = decision {
        let policy = about.iter().find(|policy| policy.rule.source == *source);
        let clauses = policy.map(|policy| clauses(policy)).unwrap_or_default();
        return vec![format!(
            "{} does not forbid it{}",
            place(source),
            suffix(&clauses)
        )];
    }
    let failed = about.iter().filter(|policy| {
        let failed = matches!(decision, Decision::Error { policy: Some(source), .. } if *source == policy.rule.source);
        failed && policy.rule.forbids()
    });
    let failed = failed.map(|policy| {
        let place = place(&policy.rule.source);
        format!("{place} does not forbid it{}", suffix(&clauses(policy)))
    });
    let permits = about.iter().filter(|policy| !policy.rule.forbids());
    failed
        .chain(permits.map(|policy| possibility(question, policy)))
        .collect()
}

/// What one permit asks for.
fn possibility(question: &Question, policy: &CompiledPolicy) -> String {
    let mut parts = Vec::new();
    if !question.matches(&policy.rule.who) {
        parts.push(needs(&policy.rule));
    }
    let clauses = clauses(policy);
    if !clauses.is_empty() {
        parts.push(clauses);
    }
    if parts.is_empty() {
        parts.push("nothing else stands against it".to_owned());
    }
    format!("{}   {}", parts.join(", "), place(&policy.rule.source))
}

fn suffix(clauses: &str) -> String {
    if clauses.is_empty() {
        String::new()
    } else {
        format!(": it does {clauses}")
    }
}

fn place(source: &PolicyRef) -> String {
    format!("{}:{}", source.file, source.line)
}

/// What a scope asks of the principal, for people.
fn needs(rule: &Rule) -> String {
    match &rule.who {
        Who::Everyone => "anyone".to_owned(),
        Who::Users => "a user with a credential".to_owned(),
        Who::User(id) => format!("the user {id}"),
        Who::Role(role) => format!("the role {role}"),
        Who::Anonymous => "no credential".to_owned(),
        Who::Services => "a service".to_owned(),
        Who::Service(name) => format!("the caller {name}"),
        Who::ServiceRole(role) => format!("a caller with the role {role}"),
        Who::Nobody => "nobody can".to_owned(),
    }
}

/// `when { … } unless { … }` of a policy, on one line; empty without conditions.
fn clauses(policy: &CompiledPolicy) -> String {
    let text = Source::behind_scope(policy.source.text_of(policy.rule.policy.loc()));
    text.trim_end()
        .trim_end_matches(';')
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn notes(question: &Question, service: &Arc<str>, config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(called) = config.services.get(service) else {
        return notes;
    };
    match &question.principal {
        Principal::User(_) if config.users.is_none() => {
            notes.push("the bundle has no users: only callers are asked about".to_owned());
        }
        Principal::User(_) => {
            match called.user {
                UserRule::Require | UserRule::Ignore => notes.push(format!(
                    "{service} does not judge users (user: {}): only its callers must be permitted",
                    if called.user == UserRule::Require {
                        "require"
                    } else {
                        "ignore"
                    }
                )),
                UserRule::Authorize | UserRule::Optional => {}
            }
            let routed = config.gateway.iter().flat_map(|gateway| &gateway.routes);
            if !routed
                .filter_map(|route| route.service())
                .any(|name| name == service)
            {
                notes.push(format!(
                    "no route leads to {service}: users reach it through other services, which must be permitted too"
                ));
            }
        }
        Principal::Service(_) if question.is_gateway() => {
            notes.push("a route answers for the gateway".to_owned());
        }
        Principal::Service(name) => {
            if called.user == UserRule::Authorize && config.users.is_some() {
                notes.push(format!(
                    "{service} has user: authorize: the user of the request must be permitted too, unless acts_alone of {name} covers it"
                ));
            }
        }
    }
    notes
}
