//! `GET /api/v1/why/{request_id}` and `/why/last`: every hop of a request, from the proxies' rings.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::{ApiState, problem_with};
use crate::why::Target;
use crate::why::collect;

type Api = State<Arc<ApiState>>;

#[derive(Deserialize)]
pub(super) struct Any {
    #[serde(default)]
    any: bool,
}

pub(super) async fn last(State(state): Api, Query(query): Query<Any>) -> Response {
    let target = if query.any {
        Target::Last
    } else {
        Target::LastDenial
    };
    answer(&state, target).await
}

pub(super) async fn request(State(state): Api, Path(id): Path<String>) -> Response {
    answer(&state, Target::Request(&id)).await
}

async fn answer(state: &ApiState, target: Target<'_>) -> Response {
    match collect::why(&state.control, target).await {
        Ok(why) => Json(why).into_response(),
        Err(nothing) => not_kept(target, &nothing.silent),
    }
}

fn not_kept(target: Target<'_>, silent: &BTreeMap<String, String>) -> Response {
    let what = match target {
        Target::Request(_) => {
            "no proxy keeps a request with this id: check the id (x-request-id of the response), or it is older than what the rings have room for"
        }
        Target::LastDenial => {
            "nothing was denied yet, as far as the proxies remember; ?any=true gives the newest request"
        }
        Target::Last => "there was no request yet, as far as the proxies remember",
    };
    let detail = match silent.len() {
        0 => what.to_owned(),
        _ => {
            let silent = silent.iter().map(|(proxy, why)| format!("{proxy}: {why}"));
            let silent = silent.collect::<Vec<_>>().join("; ");
            format!("{what}; not asked or not heard: {silent}")
        }
    };
    let missing: Vec<_> = silent
        .iter()
        .map(|(proxy, why)| json!({"proxy": proxy, "why": why}))
        .collect();
    problem_with(
        StatusCode::NOT_FOUND,
        "request.not_kept",
        &detail,
        json!({"missing": missing}),
    )
}
