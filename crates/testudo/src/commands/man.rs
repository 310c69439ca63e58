//! `testudo man`: manual pages, made from the same definitions that parse.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::failure::{Failure, OrFail as _};
use crate::terminal;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the page of this command only
    command: Option<String>,
    /// Write one page for each command into this folder instead of printing
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut root = Cli::command();
    root.build();
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder).or_fail(|| format!("cannot make {}", folder.display()))?;
        write(folder, "testudo", root.clone())?;
        for command in root
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            write(
                folder,
                &format!("testudo-{}", command.get_name()),
                command.clone(),
            )?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let page = match &args.command {
        None => root,
        Some(name) => root.find_subcommand(name).cloned().ok_or_else(|| {
            Failure::usage(format!("there is no command {name}")).hint("`testudo help` lists them")
        })?,
    };
    terminal::print(&render(page)?)?;
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path, name: &str, command: clap::Command) -> Result<(), Failure> {
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, render(command)?).or_fail(|| format!("cannot write {}", path.display()))
}

fn render(command: clap::Command) -> Result<String, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .or_fail(|| "cannot make the manual page")?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
