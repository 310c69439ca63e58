//! One frame of `top`. Pure: a state and a size in, cells out. Everything that came from traffic is
//! escaped before it becomes a cell.

use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Sparkline, Table};

use super::state::{Counts, Decision, Edge, State, WINDOW, counted};
use crate::terminal::escape;

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const RED: Style = Style::new().fg(Color::Red);
const YELLOW: Style = Style::new().fg(Color::Yellow);
const GREEN: Style = Style::new().fg(Color::Green);

/// Rates are of the last so many seconds.
const RATE: i64 = 10;

/// Draws everything for this moment.
pub(super) fn draw(state: &State, frame: &mut Frame<'_>) {
    let now = jiff::Timestamp::now();
    draw_at(state, now, frame);
}

/// A frame as text, for standard output.
pub(super) fn text(state: &State, (columns, rows): (u16, u16)) -> String {
    text_at(state, jiff::Timestamp::now(), (columns, rows))
}

fn text_at(state: &State, now: jiff::Timestamp, (columns, rows): (u16, u16)) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(columns, rows));
    let Ok(_) = terminal.draw(|frame| draw_at(state, now, frame));
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in 0..rows {
        let cells = (0..columns).filter_map(|column| buffer.cell((column, row)));
        let line: String = cells.map(|cell| cell.symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn draw_at(state: &State, now: jiff::Timestamp, frame: &mut Frame<'_>) {
    let shown = state.shown();
    let filter = state.filter.as_str();
    // While paused, time stands still as well.
    let now = match (state.is_paused(), shown.recent("", now).last()) {
        (true, Some(last)) => last.time,
        _ => now,
    };
    let recent: Vec<&Decision> = shown.recent(filter, now).collect();
    let [head, spark, services, middle, latest, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Min(5),
        Constraint::Length(6),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(headline(shown, &recent, now), head);
    sparkline(frame, spark, &recent, now);
    let edges = shown.edges.as_deref().filter(|_| filter.is_empty());
    let busiest = edges.map_or_else(|| services_table(&recent, now), edges_table);
    frame.render_widget(busiest, services);
    let [operations, reasons] = beside().areas(middle);
    frame.render_widget(operations_table(&recent), operations);
    frame.render_widget(reasons_table(&recent), reasons);
    let [denials, mesh] = beside().areas(latest);
    frame.render_widget(denials_list(&recent, denials), denials);
    frame.render_widget(mesh_list(shown), mesh);
    frame.render_widget(keys(state), foot);
}

/// Two columns.
fn beside() -> Layout {
    Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).spacing(2)
}

fn headline<'a>(state: &State, recent: &[&Decision], now: jiff::Timestamp) -> Line<'a> {
    let ready = state.proxies.iter().filter(|proxy| proxy.ready).count();
    let of_edge = recent.iter().filter(|decision| decision.edge);
    let rate = match &state.edges {
        Some(edges) => per_second(
            edges
                .iter()
                .filter(|edge| edge.from_clients)
                .map(|edge| edge.rate)
                .sum(),
        ),
        None => rate(of_edge.filter(|decision| is_young(decision, now)).count()),
    };
    let denied = recent.iter().filter(|decision| decision.denied).count();
    let mut line = vec![
        Span::styled("testudo top", BOLD),
        Span::raw(format!(
            "  {}  rev {}  ",
            escape(&state.trust_domain),
            state.revision
        )),
        Span::styled(
            format!("{ready} of {} ready", state.proxies.len()),
            if ready == state.proxies.len() {
                GREEN
            } else {
                RED
            },
        ),
        Span::raw(format!("  {rate}/s at the edge  ")),
        Span::styled(
            format!("{denied} denied in {WINDOW} s"),
            if denied == 0 { DIM } else { RED },
        ),
    ];
    let lost = state.missed + state.dropped;
    if lost > 0 {
        line.push(Span::styled(format!("  {lost} not seen"), YELLOW));
    }
    if !state.connected {
        line.push(Span::styled("  control is away", RED));
    }
    Line::from(line)
}

fn is_young(decision: &Decision, now: jiff::Timestamp) -> bool {
    decision.time.as_second() > now.as_second() - RATE
}

/// Requests a second, from a count over [`RATE`] seconds.
fn rate(count: usize) -> String {
    let seconds = usize::try_from(RATE).unwrap_or(1);
    match count / seconds {
        0..10 => format!("{}.{}", count / seconds, count % seconds),
        whole => whole.to_string(),
    }
}

fn per_second(rate: f64) -> String {
    if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

/// Decisions in each second of the window, denials beneath.
fn sparkline(frame: &mut Frame<'_>, area: Rect, recent: &[&Decision], now: jiff::Timestamp) {
    let seconds = usize::try_from(WINDOW).unwrap_or(60);
    let (mut all, mut denied) = (vec![0_u64; seconds], vec![0_u64; seconds]);
    for decision in recent {
        let ago = usize::try_from(now.as_second() - decision.time.as_second()).unwrap_or(0);
        let Some(place) = seconds.checked_sub(ago + 1) else {
            continue;
        };
        for (list, counts) in [(&mut all, true), (&mut denied, decision.denied)] {
            if let Some(count) = list.get_mut(place).filter(|_| counts) {
                *count += 1;
            }
        }
    }
    let [labels, bars] =
        Layout::horizontal([Constraint::Length(10), Constraint::Fill(1)]).areas(area);
    let rows = |area| Layout::vertical([Constraint::Length(1); 2]).areas::<2>(area);
    let ([all_label, denied_label], [all_bars, denied_bars]) = (rows(labels), rows(bars));
    frame.render_widget(Span::styled("decisions", DIM), all_label);
    frame.render_widget(Span::styled("denied", DIM), denied_label);
    frame.render_widget(Sparkline::default().data(&all).style(GREEN), all_bars);
    frame.render_widget(Sparkline::default().data(&denied).style(RED), denied_bars);
}

fn services_table<'a>(recent: &[&'a Decision], now: jiff::Timestamp) -> Table<'a> {
    let young = recent
        .iter()
        .copied()
        .filter(|decision| is_young(decision, now));
    let young = counted(young, |decision| &decision.service);
    let of = |name: &str| {
        young
            .iter()
            .find(|counts| counts.name == name)
            .map_or(0, |counts| counts.requests)
    };
    let all = counted(recent.iter().copied(), |decision| &decision.service);
    let rows = all.into_iter().map(|counts| {
        let rate = rate(of(&counts.name));
        counts_row(name_of(&counts.name), &rate, &counts)
    });
    counts_table("SERVICE", rows)
}

