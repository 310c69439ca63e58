//! `testudo explain`: what a diagnostic, a reason or a metric means and what to do.

use std::process::ExitCode;

use serde_json::{Value, json};
use testudo_policy::explain::{self, Explanation};

use crate::failure::Failure;
use crate::terminal::{self, Format, Style, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// For example limit.never, authz.user or testudo_decisions_total; left out: all codes
    code: Option<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Some(code) = &args.code else {
        return list(args.output);
    };
    let explanation = explain::explain(code).ok_or_else(|| {
        let failure = Failure::new(format!("there is no code {code}"));
        match explain::closest(code) {
            Some(closest) => failure.hint(format!("did you mean {closest}?")),
            None => failure.hint("`testudo explain` lists all"),
        }
    })?;
    match terminal::print_data(args.output, &data(explanation)) {
        Some(printed) => printed?,
        None => terminal::print(&explanation.text())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(output: Format) -> Result<ExitCode, Failure> {
    let all: Vec<Value> = explain::all().map(data).collect();
    if let Some(printed) = terminal::print_data(output, &Value::Array(all)) {
        printed?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["CODE", "MEANS"]);
    for explanation in explain::all() {
        table.row([explanation.code.to_owned(), explanation.title.to_owned()]);
    }
    terminal::print(&table.render(Style::for_stdout()))?;
    Ok(ExitCode::SUCCESS)
}

fn data(explanation: &Explanation) -> Value {
    json!({
        "code": explanation.code,
        "title": explanation.title,
        "meaning": explanation.meaning,
        "causes": explanation.causes,
        "action": explanation.action,
    })
}
