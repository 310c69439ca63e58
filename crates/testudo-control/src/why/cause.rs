//! Which hop decided, and what led to it across hops, in words.

use testudo_guard::limit::LimitKey;
use testudo_guard::snapshot::UserRule;
use testudo_model::{Check, CheckResult, Event, Hop, Mode, PolicyRef, Reason, Verdict};
use testudo_policy::config::{Limit, Service};
use testudo_policy::diagnostic::Span;

use super::chain::{Chain, Link};
use super::{By, Knowledge, is_refused_outbound};

/// The hop that decided, and who did: a denial of ours; without one, an error that an application answered
/// and that no check of the request would have prevented; without one, a would-be denial.
pub(super) fn decide(chain: &Chain, request_id: &str) -> (Option<usize>, By) {
    let denied = |link: &Link| link.event.verdict == Verdict::Deny;
    if let Some(index) = denial(chain, request_id, denied) {
        return (Some(index), By::Testudo);
    }
    // Where it would have been denied first, the rest would not have happened.
    let reported = |link: &Link| link.event.reason.is_some();
    let would_be = chain.hops.iter().position(reported);
    let about_the_request = |index: &usize| {
        let link = chain.hops.get(*index);
        !link
            .and_then(|link| link.event.reason)
            .is_some_and(is_about_the_response)
    };
    if let Some(index) = would_be.filter(about_the_request) {
        return (Some(index), By::Testudo);
    }
    let failed = |link: &Link| link.event.status.is_some_and(|status| status >= 400);
    let mut asked = chain
        .hops
        .iter()
        .filter(|link| link.event.request_id == request_id);
    if asked.any(failed)
        && let Some(index) = deepest(chain, failed)
    {
        return (Some(index), By::Application);
    }
    match would_be {
        Some(index) => (Some(index), By::Testudo),
        None => (None, By::Nobody),
    }
}

/// What a request was stopped for comes before what a response was; deeper hops come before those that
/// led to them; then the one that was asked about, then the earliest.
fn denial(chain: &Chain, request_id: &str, denied: impl Fn(&Link) -> bool) -> Option<usize> {
    let hops = chain
        .hops
        .iter()
        .enumerate()
        .filter(|(_, link)| denied(link));
    let best = hops.min_by_key(|(_, link)| {
        let event = &link.event;
        let by_response = event.reason.is_some_and(is_about_the_response);
        let asked = event.request_id == request_id;
        (
            by_response,
            std::cmp::Reverse(link.depth),
            !asked,
            event.time,
        )
    });
    best.map(|(index, _)| index)
}

/// From the first hop that failed along those that failed after it.
fn deepest(chain: &Chain, failed: impl Fn(&Link) -> bool) -> Option<usize> {
    let mut at = chain.hops.iter().position(&failed)?;
    loop {
        let status = chain.hops.get(at)?.event.status;
        let next = chain
            .hops
            .iter()
            .enumerate()
            .filter(|(_, link)| link.parent == Some(at) && failed(link))
            .max_by_key(|(_, link)| (link.event.status == status, link.event.time));
        match next {
            Some((next, _)) => at = next,
            None => return Some(at),
        }
    }
}

const fn is_about_the_response(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SchemaResponse
            | Reason::UpstreamInvalid
            | Reason::UpstreamTimeout
            | Reason::UpstreamUnavailable
    )
}

/// Where nobody answered at all.
pub(super) fn unanswered(chain: &Chain, request_id: &str) -> Option<String> {
    let mut hops = chain.hops.iter();
    let asked = hops.find(|link| link.event.request_id == request_id)?;
    asked.event.status.is_none().then(|| {
        format!(
            "The connection broke before there was an answer at {}: the client went away, or {} stopped.",
            asked.at, asked.event.proxy
        )
    })
}

