//! Which endpoints a destination has: one core's view, remade when control or a snapshot says otherwise.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use testudo_guard::Denial;
use testudo_guard::outbound::Destination;
use testudo_guard::snapshot::{AppAddress, Service, Snapshot};
use testudo_identity::SpiffeId;
use testudo_model::Reason;

use super::Permitted;
use super::endpoint::{Address, Endpoint, Secured};
use super::retry::Budget;
use crate::addresses::Addresses;
use crate::core::{Core, Side};
use crate::effective::app_text;
use crate::shared::Shared;

/// Hosts outside the mesh that one core keeps connections to.
const MAX_EGRESS: usize = 1024;

/// Everything that one core keeps of the other ends.
#[derive(Default)]
pub(crate) struct Upstreams {
    pub(super) budget: Budget,
    groups: RefCell<HashMap<GroupKey, Group>>,
    endpoints: RefCell<HashMap<Arc<str>, Rc<Endpoint>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum GroupKey {
    /// A service's sidecars, or its application where it has none.
    Service(Arc<str>),
    /// The application of this sidecar.
    Own,
    /// Outside.
    Egress(Arc<str>, u16),
}

/// A destination's endpoints, and what they were made from.
struct Group {
    service: Weak<Service>,
    addresses: Weak<Addresses>,
    endpoints: Rc<[Rc<Endpoint>]>,
}

impl Group {
    fn is_of(&self, service: Option<&Arc<Service>>, addresses: &Arc<Addresses>) -> bool {
        let service = service.map_or(std::ptr::null(), Arc::as_ptr);
        let before = self.service.as_ptr();
        let same_service = service.is_null() || std::ptr::eq(before, service);
        same_service && std::ptr::eq(self.addresses.as_ptr(), Arc::as_ptr(addresses))
    }
}

impl Upstreams {
    /// The endpoints of a permitted request's destination.
    pub(super) fn endpoints(
        &self,
        core: &Rc<Core>,
        side: Side,
        permit: &Permitted,
        snapshot: &Snapshot,
    ) -> Result<Rc<[Rc<Endpoint>]>, Denial> {
        let (key, service) = match permit {
            Permitted::Inside(permit) if side == Side::Inbound => {
                (GroupKey::Own, Some(&permit.target().service))
            }
            Permitted::Inside(permit) => {
                let service = &permit.target().service;
                (GroupKey::Service(service.name.clone()), Some(service))
            }
            Permitted::Outbound(permit) => match permit.destination() {
                Destination::Service(service) => {
                    (GroupKey::Service(service.name.clone()), Some(service))
                }
                Destination::Egress { host, port } | Destination::Tunnel { host, port } => {
                    (GroupKey::Egress(host.clone(), *port), None)
                }
            },
        };
        let addresses = core.shared.installed.addresses.load();
        let mut groups = self.groups.borrow_mut();
        if let Some(group) = groups.get(&key)
            && group.is_of(service, &addresses)
        {
            return Ok(group.endpoints.clone());
        }
        if groups.len() >= MAX_EGRESS + snapshot.services.len() {
            groups.retain(|key, _| !matches!(key, GroupKey::Egress(..)));
        }
        let endpoints = self.make(&core.shared, &key, service, &addresses)?;
        let group = Group {
            service: service.map(Arc::downgrade).unwrap_or_default(),
            addresses: Arc::downgrade(&addresses),
            endpoints: endpoints.clone(),
        };
        groups.insert(key, group);
        Ok(endpoints)
    }

    fn make(
        &self,
        shared: &Arc<Shared>,
        key: &GroupKey,
        service: Option<&Arc<Service>>,
        addresses: &Addresses,
    ) -> Result<Rc<[Rc<Endpoint>]>, Denial> {
        let plain = |address: &AppAddress| self.plain(shared, address);
        match (key, service) {
            (GroupKey::Egress(host, port), _) => {
                let address = AppAddress::Dns(host.clone(), *port);
                Ok(Rc::from([plain(&address)]))
            }
            (GroupKey::Own, Some(service)) => Ok(Rc::from([plain(own_app(shared, service)?)])),
            (_, Some(service)) if service.plain => Ok(service.app.iter().map(plain).collect()),
            (_, Some(service)) => self.sidecars(shared, service, addresses),
            (_, None) => Ok(Rc::from([])),
        }
    }

    fn sidecars(
        &self,
        shared: &Arc<Shared>,
        service: &Service,
        addresses: &Addresses,
    ) -> Result<Rc<[Rc<Endpoint>]>, Denial> {
        let unusable = |detail: &'static str| Denial::new(Reason::UpstreamUnavailable, detail);
        let mesh = shared
            .installed
            .mesh()
            .ok_or_else(|| unusable("this proxy has no identity yet"))?;
        let id = SpiffeId::parse(&service.spiffe_id)
            .map_err(|_| unusable("the service has no usable SPIFFE id"))?;
        let sidecar = |address: &Arc<str>| {
            let name: Arc<str> = format!("{}@{address}", service.spiffe_id).into();
            if let Some(endpoint) = self.endpoints.borrow().get(&name) {
                return Ok(endpoint.clone());
            }
            let secured =
                Secured::new(mesh, &id).map_err(|_| unusable("mutual TLS cannot be configured"))?;
            Ok(self.endpoint(shared, name, parse(address), Some(secured)))
        };
        addresses.of(&service.name).iter().map(sidecar).collect()
    }

    fn plain(&self, shared: &Arc<Shared>, app: &AppAddress) -> Rc<Endpoint> {
        let name: Arc<str> = app_text(app).into();
        if let Some(endpoint) = self.endpoints.borrow().get(&name) {
            return endpoint.clone();
        }
        let address = match app {
            AppAddress::Tcp(address) => Address::Socket(*address),
            AppAddress::Unix(path) => Address::Unix(match &shared.options.base_dir {
                Some(base) => base.join(path),
                None => path.clone(),
            }),
            AppAddress::Dns(host, port) => Address::Name(host.clone(), *port),
        };
        self.endpoint(shared, name, address, None)
    }

    fn endpoint(
        &self,
        shared: &Arc<Shared>,
        name: Arc<str>,
        address: Address,
        secured: Option<Secured>,
    ) -> Rc<Endpoint> {
        let health = shared.health.of(&name);
        let metrics = shared.metrics.clone();
        let common = (shared.options.caps, shared.panics.clone(), metrics);
        let endpoint = Endpoint::new(name.clone(), address, secured, health, common);
        self.endpoints.borrow_mut().insert(name, endpoint.clone());
        endpoint
    }

    /// Closes what is not used any more. Called now and then.
    pub(crate) fn sweep(&self, now: u64) {
        let mut endpoints = self.endpoints.borrow_mut();
        // Held by no group and no request: its address is gone.
        endpoints.retain(|_, endpoint| Rc::strong_count(endpoint) > 1);
        for endpoint in endpoints.values() {
            endpoint.sweep(now);
        }
    }
}

/// The one application that this sidecar stands in front of.
fn own_app<'a>(shared: &'a Shared, service: &'a Service) -> Result<&'a AppAddress, Denial> {
    match (&shared.options.app, service.app.as_slice()) {
        (Some(app), _) | (None, [app]) => Ok(app),
        (None, _) => Err(Denial::new(
            Reason::UpstreamUnavailable,
            "the bundle names no or several applications; start the sidecar with --app",
        )),
    }
}

/// `HOST:PORT`; what is no address is a name.
fn parse(address: &str) -> Address {
    if let Ok(address) = address.parse() {
        return Address::Socket(address);
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    Address::Name(host.into(), port.parse().unwrap_or(0))
}
