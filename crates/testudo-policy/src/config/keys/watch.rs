//! The keys of `watch:`: what is done about the unusual, who is told, and the knobs of the detectors.

use super::super::shape::{KeySpec, Kind, Need, Object};
use super::super::texts::{DURATION, PRINCIPAL, SECRET, SHARE, SIZE, WEBHOOK};
use super::key;

use Kind::{Bool, Integer, List, Word};
use Need::{Optional, Required};

/// What a detector's entry without `off` has besides.
const OFF: KeySpec = key("off", Optional, Bool, "true: this detector says nothing");

/// A whole number of something, at least one.
const COUNT: Kind = Integer(1, 1_000_000_000);

pub(crate) const RESPOND: &[&str] = &["alert", "contain"];
pub(crate) const FORMATS: &[&str] = &["generic", "slack"];

pub(crate) static WATCH: Object = Object {
    title: "watch",
    keys: &[
        key(
            "respond",
            Optional,
            Word(RESPOND),
            "alert: incidents are shown and sent; contain: verified principals are also throttled, then denied",
        ),
        key(
            "contain_for",
            Optional,
            Kind::Text(&DURATION),
            "how long a containment lasts unless it is lifted before",
        ),
        key(
            "max_share",
            Optional,
            Kind::Text(&SHARE),
            "share of the mesh's traffic that containments may touch together",
        ),
        key(
            "protect",
            Optional,
            List(&Kind::Text(&PRINCIPAL)),
            "who is never contained: services by name, users as ISSUER:ID",
        ),
        key(
            "notify",
            Optional,
            List(&Kind::Object(&NOTIFY)),
            "webhooks that are told of incidents",
        ),
        key(
            "detectors",
            Optional,
            Kind::Object(&DETECTORS),
            "knobs of the detectors; left out: as docs/watching.md says",
        ),
    ],
};

pub(crate) static NOTIFY: Object = Object {
    title: "a webhook",
    keys: &[
        key(
            "url",
            Required,
            Kind::Text(&WEBHOOK),
            "an https URL, or http to loopback; Slack's belong into ${env:NAME}",
        ),
        key(
            "format",
            Optional,
            Word(FORMATS),
            "generic: the incident as JSON; slack: a message for an incoming webhook",
        ),
        key(
            "secret",
            Optional,
            Kind::Text(&SECRET),
            "key of the signature (HMAC-SHA256); left out: deliveries are not signed",
        ),
    ],
};

/// `watch.detectors`: each detector by name.
pub(crate) static DETECTORS: Object = Object {
    title: "detectors",
    keys: &[
        key(
            "new_edge",
            Optional,
            Kind::Object(&NEW_EDGE),
            "a service calls what it never called before",
        ),
        key(
            "rate",
            Optional,
            Kind::Object(&RATE),
            "many more or many fewer requests than usual",
        ),
        key(
            "errors",
            Optional,
            Kind::Object(&ERRORS),
            "answers with 5xx",
        ),
        key(
            "denials",
            Optional,
            Kind::Object(&DENIALS),
            "refusals, real ones and those of mode report",
        ),
        key("latency", Optional, Kind::Object(&LATENCY), "slow answers"),
        key(
            "volume",
            Optional,
            Kind::Object(&VOLUME),
            "bytes out to one principal",
        ),
        key(
            "enumeration",
            Optional,
            Kind::Object(&ENUMERATION),
            "one user walks through objects",
        ),
        key(
            "scan",
            Optional,
            Kind::Object(&SCAN),
            "one principal tries paths that lead nowhere",
        ),
        key(
            "stuffing",
            Optional,
            Kind::Object(&STUFFING),
            "credentials are tried: many from one address, or from many addresses",
        ),
        key(
            "token_sharing",
            Optional,
            Kind::Object(&TOKEN_SHARING),
            "one credential is used from many places",
        ),
        key(
            "undocumented",
            Optional,
            Kind::Object(&UNDOCUMENTED),
            "operations that the specification does not have",
        ),
        key(
            "dropped_user",
            Optional,
            Kind::Object(&DROPPED_USER),
            "a service does not pass its user on",
        ),
        key(
            "probing",
            Optional,
            Kind::Object(&PROBING),
            "one principal runs into rate limits again and again",
        ),
    ],
};

macro_rules! detector {
    ($name:ident, $title:literal, [$($key:literal: $kind:expr, $doc:literal;)*]) => {
        pub(crate) static $name: Object = Object {
            title: $title,
            keys: &[OFF, $(key($key, Optional, $kind, $doc)),*],
        };
    };
}

detector!(NEW_EDGE, "new_edge", [
    "learn": Kind::Text(&DURATION), "how long after the first traffic new edges are learned in silence";
]);
detector!(RATE, "rate", [
    "factor": COUNT, "times the usual rate, or one part in as many of it";
    "requests": COUNT, "requests a minute below which nothing is said";
]);
detector!(ERRORS, "errors", [
    "share": Kind::Text(&SHARE), "share of an edge's requests";
    "requests": COUNT, "errors a minute below which nothing is said";
]);
detector!(DENIALS, "denials", [
    "requests": COUNT, "refusals of one principal in a minute from which something is said";
    "factor": COUNT, "times its usual number";
]);
detector!(LATENCY, "latency", [
    "factor": COUNT, "times the usual median";
    "least": Kind::Text(&DURATION), "medians below this are never slow";
]);
detector!(VOLUME, "volume", [
    "bytes": Kind::Text(&SIZE), "bytes in a minute from which something is said";
    "factor": COUNT, "times the usual number, where that is known";
]);
detector!(ENUMERATION, "enumeration", [
    "objects": COUNT, "different paths of one operation in a minute";
    "factor": COUNT, "times the usual number, where that is known";
]);
detector!(SCAN, "scan", [
    "paths": COUNT, "different paths that lead nowhere, in a minute";
]);
detector!(STUFFING, "stuffing", [
    "credentials": COUNT, "different wrong credentials from one address in a minute";
    "addresses": COUNT, "addresses with wrong credentials in a minute";
]);
detector!(TOKEN_SHARING, "token_sharing", [
    "addresses": COUNT, "addresses that use one credential within five minutes";
    "agents": COUNT, "user agents that use one credential within five minutes";
]);
detector!(UNDOCUMENTED, "undocumented", [
    "requests": COUNT, "requests a minute to operations that the specification does not have";
]);
detector!(DROPPED_USER, "dropped_user", [
    "requests": COUNT, "requests a minute without the user that came in";
]);
detector!(PROBING, "probing", [
    "requests": COUNT, "requests a minute that a limit stopped";
]);

/// Every object of this file, for tests over all keys.
#[cfg(test)]
pub(crate) fn objects() -> Vec<&'static Object> {
    let detectors = DETECTORS.keys.iter().filter_map(|key| match key.kind {
        Kind::Object(object) => Some(object),
        _ => None,
    });
    [&WATCH, &NOTIFY, &DETECTORS]
        .into_iter()
        .chain(detectors)
        .collect()
}
