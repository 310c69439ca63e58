//! Modes that were set on the proxy's own host (`testudo mode` without a control plane): a file in the
//! proxy's state folder that only its owner can write, and a log of the changes that is only appended
//! to. The command writes, the proxy reads within a second, and control gets the log when it is there.
//!
//! The folder is 0700 and its owner runs the proxy: whoever can write here can stop the proxy as well.
//! So this gives nobody a power that he does not have; it gives a gentler one, which ends by itself.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_identity::files::{self, FileError};
use testudo_model::Mode;

use crate::boot_clock;

/// What is in force.
const FILE: &str = "mode.json";
/// Who changed it when.
const LOG: &str = "mode-changes.jsonl";
/// The log is kept in two files of at most this size.
const LOG_BYTES: u64 = 1 << 20;
/// The modes' file is never longer.
const FILE_BYTES: u64 = 256 * 1024;
/// Changes that control is told at once; the next ones when it has these.
const TOLD: usize = 64;

/// Nothing is set for longer.
pub const LONGEST: Duration = testudo_guard::modes::LONGEST;

/// Why modes cannot be set or read on this host.
#[derive(Debug, thiserror::Error)]
pub enum HostModeError {
    /// The folder or a file in it.
    #[error(transparent)]
    File(#[from] FileError),
    /// It belongs to somebody else.
    #[error("{path} belongs to user {owner}, and its folder to user {expected}")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// Only the proxy's own user sets its modes.
    #[error("{path} belongs to user {owner}; modes are set by that user (sudo -u '#{owner}')")]
    NotOurs {
        /// The state folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A file was changed or damaged.
    #[error("{path} cannot be understood")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The system says no.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `append to`.
        action: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One service's mode, as the file holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMode {
    /// What holds meanwhile.
    pub mode: Mode,
    /// Seconds since the epoch.
    pub until: u64,
    /// The change that set it.
    pub sequence: u64,
    /// The same end on the kernel's clock.
    #[serde(default)]
    boot_id: String,
    #[serde(default)]
    boot_until: u64,
}

/// A change, as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Grows from change to change: microseconds since the epoch, where the clock allows it.
    pub sequence: u64,
    /// When.
    pub at: jiff::Timestamp,
    /// Whose mode.
    pub service: String,
    /// `None`: what was set here was taken back.
    pub mode: Option<Mode>,
    /// Seconds since the epoch; 0 where it was taken back.
    pub until: u64,
    /// The user of this host.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// What to change.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Whose mode.
    pub service: &'a str,
    /// What and for how long; `None`: take back what was set here.
    pub set: Option<(Mode, Duration)>,
    /// Why.
    pub reason: &'a str,
}

type Modes = BTreeMap<String, HostMode>;

impl HostMode {
    /// What is left of it, in seconds; `None`: it is over.
    pub(crate) fn left(&self, wall: u64, boot: Option<&boot_clock::BootTime>) -> Option<u64> {
        let deadline = (self.boot_id.as_str(), self.boot_until);
        boot_clock::left(self.until, wall, deadline, boot)
    }
}

/// Sets or takes back a service's mode for the proxy with this state folder, and writes it down. The
/// log comes first: there is no change that it does not have.
///
/// # Errors
/// Where the folder is not a proxy's, is somebody else's, or cannot be written.
pub fn change(state: &Path, request: &Request<'_>) -> Result<Change, HostModeError> {
    files::ensure_private_folder(state)?;
    let owner = fs::metadata(state).map_err(failed("read", state))?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        let path = state.to_owned();
        return Err(HostModeError::NotOurs { path, owner });
    }
    let mut log = open_log(state, owner)?;
    // One writer at a time.
    log.lock().map_err(failed("lock", &state.join(LOG)))?;
    let now = jiff::Timestamp::now();
    let wall = u64::try_from(now.as_second()).unwrap_or_default();
    let mut modes = read(state)?;
    let boot = boot_clock::now();
    modes.retain(|_, mode| mode.left(wall, boot.as_ref()).is_some());
    let last = read_log(state)?.last().map_or(0, |last| last.sequence);
    let micros = u64::try_from(now.as_microsecond()).unwrap_or_default();
    let sequence = micros.max(last.saturating_add(1));
    let mut until = 0;
    match request.set {
        None => _ = modes.remove(request.service),
        Some((mode, length)) => {
            let seconds = length.min(LONGEST).as_secs().max(1);
            until = wall.saturating_add(seconds);
            let (boot_id, boot_until) = boot.map_or_else(Default::default, |boot| {
                (boot.id, boot.seconds.saturating_add(seconds))
            });
            let set = HostMode {
                mode,
                until,
                sequence,
                boot_id,
                boot_until,
            };
            modes.insert(request.service.to_owned(), set);
        }
    }
    let change = Change {
        sequence,
        at: now,
        service: request.service.to_owned(),
        mode: request.set.map(|(mode, _)| mode),
        until,
        by: format!("uid {}", rustix::process::getuid().as_raw()),
        reason: request.reason.to_owned(),
    };
    append(state, &mut log, &change)?;
    let text = serde_json::to_vec_pretty(&modes).map_err(damaged(&state.join(FILE)))?;
    files::write_private(&state.join(FILE), &text)?;
    Ok(change)
}

