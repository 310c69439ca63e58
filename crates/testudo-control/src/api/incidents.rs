//! `GET /incidents`, one of them, what people do with one, and `GET /incidents/stream`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::sse::{Event as Sse, KeepAlive};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::{Stream, StreamExt, stream};
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::handlers::store_failed;
use super::{ApiState, problem};
use crate::incidents::{self, Incident, Step, StepError};

type Api = State<Arc<ApiState>>;

/// The longest mute: what should last belongs into the bundle.
const LONGEST_MUTE: Duration = Duration::from_hours(24 * 30);

/// Which incidents; the open ones unless said otherwise.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    #[default]
    Open,
    Acknowledged,
    Muted,
    Closed,
    All,
}

#[derive(Deserialize)]
pub(super) struct States {
    #[serde(default)]
    state: Wanted,
}

pub(super) async fn list(State(state): Api, Query(query): Query<States>) -> Response {
    let wanted = match query.state {
        Wanted::Open => Some(incidents::State::Open),
        Wanted::Acknowledged => Some(incidents::State::Acknowledged),
        Wanted::Muted => Some(incidents::State::Muted),
        Wanted::Closed => Some(incidents::State::Closed),
        Wanted::All => None,
    };
    Json(state.control.incidents.list(wanted)).into_response()
}

pub(super) async fn one(State(state): Api, Path(id): Path<String>) -> Response {
    match state.control.incidents.find(&id) {
        Some(incident) => Json(incident).into_response(),
        None => unknown(&id),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Why {
    note: Option<String>,
    /// A duration.
    r#for: Option<String>,
}

pub(super) async fn acknowledge(
    State(state): Api,
    Path(id): Path<String>,
    Json(why): Json<Why>,
) -> Response {
    step(&state, &id, &Step::Acknowledge, &why)
}

pub(super) async fn mute(
    State(state): Api,
    Path(id): Path<String>,
    Json(why): Json<Why>,
) -> Response {
    let length =
        match testudo_policy::config::values::duration(why.r#for.as_deref().unwrap_or("1h")) {
            Ok(length) if !length.is_zero() && length <= LONGEST_MUTE => length,
            Ok(_) => {
                let detail = "an incident is muted for 30d at most";
                return problem(StatusCode::BAD_REQUEST, "incident.for", detail);
            }
            Err((message, hint)) => {
                let detail = format!("for: {message}; {}", hint.unwrap_or_default());
                return problem(StatusCode::BAD_REQUEST, "incident.for", &detail);
            }
        };
    let until = Timestamp::now()
        .checked_add(length)
        .unwrap_or(Timestamp::MAX);
    step(&state, &id, &Step::Mute(until), &why)
}

pub(super) async fn close(
    State(state): Api,
    Path(id): Path<String>,
    Json(why): Json<Why>,
) -> Response {
    step(&state, &id, &Step::Close, &why)
}

fn step(state: &ApiState, id: &str, step: &Step, why: &Why) -> Response {
    let taken = state
        .control
        .incidents
        .step(id, step, why.note.as_deref(), "admin");
    match taken {
        Ok(incident) => Json(incident).into_response(),
        Err(StepError::Unknown(id)) => unknown(&id),
        Err(error @ StepError::Closed(_)) => {
            problem(StatusCode::CONFLICT, "incident.closed", &error.to_string())
        }
        Err(StepError::Store(error)) => store_failed(&error),
    }
}

fn unknown(id: &str) -> Response {
    let detail = format!("there is no incident {id}");
    problem(StatusCode::NOT_FOUND, "incident.unknown", &detail)
}

pub(super) async fn follow(
    State(state): Api,
    Extension(stop): Extension<CancellationToken>,
) -> Response {
    let changes = changes(state.control.incidents.follow()).take_until(stop.cancelled_owned());
    axum::response::Sse::new(changes)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}

fn changes(
    receiver: broadcast::Receiver<Arc<Incident>>,
) -> impl Stream<Item = Result<Sse, Infallible>> {
    stream::unfold(receiver, |mut receiver| async move {
        let event = match receiver.recv().await {
            Ok(incident) => {
                Sse::default().data(serde_json::to_string(&*incident).unwrap_or_default())
            }
            // Told rather than left to think that nothing else changed.
            Err(RecvError::Lagged(missed)) => {
                Sse::default().event("missed").data(missed.to_string())
            }
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), receiver))
    })
}
