//! `testudo check`: is this bundle right? Every error at once, and exit 1 on errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use testudo_policy::bundle::Bundle;
use testudo_policy::check::{self, CheckOptions, Checked};
use testudo_policy::config::Config;
use testudo_policy::diagnostic::Diagnostic;
use testudo_policy::render::{self, Counts, Report};

use crate::commands::exit_code;
use crate::failure::{Failure, OrFail as _};
use crate::terminal::{self, Style};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The bundle's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Make the changes that are called "fix" where they are certain, then check again
    #[arg(long)]
    fix: bool,
    /// How to print; sarif is for code scanning, github for pull requests
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
    Yaml,
    Sarif,
    Github,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut found = load(&args.dir)?;
    if args.fix {
        let fixed = found.fix(&args.dir)?;
        if fixed > 0 {
            eprintln!(
                "changed {fixed} {}",
                if fixed == 1 { "file" } else { "files" }
            );
            found = load(&args.dir)?;
        }
    }
    match args.output {
        Output::Table => found.print_table()?,
        Output::Json => terminal::line(&format!("{:#}", render::json(found.report())))?,
        Output::Yaml => terminal::print(&terminal::yaml(&render::json(found.report())))?,
        Output::Sarif => terminal::line(&format!("{:#}", render::sarif(found.report())))?,
        Output::Github => terminal::print(&render::github(found.report()))?,
    }
    Ok(exit_code(found.is_ok()))
}

/// A bundle that was read and checked.
pub(crate) struct Found {
    pub(crate) bundle: Bundle,
    pub(crate) checked: Checked,
}

/// Reads and checks a folder. What is wrong with it is in the result, not in the error.
pub(crate) fn load(dir: &Path) -> Result<Found, Failure> {
    if !dir.is_dir() {
        return Err(Failure::usage(format!("{} is not a folder", dir.display()))
            .hint("give the folder with testudo.yaml; `testudo init` writes one"));
    }
    Ok(match testudo_policy::bundle::load(dir) {
        Ok(bundle) => Found {
            checked: check::check(&bundle, &CheckOptions { now: now() }),
            bundle,
        },
        Err(unreadable) => Found {
            bundle: Bundle::default(),
            checked: Checked {
                diagnostics: unreadable.sorted(),
                config: None,
                apis: BTreeMap::new(),
                policies: None,
                counts: Counts::default(),
            },
        },
    })
}

/// Seconds since the epoch.
fn now() -> Option<u64> {
    u64::try_from(jiff::Timestamp::now().as_second()).ok()
}

impl Found {
    fn report(&self) -> Report<'_> {
        self.checked.report(&self.bundle)
    }

    /// Whether it may be applied.
    pub(crate) fn is_ok(&self) -> bool {
        self.checked.is_ok() && self.checked.config.is_some()
    }

    /// What was found.
    pub(crate) fn diagnostics(&self) -> &[Diagnostic] {
        &self.checked.diagnostics
    }

    /// The configuration, where it may be applied.
    pub(crate) fn config(&self) -> Option<&Config> {
        self.checked.config.as_ref().filter(|_| self.is_ok())
    }

    /// The configuration as far as it could be read, errors or not.
    pub(crate) fn read_config(&self) -> Option<&Config> {
        self.checked.config.as_ref()
    }

    /// As people read it.
    pub(crate) fn table(&self) -> String {
        table(self.report())
    }

    /// As people read it.
    pub(crate) fn print_table(&self) -> Result<(), Failure> {
        terminal::print(&self.table())
    }

    /// Makes the certain fixes; how many files changed.
    fn fix(&self, dir: &Path) -> Result<usize, Failure> {
        let changed = testudo_policy::fix::apply(&self.bundle, &self.checked.diagnostics);
        for (path, text) in &changed {
            let path = dir.join(path);
            std::fs::write(&path, text).or_fail(|| format!("cannot write {}", path.display()))?;
        }
        Ok(changed.len())
    }
}

/// A report as people read it.
pub(crate) fn table(report: Report<'_>) -> String {
    let style = render::Style {
        colour: Style::for_stdout().is_colour(),
        ..render::Style::default()
    };
    render::human(report, style)
}
