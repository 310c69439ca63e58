//! The life of a revision here: a bundle is checked, numbered, signed, stored and published; a broken
//! one is refused with its diagnostics and changes nothing (DESIGN §10).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use testudo_identity::ManifestKey;
use testudo_model::mesh::SignedManifest;
use testudo_model::{Audience, Manifest, PartRef};
use testudo_policy::api::ApiModel;
use testudo_policy::bundle::{Bundle, BundleFile};
use testudo_policy::cedar::Compiled;
use testudo_policy::check::{CheckOptions, check};
use testudo_policy::config::Config;
use testudo_policy::diagnostic::{Diagnostic, Diagnostics};

use crate::fleet::Fleet;
use crate::store::{Audit, Store, StoreError, StoredRevision};

/// How many operations each service has.
pub type Operations = BTreeMap<Arc<str>, usize>;

/// The revision that the mesh is to run.
pub struct Current {
    /// Its number.
    pub number: u64,
    /// Hex SHA-256 of its manifest.
    pub digest: String,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its files.
    pub bundle: Bundle,
    /// Its `testudo.yaml`.
    pub config: Config,
    /// Operations of each service, for people.
    pub operations: Operations,
    /// The policies, for questions about them.
    pub policies: Compiled,
    /// The APIs that they are about.
    pub apis: BTreeMap<Arc<str>, ApiModel>,
}

/// What a bundle without errors came to.
struct Read {
    config: Config,
    operations: Operations,
    policies: Compiled,
    apis: BTreeMap<Arc<str>, ApiModel>,
    warnings: Vec<Diagnostic>,
}

/// What became of a bundle that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The revision's number.
    pub number: u64,
    /// Its digest.
    pub digest: String,
    /// False: the bundle is that of the newest revision already.
    pub changed: bool,
    /// Warnings of the check.
    pub warnings: Vec<Diagnostic>,
}

/// Why a bundle was not applied. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It has errors.
    #[error("the bundle has errors")]
    Refused(Vec<Diagnostic>),
    /// The trust domain of a mesh cannot change: every identity would be of another mesh.
    #[error(
        "the trust domain is {current} and cannot become {wanted}; start control with a new --state for another mesh"
    )]
    TrustDomain {
        /// The mesh's.
        current: String,
        /// The bundle's.
        wanted: String,
    },
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest could not be encoded or read back.
    #[error("the manifest does not read")]
    Manifest(#[from] serde_json::Error),
}

/// Checks, numbers, signs, stores and publishes bundles.
pub struct Revisions {
    store: Store,
    key: ManifestKey,
    fleet: Arc<Fleet>,
    current: ArcSwapOption<Current>,
    /// Number and digest of the newest stored revision; held while a change is made, so that there is
    /// one at a time. The newest revision may not be `current`: another binary may have made it.
    newest: Mutex<Option<(u64, String)>>,
}

