//! A revision's way from control into force: signature, floor, missing parts, compilation off the data
//! threads, one swap. Whatever fails, the last good snapshot goes on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use testudo_guard::Snapshot;
use testudo_guard::snapshot::Role;
use testudo_identity::verify_manifest;
use testudo_model::{Audience, Manifest, PartRef, mesh};
use testudo_policy::bundle::{Bundle, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES};
use testudo_policy::compile::compile;

use super::store::{StoreError, is_content_of};
use super::{Context, status_text, text_of};
use crate::effective::app_text;

/// More than a manifest of [`MAX_FILES`] parts takes.
const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// Diagnostics that control is told.
const MAX_DIAGNOSTICS: usize = 10;

/// Why a revision is not in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstallError {
    #[error("the manifest is over {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
    #[error("the manifest's signature is not by the key that this proxy learnt when it joined")]
    Signature,
    #[error("the manifest cannot be read")]
    Manifest(#[source] serde_json::Error),
    #[error("the manifest lists more than a bundle may hold")]
    TooMany,
    #[error("revision {number} is older than {floor}, which is in force")]
    Stale { number: u64, floor: u64 },
    #[error("there are two different revisions {0}")]
    Fork(u64),
    #[error("part {0} is missing")]
    Missing(String),
    #[error("part {0} is not what the manifest says")]
    Part(String),
    #[error("the parts cannot be fetched: {0}")]
    Fetch(String),
    #[error("{0}")]
    Compile(String),
    #[error(transparent)]
    WhichApp(#[from] WhichApp),
    #[error("the compiler panicked")]
    Panicked,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The bundle names several applications, and nobody said which one this sidecar stands in front of.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{service} has several applications ({}): which one is this sidecar's?\nhint: start it with --app {}", addresses.join(", "), addresses.first().map_or("ADDR", String::as_str)
)]
pub struct WhichApp {
    service: String,
    addresses: Vec<String>,
}

/// A manifest whose signature holds.
pub(super) struct Verified {
    pub(super) signed: mesh::SignedManifest,
    pub(super) manifest: Manifest,
    pub(super) digest: String,
}

/// How an installation ended, for control.
pub(super) struct Outcome {
    pub(super) revision: u64,
    pub(super) digest: String,
    pub(super) result: Result<(), InstallError>,
}

impl Outcome {
    pub(super) fn into_ack(self) -> mesh::Ack {
        mesh::Ack {
            revision: self.revision,
            digest: self.digest,
            installed: self.result.is_ok(),
            error: self
                .result
                .err()
                .map(|error| text_of(&error))
                .unwrap_or_default(),
        }
    }
}

/// Checks the signature over exactly the bytes that are read afterwards.
pub(super) fn verify(
    signed: mesh::SignedManifest,
    key: &[u8; 32],
) -> Result<Verified, InstallError> {
    if signed.manifest.len() > MAX_MANIFEST_BYTES {
        return Err(InstallError::TooLarge);
    }
    verify_manifest(key, &signed.manifest, &signed.signature)
        .map_err(|_| InstallError::Signature)?;
    let manifest: Manifest =
        serde_json::from_slice(&signed.manifest).map_err(InstallError::Manifest)?;
    let total: u64 = manifest
        .parts
        .iter()
        .fold(0, |total, part| total.saturating_add(part.size));
    let too_many = manifest.parts.len() > MAX_FILES
        || total > MAX_TOTAL_BYTES
        || manifest.parts.iter().any(|part| part.size > MAX_FILE_BYTES);
    if too_many {
        return Err(InstallError::TooMany);
    }
    let digest = testudo_identity::hex(&testudo_identity::sha256(&signed.manifest));
    Ok(Verified {
        signed,
        manifest,
        digest,
    })
}

/// Never back: an old manifest is signed as well as a new one.
pub(super) fn check_floor(
    verified: &Verified,
    in_force: Option<&Snapshot>,
) -> Result<(), InstallError> {
    let number = verified.manifest.number;
    match in_force {
        Some(snapshot) if number < snapshot.revision => Err(InstallError::Stale {
            number,
            floor: snapshot.revision,
        }),
        Some(snapshot) if number == snapshot.revision && *snapshot.digest != *verified.digest => {
            Err(InstallError::Fork(number))
        }
        _ => Ok(()),
    }
}

/// The parts that a role gets.
pub(super) fn parts_for<'m>(manifest: &'m Manifest, role: &Role) -> Vec<&'m PartRef> {
    manifest
        .parts
        .iter()
        .filter(|part| match (&part.audience, role) {
            (Audience::All, _) | (Audience::Gateway | Audience::Service(_), Role::Gateway) => true,
            (Audience::Service(service), Role::Sidecar(own)) => *service == **own,
            (Audience::Gateway, Role::Sidecar(_)) | (Audience::Control, _) => false,
        })
        .collect()
}

/// Installs a revision; what it came to is told to control.
pub(super) async fn install(context: &Context, signed: mesh::SignedManifest) -> Outcome {
    let mut outcome = Outcome {
        revision: 0,
        digest: testudo_identity::hex(&testudo_identity::sha256(&signed.manifest)),
        result: Ok(()),
    };
    outcome.result = async {
        let verified = verify(signed, &context.manifest_key.get())?;
        outcome.revision = verified.manifest.number;
        put_in_force(context, verified).await
    }
    .await;
    match &outcome.result {
        Ok(()) => {}
        Err(error) => {
            tracing::error!(
                revision = outcome.revision,
                error = text_of(error),
                "revision refused"
            );
        }
    }
    outcome
}

