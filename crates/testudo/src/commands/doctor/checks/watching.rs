//! Incidents that nobody has looked at, windows that detectors missed, and webhooks that do not answer.

use serde_json::Value;

use super::{Finding, Level, Mesh, number, text};

pub(super) fn examine(mesh: &Mesh) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(incidents) = mesh.status.get("incidents") else {
        return findings;
    };
    findings.push(match number(incidents, "open") {
        0 => Finding::new(Level::Good, "incidents", "none is open"),
        open => Finding::new(Level::Warning, "incidents", format!("{open} open"))
            .hint("`testudo watch list`"),
    });
    let missed = number(incidents, "missed_windows");
    if missed > 0 {
        let message = format!("detectors did not see {missed} windows: control is too slow");
        findings.push(Finding::new(Level::Warning, "incidents", message));
    }
    let webhooks = mesh.status.get("webhooks").and_then(Value::as_array);
    for webhook in webhooks.into_iter().flatten() {
        findings.push(judge(webhook));
    }
    findings
}

fn judge(webhook: &Value) -> Finding {
    let url = text(webhook, "url");
    let lost = number(webhook, "failed") + number(webhook, "dropped");
    let delivered = number(webhook, "delivered");
    match webhook.get("last_error").and_then(Value::as_str) {
        Some(error) => Finding::new(
            Level::Bad,
            "webhooks",
            format!("{url} does not take deliveries: {error} ({lost} lost so far)"),
        )
        .hint("deliveries are tried again for two minutes; look at the receiver, or at `watch.notify`"),
        None if lost > 0 => Finding::new(
            Level::Warning,
            "webhooks",
            format!("{url} took {delivered} deliveries, {lost} were lost"),
        ),
        None => Finding::new(
            Level::Good,
            "webhooks",
            format!("{url} took {delivered} deliveries"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn webhooks_that_fail_are_bad() {
        let webhook = json!({"url": "https://h", "delivered": 1, "failed": 2, "dropped": 1, "last_error": "answered 500"});
        let found = judge(&webhook);
        assert_eq!(found.level, Level::Bad);
        assert!(
            found.message.contains("answered 500 (3 lost"),
            "{}",
            found.message
        );
        let fine = json!({"url": "https://h", "delivered": 1, "failed": 0, "dropped": 0, "last_error": null});
        assert_eq!(judge(&fine).level, Level::Good);
    }
}
