//! Rate limits: which rules count a request, by what key, and what clients are told.
//!
//! The counting itself is [`Limiter`]'s (GCRA: the generic cell rate algorithm, ITU-T I.371).

mod table;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use smallvec::SmallVec;
use testudo_model::PolicyRef;

use crate::authn::{Claim, User};
use crate::peer::Caller;
use crate::record::LimitState;
use crate::route::prefix_rest;

pub use table::Limiter;

/// One limit of the bundle.
pub struct LimitRule {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands in the bundle.
    pub source: PolicyRef,
    /// What it counts.
    pub matches: LimitMatch,
    /// By what it tells requests apart.
    pub per: LimitKey,
    /// One request each so long, in the long run.
    pub interval: Duration,
    /// As many at once.
    pub burst: u32,
    /// Who counts together.
    pub scope: LimitScope,
}

/// What a limit counts; all given conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct LimitMatch {
    /// Service name.
    pub service: Option<Arc<str>>,
    /// Operation id, as `SERVICE:OPERATION`.
    pub operation: Option<Arc<str>>,
    /// Method.
    pub method: Option<Method>,
    /// Path prefix of whole segments, as the service sees it.
    pub path: Option<Arc<str>>,
}

/// By what a limit tells requests apart; what a request lacks is replaced by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// The user.
    User,
    /// The calling service.
    Service,
    /// The client's address (IPv6: its /64).
    Address,
    /// A header's value.
    Header(HeaderName),
    /// A declared claim.
    Claim(Arc<str>),
    /// Everything together.
    All,
}

/// Who counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitScope {
    /// Each proxy alone.
    Proxy,
    /// Rate and burst are divided by the number of live proxies that see the traffic.
    Fleet,
}

/// What rules match and tell apart.
pub(crate) struct Subject<'a> {
    pub(crate) service: &'a str,
    pub(crate) operation: Option<&'a str>,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) address: IpAddr,
    pub(crate) caller: Option<&'a Caller>,
    pub(crate) user: Option<&'a Arc<User>>,
}

impl LimitMatch {
    pub(crate) fn covers(&self, subject: &Subject<'_>) -> bool {
        self.service
            .as_ref()
            .is_none_or(|service| **service == *subject.service)
            && self
                .operation
                .as_ref()
                .is_none_or(|operation| subject.operation == Some(&**operation))
            && self
                .method
                .as_ref()
                .is_none_or(|method| same_method(method, subject.method))
            && self
                .path
                .as_ref()
                .is_none_or(|path| prefix_rest(path, subject.path).is_some())
    }
}

/// HEAD is its GET (DESIGN §4).
fn same_method(rule: &Method, method: &Method) -> bool {
    rule == method || (rule == Method::GET && method == Method::HEAD)
}

impl LimitKey {
    /// Whether the key needs the verified user: such rules count after authorization, so that nobody
    /// uses up another's limit with a forged credential.
    pub(crate) const fn is_identity(&self) -> bool {
        match self {
            LimitKey::User | LimitKey::Claim(_) => true,
            LimitKey::Service | LimitKey::Address | LimitKey::Header(_) | LimitKey::All => false,
        }
    }

    /// The value that tells this request from others, with a letter for its kind, so that a user
    /// named like an address is not that address.
    pub(crate) fn value(&self, subject: &Subject<'_>) -> SmallVec<[u8; 64]> {
        let of_address = || tagged(b'a', &address_key(subject.address));
        let user = subject.user.filter(|user| !user.is_anonymous());
        match self {
            LimitKey::All => tagged(b'*', b""),
            LimitKey::Address => of_address(),
            LimitKey::User => user.map_or_else(of_address, |user| tagged(b'u', user.id.as_bytes())),
            LimitKey::Service => match subject.caller {
                Some(Caller::Service(name)) => tagged(b's', name.as_bytes()),
                Some(Caller::Gateway) => tagged(b'g', b""),
                Some(Caller::Unknown) | None => of_address(),
            },
            LimitKey::Header(name) => subject
                .headers
                .get(name)
                .map_or_else(of_address, |value| tagged(b'h', value.as_bytes())),
            LimitKey::Claim(name) => user
                .and_then(|user| user.claims.get(name))
                .map_or_else(of_address, |claim| tagged(b'c', &claim_key(claim))),
        }
    }
}

fn tagged(kind: u8, value: &[u8]) -> SmallVec<[u8; 64]> {
    let mut key = SmallVec::with_capacity(value.len() + 1);
    key.push(kind);
    key.extend_from_slice(value);
    key
}

/// A whole /64 is one subscriber in IPv6.
fn address_key(address: IpAddr) -> SmallVec<[u8; 16]> {
    match address.to_canonical() {
        IpAddr::V4(address) => SmallVec::from_slice(&address.octets()),
        IpAddr::V6(address) => address.octets().into_iter().take(8).collect(),
    }
}

fn claim_key(claim: &Claim) -> SmallVec<[u8; 32]> {
    match claim {
        Claim::String(text) => SmallVec::from_slice(text.as_bytes()),
        Claim::Long(number) => SmallVec::from_slice(&number.to_be_bytes()),
        Claim::Bool(value) => SmallVec::from_slice(&[u8::from(*value)]),
        Claim::Strings(list) => {
            let mut key = SmallVec::new();
            for text in list.iter() {
                key.extend_from_slice(text.as_bytes());
                key.push(0);
            }
            key
        }
    }
}