/// The cause, in a sentence or two.
pub(super) fn cause(
    chain: &Chain,
    index: usize,
    by: By,
    knowledge: Option<Knowledge<'_>>,
) -> Option<String> {
    let link = chain.hops.get(index)?;
    let case = Case {
        chain,
        index,
        link,
        event: &link.event,
        knowledge,
    };
    let mut text = match (by, case.event.reason) {
        (By::Testudo, Some(reason)) => case.denial(reason),
        _ => case.application(),
    };
    if by == By::Testudo && case.event.verdict == Verdict::Permit {
        let were = match (case.event.mode, case.event.reason) {
            (Mode::Enforce, Some(Reason::SchemaResponse)) => "With `responses: enforce`",
            (Mode::Enforce, _) => "Were the specification enforced,",
            (Mode::Report | Mode::Observe, _) => "In mode enforce",
        };
        text = format!("{were} it would have been denied: {text}");
    }
    for sentence in [case.swapped_user(), case.afterwards()]
        .into_iter()
        .flatten()
    {
        text.push(' ');
        text.push_str(&sentence);
    }
    if case.event.trace_guessed {
        text.push_str(
            " That it belongs to this trace is a guess: the application passed no traceparent on.",
        );
    }
    Some(text)
}

struct Case<'a> {
    chain: &'a Chain,
    index: usize,
    link: &'a Link,
    event: &'a Event,
    knowledge: Option<Knowledge<'a>>,
}

