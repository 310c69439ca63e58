//! Children that are kept alive: started, watched, restarted with growing patience, and stopped.
//!
//! Knows nothing of what they are. Spawn from the main thread only (see `lifeline`).

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::failure::{Failure, OrFail as _};

/// A child that lived this long was fine; its next restart is immediate again.
const SETTLED: Duration = Duration::from_secs(10);
/// Waits before the second, third, … restart of a child that keeps dying.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// A log that has grown over this is set aside when its child starts anew.
const MAX_LOG_BYTES: u64 = 8 << 20;
/// More than anybody watches at once; see [`Events`].
const EVENT_QUEUE: usize = 256;

/// What to run. Made anew for each start, since arguments may change (tokens, learned addresses).
pub(crate) struct Launch {
    pub(crate) command: Command,
}

type Prepare = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = Result<Launch, Failure>>>>>;

/// One child.
pub(crate) struct Part {
    /// For people, and the name of its log.
    pub(crate) name: String,
    pub(crate) log: PathBuf,
    /// After SIGTERM, until SIGKILL.
    pub(crate) patience: Duration,
    pub(crate) prepare: Prepare,
}

/// What happened to a child.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) what: What,
}

/// See [`Event`].
#[derive(Debug)]
pub(crate) enum What {
    Started {
        pid: u32,
    },
    Ended {
        status: ExitStatus,
        after: Duration,
        retry_in: Duration,
    },
    CannotStart {
        failure: Failure,
        retry_in: Duration,
    },
}

/// Bounded; events that nobody reads in time are dropped, children are never held up.
pub(crate) type Events = mpsc::Receiver<Event>;

/// All children of one mesh.
pub(crate) struct Supervisor {
    parts: Vec<(String, Running)>,
    events: mpsc::Sender<Event>,
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Supervisor {
    pub(crate) fn new() -> (Supervisor, Events) {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        (
            Supervisor {
                parts: Vec::new(),
                events,
            },
            receiver,
        )
    }

    /// Starts a child and keeps it alive until [`Supervisor::stop`]. Must be called within a `LocalSet`.
    pub(crate) fn start(&mut self, part: Part) {
        let (stop, stopped) = oneshot::channel();
        let name = part.name.clone();
        let task = tokio::task::spawn_local(keep_alive(part, stopped, self.events.clone()));
        self.parts.push((name, Running { stop, task }));
    }

    #[cfg(test)]
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|(name, _)| name.as_str())
    }

    /// Stops those that `which` names, all at once, and waits for their end.
    pub(crate) async fn stop(&mut self, which: impl Fn(&str) -> bool) {
        let (stopping, kept) = std::mem::take(&mut self.parts)
            .into_iter()
            .partition(|(name, _)| which(name));
        self.parts = kept;
        let stopping: Vec<(String, Running)> = stopping;
        let mut tasks = Vec::new();
        for (_, running) in stopping {
            // A task that has ended already needs no message.
            let _ = running.stop.send(());
            tasks.push(running.task);
        }
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a supervisor's task failed");
            }
        }
    }
}

async fn keep_alive(mut part: Part, mut stop: oneshot::Receiver<()>, events: mpsc::Sender<Event>) {
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let (what, retry_in) = tokio::select! {
            outcome = run_once(&mut part, &events) => match outcome {
                Ok(mut child) => tokio::select! {
                    status = child.wait() => {
                        let after = begun.elapsed();
                        failures = if after >= SETTLED { 0 } else { failures + 1 };
                        let retry_in = backoff(failures);
                        match status {
                            Ok(status) => (What::Ended { status, after, retry_in }, retry_in),
                            Err(error) => (What::CannotStart { failure: Failure::because("cannot wait for it", &error), retry_in }, retry_in),
                        }
                    }
                    _ = &mut stop => {
                        end(&mut child, part.patience).await;
                        return;
                    }
                },
                Err(failure) => {
                    failures += 1;
                    let retry_in = backoff(failures + 1);
                    (What::CannotStart { failure, retry_in }, retry_in)
                }
            },
            _ = &mut stop => return,
        };
        let _ = events.try_send(Event {
            name: part.name.clone(),
            what,
        });
        tokio::select! {
            () = tokio::time::sleep(retry_in) => {}
            _ = &mut stop => return,
        }
    }
}

