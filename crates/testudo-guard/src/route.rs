//! Host and path prefix to service: the longest prefix of whole path segments wins.
//!
//! A route with a host goes before routes for any host, whatever their length; among those of one
//! host the longest prefix wins, and of equal ones the first.

mod cors;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use testudo_model::PolicyRef;

pub use cors::Cors;
pub(crate) use cors::{origin, preflight};

/// The gateway's routes.
#[derive(Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    /// Indexes into `routes`, longest prefix first.
    by_host: HashMap<Arc<str>, Vec<usize>, ahash::RandomState>,
    any_host: Vec<usize>,
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

impl RouteTable {
    /// Takes the routes in the order of the bundle.
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut table = RouteTable::default();
        let mut order: Vec<(usize, &Arc<Route>)> = routes.iter().enumerate().collect();
        // Stable: of equal prefixes the first stays first.
        order.sort_by_key(|(_, route)| std::cmp::Reverse(route.path.len()));
        for (index, route) in order {
            match &route.host {
                Some(host) => table
                    .by_host
                    .entry(Arc::from(host.to_ascii_lowercase()))
                    .or_default()
                    .push(index),
                None => table.any_host.push(index),
            }
        }
        table.routes = routes;
        table
    }

    /// The routes, in the order of the bundle.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The route for a canonical host (lower case, without port) and path.
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let of_host = self.by_host.get(host).into_iter().flatten();
        of_host
            .chain(&self.any_host)
            .filter_map(|index| self.routes.get(*index))
            .find(|route| prefix_rest(&route.path, path).is_some())
    }
}

impl Route {
    /// The path as the service sees it, where `strip_prefix` changes it.
    pub fn stripped_path<'a>(&self, path: &'a str) -> Option<&'a str> {
        match &self.target {
            RouteTarget::Service {
                strip_prefix: true, ..
            } => {
                let rest = prefix_rest(&self.path, path)?;
                Some(if rest.is_empty() { "/" } else { rest })
            }
            RouteTarget::Service { .. } | RouteTarget::Redirect { .. } => None,
        }
    }
}

/// What follows a prefix of whole segments: empty, or beginning with `/`. `None` if it is no prefix.
pub(crate) fn prefix_rest<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    if prefix == "/" {
        return Some(path);
    }
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: Option<&str>, path: &str, service: &str) -> Arc<Route> {
        Arc::new(Route {
            source: PolicyRef {
                file: "testudo.yaml".into(),
                line: 1,
            },
            host: host.map(Arc::from),
            path: Arc::from(path),
            target: RouteTarget::Service {
                service: Arc::from(service),
                strip_prefix: service.ends_with('!'),
                timeout: None,
            },
            cors: None,
        })
    }

    fn found<'a>(table: &'a RouteTable, host: &str, path: &str) -> Option<&'a str> {
        match &table.find(host, path)?.target {
            RouteTarget::Service { service, .. } => Some(service),
            RouteTarget::Redirect { .. } => None,
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let table = RouteTable::new(vec![
            route(None, "/orders", "orders"),
            route(None, "/orders/archive", "archive"),
            route(None, "/orders/archive", "never"),
        ]);
        for (path, service) in [
            ("/orders", Some("orders")),
            ("/orders/", Some("orders")),
            ("/orders/17", Some("orders")),
            ("/orders/archives", Some("orders")),
            ("/orders/archive", Some("archive")),
            ("/orders/archive/1", Some("archive")),
            ("/ordersx", None),
            ("/order", None),
            ("/", None),
        ] {
            assert_eq!(found(&table, "any.test", path), service, "{path}");
        }
    }

    #[test]
    fn a_host_beats_any_host() {
        let table = RouteTable::new(vec![
            route(None, "/a/b", "any"),
            route(Some("API.test"), "/a", "api"),
            route(None, "/", "rest"),
        ]);
        assert_eq!(found(&table, "api.test", "/a/b"), Some("api"));
        assert_eq!(found(&table, "other.test", "/a/b"), Some("any"));
        assert_eq!(found(&table, "api.test", "/c"), Some("rest"));
    }

    #[test]
    fn strip_prefix_leaves_a_path() {
        let stripping = route(None, "/shop/v1", "shop!");
        assert_eq!(stripping.stripped_path("/shop/v1"), Some("/"));
        assert_eq!(stripping.stripped_path("/shop/v1/"), Some("/"));
        assert_eq!(stripping.stripped_path("/shop/v1/a/b"), Some("/a/b"));
        assert_eq!(route(None, "/", "all!").stripped_path("/a"), Some("/a"));
        assert_eq!(route(None, "/a", "plain").stripped_path("/a"), None);
    }
}