impl Case<'_> {
    fn denial(&self, reason: Reason) -> String {
        let event = self.event;
        let detail = self.detail(reason);
        let (service, caller) = (self.service(), self.caller());
        match reason {
            Reason::AuthnMissing => self.no_user(),
            Reason::AuthnInvalid | Reason::AuthnExpired | Reason::AuthnUnavailable => {
                if is_refused_outbound(event) {
                    format!(
                        "{caller} sent a Txn-Token that its own inbound side never received: one of another request, a stolen one, or one that has ended. It did not leave {caller}'s sidecar."
                    )
                } else if event.hop == Hop::Mesh {
                    format!("The Txn-Token that {caller} sent does not hold: {detail}.")
                } else {
                    format!("The credential does not hold: {detail}.")
                }
            }
            Reason::AuthzUser => self.user_may_not(&detail),
            Reason::AuthzCaller => self.caller_may_not(&detail),
            Reason::AuthzError => format!(
                "A policy could not be evaluated: {detail}{}.",
                by_line(event)
            ),
            Reason::SchemaParams | Reason::SchemaBody | Reason::SchemaContentType => {
                format!(
                    "The request breaks the specification of {service}: {detail}{}.",
                    by_line(event)
                )
            }
            Reason::SchemaResponse => {
                format!(
                    "The application of {service} answered with what its specification does not have: {detail}{}.",
                    by_line(event)
                )
            }
            Reason::LimitExceeded => self.limit(&detail),
            Reason::Contained => format!("Whoever asked is contained for now: {detail}."),
            Reason::RouteNone | Reason::RouteUndocumented | Reason::RouteMethod => {
                format!(
                    "Nothing answers {} {} there: {detail}.",
                    event.method, event.path
                )
            }
            Reason::UpstreamUnavailable | Reason::UpstreamInvalid | Reason::UpstreamTimeout => {
                self.upstream(reason, &detail)
            }
            Reason::Overloaded | Reason::NotReady => {
                format!("{} could not take it: {detail}.", event.proxy)
            }
            Reason::RequestMalformed
            | Reason::RequestTooLarge
            | Reason::RequestTimeout
            | Reason::RequestMisdirected => {
                format!("The request itself was refused: {detail}.")
            }
            Reason::GraphqlLimit | Reason::GraphqlInvalid | Reason::WafBlocked => {
                format!("The request was refused: {detail}{}.", by_line(event))
            }
        }
    }

    /// A user is needed and none is there: the interesting question is where they were lost.
    fn no_user(&self) -> String {
        let event = self.event;
        let (service, caller) = (self.service(), self.caller());
        if event.user.is_some() {
            let no = self.detail(Reason::AuthnMissing);
            return match event.hop {
                Hop::Edge => format!(
                    "No credential came, and for users without one: {no}{}.",
                    by_line(event)
                ),
                Hop::Mesh => format!(
                    "The request is made for nobody in particular, and for users without a credential: {no}{}.",
                    by_line(event)
                ),
            };
        }
        let lost = match (self.chain.parent_of(self.index), event.caller.is_some()) {
            (Some(parent), _) => match parent.event.user.as_deref() {
                Some("anonymous") => format!(
                    "{caller} received a Txn-Token without a user at {} and sent none at {}.",
                    parent.at, self.link.at
                ),
                Some(user) => format!(
                    "{caller} received {user}'s Txn-Token at {} and sent none at {}.",
                    parent.at, self.link.at
                ),
                None => format!(
                    "No user came along to {caller} at {} already, so none can come along at {}.",
                    parent.at, self.link.at
                ),
            },
            (None, true) if self.chain.parent_is_missing(self.index) => format!(
                "{caller} sent no Txn-Token at {}; whether it had received one is not kept.",
                self.link.at
            ),
            (None, true) => format!("{caller} called on its own, without a user."),
            (None, false) => "No user came along.".to_owned(),
        };
        match self.called() {
            Some(called) => format!(
                "{lost} {service} has user: {} ({}).",
                user_rule(called),
                place_of(&called.span)
            ),
            None => lost,
        }
    }

    fn user_may_not(&self, detail: &str) -> String {
        let event = self.event;
        let user = event.user.as_deref().unwrap_or("the user");
        let roles = match event.roles.as_slice() {
            [] => "without a role".to_owned(),
            roles => roles.join(", "),
        };
        format!(
            "{user} ({roles}) asked for {} {} ({}): {detail}{}.",
            event.method,
            event.path,
            event.operation.as_deref().unwrap_or("no operation"),
            by_line(event)
        )
    }

    fn caller_may_not(&self, detail: &str) -> String {
        let event = self.event;
        let caller = self.caller();
        match self.failed().map(|check| &*check.name) {
            Some("sender") => format!(
                "Something other than the service's own application used {}: {detail}.",
                event.proxy
            ),
            Some("mtls") => format!("{caller}'s identity does not hold: {detail}."),
            Some("egress") => {
                let place = self.knowledge.and_then(|knowledge| {
                    let service = knowledge.config.services.get(event.caller.as_deref()?)?;
                    Some(format!(" ({})", place_of(&service.span)))
                });
                format!(
                    "{caller} called out of the mesh: {detail} of {caller}{}.",
                    place.unwrap_or_default()
                )
            }
            _ => format!(
                "{caller} called {}: {detail}{}.",
                event.operation.as_deref().unwrap_or(&self.service()),
                by_line(event)
            ),
        }
    }

    fn limit(&self, detail: &str) -> String {
        let event = self.event;
        match self.limit_rule() {
            Some(limit) => format!(
                "The limit {} ({}) is used up: {}, counted for {}.",
                limit.rule.name,
                place_of(&limit.span),
                rate(limit),
                counted_for(limit, event)
            ),
            None => format!("A limit is used up: {detail}{}.", by_line(event)),
        }
    }

    fn upstream(&self, reason: Reason, detail: &str) -> String {
        let service = self.service();
        let who = match self.event.hop {
            Hop::Edge => service,
            Hop::Mesh if is_refused_outbound(self.event) => service,
            Hop::Mesh => format!("The application of {service}"),
        };
        let what = match reason {
            Reason::UpstreamTimeout => "took too long",
            Reason::UpstreamInvalid => "answered with what is no valid response",
            _ => "could not be reached, or broke off",
        };
        format!("{who} {what}: {detail}.")
    }

    fn application(&self) -> String {
        let event = self.event;
        let service = self.service();
        let who = match event.hop {
            // The sidecar's own hop is missing; what is known is that it was none of ours.
            Hop::Edge => service,
            Hop::Mesh => format!("The application of {service}"),
        };
        match event.status {
            Some(status) => format!(
                "{who} answered {status} itself at {}; every check of ours let the request pass.",
                self.link.at
            ),
            None => format!("{who} got the request; the connection broke before an answer."),
        }
    }

    /// The user that arrived at the caller is not the one that it sent on.
    fn swapped_user(&self) -> Option<String> {
        let parent = self.chain.parent_of(self.index)?;
        let (before, now) = (parent.event.user.as_deref()?, self.event.user.as_deref()?);
        (before != now).then(|| {
            format!(
                "The user changed on the way: {} received {before} at {} and sent {now}'s Txn-Token at {}.",
                self.caller(),
                parent.at,
                self.link.at
            )
        })
    }

    /// What became of it further out.
    fn afterwards(&self) -> Option<String> {
        let own = self.event.status?;
        let mut at = self.index;
        while let Some(parent) = self.chain.hops.get(at).and_then(|link| link.parent) {
            let link = self.chain.hops.get(parent)?;
            match link.event.status {
                Some(status) if status != own => {
                    let service = link.event.service.as_deref().unwrap_or("the application");
                    let made = if status < 400 {
                        "went on all the same and answered"
                    } else {
                        "answered"
                    };
                    return Some(format!("{service} {made} {status}."));
                }
                _ => at = parent,
            }
        }
        None
    }

    /// What the check that failed says.
    fn detail(&self, reason: Reason) -> String {
        let of_check = self.failed().map(|check| check.detail.as_ref());
        let of_finding = || {
            let mut findings = self.event.findings.iter();
            let finding = findings.find(|finding| finding.code == reason.code());
            finding.map(|finding| finding.detail.as_str())
        };
        let detail = of_check
            .filter(|detail| !detail.is_empty())
            .or_else(of_finding);
        detail.unwrap_or(reason.title()).to_owned()
    }

    /// The check that the reason came from: the first that failed.
    fn failed(&self) -> Option<&Check> {
        let mut checks = self.event.checks.iter();
        checks.find(|check| check.result == CheckResult::Fail)
    }

    fn service(&self) -> String {
        self.event
            .service
            .clone()
            .unwrap_or_else(|| "the service".to_owned())
    }

    fn caller(&self) -> String {
        self.event
            .caller
            .clone()
            .unwrap_or_else(|| "the caller".to_owned())
    }

    fn called(&self) -> Option<&Service> {
        self.knowledge?
            .config
            .services
            .get(self.event.service.as_deref()?)
    }

    fn limit_rule(&self) -> Option<&Limit> {
        limit_rule(self.event, self.knowledge)
    }
}

