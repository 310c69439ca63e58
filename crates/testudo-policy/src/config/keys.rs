//! Every key of `testudo.yaml`: the table behind the reader, the JSON Schema and the reference.

use super::shape::{KeySpec, Kind, Need, Object};
use super::texts::{
    ADDRESS, APP, CIDR, CLAIM, COMMAND, DURATION, FILE, FILE_OR_URL, FILES, FOLDER, HASH, HEADER,
    HOST, HOST_PORT, ISSUER_ID, KEY_ID, KEYS_FILE, LIMIT_KEY, LOCATION, METHOD, NAME, ORIGIN, PATH,
    RATE, SECRET_FILE, SERVICE, SIZE, TEXT, TRUST_DOMAIN, UNTIL,
};

use Kind::{Any, Bool, Either, Integer, Later, List, Map, Null, Word};
use Need::{Absent, Optional, Required};

pub(crate) mod watch;

pub(super) const fn key(name: &'static str, need: Need, kind: Kind, doc: &'static str) -> KeySpec {
    KeySpec {
        name,
        kind,
        need,
        doc,
    }
}

pub(crate) const MODES: &[&str] = &["enforce", "report", "observe"];
pub(crate) const STRICTNESS: &[&str] = &["enforce", "report", "off"];

const INCLUDES: Kind = List(&Kind::Text(&FILES));
const PATHS: Kind = List(&Kind::Text(&PATH));
const NAMES: Kind = List(&Kind::Text(&NAME));
const HEADERS: Kind = List(&Kind::Text(&HEADER));

/// The main file.
pub(crate) static ROOT: Object = Object {
    title: "testudo.yaml",
    keys: &[
        key(
            "version",
            Required,
            Integer(1, 1),
            "the version of this format: 1",
        ),
        key(
            "trust_domain",
            Required,
            Kind::Text(&TRUST_DOMAIN),
            "the SPIFFE trust domain, for example shop.test",
        ),
        key(
            "include",
            Optional,
            INCLUDES,
            "files with services, routes and limits of each team; * and ** are patterns",
        ),
        key(
            "control",
            Optional,
            Kind::Object(&CONTROL),
            "the control plane",
        ),
        key(
            "identity",
            Optional,
            Kind::Object(&IDENTITY),
            "certificates of the mesh",
        ),
        key("gateway", Optional, Kind::Object(&GATEWAY), "the edge"),
        key(
            "users",
            Optional,
            Kind::Object(&USERS),
            "how users are recognized; left out: only callers are judged",
        ),
        key("services", Optional, SERVICES, "services by name"),
        key(
            "policies",
            Optional,
            Kind::Text(&FOLDER),
            "folder of Cedar policies",
        ),
        key("limits", Optional, LIMITS, "rate limits"),
        key(
            "waf",
            Absent("payload inspection comes later"),
            Any,
            "payload inspection",
        ),
        key(
            "watch",
            Optional,
            Kind::Object(&watch::WATCH),
            "detection and containment",
        ),
        key(
            "rollout",
            Absent("every revision goes everywhere at once"),
            Any,
            "stages of a change",
        ),
    ],
};

/// An included file.
pub(crate) static INCLUDED: Object = Object {
    title: "an included file",
    keys: &[
        key("services", Optional, SERVICES, "services by name"),
        key("routes", Optional, ROUTES, "routes of the gateway"),
        key("limits", Optional, LIMITS, "rate limits"),
    ],
};

const SERVICES: Kind = Map(&SERVICE, &Kind::Object(&SERVICE_KEYS));
const ROUTES: Kind = List(&Kind::Object(&ROUTE));
const LIMITS: Kind = List(&Kind::Object(&LIMIT));

pub(crate) static CONTROL: Object = Object {
    title: "control",
    keys: &[
        key(
            "api",
            Optional,
            Kind::Text(&ADDRESS),
            "address of the HTTP API and the dashboard",
        ),
        key(
            "mesh",
            Optional,
            Kind::Text(&ADDRESS),
            "address of the mesh gRPC",
        ),
        key(
            "store",
            Optional,
            Either(&[
                Word(&["embedded"]),
                Later(&[("etcd:", "the embedded store is the only one so far")]),
            ]),
            "where control keeps its state",
        ),
        key(
            "limits_store",
            Optional,
            Either(&[
                Null,
                Later(&[("redis", "limits count in each proxy or over the fleet")]),
            ]),
            "shared counts for limits with scope mesh",
        ),
    ],
};

