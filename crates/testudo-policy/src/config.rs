//! `testudo.yaml`, valid by construction: every name resolved, every default filled in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use testudo_guard::limit::LimitRule;
use testudo_guard::route::Route;
use testudo_guard::schema::{Strictness, Undocumented};
use testudo_guard::snapshot::{ActsAlone, AppAddress, Protocol, UserRule};
use testudo_model::Mode;

use crate::diagnostic::Span;

/// The whole mesh.
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
    /// Folder of Cedar policies, in the bundle.
    pub policies: Option<(String, Span)>,
    /// In the order of the bundle.
    pub limits: Vec<Arc<LimitRule>>,
}

/// `control:`.
pub struct Control {
    /// HTTP API and dashboard.
    pub api: SocketAddr,
    /// Mesh gRPC.
    pub mesh: SocketAddr,
}

/// `gateway:`.
pub struct Gateway {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where that stands.
    pub listen_span: Span,
    /// How it presents itself.
    pub tls: GatewayTls,
    /// CIDRs whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Routes, in the order of the bundle.
    pub routes: Vec<Arc<Route>>,
}

/// `gateway.tls`.
pub enum GatewayTls {
    /// Left out: a certificate from the mesh's CA.
    Mesh,
    /// `none`.
    Plain,
    /// Certificate and key, as written.
    Certificates(Vec<CertificateSource>),
}

/// One certificate of the edge.
pub struct CertificateSource {
    /// Path in the bundle, or `${file:PATH}`.
    pub certificate: String,
    /// Path in the bundle, `${file:PATH}` or `${env:NAME}`.
    pub key: String,
    /// Where it stands.
    pub span: Span,
}

/// `users:`.
pub struct Users {
    /// JWT issuers by short name.
    pub jwt: Vec<Issuer>,
    /// Path of the API keys' file.
    pub api_keys: Option<(String, Span)>,
    /// Whether the original credential reaches the service too.
    pub forward: bool,
}

/// One issuer of JWTs.
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
    /// JSON Pointer to the user's id.
    pub id: String,
    /// Where roles come from, if anywhere.
    pub roles: Option<Roles>,
    /// Declared claims: name to JSON Pointer.
    pub claims: BTreeMap<Arc<str>, String>,
}

/// Where an issuer's keys come from.
pub enum Jwks {
    /// A file of the bundle.
    File(String),
    /// This URL.
    Url(String),
    /// OIDC discovery at the issuer.
    Discovery,
}

/// Where roles come from.
pub struct Roles {
    /// JSON Pointer to a list, or to a space-separated string.
    pub claim: String,
    /// What the identity provider calls them, to what policies call them.
    pub map: BTreeMap<String, Arc<str>>,
    /// The roles that this issuer may give.
    pub allow: Vec<Arc<str>>,
    /// Where `allow` stands.
    pub span: Span,
}

/// One service.
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands.
    pub span: Span,
    /// Mode, and until when (seconds since the epoch).
    pub mode: Mode,
    /// See `mode`.
    pub mode_until: Option<u64>,
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
    /// Operations of others that it may call without a user.
    pub acts_alone: ActsAlone,
    /// Paths answered without authentication.
    pub probes: Vec<Arc<str>>,
    /// Hosts outside the mesh that it may reach.
    pub egress: Vec<(Arc<str>, Span)>,
    /// Until the response head must have come.
    pub timeout: Duration,
}

/// `sidecar:` of a service.
pub enum Sidecar {
    /// `none`: called in plain.
    None,
    /// Addresses, where given.
    Addresses {
        /// mTLS inbound.
        inbound: Option<SocketAddr>,
        /// Plain outbound, for its application.
        outbound: Option<SocketAddr>,
    },
}

/// `api:` of a service.
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
