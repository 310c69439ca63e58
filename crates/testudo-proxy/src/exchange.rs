//! One request and its response, as far as they have come.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response};
use testudo_guard::authn::User;
use testudo_guard::screen::Refusal;
use testudo_guard::{Denial, Snapshot};

use crate::body::{Held, ResponseBody};
use crate::clock;
use crate::connection::Connection;
use crate::core::{Core, Side};
use crate::io::Active;
use crate::lifetime::{Judged, Lifetime, may_stream};
use crate::observation::Observation;
use crate::request::CLOSE;
use crate::respond::{self, REQUEST_ID_HEADER, Wire};
use crate::trace::Ids;

/// What is known of a request that is being answered.
pub(crate) struct Exchange {
    pub(crate) core: Rc<Core>,
    pub(crate) connection: Rc<Connection>,
    pub(crate) observation: Box<Observation>,
    pub(crate) wire: Wire,
    /// HTTP/2 has other ways to say that a connection ends.
    pub(crate) http2: bool,
    /// The part of its body that is held back.
    pub(crate) held: Held,
    /// What is judged again, where it may become a stream.
    permitted: Option<Judged>,
    /// Headers that the response gets, whatever it is.
    headers: HeaderMap,
    active: Active,
}

impl Exchange {
    /// A head is complete.
    pub(crate) fn begin(
        core: &Rc<Core>,
        connection: &Rc<Connection>,
        head: &Parts,
        snapshot: Option<&Arc<Snapshot>>,
    ) -> Self {
        let ids = match connection.side {
            Side::Edge => Ids::new(),
            Side::Inbound => Ids::kept(&head.headers),
            // Its trace is its own to continue; request ids are ours to give.
            Side::Outbound => Ids::continued(&head.headers, &core.shared.open_traces),
        };
        let revision = snapshot.map_or(0, |snapshot| snapshot.revision);
        let started = core.shared.clock.now();
        let mut observation =
            Observation::start(core, connection.side, head, ids, started, revision);
        observation.record.stopwatch = Some(clock::monotonic);
        if connection.side == Side::Inbound {
            observation.open_trace();
        }
        let judges_streams = connection.side != Side::Outbound;
        Exchange {
            core: core.clone(),
            connection: connection.clone(),
            observation: Box::new(observation),
            wire: Wire::of(&head.headers),
            http2: head.version == http::Version::HTTP_2,
            permitted: snapshot
                .filter(|_| judges_streams && may_stream(&head.headers))
                .map(|snapshot| Judged::new(head, snapshot, core)),
            held: core.shared.held_bytes.hold(),
            headers: HeaderMap::new(),
            active: Active::begin(&connection.activity, &core.shared.metrics),
        }
    }

    /// Until when the stream that this becomes may go on.
    pub(crate) fn lifetime(&mut self, user: Option<&Arc<User>>) -> Lifetime {
        // Inside, what expires is the transaction token, within a minute; the credential's own end is the
        // gateway's to know, and the stream comes through it.
        let expires = match self.connection.side {
            Side::Edge => user.and_then(|user| user.expires),
            Side::Inbound | Side::Outbound => None,
        };
        Lifetime {
            core: self.core.clone(),
            connection: self.connection.clone(),
            expires,
            permitted: self.permitted.take(),
        }
    }

    /// Adds headers to whatever the response will be.
    pub(crate) fn add_headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            self.headers.append(name, value.clone());
        }
    }

    /// The response to a denial.
    pub(crate) fn deny(mut self, denial: Denial) -> Response<ResponseBody> {
        let response = self.denial(denial);
        let response = response.map(|body| ResponseBody::whole(body, None));
        self.finish(response)
    }

    /// The same in one piece, for writing by hand.
    pub(crate) fn deny_whole(mut self, denial: Denial) -> (response::Parts, Bytes) {
        let (head, body) = self.denial(denial).into_parts();
        (head, body.unwrap_or_default())
    }

    /// The response to what was refused beneath HTTP; its head is a stand-in, and says nothing.
    pub(crate) fn refuse(mut self, refusal: &Refusal) -> Response<ResponseBody> {
        let denial = refusal.denial();
        self.observation.refused(refusal, &denial);
        self.deny(denial)
    }

    /// An answer of this proxy's own that is no denial: a preflight's, a redirect.
    pub(crate) fn answer(self, status: StatusCode, headers: HeaderMap) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::whole(None, None));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        self.finish(response)
    }

    fn denial(&mut self, denial: Denial) -> Response<Option<Bytes>> {
        self.observation.denied(&denial);
        let request_id = self.observation.ids.request_id.clone();
        let response = respond::denial(denial, self.wire, &request_id);
        self.observation.answered(response.status());
        response
    }

    /// Completes a response: the headers that every one gets, and the end of the observation with its body.
    pub(crate) fn finish(mut self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        self.complete(&mut response);
        self.connection.wire.answered(false);
        let (observation, active) = (self.observation, self.active);
        response.map(|body| body.observed(observation, active))
    }

    /// The same for a response that becomes a tunnel, with the observation that goes on.
    pub(crate) fn finish_unobserved(
        mut self,
        mut response: Response<ResponseBody>,
    ) -> (Response<ResponseBody>, Box<Observation>) {
        self.complete(&mut response);
        self.connection.wire.answered(true);
        (response, self.observation)
    }

    fn complete(&mut self, response: &mut Response<ResponseBody>) {
        self.observation.answered(response.status());
        let status = response.status();
        let headers = response.headers_mut();
        for name in self.headers.keys() {
            // Ours replace the application's: two answers to one CORS question are none.
            if *name == header::VARY {
                continue;
            }
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        // Applications may have ids of their own; the one that finds the evidence is ours.
        if let Ok(value) = HeaderValue::from_str(&self.observation.ids.request_id) {
            headers.insert(REQUEST_ID_HEADER, value);
        }
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        if self.connection.closing.get() && !self.http2 && !switching {
            headers.insert(header::CONNECTION, CLOSE);
        }
    }
}