pub(crate) static IDENTITY: Object = Object {
    title: "identity",
    keys: &[key(
        "ttl",
        Optional,
        Kind::Text(&DURATION),
        "lifetime of the mesh's certificates",
    )],
};

pub(crate) static GATEWAY: Object = Object {
    title: "gateway",
    keys: &[
        key("listen", Optional, Kind::Text(&ADDRESS), "where it listens"),
        key(
            "tls",
            Optional,
            Either(&[Word(&["none"]), List(&Kind::Object(&CERTIFICATE))]),
            "certificates, chosen by server name; none: plain HTTP; left out: one from the mesh's CA",
        ),
        key(
            "trusted_proxies",
            Optional,
            List(&Kind::Text(&CIDR)),
            "proxies whose X-Forwarded-For is believed",
        ),
        key(
            "proxy_protocol",
            Absent("the PROXY protocol is not read"),
            Any,
            "PROXY protocol",
        ),
        key(
            "routes",
            Optional,
            ROUTES,
            "host and path prefix to service; the longest prefix of whole segments wins",
        ),
    ],
};

pub(crate) static CERTIFICATE: Object = Object {
    title: "a certificate",
    keys: &[
        key(
            "certificate",
            Required,
            Kind::Text(&SECRET_FILE),
            "PEM chain, leaf first",
        ),
        key("key", Required, Kind::Text(&SECRET_FILE), "PEM private key"),
    ],
};

pub(crate) static ROUTE: Object = Object {
    title: "a route",
    keys: &[
        key(
            "host",
            Optional,
            Kind::Text(&HOST),
            "exact host; left out: every host",
        ),
        key(
            "path",
            Optional,
            Kind::Text(&PATH),
            "prefix of whole path segments",
        ),
        key(
            "service",
            Optional,
            Kind::Text(&SERVICE),
            "the service it leads to",
        ),
        key(
            "strip_prefix",
            Optional,
            Bool,
            "whether the path's prefix is cut off before the service sees it",
        ),
        key(
            "timeout",
            Optional,
            Kind::Text(&DURATION),
            "until the response head must have come; left out: the service's",
        ),
        key(
            "cors",
            Optional,
            Kind::Object(&CORS),
            "cross-origin requests, answered at the gateway",
        ),
        key(
            "redirect",
            Optional,
            Either(&[Kind::Text(&LOCATION), Kind::Object(&REDIRECT)]),
            "answers with a redirect instead of a service",
        ),
        key(
            "weights",
            Absent("a route leads to one service"),
            Any,
            "shares of several services",
        ),
    ],
};

pub(crate) static REDIRECT: Object = Object {
    title: "a redirect",
    keys: &[
        key(
            "to",
            Required,
            Kind::Text(&LOCATION),
            "an absolute URL, or a path",
        ),
        key(
            "status",
            Optional,
            Integer(301, 308),
            "301, 302, 307 or 308",
        ),
    ],
};

pub(crate) static CORS: Object = Object {
    title: "cors",
    keys: &[
        key(
            "origins",
            Required,
            List(&Kind::Text(&ORIGIN)),
            "exact origins, or \"*\"",
        ),
        key(
            "methods",
            Optional,
            List(&Kind::Text(&METHOD)),
            "allowed methods; left out: those of the operations",
        ),
        key("headers", Optional, HEADERS, "allowed request headers"),
        key(
            "expose",
            Optional,
            HEADERS,
            "response headers that scripts may read",
        ),
        key(
            "credentials",
            Optional,
            Bool,
            "whether credentials are allowed",
        ),
        key(
            "max_age",
            Optional,
            Kind::Text(&DURATION),
            "how long a preflight may be cached",
        ),
    ],
};

pub(crate) static USERS: Object = Object {
    title: "users",
    keys: &[
        key(
            "jwt",
            Optional,
            Map(&NAME, &Kind::Object(&ISSUER)),
            "issuers of JWTs by short name",
        ),
        key(
            "api_keys",
            Optional,
            Kind::Text(&KEYS_FILE),
            "file of API keys",
        ),
        key(
            "forward",
            Optional,
            Bool,
            "whether the original credential reaches the service too",
        ),
    ],
};

