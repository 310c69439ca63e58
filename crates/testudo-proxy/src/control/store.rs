//! What the link keeps in the proxy's state folder, so that a restart needs nobody: who we are in which
//! mesh, the last good revision with its parts, and the last addresses, keys and revocations. Every
//! file is private (0600) and replaced whole.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use testudo_identity::files::{self, FileError};
use testudo_identity::{ProxyRole, TrustDomain, pem};
use testudo_model::mesh;

const RECORD: &str = "mesh.json";
const TRUST: &str = "trust.pem";
const REVISION: &str = "revision.bin";
const PARTS: &str = "parts";

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file was changed or damaged.
    #[error(
        "{0} is damaged\nhint: remove it and join again with a new token (testudo identity issue --join)"
    )]
    Damaged(PathBuf),
}

/// Which proxy of which mesh this state belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) trust_domain: String,
    pub(super) proxy: String,
    pub(super) role: String,
    pub(super) service: String,
    /// Ed25519 public key that signs manifests, hex.
    pub(super) manifest_key: String,
    /// Where control was last, `HOST:PORT`.
    pub(super) control: String,
}

impl Record {
    pub(super) fn domain(&self) -> Option<TrustDomain> {
        TrustDomain::new(&self.trust_domain).ok()
    }

    pub(super) fn role(&self) -> Option<ProxyRole> {
        ProxyRole::from_words(&self.role, &self.service)
    }

    pub(super) fn manifest_key(&self) -> Option<[u8; 32]> {
        testudo_identity::from_hex(&self.manifest_key)?
            .try_into()
            .ok()
    }
}

/// Messages of control whose last one is kept.
pub(super) trait Kept: Message + Default {
    const FILE: &'static str;
}

impl Kept for mesh::Addresses {
    const FILE: &'static str = "addresses.bin";
}

impl Kept for mesh::TokenKeys {
    const FILE: &'static str = "token-keys.bin";
}

impl Kept for mesh::Revocations {
    const FILE: &'static str = "revocations.bin";
}

impl Kept for mesh::Fleet {
    const FILE: &'static str = "fleet.bin";
}

impl Kept for mesh::Containments {
    const FILE: &'static str = "containments.bin";
}

impl Kept for mesh::Modes {
    const FILE: &'static str = "modes.bin";
}

/// The state folder.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The folder must be private; it is made where it is not there.
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        files::ensure_private_folder(folder)?;
        files::ensure_private_folder(&folder.join(PARTS))?;
        Ok(Store {
            folder: folder.to_owned(),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Whether there is room for an identity.
    pub(super) fn probe(&self) -> Result<(), StoreError> {
        let path = self.path("probe");
        let written = files::write_private(&path, &[0; 16 * 1024]);
        remove(&path);
        Ok(written?)
    }

    pub(super) fn record(&self) -> Result<Option<Record>, StoreError> {
        let path = self.path(RECORD);
        let Some(text) = files::read_private(&path)? else {
            return Ok(None);
        };
        let record: Record =
            serde_json::from_slice(&text).map_err(|_| StoreError::Damaged(path.clone()))?;
        let usable =
            record.domain().is_some() && record.role().is_some() && record.manifest_key().is_some();
        match usable {
            true => Ok(Some(record)),
            false => Err(StoreError::Damaged(path)),
        }
    }

    pub(super) fn save_record(&self, record: &Record) -> Result<(), StoreError> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|_| StoreError::Damaged(self.path(RECORD)))?;
        Ok(files::write_private(&self.path(RECORD), &text)?)
    }

    pub(super) fn trust(&self) -> Result<Option<Vec<CertificateDer<'static>>>, StoreError> {
        let path = self.path(TRUST);
        let Some(text) = files::read_private(&path)? else {
            return Ok(None);
        };
        let roots = pem::decode_certificates(&text).map_err(|_| StoreError::Damaged(path))?;
        Ok(Some(roots))
    }

    pub(super) fn save_trust(&self, roots: &[CertificateDer<'_>]) -> Result<(), StoreError> {
        let text = pem::encode_certificates(roots);
        Ok(files::write_private(&self.path(TRUST), text.as_bytes())?)
    }

    /// The last message of a kind, if one was kept. Its file begins with the SHA-256 of the rest: half of a list is a
    /// list, too, to protobuf.
    pub(super) fn kept<M: Kept>(&self) -> Result<Option<M>, StoreError> {
        let path = self.path(M::FILE);
        let Some(bytes) = files::read_private(&path)? else {
            return Ok(None);
        };
        let whole = bytes.split_first_chunk::<32>();
        let message = whole
            .filter(|(digest, message)| testudo_identity::sha256(message) == **digest)
            .and_then(|(_, message)| M::decode(message).ok());
        message.map(Some).ok_or(StoreError::Damaged(path))
    }

    pub(super) fn keep<M: Kept>(&self, message: &M) -> Result<(), StoreError> {
        let message = message.encode_to_vec();
        let bytes = [&testudo_identity::sha256(&message), &*message].concat();
        Ok(files::write_private(&self.path(M::FILE), &bytes)?)
    }

    /// The last good revision, as it was signed.
    pub(super) fn revision(&self) -> Result<Option<mesh::SignedManifest>, StoreError> {
        self.read_message(REVISION)
    }

    /// Keeps a revision whose parts are kept already, then forgets parts that only older ones had.
    pub(super) fn save_revision(
        &self,
        manifest: &mesh::SignedManifest,
        digests: &HashSet<&str>,
    ) -> Result<(), StoreError> {
        files::write_private(&self.path(REVISION), &manifest.encode_to_vec())?;
        self.forget_parts_but(digests);
        Ok(())
    }

    /// A part, if it is kept and whole.
    pub(super) fn part(&self, digest: &str) -> Result<Option<Arc<[u8]>>, StoreError> {
        let Some(path) = self.part_path(digest) else {
            return Ok(None);
        };
        let content = files::read_private(&path)?;
        Ok(content
            .filter(|content| is_content_of(content, digest))
            .map(|content| Arc::from(content.as_slice())))
    }

    /// Keeps a part whose content was verified.
    pub(super) fn save_part(&self, digest: &str, content: &[u8]) -> Result<(), StoreError> {
        match self.part_path(digest) {
            Some(path) => Ok(files::write_private(&path, content)?),
            None => Ok(()),
        }
    }

    /// Forgets everything that came from another mesh.
    pub(super) fn forget_mesh(&self) {
        let kept = [
            mesh::Addresses::FILE,
            mesh::TokenKeys::FILE,
            mesh::Revocations::FILE,
            mesh::Fleet::FILE,
            mesh::Containments::FILE,
            mesh::Modes::FILE,
        ];
        for file in kept.into_iter().chain([REVISION, RECORD]) {
            remove(&self.path(file));
        }
        self.forget_parts_but(&HashSet::new());
    }

    fn read_message<M: Message + Default>(&self, file: &str) -> Result<Option<M>, StoreError> {
        let path = self.path(file);
        let Some(bytes) = files::read_private(&path)? else {
            return Ok(None);
        };
        match M::decode(bytes.as_slice()) {
            Ok(message) => Ok(Some(message)),
            Err(_) => Err(StoreError::Damaged(path)),
        }
    }

    /// `None`: not a digest, and so no file name.
    fn part_path(&self, digest: &str) -> Option<PathBuf> {
        let is_digest = digest.len() == 64
            && digest
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        is_digest.then(|| self.folder.join(PARTS).join(digest))
    }

    fn forget_parts_but(&self, digests: &HashSet<&str>) {
        let Ok(entries) = std::fs::read_dir(self.folder.join(PARTS)) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| digests.contains(name)) {
                remove(&entry.path());
            }
        }
    }
}

