//! Asking the proxies what their rings keep: one question goes to all of them, and answers are taken for
//! a bounded time. A proxy speaks for itself alone: `grpc` has sorted out what it says of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use testudo_model::Event;
use testudo_model::mesh::Find;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::fleet::Fleet;

/// How long proxies may take.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Questions that may wait at once; a further one is answered by nobody.
const OPEN: usize = 64;

/// What a proxy answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Its own events, oldest first.
    pub events: Vec<Event>,
    /// Why its ring cannot be read; empty: it can.
    pub error: String,
    /// There may be more.
    pub incomplete: bool,
}

/// What all of them answered.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Proxies whose answer is missing or not whole, and why.
    pub silent: BTreeMap<String, String>,
}

/// Questions that wait for answers.
#[derive(Debug, Default)]
pub struct Searches {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    waiting: BTreeMap<u64, mpsc::Sender<(String, Answer)>>,
}

/// Takes the question back when the asker goes away.
struct Asking<'a> {
    searches: &'a Searches,
    id: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.searches.lock().waiting.remove(&self.id);
    }
}

impl Searches {
    /// A proxy's answer. One to a question that nobody waits for any more is dropped.
    pub fn answer(&self, id: u64, proxy: &str, answer: Answer) {
        if let Some(asker) = self.lock().waiting.get(&id) {
            // As many fit as proxies were asked.
            let _ = asker.try_send((proxy.to_owned(), answer));
        }
    }

    /// Asks every connected proxy and waits for their answers, two seconds at most.
    pub async fn ask(&self, fleet: &Fleet, question: Find) -> Gathered {
        self.ask_within(PATIENCE, fleet, question).await
    }

    async fn ask_within(&self, patience: Duration, fleet: &Fleet, question: Find) -> Gathered {
        let mut gathered = Gathered::default();
        let (sender, mut answers) = mpsc::channel(fleet.size().max(1));
        let Some(asking) = self.open(sender) else {
            for proxy in fleet.names() {
                let why = "control is busy with other questions".to_owned();
                gathered.silent.insert(proxy, why);
            }
            return gathered;
        };
        let (asked, busy) = fleet.ask(&Find {
            id: asking.id,
            ..question
        });
        for proxy in busy {
            let why = "has too much waiting to be asked".to_owned();
            gathered.silent.insert(proxy, why);
        }
        let mut waiting: BTreeSet<String> = asked.into_iter().collect();
        let deadline = Instant::now() + patience;
        while !waiting.is_empty() {
            let Ok(Some((proxy, answer))) = timeout_at(deadline, answers.recv()).await else {
                break;
            };
            if waiting.remove(&proxy) {
                gathered.take(proxy, answer);
            }
        }
        for proxy in waiting {
            let why = format!("no answer within {:.1} s", patience.as_secs_f32());
            gathered.silent.insert(proxy, why);
        }
        gathered.events.sort_by_key(|event| event.time);
        gathered
    }

    fn open(&self, sender: mpsc::Sender<(String, Answer)>) -> Option<Asking<'_>> {
        let mut open = self.lock();
        if open.waiting.len() >= OPEN {
            return None;
        }
        open.next += 1;
        let id = open.next;
        open.waiting.insert(id, sender);
        Some(Asking { searches: self, id })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    fn take(&mut self, proxy: String, answer: Answer) {
        if !answer.error.is_empty() {
            self.silent.insert(proxy, answer.error);
        } else if answer.incomplete {
            self.silent
                .insert(proxy, "its ring was not searched to the end".to_owned());
        }
        self.events.extend(answer.events);
    }
}

#[cfg(test)]
mod tests {
    use testudo_model::mesh::{Hello, from_control::Message};

    use super::*;
    use crate::decisions::tests::event;
    use crate::fleet::QUEUE;

    fn connect(fleet: &Fleet, name: &str) -> mpsc::Receiver<testudo_model::mesh::FromControl> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let hello = Hello {
            proxy: name.to_owned(),
            role: "gateway".to_owned(),
            ..Hello::default()
        };
        fleet.connect(hello, sender);
        receiver
    }

    #[tokio::test]
    async fn those_that_answer_are_heard_and_those_that_do_not_are_named() {
        let (fleet, searches) = (Fleet::default(), Searches::default());
        let mut quick = connect(&fleet, "gateway-1");
        let _mute = connect(&fleet, "gateway-2");
        let answering = async {
            loop {
                let message = quick.recv().await.unwrap();
                if let Some(Message::Find(find)) = message.message {
                    let answer = Answer {
                        events: vec![event("orders", None, 1)],
                        ..Answer::default()
                    };
                    // Nobody speaks twice, or without having been asked.
                    searches.answer(find.id, "gateway-1", answer.clone());
                    searches.answer(find.id, "gateway-1", answer.clone());
                    searches.answer(find.id, "somebody", answer.clone());
                    searches.answer(find.id + 1, "gateway-2", answer);
                    return find.request_id;
                }
            }
        };
        let patience = Duration::from_millis(200);
        let question = Find {
            request_id: "r1".to_owned(),
            ..Find::default()
        };
        let (asked, gathered) =
            tokio::join!(answering, searches.ask_within(patience, &fleet, question));
        assert_eq!(asked, "r1");
        assert_eq!(gathered.events.len(), 1);
        assert_eq!(
            gathered.silent,
            BTreeMap::from([("gateway-2".to_owned(), "no answer within 0.2 s".to_owned())])
        );
        assert!(searches.lock().waiting.is_empty());
    }
}
