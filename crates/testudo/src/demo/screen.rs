//! The terminal: an own screen while the demo is live, and the keys that people press.

use std::io::{IsTerminal as _, Write as _};

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};
use tokio::sync::mpsc;

use crate::failure::Failure;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Why,
    Shield,
    Pause,
    Dashboard,
    Quit,
}

/// An own screen; gone, and the old one back, when dropped.
pub(crate) struct Screen {
    keys: mpsc::Receiver<Key>,
}

impl Screen {
    /// `None`: not a terminal, or not one that can do this.
    pub(crate) fn open() -> Option<Screen> {
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return None;
        }
        terminal::enable_raw_mode().ok()?;
        if execute!(
            std::io::stdout(),
            terminal::EnterAlternateScreen,
            cursor::Hide
        )
        .is_err()
        {
            let _ = terminal::disable_raw_mode();
            return None;
        }
        let (sender, keys) = mpsc::channel(8);
        // Blocks on the terminal for as long as the program runs; ends with it.
        std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || read_keys(&sender))
            .ok()?;
        Some(Screen { keys })
    }

    /// The next key that means something.
    pub(crate) async fn key(&mut self) -> Key {
        match self.keys.recv().await {
            Some(key) => key,
            // The terminal is gone: nobody watches.
            None => Key::Quit,
        }
    }

    /// Lines that fit.
    pub(crate) fn height() -> usize {
        terminal::size()
            .map_or(24, |(_, rows)| usize::from(rows))
            .max(8)
    }

    /// Shows these lines and nothing else.
    pub(crate) fn draw(&self, lines: &[String]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        let mut draw = || -> std::io::Result<()> {
            queue!(out, cursor::MoveTo(0, 0), terminal::DisableLineWrap)?;
            for line in lines {
                queue!(
                    out,
                    style::Print(line),
                    terminal::Clear(terminal::ClearType::UntilNewLine),
                    style::Print("\r\n")
                )?;
            }
            queue!(
                out,
                terminal::Clear(terminal::ClearType::FromCursorDown),
                terminal::EnableLineWrap
            )?;
            out.flush()
        };
        draw().map_err(|error| Failure::output(&error))
    }
}

impl Drop for Screen {
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

fn read_keys(sender: &mpsc::Sender<Key>) {
    while let Ok(event) = crossterm::event::read() {
        let Event::Key(key) = event else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let key = match key.code {
            KeyCode::Enter => Key::Why,
            KeyCode::Char('o') => Key::Shield,
            KeyCode::Char(' ') => Key::Pause,
            KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
            KeyCode::Char('c' | 'd') if control => Key::Quit,
            KeyCode::Char('d') => Key::Dashboard,
            _ => continue,
        };
        if sender.blocking_send(key).is_err() {
            return;
        }
    }
}
