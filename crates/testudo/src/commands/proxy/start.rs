//! `testudo proxy gateway|SERVICE`: one data-plane process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use testudo_guard::snapshot::{AppAddress, Role};
use testudo_proxy::{ListenAddress, ProxyOptions};

use crate::failure::{Failure, OrFail as _};
use crate::lifeline::{self, AtParentsEnd};
use crate::logging::LogArgs;

#[derive(clap::Args)]
pub(crate) struct StartArgs {
    /// gateway, or the service beside which this sidecar runs
    #[arg(value_name = "gateway|SERVICE", required = true)]
    role: Option<String>,
    /// The control plane's mesh port, HOST:PORT; left out: the one that the state folder remembers
    #[arg(long, value_name = "HOST:PORT")]
    control: Option<String>,
    /// File with the one-time join token (`testudo identity issue`); needed for the first start only
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
    /// Folder for the key, the SVID and the last good policy (0700)
    #[arg(long, value_name = "FOLDER", required = true)]
    state: Option<PathBuf>,
    /// This proxy's name; left out: control chooses, for example orders-1
    #[arg(long)]
    name: Option<String>,
    /// Gateway: where clients connect; left out: as the bundle says
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Sidecar: its application, HOST:PORT or unix:PATH; left out: as the bundle says
    #[arg(long, value_name = "ADDR", value_parser = app_address)]
    app: Option<AppAddress>,
    /// Sidecar: the user as which its application runs and nothing else does; its connections to the outbound port
    /// need no secret then (Linux)
    #[arg(long, value_name = "UID")]
    app_uid: Option<u32>,
    /// Sidecar: where other proxies connect by mTLS [default: 0.0.0.0:15006]
    #[arg(long, value_name = "ADDR")]
    inbound: Option<SocketAddr>,
    /// HOST:PORT under which others reach it; left out: the address that it bound
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Sidecar: where its own application connects, HOST:PORT or unix:PATH [default: 127.0.0.1:15001]
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    outbound: Option<ListenAddress>,
    /// Metrics and health [default: 127.0.0.1:15020]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Data threads [default: all cores for a gateway, at most two for a sidecar]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// What relative paths of Unix sockets are relative to [default: the working folder]
    #[arg(long, value_name = "FOLDER")]
    base: Option<PathBuf>,
    /// End when this process does
    #[arg(long, hide = true)]
    parent_pid: Option<u32>,
    #[command(flatten)]
    log: LogArgs,
}

/// `HOST:PORT`, `unix:PATH`, or a name and a port.
pub(crate) fn app_address(text: &str) -> Result<AppAddress, String> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(AppAddress::Unix(path.into()));
    }
    if let Ok(address) = text.parse() {
        return Ok(AppAddress::Tcp(address));
    }
    let name = text.strip_prefix("dns:").unwrap_or(text);
    match name.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !host.contains([':', '/', '@']) => {
            let port = port.parse().map_err(|_| format!("{port} is no port"))?;
            Ok(AppAddress::Dns(host.into(), port))
        }
        _ => Err("an application is at HOST:PORT or unix:PATH".to_owned()),
    }
}

fn listen_address(text: &str) -> Result<ListenAddress, String> {
    match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Ok(ListenAddress::Unix(path.into())),
        _ => text
            .parse()
            .map(ListenAddress::Tcp)
            .map_err(|_| "an address is IP:PORT or unix:PATH".to_owned()),
    }
}

pub(crate) fn run(args: StartArgs) -> Result<ExitCode, Failure> {
    if let Some(parent) = args.parent_pid {
        lifeline::tie_to(parent, AtParentsEnd::Stop)?;
    }
    lifeline::write_privately();
    args.log.start()?;
    testudo_proxy::run(args.into_options()?).or_fail(|| "the proxy cannot go on")?;
    Ok(ExitCode::SUCCESS)
}

impl StartArgs {
    fn into_options(self) -> Result<ProxyOptions, Failure> {
        // clap asks for both unless a subcommand is there.
        let (Some(role), Some(state)) = (self.role, self.state) else {
            return Err(Failure::usage("`testudo proxy` needs a role and --state"));
        };
        let role = match role.as_str() {
            "gateway" => Role::Gateway,
            "control" | "anonymous" => {
                return Err(Failure::usage(format!("{role} is no service"))
                    .hint("give gateway, or the name of a service"));
            }
            service => Role::Sidecar(service.into()),
        };
        let misplaced = match role {
            Role::Gateway => [
                ("--app", self.app.is_some()),
                ("--app-uid", self.app_uid.is_some()),
                ("--inbound", self.inbound.is_some()),
                ("--outbound", self.outbound.is_some()),
            ],
            Role::Sidecar(_) => [
                ("--listen", self.listen.is_some()),
                ("", false),
                ("", false),
                ("", false),
            ],
        };
        if let Some((flag, _)) = misplaced.iter().find(|(_, given)| *given) {
            return Err(Failure::usage(format!(
                "{flag} means nothing for this role"
            )));
        }
        Ok(ProxyOptions {
            name: self.name,
            base_dir: self.base,
            control: self.control,
            join_token_file: self.join_token_file,
            listen: self.listen,
            inbound: self.inbound,
            outbound: self.outbound,
            advertise: self.advertise,
            admin: self.admin,
            app: self.app,
            app_uid: self.app_uid,
            threads: self.threads.map(usize::from),
            ..ProxyOptions::new(role, state)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_are_addresses_sockets_or_names() {
        assert_eq!(
            app_address("127.0.0.1:80"),
            Ok(AppAddress::Tcp("127.0.0.1:80".parse().unwrap()))
        );
        assert_eq!(app_address("unix:a/b"), Ok(AppAddress::Unix("a/b".into())));
        assert_eq!(
            app_address("localhost:80"),
            Ok(AppAddress::Dns("localhost".into(), 80))
        );
        for bad in [
            "",
            "unix:",
            "localhost",
            "localhost:x",
            "http://x:1",
            "localhost:99999",
        ] {
            assert!(app_address(bad).is_err(), "{bad}");
        }
    }
}
