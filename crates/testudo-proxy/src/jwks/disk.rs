//! The last good key set of each source, in the proxy's state folder: a proxy that restarts while an
//! issuer is away goes on with it. Public keys are no secret, but whoever could write here could forge
//! users: the folder is the proxy's alone, and a set counts only for the source that it names.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use testudo_guard::authn::{JwksError, KeySet};

use crate::state::write_private;

/// A set that was kept.
pub(super) struct Kept {
    pub(super) keys: KeySet,
    /// Seconds since the epoch.
    pub(super) fetched: u64,
}

/// Why a kept set cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("{0} cannot be read: {1}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} is damaged")]
    Damaged(PathBuf),
    #[error("{0}: {1}")]
    Keys(PathBuf, #[source] JwksError),
}

#[derive(Serialize, Deserialize)]
struct File<'a> {
    source: String,
    fetched: u64,
    #[serde(borrow)]
    jwks: &'a RawValue,
}

/// The set kept for a source, if there is one.
pub(super) fn load(folder: &Path, source: &str) -> Result<Option<Kept>, DiskError> {
    let path = folder.join(name(source));
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DiskError::Read(path, error)),
    };
    let Ok(file) = serde_json::from_slice::<File<'_>>(&text) else {
        return Err(DiskError::Damaged(path));
    };
    if file.source != source {
        return Err(DiskError::Damaged(path));
    }
    match KeySet::parse(file.jwks.get().as_bytes()) {
        Ok(keys) => Ok(Some(Kept {
            keys,
            fetched: file.fetched,
        })),
        Err(error) => Err(DiskError::Keys(path, error)),
    }
}

/// Keeps a set, whole or not at all.
pub(super) fn save(folder: &Path, source: &str, fetched: u64, jwks: &[u8]) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let file = File {
        source: source.to_owned(),
        fetched,
        jwks: serde_json::from_slice(jwks)?,
    };
    write_private(&folder.join(name(source)), &serde_json::to_vec(&file)?)
}

/// Removes what was kept for other sources: an issuer that comes back later must show its keys anew.
pub(super) fn keep_only<'s>(folder: &Path, sources: impl Iterator<Item = &'s Arc<str>>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let keep: BTreeSet<String> = sources.map(|source| name(source)).collect();
    for entry in entries.flatten() {
        if !entry
            .file_name()
            .to_str()
            .is_some_and(|name| keep.contains(name))
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// A source is of the bundle's choosing; its hash is a file name whatever it says.
fn name(source: &str) -> String {
    format!("{}.json", blake3::hash(source.as_bytes()).to_hex())
}
