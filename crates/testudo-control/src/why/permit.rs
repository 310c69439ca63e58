//! What would have to be true for a permit: asked of the real policies, with what the event kept of the
//! request.

use std::time::Duration;

use testudo_guard::Now;
use testudo_guard::schema::Location;
use testudo_model::{CheckResult, Event, Reason};
use testudo_policy::api::{ApiModel, OperationModel};
use testudo_policy::cedar::{Answer, Question};

use super::cause::{limit_rule, place, place_of, rate};
use super::chain::Chain;
use super::{Knowledge, is_refused_outbound};

/// Most possibilities that are named.
const MOST: usize = 8;

/// One possibility each, the likely ones first.
pub(super) fn permit_if(
    chain: &Chain,
    index: usize,
    knowledge: Option<Knowledge<'_>>,
) -> Vec<String> {
    let Some(link) = chain.hops.get(index) else {
        return Vec::new();
    };
    let Some(reason) = link.event.reason else {
        return Vec::new();
    };
    let mut list = possibilities(chain, index, &link.event, reason, knowledge);
    list.truncate(MOST);
    list
}

fn possibilities(
    chain: &Chain,
    index: usize,
    event: &Event,
    reason: Reason,
    knowledge: Option<Knowledge<'_>>,
) -> Vec<String> {
    let asked = knowledge.map(|knowledge| Asked { event, knowledge });
    let failed = |name: &str| {
        let mut checks = event.checks.iter();
        checks.any(|check| check.name == name && check.result == CheckResult::Fail)
    };
    match reason {
        Reason::AuthnMissing if event.user.is_none() => dropped_user(chain, index, event, asked),
        Reason::AuthnMissing | Reason::AuthzUser => {
            asked.map(|asked| asked.user_may()).unwrap_or_default()
        }
        Reason::AuthnInvalid if is_refused_outbound(event) => vec![
            "the application sends the Txn-Token that came with the request it is working on, or only its traceparent".to_owned(),
        ],
        Reason::AuthnInvalid | Reason::AuthnExpired => {
            vec!["a credential that holds comes along".to_owned()]
        }
        Reason::AuthnUnavailable => vec!["the issuer's keys can be had".to_owned()],
        Reason::AuthzCaller if failed("egress") => {
            vec!["`egress:` of the service lists the host and port".to_owned()]
        }
        Reason::AuthzCaller if failed("caller") => {
            asked.map(|asked| asked.caller_may()).unwrap_or_default()
        }
        Reason::LimitExceeded => limit_rule(event, knowledge).map_or_else(Vec::new, |limit| {
            let at = place_of(&limit.span);
            vec![
                "it comes later, as Retry-After says".to_owned(),
                format!("rate or burst is raised: now {} ({at})", rate(limit)),
            ]
        }),
        Reason::SchemaParams | Reason::SchemaBody | Reason::SchemaContentType => {
            let source = event.policy.as_ref();
            source.map_or_else(Vec::new, |source| {
                vec![format!("the request is as {} has it", place(source))]
            })
        }
        Reason::RouteMethod => asked.map(|asked| asked.methods()).unwrap_or_default(),
        Reason::AuthzError => event.policy.as_ref().map_or_else(Vec::new, |policy| {
            vec![format!("{} can be evaluated, and what it says holds", place(policy))]
        }),
        Reason::RequestTooLarge if event.status == Some(413) => {
            asked.map(|asked| asked.max_body()).unwrap_or_default()
        }
        Reason::Contained => vec![released(event)],
        Reason::AuthzCaller
        | Reason::RouteNone
        | Reason::RouteUndocumented
        | Reason::RequestMalformed
        | Reason::RequestTooLarge
        | Reason::RequestTimeout
        | Reason::RequestMisdirected
        | Reason::SchemaResponse
        | Reason::UpstreamInvalid
        | Reason::UpstreamUnavailable
        | Reason::UpstreamTimeout
        | Reason::Overloaded
        | Reason::NotReady
        | Reason::GraphqlLimit
        | Reason::GraphqlInvalid
        | Reason::WafBlocked => Vec::new(),
    }
}

