//! The control plane: it holds the revisions, issues the identities, tells the proxies, and shows
//! what they decided. Proxies go on without it.
//!
//! Start with [`run`]; [`Control`] holds the parts that the mesh port ([`grpc`]) and the HTTP API
//! ([`api`]) both use. One thread serves everything; compiling a bundle happens on another.

pub mod api;
pub mod containment;
pub mod decisions;
mod files;
pub mod fleet;
pub mod grpc;
pub mod incidents;
mod issue;
mod listener;
pub mod modes;
pub mod observed;
pub mod revisions;
mod revoking;
mod run;
pub mod store;
pub mod views;
pub mod why;
pub mod windows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use testudo_identity::{Authority, MeshTls, RevocationList, TrustDomain};
use testudo_model::mesh;
use testudo_policy::bundle::{self, Bundle};
use testudo_policy::diagnostic::Diagnostic;

use crate::decisions::Decisions;
use crate::fleet::Fleet;
use crate::revisions::{Applied, ApplyError, Revisions};
use crate::store::{Audit, Store, StoreError, StoredRevocation, StoredTokenKey};
use crate::windows::Windows;

pub use issue::{IssueError, JoinTokenError};
pub use revoking::{RevokeError, Revoked};
pub use run::{ControlError, ControlOptions, run};

/// What became of saved files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The mesh is to run them.
    Applied,
    /// They have errors: only another change of the files helps.
    Refused,
    /// The store could not take them, for example because the disk is full: it may later.
    NotStored,
}

/// The parts of a running control plane.
pub struct Control {
    /// What lasts.
    pub store: Store,
    /// Who is connected.
    pub fleet: Arc<Fleet>,
    /// What was decided.
    pub decisions: Decisions,
    /// What was counted.
    pub windows: Windows,
    /// What decides.
    pub revisions: Revisions,
    /// Who is narrowed.
    pub containments: containment::Containments,
    /// What was usual in the last minutes.
    pub past: containment::Past,
    /// Modes that hold for a while.
    pub modes: modes::Modes,
    /// Questions to the proxies that wait for answers.
    pub searches: why::gather::Searches,
    /// Who called what, over restarts.
    pub observed: observed::Observed,
    /// What detectors found.
    pub incidents: incidents::Incidents,
    /// What the newest revision lets whom do.
    pub views: views::Views,
    /// Where the bundle is edited.
    pub bundle_dir: PathBuf,
    /// When this process started.
    pub started: jiff::Timestamp,
    authority: RwLock<Authority>,
    manifest_key: [u8; 32],
    domain: TrustDomain,
    /// What the mesh port shows and accepts.
    tls: Arc<MeshTls>,
    /// Why the files in `bundle_dir` are not what the mesh runs.
    bundle_error: Mutex<Option<String>>,
}

impl Control {
    /// The mesh's trust domain.
    pub fn trust_domain(&self) -> &str {
        self.domain.as_str()
    }

    /// Takes in a decision that a proxy sent.
    pub fn decided(&self, event: testudo_model::Event) {
        let current = self.revisions.current();
        let template = current.as_ref().and_then(|current| {
            let (service, name) = event.operation.as_deref()?.split_once(':')?;
            let api = current.apis.get(service)?;
            let operation = api.operations.iter().find(|known| &*known.name == name)?;
            Some(&*operation.template)
        });
        self.observed.look_at(&event, template);
        self.decisions.add(event);
    }

