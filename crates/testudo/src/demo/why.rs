//! A short explanation of the last attack, from what the control plane recorded.

use serde_json::Value;

use crate::api::{Api, query_value};
use crate::demo::attack::{Outcome, presented};
use crate::demo::attacks::{Attack, How};
use crate::terminal::{Style, escape};

const MAX_LINES: usize = 12;

/// Lines for the screen.
pub(crate) async fn explain(
    api: &Api,
    attack: &Attack,
    outcome: &Outcome,
    style: Style,
) -> Vec<String> {
    let request = attack.how.request();
    let mut lines = vec![
        String::new(),
        style.bold(&format!(
            "why  {}: {} {} with {}",
            attack.who,
            request.method,
            request.target,
            presented(request.credential)
        )),
    ];
    match decision(api, outcome.request_id.as_deref()).await {
        Some(decision) => lines.extend(explained(&decision, style)),
        None => lines.push(format!("  {}", without_decision(attack, outcome))),
    }
    lines.truncate(MAX_LINES);
    lines
}

async fn decision(api: &Api, request_id: Option<&str>) -> Option<Value> {
    let path = format!("decisions?request_id={}", query_value(request_id?));
    let decisions = api.get(&path).await.ok()?;
    let list = decisions.as_array()?;
    let denied =
        |decision: &&Value| decision.get("verdict").and_then(Value::as_str) == Some("deny");
    list.iter().find(denied).or(list.first()).cloned()
}

fn explained(decision: &Value, style: Style) -> Vec<String> {
    let text = |value: &Value, name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .map(escape)
            .unwrap_or_default()
    };
    let mut lines = Vec::new();
    for check in decision
        .get("checks")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let mark = match text(check, "result").as_str() {
            "pass" => style.green("✓"),
            "fail" => style.red("✗"),
            _ => continue,
        };
        let place = check.get("policy").map_or_else(String::new, place);
        lines.push(format!(
            "  {:<10} {mark} {}{place}",
            text(check, "name"),
            text(check, "detail")
        ));
    }
    for finding in decision
        .get("findings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        lines.push(format!(
            "  {:<10} ! {}: {}",
            text(finding, "check"),
            text(finding, "code"),
            text(finding, "detail")
        ));
    }
    let place = decision.get("policy").map_or_else(String::new, place);
    lines.push(format!(
        "  decided by {} at {}{place}",
        text(decision, "reason"),
        text(decision, "proxy")
    ));
    lines
}

fn place(policy: &Value) -> String {
    match (
        policy.get("file").and_then(Value::as_str),
        policy.get("line"),
    ) {
        (Some(file), Some(line)) => format!("   {}:{line}", escape(file)),
        _ => String::new(),
    }
}

fn without_decision(attack: &Attack, outcome: &Outcome) -> String {
    match &attack.how {
        How::Sidecar(..) => format!("the handshake failed before a request could be sent ({})", outcome.detail),
        How::Application(_) => "the application listens on a Unix socket in a folder of mode 0700: nobody else can connect".to_owned(),
        _ if outcome.status.is_some_and(|status| status < 400) => "nothing stopped it: the shield is down".to_owned(),
        _ => "the control plane has not recorded this one".to_owned(),
    }
}
