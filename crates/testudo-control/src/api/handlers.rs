//! What each request of the API does. Requests have passed the validator and carry the token.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use testudo_policy::config::{Service, Sidecar};
use testudo_policy::diagnostic::Diagnostic;

use super::{ApiState, OPENAPI, problem, problem_with};
use crate::RevokeError;
use crate::decisions::Filter;
use crate::fleet::ProxyView;
use crate::revisions::ApplyError;
use crate::store::{StoreError, StoredRevocation, with_cause};

type Api = State<Arc<ApiState>>;

pub(super) const NOTHING_HERE: &str =
    "there is nothing here; GET /api/v1/openapi.json lists what there is";

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

pub(super) async fn nothing_here() -> Response {
    problem(StatusCode::NOT_FOUND, "path.unknown", NOTHING_HERE)
}

pub(super) async fn ready(State(state): Api) -> Response {
    match state.control.revisions.current() {
        Some(_) => "ready\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no revision yet\n").into_response(),
    }
}

pub(super) async fn status(State(state): Api) -> Response {
    let control = &state.control;
    let current = control.revisions.current();
    let proxies = control.fleet.proxies();
    let digest = current.as_ref().map(|current| current.digest.clone());
    let (received, dropped) = control.decisions.counts();
    let (open_incidents, missed_windows) = control.incidents.counts();
    // A proxy that has the revision but not yet the addresses could not reach a service that just came.
    let is_in_sync =
        |proxy: &&ProxyView| Some(&proxy.digest) == digest.as_ref() && proxy.knows_addresses;
    Json(json!({
        "trust_domain": control.trust_domain(),
        "revision": current.as_ref().map_or(0, |current| current.number),
        "digest": digest,
        "bundle": control.bundle_dir,
        "bundle_error": control.bundle_error(),
        "proxies": {
            "connected": proxies.len(),
            "ready": proxies.iter().filter(|proxy| proxy.ready).count(),
            "in_sync": proxies.iter().filter(is_in_sync).count(),
        },
        "services": current.as_ref().map_or(0, |current| current.config.services.len()),
        "containments": control.containments.active().len(),
        "modes": control.mode_views().len(),
        "decisions": {"received": received, "dropped": dropped},
        "authority": control.authority_view(),
        "started": control.started,
        "incidents": {"open": open_incidents, "missed_windows": missed_windows},
        "webhooks": control.incidents.webhooks(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
    .into_response()
}

#[derive(Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

pub(super) async fn revisions(State(state): Api, Query(query): Query<Limit>) -> Response {
    let current = state
        .control
        .revisions
        .current()
        .map(|current| current.digest.clone());
    match state.control.store.revisions(query.limit.unwrap_or(100)) {
        Ok(list) => {
            let list: Vec<_> = list
                .into_iter()
                .map(|(digest, manifest)| {
                    json!({
                        "number": manifest.number,
                        "current": Some(&digest) == current.as_ref(),
                        "digest": digest,
                        "parent": manifest.parent,
                        "created": manifest.created,
                        "note": manifest.note,
                        "parts": manifest.parts,
                    })
                })
                .collect();
            Json(list).into_response()
        }
        Err(error) => store_failed(&error),
    }
}

#[derive(Deserialize)]
pub(super) struct NewRevision {
    parent: Option<String>,
    #[serde(default)]
    note: String,
    files: BTreeMap<String, String>,
}

pub(super) async fn apply(State(state): Api, Json(new): Json<NewRevision>) -> Response {
    let mut files = BTreeMap::new();
    for (path, content) in new.files {
        match BASE64_STANDARD.decode(content) {
            Ok(content) => files.insert(path, content),
            Err(_) => {
                let detail = format!("files.{path} is not base64 (RFC 4648 §4)");
                return problem(StatusCode::BAD_REQUEST, "files.base64", &detail);
            }
        };
    }
    let control = Arc::clone(&state.control);
    let applied = tokio::task::spawn_blocking(move || {
        control.apply_files(files, new.parent.as_deref(), &new.note)
    })
    .await;
    match applied {
        Ok(Ok(applied)) => {
            let status = if applied.changed {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            let body = json!({
                "number": applied.number,
                "digest": applied.digest,
                "changed": applied.changed,
                "diagnostics": diagnostics(&applied.warnings),
            });
            (status, Json(body)).into_response()
        }
        Ok(Err(ApplyError::Refused(list))) => problem_with(
            StatusCode::UNPROCESSABLE_ENTITY,
            "bundle.refused",
            "the bundle has errors; nothing was changed",
            json!({"diagnostics": diagnostics(&list)}),
        ),
        Ok(Err(error @ ApplyError::TrustDomain { .. })) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "bundle.trust_domain",
            &error.to_string(),
        ),
        Ok(Err(ApplyError::Store(error @ StoreError::Conflict { .. }))) => problem(
            StatusCode::CONFLICT,
            "revision.conflict",
            &format!("{error}; fetch it, merge, and apply again"),
        ),
        Ok(Err(ApplyError::Store(error))) => store_failed(&error),
        Ok(Err(error @ ApplyError::Manifest(_))) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            &error.to_string(),
        ),
        Err(error) => {
            tracing::error!(%error, "applying a bundle panicked");
            problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "applying the bundle failed; nothing was changed",
            )
        }
    }
}

fn diagnostics(list: &[Diagnostic]) -> Vec<serde_json::Value> {
    list.iter()
        .map(|diagnostic| {
            json!({
                "severity": diagnostic.severity,
                "code": diagnostic.code,
                "message": diagnostic.message,
                "file": &*diagnostic.span.file,
                "line": diagnostic.span.line,
                "column": diagnostic.span.column,
                "hint": diagnostic.hint,
            })
        })
        .collect()
}

#[derive(Deserialize)]
pub(super) struct Named {
    name: Option<String>,
}

pub(super) async fn proxies(State(state): Api, Query(query): Query<Named>) -> Response {
    let list = state.control.fleet.proxies().into_iter();
    let list: Vec<ProxyView> = match query.name {
        Some(name) => list.filter(|proxy| proxy.name == name).collect(),
        // Effective configurations are long; they come only for a proxy that is asked for.
        None => list
            .map(|proxy| ProxyView {
                effective: None,
                ..proxy
            })
            .collect(),
    };
    Json(list).into_response()
}

pub(super) async fn services(State(state): Api) -> Response {
    let Some(current) = state.control.revisions.current() else {
        return Json(json!([])).into_response();
    };
    let proxies = state.control.fleet.proxies();
    let list: Vec<_> = current
        .config
        .services
        .values()
        .map(|service| {
            let own: Vec<_> = proxies
                .iter()
                .filter(|proxy| proxy.service.as_deref() == Some(&*service.name))
                .collect();
            json!({
                "name": &*service.name,
                "mode": state.control.mode_of(&service.name),
                "configured_mode": state.control.configured_mode(&service.name),
                "mode_until": mode_until(&state.control, service),
                "user": format!("{:?}", service.user).to_lowercase(),
                "api": service.api.openapi.as_ref().map(|(path, _)| path),
                "operations": current.operations.get(&service.name),
                "roles": service.roles.iter().map(|(role, _)| &**role).collect::<Vec<_>>(),
                "sidecar": !matches!(service.sidecar, Sidecar::None(_)),
                "workloads": service.app.len(),
                "ready": own.iter().filter(|proxy| proxy.ready).count(),
                "proxies": own.iter().map(|proxy| &proxy.name).collect::<Vec<_>>(),
            })
        })
        .collect();
    Json(list).into_response()
}

/// When a service's mode ends: one set for a while, or one with an end in the bundle.
fn mode_until(control: &crate::Control, service: &Service) -> Option<jiff::Timestamp> {
    let set = control.modes.of(&service.name).map(|(_, until)| until);
    let until = set.or(service.mode_until)?;
    timestamp(until).filter(|until| *until > jiff::Timestamp::now())
}

pub(super) async fn identities(State(state): Api) -> Response {
    let connected = state.control.fleet.proxies();
    let revoked = state.control.store.revocations();
    match (state.control.store.proxies(), revoked) {
        (Ok(list), Ok((_, revoked))) => {
            let list: Vec<_> = list
                .into_iter()
                .map(|proxy| {
                    let revoked = revoked.iter().any(|entry| {
                        entry.kind == "workload"
                            && (entry.value == proxy.spiffe_id || entry.value == proxy.serial)
                    });
                    json!({
                        "connected": connected.iter().any(|other| other.name == proxy.name),
                        "name": proxy.name,
                        "role": proxy.role,
                        "service": proxy.service,
                        "spiffe_id": proxy.spiffe_id,
                        "serial": proxy.serial,
                        "not_after": timestamp(proxy.not_after),
                        "joined": timestamp(proxy.joined),
                        "revoked": revoked,
                    })
                })
                .collect();
            Json(list).into_response()
        }
        (Err(error), _) | (_, Err(error)) => store_failed(&error),
    }
}

#[derive(Deserialize)]
pub(super) struct NewJoinToken {
    role: String,
    service: Option<String>,
    ttl_seconds: Option<u64>,
}

pub(super) async fn join(State(state): Api, Json(new): Json<NewJoinToken>) -> Response {
    match state.control.issue_join_token(
        &new.role,
        new.service.as_deref(),
        new.ttl_seconds.unwrap_or(600),
    ) {
        Ok((token, expires)) => (
            StatusCode::CREATED,
            Json(json!({"token": token, "expires": timestamp(expires)})),
        )
            .into_response(),
        Err(crate::JoinTokenError::Store(error)) => store_failed(&error),
        Err(error) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "join.refused",
            &error.to_string(),
        ),
    }
}

pub(super) async fn revocations(State(state): Api) -> Response {
    match state.control.store.revocations() {
        Ok((serial, list)) => {
            let list: Vec<_> = list
                .into_iter()
                .map(|entry| {
                    json!({"kind": entry.kind, "value": entry.value, "at": timestamp(entry.at), "reason": entry.reason})
                })
                .collect();
            Json(json!({"serial": serial, "entries": list})).into_response()
        }
        Err(error) => store_failed(&error),
    }
}

#[derive(Deserialize)]
pub(super) struct NewRevocation {
    kind: String,
    value: String,
    #[serde(default)]
    reason: String,
}

pub(super) async fn revoke(State(state): Api, Json(new): Json<NewRevocation>) -> Response {
    let entry = StoredRevocation {
        kind: new.kind,
        value: new.value,
        at: crate::unix_now(),
        reason: new.reason,
    };
    match state.control.revoke(&entry) {
        Ok(revoked) => (
            StatusCode::CREATED,
            Json(json!({"serial": revoked.serial, "value": revoked.value, "note": revoked.note})),
        )
            .into_response(),
        Err(RevokeError::Store(error)) => store_failed(&error),
        Err(error) => problem(
            StatusCode::UNPROCESSABLE_ENTITY,
            "revocation.nobody",
            &error.to_string(),
        ),
    }
}

pub(super) async fn trust(State(state): Api) -> Response {
    Json(state.control.trust_view()).into_response()
}

/// Checks are long; they come only for a request that is asked for.
pub(super) async fn decisions(State(state): Api, Query(filter): Query<Filter>) -> Response {
    let limit = filter.limit.unwrap_or(100).clamp(1, 1000);
    let list = state.control.decisions.newest(&filter, limit);
    if filter.request_id.is_some() || filter.trace_id.is_some() {
        return Json(list).into_response();
    }
    let list: Vec<_> = list.iter().map(|event| event.without_checks()).collect();
    Json(list).into_response()
}

fn timestamp(seconds: u64) -> Option<jiff::Timestamp> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
}

pub(super) fn store_failed(error: &StoreError) -> Response {
    let detail = with_cause(error);
    tracing::error!(detail, "the store failed");
    problem(StatusCode::INSUFFICIENT_STORAGE, "store.failed", &detail)
}
