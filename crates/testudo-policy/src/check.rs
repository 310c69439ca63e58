//! Everything that is wrong with a bundle, or would silently do nothing.
//!
//! [`check`] shows the order: files, `testudo.yaml`, specifications, policies, and then what only shows when all of
//! them are looked at together. Every step goes on where the one before failed, so that people see everything at once.

mod limits;
mod listen;
mod names;
mod operations;
mod routes;
mod secrets;
mod services;
mod users;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::api::ApiModel;
use crate::bundle::Bundle;
use crate::cedar::{self, Compiled};
use crate::compile::read_api;
use crate::config::{self, Config};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::render::{Counts, Report};

/// What a check may know besides the bundle.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Seconds since the epoch, for dates and certificates; `None`: they are not judged.
    pub now: Option<u64>,
}

/// What a check found, and what it read on the way.
pub struct Checked {
    /// Ordered by file and place.
    pub diagnostics: Vec<Diagnostic>,
    /// As far as it could be read.
    pub config: Option<Config>,
    /// The APIs that could be read, by service.
    pub apis: BTreeMap<Arc<str>, ApiModel>,
    /// The policies, for `can` and the like.
    pub policies: Option<Compiled>,
    /// How much was checked.
    pub counts: Counts,
}

impl Checked {
    /// Whether the bundle may be applied: there may be warnings, but no errors.
    pub fn is_ok(&self) -> bool {
        !self
            .diagnostics
            .iter()
            .any(|d| d.severity == crate::diagnostic::Severity::Error)
    }

    /// What `render` shows.
    pub fn report<'a>(&'a self, bundle: &'a Bundle) -> Report<'a> {
        Report {
            diagnostics: &self.diagnostics,
            bundle,
            counts: self.counts,
        }
    }
}

/// Checks a whole bundle.
pub fn check(bundle: &Bundle, options: &CheckOptions) -> Checked {
    let started = Instant::now();
    let mut diagnostics = Diagnostics {
        list: bundle.problems.clone(),
    };
    secrets::check(bundle, &mut diagnostics);
    let config = config::read(bundle, &mut diagnostics);
    let mut apis = BTreeMap::new();
    let mut policies = None;
    if let Some(config) = &config {
        for service in config.services.values() {
            if let Some(api) = read_api(bundle, service, &mut diagnostics) {
                apis.insert(service.name.clone(), api);
            }
        }
        policies = Some(whole(bundle, config, &apis, *options, &mut diagnostics));
    }
    let counts = Counts {
        services: config.as_ref().map_or(0, |config| config.services.len()),
        operations: apis.values().map(|api| api.operations.len()).sum(),
        policies: policies.as_ref().map_or(0, Compiled::len),
        limits: config.as_ref().map_or(0, |config| config.limits.len()),
        milliseconds: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let mut diagnostics = diagnostics.sorted();
    diagnostics.dedup_by(|a, b| (&a.code, &a.span, &a.message) == (&b.code, &b.span, &b.message));
    Checked {
        diagnostics,
        config,
        apis,
        policies,
        counts,
    }
}

/// What only shows when everything is looked at together.
fn whole(
    bundle: &Bundle,
    config: &Config,
    apis: &BTreeMap<Arc<str>, ApiModel>,
    options: CheckOptions,
    diagnostics: &mut Diagnostics,
) -> Compiled {
    names::check(config, apis, diagnostics);
    routes::check(config, apis, diagnostics);
    listen::check(config, diagnostics);
    services::check(config, apis, options, diagnostics);
    limits::check(config, apis, diagnostics);
    users::check(bundle, config, options, diagnostics);
    watch::check(config, diagnostics);
    let policies = cedar::compile(bundle, config, apis, true, diagnostics);
    // Dead ends of policies that are wrong would only repeat what is wrong with them.
    if !diagnostics.has_errors() {
        cedar::dead_ends(&policies, config, apis, diagnostics);
    }
    policies
}

#[cfg(test)]
mod tests;
