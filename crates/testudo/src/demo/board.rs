//! What the demo shows, as text: pure, so that it can be tested. `screen` puts it on a terminal.

use std::time::Duration;

use crate::demo::attack::Outcome;
use crate::demo::attacks::{Attack, attack_count};
use crate::terminal::{Style, escape};

/// Lines around the list of attacks.
const FRAME_LINES: usize = 9;
/// Rows kept; more than any terminal shows.
const MAX_ROWS: usize = 200;

/// Everything on the screen.
pub(crate) struct Board {
    pub(crate) trust_domain: String,
    pub(crate) revision: u64,
    pub(crate) proxies: usize,
    pub(crate) took: Duration,
    /// Opens the dashboard, token and all.
    pub(crate) link: String,
    pub(crate) dir: String,
    pub(crate) rate: f64,
    pub(crate) shield: Shield,
    pub(crate) paused: bool,
    pub(crate) why: Vec<String>,
    rows: Vec<Row>,
    stopped: usize,
    passed: usize,
}

/// Whether Testudo decides, or looks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shield {
    Up,
    Moving,
    Down,
}

/// Counts of honest traffic, as shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) denied: u64,
    pub(crate) failed: u64,
    pub(crate) p99: Duration,
    /// Of that, in our guard at the edge.
    pub(crate) ours: Option<Duration>,
}

struct Row {
    at: Duration,
    attack: &'static Attack,
    bare_status: Option<u16>,
    status: Option<u16>,
    stopped: Option<String>,
    /// What is said where nothing stopped it.
    otherwise: String,
    ok: bool,
}

impl Board {
    pub(crate) fn new(trust_domain: String, proxies: usize, took: Duration) -> Board {
        Board {
            trust_domain,
            revision: 0,
            proxies,
            took,
            link: String::new(),
            dir: String::new(),
            rate: 0.0,
            shield: Shield::Up,
            paused: false,
            why: Vec::new(),
            rows: Vec::new(),
            stopped: 0,
            passed: 0,
        }
    }

    /// Lines that an explanation may have, so that frame and last attack stay on the screen.
    pub(crate) fn room_for_why(height: usize) -> usize {
        height.saturating_sub(FRAME_LINES + 1).max(4)
    }

    /// One more attack, with the time since the start.
    pub(crate) fn add(&mut self, at: Duration, attack: &'static Attack, outcome: &Outcome) {
        if outcome.ok {
            self.stopped += 1;
        } else {
            self.passed += 1;
        }
        let stopped = outcome.stopped_at.as_ref().map(|place| {
            let why = outcome.reason.as_deref().unwrap_or(&outcome.detail);
            format!("{place:<8} {why}")
        });
        let (bare_status, status, ok) = (outcome.bare_status, outcome.status, outcome.ok);
        self.rows.push(Row {
            at,
            attack,
            bare_status,
            status,
            stopped,
            otherwise: outcome.detail.clone(),
            ok,
        });
        if self.rows.len() > MAX_ROWS {
            self.rows.remove(0);
        }
    }

    /// The newest row, as one line.
    pub(crate) fn last_row(&self, style: Style) -> String {
        self.rows
            .last()
            .map_or_else(String::new, |row| row.line(style))
    }

    /// `WHO TRIED BARE HERE STOPPED AT`.
    pub(crate) fn header(style: Style) -> String {
        style.bold(&format!(
            "     {:<10} {:<31}{:>4}  {:>4}  STOPPED AT",
            "WHO", "TRIED", "BARE", "HERE"
        ))
    }

    /// The whole screen, at most so many lines.
    pub(crate) fn lines(
        &self,
        elapsed: Duration,
        figures: Figures,
        height: usize,
        style: Style,
    ) -> Vec<String> {
        let mut lines = self.head(elapsed, style);
        lines.push(self.honest(figures, style));
        lines.push(self.attacks(style));
        lines.push(Board::header(style));
        let room = height.saturating_sub(FRAME_LINES + self.why.len()).max(1);
        let shown = self
            .rows
            .get(self.rows.len().saturating_sub(room)..)
            .unwrap_or_default();
        lines.extend(shown.iter().map(|row| row.line(style)));
        lines.extend(self.why.iter().cloned());
        lines.push(self.keys(style));
        lines.truncate(height);
        lines
    }

    fn head(&self, elapsed: Duration, style: Style) -> Vec<String> {
        let title = format!(
            "{}   {}   rev {}   {} of {} proxies ready in {:.1} s",
            style.bold("testudo demo"),
            self.trust_domain,
            self.revision,
            self.proxies,
            self.proxies,
            self.took.as_secs_f64(),
        );
        let gate = match self.shield {
            Shield::Up => style.green("gateway"),
            Shield::Moving => style.yellow("gateway"),
            Shield::Down => style.red("gateway"),
        };
        vec![
            format!("{title}   {}", style.dim(&clock(elapsed))),
            self.link.clone(),
            style.dim(&format!("all on this machine   {}", self.dir)),
            format!(
                "  shoppers ══{:.0}/s══▶ {gate} ╦═▶ storefront ─▶ catalog",
                self.rate
            ),
            format!(
                "{}╚═▶ orders ─────▶ payments",
                " ".repeat(27 + format!("{:.0}", self.rate).len())
            ),
        ]
    }