/// Who calls whom, as the proxies counted it.
fn edges_table<'a>(edges: &[Edge]) -> Table<'a> {
    let rows = edges.iter().map(|edge| {
        let rate = per_second(edge.rate);
        counts_row(escape(&edge.counts.name), &rate, &edge.counts)
    });
    counts_table("CALLER → SERVICE", rows)
}

fn counts_row<'a>(name: String, rate: &str, counts: &Counts) -> Row<'a> {
    let style = if counts.denied > 0 {
        RED
    } else if counts.reported > 0 {
        YELLOW
    } else {
        Style::new()
    };
    Row::new([
        name,
        format!("{rate:>7}"),
        number(counts.denied),
        number(counts.reported),
        number(counts.errors),
        format!("{:>9}", duration(counts.p50_us)),
        format!("{:>9}", duration(counts.p99_us)),
    ])
    .style(style)
}

fn counts_table<'a>(title: &'a str, rows: impl Iterator<Item = Row<'a>>) -> Table<'a> {
    let header = [
        title,
        "     /s",
        " DENIED",
        " REPORT",
        " ERRORS",
        "      p50",
        "      p99",
    ];
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    Table::new(rows, widths).header(Row::new(header).style(DIM))
}

fn operations_table<'a>(recent: &[&'a Decision]) -> Table<'a> {
    let mut slowest: Vec<Counts> = counted(recent.iter().copied(), |decision| &decision.operation);
    slowest.retain(|counts| !counts.name.is_empty());
    slowest.sort_by_key(|counts| std::cmp::Reverse(counts.p99_us));
    let rows = slowest.into_iter().take(5).map(|counts| {
        Row::new([
            escape(&counts.name),
            number(counts.requests),
            format!("{:>9}", duration(counts.p99_us)),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(7),
        Constraint::Length(10),
    ];
    Table::new(rows, widths)
        .header(Row::new(["SLOWEST OPERATIONS", "  COUNT", "      p99"]).style(DIM))
}

fn reasons_table<'a>(recent: &[&'a Decision]) -> Table<'a> {
    let mut counts: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
    for decision in recent {
        if let Some(reason) = decision.reason {
            let (count, denied) = counts.entry(reason).or_default();
            *count += 1;
            *denied |= decision.denied;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(reason, (count, _))| (std::cmp::Reverse(*count), *reason));
    let rows = counts.into_iter().take(5).map(|(reason, (count, denied))| {
        let style = if denied { RED } else { YELLOW };
        Row::new([reason.to_owned(), number(count)]).style(style)
    });
    let widths = [Constraint::Fill(1), Constraint::Length(7)];
    Table::new(rows, widths).header(Row::new(["REASONS", "  COUNT"]).style(DIM))
}

