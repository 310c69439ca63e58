//! Where services are, as control streams it apart from revisions.

use std::collections::HashMap;
use std::sync::Arc;

/// Service name to the addresses of its sidecars' mTLS inbound. The whole set; replaced, never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    services: HashMap<Arc<str>, Arc<[Arc<str>]>>,
}

impl Addresses {
    /// From each service's `HOST:PORT` list; sorted, without duplicates.
    pub fn new<S, A>(services: impl IntoIterator<Item = (S, Vec<A>)>) -> Self
    where
        S: Into<Arc<str>>,
        A: Into<Arc<str>>,
    {
        let services = services
            .into_iter()
            .map(|(service, addresses)| {
                let mut addresses: Vec<Arc<str>> = addresses.into_iter().map(Into::into).collect();
                addresses.sort_unstable();
                addresses.dedup();
                (service.into(), Arc::from(addresses))
            })
            .collect();
        Addresses { services }
    }

    /// The addresses of a service; empty where none is known.
    pub fn of(&self, service: &str) -> Arc<[Arc<str>]> {
        self.services.get(service).cloned().unwrap_or_default()
    }

    /// Every service with its addresses, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<[Arc<str>]>)> {
        self.services.iter()
    }
}
