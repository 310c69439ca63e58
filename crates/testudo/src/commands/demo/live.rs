//! The live demo: a screen that lives, or lines where there is no terminal.

use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::stream::{self, Stream, StreamExt as _};
use serde_json::Value;

use super::{LIVE_RATE, Stage};
use crate::api::Api;
use crate::commands::up::Stop;
use crate::demo::attack::{Outcome, Scene};
use crate::demo::attacks::{ATTACKS, Attack, PATIENT};
use crate::demo::board::{Board, Shield};
use crate::demo::screen::{Key, Screen};
use crate::demo::shield::ShieldFile;
use crate::demo::traffic::Traffic;
use crate::demo::why;
use crate::failure::Failure;
use crate::terminal::{self, Style};

const REDRAW: Duration = Duration::from_millis(200);
const BETWEEN_ATTACKS: Duration = Duration::from_millis(900);
/// A contained attacker comes back.
const BETWEEN_PATIENT: Duration = Duration::from_secs(20);
/// How often decisions are asked for the time that our guard took.
const MEASURE: Duration = Duration::from_secs(2);

pub(super) async fn play(stage: &Stage, stop: &mut Stop) -> Result<ExitCode, Failure> {
    let traffic = stage.traffic(LIVE_RATE);
    let board = stage.board().await;
    let ended = match Screen::open() {
        Some(screen) => Live::new(stage, board, screen).run(&traffic, stop).await,
        None => lines(stage, board, &traffic, stop).await,
    };
    traffic.stop().await;
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Without a terminal: a line for each attack, until told to stop.
async fn lines(
    stage: &Stage,
    mut board: Board,
    traffic: &Traffic,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let style = Style::for_stdout();
    terminal::line(&format!("dashboard {}\n", board.link))?;
    terminal::line(&Board::header(style))?;
    let scene = stage.scene();
    let mut patient = pin!(patient(&scene));
    for (number, attack) in ATTACKS.iter().cycle().enumerate() {
        let mut attacking = pin!(scene.attack(attack));
        let outcome = loop {
            tokio::select! {
                outcome = &mut attacking => break outcome,
                Some((attack, outcome)) = patient.next() => {
                    board.add(stage.begun.elapsed(), attack, &outcome);
                    terminal::line(&board.last_row(style))?;
                }
                () = stop.asked() => return Ok(()),
            }
        };
        board.add(stage.begun.elapsed(), attack, &outcome);
        terminal::line(&board.last_row(style))?;
        if (number + 1) % ATTACKS.len() == 0 {
            let figures = stage.figures(traffic, None);
            terminal::line(&format!(
                "honest   {} sent   {} answered   {} denied   {} failed",
                figures.sent, figures.answered, figures.denied, figures.failed
            ))?;
        }
        // The patient ones go on meanwhile.
        let mut pause = pin!(tokio::time::sleep(BETWEEN_ATTACKS));
        loop {
            tokio::select! {
                () = &mut pause => break,
                Some((attack, outcome)) = patient.next() => {
                    board.add(stage.begun.elapsed(), attack, &outcome);
                    terminal::line(&board.last_row(style))?;
                }
                () = stop.asked() => return Ok(()),
            }
        }
    }
    Ok(())
}

/// The attacks that take a few seconds to see, all at once, beside the others; each again and again.
fn patient(scene: &Scene<'_>) -> impl Stream<Item = (&'static Attack, Outcome)> {
    let each = PATIENT.iter().map(|attack| {
        stream::unfold(Duration::ZERO, move |wait| async move {
            tokio::time::sleep(wait).await;
            Some(((attack, scene.attack(attack).await), BETWEEN_PATIENT))
        })
        .boxed_local()
    });
    stream::select_all(each)
}

struct Live<'a> {
    stage: &'a Stage,
    board: Board,
    screen: Screen,
    shield: ShieldFile,
    ours: Option<Duration>,
    last: Option<(&'static Attack, Outcome)>,
}

/// What the loop goes on with.
enum Turn {
    Attacked(&'static Attack, Outcome),
    Noticed(&'static Attack, Outcome),
    Pressed(Key),
    Tick,
    Stop,
}

impl<'a> Live<'a> {
    fn new(stage: &'a Stage, board: Board, screen: Screen) -> Live<'a> {
        let shield = ShieldFile::new(stage.mesh.paths.dir.join("testudo.yaml"));
        Live {
            stage,
            board,
            screen,
            shield,
            ours: None,
            last: None,
        }
    }

    async fn run(mut self, traffic: &Traffic, stop: &mut Stop) -> Result<(), Failure> {
        let api = self.stage.mesh.api.clone();
        let mut redraw = tokio::time::interval(REDRAW);
        let mut measured = Instant::now();
        let mut seen = (Instant::now(), 0);
        let beside = self.stage.scene();
        let mut patient = pin!(patient(&beside));
        'attacks: for attack in ATTACKS.iter().cycle() {
            let scene = self.stage.scene();
            let mut attacking = pin!(async {
                let outcome = scene.attack(attack).await;
                Turn::Attacked(attack, outcome)
            });
            let mut next_at = None;
            loop {
                let turn = tokio::select! {
                    turn = &mut attacking, if next_at.is_none() => turn,
                    Some((attack, outcome)) = patient.next() => Turn::Noticed(attack, outcome),
                    key = self.screen.key() => Turn::Pressed(key),
                    _ = redraw.tick() => Turn::Tick,
                    () = stop.asked() => Turn::Stop,
                };
                match turn {
                    Turn::Stop | Turn::Pressed(Key::Quit) => break 'attacks,
                    Turn::Attacked(attack, outcome) => {
                        self.board.add(self.stage.begun.elapsed(), attack, &outcome);
                        self.last = Some((attack, outcome));
                        next_at = Some(Instant::now() + BETWEEN_ATTACKS);
                    }
                    Turn::Noticed(attack, outcome) => {
                        self.board.add(self.stage.begun.elapsed(), attack, &outcome);
                        self.last = Some((attack, outcome));
                    }
                    Turn::Pressed(key) => self.press(key, api.as_ref()).await?,
                    Turn::Tick => {
                        if measured.elapsed() > MEASURE {
                            measured = Instant::now();
                            self.measure(api.as_ref(), traffic, &mut seen).await;
                        }
                    }
                }
                self.draw(traffic)?;
                if !self.board.paused && next_at.is_some_and(|next| Instant::now() >= next) {
                    continue 'attacks;
                }
            }
        }
        Ok(())
    }

    async fn press(&mut self, key: Key, api: Option<&Api>) -> Result<(), Failure> {
        match (key, api) {
            (Key::Pause, _) => self.board.paused = !self.board.paused,
            (Key::Dashboard, _) => {
                self.board.why = if self.board.why.is_empty() {
                    open_lines(&self.board.link)
                } else {
                    Vec::new()
                };
                self.board.paused = !self.board.why.is_empty();
            }
            (Key::Why, Some(api)) => {
                self.board.why = match (&self.last, self.board.why.is_empty()) {
                    (Some((attack, outcome)), true) => {
                        let room = Board::room_for_why(Screen::height());
                        why::explain(api, attack, outcome, room, Style::for_stdout()).await
                    }
                    _ => Vec::new(),
                };
                // To be read in peace.
                self.board.paused = !self.board.why.is_empty();
            }
            (Key::Shield, Some(api)) => {
                self.board.shield = Shield::Moving;
                let down = self.shield.toggle(api).await?;
                self.board.shield = if down { Shield::Down } else { Shield::Up };
                self.board.revision = self
                    .stage
                    .mesh
                    .revision()
                    .await
                    .unwrap_or(self.board.revision);
            }
            _ => {}
        }
        Ok(())
    }

    async fn measure(&mut self, api: Option<&Api>, traffic: &Traffic, seen: &mut (Instant, u64)) {
        let sent = traffic.honest.borrow().sent;
        let elapsed = seen.0.elapsed().as_secs_f64().max(0.001);
        // Counts stay far below 2^52.
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = sent.saturating_sub(seen.1) as f64 / elapsed;
        self.board.rate = rate;
        *seen = (Instant::now(), sent);
        if let Some(api) = api
            && let Ok(decisions) = api
                .get("decisions?verdict=permit&proxy=gateway-1&limit=200")
                .await
        {
            self.ours = guard_p99(&decisions);
        }
    }

    fn draw(&self, traffic: &Traffic) -> Result<(), Failure> {
        let figures = self.stage.figures(traffic, self.ours);
        let lines = self.board.lines(
            self.stage.begun.elapsed(),
            figures,
            Screen::height(),
            Style::for_stdout(),
        );
        self.screen.draw(&lines)
    }
}

/// The link, with room around it to be marked and copied. No browser is started from here: its arguments, and the token
/// with them, could be read by every user of this machine.
fn open_lines(link: &str) -> Vec<String> {
    let lines = [
        "",
        "The dashboard, in a browser on this machine:",
        "",
        link,
        "",
    ];
    lines.map(str::to_owned).to_vec()
}

/// 99th percentile of the time that our guard took.
fn guard_p99(decisions: &Value) -> Option<Duration> {
    let micros = decisions
        .as_array()?
        .iter()
        .filter_map(|decision| decision.get("guard_us")?.as_u64());
    let mut micros: Vec<u64> = micros.collect();
    micros.sort_unstable();
    let index = micros.len().checked_sub(1)? * 99 / 100;
    micros.get(index).copied().map(Duration::from_micros)
}