/// A containment ends by itself, or by a command that names it.
fn released(event: &Event) -> String {
    let mut checks = event.checks.iter();
    let failed = checks.find(|check| check.result == CheckResult::Fail);
    let id = failed.and_then(|check| check.detail.split([' ', ':']).next());
    match id.filter(|id| !id.is_empty()) {
        Some(id) => format!("the containment ends by itself, or by `testudo watch release {id}`"),
        None => "the containment ends".to_owned(),
    }
}

/// The user that arrived at the caller comes along after all; or the caller may do without.
fn dropped_user(
    chain: &Chain,
    index: usize,
    event: &Event,
    asked: Option<Asked<'_>>,
) -> Vec<String> {
    let caller = event.caller.as_deref().unwrap_or("the caller");
    let operation = event.operation.as_deref().unwrap_or("the operation");
    let parent = chain.parent_of(index);
    let arrived = parent.filter(|parent| parent.event.user.is_some());
    let Some(arrived) = arrived else {
        return vec![
            format!("a user's Txn-Token comes along to {caller}, and {caller} sends it"),
            format!("or {caller} has none by nature, and its `acts_alone` lists {operation}"),
        ];
    };
    let answer = asked.and_then(|asked| asked.of_user(&arrived.event));
    match answer {
        Some(answer) if answer.permitted => {
            let by = answer.policy.as_ref().map(place).unwrap_or_default();
            vec![format!("if {caller} sends it; then user ✓ {by}")]
        }
        Some(answer) if !answer.permit_if.is_empty() => {
            let further = answer.permit_if.iter().map(|text| readable(text));
            further
                .map(|further| format!("if {caller} sends it, and {further}"))
                .collect()
        }
        _ => vec![format!("if {caller} sends it")],
    }
}

/// A question about one event.
#[derive(Clone, Copy)]
struct Asked<'a> {
    event: &'a Event,
    knowledge: Knowledge<'a>,
}

