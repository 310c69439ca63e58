//! Until when a stream may go on: WebSocket, gRPC, event streams. They were permitted once; they end when
//! the user's credential expires, the peer is not to be believed any more, or a new revision would not
//! permit them (DESIGN §6, §9, §10).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, header};
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

/// What a stream's life depends on.
pub(crate) struct Lifetime {
    pub(crate) core: Rc<Core>,
    pub(crate) connection: Rc<Connection>,
    /// The end of the user's credential, in seconds since the epoch.
    pub(crate) expires: Option<u64>,
    /// The head as it came, and the snapshot that permitted it.
    pub(crate) permitted: Option<(Parts, Arc<Snapshot>)>,
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
                return "the revision in force does not permit it";
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

    /// Asks guard again where another snapshot is in force: the same request, the same code.
    fn is_still_permitted(&mut self) -> bool {
        let (Some((head, judged)), Some(snapshot)) = (&mut self.permitted, self.core.snapshot())
        else {
            return true;
        };
        if Arc::ptr_eq(judged, &snapshot) {
            return true;
        }
        let mut again = head.clone();
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
        *judged = snapshot;
        match outcome {
            HeadOutcome::Continue(_) => true,
            HeadOutcome::Deny(denial) => match denial.reason {
                // How often it may be asked says nothing about what is running; bodies were judged before.
                Reason::LimitExceeded | Reason::SchemaBody | Reason::SchemaContentType => true,
                // A transaction token lives for a minute. The gateway asks again with the credential itself.
                Reason::AuthnExpired => self.connection.side != Side::Edge,
                _ => false,
            },
            HeadOutcome::Answer { .. } => false,
        }
    }
}