async fn put_in_force(context: &Context, verified: Verified) -> Result<(), InstallError> {
    let installed = &context.shared.installed;
    let in_force = installed.snapshot.load_full();
    check_floor(&verified, in_force.as_deref())?;
    if in_force.is_some_and(|snapshot| *snapshot.digest == *verified.digest) {
        return Ok(());
    }
    let needed = parts_for(&verified.manifest, &context.shared.options.role);
    let (contents, kept) = gather(context, &needed).await?;
    let bundle = bundle_of(&needed, &contents)?;
    let (number, digest) = (verified.manifest.number, verified.digest.clone());
    let compiler = context.compiler();
    let compiled = tokio::task::spawn_blocking(move || compiler.compile(&bundle, number, &digest));
    let snapshot = compiled.await.map_err(|_| InstallError::Panicked)??;
    // Only this task installs, so that the floor is still where it was before the compilation.
    installed.install_snapshot(snapshot);
    tracing::info!(revision = number, "revision in force");
    // In force even where it cannot be kept: a full disk must not keep a fix from taking effect.
    let digests: HashSet<&str> = needed.iter().map(|part| part.digest.as_str()).collect();
    let saved = kept.and_then(|()| context.store.save_revision(&verified.signed, &digests));
    if let Err(error) = saved {
        tracing::error!(
            error = text_of(&error),
            "the revision cannot be kept for a restart"
        );
    }
    Ok(())
}

/// The last good revision from the state folder. Blocks; for the start, before anything listens.
pub(super) fn load_last_good(context: &Context) -> Result<Option<Arc<Snapshot>>, InstallError> {
    let Some(signed) = context.store.revision()? else {
        return Ok(None);
    };
    let verified = verify(signed, &context.manifest_key.get())?;
    let needed = parts_for(&verified.manifest, &context.shared.options.role);
    let mut contents = Contents::new();
    for part in &needed {
        let content = context.store.part(&part.digest)?;
        let content = content.ok_or_else(|| InstallError::Missing(part.path.clone()))?;
        contents.insert(part.digest.clone(), content);
    }
    let bundle = bundle_of(&needed, &contents)?;
    let number = verified.manifest.number;
    context
        .compiler()
        .compile(&bundle, number, &verified.digest)
        .map(Some)
}

/// Parts by digest.
type Contents = HashMap<String, Arc<[u8]>>;

/// All parts that are needed: those kept from before, the others from control, which is believed
/// nothing that does not have its digest. Also says whether all are kept now.
async fn gather(
    context: &Context,
    needed: &[&PartRef],
) -> Result<(Contents, Result<(), StoreError>), InstallError> {
    let mut contents = Contents::new();
    let mut missing = HashSet::new();
    for part in needed {
        match context.store.part(&part.digest)? {
            Some(content) => _ = contents.insert(part.digest.clone(), content),
            None => _ = missing.insert(part.digest.clone()),
        }
    }
    let mut kept = Ok(());
    if missing.is_empty() {
        return Ok((contents, kept));
    }
    let failed = |status: tonic::Status| InstallError::Fetch(status_text(&status));
    let request = mesh::PartsRequest {
        digests: missing.iter().cloned().collect(),
    };
    let mut client = context.client().await;
    let mut parts = client.parts(request).await.map_err(failed)?.into_inner();
    while let Some(part) = parts.message().await.map_err(failed)? {
        if !missing.remove(&part.digest) || !is_content_of(&part.content, &part.digest) {
            return Err(InstallError::Part(part.digest));
        }
        if kept.is_ok() {
            kept = context.store.save_part(&part.digest, &part.content);
        }
        contents.insert(part.digest, Arc::from(part.content));
    }
    match missing.into_iter().next() {
        Some(digest) => Err(InstallError::Missing(digest)),
        None => Ok((contents, kept)),
    }
}

fn bundle_of(needed: &[&PartRef], contents: &Contents) -> Result<Bundle, InstallError> {
    let mut parts = Vec::with_capacity(needed.len());
    for part in needed {
        let content = contents
            .get(&part.digest)
            .ok_or_else(|| InstallError::Missing(part.path.clone()))?;
        parts.push((*part, Arc::clone(content)));
    }
    Bundle::from_parts(parts).map_err(|error| InstallError::Part(error.to_string()))
}

/// What compiling needs; leaves the control thread.
pub(super) struct Compiler {
    pub(super) role: Role,
    pub(super) base_dir: std::path::PathBuf,
    /// Whether the application was named at the start.
    pub(super) app_given: bool,
}

impl Compiler {
    fn compile(
        &self,
        bundle: &Bundle,
        number: u64,
        digest: &str,
    ) -> Result<Arc<Snapshot>, InstallError> {
        let snapshot =
            compile(bundle, number, digest, &self.role, &self.base_dir).map_err(|diagnostics| {
                let list = diagnostics.sorted();
                let shown: Vec<String> = list
                    .iter()
                    .take(MAX_DIAGNOSTICS)
                    .map(|found| {
                        let span = &found.span;
                        let (file, line) = (&span.file, span.line);
                        format!("{file}:{line}: {}: {}", found.code, found.message)
                    })
                    .collect();
                InstallError::Compile(shown.join("\n"))
            })?;
        self.one_app(&snapshot)?;
        Ok(Arc::new(snapshot))
    }

    /// One sidecar, one application.
    fn one_app(&self, snapshot: &Snapshot) -> Result<(), WhichApp> {
        match snapshot.own_service() {
            Some(own) if own.app.len() > 1 && !self.app_given => Err(WhichApp {
                service: own.name.to_string(),
                addresses: own.app.iter().map(app_text).collect(),
            }),
            _ => Ok(()),
        }
    }
}
