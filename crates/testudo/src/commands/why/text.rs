//! The answer for people, from the JSON that the API gives: at most 100 columns, nothing of it raw.

use serde_json::Value;

use crate::terminal::{Style, escape};

/// Where the time of a check ends.
const TIME_COLUMN: usize = 78;
/// Where checks that stand in one line stop.
const PACKED: usize = TIME_COLUMN - 9;
/// Widest line.
const COLUMNS: usize = 100;
/// Before what stands under a title.
const INDENT: usize = 8;

/// Everything.
pub(crate) fn whole(why: &Value, style: Style) -> Vec<String> {
    let mut lines = vec![headline(why, style), String::new()];
    for (index, hop) in list(why, "hops").enumerate() {
        lines.extend(missing_before(why, Some(index), style));
        lines.push(hop_line(hop, index == 0, style));
        lines.extend(checks(hop, style));
        lines.extend(notes(hop, style));
    }
    lines.extend(missing_before(why, None, style));
    lines.extend(conclusion(why, style));
    lines
}

/// As much as fits beside other things: hops with what failed, cause and possibilities.
pub(crate) fn brief(why: &Value, style: Style) -> Vec<String> {
    let mut lines = vec![headline(why, style)];
    for (index, hop) in list(why, "hops").enumerate() {
        lines.extend(missing_before(why, Some(index), style));
        lines.push(hop_line(hop, index == 0, style));
        let failed = list(hop, "checks").filter(|check| text(check, "result") == "fail");
        lines.extend(failed.map(|check| check_line(hop, check, style)));
    }
    lines.extend(missing_before(why, None, style));
    lines.extend(conclusion(why, style));
    lines
}

/// `✗ 401 authn.missing at mesh 2   POST /orders   user shop:alice   14:03:07.412  rev 42`
fn headline(why: &Value, style: Style) -> String {
    let decided = why
        .get("decided")
        .and_then(Value::as_u64)
        .and_then(|index| usize::try_from(index).ok())
        .and_then(|index| list(why, "hops").nth(index));
    let root = list(why, "hops").next();
    let of = |hop: Option<&Value>, name: &str| hop.map(|hop| text(hop, name)).unwrap_or_default();
    let status = |hop: Option<&Value>| {
        let status = hop.and_then(|hop| hop.get("status")?.as_u64());
        status.map_or_else(|| "–".to_owned(), |status| status.to_string())
    };
    let (reason, at) = (text(why, "reason"), of(decided, "at"));
    let verdict = match (text(why, "by").as_str(), text(why, "verdict").as_str()) {
        ("testudo", "deny") => style.red(&format!("✗ {} {reason} at {at}", status(decided))),
        ("testudo", _) => style.yellow(&format!(
            "! {} let pass at {at}; enforced it would be {reason}",
            status(decided),
        )),
        ("application", _) => style.yellow(&format!(
            "✗ {} answered by {} itself at {at}",
            status(decided),
            of(decided, "service")
        )),
        _ if root.is_some_and(|hop| hop.get("status").is_some_and(Value::is_null)) => {
            style.yellow("! permitted, and not answered")
        }
        _ => style.green(&format!("✓ {} permitted", status(root))),
    };
    let mut line = format!("{verdict}   {} {}", of(root, "method"), of(root, "path"));
    let user = of(root, "user");
    if !user.is_empty() {
        line.push_str(&format!("   user {user}"));
    }
    let revision = decided
        .or(root)
        .and_then(|hop| hop.get("revision")?.as_u64());
    line.push_str(&style.dim(&format!(
        "   {}  rev {}",
        clock(&of(root, "time")),
        revision.unwrap_or_default()
    )));
    line
}

/// `mesh 2  orders ─▶ payments   payments:charge                        0.06 ms`
fn hop_line(hop: &Value, first: bool, style: Style) -> String {
    let edge = text(hop, "hop") == "edge";
    let service = if edge {
        "gateway".to_owned()
    } else {
        or(text(hop, "service"), "?")
    };
    let caller = if edge {
        "client".to_owned()
    } else {
        or(text(hop, "caller"), "?")
    };
    let way = format!("{caller} ─▶ {service}");
    let mut what = or(text(hop, "operation"), &text(hop, "service"));
    if hop.get("trace_guessed") == Some(&Value::Bool(true)) {
        what.push_str("  (by a guessed trace)");
    }
    if matches!(text(hop, "mode").as_str(), "report" | "observe") {
        what.push_str(&format!("  mode {}", text(hop, "mode")));
    }
    let line = format!("{:<7} {way:<21} {what}", text(hop, "at"));
    let ours = hop.get("guard_us").and_then(Value::as_u64).map(duration);
    let ours = ours.unwrap_or_default();
    let ours = if first { format!("ours  {ours}") } else { ours };
    let line = right(&line, &ours);
    style.bold(&line)
}

