//! The ring of events on disk that `why` reads: bounded, with room of their own for denials, so that a
//! flood of permitted requests cannot wash out what was stopped.
//!
//! Each kind has segments of JSON lines, `permit-NUMBER.jsonl` and `deny-NUMBER.jsonl`; the oldest is
//! deleted when a new one begins. Segments are only ever appended to, so a reader needs no lock, a crash
//! costs at most the last line, and a restart goes on with what is there.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use testudo_model::{Event, Verdict};

use crate::decision_log::whole_lines;

mod reader;

pub use reader::{Bounds, Hits, RingReader, Wanted};

/// Segments of each kind.
const SEGMENTS: u64 = 8;

/// How large the ring may become.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// For permitted requests.
    pub permit_bytes: u64,
    /// For denied ones, and for those that mode report let pass.
    pub denial_bytes: u64,
}

impl Default for RingOptions {
    fn default() -> Self {
        RingOptions {
            permit_bytes: 16 * 1024 * 1024,
            denial_bytes: 16 * 1024 * 1024,
        }
    }
}

/// Writes the ring; one for each folder.
pub struct Ring {
    permits: Track,
    denials: Track,
    failed: u64,
    failing: bool,
}

/// Segments of one kind.
struct Track {
    folder: PathBuf,
    kind: &'static str,
    segment_bytes: u64,
    number: u64,
    file: Option<File>,
    written_bytes: u64,
    buffer: Vec<u8>,
    buffered_lines: u64,
}

const PERMIT: &str = "permit";
const DENY: &str = "deny";

impl Ring {
    /// Opens the ring in `folder` (made with mode 0700) and goes on with what is there.
    ///
    /// # Errors
    /// The folder or a segment cannot be made or read.
    pub fn open(folder: &Path, options: RingOptions) -> io::Result<Ring> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        Ok(Ring {
            permits: Track::open(folder, PERMIT, options.permit_bytes)?,
            denials: Track::open(folder, DENY, options.denial_bytes)?,
            failed: 0,
            failing: false,
        })
    }

    /// Puts an event into the next batch, checks included.
    pub fn add(&mut self, event: &Event) {
        let noteworthy = event.verdict == Verdict::Deny || event.reason.is_some();
        let track = if noteworthy {
            &mut self.denials
        } else {
            &mut self.permits
        };
        if track.add(event).is_err() {
            self.failed += 1;
        }
    }

    /// Writes the batch.
    pub fn flush(&mut self) {
        let mut broken = None;
        for track in [&mut self.denials, &mut self.permits] {
            let lines = track.buffered_lines;
            if let Err(error) = track.flush() {
                self.failed += lines;
                broken = Some(error);
            }
        }
        if let Some(error) = broken {
            if !self.failing {
                let folder = self.denials.folder.display();
                tracing::error!(%folder, %error, "the ring cannot be written; `why` will miss some");
            }
            self.failing = true;
        } else if self.failing {
            self.failing = false;
            tracing::info!(lost = self.failed, "the ring can be written again");
        }
    }

    /// Events that were lost.
    pub const fn failed(&self) -> u64 {
        self.failed
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Track {
    fn open(folder: &Path, kind: &'static str, bytes: u64) -> io::Result<Track> {
        let numbers = segments(folder, kind)?;
        let mut track = Track {
            folder: folder.to_owned(),
            kind,
            segment_bytes: (bytes / SEGMENTS).max(1),
            number: numbers.last().copied().unwrap_or(1),
            file: None,
            written_bytes: 0,
            buffer: Vec::new(),
            buffered_lines: 0,
        };
        track.open_segment()?;
        Ok(track)
    }

    fn add(&mut self, event: &Event) -> serde_json::Result<()> {
        let start = self.buffer.len();
        if let Err(error) = serde_json::to_writer(&mut self.buffer, event) {
            self.buffer.truncate(start);
            return Err(error);
        }
        self.buffer.push(b'\n');
        self.buffered_lines += 1;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let outcome = self.write_batch();
        self.buffer.clear();
        self.buffered_lines = 0;
        outcome
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let length = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        if self.written_bytes > 0 && self.written_bytes.saturating_add(length) > self.segment_bytes
        {
            self.file = None;
            self.number += 1;
        }
        if self.file.is_none() {
            self.open_segment()?;
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
                let _ = file.set_len(self.written_bytes);
                self.file = None;
                Err(error)
            }
        }
    }

    /// Opens the current segment, after the oldest has made room for it.
    fn open_segment(&mut self) -> io::Result<()> {
        for number in segments(&self.folder, self.kind)? {
            if number + SEGMENTS <= self.number {
                std::fs::remove_file(segment_path(&self.folder, self.kind, number))?;
            }
        }
        let path = segment_path(&self.folder, self.kind, self.number);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        self.written_bytes = whole_lines(&path, &file)?;
        self.file = Some(file);
        Ok(())
    }
}

