//! `testudo policy learn`: readable least-privilege policies from calls that were seen.
//!
//! [`observed`] keeps what was seen, `gather` decides what of it becomes a permit and what is left out, `evidence`
//! says what speaks for it, `render`
//! writes it down with its evidence. What existing policies decide is left to them. The result is checked with the
//! bundle; a policy that would not pass becomes a comment that says why.

mod callers;
mod evidence;
mod gather;
pub mod observed;
mod render;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::ApiModel;
use crate::bundle::{Bundle, BundleFile};
use crate::check::{CheckOptions, Checked, check};
use crate::config;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};

use observed::Calls;

/// The file's name in the folder of policies.
pub const FILE: &str = "learned.cedar";

/// What to learn.
#[derive(Clone, Debug)]
pub struct LearnOptions {
    /// Only calls of this service and calls that it makes; `None`: all.
    pub service: Option<String>,
    /// Operations that anybody may call without a credential (`SERVICE:OPERATION`, `SERVICE:*`).
    pub anonymous: Vec<String>,
    /// Calls that were let through less often are left out.
    pub min_requests: u64,
    /// Seconds since the epoch, for the check.
    pub now: Option<u64>,
}

impl Default for LearnOptions {
    fn default() -> Self {
        LearnOptions {
            service: None,
            anonymous: Vec::new(),
            min_requests: 1,
            now: None,
        }
    }
}

/// Why nothing could be learned.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The bundle has errors without what is learned.
    #[error("the bundle has errors")]
    Bundle(Vec<Diagnostic>),
    /// `policies:` is missing.
    #[error("testudo.yaml has no policies: folder to write to")]
    NoFolder,
    /// A service that the bundle does not have.
    #[error("there is no service {0}")]
    NoService(String),
    /// `anonymous` names what the bundle does not have.
    #[error("there is no operation {operation}")]
    NoOperation {
        /// As written.
        operation: String,
        /// What may have been meant.
        near: Option<String>,
    },
}

/// Whom a learned policy permits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Principal {
    /// A role of users.
    Role(String),
    /// Every user with a credential.
    Users,
    /// Whoever comes without one.
    Anonymous,
    /// A calling service.
    Service(String),
}

/// One operation of a learned policy, with what speaks for it.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// `SERVICE:OPERATION`.
    pub operation: String,
    /// Requests that were let through, or would only have lacked this policy.
    pub requests: u64,
    /// What else is to be known: users, objects, what was denied.
    pub notes: Vec<String>,
}

/// A learned policy.
#[derive(Clone, Debug)]
pub struct Permit {
    /// Whom it permits.
    pub principal: Principal,
    /// The called service.
    pub service: String,
    /// Actions as it names them: operations, or groups of which every operation was used.
    pub actions: Vec<String>,
    /// Path parameters that must be the user's own id.
    pub own: Vec<String>,
    /// For each operation.
    pub evidence: Vec<Evidence>,
    /// When the first and the last of the requests came.
    pub seen: (Timestamp, Timestamp),
}

/// What was seen and is not permitted.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// The called service.
    pub service: String,
    /// Who called what, in words.
    pub what: String,
    /// Why it is left out, and what to do about it.
    pub why: String,
    /// The policy that would permit it, to be thought about.
    pub permit: Option<Permit>,
}

/// What was learned.
pub struct Learned {
    /// Path in the bundle.
    pub path: String,
    /// The file.
    pub text: String,
    /// Its policies.
    pub permits: Vec<Permit>,
    /// What they leave out.
    pub left_out: Vec<LeftOut>,
    /// Calls that existing policies permit already.
    pub permitted_already: usize,
    /// The bundle with the file in it, and what a check says of it. There may be errors in other files, which what
    /// is learned brought to light.
    pub bundle: Bundle,
    /// See `bundle`.
    pub checked: Checked,
}

/// Learns policies for a bundle from what was seen. A `learned.cedar` that is there counts as not there: it is to be
/// replaced.
///
/// # Errors
/// See [`LearnError`].
pub fn learn(
    bundle: &Bundle,
    calls: &Calls,
    options: &LearnOptions,
) -> Result<Learned, LearnError> {
    let check_options = CheckOptions { now: options.now };
    let mut bundle = bundle.clone();
    let path = path(&bundle).ok_or(LearnError::NoFolder)?;
    bundle.files.remove(&path);
    let before = check(&bundle, &check_options);
    let ok = before.is_ok();
    let (Some(config), Some(policies), true) = (&before.config, &before.policies, ok) else {
        return Err(LearnError::Bundle(before.diagnostics));
    };
    if let Some(service) = &options.service
        && !config.services.contains_key(service.as_str())
    {
        return Err(LearnError::NoService(service.clone()));
    }
    known_operations(&before.apis, &options.anonymous)?;
    let gathered = gather::gather(config, &before.apis, policies, calls, options);
    let mut learned = Learned {
        path,
        text: String::new(),
        permits: gathered.permits,
        left_out: gathered.left_out,
        permitted_already: gathered.permitted_already,
        bundle,
        checked: before,
    };
    // Each round leaves out at least one policy, or it is the last.
    loop {
        let (text, lines) = render::file(&learned);
        learned.text = text;
        learned.check_with_file(&check_options);
        let refused: Vec<(usize, String)> = lines
            .iter()
            .enumerate()
            .filter_map(|(index, lines)| {
                let error = learned.checked.diagnostics.iter().find(|diagnostic| {
                    diagnostic.severity == Severity::Error
                        && *diagnostic.span.file == *learned.path
                        && lines.contains(&diagnostic.span.line)
                });
                error.map(|error| (index, format!("{}: {}", error.code, error.message)))
            })
            .collect();
        if refused.is_empty() {
            return Ok(learned);
        }
        for (index, why) in refused.into_iter().rev() {
            let permit = learned.permits.remove(index);
            learned.left_out.push(LeftOut {
                service: permit.service.clone(),
                what: render::subject(&permit.principal, &permit.actions.join(", ")),
                why: format!("the bundle would not pass a check with it ({why})"),
                permit: Some(permit),
            });
        }
    }
}

fn known_operations(
    apis: &BTreeMap<Arc<str>, ApiModel>,
    named: &[String],
) -> Result<(), LearnError> {
    let known: Vec<String> = apis
        .values()
        .flat_map(|api| {
            let names = api.operations.iter().map(|operation| &*operation.name);
            names
                .chain(["*"])
                .map(|name| format!("{}:{name}", api.service))
        })
        .collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    match named.iter().find(|named| !known.contains(&named.as_str())) {
        None => Ok(()),
        Some(operation) => Err(LearnError::NoOperation {
            near: config::did_you_mean(operation, &known).map(str::to_owned),
            operation: operation.clone(),
        }),
    }
}

/// Where the file belongs; `None`: the bundle has no folder of policies.
pub fn path(bundle: &Bundle) -> Option<String> {
    let config = config::read(bundle, &mut Diagnostics::default())?;
    let (folder, _) = config.policies?;
    Some(format!("{}/{FILE}", folder.trim_end_matches('/')))
}

impl Learned {
    fn check_with_file(&mut self, options: &CheckOptions) {
        let file = BundleFile {
            content: self.text.as_bytes().into(),
            audience: testudo_model::Audience::All,
        };
        self.bundle.files.insert(self.path.clone(), file);
        self.checked = check(&self.bundle, options);
    }
}
