//! `testudo top`: the mesh live in a terminal. `state` counts, `view` draws; here they are fed from the
//! API and from the keys.

mod screen;
mod state;
mod view;

use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;

use crate::api::{Api, ApiError};
use crate::commands::block_on;
use crate::commands::observe::sse;
use crate::commands::up::Stop;
use crate::failure::Failure;
use crate::site::Remote;
use crate::terminal;

use screen::Screen;
use state::State;

/// Between two frames.
const REDRAW: Duration = Duration::from_millis(250);
/// Between two looks at proxies and incidents.
const REFRESH: Duration = Duration::from_secs(2);
/// A control plane that takes longer is away.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long `--once` listens.
const LISTEN: Duration = Duration::from_secs(1);
/// Until a stream that ended is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "\
Keys: / filters by any text (service, operation, user, reason, path, proxy), esc clears it, space pauses, q quits.
The table counts every request of the last minute on each edge of the mesh. Under a filter, and below the table,
it is what control was told: every denial, and under heavy load a part of the permits.")]
pub(crate) struct Args {
    /// Show only what contains this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Print one frame after a second, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let state = State::new(args.filter.clone());
    if args.once {
        return block_on(once(&api, state));
    }
    let screen = Screen::open()?;
    block_on(live(&api, state, screen))
}

/// One frame on standard output, for scripts and for tests.
async fn once(api: &Api, mut state: State) -> Result<ExitCode, Failure> {
    refresh(api, &mut state).await?;
    let stream = api.stream("decisions/stream?limit=1000").await?;
    let mut stream = pin!(stream);
    let mut reader = sse::Reader::default();
    let end = tokio::time::Instant::now() + LISTEN;
    while let Ok(Some(Ok(chunk))) = tokio::time::timeout_at(end, stream.next()).await {
        take(&mut state, &mut reader, &chunk);
    }
    terminal::print(&view::text(&state, Screen::size()))?;
    Ok(ExitCode::SUCCESS)
}

async fn live(api: &Api, mut state: State, mut screen: Screen) -> Result<ExitCode, Failure> {
    let mut stop = Stop::new()?;
    refresh(api, &mut state).await?;
    loop {
        // What came before shows something at once; nothing comes twice.
        let since = state.newest().map(|time| format!("&since={time}"));
        let past = format!("decisions/stream?limit=1000{}", since.unwrap_or_default());
        let stream = api.stream(&past).await;
        state.connected = stream.is_ok();
        let ended = match stream {
            Ok(stream) => follow(api, &mut state, &mut screen, &mut stop, stream).await?,
            Err(_) => {
                let nothing = futures_util::stream::pending::<Result<Vec<u8>, ()>>();
                let waiting = follow(api, &mut state, &mut screen, &mut stop, nothing);
                match tokio::time::timeout(RETRY, waiting).await {
                    Ok(ended) => ended?,
                    Err(_) => Ended::Stream,
                }
            }
        };
        if ended == Ended::Asked {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// By a key or a signal.
    Asked,
    /// The stream did.
    Stream,
}

async fn follow<C: AsRef<[u8]>, E>(
    api: &Api,
    state: &mut State,
    screen: &mut Screen,
    stop: &mut Stop,
    stream: impl Stream<Item = Result<C, E>>,
) -> Result<Ended, Failure> {
    let mut stream = pin!(stream);
    let mut reader = sse::Reader::default();
    let mut redraw = tokio::time::interval(REDRAW);
    let mut refreshed = Instant::now();
    loop {
        tokio::select! {
            chunk = stream.next() => match chunk {
                Some(Ok(chunk)) => {
                    take(state, &mut reader, chunk.as_ref());
                    continue;
                }
                _ => {
                    state.connected = false;
                    return Ok(Ended::Stream);
                }
            },
            key = screen.key() => if press(state, key) {
                return Ok(Ended::Asked);
            },
            () = stop.asked() => return Ok(Ended::Asked),
            _ = redraw.tick() => {
                if refreshed.elapsed() >= REFRESH {
                    refreshed = Instant::now();
                    let refreshing = tokio::time::timeout(PATIENCE, refresh(api, state)).await;
                    state.connected = matches!(refreshing, Ok(Ok(())));
                }
            }
        }
        screen.draw(state)?;
    }
}

fn take(state: &mut State, reader: &mut sse::Reader, chunk: &[u8]) {
    for message in reader.push(chunk) {
        if message.event == "missed" {
            state.missed += message.data.parse::<u64>().unwrap_or(1);
        } else if let Ok(event) = serde_json::from_str(&message.data) {
            state.add(&event);
        }
    }
}

async fn refresh(api: &Api, state: &mut State) -> Result<(), Failure> {
    state.set_status(&api.get("status").await?);
    state.set_proxies(&api.get("proxies").await?);
    // An older control has neither.
    let incidents = if_there(api.try_get("incidents?state=open").await)?;
    state.set_incidents(incidents.as_ref());
    let graph = if_there(api.try_get("graph?seconds=60&history=false").await)?;
    state.set_graph(graph.as_ref());
    Ok(())
}

fn if_there(answer: Result<Value, ApiError>) -> Result<Option<Value>, Failure> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(ApiError::Refused(_)) => Ok(None),
        Err(error) => Err(error.into_failure()),
    }
}

/// What a key does; true: it ends.
fn press(state: &mut State, key: Option<KeyEvent>) -> bool {
    // The terminal is gone: nobody watches.
    let Some(key) = key else { return true };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => return true,
        KeyCode::Enter if state.typing => state.typing = false,
        KeyCode::Esc => {
            state.typing = false;
            state.filter.clear();
        }
        KeyCode::Backspace if state.typing => _ = state.filter.pop(),
        KeyCode::Char(character) if state.typing => state.type_in(character),
        KeyCode::Char('/') => state.typing = true,
        KeyCode::Char(' ') => state.pause(),
        KeyCode::Char('q') => return true,
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_filter_pause_and_quit() {
        let mut state = State::new(String::new());
        let mut key = |code| press(&mut state, Some(KeyEvent::new(code, KeyModifiers::NONE)));
        for code in ['/', 'q', ' ', 'x'].map(KeyCode::Char) {
            assert!(!key(code), "{code:?} is typed");
        }
        assert!(!key(KeyCode::Backspace) && !key(KeyCode::Enter));
        assert!(key(KeyCode::Char('q')));
        assert_eq!((state.filter.as_str(), state.typing), ("q ", false));
        assert!(!press(
            &mut state,
            Some(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE))
        ));
        assert_eq!(state.filter, "");
        let end = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(press(&mut state, Some(end)) && press(&mut state, None));
    }
}
