//! Where the files come from: a folder on disk or files in memory. Nothing outside can be read.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{MAX_FILE_BYTES, MAX_FILES, ROOT_FILE};
use crate::diagnostic::{Diagnostics, Span};

/// Why a file could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    Missing,
    Outside,
    TooLarge(u64),
    Unreadable(String),
}

/// Files by path.
pub(super) trait Source {
    fn read(&self, path: &str) -> Result<Arc<[u8]>, ReadError>;
    /// All files under a folder (empty: the bundle), sorted; links to folders are not followed. `None`: no such folder.
    fn list(&self, folder: &str) -> Option<Vec<String>>;
}

/// The path in the bundle that `path` means in `file`; `None`: it leads out, or is no relative path.
pub fn resolve(file: &str, path: &str) -> Option<String> {
    let odd = |c: char| c.is_control() || c == '\\';
    if path.is_empty() || path.starts_with('/') || path.contains(odd) {
        return None;
    }
    let mut segments: Vec<&str> = match file.rsplit_once('/') {
        Some((folder, _)) => folder.split('/').collect(),
        None => Vec::new(),
    };
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            name => segments.push(name),
        }
    }
    Some(segments.join("/"))
}

/// A folder on disk.
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn open(dir: &Path) -> Result<Self, Diagnostics> {
        let start = Span::start_of(ROOT_FILE);
        let root = fs::canonicalize(dir).map_err(|error| {
            let mut diagnostics = Diagnostics::default();
            let message = format!("the folder {} cannot be opened: {error}", dir.display());
            diagnostics.error("file.unreadable", &start, message, None);
            diagnostics
        })?;
        Ok(Folder { root })
    }

    fn walk(&self, folder: &str, found: &mut Vec<String>, depth: usize) {
        let Ok(entries) = fs::read_dir(self.root.join(folder)) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // `.testudo`, `.git` and editors' files are never part of a bundle.
            if name.starts_with('.') || found.len() > MAX_FILES {
                continue;
            }
            let path = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < 16 => self.walk(&path, found, depth + 1),
                Ok(kind) if kind.is_file() || kind.is_symlink() => found.push(path),
                _ => {}
            }
        }
    }
}

impl Source for Folder {
    fn read(&self, path: &str) -> Result<Arc<[u8]>, ReadError> {
        let unreadable = |error: std::io::Error| ReadError::Unreadable(error.to_string());
        let real = match fs::canonicalize(self.root.join(path)) {
            Ok(real) => real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ReadError::Missing);
            }
            Err(error) => return Err(unreadable(error)),
        };
        if !real.starts_with(&self.root) {
            return Err(ReadError::Outside);
        }
        // A pipe or a device would block or never end.
        if !fs::metadata(&real).map_err(unreadable)?.is_file() {
            return Err(ReadError::Unreadable("it is not a file".to_owned()));
        }
        let mut content = Vec::new();
        let file = fs::File::open(&real).map_err(unreadable)?;
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut content)
            .map_err(unreadable)?;
        capped(content)
    }

    fn list(&self, folder: &str) -> Option<Vec<String>> {
        let real = fs::canonicalize(self.root.join(folder)).ok()?;
        if !real.starts_with(&self.root) || !real.is_dir() {
            return None;
        }
        let mut found = Vec::new();
        self.walk(folder, &mut found, 0);
        found.sort();
        Some(found)
    }
}

/// Files in memory.
pub(super) struct Memory {
    files: BTreeMap<String, Vec<u8>>,
}

impl Memory {
    pub(super) fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        Memory { files }
    }
}

impl Source for Memory {
    fn read(&self, path: &str) -> Result<Arc<[u8]>, ReadError> {
        let content = self.files.get(path).ok_or(ReadError::Missing)?;
        capped(content.clone())
    }

    fn list(&self, folder: &str) -> Option<Vec<String>> {
        let inside = |path: &&String| {
            let rest = match folder {
                "" => Some(path.as_str()),
                folder => path.strip_prefix(folder).and_then(|r| r.strip_prefix('/')),
            };
            rest.is_some_and(|rest| !rest.split('/').any(|name| name.starts_with('.')))
        };
        let found: Vec<String> = self.files.keys().filter(inside).cloned().collect();
        (!found.is_empty() || folder.is_empty()).then_some(found)
    }
}

fn capped(content: Vec<u8>) -> Result<Arc<[u8]>, ReadError> {
    let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
    if size > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge(size));
    }
    Ok(Arc::from(content))
}