/// Nothing after the first death, then twice as long each time.
fn backoff(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => FIRST_BACKOFF
            .saturating_mul(1 << (more - 2).min(8))
            .min(LONGEST_BACKOFF),
    }
}

async fn run_once(part: &mut Part, events: &mpsc::Sender<Event>) -> Result<Child, Failure> {
    let Launch { mut command } = (part.prepare)().await?;
    let log = open_log(&part.log)?;
    let errors = log.try_clone().or_fail(|| "cannot share the log")?;
    // A group of its own: Ctrl-C in the terminal reaches only us, and we stop children in order.
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true);
    let child = command
        .spawn()
        .or_fail(|| format!("cannot start {}", part.name))?;
    let pid = child.id().unwrap_or(0);
    let _ = events.try_send(Event {
        name: part.name.clone(),
        what: What::Started { pid },
    });
    Ok(child)
}

fn open_log(path: &Path) -> Result<std::fs::File, Failure> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        std::fs::rename(path, aside).or_fail(|| format!("cannot set {} aside", path.display()))?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .or_fail(|| format!("cannot write {}", path.display()))
}

/// SIGTERM, and SIGKILL to the whole group when patience ends.
async fn end(child: &mut Child, patience: Duration) {
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(patience, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    // Whatever the child itself had started.
    if let Some(pid) = pid {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// The last lines of a log, for messages.
pub(crate) fn log_tail(path: &Path, lines: usize) -> Vec<String> {
    let Ok(text) = std::fs::read(path) else {
        return Vec::new();
    };
    let text = text
        .get(text.len().saturating_sub(16 << 10)..)
        .unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let mut from = all.len().saturating_sub(lines);
    // What a process said at its end, without what it did before and what the attempt before said.
    if let Some(error) = all.iter().rposition(|line| line.starts_with("error: ")) {
        from = from.max(error);
    }
    let tail = all.get(from..).unwrap_or_default();
    tail.iter()
        .map(|line| crate::terminal::escape(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_and_ends() {
        let waits: Vec<u128> = (0..9)
            .map(|failures| backoff(failures).as_millis())
            .collect();
        assert_eq!(waits, [0, 0, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    fn part(dir: &Path, script: &'static str) -> Part {
        Part {
            name: "test".to_owned(),
            log: dir.join("test.log"),
            patience: Duration::from_secs(5),
            prepare: Box::new(move || {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                Box::pin(async move { Ok(Launch { command }) })
            }),
        }
    }

    fn local<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, work)
    }

    #[test]
    fn what_dies_comes_back_at_once() {
        let dir = tempfile::tempdir().unwrap();
        local(async {
            let (mut supervisor, mut events) = Supervisor::new();
            supervisor.start(part(dir.path(), "echo hello; exec sleep 60"));
            let Some(Event {
                what: What::Started { pid },
                ..
            }) = events.recv().await
            else {
                panic!("not started")
            };
            kill_process(
                Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
                Signal::KILL,
            )
            .unwrap();
            let killed = Instant::now();
            assert!(matches!(
                events.recv().await.unwrap().what,
                What::Ended { .. }
            ));
            assert!(matches!(
                events.recv().await.unwrap().what,
                What::Started { .. }
            ));
            assert!(killed.elapsed() < Duration::from_secs(1));
            supervisor.stop(|_| true).await;
            assert_eq!(supervisor.names().count(), 0);
        });
    }

    #[test]
    fn what_will_not_stop_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        local(async {
            let (mut supervisor, mut events) = Supervisor::new();
            let mut stubborn = part(
                dir.path(),
                "trap '' TERM; sleep 60 & echo $!; while :; do sleep 1; done",
            );
            stubborn.patience = Duration::from_millis(300);
            supervisor.start(stubborn);
            assert!(matches!(
                events.recv().await.unwrap().what,
                What::Started { .. }
            ));
            let log = dir.path().join("test.log");
            let child = loop {
                if let Some(line) = log_tail(&log, 1).first() {
                    break line.parse::<i32>().unwrap();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            supervisor.stop(|_| true).await;
            let gone = || {
                let stat =
                    std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
                // A zombie that its new parent has not collected yet is gone as well.
                stat.is_empty() || stat.contains(") Z ")
            };
            for _ in 0..100 {
                if gone() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("the grandchild lives on");
        });
    }
}