fn denials_list<'a>(recent: &[&Decision], area: Rect) -> Paragraph<'a> {
    let room = usize::from(area.height).saturating_sub(1);
    let noteworthy = recent
        .iter()
        .rev()
        .filter(|decision| decision.reason.is_some());
    let mut lines = vec![Line::styled("LATEST DENIALS", DIM)];
    lines.extend(noteworthy.take(room).map(|decision| {
        let (mark, style) = if decision.denied {
            ("✗", RED)
        } else {
            ("!", YELLOW)
        };
        let clock = decision
            .time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%H:%M:%S")
            .to_string();
        let reason = decision.reason.unwrap_or_default();
        Line::from(vec![
            Span::styled(format!("{clock} "), DIM),
            Span::styled(format!("{mark} {reason} "), style),
            Span::raw(format!(
                "{} {}",
                escape(&decision.who),
                escape(&decision.path)
            )),
        ])
    }));
    Paragraph::new(lines)
}

/// Incidents first; then proxies, those that are not ready first.
fn mesh_list<'a>(state: &State) -> Paragraph<'a> {
    let mut lines = Vec::new();
    if let Some(incidents) = &state.incidents {
        lines.push(Line::styled(
            format!("INCIDENTS  {} open", incidents.len()),
            DIM,
        ));
        lines.extend(incidents.iter().take(3).map(|incident| {
            let style = if incident.severity == "high" {
                RED
            } else {
                YELLOW
            };
            let text = format!("{} {}", escape(&incident.severity), escape(&incident.title));
            Line::styled(text, style)
        }));
    }
    lines.push(Line::styled("PROXIES", DIM));
    let mut proxies: Vec<_> = state.proxies.iter().collect();
    proxies.sort_by_key(|proxy| (proxy.ready && proxy.revision == state.revision, &proxy.name));
    lines.extend(proxies.into_iter().map(|proxy| {
        let style = match (proxy.ready, proxy.revision == state.revision) {
            (false, _) => RED,
            (true, false) => YELLOW,
            (true, true) => Style::new(),
        };
        let note = match (proxy.ready, proxy.error.is_empty()) {
            (true, true) => "ready".to_owned(),
            (true, false) => format!("ready  {}", escape(&proxy.error)),
            (false, true) => "not ready".to_owned(),
            (false, false) => escape(&proxy.error),
        };
        Line::styled(
            format!("{:<14} rev {}  {note}", escape(&proxy.name), proxy.revision),
            style,
        )
    }));
    Paragraph::new(lines)
}

fn keys<'a>(state: &State) -> Line<'a> {
    let filter = escape(&state.filter);
    let filter = match (state.typing, filter.is_empty()) {
        (true, _) => Span::styled(format!("/{filter}▏"), BOLD),
        (false, false) => Span::styled(format!("/{filter}  (esc clears)"), BOLD),
        (false, true) => Span::styled("/ filter", DIM),
    };
    let pause = if state.is_paused() {
        Span::styled("   PAUSED: space goes on", YELLOW)
    } else {
        Span::styled("   space pause", DIM)
    };
    Line::from(vec![filter, pause, Span::styled("   q quit", DIM)])
}

fn name_of(service: &str) -> String {
    if service.is_empty() {
        "(none)".to_owned()
    } else {
        escape(service)
    }
}

fn number(count: usize) -> String {
    match count {
        0 => format!("{:>7}", "–"),
        count => format!("{count:>7}"),
    }
}