/// Checks, several in a line where they are short and held.
fn checks(hop: &Value, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let mut packed = Packed::default();
    for check in list(hop, "checks") {
        let name = text(check, "name");
        let failed = text(check, "result") == "fail";
        let alone = failed || matches!(name.as_str(), "authn" | "user" | "caller" | "mtls");
        let item = Item::new(hop, check);
        if alone || !packed.fits(&item) {
            lines.extend(packed.flush(style));
        }
        if failed {
            lines.push(check_line(hop, check, style));
        } else {
            packed.push(item);
        }
    }
    lines.extend(packed.flush(style));
    lines
}

/// A check that is shown in full, in as many lines as it takes.
fn check_line(hop: &Value, check: &Value, style: Style) -> String {
    let item = Item::new(hop, check);
    let plain = format!("    {:<9} {} {}", item.name, item.mark, item.text);
    let line = right(&plain, &duration(item.us));
    match item.mark {
        "✗" => style.red(&line),
        _ => line,
    }
}

struct Item {
    name: String,
    mark: &'static str,
    text: String,
    us: u64,
}

impl Item {
    fn new(hop: &Value, check: &Value) -> Item {
        let name = text(check, "name");
        let mark = match text(check, "result").as_str() {
            "pass" => "✓",
            "fail" => "✗",
            _ => "–",
        };
        let mut words = text(check, "detail");
        if words.is_empty() && name == "user" && mark == "✓" {
            words = match text(hop, "hop").as_str() {
                "edge" => roles(hop),
                _ => text(hop, "user"),
            };
        }
        if let Some(place) = place(check) {
            if !words.is_empty() {
                words.push_str("   ");
            }
            words.push_str(&place);
        }
        let name = match name.as_str() {
            "mtls" => "mTLS".to_owned(),
            _ => name,
        };
        Item {
            name,
            mark,
            text: words,
            us: check.get("us").and_then(Value::as_u64).unwrap_or_default(),
        }
    }

    fn render(&self, style: Style) -> String {
        let mark = match self.mark {
            "✓" => style.green(self.mark),
            mark => style.dim(mark),
        };
        format!("{mark} {}", self.text).trim_end().to_owned()
    }
}

/// A line that is being filled.
#[derive(Default)]
struct Packed {
    items: Vec<Item>,
}

impl Packed {
    fn fits(&self, item: &Item) -> bool {
        let all = self.items.iter().chain([item]);
        self.items.is_empty() || line_of(all, Style::NONE).chars().count() <= PACKED
    }

    fn push(&mut self, item: Item) {
        self.items.push(item);
    }

    fn flush(&mut self, style: Style) -> Option<String> {
        let items = std::mem::take(&mut self.items);
        items.first()?;
        let us = duration(items.iter().map(|item| item.us).sum());
        let pad = pad(&line_of(items.iter(), Style::NONE), &us);
        Some(format!(
            "{}{pad}{}",
            line_of(items.iter(), style),
            style.dim(&us)
        ))
    }
}

fn line_of<'a>(items: impl Iterator<Item = &'a Item>, style: Style) -> String {
    let mut line = String::from("   ");
    for (number, item) in items.enumerate() {
        line.push_str(&match number {
            0 => format!(" {:<9} {}", item.name, item.render(style)),
            _ => format!("    {} {}", item.name, item.render(style)),
        });
    }
    line
}

/// What checks noticed besides.
fn notes(hop: &Value, style: Style) -> Vec<String> {
    let told: Vec<String> = list(hop, "checks")
        .map(|check| text(check, "detail"))
        .collect();
    list(hop, "findings")
        .filter(|finding| !told.contains(&text(finding, "detail")))
        .map(|finding| {
            let note = format!("{}: {}", text(finding, "code"), text(finding, "detail"));
            style.yellow(&format!("    {:<9} ! {note}", "note"))
        })
        .collect()
}

