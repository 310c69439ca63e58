//! `GET /access`, `/reach`, `/coverage`, `/calls`: what policy lets whom do, what was used of it, and what protects
//! each service. What policy says is worked out by `testudo_policy::access`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use testudo_guard::authz::{GATEWAY, Outcome};
use testudo_model::{Mode, PolicyRef};
use testudo_policy::access::coverage::coverage;
use testudo_policy::access::reach::{Reached, reach};
use testudo_policy::access::{Access, Subject};
use testudo_policy::config::{Config, Service};
use testudo_policy::learn::observed::{Call, CallKey, Calls, Counts, Identity};

use super::{ApiState, problem};
use crate::Control;

type Api = State<Arc<ApiState>>;

#[derive(Deserialize)]
pub(super) struct OfService {
    service: Option<String>,
}

/// Runs what takes computing off the thread that serves everybody.
async fn compute(
    control: &Arc<Control>,
    work: impl FnOnce(&Control) -> Response + Send + 'static,
) -> Response {
    let control = Arc::clone(control);
    tokio::task::spawn_blocking(move || work(&control))
        .await
        .unwrap_or_else(|error| {
            tracing::error!(%error, "an answer could not be worked out");
            problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the answer could not be worked out",
            )
        })
}

pub(super) async fn access(State(state): Api, Query(query): Query<OfService>) -> Response {
    compute(&state.control, move |control| {
        let Some((_, access)) = control.access() else {
            return Json(json!({"principals": [], "operations": [], "cells": []})).into_response();
        };
        let used = control.observed.with(|calls| used(&access, calls));
        Json(matrix(&access, &used, query.service.as_deref())).into_response()
    })
    .await
}

/// What was used of one cell.
#[derive(Default)]
struct Used {
    counts: Counts,
    last: Option<Timestamp>,
}

/// By subject and operation. A user with several roles counts for each of them.
fn used(access: &Access, calls: &Calls) -> HashMap<(usize, usize), Used> {
    let subjects: HashMap<&Subject, usize> = access
        .subjects
        .iter()
        .enumerate()
        .map(|(index, subject)| (subject, index))
        .collect();
    let operations: HashMap<&str, usize> = access
        .operations
        .iter()
        .enumerate()
        .map(|(index, target)| (&*target.operation, index))
        .collect();
    let mut used: HashMap<(usize, usize), Used> = HashMap::new();
    let mut add = |subject: &Subject, key: &CallKey, call: &Call| {
        let cell = (
            subjects.get(subject),
            operations.get(key.operation.as_str()),
        );
        let (Some(subject), Some(operation)) = cell else {
            return;
        };
        let used = used.entry((*subject, *operation)).or_default();
        used.counts.add(call.counts);
        used.last = used.last.max(Some(call.last));
    };
    for (key, call) in calls.of_users() {
        match &key.identity {
            Identity::None => {}
            Identity::Anonymous => add(&Subject::Anonymous, key, call),
            Identity::Roles(roles) if roles.is_empty() => add(&Subject::AnyUser, key, call),
            Identity::Roles(roles) => {
                for role in roles {
                    add(&Subject::Role(role.as_str().into()), key, call);
                }
            }
        }
    }
    for (key, call) in calls.iter() {
        if let Some(caller) = key.caller.as_deref().filter(|caller| *caller != GATEWAY) {
            add(&Subject::Service(caller.into()), key, call);
        }
    }
    used
}

#[derive(Serialize)]
struct CellView<'a> {
    principal: usize,
    operation: usize,
    allowed: Value,
    policy: Option<&'a PolicyRef>,
    permitted: u64,
    denied: u64,
    reported: u64,
    last: Option<Timestamp>,
}

/// Cells that are allowed or were used; with `service` only the operations of that one.
fn matrix(access: &Access, used: &HashMap<(usize, usize), Used>, service: Option<&str>) -> Value {
    let mut renumbered = HashMap::new();
    let mut operations = Vec::new();
    for (index, target) in access.operations.iter().enumerate() {
        if service.is_some_and(|service| service != &*target.service) {
            continue;
        }
        renumbered.insert(index, operations.len());
        operations.push(json!({
            "service": target.service,
            "operation": target.operation,
            "method": target.method,
            "path": target.path,
        }));
    }
    let mut cells: BTreeMap<(usize, usize), CellView<'_>> = BTreeMap::new();
    for cell in &access.cells {
        let key = (cell.operation, cell.subject);
        let (Some(operation), Some((allowed, policy))) = (
            renumbered.get(&cell.operation),
            said(
                &cell.outcome,
                used.contains_key(&(cell.subject, cell.operation)),
            ),
        ) else {
            continue;
        };
        cells.insert(
            key,
            CellView::new(cell.subject, *operation, allowed, policy),
        );
    }
    for ((subject, index), used) in used {
        let Some(operation) = renumbered.get(index) else {
            continue;
        };
        let view = cells
            .entry((*index, *subject))
            .or_insert_with(|| CellView::new(*subject, *operation, false.into(), None));
        view.permitted = used.counts.permitted;
        view.denied = used.counts.denied;
        view.reported = used.counts.reported;
        view.last = used.last;
    }
    let principals = access
        .subjects
        .iter()
        .map(|subject| json!({"kind": subject.kind(), "name": subject.name()}));
    json!({
        "principals": principals.collect::<Vec<_>>(),
        "operations": operations,
        "cells": cells.into_values().collect::<Vec<_>>(),
    })
}

