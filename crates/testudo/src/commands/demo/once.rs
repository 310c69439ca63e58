//! `testudo demo --once`: every attack once, then the account (DESIGN §12).

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{ONCE_RATE, Stage};
use crate::commands::exit_code;
use crate::commands::up::Stop;
use crate::demo::attack::{Outcome, Scene};
use crate::demo::attacks::{ATTACKS, Attack, PATIENT, attack_count};
use crate::demo::board::Board;
use crate::demo::traffic::Honest;
use crate::failure::Failure;
use crate::terminal::{self, Format, Style};

/// From the start of the program. The rest of the 40 s is for stopping.
const DEADLINE: Duration = Duration::from_secs(34);
/// Fewer honest requests prove little.
const HONEST_AT_LEAST: u64 = 150;
const BETWEEN_ATTACKS: Duration = Duration::from_millis(60);

pub(super) async fn play(
    stage: &Stage,
    output: Format,
    stop: &mut Stop,
) -> Result<ExitCode, Failure> {
    let style = Style::for_stdout();
    let mut board = stage.board().await;
    let table = output == Format::Table;
    if table {
        terminal::line(&format!(
            "{}   {}   rev {}   {} of {} proxies ready in {:.1} s\n\n{}",
            style.bold("testudo demo"),
            board.trust_domain,
            board.revision,
            board.proxies,
            board.proxies,
            board.took.as_secs_f64(),
            Board::header(style)
        ))?;
    }
    let traffic = stage.traffic(ONCE_RATE);
    let deadline = stage.begun + DEADLINE;
    let scene = stage.scene();
    // What takes a few seconds to see is tried beside the rest.
    let cut = Notify::new();
    let patient = async {
        let all = PATIENT
            .iter()
            .map(async |attack| (attack, scene.attack(attack).await, stage.begun.elapsed()));
        tokio::select! {
            all = tokio::time::timeout_at(deadline.into(), join_all(all)) => all.unwrap_or_default(),
            () = cut.notified() => Vec::new(),
        }
    };
    let others = async {
        let outcomes = others(stage, &scene, &mut board, deadline, table, stop).await;
        if !matches!(&outcomes, Ok(outcomes) if outcomes.len() == ATTACKS.len()) {
            cut.notify_one();
        }
        outcomes
    };
    let (patient, outcomes) = tokio::join!(patient, others);
    let mut outcomes = outcomes?;
    for (attack, outcome, at) in patient {
        board.add(at, attack, &outcome);
        if table {
            terminal::line(&board.last_row(style))?;
        }
        outcomes.push((attack, outcome));
    }
    let cut_short = outcomes.len() < attack_count();
    while !cut_short && traffic.honest.borrow().sent < HONEST_AT_LEAST && Instant::now() < deadline
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let honest = traffic.honest.clone();
    traffic.stop().await;
    let honest = honest.borrow();
    let stopped = outcomes.iter().all(|(_, outcome)| outcome.ok) && !cut_short;
    let ok = stopped && honest.denied == 0 && honest.failed == 0 && honest.sent == honest.answered;
    report(stage, output, &outcomes, &honest, ok)?;
    Ok(exit_code(ok))
}

/// One after the other, until told to stop.
async fn others(
    stage: &Stage,
    scene: &Scene<'_>,
    board: &mut Board,
    deadline: Instant,
    table: bool,
    stop: &mut Stop,
) -> Result<Vec<(&'static Attack, Outcome)>, Failure> {
    let style = Style::for_stdout();
    let mut outcomes = Vec::new();
    for attack in ATTACKS {
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(left, scene.attack(attack)) => outcome,
            () = stop.asked() => break,
        };
        let Ok(outcome) = outcome else { break };
        board.add(stage.begun.elapsed(), attack, &outcome);
        if table {
            terminal::line(&board.last_row(style))?;
        }
        outcomes.push((attack, outcome));
        tokio::time::sleep(BETWEEN_ATTACKS).await;
    }
    Ok(outcomes)
}

fn report(
    stage: &Stage,
    output: Format,
    outcomes: &[(&Attack, Outcome)],
    honest: &Honest,
    ok: bool,
) -> Result<(), Failure> {
    let data = account(
        &stage.mesh.paths.dir.display().to_string(),
        outcomes,
        honest,
        ok,
    );
    if let Some(printed) = terminal::print_data(output, &data) {
        return printed;
    }
    let style = Style::for_stdout();
    let stopped = outcomes.iter().filter(|(_, outcome)| outcome.ok).count();
    let verdict = if ok {
        style.green("ok")
    } else {
        style.red("not ok")
    };
    terminal::line(&format!(
        "\n{verdict}   attacks {stopped} of {} stopped   honest {} sent, {} answered, {} denied, {} failed",
        attack_count(),
        honest.sent,
        honest.answered,
        honest.denied,
        honest.failed,
    ))?;
    if let Some(trouble) = &honest.trouble {
        terminal::line(&format!(
            "first trouble of an honest shopper: {}",
            terminal::escape(trouble)
        ))?;
    }
    terminal::line("more: testudo demo (live)     testudo demo --dir shop (keeps the bundle)")
}

/// DESIGN §12.
fn account(bundle: &str, outcomes: &[(&Attack, Outcome)], honest: &Honest, ok: bool) -> Value {
    let attacks: Vec<Value> = outcomes
        .iter()
        .map(|(attack, outcome)| {
            json!({
                "name": attack.name,
                "tried": format!("{}: {}", attack.who, attack.tried),
                "bare_status": outcome.bare_status,
                "status": outcome.status,
                "reason": outcome.reason,
                "stopped_at": outcome.stopped_at,
                "ok": outcome.ok,
            })
        })
        .collect();
    json!({
        "ok": ok,
        "bundle": bundle,
        "attacks": attacks,
        "honest": {
            "sent": honest.sent, "answered": honest.answered, "denied": honest.denied, "failed": honest.failed,
        },
    })
}