/// Hops that are not kept and stand here.
fn missing_before(why: &Value, place: Option<usize>, style: Style) -> Vec<String> {
    list(why, "missing")
        .filter(|missing| missing.get("at").is_some_and(Value::is_string))
        .filter(|missing| {
            let before = missing.get("before").and_then(Value::as_u64);
            before.and_then(|before| usize::try_from(before).ok()) == place
        })
        .map(|missing| {
            let service = text(missing, "service");
            let caller = match service.as_str() {
                "gateway" => "client".to_owned(),
                _ => or(text(missing, "caller"), "?"),
            };
            let way = format!("{caller} ─▶ {service}");
            let why = format!(
                "not kept   {}: {}",
                text(missing, "proxy"),
                text(missing, "why")
            );
            style.yellow(&format!("{:<7} {way:<21} {why}", text(missing, "at")))
        })
        .collect()
}

fn conclusion(why: &Value, style: Style) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |title: &str, text: &str| {
        for (number, line) in wrapped(text).into_iter().enumerate() {
            let title = if number == 0 { title } else { "" };
            let padded = format!("{title:<INDENT$}");
            lines.push(format!("{}{line}", style.bold(&padded)));
        }
    };
    let cause = text(why, "cause");
    if !cause.is_empty() {
        say("Cause", &cause);
    }
    for (number, possibility) in list(why, "permit_if").enumerate() {
        let possibility = possibility.as_str().map(escape).unwrap_or_default();
        say(if number == 0 { "Permit" } else { "" }, &possibility);
    }
    let unheard: Vec<String> = list(why, "missing")
        .filter(|missing| !missing.get("at").is_some_and(Value::is_string))
        .map(|missing| format!("{} ({})", text(missing, "proxy"), text(missing, "why")))
        .collect();
    if !unheard.is_empty() {
        say("Unheard", &unheard.join(", "));
    }
    for (number, command) in next(why).iter().enumerate() {
        say(if number == 0 { "Next" } else { "" }, command);
    }
    lines
}

/// Commands, one a line where they would not fit beside each other.
fn next(why: &Value) -> Vec<String> {
    let id = text(why, "request_id");
    let hop = why
        .get("decided")
        .and_then(Value::as_u64)
        .and_then(|index| usize::try_from(index).ok())
        .and_then(|index| list(why, "hops").nth(index))
        .or_else(|| list(why, "hops").next());
    let repeat = match why.get("curl").is_some_and(Value::is_string) {
        true => format!("testudo why {id} -o curl"),
        false => format!("testudo why {id} -o json"),
    };
    let Some(hop) = hop else {
        return vec![repeat];
    };
    let (service, mut caller) = (text(hop, "service"), text(hop, "caller"));
    if text(hop, "hop") == "edge" {
        "clients".clone_into(&mut caller);
    }
    if service.is_empty() || caller.is_empty() {
        return vec![repeat];
    }
    let observe = format!("testudo observe --edge {caller},{service}");
    if repeat.len() + 4 + observe.len() > COLUMNS - INDENT {
        return vec![repeat, observe];
    }
    vec![format!("{repeat}    {observe}")]
}

/// Lines of words, none wider than fits beside the titles.
fn wrapped(text: &str) -> Vec<String> {
    let room = COLUMNS - INDENT;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn right(line: &str, end: &str) -> String {
    format!("{line}{}{end}", pad(line, end))
}

fn pad(line: &str, end: &str) -> String {
    let width = line.chars().count() + end.chars().count();
    " ".repeat(TIME_COLUMN.saturating_sub(width).max(2))
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..100_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        _ => format!("{} ms", us / 1_000),
    }
}

fn roles(hop: &Value) -> String {
    let roles = list(hop, "roles").filter_map(Value::as_str).map(escape);
    roles.collect::<Vec<_>>().join(", ")
}

fn place(check: &Value) -> Option<String> {
    let policy = check.get("policy")?;
    let file = escape(policy.get("file")?.as_str()?);
    Some(format!("{file}:{}", policy.get("line")?.as_u64()?))
}

/// Local time of day with milliseconds.
fn clock(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%H:%M:%S%.3f")
            .to_string(),
        Err(_) => "--:--:--.---".to_owned(),
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
}

/// A member as text, escaped; empty where it is none.
fn text(value: &Value, name: &str) -> String {
    value
        .get(name)
        .and_then(Value::as_str)
        .map(escape)
        .unwrap_or_default()
}