    /// Why the saved files are not what the mesh runs; `None` when they are.
    pub fn bundle_error(&self) -> Option<String> {
        self.bundle_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the bundle in `dir` and makes it the newest revision, or logs why not.
    pub fn apply_dir(&self, dir: &Path, actor: &str, note: &str) -> Saved {
        let applied = match bundle::load(dir) {
            Ok(bundle) => self.revisions.apply(bundle, None, actor, note),
            Err(diagnostics) => Err(ApplyError::Refused(diagnostics.sorted())),
        };
        let (saved, error) = match &applied {
            Ok(_) => (Saved::Applied, None),
            Err(error @ ApplyError::Store(_)) => (Saved::NotStored, Some(describe(error))),
            Err(error) => (Saved::Refused, Some(describe(error))),
        };
        let mut kept = self
            .bundle_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Said once, however often it is tried.
        if let Some(error) = &error
            && kept.as_ref() != Some(error)
        {
            tracing::error!("the saved bundle is not applied; the last revision goes on: {error}");
        }
        *kept = error;
        saved
    }

    /// Makes uploaded files the newest revision.
    ///
    /// # Errors
    /// See [`ApplyError`]; nothing has changed then.
    pub fn apply_files(
        &self,
        files: BTreeMap<String, Vec<u8>>,
        parent: Option<&str>,
        note: &str,
    ) -> Result<Applied, ApplyError> {
        let bundle = Bundle::from_files(files)
            .map_err(|diagnostics| ApplyError::Refused(diagnostics.sorted()))?;
        self.revisions.apply(bundle, parent, "admin", note)
    }

    /// Adds to the revocation list and tells every proxy.
    ///
    /// # Errors
    /// When the entry names nobody of this mesh, or the store cannot be written; nothing is revoked then.
    pub fn revoke(&self, entry: &StoredRevocation) -> Result<Revoked, RevokeError> {
        let (value, note) = self.judge_revocation(entry)?;
        let entry = &StoredRevocation {
            value,
            ..entry.clone()
        };
        let audit = Audit {
            actor: "admin",
            action: "revocation.added",
            detail: &format!("{} {} {}", entry.kind, entry.value, entry.reason),
        };
        let serial = self.store.add_revocation(entry, audit)?;
        self.spread_revocations()?;
        if entry.kind == "workload" {
            let revoked = self.store.proxies()?;
            for proxy in revoked
                .iter()
                .filter(|proxy| proxy.spiffe_id == entry.value || proxy.serial == entry.value)
            {
                self.fleet.disconnect_name(&proxy.name);
            }
        }
        tracing::warn!(kind = entry.kind, value = entry.value, serial, "revoked");
        Ok(Revoked {
            serial,
            value: entry.value.clone(),
            note,
        })
    }

    /// Whether a workload is on the revocation list. An unreadable list revokes everybody.
    pub fn is_revoked(&self, spiffe_id: &str, certificate_serial: &str) -> bool {
        match self.store.revocations() {
            Ok((_, list)) => list.iter().any(|entry| {
                entry.kind == "workload"
                    && (entry.value == spiffe_id || entry.value == certificate_serial)
            }),
            Err(error) => {
                tracing::error!(%error, "the revocation list cannot be read: everybody counts as revoked");
                true
            }
        }
    }

    /// Keeps a gateway's new token key; the whole set comes back, to be published.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn add_token_key(&self, key: &StoredTokenKey) -> Result<mesh::TokenKeys, StoreError> {
        self.store.put_token_key(key)?;
        self.token_keys()
    }

    fn token_keys(&self) -> Result<mesh::TokenKeys, StoreError> {
        let keys = self
            .store
            .token_keys(unix_now())?
            .into_iter()
            .map(|key| mesh::TokenKey {
                kid: key.kid,
                public_key: key.public_key,
                gateway: key.gateway,
                not_after: key.not_after,
            })
            .collect();
        Ok(mesh::TokenKeys { keys })
    }

    /// Our own TLS and every proxy get the whole list.
    fn spread_revocations(&self) -> Result<(), StoreError> {
        let (serial, list) = self.store.revocations()?;
        let workloads = list
            .iter()
            .filter(|entry| entry.kind == "workload")
            .map(|entry| entry.value.as_str());
        self.tls
            .set_revocations(RevocationList::new(serial, workloads));
        let entries = list
            .into_iter()
            .map(|entry| mesh::Revocation {
                kind: entry.kind,
                value: entry.value,
                at: entry.at,
                reason: entry.reason,
            })
            .collect();
        self.fleet
            .publish_revocations(mesh::Revocations { serial, entries });
        Ok(())
    }
}

/// Why a bundle was not applied, in one line for the log and for `status`.
pub(crate) fn describe(error: &ApplyError) -> String {
    match error {
        ApplyError::Refused(list) => first_of(list),
        ApplyError::Store(error) => store::with_cause(error),
        other => other.to_string(),
    }
}

fn first_of(list: &[Diagnostic]) -> String {
    let errors = list
        .iter()
        .filter(|diagnostic| diagnostic.severity == testudo_policy::diagnostic::Severity::Error);
    let count = errors.clone().count();
    errors.clone().next().map_or_else(
        || "the bundle cannot be read".to_string(),
        |first| {
            let more = if count > 1 {
                format!(" (and {} more; testudo check lists them)", count - 1)
            } else {
                String::new()
            };
            format!(
                "{}:{}:{} {} {}{more}",
                first.span.file, first.span.line, first.span.column, first.code, first.message
            )
        },
    )
}

/// Seconds since the epoch. The one place where control reads the wall clock.
pub fn unix_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}
