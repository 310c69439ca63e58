//! `testudo proxy list|show|diff`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::Value;

use crate::api::{Api, query_value};
use crate::commands::{block_on, exit_code};
use crate::failure::Failure;
use crate::site::Remote;
use crate::terminal::{self, Format, Style, Table};

#[derive(clap::Args)]
pub(crate) struct ListArgs {
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// The proxy's name, for example orders-1
    name: String,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Args)]
pub(crate) struct DiffArgs {
    /// The proxy's name, for example orders-1
    name: String,
    /// Another proxy; left out: the newest revision
    other: Option<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let proxies = block_on(api.get("proxies"))?;
    if let Some(printed) = terminal::print_data(args.output, &proxies) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new([
        "NAME",
        "ROLE",
        "REVISION",
        "READY",
        "ADVERTISE",
        "OUTBOUND",
        "ADMIN",
        "SVID ENDS",
    ]);
    for proxy in proxies.as_array().into_iter().flatten() {
        table.row([
            text(proxy, "name"),
            text(proxy, "role"),
            text(proxy, "revision"),
            if proxy.get("ready") == Some(&Value::Bool(true)) {
                "yes".to_owned()
            } else {
                not_ready(proxy)
            },
            text(proxy, "advertise"),
            text(proxy, "outbound"),
            text(proxy, "admin"),
            text(proxy, "svid_not_after"),
        ]);
    }
    terminal::print(&table.render(Style::for_stdout()))?;
    Ok(ExitCode::SUCCESS)
}

fn not_ready(proxy: &Value) -> String {
    match proxy.get("error").and_then(Value::as_str) {
        Some(error) => format!("no: {error}"),
        None => "no".to_owned(),
    }
}

/// A member as text; `–` where there is nothing.
fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

pub(crate) fn show(args: &ShowArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let proxy = block_on(one(&api, &args.name))?;
    match terminal::print_data(args.output, &proxy) {
        Some(printed) => printed?,
        None => terminal::print(&terminal::yaml(&proxy))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn one(api: &Api, name: &str) -> Result<Value, Failure> {
    let found = api
        .get(&format!("proxies?name={}", query_value(name)))
        .await?;
    if let Some(proxy) = found.as_array().and_then(|list| list.first()) {
        return Ok(proxy.clone());
    }
    let all = api.get("proxies").await?;
    let names: Vec<String> = all
        .as_array()
        .into_iter()
        .flatten()
        .map(|proxy| text(proxy, "name"))
        .collect();
    let closest = names
        .iter()
        .min_by_key(|candidate| strsim::levenshtein(candidate, name));
    let failure = Failure::new(format!("no proxy called {name} is connected"));
    Err(match closest {
        Some(closest) if strsim::levenshtein(closest, name) <= 3 => {
            failure.hint(format!("did you mean {closest}?"))
        }
        _ if names.is_empty() => failure.hint("none is connected"),
        _ => failure.hint(format!("connected: {}", names.join(", "))),
    })
}

pub(crate) fn diff(args: &DiffArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let (left, right, right_name) = block_on(async {
        let left = one(&api, &args.name).await?;
        match &args.other {
            Some(other) => {
                let right = one(&api, other).await?;
                Ok((configuration(&left), configuration(&right), other.clone()))
            }
            None => {
                let status = api.get("status").await?;
                Ok((
                    revision_of(&left),
                    revision_of(&status),
                    "newest revision".to_owned(),
                ))
            }
        }
    })?;
    let differences = differences(&left, &right);
    let data: Vec<Value> = differences
        .iter()
        .map(|(path, left, right)| {
            serde_json::json!({"path": path, args.name.as_str(): left, right_name.as_str(): right})
        })
        .collect();
    if let Some(printed) = terminal::print_data(args.output, &Value::Array(data)) {
        printed?;
    } else if differences.is_empty() {
        terminal::line(&format!("{} and {right_name} are the same", args.name))?;
    } else {
        let mut table = Table::new(["WHAT", &args.name, &right_name]);
        for (path, left, right) in &differences {
            table.row([path.clone(), shown(left), shown(right)]);
        }
        terminal::print(&table.render(Style::for_stdout()))?;
    }
    Ok(exit_code(differences.is_empty()))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What two proxies of one service should have in common: what they enforce, not where they listen.
fn configuration(proxy: &Value) -> Value {
    let mut value = revision_of(proxy);
    if let Some(map) = value.as_object_mut() {
        for name in ["role", "service", "version", "effective"] {
            map.insert(
                name.to_owned(),
                proxy.get(name).cloned().unwrap_or_default(),
            );
        }
    }
    value
}

fn revision_of(value: &Value) -> Value {
    let member = |name: &str| value.get(name).cloned().unwrap_or_default();
    serde_json::json!({"revision": member("revision"), "digest": member("digest")})
}

type Difference = (String, Value, Value);

fn differences(left: &Value, right: &Value) -> Vec<Difference> {
    let (mut left_leaves, mut right_leaves) = (BTreeMap::new(), BTreeMap::new());
    leaves(left, String::new(), &mut left_leaves);
    leaves(right, String::new(), &mut right_leaves);
    let mut paths: Vec<&String> = left_leaves.keys().chain(right_leaves.keys()).collect();
    paths.sort();
    paths.dedup();
    let value = |leaves: &BTreeMap<String, Value>, path: &String| {
        leaves.get(path).cloned().unwrap_or_default()
    };
    paths
        .into_iter()
        .map(|path| {
            (
                path.clone(),
                value(&left_leaves, path),
                value(&right_leaves, path),
            )
        })
        .filter(|(_, left, right)| left != right)
        .collect()
}

fn leaves(value: &Value, path: String, found: &mut BTreeMap<String, Value>) {
    let join = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(name, value)| leaves(value, join(name), found)),
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                leaves(value, join(&index.to_string()), found);
            }
        }
        leaf => {
            found.insert(path, leaf.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_listed() {
        let left = json!({"revision": 2, "effective": {"a": [1, 2], "b": "x"}});
        let right = json!({"revision": 1, "effective": {"a": [1], "b": "x"}});
        assert_eq!(
            differences(&left, &right),
            [
                ("effective.a.1".to_owned(), json!(2), Value::Null),
                ("revision".to_owned(), json!(2), json!(1)),
            ]
        );
    }
}
