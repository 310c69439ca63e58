//! `testudo can`: would this be permitted, and by which line? Decided by the code that proxies run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use testudo_guard::Now;
use testudo_policy::cedar::{Answer, Question};

use crate::commands::{check, exit_code};
use crate::failure::{Failure, NO};
use crate::terminal::{self, Format, Style};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A user (alice, ISSUER:ID, anonymous), a service, or gateway; `user:` and `service:` before a name say which
    principal: String,
    /// SERVICE:OPERATION, for example orders:getOrder
    operation: String,
    /// role=…, claim.NAME=…, user=…, caller=…, source_ip=…, time=…, hop=…, and parameters by their names
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// The bundle's folder
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let found = check::load(&args.dir)?;
    let (Some(config), Some(policies)) = (found.config(), &found.checked.policies) else {
        found.print_table()?;
        return Ok(ExitCode::from(NO));
    };
    let apis = &found.checked.apis;
    let seconds = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    let now = Now {
        wall: Duration::from_secs(seconds),
        monotonic: Duration::ZERO,
    };
    let question = Question::parse(
        &args.principal,
        &args.operation,
        &args.settings,
        now,
        config,
        apis,
    );
    let question = question.map_err(|error| {
        let failure = Failure::usage(error.to_string());
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    let answer = policies
        .can(&question, config, apis)
        .ok_or_else(|| Failure::usage(format!("there is no operation {}", args.operation)))?;
    if let Some(printed) = terminal::print_data(args.output, &data(&answer)) {
        printed?;
    } else {
        terminal::print(&text(&answer, Style::for_stdout()))?;
    }
    Ok(exit_code(answer.permitted))
}

fn data(answer: &Answer) -> Value {
    json!({
        "permitted": answer.permitted,
        "principal": answer.principal,
        "operation": answer.operation,
        "policy": answer.policy,
        "missing": answer.missing,
        "permit_if": answer.permit_if,
        "notes": answer.notes,
    })
}

fn text(answer: &Answer, style: Style) -> String {
    let place = |policy: &testudo_model::PolicyRef| format!("{}:{}", policy.file, policy.line);
    let by = answer
        .policy
        .as_ref()
        .map_or_else(|| "no policy permits it".to_owned(), place);
    let mut text = if answer.permitted {
        format!(
            "{} {} may {}   by {by}\n",
            style.green("✓"),
            answer.principal,
            answer.operation
        )
    } else {
        format!(
            "{} {} may not {}   {by}\n",
            style.red("✗"),
            answer.principal,
            answer.operation
        )
    };
    let mut list = |title: &str, lines: &[String]| {
        for (number, line) in lines.iter().enumerate() {
            let title = if number == 0 { title } else { "" };
            text.push_str(&format!("{title:<11} {line}\n"));
        }
    };
    list("Permit  if", &answer.permit_if);
    list("Not said", &answer.missing);
    list("Note", &answer.notes);
    text
}
