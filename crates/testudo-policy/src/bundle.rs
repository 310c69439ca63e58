//! The files of a bundle: read from a folder, or from the parts of a revision.
//!
//! Only what `testudo.yaml` names belongs to a bundle. Paths are relative to the file that names them and stay
//! inside: neither `..` nor a symbolic link leads out. Knows where files are named, not what they mean.

mod folder;
mod glob;
mod names;
mod parts;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use testudo_model::Audience;

use crate::diagnostic::{Diagnostic, Diagnostics};

pub use folder::resolve;
pub(crate) use names::{DEFAULT_POLICIES, included, reference_files};
pub use parts::PartError;

/// The file that names all others.
pub const ROOT_FILE: &str = "testudo.yaml";
/// Largest file of a bundle.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// Largest bundle.
pub const MAX_TOTAL_BYTES: u64 = 64 << 20;
/// Most files of a bundle.
pub const MAX_FILES: usize = 4096;

/// The files of a bundle (or those that one proxy needs), by path.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Path in the bundle (`/`-separated) to content.
    pub files: BTreeMap<String, BundleFile>,
    /// Named files that could not be taken, with the place that names them. `check` reports them together with
    /// everything else; they are no part of a manifest.
    pub problems: Vec<Diagnostic>,
}

/// One file.
#[derive(Clone, Debug)]
pub struct BundleFile {
    /// Its bytes.
    pub content: Arc<[u8]>,
    /// Who needs it.
    pub audience: Audience,
}

/// Reads the bundle in a folder.
///
/// # Errors
/// Without a readable `testudo.yaml`. What else is wrong is kept in [`Bundle::problems`], so that `check` can say everything at once.
pub fn load(dir: &Path) -> Result<Bundle, Diagnostics> {
    folder::Folder::open(dir).and_then(|folder| names::collect(&folder))
}

impl Bundle {
    /// The bundle among these files (an upload); files that nothing names are left out.
    ///
    /// # Errors
    /// As [`load`].
    pub fn from_files(files: BTreeMap<String, Vec<u8>>) -> Result<Bundle, Diagnostics> {
        names::collect(&folder::Memory::new(files))
    }

    /// A file's bytes.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(|file| &*file.content)
    }

    /// A file's text; what is not UTF-8 is replaced (for showing, never for judging).
    pub fn text(&self, path: &str) -> Option<std::borrow::Cow<'_, str>> {
        self.content(path).map(String::from_utf8_lossy)
    }
}

#[cfg(test)]
mod tests;
