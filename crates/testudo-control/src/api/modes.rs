//! Modes that hold for a while: list, set, reset.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use testudo_model::Mode;

use super::containments::duration;
use super::{ApiState, handlers, problem};
use crate::modes::ModeError;

type Api = State<Arc<ApiState>>;

pub(super) async fn list(State(state): Api) -> Response {
    Json(state.control.mode_views()).into_response()
}

#[derive(Deserialize)]
pub(super) struct NewMode {
    service: String,
    mode: Mode,
    #[serde(rename = "for")]
    length: String,
    #[serde(default)]
    reason: String,
}

pub(super) async fn set(State(state): Api, Json(new): Json<NewMode>) -> Response {
    let length = match duration(&new.length) {
        Ok(length) => length,
        Err(refusal) => return *refusal,
    };
    let control = &state.control;
    match control.set_mode(&new.service, new.mode, length, &new.reason) {
        Ok(view) => (StatusCode::CREATED, Json(view)).into_response(),
        Err(error) => refused(&error),
    }
}

pub(super) async fn reset(State(state): Api, Path(service): Path<String>) -> Response {
    match state.control.reset_mode(&service) {
        Ok(()) => {
            let mode = state.control.configured_mode(&service);
            Json(json!({"service": service, "mode": mode})).into_response()
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &ModeError) -> Response {
    match error {
        ModeError::Store(error) => handlers::store_failed(error),
        ModeError::Unknown(_) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "mode.service",
            &error.to_string(),
        ),
        ModeError::Invalid(_) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "mode.invalid",
            &error.to_string(),
        ),
        ModeError::NotSet(_) => problem(StatusCode::NOT_FOUND, "mode.not_set", &error.to_string()),
    }
}
