//! Searching a ring while it is written: a plain scan, newest segments first, within bounds of time and
//! size. Only ever done because a person asks, and never on a thread that carries traffic.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use memchr::memmem;
use testudo_model::Event;

use super::{DENY, PERMIT, segment_path, segments};

/// Reads a ring, while it is written or not.
#[derive(Clone, Debug)]
pub struct RingReader {
    folder: PathBuf,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Events of this request.
    Request(&'a str),
    /// Events of this trace.
    Trace(&'a str),
    /// The newest event that was stopped, or would have been in mode enforce.
    LastDenial,
    /// The newest event at all.
    Last,
}

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At most so many events; what was denied is found first.
    pub events: usize,
    /// The search ends then, whatever it has.
    pub deadline: Option<Instant>,
    /// No earlier event is wanted: segments that were last written before are not read.
    pub not_before: Option<jiff::Timestamp>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            events: 64,
            deadline: None,
            not_before: None,
        }
    }
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hits {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Everything was looked at; otherwise there may be more.
    pub complete: bool,
}

impl RingReader {
    /// Reads the ring in this folder, which need not be there yet.
    pub fn new(folder: &Path) -> RingReader {
        RingReader {
            folder: folder.to_owned(),
        }
    }

    /// The events of a request, oldest first.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn find_request(&self, request_id: &str) -> io::Result<Vec<Event>> {
        let hits = self.search(Wanted::Request(request_id), Bounds::default())?;
        Ok(hits.events)
    }

    /// Looks for events, newest segments first.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn search(&self, wanted: Wanted<'_>, bounds: Bounds) -> io::Result<Hits> {
        let whole = |events| Hits {
            events,
            complete: true,
        };
        match wanted {
            Wanted::Request("") | Wanted::Trace("") => Ok(whole(Vec::new())),
            Wanted::Request(id) => self.find(id, bounds, |event| event.request_id == id),
            Wanted::Trace(id) => self.find(id, bounds, |event| event.trace_id == id),
            Wanted::LastDenial => Ok(whole(self.newest(DENY)?.into_iter().collect())),
            Wanted::Last => {
                let (denied, permitted) = (self.newest(DENY)?, self.newest(PERMIT)?);
                let both = denied.into_iter().chain(permitted);
                Ok(whole(
                    both.max_by_key(|event| event.time).into_iter().collect(),
                ))
            }
        }
    }

    /// The last whole line of a kind.
    fn newest(&self, kind: &str) -> io::Result<Option<Event>> {
        for number in segments(&self.folder, kind)?.into_iter().rev() {
            let bytes = read(&segment_path(&self.folder, kind, number))?;
            let mut lines = bytes.split(|byte| *byte == b'\n').rev();
            let event = lines.find_map(|line| serde_json::from_slice(line).ok());
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn find(
        &self,
        id: &str,
        bounds: Bounds,
        is_wanted: impl Fn(&Event) -> bool,
    ) -> io::Result<Hits> {
        let needle = memmem::Finder::new(id);
        let mut hits = Hits {
            events: Vec::new(),
            complete: true,
        };
        'kinds: for kind in [DENY, PERMIT] {
            for number in segments(&self.folder, kind)?.into_iter().rev() {
                if bounds.deadline.is_some_and(|end| Instant::now() >= end) {
                    hits.complete = false;
                    break 'kinds;
                }
                let path = segment_path(&self.folder, kind, number);
                if bounds.not_before.is_some_and(|time| ended(&path, time)) {
                    // Those before it ended earlier still.
                    break;
                }
                let bytes = read(&path)?;
                for event in matching(&bytes, &needle).filter(&is_wanted) {
                    if hits.events.len() >= bounds.events {
                        hits.complete = false;
                        break 'kinds;
                    }
                    hits.events.push(event);
                }
            }
        }
        hits.events.sort_by_key(|event| event.time);
        Ok(hits)
    }
}

/// Events in whose line the needle is.
fn matching<'a>(
    bytes: &'a [u8],
    needle: &'a memmem::Finder<'_>,
) -> impl Iterator<Item = Event> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(from..)?;
            let at = needle.find(rest)?;
            let (before, behind) = rest.split_at_checked(at)?;
            let start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
            let end = memchr::memchr(b'\n', behind).map_or(rest.len(), |newline| at + newline);
            from += end;
            // Half a line, or one of another version, is none.
            if let Some(Ok(event)) = rest.get(start..end).map(serde_json::from_slice) {
                return Some(event);
            }
        }
    })
}

/// Whether a segment was written last before this time. One that cannot be asked was deleted meanwhile.
fn ended(path: &Path, time: jiff::Timestamp) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified
        .ok()
        .and_then(|modified| jiff::Timestamp::try_from(modified).ok())
        .is_some_and(|modified| modified < time)
}

/// A segment that was deleted meanwhile is empty.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use testudo_model::{Reason, Verdict};

    use super::super::tests::{event, open};
    use super::*;

    #[test]
    fn a_search_keeps_to_its_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = open(folder.path(), 4_000_000);
        for number in 0..500 {
            ring.add(&event(&format!("p{number}"), Verdict::Permit));
            ring.flush();
        }
        let reader = RingReader::new(folder.path());
        let wanted = Wanted::Trace("trace-of-p499");
        let all = reader.search(wanted, Bounds::default()).unwrap();
        assert_eq!((all.events.len(), all.complete), (1, true));
        let late = Bounds {
            deadline: Some(Instant::now()),
            ..Bounds::default()
        };
        let none = reader.search(wanted, late).unwrap();
        assert_eq!((none.events.len(), none.complete), (0, false));
        // A needle that is in every line, and room for a few.
        let few = Bounds {
            events: 3,
            ..Bounds::default()
        };
        let found = reader.find("orders-1", few, |_| true).unwrap();
        assert_eq!((found.events.len(), found.complete), (3, false));
        let future = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let young = Bounds {
            not_before: Some(future),
            ..Bounds::default()
        };
        assert!(reader.search(wanted, young).unwrap().events.is_empty());
    }

    #[test]
    fn the_last_one_is_a_denial_unless_any_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let reader = RingReader::new(folder.path());
        let last = |wanted| {
            let hits = reader.search(wanted, Bounds::default()).unwrap();
            hits.events.first().map(|event| event.request_id.clone())
        };
        assert_eq!(last(Wanted::Last), None);
        let mut ring = open(folder.path(), 1 << 20);
        let would_be = Event {
            reason: Some(Reason::AuthzUser),
            ..event("reported", Verdict::Permit)
        };
        ring.add(&would_be);
        let newer = Event {
            time: would_be.time + Duration::from_secs(1),
            ..event("fine", Verdict::Permit)
        };
        ring.add(&newer);
        ring.flush();
        assert_eq!(last(Wanted::LastDenial).as_deref(), Some("reported"));
        assert_eq!(last(Wanted::Last).as_deref(), Some("fine"));
    }

    #[test]
    fn ten_megabytes_are_searched_in_a_fraction_of_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let mut ring = open(folder.path(), 1 << 26);
        let line = serde_json::to_vec(&event("p", Verdict::Permit)).unwrap();
        for number in 0..10 * 1024 * 1024 / line.len() {
            ring.add(&event(&format!("p{number}-"), Verdict::Permit));
        }
        ring.flush();
        let reader = RingReader::new(folder.path());
        let begun = Instant::now();
        assert_eq!(reader.find_request("p7-").unwrap().len(), 1);
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }
}
