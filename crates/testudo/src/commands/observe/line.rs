//! One decision as one line.

use serde_json::Value;

use crate::terminal::{Style, escape};

/// `14:03:07.412 ✗ 403 authz.user  gateway-1  shop:bob  GET /orders/alice/17  orders:getOrder  policies/x.cedar:4`
pub(crate) fn event_line(event: &Value, style: Style) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str).map(escape);
    let denied = event.get("verdict").and_then(Value::as_str) == Some("deny");
    let reason = text("reason").unwrap_or_default();
    let status = event.get("status").and_then(Value::as_u64);
    let status = status.map_or_else(|| "–".to_owned(), |status| status.to_string());
    let mark = match (denied, reason.is_empty()) {
        (true, _) => style.red("✗"),
        // Mode report: it passed, and would have been denied.
        (false, false) => style.yellow("!"),
        (false, true) => style.green("✓"),
    };
    let verdict = format!(
        "{status:>3} {:<19}",
        if reason.is_empty() { "permit" } else { &reason }
    );
    let verdict = if denied { style.red(&verdict) } else { verdict };
    let who = match (text("caller"), text("user")) {
        (Some(caller), Some(user)) => format!("{caller} for {user}"),
        (Some(caller), None) => caller,
        (None, Some(user)) => user,
        (None, None) => text("source_ip").unwrap_or_else(|| "somebody".to_owned()),
    };
    let mut line = format!(
        "{} {mark} {verdict} {:<12} {who:<24} {:<6} {}",
        style.dim(&clock(event)),
        text("proxy").unwrap_or_default(),
        text("method").unwrap_or_default(),
        text("path").unwrap_or_default(),
    );
    for note in [text("operation"), policy(event), duration(event)]
        .into_iter()
        .flatten()
    {
        line.push_str("  ");
        line.push_str(&style.dim(&note));
    }
    if let Some(finding) = finding(event) {
        line.push_str("\n             ");
        line.push_str(&style.dim(&finding));
    }
    line
}

/// Local time of day with milliseconds.
fn clock(event: &Value) -> String {
    let time = event.get("time").and_then(Value::as_str);
    match time.and_then(|time| time.parse::<jiff::Timestamp>().ok()) {
        Some(time) => time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%H:%M:%S%.3f")
            .to_string(),
        None => "--:--:--.---".to_owned(),
    }
}

fn policy(event: &Value) -> Option<String> {
    let policy = event.get("policy")?;
    let file = policy.get("file")?.as_str()?;
    Some(format!("{}:{}", escape(file), policy.get("line")?))
}

fn duration(event: &Value) -> Option<String> {
    let micros = event.get("duration_us")?.as_u64()?;
    Some(if micros < 10_000 {
        format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
    } else {
        format!("{} ms", micros / 1000)
    })
}

/// What the first finding says: usually why.
fn finding(event: &Value) -> Option<String> {
    let finding = event.get("findings")?.as_array()?.first()?;
    let member = |name| {
        finding
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    Some(format!(
        "{} {}: {}",
        escape(member("check")),
        escape(member("code")),
        escape(member("detail"))
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn traffic_cannot_move_the_cursor() {
        let event = json!({
            "time": "2026-11-21T14:03:07.412Z", "proxy": "gateway-1", "user": "shop:bob\u{1b}[1A",
            "method": "GET", "path": "/orders/\u{9b}2J", "status": 403, "verdict": "deny",
            "reason": "authz.user", "policy": {"file": "policies/x.cedar", "line": 4}, "duration_us": 210,
            "findings": [{"check": "normalize", "code": "x", "detail": "\r"}],
        });
        let line = event_line(&event, Style::PLAIN);
        assert!(line.contains("✗ 403 authz.user"), "{line}");
        assert!(
            line.contains("shop:bob\\x1b[1A") && line.contains("/orders/\\x9b2J"),
            "{line}"
        );
        assert!(line.contains("policies/x.cedar:4  0.21 ms"), "{line}");
        assert!(
            line.chars().all(|c| c == '\n' || !c.is_control()),
            "{line:?}"
        );
    }
}
