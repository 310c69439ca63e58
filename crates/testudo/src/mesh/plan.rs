//! Which processes a bundle needs. Pure.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use testudo_guard::snapshot::AppAddress;
use testudo_policy::config::{Config, GatewayTls, Sidecar};

/// How long an application may take to accept a connection when it is asked whether it is there.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) trust_domain: String,
    /// Where control is to answer: API and mesh.
    pub(crate) control: (SocketAddr, SocketAddr),
    pub(crate) gateway: Option<GatewayPlan>,
    pub(crate) workloads: Vec<Workload>,
}

/// What start-up tells of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayPlan {
    /// Whether the bundle leaves its port open.
    pub(crate) any_port: bool,
    pub(crate) scheme: &'static str,
    /// Whether its certificate comes from the mesh's CA.
    pub(crate) mesh_certificate: bool,
    /// Host (if the route names one) and path that lead to a service.
    pub(crate) example: Option<(Option<String>, String)>,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// For example `orders-1`; also its sidecar's name.
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) app: AppAddress,
    pub(crate) run: Option<Vec<String>>,
    pub(crate) sidecar: bool,
    pub(crate) inbound: Option<SocketAddr>,
    pub(crate) outbound: Option<SocketAddr>,
}

impl Plan {
    pub(crate) fn new(config: &Config) -> Plan {
        let gateway = config.gateway.as_ref().map(|gateway| GatewayPlan {
            any_port: gateway.listen.port() == 0,
            scheme: if matches!(gateway.tls, GatewayTls::Plain) {
                "http"
            } else {
                "https"
            },
            mesh_certificate: matches!(gateway.tls, GatewayTls::Mesh),
            example: gateway
                .routes
                .iter()
                .find(|route| route.service().is_some())
                .map(|route| {
                    (
                        route.rule.host.as_deref().map(str::to_owned),
                        route.rule.path.to_string(),
                    )
                }),
        });
        let mut workloads = Vec::new();
        for service in config.services.values() {
            let (sidecar, inbound, outbound) = match &service.sidecar {
                Sidecar::None(_) => (false, None, None),
                Sidecar::Addresses { inbound, outbound } => {
                    let address = |given: &Option<(SocketAddr, _)>| {
                        given.as_ref().map(|(address, _)| *address)
                    };
                    (true, address(inbound), address(outbound))
                }
            };
            // Fixed addresses can belong to one workload only; the others get allocated ones.
            for (index, (app, _)) in service.app.iter().enumerate() {
                let first = index == 0;
                workloads.push(Workload {
                    name: format!("{}-{}", service.name, index + 1),
                    service: service.name.to_string(),
                    app: app.clone(),
                    run: if first { service.run.clone() } else { None },
                    sidecar,
                    inbound: if first { inbound } else { None },
                    outbound: if first { outbound } else { None },
                });
            }
        }
        Plan {
            trust_domain: config.trust_domain.to_string(),
            control: (config.control.api, config.control.mesh),
            gateway,
            workloads,
        }
    }

    /// What must be stopped and started to come from this plan to `new`.
    pub(crate) fn changes<'a>(&'a self, new: &'a Plan) -> Vec<Change<'a>> {
        let mut changes = Vec::new();
        for old in &self.workloads {
            match new
                .workloads
                .iter()
                .find(|workload| workload.name == old.name)
            {
                None => changes.push(Change::Gone(old)),
                Some(now) if now != old => changes.push(Change::Replaced(old, now)),
                Some(_) => {}
            }
        }
        for workload in &new.workloads {
            if !self.workloads.iter().any(|old| old.name == workload.name) {
                changes.push(Change::Come(workload));
            }
        }
        changes
    }
}

/// See [`Plan::changes`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Come(&'a Workload),
    Gone(&'a Workload),
    Replaced(&'a Workload, &'a Workload),
}

impl<'a> Change<'a> {
    /// Names of the processes to stop.
    pub(crate) fn gone(&self) -> Vec<String> {
        match self {
            Change::Come(_) => Vec::new(),
            Change::Gone(old) | Change::Replaced(old, _) => {
                vec![old.name.clone(), old.application()]
            }
        }
    }

    /// The workload to start.
    pub(crate) fn come(&self) -> Option<&'a Workload> {
        match self {
            Change::Gone(_) => None,
            Change::Come(new) | Change::Replaced(_, new) => Some(new),
        }
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Come(workload) => write!(f, "{} comes", workload.name),
            Change::Gone(workload) => write!(f, "{} goes", workload.name),
            Change::Replaced(workload, _) => {
                write!(f, "{} has changed and starts anew", workload.name)
            }
        }
    }
}

impl Workload {
    /// The name of its application's process.
    pub(crate) fn application(&self) -> String {
        format!("{}.app", self.name)
    }

    /// Whether the application accepts connections. Names are left to the sidecar.
    pub(crate) fn answers(&self, dir: &Path) -> bool {
        match &self.app {
            AppAddress::Tcp(address) => TcpStream::connect_timeout(address, ANSWER_TIMEOUT).is_ok(),
            AppAddress::Unix(path) => UnixStream::connect(dir.join(path)).is_ok(),
            AppAddress::Dns(..) => true,
        }
    }
}

/// As `--app` takes it.
pub(crate) fn app_text(app: &AppAddress) -> String {
    match app {
        AppAddress::Tcp(address) => address.to_string(),
        AppAddress::Unix(path) => format!("unix:{}", path.display()),
        AppAddress::Dns(name, port) => format!("dns:{name}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str, port: u16) -> Workload {
        Workload {
            name: name.to_owned(),
            service: name.to_owned(),
            app: AppAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port))),
            run: None,
            sidecar: true,
            inbound: None,
            outbound: None,
        }
    }

    fn plan(workloads: &[Workload]) -> Plan {
        Plan {
            trust_domain: "x.test".to_owned(),
            control: (
                SocketAddr::from(([127, 0, 0, 1], 1)),
                SocketAddr::from(([127, 0, 0, 1], 2)),
            ),
            gateway: None,
            workloads: workloads.to_vec(),
        }
    }

    #[test]
    fn only_what_changed_is_touched() {
        let old = plan(&[workload("a-1", 1), workload("b-1", 2), workload("c-1", 3)]);
        let new = plan(&[workload("a-1", 1), workload("b-1", 9), workload("d-1", 4)]);
        let texts: Vec<String> = old.changes(&new).iter().map(Change::to_string).collect();
        assert_eq!(
            texts,
            ["b-1 has changed and starts anew", "c-1 goes", "d-1 comes"]
        );
        assert_eq!(old.changes(&old), []);
    }

    #[test]
    fn addresses_read_back() {
        for text in ["127.0.0.1:80", "unix:.testudo/run/a.sock"] {
            let app = crate::commands::proxy::app_address(text).unwrap();
            assert_eq!(app_text(&app), text);
        }
    }
}