impl Asked<'_> {
    fn user_may(&self) -> Vec<String> {
        match self.of_user(self.event) {
            Some(answer) => self.of_answer(&answer, || self.example_for_user()),
            None => Vec::new(),
        }
    }

    fn caller_may(&self) -> Vec<String> {
        let event = self.event;
        let Some(caller) = event.caller.as_deref() else {
            return Vec::new();
        };
        let mut settings = self.settings();
        if let Some(user) = &event.user {
            settings.push(format!("user={user}"));
            settings.extend(self.roles(event));
        }
        let principal = match caller {
            "gateway" => "gateway".to_owned(),
            caller => format!("service:{caller}"),
        };
        match self.ask(&principal, settings) {
            Some(answer) => self.of_answer(&answer, || {
                let operation = event.operation.as_deref().unwrap_or_default();
                format!(
                    "permit (principal == Service::{caller:?}, action == Action::{operation:?}, resource);"
                )
            }),
            // Somebody whom the bundle does not know.
            None => vec!["the caller is a service of this bundle, and a policy permits it".to_owned()],
        }
    }

    fn of_answer(&self, answer: &Answer, example: impl Fn() -> String) -> Vec<String> {
        if answer.permitted {
            let by = answer.policy.as_ref().map(place).unwrap_or_default();
            return vec![match self.knowledge.revision {
                Some(revision) if revision != self.event.revision => {
                    format!("revision {revision}, in force now, permits it   {by}")
                }
                _ => format!(
                    "{by} permits it, unless the query, headers or body stood against it: those are not kept"
                ),
            }];
        }
        if answer.permit_if.is_empty() {
            return vec![format!("a policy permits it, such as: {}", example())];
        }
        answer.permit_if.iter().map(|text| readable(text)).collect()
    }

    fn example_for_user(&self) -> String {
        let event = self.event;
        let principal = match (event.roles.first(), event.user.as_deref()) {
            (Some(role), _) => format!("principal in Role::{role:?}"),
            (None, Some("anonymous")) => "principal is Anonymous".to_owned(),
            _ => "principal is User".to_owned(),
        };
        let operation = event.operation.as_deref().unwrap_or_default();
        format!("permit ({principal}, action == Action::{operation:?}, resource);")
    }

    /// Whether the user of `whose` may do what this event asks for.
    fn of_user(&self, whose: &Event) -> Option<Answer> {
        let user = whose.user.as_deref()?;
        let mut settings = self.settings();
        settings.extend(self.roles(whose));
        if let Some(caller) = &self.event.caller {
            settings.push(format!("caller={caller}"));
        }
        let principal = match user {
            "anonymous" => user.to_owned(),
            user => format!("user:{user}"),
        };
        self.ask(&principal, settings)
    }

    fn ask(&self, principal: &str, settings: Vec<String>) -> Option<Answer> {
        let Knowledge {
            config,
            apis,
            policies,
            ..
        } = self.knowledge;
        let operation = self.event.operation.as_deref()?;
        let seconds = u64::try_from(self.event.time.as_second()).unwrap_or_default();
        let now = Now {
            wall: Duration::from_secs(seconds),
            monotonic: Duration::ZERO,
        };
        // What the bundle does not know (any more) is left out.
        let parse = |settings: &[String]| {
            Question::parse(principal, operation, settings, now, config, apis).ok()
        };
        let known: Vec<String> = settings
            .into_iter()
            .filter(|setting| parse(std::slice::from_ref(setting)).is_some())
            .collect();
        policies.can(&parse(&known)?, config, apis)
    }

    /// What the event kept of the request, as keys of a question.
    fn settings(&self) -> Vec<String> {
        let event = self.event;
        let mut settings: Vec<String> = event
            .source_ip
            .map(|ip| format!("source_ip={ip}"))
            .into_iter()
            .collect();
        if let Some(operation) = self.operation() {
            settings.extend(path_values(operation, &event.path));
        }
        settings.push(format!("hop={}", event.hop.as_str()));
        settings
    }

    fn roles(&self, whose: &Event) -> Vec<String> {
        whose
            .roles
            .iter()
            .map(|role| format!("role={role}"))
            .collect()
    }

    fn api(&self) -> Option<&ApiModel> {
        self.knowledge.apis.get(self.event.service.as_deref()?)
    }

    fn operation(&self) -> Option<&OperationModel> {
        let (_, name) = self.event.operation.as_deref()?.split_once(':')?;
        let mut operations = self.api()?.operations.iter();
        operations.find(|operation| &*operation.name == name)
    }

    fn max_body(&self) -> Vec<String> {
        let services = &self.knowledge.config.services;
        let called = self
            .event
            .service
            .as_deref()
            .and_then(|name| services.get(name));
        called.map_or_else(Vec::new, |service| {
            vec![format!(
                "the body has at most {} bytes: `api.max_body` of {} ({})",
                service.api.max_body,
                service.name,
                place_of(&service.span)
            )]
        })
    }

    /// The methods that this path has.
    fn methods(&self) -> Vec<String> {
        let operations = self
            .api()
            .map(|api| api.operations.as_slice())
            .unwrap_or_default();
        operations
            .iter()
            .filter(|operation| fits(&operation.template, &self.event.path))
            .map(|operation| {
                format!(
                    "{} {} ({})",
                    operation.method,
                    operation.template,
                    place_of(&operation.span)
                )
            })
            .collect()
    }
}

/// `the role admin   policies/x.cedar:9` with its place in brackets.
fn readable(text: &str) -> String {
    match text.rsplit_once("   ") {
        Some((what, place)) => format!("{what} ({place})"),
        None => text.to_owned(),
    }
}

fn fits(template: &str, path: &str) -> bool {
    template.split('/').count() == path.split('/').count()
        && template
            .split('/')
            .zip(path.split('/'))
            .all(|(part, segment)| part == segment || part.starts_with('{'))
}

/// `param.customerId=alice` for each parameter of the path that is a whole segment.
fn path_values(operation: &OperationModel, path: &str) -> Vec<String> {
    if !fits(&operation.template, path) {
        return Vec::new();
    }
    let parts = operation.template.split('/').zip(path.split('/'));
    parts
        .filter_map(|(part, segment)| {
            let name = part.strip_prefix('{')?.strip_suffix('}')?;
            let known = operation
                .params
                .iter()
                .any(|param| &*param.name == name && param.location == Location::Path);
            known.then(|| format!("param.{name}={}", decoded(segment)))
        })
        .collect()
}

/// Percent-decoded (RFC 3986 §2.1), as policies see it.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = behind
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
