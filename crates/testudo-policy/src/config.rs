//! `testudo.yaml` and its includes as types: defaults filled in, paths resolved, every value in range.
//!
//! What keys there are stands in `keys`, what is filled in stands in [`defaults`]. Whether names refer to
//! something, and whether anything would do nothing, is `check`'s to find.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use testudo_guard::limit::LimitRule;
use testudo_guard::route::{Route as RouteRule, RouteTarget};
use testudo_guard::schema::{Strictness, Undocumented};
use testudo_guard::snapshot::{ActsAlone, AppAddress, Protocol, UserRule};
use testudo_model::{Mode, PolicyRef};

use crate::bundle::Bundle;
use crate::diagnostic::{Diagnostics, Span};

mod api_keys;
pub mod defaults;
mod fields;
mod gateway;
pub(crate) mod keys;
mod limits;
mod root;
mod services;
pub(crate) mod shape;
mod texts;
mod users;
pub mod values;
mod watch;

pub use shape::did_you_mean;
pub use watch::{
    DetectorKnobs, Protected, Respond, Watch, Webhook, WebhookFormat, WebhookUrl, detectors,
};

/// The whole mesh.
#[derive(Debug)]
pub struct Config {
    /// The SPIFFE trust domain.
    pub trust_domain: Arc<str>,
    /// The control plane's addresses.
    pub control: Control,
    /// SVID lifetime.
    pub identity_ttl: Duration,
    /// The gateway, if there is one.
    pub gateway: Option<Gateway>,
    /// How users are recognized.
    pub users: Option<Users>,
    /// By name, in the order of the bundle.
    pub services: indexmap::IndexMap<Arc<str>, Service>,
    /// Folder of Cedar policies, in the bundle; `None`: it has none.
    pub policies: Option<(String, Span)>,
    /// In the order of the bundle.
    pub limits: Vec<Limit>,
    /// Detection and containment.
    pub watch: Watch,
}

/// `control:`.
#[derive(Debug)]
pub struct Control {
    /// HTTP API and dashboard.
    pub api: SocketAddr,
    /// Where that stands.
    pub api_span: Span,
    /// Mesh gRPC.
    pub mesh: SocketAddr,
    /// Where that stands.
    pub mesh_span: Span,
}

/// `gateway:`.
#[derive(Debug)]
pub struct Gateway {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where that stands.
    pub listen_span: Span,
    /// How it presents itself.
    pub tls: GatewayTls,
    /// CIDRs whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<(ipnet::IpNet, Span)>,
    /// Routes, in the order of the bundle.
    pub routes: Vec<Route>,
}

/// A route and where its parts stand.
pub struct Route {
    /// What guard runs.
    pub rule: Arc<RouteRule>,
    /// The whole route.
    pub span: Span,
    /// Its path (or the route, where it is left out).
    pub path_span: Span,
    /// The service's name.
    pub service_span: Option<Span>,
}

impl Route {
    /// The service that it leads to; `None` for a redirect.
    pub fn service(&self) -> Option<&Arc<str>> {
        match &self.rule.target {
            RouteTarget::Service { service, .. } => Some(service),
            RouteTarget::Redirect { .. } => None,
        }
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("host", &self.rule.host)
            .field("path", &self.rule.path)
            .field("service", &self.service())
            .finish_non_exhaustive()
    }
}

/// `gateway.tls`.
#[derive(Debug)]
pub enum GatewayTls {
    /// Left out: a certificate from the mesh's CA.
    Mesh,
    /// `none`.
    Plain,
    /// Certificate and key, as written.
    Certificates(Vec<CertificateSource>),
}

/// One certificate of the edge.
#[derive(Debug)]
pub struct CertificateSource {
    /// PEM chain.
    pub certificate: SecretSource,
    /// PEM private key.
    pub key: SecretSource,
    /// Where it stands.
    pub span: Span,
    /// Where the key stands.
    pub key_span: Span,
}

/// Where something that may be secret comes from. Only a file of the bundle travels in revisions; the others are
/// resolved where they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// This file of the bundle.
    Bundle(String),
    /// `${file:PATH}`: a file on the proxy's host.
    File(String),
    /// `${env:NAME}`: an environment variable of the proxy.
    Environment(String),
}

/// `users:`.
#[derive(Debug)]
pub struct Users {
    /// JWT issuers by short name.
    pub jwt: Vec<Issuer>,
    /// The API keys' file.
    pub api_keys: Option<ApiKeys>,
    /// Whether the original credential reaches the service too.
    pub forward: bool,
}

/// The API keys' file.
#[derive(Debug)]
pub struct ApiKeys {
    /// Its path in the bundle.
    pub path: String,
    /// Where that stands.
    pub span: Span,
    /// The keys. Empty where this proxy does not get the file.
    pub keys: Vec<ApiKey>,
}

