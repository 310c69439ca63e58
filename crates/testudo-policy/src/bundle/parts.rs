//! Bundles as the parts of a manifest, and back.

use std::sync::Arc;

use testudo_model::PartRef;

use super::{Bundle, BundleFile, ROOT_FILE, resolve};

/// Why parts do not make a bundle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// The content is not what the manifest says.
    #[error("the part {0} does not have the digest that the manifest says")]
    Digest(String),
    /// The path is not one of a file in the bundle.
    #[error("the part {0:?} has no path in the bundle")]
    Path(String),
}

impl Bundle {
    /// The files as a manifest lists them, sorted by path.
    pub fn manifest_parts(&self) -> Vec<PartRef> {
        self.files
            .iter()
            .map(|(path, file)| PartRef {
                path: path.clone(),
                digest: digest(&file.content),
                size: size(&file.content),
                audience: file.audience.clone(),
            })
            .collect()
    }

    /// The bundle (or as much of it as one proxy gets) that these parts make.
    ///
    /// # Errors
    /// If a content does not have its digest, or a path would lead out of a folder.
    pub fn from_parts<'a>(
        parts: impl IntoIterator<Item = (&'a PartRef, Arc<[u8]>)>,
    ) -> Result<Bundle, PartError> {
        let mut bundle = Bundle::default();
        for (part, content) in parts {
            if resolve(ROOT_FILE, &part.path).as_deref() != Some(&part.path) {
                return Err(PartError::Path(part.path.clone()));
            }
            if size(&content) != part.size || digest(&content) != part.digest {
                return Err(PartError::Digest(part.path.clone()));
            }
            let audience = part.audience.clone();
            let file = BundleFile { content, audience };
            bundle.files.insert(part.path.clone(), file);
        }
        Ok(bundle)
    }
}

fn size(content: &[u8]) -> u64 {
    u64::try_from(content.len()).unwrap_or(u64::MAX)
}

/// Hex SHA-256.
fn digest(content: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