impl Revisions {
    /// Reads the newest revision back from the store and publishes it, if there is one that still
    /// compiles. One that does not (made by another version of this binary) is left for the next
    /// bundle to replace; proxies keep what they run.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn open(
        store: Store,
        key: ManifestKey,
        fleet: Arc<Fleet>,
    ) -> Result<Revisions, ApplyError> {
        let revisions = Revisions {
            store,
            key,
            fleet,
            current: ArcSwapOption::empty(),
            newest: Mutex::default(),
        };
        if let Some((number, stored)) = revisions.store.newest_revision()? {
            let manifest: Manifest = serde_json::from_slice(&stored.manifest)?;
            let bundle = revisions.read_bundle(&manifest)?;
            *revisions.lock_newest() = Some((number, stored.digest.clone()));
            match compile(&bundle) {
                Ok(read) => revisions.publish(&stored, manifest, bundle, read),
                Err(diagnostics) => tracing::error!(
                    revision = number,
                    errors = diagnostics.len(),
                    first = diagnostics.first().map(|first| first.message.as_str()),
                    "the newest stored revision does not compile with this binary; apply a bundle that does"
                ),
            }
        }
        Ok(revisions)
    }

    /// The revision that the mesh is to run; `None` before the first one.
    pub fn current(&self) -> Option<Arc<Current>> {
        self.current.load_full()
    }

    /// Makes `bundle` the newest revision. `parent`: the digest that the writer saw as the newest;
    /// `None`: whatever is the newest now.
    ///
    /// # Errors
    /// See [`ApplyError`]; nothing has changed then.
    pub fn apply(
        &self,
        bundle: Bundle,
        parent: Option<&str>,
        actor: &str,
        note: &str,
    ) -> Result<Applied, ApplyError> {
        let mut newest = self.lock_newest();
        // Read anew: a commit that ended in an I/O error may have been kept all the same.
        *newest = self
            .store
            .newest_revision()?
            .map(|(number, stored)| (number, stored.digest));
        let mut read = compile(&bundle).map_err(ApplyError::Refused)?;
        let warnings = std::mem::take(&mut read.warnings);
        let parts = bundle.manifest_parts();
        let digest = newest.as_ref().map(|(_, digest)| digest.as_str());
        if let (Some(parent), found) = (parent, digest.unwrap_or("none"))
            && parent != found
        {
            return Err(conflict(found, parent));
        }
        if let Some(current) = self.current() {
            if current.config.trust_domain != read.config.trust_domain {
                return Err(ApplyError::TrustDomain {
                    current: current.config.trust_domain.to_string(),
                    wanted: read.config.trust_domain.to_string(),
                });
            }
            if current.manifest.parts == parts {
                return Ok(Applied {
                    number: current.number,
                    digest: current.digest.clone(),
                    changed: false,
                    warnings,
                });
            }
        }
        let warnings = self.with_restart(&read.config, warnings);
        let (stored, manifest) = self.sign(parts, newest.as_ref(), actor, note)?;
        let contents = contents(&manifest.parts, &bundle);
        let audit = Audit {
            actor,
            action: "revision.applied",
            detail: &format!("{} {} {note}", manifest.number, stored.digest),
        };
        self.store
            .add_revision(manifest.number, digest, &stored, &contents, audit)?;
        *newest = Some((manifest.number, stored.digest.clone()));
        let applied = Applied {
            number: manifest.number,
            digest: stored.digest.clone(),
            changed: true,
            warnings,
        };
        self.publish(&stored, manifest, bundle, read);
        tracing::info!(
            revision = applied.number,
            digest = applied.digest,
            actor,
            "revision applied"
        );
        Ok(applied)
    }

    /// A warning for what this process cannot change while it runs.
    fn with_restart(&self, config: &Config, mut warnings: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let Some(current) = self.current() else {
            return warnings;
        };
        let (old, new) = (&current.config.control, &config.control);
        let mut found = Diagnostics::default();
        for (key, changed, span) in [
            ("control.api", old.api != new.api, &new.api_span),
            ("control.mesh", old.mesh != new.mesh, &new.mesh_span),
        ] {
            if changed {
                let message = format!("{key} takes effect when control starts again");
                let hint = "start `testudo up` or `testudo control` again".to_owned();
                tracing::warn!("{message}");
                found.warning("restart.needed", span, message, hint);
            }
        }
        warnings.extend(found.list);
        warnings
    }

    fn lock_newest(&self) -> MutexGuard<'_, Option<(u64, String)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(
        &self,
        parts: Vec<PartRef>,
        newest: Option<&(u64, String)>,
        actor: &str,
        note: &str,
    ) -> Result<(StoredRevision, Manifest), ApplyError> {
        let manifest = Manifest {
            number: newest.map_or(1, |(number, _)| number + 1),
            parent: newest.map(|(_, digest)| digest.clone()),
            created: jiff::Timestamp::now(),
            note: if note.is_empty() {
                actor.to_string()
            } else {
                format!("{actor}: {note}")
            },
            parts,
        };
        let bytes = serde_json::to_vec(&manifest)?;
        let signature = hex(&self.key.sign(&bytes));
        Ok((
            StoredRevision {
                digest: sha256(&bytes),
                manifest: bytes,
                signature,
            },
            manifest,
        ))
    }

    fn publish(&self, stored: &StoredRevision, manifest: Manifest, bundle: Bundle, read: Read) {
        let current = Current {
            number: manifest.number,
            digest: stored.digest.clone(),
            manifest,
            bundle,
            config: read.config,
            operations: read.operations,
            policies: read.policies,
            apis: read.apis,
        };
        self.current.store(Some(Arc::new(current)));
        self.fleet.publish_manifest(SignedManifest {
            manifest: stored.manifest.clone(),
            signature: unhex(&stored.signature),
        });
    }

    fn read_bundle(&self, manifest: &Manifest) -> Result<Bundle, ApplyError> {
        let mut bundle = Bundle::default();
        for part in &manifest.parts {
            let content = self.store.part(&part.digest)?.unwrap_or_default();
            let file = BundleFile {
                content: content.into(),
                audience: part.audience.clone(),
            };
            bundle.files.insert(part.path.clone(), file);
        }
        Ok(bundle)
    }
}

/// What a bundle without errors comes to; its diagnostics otherwise.
fn compile(bundle: &Bundle) -> Result<Read, Vec<Diagnostic>> {
    let checked = check(
        bundle,
        &CheckOptions {
            now: Some(crate::unix_now()),
        },
    );
    let failed = !checked.is_ok();
    match (checked.config, checked.policies, failed) {
        (Some(config), Some(policies), false) => {
            let count = |(service, api): (&Arc<str>, &ApiModel)| {
                (Arc::clone(service), api.operations.len())
            };
            Ok(Read {
                operations: checked.apis.iter().map(count).collect(),
                config,
                policies,
                apis: checked.apis,
                warnings: checked.diagnostics,
            })
        }
        _ => Err(checked.diagnostics),
    }
}

fn conflict(newest: &str, expected: &str) -> ApplyError {
    ApplyError::Store(StoreError::Conflict {
        newest: newest.into(),
        expected: expected.into(),
    })
}

fn contents(parts: &[PartRef], bundle: &Bundle) -> Vec<(String, Arc<[u8]>)> {
    parts
        .iter()
        .filter_map(|part| {
            Some((
                part.digest.clone(),
                Arc::clone(&bundle.files.get(&part.path)?.content),
            ))
        })
        .collect()
}

/// Whether a proxy may have a part.
pub fn may_have(audience: &Audience, role: &str, service: &str) -> bool {
    match audience {
        Audience::All => true,
        Audience::Gateway => role == "gateway",
        Audience::Service(owner) => role == "gateway" || owner == service,
        Audience::Control => false,
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_gets_its_own_parts_alone() {
        assert!(may_have(&Audience::All, "sidecar", "orders"));
        assert!(may_have(
            &Audience::Service("orders".into()),
            "sidecar",
            "orders"
        ));
        assert!(may_have(&Audience::Service("orders".into()), "gateway", ""));
        assert!(!may_have(
            &Audience::Service("orders".into()),
            "sidecar",
            "payments"
        ));
        assert!(!may_have(&Audience::Gateway, "sidecar", "orders"));
        assert!(!may_have(&Audience::Control, "gateway", ""));
    }

    #[test]
    fn hex_reads_back() {
        assert_eq!(unhex(&hex(&[0, 15, 255])), [0, 15, 255]);
    }
}
