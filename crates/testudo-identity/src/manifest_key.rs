//! The Ed25519 key (RFC 8032) that signs manifests, and nothing else.

use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::files::{self, FileError};

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestKeyError {
    /// Its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("{0} does not hold an Ed25519 key (PKCS #8)")]
    Content(std::path::PathBuf),
    /// The system has no randomness to give.
    #[error("no key could be made")]
    Generate,
}

/// The signature does not hold: the manifest was changed, or signed by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// The private key, which only control has.
pub struct ManifestKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl ManifestKey {
    /// Reads the key at `path`, or makes one (0600) where there is none.
    ///
    /// # Errors
    /// Where the file cannot be used or written, or others may read it.
    pub fn load_or_create(path: &Path) -> Result<Self, ManifestKeyError> {
        if let Some(der) = files::read_private(path)? {
            let pair = Ed25519KeyPair::from_pkcs8(&der).ok();
            return pair
                .and_then(Self::new)
                .ok_or_else(|| ManifestKeyError::Content(path.to_owned()));
        }
        let key = Self::new(Ed25519KeyPair::generate().map_err(|_| ManifestKeyError::Generate)?)
            .ok_or(ManifestKeyError::Generate)?;
        let der = key
            .pair
            .to_pkcs8()
            .map_err(|_| ManifestKeyError::Generate)?;
        files::write_private(path, der.as_ref())?;
        Ok(key)
    }

    fn new(pair: Ed25519KeyPair) -> Option<Self> {
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(ManifestKey { pair, public })
    }

    /// The public key, for join tokens and identities.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Signs a manifest's bytes: 64 bytes.
    pub fn sign(&self, manifest: &[u8]) -> Vec<u8> {
        self.pair.sign(manifest).as_ref().to_vec()
    }
}

impl std::fmt::Debug for ManifestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ManifestKey({})", crate::hex(&self.public))
    }
}

/// Whether `signature` is the key's over exactly these bytes.
///
/// # Errors
/// Where it is not.
pub fn verify_manifest(
    public: &[u8; 32],
    manifest: &[u8],
    signature: &[u8],
) -> Result<(), BadSignature> {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(manifest, signature)
        .map_err(|_| BadSignature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_signs_and_it_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.key");
        let key = ManifestKey::load_or_create(&path).unwrap();
        let signature = key.sign(b"{}");
        let again = ManifestKey::load_or_create(&path).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(verify_manifest(&again.public(), b"{}", &signature).is_ok());
        assert_eq!(
            verify_manifest(&again.public(), b"{ }", &signature),
            Err(BadSignature)
        );
        assert!(verify_manifest(&again.public(), b"{}", &signature[1..]).is_err());
        let other = ManifestKey::load_or_create(&folder.path().join("other")).unwrap();
        assert!(verify_manifest(&other.public(), b"{}", &signature).is_err());
        files::write_private(&path, b"not a key").unwrap();
        assert!(matches!(
            ManifestKey::load_or_create(&path),
            Err(ManifestKeyError::Content(_))
        ));
    }
}