/// One API key: a hash, never the key.
pub struct ApiKey {
    /// Its public part.
    pub id: Arc<str>,
    /// Where it stands.
    pub span: Span,
    /// The stored hash.
    pub hash: [u8; 32],
    /// Whom it stands for.
    pub user: Arc<str>,
    /// Its roles.
    pub roles: Vec<(Arc<str>, Span)>,
    /// Seconds since the epoch; `None`: never.
    pub expires: Option<u64>,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// One issuer of JWTs.
#[derive(Debug)]
pub struct Issuer {
    /// The short name.
    pub name: Arc<str>,
    /// Where it stands.
    pub span: Span,
    /// `iss`.
    pub issuer: String,
    /// `aud`, one of them.
    pub audiences: Vec<String>,
    /// Where its keys come from.
    pub jwks: Jwks,
    /// Where that stands (the name, where it is left out).
    pub jwks_span: Span,
    /// JSON Pointer to the user's id.
    pub id: String,
    /// Where roles come from, if anywhere.
    pub roles: Option<Roles>,
    /// Declared claims: name to JSON Pointer.
    pub claims: BTreeMap<Arc<str>, String>,
}

/// Where an issuer's keys come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Jwks {
    /// A file of the bundle.
    File(String),
    /// This URL.
    Url(String),
    /// OIDC discovery at the issuer.
    Discovery,
}

/// Where roles come from.
#[derive(Debug)]
pub struct Roles {
    /// JSON Pointer to a list, or to a space-separated string.
    pub claim: String,
    /// What the identity provider calls them, to what policies call them, and where that stands.
    pub map: BTreeMap<String, (Arc<str>, Span)>,
    /// The roles that this issuer may give; `None`: whatever its tokens say.
    pub allow: Option<Vec<(Arc<str>, Span)>>,
    /// Where `roles` stands.
    pub span: Span,
}

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands.
    pub span: Span,
    /// Mode, and until when (seconds since the epoch).
    pub mode: Mode,
    /// See `mode`.
    pub mode_until: Option<u64>,
    /// Where `until` stands.
    pub until_span: Option<Span>,
    /// Application addresses, one workload each.
    pub app: Vec<(AppAddress, Span)>,
    /// Command for `up`, split as a shell would.
    pub run: Option<Vec<String>>,
    /// The sidecar's addresses.
    pub sidecar: Sidecar,
    /// Service roles.
    pub roles: Vec<(Arc<str>, Span)>,
    /// Labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// HTTP version spoken to it.
    pub protocol: Protocol,
    /// Its API.
    pub api: ApiConfig,
    /// What is asked of users.
    pub user: UserRule,
    /// Where that stands, if it is written.
    pub user_span: Option<Span>,
    /// Operations of others that it may call without a user.
    pub acts_alone: ActsAlone,
    /// The same with the place of each.
    pub acts_alone_spans: Vec<(Arc<str>, Span)>,
    /// Paths answered without authentication.
    pub probes: Vec<(Arc<str>, Span)>,
    /// Hosts outside the mesh that it may reach.
    pub egress: Vec<(Arc<str>, Span)>,
    /// Until the response head must have come.
    pub timeout: Duration,
}

/// `sidecar:` of a service.
#[derive(Debug)]
pub enum Sidecar {
    /// `none`: called in plain.
    None(Span),
    /// Addresses, where given.
    Addresses {
        /// mTLS inbound.
        inbound: Option<(SocketAddr, Span)>,
        /// Plain outbound, for its application.
        outbound: Option<(SocketAddr, Span)>,
    },
}

/// `api:` of a service.
#[derive(Debug)]
pub struct ApiConfig {
    /// Path of the OpenAPI document; `None`: `api: none`.
    pub openapi: Option<(String, Span)>,
    /// For requests.
    pub requests: Strictness,
    /// For responses.
    pub responses: Strictness,
    /// For operations that the specification does not have.
    pub undocumented: Undocumented,
    /// Largest request body, in bytes.
    pub max_body: u64,
}

/// A limit and where its parts stand.
pub struct Limit {
    /// What guard runs.
    pub rule: Arc<LimitRule>,
    /// Its name.
    pub span: Span,
    /// `per`.
    pub per_span: Span,
    /// The keys of `match` that stand, and where their values do.
    pub match_spans: Vec<(&'static str, Span)>,
}

impl std::fmt::Debug for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limit")
            .field("name", &self.rule.name)
            .field("matches", &self.rule.matches)
            .finish_non_exhaustive()
    }
}

/// Reads `testudo.yaml` and its includes. Every mistake becomes a diagnostic; what could be read is returned
/// even then, so that the other checks can go on. `None`: nothing could be read. Whoever compiles must refuse errors.
pub fn read(bundle: &Bundle, diagnostics: &mut Diagnostics) -> Option<Config> {
    root::read(bundle, diagnostics)
}

impl Users {
    /// All roles that a user can have; `None`: an issuer without `allow` may give any.
    pub fn roles(&self) -> Option<BTreeSet<Arc<str>>> {
        let mut all = BTreeSet::new();
        for roles in self.jwt.iter().filter_map(|issuer| issuer.roles.as_ref()) {
            all.extend(roles.allow.as_ref()?.iter().map(|(role, _)| role.clone()));
        }
        let keys = self.api_keys.iter().flat_map(|file| &file.keys);
        all.extend(keys.flat_map(|key| key.roles.iter().map(|(role, _)| role.clone())));
        Some(all)
    }
}

impl Config {
    /// The SPIFFE id of a service (DESIGN §6).
    pub fn spiffe_id(&self, service: &str) -> String {
        format!("spiffe://{}/service/{service}", self.trust_domain)
    }
}

/// A place as events and snapshots carry it.
pub fn policy_ref(span: &Span) -> PolicyRef {
    PolicyRef {
        file: std::borrow::Cow::Owned(span.file.to_string()),
        line: span.line,
    }
}

#[cfg(test)]
mod tests;