/// Whether a content has this hex SHA-256.
pub(super) fn is_content_of(content: &[u8], digest: &str) -> bool {
    testudo_identity::hex(&testudo_identity::sha256(content)) == digest
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_and_old_parts_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        store.probe().unwrap();
        assert_eq!(
            std::fs::read_dir(store.folder()).unwrap().count(),
            1,
            "only the parts' folder"
        );
        assert!(store.record().unwrap().is_none());
        assert_eq!(store.kept::<mesh::Addresses>().unwrap(), None);
        let keys = mesh::TokenKeys {
            keys: vec![mesh::TokenKey::default()],
        };
        store.keep(&keys).unwrap();
        assert_eq!(store.kept::<mesh::TokenKeys>().unwrap(), Some(keys));

        let digest = |content: &[u8]| testudo_identity::hex(&testudo_identity::sha256(content));
        let (old, new) = (digest(b"old"), digest(b"new"));
        store.save_part(&old, b"old").unwrap();
        store.save_part(&new, b"new").unwrap();
        store.save_part("../escape", b"x").unwrap();
        assert!(!folder.path().join("escape").exists());
        assert_eq!(
            store.part(&new).unwrap().as_deref(),
            Some(b"new".as_slice())
        );
        let manifest = mesh::SignedManifest {
            manifest: b"{}".to_vec(),
            signature: vec![1],
        };
        store
            .save_revision(&manifest, &HashSet::from([new.as_str()]))
            .unwrap();
        assert_eq!(store.revision().unwrap(), Some(manifest));
        assert!(store.part(&old).unwrap().is_none());
        assert!(store.part(&new).unwrap().is_some());
    }

    #[test]
    fn damaged_files_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        files::write_private(&store.path(RECORD), b"{}").unwrap();
        assert!(matches!(store.record(), Err(StoreError::Damaged(_))));
        // Every piece of a list, the empty one too.
        let list = mesh::Revocations {
            serial: 7,
            entries: Vec::new(),
        };
        store.keep(&list).unwrap();
        let path = store.path(mesh::Revocations::FILE);
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            files::write_private(&path, &bytes[..length]).unwrap();
            let kept = store.kept::<mesh::Revocations>();
            assert!(matches!(kept, Err(StoreError::Damaged(_))), "{length}");
        }
        files::write_private(&store.path(REVISION), b"\xff\xff").unwrap();
        assert!(matches!(store.revision(), Err(StoreError::Damaged(_))));
        // A part that does not have its digest any more counts as missing.
        let digest = testudo_identity::hex(&testudo_identity::sha256(b"part"));
        store.save_part(&digest, b"changed").unwrap();
        assert!(store.part(&digest).unwrap().is_none());
        store.forget_mesh();
        assert!(store.record().unwrap().is_none() && store.revision().unwrap().is_none());
    }
}
