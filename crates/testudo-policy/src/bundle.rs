//! The files of a bundle: read from a folder, or from the parts of a revision.

use std::collections::BTreeMap;

use testudo_model::Audience;

/// The files of a bundle (or those that one proxy needs), by path.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Path in the bundle (`/`-separated) to content.
    pub files: BTreeMap<String, BundleFile>,
}

/// One file.
#[derive(Clone, Debug)]
pub struct BundleFile {
    /// Its bytes.
    pub content: std::sync::Arc<[u8]>,
    /// Who needs it.
    pub audience: Audience,
}