fn or(text: String, otherwise: &str) -> String {
    if text.is_empty() {
        otherwise.to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        name: &str,
        result: &str,
        detail: &str,
        policy: Option<(&str, u32)>,
        us: u32,
    ) -> Value {
        let policy = policy.map(|(file, line)| json!({"file": file, "line": line}));
        json!({"name": name, "result": result, "detail": detail, "policy": policy, "us": us})
    }

    fn hop(at: &str, caller: Option<&str>, operation: &str, checks: Vec<Value>) -> Value {
        json!({
            "at": at, "hop": if caller.is_some() { "mesh" } else { "edge" }, "caller": caller,
            "service": operation.split(':').next(), "operation": operation, "user": "shop:alice",
            "roles": ["customer"], "method": "POST", "path": "/orders", "status": 502, "guard_us": 210,
            "time": "2026-11-21T14:03:07.412Z", "revision": 42, "mode": "enforce", "checks": checks,
            "findings": [],
        })
    }

    /// The sketch of UX.
    fn sketch() -> Value {
        let mut last = hop(
            "mesh 2",
            Some("orders"),
            "payments:charge",
            vec![
                check("mtls", "pass", "spiffe://shop.test/service/orders", None, 4),
                check("caller", "pass", "", Some(("policies/mesh.cedar", 9)), 20),
                check("user", "fail", "no user came along", None, 2),
            ],
        );
        last["status"] = json!(401);
        json!({
            "request_id": "01JDK3M8", "verdict": "deny", "reason": "authn.missing", "by": "testudo", "decided": 2,
            "hops": [
                hop("edge", None, "orders:createOrder", vec![
                    check("normalize", "pass", "", None, 1),
                    check("authn", "pass", "shop, key 2026-11, 9 min left", None, 9),
                    check("user", "pass", "", Some(("policies/customers.cedar", 4)), 12),
                    check("schema", "pass", "", Some(("apis/orders.yaml", 61)), 80),
                    check("limit", "pass", "3 of 200", Some(("testudo.yaml", 47)), 3),
                ]),
                hop("mesh 1", Some("gateway"), "orders:createOrder", vec![
                    check("mtls", "pass", "spiffe://shop.test/gateway", None, 4),
                    check("caller", "pass", "by its route", Some(("testudo.yaml", 21)), 1),
                    check("user", "pass", "", Some(("policies/customers.cedar", 4)), 20),
                ]),
                last,
            ],
            "cause": "orders received shop:alice's Txn-Token at mesh 1 and sent none at mesh 2. payments has user: authorize (testudo.yaml:58). orders answered 502.",
            "permit_if": ["if orders sends it; then user ✓ policies/customers.cedar:9"],
            "missing": [
                {"proxy": "catalog-1", "why": "not connected", "at": null, "caller": null, "service": null, "before": null},
            ],
            "curl": "curl -i …",
        })
    }

    #[test]
    fn it_reads_as_designed() {
        // The time of day depends on where this runs.
        let lines = whole(&sketch(), Style::PLAIN);
        let text = lines
            .join("\n")
            .replace(&clock("2026-11-21T14:03:07.412Z"), "HH:MM:SS.412");
        insta::assert_snapshot!(text);
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS));
        let short = brief(&sketch(), Style::PLAIN);
        assert!(short.len() < lines.len());
        assert!(
            short
                .iter()
                .any(|line| line.contains("✗ no user came along")),
            "{short:?}"
        );
    }

    #[test]
    fn a_hop_that_is_not_kept_stands_in_its_place() {
        let mut why = sketch();
        why["hops"].as_array_mut().unwrap().remove(1);
        why["decided"] = json!(1);
        why["missing"] = json!([{"proxy": "orders-1", "why": "not connected", "at": "mesh 1", "caller": "gateway", "service": "orders", "before": 1}]);
        let lines = whole(&why, Style::PLAIN);
        let gap = lines
            .iter()
            .position(|line| line.contains("not kept"))
            .unwrap();
        assert_eq!(
            lines[gap],
            "mesh 1  gateway ─▶ orders     not kept   orders-1: not connected"
        );
        assert!(
            lines[gap + 1].starts_with("mesh 2  orders ─▶ payments"),
            "{lines:#?}"
        );
    }

    #[test]
    fn nothing_of_the_traffic_moves_the_cursor() {
        let mut why = sketch();
        for name in ["path", "user", "method", "operation", "caller", "service"] {
            why["hops"][0][name] = json!("\u{1b}[2J\r\u{9b}1A");
        }
        why["cause"] = json!("\u{1b}]0;x\u{7}");
        why["hops"][0]["checks"][0]["detail"] = json!("\n\u{202e}x");
        why["hops"][0]["findings"] = json!([{"code": "\u{8}", "detail": "\u{1b}c"}]);
        for line in whole(&why, Style::PLAIN)
            .iter()
            .chain(&brief(&why, Style::PLAIN))
        {
            assert!(
                line.chars().all(|c| !c.is_control() && c != '\u{202e}'),
                "{line:?}"
            );
        }
    }
}
