//! `testudo watch simulate`: decision logs through the same windows and detectors, offline: what incidents
//! there would have been, and who would have been contained.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use testudo_control::incidents::{Replay, Replayed, settings};
use testudo_model::Event;
use testudo_policy::bundle;
use testudo_policy::config::{self, Watch};
use testudo_policy::diagnostic::Diagnostics;

use super::incidents::table;
use crate::failure::{Failure, OrFail as _};
use crate::site;
use crate::terminal::{self, Format, Style};

/// A line of a decision log is far shorter.
const LONGEST_LINE: u64 = 1 << 20;

#[derive(clap::Args)]
pub(super) struct SimulateArgs {
    /// Decision logs (JSON lines), `-` for standard input; left out: those of the mesh that ran here
    files: Vec<PathBuf>,
    /// The bundle whose `watch:` holds
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    bundle: PathBuf,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn simulate(args: &SimulateArgs) -> Result<ExitCode, Failure> {
    let watch = watch(&args.bundle)?;
    let files = if args.files.is_empty() {
        own_logs()?
    } else {
        args.files.clone()
    };
    let protected = watch.protect.iter().map(|p| p.name.to_string()).collect();
    let mut replay = Replay::new(settings(&watch), protected);
    let mut logs = Logs::open(&files)?;
    while let Some(event) = logs.next()? {
        replay.add(&event);
    }
    let unreadable = logs.unreadable;
    print(args.output, &replay.finish(), unreadable)?;
    Ok(ExitCode::SUCCESS)
}

/// The knobs of the bundle; without a bundle, those of an empty one.
fn watch(folder: &Path) -> Result<Watch, Failure> {
    if !folder.join(bundle::ROOT_FILE).is_file() {
        return Ok(Watch::default());
    }
    let loaded = bundle::load(folder).map_err(|_| {
        Failure::new("the bundle cannot be read").hint("`testudo check` says what is wrong")
    })?;
    let mut diagnostics = Diagnostics::default();
    let read = config::read(&loaded, &mut diagnostics);
    match read.filter(|_| !diagnostics.has_errors()) {
        Some(config) => Ok(config.watch),
        None => Err(Failure::new("the bundle has errors").hint("`testudo check` lists them")),
    }
}

/// `decisions.jsonl` of every proxy below the state folder.
fn own_logs() -> Result<Vec<PathBuf>, Failure> {
    let here = std::env::current_dir().or_fail(|| "the working directory cannot be read")?;
    let proxies = site::proxies_above(&here);
    let mut found = Vec::new();
    for proxy in proxies.iter().filter_map(|dir| std::fs::read_dir(dir).ok()) {
        for proxy in proxy.flatten() {
            // Rotated ones, too: `decisions.jsonl.1` is the newest of those.
            let logs = std::fs::read_dir(proxy.path()).into_iter().flatten();
            found.extend(logs.flatten().map(|log| log.path()).filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with("decisions.jsonl"))
            }));
        }
    }
    if found.is_empty() {
        return Err(Failure::usage("there are no decision logs here")
            .hint("name them: `testudo watch simulate decisions.jsonl …`"));
    }
    found.sort();
    Ok(found)
}

/// Several logs as one, in order of time.
struct Logs {
    logs: Vec<Box<dyn BufRead>>,
    heads: BinaryHeap<Reverse<(jiff::Timestamp, usize)>>,
    events: Vec<Option<Event>>,
    unreadable: u64,
}

impl Logs {
    fn open(files: &[PathBuf]) -> Result<Logs, Failure> {
        let mut logs: Vec<Box<dyn BufRead>> = Vec::new();
        for file in files {
            if file.as_os_str() == "-" {
                logs.push(Box::new(BufReader::new(stdin())));
            } else {
                let opened =
                    File::open(file).or_fail(|| format!("cannot read {}", file.display()))?;
                logs.push(Box::new(BufReader::new(opened)));
            }
        }
        let mut all = Logs {
            events: logs.iter().map(|_| None).collect(),
            heads: BinaryHeap::new(),
            logs,
            unreadable: 0,
        };
        for index in 0..all.logs.len() {
            all.advance(index)?;
        }
        Ok(all)
    }

    fn next(&mut self) -> Result<Option<Event>, Failure> {
        let Some(Reverse((_, index))) = self.heads.pop() else {
            return Ok(None);
        };
        let event = self.events.get_mut(index).and_then(Option::take);
        self.advance(index)?;
        Ok(event)
    }

    /// Reads the next event of a log.
    fn advance(&mut self, index: usize) -> Result<(), Failure> {
        let Some(log) = self.logs.get_mut(index) else {
            return Ok(());
        };
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = log
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)
                .or_fail(|| "a decision log cannot be read")?;
            if read == 0 {
                return Ok(());
            }
            match serde_json::from_slice::<Event>(&line) {
                Ok(event) => {
                    self.heads.push(Reverse((event.time, index)));
                    if let Some(place) = self.events.get_mut(index) {
                        *place = Some(event);
                    }
                    return Ok(());
                }
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(_) => self.unreadable += 1,
            }
        }
    }
}

fn print(format: Format, replayed: &Replayed, unreadable: u64) -> Result<(), Failure> {
    let contained = |id: &str| replayed.contained.get(id);
    let data = json!({
        "events": replayed.events,
        "late": replayed.late,
        "unreadable": unreadable,
        "from": replayed.span.map(|span| span.0),
        "to": replayed.span.map(|span| span.1),
        "incidents": replayed.incidents,
        "contained": replayed.incidents.iter().filter_map(|incident| {
            let since = contained(&incident.id)?;
            Some(json!({"incident": incident.id, "who": incident.who, "what": incident.what, "since": since}))
        }).collect::<Vec<_>>(),
    });
    if let Some(printed) = terminal::print_data(format, &data) {
        return printed;
    }
    let Some((from, to)) = replayed.span else {
        return terminal::line("no events");
    };
    let list = data.get("incidents").and_then(Value::as_array);
    if let Some(list) = list.filter(|list| !list.is_empty()) {
        terminal::print(&table(list).render(Style::for_stdout()))?;
    }
    for incident in &replayed.incidents {
        if let Some(since) = contained(&incident.id) {
            terminal::line(&format!(
                "{} would have been contained from {since} ({})",
                terminal::escape(&incident.who.name),
                incident.id
            ))?;
        }
    }
    let mut lost = String::new();
    if replayed.late + unreadable > 0 {
        lost = format!(", {} late, {unreadable} unreadable", replayed.late);
    }
    terminal::line(&format!(
        "{} incidents, {} contained in {} events{lost} from {from} to {to}",
        replayed.incidents.len(),
        replayed.contained.len(),
        replayed.events,
    ))?;
    terminal::line(
        "what the logs do not hold was not seen: lost events, restarts, and how much a containment would have touched (max_share)",
    )
}