pub(crate) static ISSUER: Object = Object {
    title: "an issuer",
    keys: &[
        key(
            "issuer",
            Required,
            Kind::Text(&ISSUER_ID),
            "the tokens' iss, compared exactly",
        ),
        key(
            "audiences",
            Required,
            List(&Kind::Text(&TEXT)),
            "one of these must be in the tokens' aud",
        ),
        key(
            "jwks",
            Optional,
            Kind::Text(&FILE_OR_URL),
            "file or https URL of its keys; left out: OIDC discovery",
        ),
        key(
            "id",
            Optional,
            Kind::Text(&CLAIM),
            "where the user's id stands",
        ),
        key(
            "roles",
            Optional,
            Kind::Object(&ROLES),
            "where roles come from; left out: its users have none",
        ),
        key(
            "claims",
            Optional,
            Map(&NAME, &Kind::Text(&CLAIM)),
            "claims that policies may read, by name",
        ),
    ],
};

pub(crate) static ROLES: Object = Object {
    title: "roles",
    keys: &[
        key(
            "claim",
            Required,
            Kind::Text(&CLAIM),
            "a list, or a space-separated string",
        ),
        key(
            "map",
            Optional,
            Map(&TEXT, &Kind::Text(&NAME)),
            "what the issuer calls them to what policies call them",
        ),
        key(
            "allow",
            Optional,
            NAMES,
            "the roles that this issuer may give; mandatory with several issuers",
        ),
    ],
};

pub(crate) static SERVICE_KEYS: Object = Object {
    title: "a service",
    keys: &[
        key(
            "mode",
            Optional,
            Word(MODES),
            "enforce, report (decide, log, let pass) or observe",
        ),
        key(
            "until",
            Optional,
            Kind::Text(&UNTIL),
            "when mode report or observe ends and enforce holds",
        ),
        key(
            "app",
            Optional,
            List(&Kind::Text(&APP)),
            "the application's addresses, one workload each",
        ),
        key(
            "run",
            Optional,
            Kind::Text(&COMMAND),
            "the application's command, for testudo up",
        ),
        key(
            "sidecar",
            Optional,
            Either(&[Word(&["none"]), Kind::Object(&SIDECAR)]),
            "the sidecar's addresses; none: called in plain",
        ),
        key(
            "roles",
            Optional,
            NAMES,
            "service roles, for policies on callers",
        ),
        key(
            "labels",
            Optional,
            Map(&NAME, &Kind::Text(&TEXT)),
            "labels, for policies",
        ),
        key(
            "protocol",
            Optional,
            Word(&["auto", "http1", "http2"]),
            "HTTP version spoken to it",
        ),
        key(
            "api",
            Optional,
            Either(&[Word(&["none"]), Kind::Object(&API)]),
            "its API specification and how strictly it holds",
        ),
        key(
            "user",
            Optional,
            Word(&["authorize", "require", "optional", "ignore"]),
            "what is asked of users",
        ),
        key(
            "acts_alone",
            Optional,
            Either(&[Bool, List(&Kind::Text(&TEXT))]),
            "operations of others that it may call without a user; true: all",
        ),
        key(
            "probes",
            Optional,
            PATHS,
            "paths answered without authentication, GET only",
        ),
        key(
            "egress",
            Optional,
            List(&Kind::Text(&HOST_PORT)),
            "hosts outside the mesh that it may reach",
        ),
        key(
            "timeout",
            Optional,
            Kind::Text(&DURATION),
            "until the response head must have come",
        ),
    ],
};

pub(crate) static SIDECAR: Object = Object {
    title: "a sidecar",
    keys: &[
        key(
            "inbound",
            Optional,
            Kind::Text(&ADDRESS),
            "its mTLS address under `testudo up`; `testudo proxy` takes --inbound",
        ),
        key(
            "outbound",
            Optional,
            Kind::Text(&ADDRESS),
            "its plain address for the application under `testudo up`; `testudo proxy` takes --outbound",
        ),
    ],
};

