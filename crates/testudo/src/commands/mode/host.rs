//! Modes on this host: the proxies whose state folders are here, and the files in them
//! (`testudo_proxy::host_mode`). Needs no control plane.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use testudo_model::Mode;
use testudo_proxy::host_mode::{self, Request};

use super::{left, word};
use crate::failure::{Failure, OrFail as _};
use crate::site;
use crate::terminal::{self, escape};

/// A proxy whose state folder is on this host.
pub(super) struct HostProxy {
    state: PathBuf,
    name: String,
    is_gateway: bool,
    service: String,
}

/// What a proxy that has joined keeps of itself.
#[derive(Deserialize)]
struct Record {
    proxy: String,
    role: String,
    service: String,
}

impl HostProxy {
    fn read(state: &Path) -> Option<HostProxy> {
        let record = std::fs::read(state.join("mesh.json")).ok()?;
        let record: Record = serde_json::from_slice(&record).ok()?;
        Some(HostProxy {
            state: state.to_owned(),
            name: record.proxy,
            is_gateway: record.role == "gateway",
            service: record.service,
        })
    }

    /// Whether it judges requests to this service.
    fn judges(&self, service: &str) -> bool {
        self.is_gateway || self.service == service
    }

    /// Whether a mode is set here for this service.
    pub(super) fn has_set(&self, service: &str) -> bool {
        host_mode::read(&self.state).is_ok_and(|set| set.contains_key(service))
    }
}

/// The proxies with these state folders.
pub(super) fn given(states: &[PathBuf]) -> Result<Vec<HostProxy>, Failure> {
    states
        .iter()
        .map(|state| {
            HostProxy::read(state).ok_or_else(|| {
                Failure::usage(format!("{} is no proxy's state folder", state.display())).hint(
                    "the folder that the proxy was started with (--state), once it has joined",
                )
            })
        })
        .collect()
}

/// Those that `up` runs from this folder or one above it, and that judge requests to this service.
pub(super) fn found(service: &str) -> Vec<HostProxy> {
    let mut all = all_found();
    all.retain(|proxy| proxy.judges(service));
    all
}

fn all_found() -> Vec<HostProxy> {
    let Some(folder) = std::env::current_dir()
        .ok()
        .and_then(|dir| site::proxies_above(&dir))
    else {
        return Vec::new();
    };
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<HostProxy> = folders
        .filter_map(|entry| HostProxy::read(&entry.path()))
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Everything that is set on this host, as the API would say it.
pub(super) fn all_set() -> Result<Vec<Value>, Failure> {
    let mut list = Vec::new();
    for proxy in all_found() {
        let set = host_mode::read(&proxy.state)
            .or_fail(|| format!("cannot read what is set for {}", proxy.name))?;
        let now = jiff::Timestamp::now().as_second();
        let set = set.into_iter().filter_map(|(service, set)| {
            let until = i64::try_from(set.until).ok().filter(|until| *until > now)?;
            let until = jiff::Timestamp::from_second(until).ok()?;
            Some(json!({"service": service, "mode": set.mode, "until": until, "proxy": proxy.name}))
        });
        list.extend(set);
    }
    Ok(list)
}

/// Sets a mode for each of these proxies, or takes it back.
pub(super) fn change(
    proxies: &[HostProxy],
    service: &str,
    set: Option<(Mode, Duration)>,
    reason: &str,
) -> Result<ExitCode, Failure> {
    if let Some((_, length)) = set
        && length > host_mode::LONGEST
    {
        return Err(Failure::usage(
            "a mode is set for 24 h at most; what should last belongs into testudo.yaml",
        ));
    }
    for proxy in proxies {
        if !proxy.judges(service) {
            return Err(Failure::usage(format!(
                "{} judges requests to {} alone, not to {}",
                proxy.name,
                proxy.service,
                escape(service)
            )));
        }
    }
    for proxy in proxies {
        let request = Request {
            service,
            set,
            reason,
        };
        let change = host_mode::change(&proxy.state, &request)
            .or_fail(|| format!("the mode is not set for {}", proxy.name))?;
        let until = i64::try_from(change.until)
            .ok()
            .and_then(|until| jiff::Timestamp::from_second(until).ok())
            .map_or(Value::Null, |until| json!(until));
        let said = match set {
            Some((mode, _)) => {
                let left = left(Some(&until), jiff::Timestamp::now());
                format!("{} {}, {left}", escape(service), word(mode))
            }
            None => format!("{} as the bundle says, or control", escape(service)),
        };
        terminal::line(&format!("  {:<14} {said}", proxy.name))?;
    }
    terminal::line("in force within a second; the control plane writes it down once it is there")?;
    Ok(ExitCode::SUCCESS)
}