fn segment_path(folder: &Path, kind: &str, number: u64) -> PathBuf {
    folder.join(format!("{kind}-{number:012}.jsonl"))
}

/// The numbers of the segments that are there, oldest first.
fn segments(folder: &Path, kind: &str) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(kind)?.strip_prefix('-'))
            .and_then(|name| name.strip_suffix(".jsonl")?.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
pub(crate) mod tests {
    use testudo_model::{Check, CheckResult, Hop, Mode};

    use super::*;

    pub(crate) fn event(request_id: &str, verdict: Verdict) -> Event {
        Event {
            time: jiff::Timestamp::UNIX_EPOCH,
            request_id: request_id.to_owned(),
            trace_id: format!("trace-of-{request_id}"),
            trace_guessed: false,
            proxy: String::from("orders-1"),
            hop: Hop::Mesh,
            revision: 1,
            caller: Some(String::from("storefront")),
            user: Some(String::from("shop:alice")),
            roles: vec![String::from("customer")],
            source_ip: None,
            credential: None,
            agent: None,
            service: Some(String::from("orders")),
            operation: Some(String::from("orders:getOrder")),
            method: String::from("GET"),
            host: String::from("orders.mesh"),
            path: String::from("/orders/17"),
            status: Some(403),
            inside: None,
            verdict,
            reason: None,
            mode: Mode::Enforce,
            policy: None,
            findings: Vec::new(),
            bytes_in: 0,
            bytes_out: 0,
            duration_us: 1_500,
            guard_us: 9,
            checks: vec![Check {
                name: "user".into(),
                result: CheckResult::Pass,
                detail: "".into(),
                policy: None,
                us: 2,
            }],
        }
    }

    pub(super) fn open(folder: &Path, bytes: u64) -> Ring {
        let options = RingOptions {
            permit_bytes: bytes,
            denial_bytes: bytes,
        };
        Ring::open(folder, options).unwrap()
    }

    #[test]
    fn events_are_found_by_request_and_trace_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("ring");
        for (id, verdict) in [("a", Verdict::Permit), ("b", Verdict::Deny)] {
            let mut ring = open(&folder, 1 << 20);
            ring.add(&event(id, verdict));
        }
        let reader = RingReader::new(&folder);
        let found = reader.find_request("b").unwrap();
        assert_eq!(found, [event("b", Verdict::Deny)]);
        assert_eq!(found[0].checks.len(), 1);
        let trace = Wanted::Trace("trace-of-a");
        let hits = reader.search(trace, Bounds::default()).unwrap();
        assert_eq!(hits.events.len(), 1);
        assert!(reader.find_request("trace-of-a").unwrap().is_empty());
        assert!(reader.find_request("").unwrap().is_empty());
    }

    #[test]
    fn permits_cannot_wash_out_denials() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = open(folder.path(), 40_000);
        ring.add(&event("denied", Verdict::Deny));
        for number in 0..2_000 {
            ring.add(&event(&format!("p{number}"), Verdict::Permit));
            ring.flush();
        }
        let bytes: u64 = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes < 80_000, "{bytes}");
        let reader = RingReader::new(folder.path());
        assert_eq!(reader.find_request("denied").unwrap().len(), 1);
        assert_eq!(reader.find_request("p1999").unwrap().len(), 1);
        assert!(reader.find_request("p0").unwrap().is_empty());
    }

    #[test]
    fn a_crash_costs_at_most_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = open(folder.path(), 1 << 20);
        ring.add(&event("whole", Verdict::Deny));
        ring.flush();
        drop(ring);
        let path = segment_path(folder.path(), DENY, 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"time\":\"19");
        std::fs::write(&path, bytes).unwrap();
        let mut ring = open(folder.path(), 1 << 20);
        ring.add(&event("after", Verdict::Deny));
        ring.flush();
        let reader = RingReader::new(folder.path());
        assert_eq!(reader.find_request("whole").unwrap().len(), 1);
        assert_eq!(reader.find_request("after").unwrap().len(), 1);
    }

    #[test]
    fn a_full_disk_is_counted_and_survived() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = open(folder.path(), 1 << 20);
        ring.denials.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        ring.add(&event("lost", Verdict::Deny));
        ring.flush();
        assert_eq!(ring.failed(), 1);
        ring.add(&event("kept", Verdict::Deny));
        ring.flush();
        assert_eq!(ring.failed(), 1);
        let reader = RingReader::new(folder.path());
        assert_eq!(reader.find_request("kept").unwrap().len(), 1);
    }
}
