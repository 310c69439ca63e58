//! Changing the root without breaking anybody, in three steps:
//! [`Authority::stage_root`] makes a new root that everybody learns to trust beside the old one;
//! [`Authority::promote_root`] lets it sign once all proxies have it; [`Authority::retire_root`] ends
//! the trust in the old one once every SVID was renewed.

use std::path::PathBuf;

use super::{
    Authority, AuthorityError, ROOT_FILE, create_issuing, create_root, load_signer, save_trust,
    signed_by,
};
use crate::files::{self, FileError};

const NEXT_ROOT_FILE: &str = "root-next.pem";
const OLD_ROOT_FILE: &str = "root-old.pem";

impl Authority {
    /// Makes a new root and adds it to the trust bundle, which is to be sent to every member. Says
    /// the new root's SHA-256. Done again, it changes nothing. `now`: seconds since the epoch.
    ///
    /// # Errors
    /// Where files cannot be written.
    pub fn stage_root(&mut self, now: u64) -> Result<[u8; 32], AuthorityError> {
        let root = match load_signer(&self.folder, NEXT_ROOT_FILE, &self.domain)? {
            Some(root) => root,
            None => create_root(&self.folder, NEXT_ROOT_FILE, &self.domain, now)?,
        };
        let digest = crate::sha256(&root.certificate);
        let roots = self.trust.roots().iter().cloned().chain([root.certificate]);
        self.trust = save_trust(&self.folder, &self.domain, roots)?;
        Ok(digest)
    }

    /// Makes the staged root the one that signs, and issues from it at once. The old root's key is
    /// kept in `root-old.pem`. `now`: seconds since the epoch.
    ///
    /// # Errors
    /// Where none is staged, or files cannot be written.
    pub fn promote_root(&mut self, now: u64) -> Result<(), AuthorityError> {
        let next = load_signer(&self.folder, NEXT_ROOT_FILE, &self.domain)?
            .filter(|next| self.trust.roots().contains(&next.certificate))
            .ok_or(AuthorityError::NothingStaged)?;
        // The issuing certificate first: with it in place, a crash leaves a working authority whose
        // root file is merely not renamed yet.
        self.issuing = create_issuing(&self.folder, &self.domain, &next, now)?;
        if let Some(old) = files::read_private(&self.folder.join(ROOT_FILE))? {
            files::write_private(&self.folder.join(OLD_ROOT_FILE), &old)?;
        }
        let (from, to) = (self.path(NEXT_ROOT_FILE), self.path(ROOT_FILE));
        std::fs::rename(from, &to).map_err(|source| {
            AuthorityError::File(FileError::Io {
                action: "write",
                path: to,
                source,
            })
        })
    }

    /// Ends the trust in a root, by its SHA-256.
    ///
    /// # Errors
    /// Where it is the root that signs, or unknown.
    pub fn retire_root(&mut self, digest: &[u8; 32]) -> Result<(), AuthorityError> {
        let is_it = |root: &[u8]| crate::sha256(root) == *digest;
        let in_use = self
            .trust
            .roots()
            .iter()
            .any(|root| is_it(root) && signed_by(&self.issuing.certificate, root));
        if in_use || !self.trust.contains_sha256(digest) {
            return Err(AuthorityError::RootInUse);
        }
        let kept = self
            .trust
            .roots()
            .iter()
            .filter(|root| !is_it(root))
            .cloned();
        self.trust = save_trust(&self.folder, &self.domain, kept)?;
        Ok(())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }
}
