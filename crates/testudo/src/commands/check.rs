//! `testudo check`: is this bundle right? Every error at once.

use std::path::Path;

use testudo_policy::bundle::Bundle;
use testudo_policy::config::{self, Config};
use testudo_policy::diagnostic::{Diagnostic, Diagnostics};

use crate::failure::Failure;
use crate::terminal;

/// A bundle that was read and checked.
pub(crate) struct Checked {
    pub(crate) bundle: Bundle,
    config: Option<Config>,
    diagnostics: Vec<Diagnostic>,
    errors: bool,
}

/// Reads and checks a folder.
pub(crate) fn load(dir: &Path) -> Result<Checked, Failure> {
    let mut diagnostics = Diagnostics::default();
    let bundle = match testudo_policy::bundle::load(dir) {
        Ok(bundle) => bundle,
        Err(found) => {
            diagnostics = found;
            Bundle::default()
        }
    };
    let config = config::read(&bundle, &mut diagnostics);
    Ok(Checked {
        bundle,
        config,
        errors: diagnostics.has_errors(),
        diagnostics: diagnostics.sorted(),
    })
}

impl Checked {
    /// Whether it may be applied.
    pub(crate) fn is_ok(&self) -> bool {
        !self.errors && self.config.is_some()
    }

    /// Whether there is nothing to say.
    pub(crate) fn is_clean(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// The configuration, where it may be applied.
    pub(crate) fn config(&self) -> Option<&Config> {
        self.config.as_ref().filter(|_| !self.errors)
    }

    pub(crate) fn print_table(&self) -> Result<(), Failure> {
        for diagnostic in &self.diagnostics {
            terminal::line(&format!(
                "{} {} {}",
                diagnostic.code, diagnostic.span.file, diagnostic.message
            ))?;
        }
        Ok(())
    }
}
