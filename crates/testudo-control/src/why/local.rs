//! Reading the rings on this host, without control: `DIR/.testudo` of a mesh that `up` ran, or the state
//! folder of one proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testudo_model::Event;
use testudo_watch::{Bounds, RingReader, Wanted};

use super::{KnownProxy, Target};

/// Folders are looked for so deep.
const DEPTH: usize = 4;
/// At most so many rings are read.
const RINGS: usize = 1024;
/// Events of one ring.
const EVENTS: usize = 64;
/// After so long a search ends with what it has.
const LONGEST: Duration = Duration::from_secs(5);

/// What the rings had.
#[derive(Debug, Default)]
pub struct Found {
    /// The request that it turned out to be.
    pub request_id: String,
    /// All events of its trace.
    pub events: Vec<Event>,
    /// Rings that could not be read, or not to their end.
    pub silent: BTreeMap<String, String>,
    /// Those whose rings were read.
    pub proxies: Vec<KnownProxy>,
}

/// The folders of rings below a state folder.
#[must_use]
pub fn rings(state: &Path) -> Vec<PathBuf> {
    let mut rings = BTreeSet::new();
    let mut folders = vec![(state.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            // Links are not followed: what they lead to is not of this mesh.
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name() == "ring" {
                rings.insert(entry.path());
            } else if depth < DEPTH {
                folders.push((entry.path(), depth + 1));
            }
        }
        if rings.len() >= RINGS {
            break;
        }
    }
    rings.into_iter().collect()
}

/// Looks for a request in these rings; `None` where none has it.
///
/// # Errors
/// Where no ring at all can be read.
pub fn find(rings: &[PathBuf], target: Target<'_>) -> io::Result<Option<Found>> {
    let mut search = Search {
        rings,
        deadline: Instant::now() + LONGEST,
        found: Found::default(),
        last_error: None,
    };
    let first = match target {
        Target::Request(id) => search.all(Wanted::Request(id)),
        Target::LastDenial => search.all(Wanted::LastDenial),
        Target::Last => search.all(Wanted::Last),
    };
    let chosen = match target {
        // The first hop names the trace.
        Target::Request(_) => first.into_iter().min_by_key(|event| event.time),
        Target::LastDenial | Target::Last => first.into_iter().max_by_key(|event| event.time),
    };
    let Some(chosen) = chosen else {
        return match search.last_error {
            Some(error) => Err(error),
            None => Ok(None),
        };
    };
    search.found.events = match chosen.trace_id.as_str() {
        "" => vec![chosen.clone()],
        trace => search.all(Wanted::Trace(trace)),
    };
    search.found.request_id = chosen.request_id;
    let known: BTreeMap<_, _> = search
        .found
        .events
        .iter()
        .map(|event| (event.proxy.clone(), super::service_of(event)))
        .collect();
    search.found.proxies = known
        .into_iter()
        .map(|(name, service)| KnownProxy {
            name,
            service,
            advertise: None,
        })
        .collect();
    Ok(Some(search.found))
}

struct Search<'a> {
    rings: &'a [PathBuf],
    deadline: Instant,
    found: Found,
    last_error: Option<io::Error>,
}

impl Search<'_> {
    fn all(&mut self, wanted: Wanted<'_>) -> Vec<Event> {
        let bounds = Bounds {
            events: EVENTS,
            deadline: Some(self.deadline),
            not_before: None,
        };
        let mut events = Vec::new();
        for ring in self.rings {
            let name = || {
                let folder = ring.parent().and_then(Path::file_name);
                folder
                    .unwrap_or(ring.as_os_str())
                    .to_string_lossy()
                    .into_owned()
            };
            match RingReader::new(ring).search(wanted, bounds) {
                Ok(hits) => {
                    if !hits.complete {
                        let why = "its ring was not searched to the end".to_owned();
                        self.found.silent.insert(name(), why);
                    }
                    events.extend(hits.events);
                }
                Err(error) => {
                    self.found
                        .silent
                        .insert(name(), format!("its ring cannot be read: {error}"));
                    self.last_error = Some(error);
                }
            }
        }
        events
    }
}