/// The limit that was used up.
pub(super) fn limit_rule<'a>(event: &Event, knowledge: Option<Knowledge<'a>>) -> Option<&'a Limit> {
    let limits = &knowledge?.config.limits;
    let failed = event
        .checks
        .iter()
        .find(|check| check.name == "limit" && check.result == CheckResult::Fail)?;
    let by_name = failed.detail.strip_suffix(" is used up");
    limits.iter().find(|limit| {
        by_name == Some(&*limit.rule.name) || Some(&limit.rule.source) == failed.policy.as_ref()
    })
}

/// `50/s, 100 at once`.
pub(super) fn rate(limit: &Limit) -> String {
    let interval = limit.rule.interval.as_secs_f64();
    let rate = if interval <= 0.0 {
        "any rate".to_owned()
    } else if interval <= 1.0 {
        format!("{}/s", short(1.0 / interval))
    } else if interval <= 60.0 {
        format!("{}/m", short(60.0 / interval))
    } else {
        format!("{}/h", short(3600.0 / interval))
    };
    format!("{rate}, {} at once", limit.rule.burst)
}

fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn counted_for(limit: &Limit, event: &Event) -> String {
    let address = || {
        event
            .source_ip
            .map_or_else(|| "the address".to_owned(), |ip| ip.to_string())
    };
    match &limit.rule.per {
        LimitKey::User => match &event.user {
            Some(user) if user != "anonymous" => user.clone(),
            _ => address(),
        },
        LimitKey::Service => event.caller.clone().unwrap_or_else(address),
        LimitKey::Address => address(),
        LimitKey::Header(name) => format!("one value of the header {name}"),
        LimitKey::Claim(name) => format!("one value of the claim {name}"),
        LimitKey::All => "everybody together".to_owned(),
    }
}

const fn user_rule(service: &Service) -> &'static str {
    match service.user {
        UserRule::Authorize => "authorize",
        UserRule::Require => "require",
        UserRule::Optional => "optional",
        UserRule::Ignore => "ignore",
    }
}

/// ` (policies/x.cedar:4)`, where a line decided.
fn by_line(event: &Event) -> String {
    event
        .policy
        .as_ref()
        .map_or_else(String::new, |policy| format!(" ({})", place(policy)))
}

/// `policies/x.cedar:4`.
pub(super) fn place(policy: &PolicyRef) -> String {
    format!("{}:{}", policy.file, policy.line)
}

/// The same for a span.
pub(super) fn place_of(span: &Span) -> String {
    format!("{}:{}", span.file, span.line)
}
