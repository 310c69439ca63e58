//! Host and path prefix to service: the longest prefix of whole path segments wins.

use std::sync::Arc;
use std::time::Duration;

use testudo_model::PolicyRef;

/// The gateway's routes.
#[derive(Default)]
pub struct RouteTable {
    /// In the order of the bundle; [`RouteTable::find`] picks the most specific.
    pub routes: Vec<Arc<Route>>,
}

/// One route of the gateway.
pub struct Route {
    /// Where it stands in the bundle.
    pub source: PolicyRef,
    /// Host without port, lower case; `None`: any host.
    pub host: Option<Arc<str>>,
    /// Prefix of whole segments, beginning with `/`, without a trailing one (`/` itself aside).
    pub path: Arc<str>,
    /// What happens to a request that matches.
    pub target: RouteTarget,
    /// CORS, if declared.
    pub cors: Option<Cors>,
}

/// What a route leads to.
pub enum RouteTarget {
    /// A service of the bundle.
    Service {
        /// Its name.
        service: Arc<str>,
        /// Whether `path` is cut off before the service (and its specification) sees the request.
        strip_prefix: bool,
        /// Overrides the service's.
        timeout: Option<Duration>,
    },
    /// A redirect, answered at the gateway.
    Redirect {
        /// 301, 302, 307 or 308.
        status: u16,
        /// The absolute target, or a path.
        location: Arc<str>,
    },
}

/// CORS (WHATWG Fetch), answered at the gateway before authentication.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Exact origins; `*` allows any (then without credentials).
    pub origins: Vec<Arc<str>>,
    /// Allowed methods; empty: those of the matching operations.
    pub methods: Vec<http::Method>,
    /// Allowed request headers, lower case.
    pub headers: Vec<Arc<str>>,
    /// Response headers that scripts may read.
    pub expose: Vec<Arc<str>>,
    /// Whether credentials are allowed.
    pub credentials: bool,
    /// How long a preflight may be cached.
    pub max_age: Option<Duration>,
}
