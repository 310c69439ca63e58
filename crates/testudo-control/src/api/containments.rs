//! Who is narrowed: list, contain, release. The rules are `containment`'s.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;

use super::{ApiState, handlers, problem};
use crate::containment::{Action, By, ContainError, ContainRequest, Kind, ReleaseError};

type Api = State<Arc<ApiState>>;

pub(super) async fn list(State(state): Api) -> Response {
    Json(state.control.containments.active()).into_response()
}

#[derive(Deserialize)]
pub(super) struct NewContainment {
    kind: Kind,
    principal: String,
    service: String,
    operation: Option<String>,
    action: Action,
    rate: Option<f64>,
    #[serde(rename = "for")]
    length: Option<String>,
    reason: String,
    incident: Option<String>,
    #[serde(default)]
    force: bool,
}

pub(super) async fn add(State(state): Api, Json(new): Json<NewContainment>) -> Response {
    let length = match new.length.as_deref().map(duration).transpose() {
        Ok(length) => length,
        Err(refusal) => return *refusal,
    };
    let request = ContainRequest {
        kind: new.kind,
        principal: new.principal,
        service: new.service,
        operation: new.operation,
        action: new.action,
        rate: new.rate,
        length,
        reason: new.reason,
        incident: new.incident,
        by: By::Admin,
        force: new.force,
        anomaly_since: None,
    };
    match state.control.contain(&request) {
        Ok(containment) => (StatusCode::CREATED, Json(containment)).into_response(),
        Err(ContainError::Store(error)) => handlers::store_failed(&error),
        Err(error) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            code(&error),
            &error.to_string(),
        ),
    }
}

#[derive(Deserialize)]
pub(super) struct Why {
    #[serde(default)]
    reason: String,
}

pub(super) async fn release(
    State(state): Api,
    Path(id): Path<String>,
    Query(why): Query<Why>,
) -> Response {
    match state.control.release(&id, By::Admin, &why.reason) {
        Ok(containment) => Json(containment).into_response(),
        Err(ReleaseError::Store(error)) => handlers::store_failed(&error),
        Err(error @ ReleaseError::Unknown(_)) => problem(
            StatusCode::NOT_FOUND,
            "containment.unknown",
            &error.to_string(),
        ),
    }
}

/// A length of time as bundles write it.
pub(super) fn duration(text: &str) -> Result<Duration, Box<Response>> {
    testudo_policy::config::values::duration(text).map_err(|_| {
        let detail = format!("{text} is no length of time; for example 30s, 10m or 2h");
        Box::new(problem(
            StatusCode::BAD_REQUEST,
            "duration.invalid",
            &detail,
        ))
    })
}

const fn code(error: &ContainError) -> &'static str {
    match error {
        ContainError::NothingRuns => "containment.no_revision",
        ContainError::Never(_) => "containment.never",
        ContainError::Unknown(_) => "containment.unknown",
        ContainError::Protected(_) => "containment.protected",
        ContainError::NotVerified { .. } => "containment.not_verified",
        ContainError::AlertOnly => "containment.alert_only",
        ContainError::Share { .. } | ContainError::AdminShare { .. } => "containment.max_share",
        ContainError::LastPath { .. } => "containment.last_path",
        ContainError::Released { .. } => "containment.released",
        ContainError::TooMany(_) => "containment.too_many",
        ContainError::Invalid(_) => "containment.invalid",
        ContainError::Store(_) => "store.failed",
    }
}
