//! `testudo identity api-key`: a new API key for a program, and the entry of the bundle that knows it.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use testudo_guard::authn::ApiKeys;

use super::write_secret;
use crate::failure::{Failure, OrFail as _};
use crate::terminal;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The key's public name: letters, digits and hyphens
    id: String,
    /// Whom it stands for, as key:USER; left out: the id
    #[arg(long)]
    user: Option<String>,
    /// A role that it has; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// When it ends, for example 2027-01-31
    #[arg(long, value_name = "DATE")]
    expires: Option<String>,
    /// Write the key to this file (0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let key = ApiKeys::generate(&args.id).or_fail(|| "no API key was made")?;
    let mut entry = json!({
        "id": args.id,
        "hash": key.hash,
        "user": args.user.as_ref().unwrap_or(&args.id),
        "roles": args.roles,
    });
    if let (Some(expires), Some(entry)) = (&args.expires, entry.as_object_mut()) {
        entry.insert("expires".to_owned(), json!(expires));
    }
    match &args.out {
        None => terminal::line(&format!("x-api-key: {}", *key.text))?,
        Some(path) => {
            write_secret(path, key.text.as_bytes())?;
            eprintln!("written to {}", path.display());
        }
    }
    eprintln!(
        "it is shown once; the bundle's file of `users.api_keys` keeps its hash, below `keys:`"
    );
    // JSON is YAML, quoted as it must be.
    terminal::line(&format!("  - {entry}"))?;
    Ok(ExitCode::SUCCESS)
}
