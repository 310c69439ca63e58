//! `testudo identity revoke`: takes back what was given out, at once and for good.

use std::process::ExitCode;

use serde_json::json;
use testudo_guard::authn::{Revocation, RevocationKind};

use crate::api::{Api, ApiError};
use crate::commands::block_on;
use crate::failure::Failure;
use crate::site::Remote;
use crate::terminal;

#[derive(clap::Args)]
pub(super) struct Args {
    /// workload, user, key or token
    kind: RevocationKind,
    /// A SPIFFE id or serial number; ISSUER:ID; an API key's id or a kid; a token's jti or its text
    value: String,
    /// Why, for the audit log
    #[arg(long, default_value = "")]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let value = listed(args.kind, &args.value);
    let request = json!({"kind": args.kind.as_str(), "value": value, "reason": args.reason});
    let answer = block_on(async {
        api.post("revocations", &request)
            .await
            .map_err(ApiError::into_failure)
    })?;
    let member = |name: &str| answer.get(name).and_then(serde_json::Value::as_str);
    let listed = member("value").unwrap_or(&value);
    terminal::line(&format!("{} {listed} is revoked", args.kind.as_str()))?;
    if let Some(note) = member("note") {
        eprintln!("note: {}", terminal::escape(note));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the list says. The text of a token never goes on it.
fn listed(kind: RevocationKind, value: &str) -> String {
    if kind == RevocationKind::Token && value.split('.').count() == 3 && value.starts_with("ey") {
        return Revocation::of_token(value).value.to_string();
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_text_is_not_listed() {
        let listed = |value| listed(RevocationKind::Token, value);
        assert_eq!(listed("eyJh.e30.AAAA"), listed("eyJh.e30.BBBB"));
        assert!(!listed("eyJh.e30.AAAA").contains("e30"));
        assert_eq!(listed("a.b.c"), "a.b.c");
        assert_eq!(
            super::listed(RevocationKind::User, "shop:eyJ.a.b"),
            "shop:eyJ.a.b"
        );
    }
}
