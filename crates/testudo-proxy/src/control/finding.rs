//! Control asks what this proxy's ring keeps of a request: looked for on a thread of its own, for a
//! bounded time, few at once, with an answer of bounded size. Traffic does not notice.

use std::rc::Rc;
use std::time::{Duration, Instant};

use testudo_model::Event;
use testudo_model::mesh::{self, from_proxy};
use testudo_watch::{Bounds, Hits, RingReader, Wanted};
use tokio::sync::{Semaphore, mpsc};

use super::Context;
use super::session::up_message;

/// Searches at once; more are told to come again.
const AT_ONCE: usize = 2;
/// After so long a search answers with what it has. Control waits a little longer.
const LONGEST: Duration = Duration::from_millis(1500);
/// Largest answer: well below what a gRPC message may be.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Most events of an answer.
const MAX_EVENTS: usize = 64;

/// Answers questions about the ring.
pub(super) struct Finder {
    reader: RingReader,
    slots: Rc<Semaphore>,
}

impl Finder {
    pub(super) fn new(context: &Context) -> Finder {
        Finder {
            reader: RingReader::new(&context.shared.options.state_dir.join("ring")),
            slots: Rc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Looks, and sends the answer up when it is there. An answer that nobody takes any more is dropped:
    /// control has given up on it long before.
    pub(super) fn find(
        &self,
        context: &Context,
        find: mesh::Find,
        up: mpsc::Sender<mesh::FromProxy>,
    ) {
        let slots = Rc::clone(&self.slots);
        let reader = self.reader.clone();
        let panics = context.shared.panics.clone();
        drop(panics.spawn_named("find", async move {
            let Ok(_slot) = slots.try_acquire() else {
                let _ = up.try_send(message(failed(find.id, "busy with other searches")));
                return;
            };
            let id = find.id;
            let searched = tokio::task::spawn_blocking(move || search(&reader, &find)).await;
            let found = searched.unwrap_or_else(|_| failed(id, "the search panicked"));
            let _ = tokio::time::timeout(LONGEST, up.send(message(found))).await;
        }));
    }
}

fn message(found: mesh::Found) -> mesh::FromProxy {
    up_message(from_proxy::Message::Found(found))
}

fn failed(id: u64, error: &str) -> mesh::Found {
    mesh::Found {
        id,
        error: error.to_owned(),
        ..mesh::Found::default()
    }
}

fn search(reader: &RingReader, find: &mesh::Find) -> mesh::Found {
    let wanted = match (
        find.request_id.as_str(),
        find.trace_id.as_str(),
        find.last.as_str(),
    ) {
        ("", "", "denial") => Wanted::LastDenial,
        ("", "", "any") => Wanted::Last,
        ("", "", _) => return failed(find.id, "the question is not understood"),
        ("", trace, _) => Wanted::Trace(trace),
        (request, _, _) => Wanted::Request(request),
    };
    let bounds = Bounds {
        events: MAX_EVENTS,
        deadline: Some(Instant::now() + LONGEST),
        not_before: i64::try_from(find.not_before)
            .ok()
            .filter(|micros| *micros > 0)
            .and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok()),
    };
    match reader.search(wanted, bounds) {
        Ok(hits) => answer(find.id, &hits),
        Err(error) => failed(find.id, &format!("the ring cannot be read: {error}")),
    }
}

fn answer(id: u64, hits: &Hits) -> mesh::Found {
    let mut found = mesh::Found {
        id,
        incomplete: !hits.complete,
        ..mesh::Found::default()
    };
    let mut bytes = 0;
    for json in hits.events.iter().filter_map(encode) {
        bytes += json.len();
        if bytes > MAX_ANSWER_BYTES {
            found.incomplete = true;
            break;
        }
        found.json.push(json);
    }
    found
}

fn encode(event: &Event) -> Option<Vec<u8>> {
    serde_json::to_vec(event).ok()
}