    fn honest(&self, figures: Figures, style: Style) -> String {
        let ours = figures.ours.map_or_else(String::new, |ours| {
            format!(" (ours {:.2})", milliseconds(ours))
        });
        let trouble = format!("{} denied", figures.denied);
        let trouble = if figures.denied == 0 {
            trouble
        } else {
            style.red(&trouble)
        };
        let failed = if figures.failed == 0 {
            String::new()
        } else {
            style.red(&format!("   {} failed", figures.failed))
        };
        format!(
            "honest   {} sent   {} answered   {trouble}{failed}   p99 {:.1} ms{ours}",
            figures.sent,
            figures.answered,
            milliseconds(figures.p99),
        )
    }

    fn attacks(&self, style: Style) -> String {
        let passed = format!("{} passed", self.passed);
        let passed = if self.passed == 0 {
            passed
        } else {
            style.red(&passed)
        };
        let stopped = style.green(&format!("{} stopped", self.stopped));
        format!("attacks  {} kinds   {stopped}   {passed}", attack_count())
    }

    fn keys(&self, style: Style) -> String {
        let shield = match self.shield {
            Shield::Up => "o shield down (attacks pass)",
            Shield::Moving => "o …",
            Shield::Down => "o shield up",
        };
        let pause = if self.paused {
            "space go on"
        } else {
            "space pause"
        };
        style.dim(&format!(
            "⏎ why   {shield}   {pause}   d dashboard   q quit"
        ))
    }
}

impl Row {
    fn line(&self, style: Style) -> String {
        let status = |status: Option<u16>| {
            status.map_or_else(|| "–".to_owned(), |status| status.to_string())
        };
        let bare = format!("{:>4}", status(self.bare_status));
        let here = format!("{:>4}", status(self.status));
        let (here, end) = match &self.stopped {
            Some(stopped) if self.ok => (style.green(&here), escape(stopped)),
            Some(stopped) => (style.yellow(&here), escape(stopped)),
            None => (style.red(&here), style.red(&escape(&self.otherwise))),
        };
        format!(
            "{} {:<10} {:<31}{}  {here}  {end}",
            clock(self.at),
            self.attack.who,
            self.attack.tried,
            style.dim(&bare)
        )
    }
}

fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::attacks::ATTACKS;

    fn outcome(
        status: Option<u16>,
        stopped_at: Option<&str>,
        reason: Option<&str>,
        detail: &str,
    ) -> Outcome {
        Outcome {
            bare_status: Some(200),
            status,
            reason: reason.map(str::to_owned),
            stopped_at: stopped_at.map(str::to_owned),
            detail: detail.to_owned(),
            request_id: None,
            ok: stopped_at.is_some(),
        }
    }

    #[test]
    fn the_screen_reads_as_designed() {
        let mut board = Board::new("shop.test".to_owned(), 5, Duration::from_millis(1800));
        board.revision = 1;
        board.rate = 212.0;
        board.link = "http://127.0.0.1:7100/#token=k7Qm".to_owned();
        board.dir = "/tmp/shop".to_owned();
        let find = |name| ATTACKS.iter().find(|attack| attack.name == name).unwrap();
        let second = Duration::from_secs;
        board.add(
            second(5),
            find("no-token"),
            &outcome(Some(401), Some("edge"), Some("authn.missing"), ""),
        );
        board.add(
            second(11),
            find("other-authority"),
            &outcome(None, Some("payments"), None, "TLS refused: UnknownCA"),
        );
        board.add(
            second(12),
            find("others-order"),
            &outcome(Some(200), None, None, "passed"),
        );
        let figures = Figures {
            sent: 2968,
            answered: 2968,
            p99: Duration::from_micros(4100),
            ours: Some(Duration::from_micros(400)),
            ..Figures::default()
        };
        insta::assert_snapshot!(
            board
                .lines(second(14), figures, 24, Style::PLAIN)
                .join("\n")
        );
    }

    #[test]
    fn no_line_is_longer_than_the_screen() {
        let mut board = Board::new("shop.test".to_owned(), 5, Duration::from_secs(1));
        for attack in ATTACKS {
            board.add(
                Duration::ZERO,
                attack,
                &outcome(Some(403), Some("payments"), Some("route.undocumented"), ""),
            );
        }
        let lines = board.lines(Duration::ZERO, Figures::default(), 100, Style::PLAIN);
        assert!(
            lines.iter().all(|line| line.chars().count() <= 100),
            "{lines:#?}"
        );
        assert_eq!(
            board
                .lines(Duration::ZERO, Figures::default(), 20, Style::PLAIN)
                .len(),
            20
        );
    }
}
