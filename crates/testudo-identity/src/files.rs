//! Files that hold secrets or must not be lost: readable by their owner alone, replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Nothing that is kept here is longer.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What went wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file or folder can be read or changed by others.
    #[error(
        "{path} can be used by others (mode {mode:03o})\nhint: chmod {wanted} {path}, and replace what is in it if others may have read it"
    )]
    LoosePermissions {
        /// What.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: &'static str,
    },
    /// Something else than a file or folder is there, a symbolic link for example.
    #[error("{path} is not a plain {wanted}")]
    NotPlain {
        /// What.
        path: PathBuf,
        /// `file` or `folder`.
        wanted: &'static str,
    },
    /// It is longer than anything that was ever written there.
    #[error("{path} is over {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// What.
        path: PathBuf,
    },
    /// There is no space left. What was there before is untouched.
    #[error("cannot write {path}: the disk is full; what was there before is untouched")]
    DiskFull {
        /// What.
        path: PathBuf,
    },
    /// The system says no.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `write`, `make`.
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes a folder (0700) with its parents, or checks that it is one and nobody else's.
///
/// # Errors
/// Where it cannot be made, is not a folder, or others may use it.
pub fn ensure_private_folder(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(FileError::NotPlain {
            path: path.to_owned(),
            wanted: "folder",
        }),
        Ok(metadata) => check_mode(path, metadata.mode(), "700"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| write_error("make", path, source)),
        Err(source) => Err(FileError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Reads a private file; `None` where there is none. The content is wiped when dropped.
///
/// # Errors
/// Where it cannot be read, is a link, is too long, or others may use it.
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let failed = |source| FileError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() {
        return Err(FileError::NotPlain {
            path: path.to_owned(),
            wanted: "file",
        });
    }
    let file = File::open(path).map_err(failed)?;
    // Judge the file that is open, not the name that may point elsewhere by now.
    let metadata = file.metadata().map_err(failed)?;
    check_mode(path, metadata.mode(), "600")?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
        });
    }
    let capacity = usize::try_from(metadata.len()).unwrap_or(0);
    let mut content = Zeroizing::new(Vec::with_capacity(capacity + 1));
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Ok(Some(content))
}

/// Replaces a private file (0600): a temporary file is written and synced, renamed over the old one,
/// and the folder synced, so that after a crash or on a full disk either the old or the new content is there.
///
/// # Errors
/// Where that is not possible; the old content stays.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(|source| write_error("write", path, source))?;
    replace(file, &temporary, path, content)
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|source| write_error("write", path, source))
}

/// Writes through `file`, which is open at `temporary`, then renames; removes `temporary` on failure.
fn replace(mut file: File, temporary: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let result = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(temporary, path));
    if result.is_err() {
        // Best effort: the error that counts is the first one.
        let _ = fs::remove_file(temporary);
    }
    result
}

fn check_mode(path: &Path, mode: u32, wanted: &'static str) -> Result<(), FileError> {
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(FileError::LoosePermissions {
        path: path.to_owned(),
        mode: mode & 0o777,
        wanted,
    })
}

fn write_error(action: &'static str, path: &Path, source: io::Error) -> FileError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileError::DiskFull { path },
        _ => FileError::Io {
            action,
            path,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(read_private(&path).unwrap().is_none());
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(**read_private(&path).unwrap().unwrap(), *b"two");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn loose_permissions_and_links_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_private(&path).unwrap_err().to_string();
        assert!(
            error.contains("mode 640") && error.contains("chmod 600"),
            "{error}"
        );

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(
            read_private(&link),
            Err(FileError::NotPlain { .. })
        ));

        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = ensure_private_folder(folder.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_full_disk_says_so_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"old").unwrap();
        let temporary = folder.path().join("temporary");
        fs::write(&temporary, b"").unwrap();
        // Every write to this device fails with ENOSPC.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = replace(full, &temporary, &path, b"new").unwrap_err();
        let error = write_error("write", &path, error);
        assert!(matches!(error, FileError::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("the disk is full"));
        assert_eq!(**read_private(&path).unwrap().unwrap(), *b"old");
        assert!(!temporary.exists());
    }
}