/// What the file says, ended or not.
///
/// # Errors
/// Where it is a link, somebody else's, open to others, or no such file.
pub fn read(state: &Path) -> Result<BTreeMap<String, HostMode>, HostModeError> {
    let path = state.join(FILE);
    check_owner(state, &path)?;
    let Some(text) = files::read_private(&path)? else {
        return Ok(Modes::new());
    };
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > FILE_BYTES {
        return Err(FileError::TooLarge { path }.into());
    }
    serde_json::from_slice(&text).map_err(damaged(&path))
}

/// The first changes after this one, in order; bounded, so that none is told before an earlier one.
///
/// # Errors
/// Where the log cannot be read.
pub(crate) fn changes_after(state: &Path, sequence: u64) -> Result<Vec<Change>, HostModeError> {
    let mut changes = read_log(state)?;
    changes.retain(|change| change.sequence > sequence);
    changes.truncate(TOLD);
    Ok(changes)
}

/// The whole log, in order. Lines that are damaged are left out.
fn read_log(state: &Path) -> Result<Vec<Change>, HostModeError> {
    let path = state.join(LOG);
    check_owner(state, &path)?;
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let length = file.metadata().map_err(failed("read", &path))?.len();
    let start = length.saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(start))
        .map_err(failed("read", &path))?;
    let mut text = Vec::new();
    file.take(LOG_BYTES)
        .read_to_end(&mut text)
        .map_err(failed("read", &path))?;
    let mut changes: Vec<Change> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    changes.sort_by_key(|change| change.sequence);
    Ok(changes)
}

/// Tells whether something changed since the last look, without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp([Option<(u64, i64, i64, u64)>; 2]);

impl Stamp {
    pub(crate) fn of(state: &Path) -> Stamp {
        Stamp([FILE, LOG].map(|file| {
            let metadata = fs::symlink_metadata(state.join(file)).ok()?;
            Some((
                metadata.ino(),
                metadata.ctime(),
                metadata.ctime_nsec(),
                metadata.len(),
            ))
        }))
    }
}

/// Opens the log to append to it; a full one becomes the old one.
fn open_log(state: &Path, owner: u32) -> Result<File, HostModeError> {
    let path = state.join(LOG);
    check_owner(state, &path)?;
    let full = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.len() >= LOG_BYTES);
    if full {
        let old = state.join("mode-changes.1.jsonl");
        fs::rename(&path, &old).map_err(failed("rename", &path))?;
    }
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(&path)
        .map_err(failed("append to", &path))?;
    let found = file.metadata().map_err(failed("read", &path))?;
    if found.uid() != owner {
        return Err(HostModeError::Owner {
            path,
            owner: found.uid(),
            expected: owner,
        });
    }
    Ok(file)
}

fn append(state: &Path, log: &mut File, change: &Change) -> Result<(), HostModeError> {
    let path = state.join(LOG);
    let mut line = serde_json::to_vec(change).map_err(damaged(&path))?;
    line.push(b'\n');
    log.write_all(&line)
        .and_then(|()| log.sync_all())
        .map_err(failed("append to", &path))
}

