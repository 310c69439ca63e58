//! Until when a stream may go on: WebSocket, gRPC, event streams. They were permitted once; they end when
//! the user's credential expires, the peer is not to be believed any more, or a new revision, revocation
//! or key set would not permit them (DESIGN §6, §9, §10).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, header};
use testudo_guard::authn::{KeyRing, Revocations};
use testudo_guard::containment::Containments;
use testudo_guard::modes::Modes;
use testudo_guard::pipeline::Incoming;
use testudo_guard::{HeadOutcome, Record, Snapshot, check_head};
use testudo_model::Reason;

use crate::connection::Connection;
use crate::core::{Core, Side};
use crate::drain::Phase;
use crate::respond::Wire;

/// Longest sleep between two looks.
const LOOK: Duration = Duration::from_secs(30);

/// Whether a request may become a stream, so that its head is kept to be judged again.
pub(crate) fn may_stream(headers: &HeaderMap) -> bool {
    let wants_events = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| contains(accept.as_bytes(), b"text/event-stream"));
    wants_events || headers.contains_key(header::UPGRADE) || Wire::of(headers) == Wire::Grpc
}

/// Whether a response is one.
pub(crate) fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.starts_with(b"text/event-stream") || kind.starts_with(b"application/grpc")
    })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// A request that may become a stream, and what it is judged by.
pub(crate) struct Judged {
    /// The head as it came.
    head: Parts,
    by: Basis,
}

/// What a judgement rests on. Limits and addresses aside, the same basis judges alike.
struct Basis {
    snapshot: Arc<Snapshot>,
    revocations: Arc<Revocations>,
    keys: Arc<KeyRing>,
    containments: Arc<Containments>,
    modes: Arc<Modes>,
}

impl Judged {
    /// Taken before the request is judged, so that nothing that changes meanwhile is missed.
    pub(crate) fn new(head: &Parts, snapshot: &Arc<Snapshot>, core: &Core) -> Self {
        Judged {
            head: head.clone(),
            by: Basis::now(snapshot.clone(), core),
        }
    }
}

impl Basis {
    fn now(snapshot: Arc<Snapshot>, core: &Core) -> Self {
        let live = &core.shared.installed.live;
        Basis {
            snapshot,
            revocations: live.revocations.load_full(),
            keys: live.keys.load_full(),
            containments: live.containments.load_full(),
            modes: live.modes.load_full(),
        }
    }

    fn is_same(&self, other: &Basis) -> bool {
        Arc::ptr_eq(&self.snapshot, &other.snapshot)
            && Arc::ptr_eq(&self.revocations, &other.revocations)
            && Arc::ptr_eq(&self.keys, &other.keys)
            && Arc::ptr_eq(&self.containments, &other.containments)
            && Arc::ptr_eq(&self.modes, &other.modes)
    }
}

/// What a stream's life depends on.
pub(crate) struct Lifetime {
    pub(crate) core: Rc<Core>,
    pub(crate) connection: Rc<Connection>,
    /// The end of the user's credential, in seconds since the epoch.
    pub(crate) expires: Option<u64>,
    /// `None`: it is not judged again.
    pub(crate) permitted: Option<Judged>,
}

impl Lifetime {
    /// Waits for the end, and says why.
    pub(crate) async fn ended(mut self) -> &'static str {
        let shared = self.core.shared.clone();
        let mut changes = shared.installed.changes();
        loop {
            let now = shared.clock.wall().unix_seconds();
            if self.expires.is_some_and(|end| now >= end) {
                return "the user's credential expired";
            }
            let session = self.connection.session.as_ref();
            if session.is_some_and(|session| session.check(now).is_err()) {
                return "the peer is not believed any more";
            }
            if !self.is_still_permitted() {
                return "what is in force now does not permit it";
            }
            let left = self.expires.map_or(LOOK, |end| {
                Duration::from_secs(end.saturating_sub(now)).min(LOOK)
            });
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                _ = changes.changed() => {}
                () = shared.drain.reached(Phase::Forced) => return "the proxy stops",
            }
        }
    }

    /// Asks guard again where something else is in force: the same request, the same code.
    fn is_still_permitted(&mut self) -> bool {
        let (Some(judged), Some(snapshot)) = (&mut self.permitted, self.core.snapshot()) else {
            return true;
        };
        let basis = Basis::now(snapshot.clone(), &self.core);
        if judged.by.is_same(&basis) {
            return true;
        }
        let mut again = judged.head.clone();
        let outcome = check_head(
            &snapshot,
            &self.core.shared.installed.live,
            &mut self.core.local.borrow_mut(),
            Incoming {
                peer: &self.connection.peer,
                head: &mut again,
                has_body: false,
            },
            &mut Record::default(),
            self.core.shared.clock.now(),
        );
        judged.by = basis;
        match outcome {
            HeadOutcome::Continue(_) => true,
            HeadOutcome::Deny(denial) => match denial.reason {
                // How often it may be asked says nothing about what is running; bodies were judged before.
                Reason::LimitExceeded | Reason::SchemaBody | Reason::SchemaContentType => true,
                // A throttle neither; who is denied has lost what is running too.
                Reason::Contained => denial.headers.contains_key(header::RETRY_AFTER),
                // A transaction token lives for a minute. The gateway asks again with the credential itself.
                Reason::AuthnExpired => self.connection.side != Side::Edge,
                _ => false,
            },
            HeadOutcome::Answer { .. } => false,
        }
    }
}