/// `allowed` and the line; `None` for what is neither allowed nor used.
fn said(outcome: &Outcome, used: bool) -> Option<(Value, Option<&PolicyRef>)> {
    match outcome {
        Outcome::Permit(policy) => Some((true.into(), Some(policy))),
        Outcome::Depends(policy) => Some(("depends".into(), Some(policy))),
        Outcome::Deny(policy) => used.then_some((false.into(), policy.as_ref())),
    }
}

impl<'a> CellView<'a> {
    fn new(
        principal: usize,
        operation: usize,
        allowed: Value,
        policy: Option<&'a PolicyRef>,
    ) -> Self {
        CellView {
            principal,
            operation,
            allowed,
            policy,
            permitted: 0,
            denied: 0,
            reported: 0,
            last: None,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Stolen {
    service: String,
}

pub(super) async fn reached(State(state): Api, Query(query): Query<Stolen>) -> Response {
    compute(&state.control, move |control| {
        let Some((current, access)) = control.access() else {
            return Json(json!({"service": query.service, "reaches": []})).into_response();
        };
        let service: Arc<str> = query.service.into();
        let known = current.config.services.get(&service);
        if known.is_none() && *service != *GATEWAY {
            let detail = format!("the newest revision has no service {service}");
            return problem(StatusCode::NOT_FOUND, "service.unknown", &detail);
        }
        let found = reach(&access, &current.config, &service);
        let egress = known.into_iter().flat_map(|service| &service.egress);
        let egress: Vec<&str> = egress.map(|(host, _)| &**host).collect();
        Json(json!({
            "service": service,
            "reaches": by_service(&access, &found),
            "egress": egress,
        }))
        .into_response()
    })
    .await
}

fn by_service(access: &Access, found: &[Reached]) -> Vec<Value> {
    let mut services: BTreeMap<Arc<str>, Vec<Value>> = BTreeMap::new();
    for reached in found {
        let Some(target) = access.operations.get(reached.operation) else {
            continue;
        };
        services
            .entry(target.service.clone())
            .or_default()
            .push(json!({
                "operation": target.operation,
                "via": reached.via,
                "policy": reached.policy,
                "as": reached.as_whom.as_str(),
                "allowed": if reached.depends { json!("depends") } else { json!(true) },
            }));
    }
    services
        .into_iter()
        .map(|(service, operations)| json!({"service": service, "operations": operations}))
        .collect()
}

pub(super) async fn covered(State(state): Api) -> Response {
    let Some(current) = state.control.revisions.current() else {
        return Json(json!([])).into_response();
    };
    let services = current.config.services.values();
    let list: Vec<Value> = services
        .map(|service| {
            let mode = state.control.mode_of(&service.name);
            cover_of(&current.config, service, mode.unwrap_or(service.mode))
        })
        .collect();
    Json(list).into_response()
}

/// `mode`: what holds now, which may be set for a while.
fn cover_of(config: &Config, service: &Service, mode: Mode) -> Value {
    let cover = coverage(config, service, mode);
    json!({
        "service": service.name,
        "mtls": cover.mtls.as_str(),
        "authn": cover.authn.as_str(),
        "authz": cover.authz.as_str(),
        "callers": cover.callers.as_str(),
        "schema": cover.schema.as_str(),
        "responses": cover.responses.as_str(),
        "limit": cover.limit.as_str(),
        "limits": cover.limits,
        "waf": cover.waf.as_str(),
        "mode": mode,
    })
}

#[derive(Deserialize)]
pub(super) struct SeenCalls {
    service: Option<String>,
    /// Seconds.
    since: Option<u64>,
}

#[derive(Serialize)]
struct CallView {
    #[serde(flatten)]
    key: CallKey,
    #[serde(flatten)]
    call: Call,
}

pub(super) async fn calls(State(state): Api, Query(query): Query<SeenCalls>) -> Response {
    let since = query.since.and_then(|seconds| {
        let seconds = i64::try_from(seconds).ok()?;
        Timestamp::now()
            .checked_sub(jiff::SignedDuration::from_secs(seconds))
            .ok()
    });
    let calls = state.control.observed.list(query.service.as_deref(), since);
    let calls: Vec<CallView> = calls
        .into_iter()
        .map(|(key, call)| CallView { key, call })
        .collect();
    let not_kept = state.control.observed.with(Calls::not_kept);
    Json(json!({"calls": calls, "not_kept": not_kept})).into_response()
}