/// A file counts if it is one, and the folder's owner's. That nobody else may use it,
/// [`files::read_private`] sees to.
fn check_owner(state: &Path, path: &Path) -> Result<(), HostModeError> {
    let expected = fs::symlink_metadata(state)
        .map_err(failed("read", state))?
        .uid();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", path)(error)),
    };
    if !metadata.is_file() {
        return Err(FileError::NotPlain {
            path: path.to_owned(),
            wanted: "file",
        }
        .into());
    }
    if metadata.uid() != expected {
        return Err(HostModeError::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            expected,
        });
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostModeError {
    let path = path.to_owned();
    move |source| HostModeError::Io {
        action,
        path,
        source,
    }
}

fn damaged(path: &Path) -> impl FnOnce(serde_json::Error) -> HostModeError {
    let path = path.to_owned();
    move |source| HostModeError::Damaged { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn state() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("orders-1");
        files::ensure_private_folder(&state).unwrap();
        (folder, state)
    }

    fn report(service: &str, seconds: u64) -> Request<'_> {
        Request {
            service,
            set: Some((Mode::Report, Duration::from_secs(seconds))),
            reason: "a test",
        }
    }

    #[test]
    fn what_is_set_is_read_logged_and_taken_back() {
        let (_folder, state) = state();
        assert_eq!(Stamp::of(&state), Stamp::default());
        let first = change(&state, &report("orders", 60)).unwrap();
        let second = change(&state, &report("payments", 1 << 40)).unwrap();
        assert!(second.sequence > first.sequence);
        assert_eq!(second.until, first.until + 86_400 - 60, "a day at most");
        let modes = read(&state).unwrap();
        assert_eq!(modes["orders"].mode, Mode::Report);
        assert_eq!(modes["orders"].until, first.until);
        let wall = first.until - 60;
        let boot = boot_clock::now();
        assert!(modes["orders"].left(wall, boot.as_ref()).unwrap() <= 60);
        assert!(modes["orders"].left(first.until, boot.as_ref()).is_none());
        let set_back = modes["orders"].left(wall - 1_000_000, boot.as_ref());
        assert!(boot.is_none() || set_back.unwrap() <= 60, "{set_back:?}");
        let back = Request {
            set: None,
            ..report("orders", 0)
        };
        let third = change(&state, &back).unwrap();
        assert_eq!((third.mode, third.until), (None, 0));
        assert_eq!(read(&state).unwrap().len(), 1);
        let told: Vec<u64> = changes_after(&state, first.sequence)
            .unwrap()
            .iter()
            .map(|change| change.sequence)
            .collect();
        assert_eq!(told, [second.sequence, third.sequence]);
        for file in [FILE, LOG] {
            let mode = fs::metadata(state.join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }

    #[test]
    fn links_and_loose_files_count_for_nothing() {
        let (folder, state) = state();
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "{}").unwrap();
        for file in [LOG, FILE] {
            symlink(&elsewhere, state.join(file)).unwrap();
            assert!(change(&state, &report("orders", 60)).is_err(), "{file}");
            fs::remove_file(state.join(file)).unwrap();
        }
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "{}");
        change(&state, &report("orders", 60)).unwrap();
        let path = state.join(FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&state).unwrap_err().to_string().contains("others"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, r#"{"orders": {"mode": "off"}}"#).unwrap();
        assert!(matches!(read(&state), Err(HostModeError::Damaged { .. })));
        // A folder that others may use is no place for it.
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(change(&state, &report("orders", 60)).is_err());
    }

    #[test]
    fn many_changes_are_told_in_order() {
        let (_folder, state) = state();
        for _ in 0..TOLD + 3 {
            change(&state, &report("orders", 60)).unwrap();
        }
        let first = changes_after(&state, 0).unwrap();
        assert_eq!(first.len(), TOLD);
        let rest = changes_after(&state, first[TOLD - 1].sequence).unwrap();
        assert_eq!(rest.len(), 3);
        assert!(rest[0].sequence > first[TOLD - 1].sequence);
    }

    #[test]
    fn the_log_is_bounded() {
        let (_folder, state) = state();
        change(&state, &report("orders", 60)).unwrap();
        let mut log = OpenOptions::new()
            .append(true)
            .open(state.join(LOG))
            .unwrap();
        log.write_all(&vec![b'\n'; usize::try_from(LOG_BYTES).unwrap()])
            .unwrap();
        change(&state, &report("orders", 60)).unwrap();
        assert!(fs::metadata(state.join(LOG)).unwrap().len() < 1_000);
    }
}
