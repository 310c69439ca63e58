//! `GET /api/v1/decisions/stream`: decisions as they come, as server-sent events (WHATWG HTML).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::sse::{Event as Sse, KeepAlive};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use testudo_model::Event;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::ApiState;
use crate::decisions::Filter;

/// Past events that a follower may ask for first.
const PAST: usize = 1000;

pub(super) async fn decisions(
    State(state): State<Arc<ApiState>>,
    Extension(stop): Extension<CancellationToken>,
    Query(filter): Query<Filter>,
) -> Response {
    let decisions = &state.control.decisions;
    // Subscribed before the past is read: an event in between may come twice, but is never lost.
    let receiver = decisions.follow();
    let past = match filter.limit {
        Some(limit) => decisions.newest(&filter, limit.min(PAST)),
        None => Vec::new(),
    };
    let last = past.last().map(|event| event.time);
    let future = follow(receiver, filter, last).take_until(stop.cancelled_owned());
    let events = stream::iter(past)
        .map(|event| Ok(encode(&event)))
        .chain(future);
    axum::response::Sse::new(events)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}

fn follow(
    receiver: tokio::sync::broadcast::Receiver<Arc<Event>>,
    filter: Filter,
    last: Option<jiff::Timestamp>,
) -> impl Stream<Item = Result<Sse, Infallible>> {
    stream::unfold(
        (receiver, filter),
        move |(mut receiver, filter)| async move {
            loop {
                match receiver.recv().await {
                    Ok(event)
                        if filter.matches(&event) && last.is_none_or(|last| event.time > last) =>
                    {
                        return Some((Ok(encode(&event)), (receiver, filter)));
                    }
                    Ok(_) => {}
                    // The follower is told what it missed rather than left to think that it saw all.
                    Err(RecvError::Lagged(missed)) => {
                        let gap = Sse::default().event("missed").data(missed.to_string());
                        return Some((Ok(gap), (receiver, filter)));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        },
    )
}

fn encode(event: &Event) -> Sse {
    // An event always encodes; were it not so, the follower would see an empty one.
    Sse::default().data(serde_json::to_string(&event.without_checks()).unwrap_or_default())
}