fn duration(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        10_000..10_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testudo_model::Event;

    use super::*;

    fn event(second: i64, service: &str, user: &str, reason: Option<&str>) -> Event {
        let denied = reason.is_some();
        serde_json::from_value(json!({
            "time": jiff::Timestamp::from_second(1_700_000_000 + second).unwrap(),
            "request_id": format!("r{second}"), "trace_id": "", "proxy": "gateway-1", "hop": "edge",
            "revision": 3, "caller": null, "user": user, "roles": [], "source_ip": null, "service": service,
            "operation": format!("{service}:get"), "method": "GET", "host": "", "path": "/x",
            "status": if denied { 403 } else { 200 }, "verdict": if denied { "deny" } else { "permit" },
            "reason": reason, "mode": "enforce", "policy": null, "findings": [], "bytes_in": 0,
            "bytes_out": 0, "duration_us": 1_000 + second.unsigned_abs() * 100, "guard_us": 9,
        }))
        .unwrap()
    }

    fn filled() -> (State, jiff::Timestamp) {
        let mut state = State::new(String::new());
        state.set_status(
            &json!({"trust_domain": "shop.test", "revision": 3, "decisions": {"dropped": 0}}),
        );
        state.set_proxies(&json!([
            {"name": "gateway-1", "revision": 3, "ready": true, "error": null},
            {"name": "orders-1", "revision": 2, "ready": false, "error": "no snapshot"},
        ]));
        for second in 0..60 {
            state.add(&event(second, "orders", "shop:alice", None));
            if second % 10 == 9 {
                state.add(&event(second, "payments", "shop:bob", Some("authz.user")));
            }
        }
        (state, jiff::Timestamp::from_second(1_700_000_059).unwrap())
    }

    /// The zone of this machine is none of the snapshot's business.
    fn without_clock(text: &str) -> String {
        let lines = text.lines().map(|line| match line.get(2..3) {
            Some(":") if line.get(5..6) == Some(":") => {
                format!("HH:MM:SS{}", line.get(8..).unwrap())
            }
            _ => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_frame_fits_an_old_terminal() {
        let (mut state, now) = filled();
        state.set_incidents(Some(
            &json!([{"severity": "high", "title": "shop:bob read 214 orders in 60 s"}]),
        ));
        insta::assert_snapshot!(without_clock(&text_at(&state, now, (80, 24))));
        state.set_graph(Some(&json!({"edges": [
            {"caller": "orders", "service": "payments", "hop": "mesh", "requests": 30, "denied": 2, "reported": 0, "errors": 1, "rate": 0.5, "p50_us": 900, "p99_us": 4000},
            {"caller": "clients", "service": "orders", "hop": "edge", "requests": 1200, "denied": 0, "reported": 3, "errors": 0, "rate": 20.0, "p50_us": 2100, "p99_us": 31000},
        ]})));
        insta::assert_snapshot!(without_clock(&text_at(&state, now, (80, 24))));
        for size in [(1, 1), (20, 5), (40, 10), (300, 100)] {
            text_at(&state, now, size);
        }
    }

    #[test]
    fn a_filter_narrows_and_a_pause_holds_everything_still() {
        let (mut state, now) = filled();
        state.set_graph(Some(
            &json!({"edges": [{"caller": "clients", "service": "everything"}]}),
        ));
        assert!(text_at(&state, now, (80, 24)).contains("clients → everything"));
        state.filter = "bob".into();
        let text = text_at(&state, now, (80, 24));
        assert!(
            text.contains("payments") && !text.contains("orders:get"),
            "{text}"
        );
        state.filter.clear();
        state.pause();
        let before = text_at(&state, now, (80, 24));
        state.add(&event(59, "catalog", "shop:carol", Some("authn.invalid")));
        let later = now + jiff::SignedDuration::from_secs(30);
        assert_eq!(text_at(&state, later, (80, 24)), before);
        state.pause();
        assert!(text_at(&state, now, (80, 24)).contains("catalog"));
    }

    #[test]
    fn what_is_old_goes_and_nothing_of_the_traffic_is_raw() {
        let (mut state, now) = filled();
        assert_eq!(state.recent("", now).count(), 66);
        let later = now + jiff::SignedDuration::from_secs(50);
        assert_eq!(state.recent("", later).count(), 13);
        let evil = Event {
            path: "/\u{1b}[2J\u{9b}".into(),
            user: Some("\u{202e}\r\nx".into()),
            service: Some("\u{1b}]0;x\u{7}".into()),
            operation: Some("\u{8}".into()),
            ..event(60, "x", "y", Some("authz.user"))
        };
        state.add(&evil);
        state.trust_domain = "\u{1b}c".into();
        state.set_proxies(&json!([{"name": "\u{1b}c", "error": "\u{1b}[0m", "ready": false}]));
        state.set_incidents(Some(&json!([{"severity": "\u{1b}", "title": "\u{9b}"}])));
        state.set_graph(Some(
            &json!({"edges": [{"caller": "\u{1b}[2J", "service": "\u{7}", "rate": 1.0}]}),
        ));
        let text = text_at(&state, now, (200, 60));
        assert!(
            text.chars()
                .all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')),
            "{text:?}"
        );
        assert!(text.contains("\\x1b[2J"), "{text}");
    }
}
