//! `GET /audit` and `/audit/verify`: who changed what, and whether the record of it is whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::handlers::store_failed;
use crate::store::AuditEntry;

type Api = State<Arc<ApiState>>;

#[derive(Deserialize)]
pub(super) struct Newest {
    limit: Option<usize>,
}

pub(super) async fn entries(State(state): Api, Query(query): Query<Newest>) -> Response {
    match state
        .control
        .store
        .audit_entries(query.limit.unwrap_or(100))
    {
        Ok(entries) => {
            let entries: Vec<Value> = entries.iter().rev().map(view).collect();
            Json(entries).into_response()
        }
        Err(error) => store_failed(&error),
    }
}

fn view(entry: &AuditEntry) -> Value {
    json!({
        "sequence": entry.sequence,
        "at": entry.time,
        "by": entry.actor,
        "action": entry.action,
        "subject": subject(&entry.action, &entry.detail),
        "detail": entry.detail,
        "previous": entry.previous,
        "hash": entry.hash,
    })
}

/// What an entry is about: the first words of its detail.
fn subject(action: &str, detail: &str) -> String {
    let words = match action {
        "revocation.added" | "join_token.issued" => 2,
        _ => 1,
    };
    let words: Vec<&str> = detail.split_whitespace().take(words).collect();
    match action {
        "revision.applied" => format!("revision {}", words.join(" ")),
        _ => words.join(" "),
    }
}

#[derive(Deserialize)]
pub(super) struct Noted {
    contains: Option<String>,
}

pub(super) async fn verify(State(state): Api, Query(query): Query<Noted>) -> Response {
    let store = state.control.store.clone();
    let checked =
        tokio::task::spawn_blocking(move || store.check_audit(query.contains.as_deref())).await;
    match checked {
        Ok(Ok(check)) => Json(check).into_response(),
        Ok(Err(error)) => store_failed(&error),
        Err(error) => {
            tracing::error!(%error, "following the audit log panicked");
            super::problem(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the audit log could not be followed",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_what_they_are_about() {
        assert_eq!(subject("revision.applied", "3 abc saved"), "revision 3");
        assert_eq!(
            subject("revocation.added", "user shop:bob left"),
            "user shop:bob"
        );
        assert_eq!(
            subject("identity.issued", "spiffe://x/y 0a"),
            "spiffe://x/y"
        );
        assert_eq!(subject("other", ""), "");
    }
}