pub(crate) static API: Object = Object {
    title: "an API",
    keys: &[
        key(
            "openapi",
            Optional,
            Kind::Text(&FILE),
            "its OpenAPI document (3.0 or 3.1)",
        ),
        key(
            "graphql",
            Absent("OpenAPI is the only kind of specification so far"),
            Any,
            "its GraphQL schema",
        ),
        key(
            "grpc",
            Absent(
                "OpenAPI is the only kind of specification so far; gRPC passes with `api: none`",
            ),
            Any,
            "its protobuf definition",
        ),
        key(
            "mcp",
            Absent("OpenAPI is the only kind of specification so far"),
            Any,
            "its MCP tools",
        ),
        key(
            "requests",
            Optional,
            Word(STRICTNESS),
            "how strictly requests are checked",
        ),
        key(
            "responses",
            Optional,
            Word(STRICTNESS),
            "how strictly responses are checked",
        ),
        key(
            "undocumented",
            Optional,
            Word(&["deny", "report", "allow"]),
            "what becomes of operations that the specification does not have",
        ),
        key(
            "max_body",
            Optional,
            Kind::Text(&SIZE),
            "largest request body",
        ),
    ],
};

pub(crate) static LIMIT: Object = Object {
    title: "a limit",
    keys: &[
        key("name", Required, Kind::Text(&NAME), "its name"),
        key(
            "match",
            Optional,
            Kind::Object(&LIMIT_MATCH),
            "what it counts; left out: everything",
        ),
        key(
            "per",
            Required,
            Kind::Text(&LIMIT_KEY),
            "user, service, address, header:NAME, claim:NAME or all",
        ),
        key(
            "rate",
            Required,
            Kind::Text(&RATE),
            "requests per time, for example 100/s",
        ),
        key(
            "burst",
            Optional,
            Integer(1, 1_000_000_000),
            "as many at once; left out: one second of the rate",
        ),
        key(
            "scope",
            Optional,
            Either(&[
                Word(&["proxy", "fleet"]),
                Later(&[(
                    "mesh",
                    "limits count in each proxy, or over the fleet with `scope: fleet`",
                )]),
            ]),
            "proxy: each proxy counts alone; fleet: the rate is divided by the live proxies",
        ),
    ],
};

pub(crate) static LIMIT_MATCH: Object = Object {
    title: "match",
    keys: &[
        key(
            "service",
            Optional,
            Kind::Text(&SERVICE),
            "the called service",
        ),
        key("operation", Optional, Kind::Text(&TEXT), "the operationId"),
        key("method", Optional, Kind::Text(&METHOD), "the method"),
        key(
            "path",
            Optional,
            Kind::Text(&PATH),
            "prefix of whole segments, as the service sees it",
        ),
    ],
};

/// The API keys' file.
pub(crate) static API_KEYS: Object = Object {
    title: "the API keys' file",
    keys: &[key(
        "keys",
        Required,
        List(&Kind::Object(&API_KEY)),
        "one entry a key",
    )],
};

pub(crate) static API_KEY: Object = Object {
    title: "an API key",
    keys: &[
        key("id", Required, Kind::Text(&KEY_ID), "its public part"),
        key(
            "hash",
            Required,
            Kind::Text(&HASH),
            "64 hex digits; never the key itself",
        ),
        key(
            "user",
            Required,
            Kind::Text(&TEXT),
            "whom it stands for: the part after key:",
        ),
        key("roles", Optional, NAMES, "its roles"),
        key(
            "expires",
            Optional,
            Kind::Text(&UNTIL),
            "when it ends; left out: never",
        ),
    ],
};

/// Every object of the tables, for tests over all keys.
#[cfg(test)]
pub(crate) fn objects() -> Vec<&'static Object> {
    let mut all = watch::objects();
    all.extend([
        &ROOT,
        &INCLUDED,
        &CONTROL,
        &IDENTITY,
        &GATEWAY,
        &CERTIFICATE,
        &ROUTE,
        &REDIRECT,
        &CORS,
        &USERS,
        &ISSUER,
        &ROLES,
        &SERVICE_KEYS,
        &SIDECAR,
        &API,
        &LIMIT,
        &LIMIT_MATCH,
        &API_KEYS,
        &API_KEY,
    ]);
    all
}
