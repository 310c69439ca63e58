//! The decision log: one JSON object a line, rotated by size (DESIGN §12).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use testudo_model::Event;

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// A file is rotated before it grows beyond this.
    pub max_bytes: u64,
    /// How many rotated files are kept: `NAME.1` is the newest.
    pub keep: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            max_bytes: 64 * 1024 * 1024,
            keep: 4,
        }
    }
}

/// The log file. What cannot be written is counted, and writing is tried again with the next batch: a
/// full disk costs lines, never the process, and never leaves half a line behind.
pub struct DecisionLog {
    path: PathBuf,
    options: LogOptions,
    file: Option<File>,
    written_bytes: u64,
    failed: u64,
    failing: bool,
    buffer: Vec<u8>,
    buffered_lines: u64,
}

impl DecisionLog {
    /// Appends to the file at `path`, mode 0600.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, options: LogOptions) -> io::Result<DecisionLog> {
        let mut log = DecisionLog {
            path: path.to_owned(),
            options,
            file: None,
            written_bytes: 0,
            failed: 0,
            failing: false,
            buffer: Vec::new(),
            buffered_lines: 0,
        };
        log.reopen()?;
        Ok(log)
    }

    /// Puts an event into the next batch; its checks are left out.
    pub fn add(&mut self, event: &Event) {
        let start = self.buffer.len();
        if write_line(&mut self.buffer, event).is_err() {
            self.buffer.truncate(start);
            self.failed += 1;
            return;
        }
        self.buffered_lines += 1;
    }

    /// Writes the batch.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.buffered_lines);
        match self.write_batch() {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(lost = self.failed, "the decision log can be written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.failed += lines;
                // Once for each time that it begins, not for every batch.
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.path.display();
                    tracing::error!(%path, %error, "the decision log cannot be written; lines are lost");
                }
            }
        }
        self.buffer.clear();
    }

    /// Lines that were lost.
    pub const fn failed(&self) -> u64 {
        self.failed
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let length = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        if self.written_bytes > 0
            && self.written_bytes.saturating_add(length) > self.options.max_bytes
        {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        match file.write_all(&self.buffer) {
            Ok(()) => {
                self.written_bytes = self.written_bytes.saturating_add(length);
                Ok(())
            }
            Err(error) => {
                // Half a batch would end in half a line: back to where it was whole.
                let _ = file.set_len(self.written_bytes);
                self.file = None;
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        for number in (1..self.options.keep).rev() {
            let older = self.numbered(number + 1);
            ignore_missing(std::fs::rename(self.numbered(number), older))?;
        }
        if self.options.keep == 0 {
            ignore_missing(std::fs::remove_file(&self.path))?;
        } else {
            ignore_missing(std::fs::rename(&self.path, self.numbered(1)))?;
        }
        self.reopen()
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.path)?;
        self.written_bytes = whole_lines(&self.path, &file)?;
        self.file = Some(file);
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

impl Drop for DecisionLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes an event as one line, without its checks.
fn write_line(buffer: &mut Vec<u8>, event: &Event) -> serde_json::Result<()> {
    if event.checks.is_empty() {
        serde_json::to_writer(&mut *buffer, event)?;
    } else {
        let event = Event {
            checks: Vec::new(),
            ..event.clone()
        };
        serde_json::to_writer(&mut *buffer, &event)?;
    }
    buffer.push(b'\n');
    Ok(())
}

/// The file's length, after the half line is cut off that a crash may have left.
pub(crate) fn whole_lines(path: &Path, file: &File) -> io::Result<u64> {
    const LONGEST_LINE: u64 = 256 * 1024;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LONGEST_LINE);
    let tail = read_from(path, start)?;
    let whole = match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => start + u64::try_from(end).unwrap_or_default() + 1,
        None if start == 0 => 0,
        None => length,
    };
    if whole < length {
        file.set_len(whole)?;
    }
    Ok(whole)
}

fn read_from(path: &Path, start: u64) -> io::Result<Vec<u8>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use testudo_model::Verdict;

    use super::*;
    use crate::ring::tests::event;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn one_object_a_line_without_checks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let mut log = DecisionLog::open(&path, LogOptions::default()).unwrap();
        log.add(&event("r1", Verdict::Permit));
        log.add(&event("r2\n\u{1b}", Verdict::Deny));
        log.flush();
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["request_id"], "r2\n\u{1b}");
        assert!(lines[0].get("checks").is_none());
        assert!(lines[0]["caller"].is_null() || lines[0]["caller"].is_string());
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn rotation_keeps_the_newest_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let options = LogOptions {
            max_bytes: 2_000,
            keep: 2,
        };
        let mut log = DecisionLog::open(&path, options).unwrap();
        for number in 0..50 {
            log.add(&event(&format!("r{number}"), Verdict::Permit));
            log.flush();
        }
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["decisions.jsonl", "decisions.jsonl.1", "decisions.jsonl.2"]
        );
        for name in &names {
            assert!(std::fs::metadata(folder.path().join(name)).unwrap().len() <= 2_000);
        }
        assert_eq!(lines(&path).last().unwrap()["request_id"], "r49");
        assert_eq!(log.failed(), 0);
    }

    #[test]
    fn half_a_line_of_a_crash_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        std::fs::write(&path, "{\"request_id\":\"old\"}\n{\"request").unwrap();
        let mut log = DecisionLog::open(&path, LogOptions::default()).unwrap();
        log.add(&event("new", Verdict::Permit));
        log.flush();
        let ids: Vec<_> = lines(&path)
            .iter()
            .map(|line| line["request_id"].clone())
            .collect();
        assert_eq!(ids, ["old", "new"]);
    }

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        // Every write to /dev/full fails with "no space left on device".
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions.jsonl");
        let mut log = DecisionLog::open(&path, LogOptions::default()).unwrap();
        log.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.add(&event("lost", Verdict::Permit));
        log.add(&event("lost", Verdict::Permit));
        log.flush();
        assert_eq!(log.failed(), 2);
        log.add(&event("kept", Verdict::Permit));
        log.flush();
        assert_eq!(log.failed(), 2);
        assert_eq!(lines(&path)[0]["request_id"], "kept");
    }
}
