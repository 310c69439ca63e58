//! What start-up prints: every part with its addresses, then what to do next.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::mesh::{Kind, Mesh};
use crate::site::ControlFile;
use crate::terminal::{Style, Table};

/// What opens the dashboard: the token travels in the fragment, which browsers keep to themselves.
pub(crate) fn dashboard_link(api: &str, state: &Path) -> Option<String> {
    let token = std::fs::read_to_string(state.join("admin.token")).ok()?;
    Some(format!("http://{api}/#token={}", token.trim()))
}

impl Mesh {
    /// The whole text; ends with the lines that open the API and call the gateway.
    pub(crate) fn summary(&self, revision: u64, took: Duration, style: Style) -> String {
        let proxies = self
            .parts
            .values()
            .filter(|part| matches!(part.kind, Kind::Gateway | Kind::Sidecar));
        let total = proxies.clone().count();
        let ready = proxies.filter(|part| part.ready).count();
        let mut text = format!(
            "{}   {}   rev {revision}   {ready} of {total} proxies ready in {:.1} s\n\n",
            style.bold("testudo up"),
            self.plan.trust_domain,
            took.as_secs_f64(),
        );
        text.push_str(&self.table().render(style));
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\nlogs     {}\n",
            self.paths.state.join("logs").display()
        );
        if let Ok(control) = ControlFile::read(&self.paths.state) {
            let token = self.paths.state.join("admin.token");
            let _ = writeln!(
                text,
                "control  curl -H \"Authorization: Bearer $(cat {})\" http://{}/api/v1/status",
                token.display(),
                control.api
            );
        }
        if let Ok(control) = ControlFile::read(&self.paths.state)
            && let Some(link) = dashboard_link(&control.api, &self.paths.state)
        {
            let _ = writeln!(text, "open     {link}");
        }
        if let Some(curl) = self.curl() {
            let _ = writeln!(text, "try      {curl}");
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(["PART", "LISTENS", "OUTBOUND", "ADMIN", "PROCESS"]);
        let dash = || "–".to_owned();
        for (name, kind, pid) in self.processes() {
            let (listens, outbound, admin) = match kind {
                Kind::Control => match ControlFile::read(&self.paths.state) {
                    Ok(file) => (
                        format!("{} (API), {} (mesh)", file.api, file.mesh),
                        dash(),
                        dash(),
                    ),
                    Err(_) => (dash(), dash(), dash()),
                },
                Kind::Gateway | Kind::Sidecar => match self.proxy(name) {
                    Some(ready) => (
                        ready.listen.or(ready.inbound).unwrap_or_else(dash),
                        ready.outbound.unwrap_or_else(dash),
                        ready.admin,
                    ),
                    None => (dash(), dash(), dash()),
                },
                Kind::Application => {
                    let workload = self
                        .plan
                        .workloads
                        .iter()
                        .find(|workload| workload.application() == name);
                    let app =
                        workload.map_or_else(dash, |workload| super::plan::app_text(&workload.app));
                    (app, dash(), dash())
                }
            };
            table.row([name.to_owned(), listens, outbound, admin, pid.to_string()]);
        }
        table
    }

    /// A curl command that gets an answer through the gateway.
    pub(crate) fn curl(&self) -> Option<String> {
        let gateway = self.plan.gateway.as_ref()?;
        let (host, path) = gateway.example.clone()?;
        let listen: std::net::SocketAddr = self.proxy("gateway-1")?.listen?.parse().ok()?;
        let port = listen.port();
        let address = if listen.ip().is_unspecified() {
            "127.0.0.1".to_owned()
        } else {
            listen.ip().to_string()
        };
        let mut curl = "curl".to_owned();
        if gateway.mesh_certificate {
            let _ = write!(
                curl,
                " --cacert {}",
                self.paths.root_certificate().display()
            );
        }
        let host = match host {
            Some(host) => {
                let _ = write!(curl, " --resolve {host}:{port}:{address}");
                host
            }
            None if listen.ip().is_loopback() => "localhost".to_owned(),
            None => address,
        };
        let _ = write!(curl, " {}://{host}:{port}{path}", gateway.scheme);
        Some(curl)
    }
}
