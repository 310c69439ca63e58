//! What ends a command: what is wrong, where, and what to do about it. Knows nothing of commands.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// The answer is no, or something failed.
pub(crate) const NO: u8 = 1;
/// The command was used wrongly.
pub(crate) const USAGE: u8 = 2;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    place: Option<String>,
    hint: Option<String>,
    code: u8,
    /// The reader of our output went away: nothing is wrong and nobody listens.
    silent: bool,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Failure {
        Failure {
            what: what.into(),
            place: None,
            hint: None,
            code: NO,
            silent: false,
        }
    }

    /// Wrong usage: exit code 2.
    pub(crate) fn usage(what: impl Into<String>) -> Failure {
        Failure {
            code: USAGE,
            ..Failure::new(what)
        }
    }

    /// Where it is wrong: a file and line, an address.
    #[must_use]
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Failure {
        self.place = Some(place.to_string());
        self
    }

    /// What to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Something failed, with everything that caused it.
    pub(crate) fn because(
        what: impl fmt::Display,
        error: &(dyn std::error::Error + 'static),
    ) -> Failure {
        let mut text = what.to_string();
        let mut hint = None;
        let mut next = Some(error);
        while let Some(cause) = next {
            // What to do comes last, whatever caused it.
            let cause_text = cause.to_string();
            let (cause_text, advice) = match cause_text.split_once("\nhint: ") {
                Some((cause_text, advice)) => (cause_text, Some(advice.to_owned())),
                None => (cause_text.as_str(), None),
            };
            hint = advice.or(hint);
            // Some libraries repeat their cause in their own text.
            if !text.ends_with(cause_text) {
                text.push_str(": ");
                text.push_str(cause_text);
            }
            next = cause.source();
        }
        Failure {
            hint,
            ..Failure::new(text)
        }
    }

    /// Writing to standard output failed.
    pub(crate) fn output(error: &io::Error) -> Failure {
        Failure {
            silent: error.kind() == io::ErrorKind::BrokenPipe,
            ..Failure::new(format!("cannot write the output: {error}"))
        }
    }

    /// Says it on standard error.
    pub(crate) fn report(&self) -> ExitCode {
        if self.silent {
            return ExitCode::SUCCESS;
        }
        let style = crate::terminal::Style::for_stderr();
        eprintln!("{} {}", style.red("error:"), self.what);
        if let Some(place) = &self.place {
            eprintln!("  {} {place}", style.dim("at"));
        }
        if let Some(hint) = &self.hint {
            eprintln!("  {} {hint}", style.bold("hint:"));
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Puts an action in front of an error: `fs::read(path).or_fail(|| format!("cannot read {path}"))`.
pub(crate) trait OrFail<T> {
    fn or_fail<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T, E: std::error::Error + 'static> OrFail<T> for Result<T, E> {
    fn or_fail<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|error| Failure::because(what(), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_named_once() {
        let inner = io::Error::other("no space left");
        let outer = io::Error::other(inner);
        let failure = Failure::because("cannot write x", &outer);
        assert_eq!(failure.to_string(), "cannot write x: no space left");
    }

    #[test]
    fn what_to_do_stands_behind_the_cause() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot listen on 127.0.0.1:1\nhint: choose another port")]
        struct Listen(#[source] io::Error);
        let error = Listen(io::Error::other("in use"));
        let failure = Failure::because("no proxy", &error);
        assert_eq!(
            failure.to_string(),
            "no proxy: cannot listen on 127.0.0.1:1: in use; choose another port"
        );
    }
}