/// Tells clients where they stand: `RateLimit-Policy` and `RateLimit`
/// (draft-ietf-httpapi-ratelimit-headers-10 §3, §4: structured fields), one member a limit.
pub(crate) fn state_headers(states: &[LimitState], headers: &mut HeaderMap) {
    if states.is_empty() {
        return;
    }
    let (mut policies, mut current) = (String::new(), String::new());
    for state in states {
        for (text, rest) in [
            (
                &mut policies,
                format!(";q={};w={}", state.burst, whole_seconds(state.window)),
            ),
            (
                &mut current,
                format!(";r={};t={}", state.remaining, seconds_up(state.reset_after)),
            ),
        ] {
            if !text.is_empty() {
                text.push_str(", ");
            }
            push_string(text, &state.name);
            text.push_str(&rest);
        }
    }
    for (name, text) in [("ratelimit-policy", policies), ("ratelimit", current)] {
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// `Retry-After` (RFC 9110 §10.2.3): whole seconds, rounded up, since an early retry is denied again.
pub(crate) fn retry_after_header(state: &LimitState, headers: &mut HeaderMap) {
    headers.insert(
        header::RETRY_AFTER,
        seconds_up(state.retry_after).max(1).into(),
    );
}

/// A structured-field string (RFC 9651 §3.3.3): ASCII, with `"` and `\` escaped.
fn push_string(text: &mut String, name: &str) {
    text.push('"');
    for character in name.chars() {
        match character {
            '"' | '\\' => {
                text.push('\\');
                text.push(character);
            }
            ' '..='~' => text.push(character),
            _ => text.push('?'),
        }
    }
    text.push('"');
}

fn seconds_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn whole_seconds(duration: Duration) -> u64 {
    seconds_up(duration).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject<'a>(method: &'a Method, headers: &'a HeaderMap) -> Subject<'a> {
        Subject {
            service: "orders",
            operation: Some("orders:createOrder"),
            method,
            path: "/orders/17",
            headers,
            address: "2001:db8:0:1:2:3:4:5".parse().unwrap(),
            caller: None,
            user: None,
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let headers = HeaderMap::new();
        let subject = subject(&Method::HEAD, &headers);
        let all = LimitMatch {
            service: Some(Arc::from("orders")),
            operation: Some(Arc::from("orders:createOrder")),
            method: Some(Method::GET),
            path: Some(Arc::from("/orders")),
        };
        assert!(all.covers(&subject));
        assert!(LimitMatch::default().covers(&subject));
        for wrong in [
            LimitMatch {
                service: Some(Arc::from("catalog")),
                ..all.clone()
            },
            LimitMatch {
                operation: Some(Arc::from("orders:x")),
                ..all.clone()
            },
            LimitMatch {
                method: Some(Method::POST),
                ..all.clone()
            },
            LimitMatch {
                path: Some(Arc::from("/order")),
                ..all.clone()
            },
        ] {
            assert!(!wrong.covers(&subject));
        }
    }

    #[test]
    fn what_is_missing_is_replaced_by_the_address() {
        let mut headers = HeaderMap::new();
        let address = LimitKey::Address.value(&subject(&Method::GET, &headers));
        assert_eq!(&address[..], b"a\x20\x01\x0d\xb8\0\0\0\x01");
        let tenant = HeaderName::from_static("x-tenant");
        for key in [
            LimitKey::User,
            LimitKey::Service,
            LimitKey::Claim(Arc::from("tenant")),
            LimitKey::Header(tenant.clone()),
        ] {
            assert_eq!(key.value(&subject(&Method::GET, &headers)), address);
        }
        headers.insert(&tenant, HeaderValue::from_static("acme"));
        let key = LimitKey::Header(tenant).value(&subject(&Method::GET, &headers));
        assert_eq!(&key[..], b"hacme");
        let anonymous = User::anonymous();
        let mut subject = subject(&Method::GET, &headers);
        subject.user = Some(&anonymous);
        assert_eq!(LimitKey::User.value(&subject), address);
    }

    #[test]
    fn clients_are_told_in_structured_fields() {
        let state = |name: &str, remaining| LimitState {
            name: Arc::from(name),
            burst: 200,
            window: Duration::from_millis(1500),
            remaining,
            retry_after: Duration::from_millis(10),
            reset_after: Duration::from_millis(1001),
        };
        let mut headers = HeaderMap::new();
        state_headers(
            &[state("per-user", 7), state("a\"b\u{e9}", 0)],
            &mut headers,
        );
        assert_eq!(
            headers["ratelimit-policy"],
            r#""per-user";q=200;w=2, "a\"b?";q=200;w=2"#
        );
        assert_eq!(
            headers["ratelimit"],
            r#""per-user";r=7;t=2, "a\"b?";r=0;t=2"#
        );
        retry_after_header(&state("x", 0), &mut headers);
        assert_eq!(headers["retry-after"], "1");
    }
}
