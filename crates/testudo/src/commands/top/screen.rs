//! The terminal of `top`: its own screen, raw keys, and the old terminal back however it ends.

use std::io::{IsTerminal as _, Stdout};

use crossterm::event::{Event, KeyEvent, KeyEventKind};
use crossterm::{cursor, execute, terminal};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use tokio::sync::mpsc;

use super::state::State;
use super::view;
use crate::failure::Failure;

/// An own screen; gone, and the old one back, when dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    keys: mpsc::Receiver<KeyEvent>,
    _restore: Restore,
}

/// Gives the terminal back, also where opening the screen fails half way.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // Best effort: the terminal may be gone.
        let _ = execute!(
            std::io::stdout(),
            terminal::LeaveAlternateScreen,
            cursor::Show
        );
        let _ = terminal::disable_raw_mode();
    }
}

impl Screen {
    pub(super) fn open() -> Result<Screen, Failure> {
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return Err(Failure::usage("this is no terminal")
                .hint("`testudo top --once` prints one frame; `testudo observe` prints lines"));
        }
        let failed =
            |error: std::io::Error| Failure::because("the terminal cannot do this", &error);
        let restore = Restore;
        terminal::enable_raw_mode().map_err(failed)?;
        execute!(
            std::io::stdout(),
            terminal::EnterAlternateScreen,
            cursor::Hide
        )
        .map_err(failed)?;
        let terminal = Terminal::new(CrosstermBackend::new(std::io::stdout())).map_err(failed)?;
        let (sender, keys) = mpsc::channel(32);
        // Blocks on the terminal for as long as the program runs; ends with it.
        std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || read_keys(&sender))
            .map_err(failed)?;
        Ok(Screen {
            terminal,
            keys,
            _restore: restore,
        })
    }

    /// Columns and rows; 80×24 where nobody says.
    pub(super) fn size() -> (u16, u16) {
        let shown = std::io::stdout().is_terminal();
        terminal::size().ok().filter(|_| shown).unwrap_or((80, 24))
    }

    /// The next key; `None`: the terminal is gone.
    pub(super) async fn key(&mut self) -> Option<KeyEvent> {
        self.keys.recv().await
    }

    pub(super) fn draw(&mut self, state: &State) -> Result<(), Failure> {
        let drawn = self.terminal.draw(|frame| view::draw(state, frame));
        drawn.map(|_| ()).map_err(|error| Failure::output(&error))
    }
}

fn read_keys(sender: &mpsc::Sender<KeyEvent>) {
    while let Ok(event) = crossterm::event::read() {
        // A resize is seen when the next frame is drawn.
        if let Event::Key(key) = event
            && key.kind == KeyEventKind::Press
            && sender.blocking_send(key).is_err()
        {
            return;
        }
    }
}
