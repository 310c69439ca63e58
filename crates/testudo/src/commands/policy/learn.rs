//! `testudo policy learn`: least-privilege policies from calls that were seen, by a running mesh or in decision logs.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_model::Event;
use testudo_policy::learn::observed::{Call, CallKey, Calls};
use testudo_policy::learn::{self, LearnError, LearnOptions, Learned, Principal};

use crate::api::{Api, query_value};
use crate::commands::check::{self, Found};
use crate::commands::{block_on, identity};
use crate::failure::{Failure, NO, OrFail as _};
use crate::site::Remote;
use crate::terminal;

/// A line of a decision log is shorter.
const LONGEST_LINE: u64 = 1024 * 1024;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The bundle's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Only calls of this service, and calls that it makes
    #[arg(long)]
    service: Option<String>,
    /// Only calls that were seen so recently: 90m, 24h (left out: all that are remembered, 30 days)
    #[arg(long, value_name = "DURATION", value_parser = identity::duration)]
    since: Option<Duration>,
    /// From these decision logs instead of a running mesh
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// Operations that anybody may call without a credential: SERVICE:OPERATION, SERVICE:*
    #[arg(long, value_name = "OPERATION", num_args = 1..)]
    anonymous: Vec<String>,
    /// Leave out calls that were let through less often
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_requests: u64,
    /// Write policies/learned.cedar instead of printing it
    #[arg(long)]
    write: bool,
    /// With --write: replace an earlier one, as a whole
    #[arg(long, requires = "write", conflicts_with = "service")]
    force: bool,
    /// Leave the names of users out of the comments
    #[arg(long)]
    no_names: bool,
    /// cedar: the file; json: its policies with their evidence, for programs
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Output {
    #[default]
    Cedar,
    Json,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let found = check::load(&args.dir)?;
    let target = learn::path(&found.bundle).map(|path| args.dir.join(path));
    if let Some(target) = target.filter(|target| args.write && !args.force && target.exists()) {
        return Err(Failure::new(format!(
            "{} is already there; nothing was written",
            target.display()
        ))
        .hint("--force replaces it; what it permits is learned again only if it was seen again"));
    }
    let calls = if args.from.is_empty() {
        from_control(args)?
    } else {
        from_files(args, &found)?
    };
    if calls.is_empty() {
        return Err(
            Failure::new("no calls were seen, so there is nothing to learn from")
                .hint("send traffic through the gateway first; `testudo observe` shows it"),
        );
    }
    let calls = if args.no_names {
        calls.without_names()
    } else {
        calls
    };
    let options = LearnOptions {
        service: args.service.clone(),
        anonymous: args.anonymous.clone(),
        min_requests: args.min_requests,
        now: u64::try_from(Timestamp::now().as_second()).ok(),
    };
    let learned = match learn::learn(&found.bundle, &calls, &options) {
        Ok(learned) => learned,
        Err(LearnError::Bundle(_)) => {
            found.print_table()?;
            return Err(Failure::new("the bundle has errors; nothing was learned"));
        }
        Err(error @ LearnError::NoFolder) => {
            return Err(Failure::new(error.to_string()).hint("add: policies: policies"));
        }
        Err(error @ LearnError::NoService(_)) => return Err(Failure::usage(error.to_string())),
        Err(error @ LearnError::NoOperation { .. }) => return Err(no_operation(error)),
    };
    deliver(args, learned, &calls)
}

fn no_operation(error: LearnError) -> Failure {
    let failure = Failure::usage(error.to_string());
    match error {
        LearnError::NoOperation {
            near: Some(near), ..
        } => failure.hint(format!("did you mean {near}?")),
        _ => failure.hint("write SERVICE:OPERATION, or SERVICE:* for all of a service"),
    }
}

fn deliver(args: &Args, learned: Learned, calls: &Calls) -> Result<ExitCode, Failure> {
    let path = args.dir.join(&learned.path);
    let ok = learned.checked.is_ok();
    let written = args.write && ok;
    if written {
        write(&path, &learned.text, args.force)?;
    }
    match args.output {
        Output::Json => terminal::line(&format!("{:#}", data(&learned, written)))?,
        Output::Cedar if !args.write => terminal::print(&learned.text)?,
        Output::Cedar => {}
    }
    let counted = format!(
        "kinds of calls: {}, of which permitted already: {}     policies: {}, left out: {} (the end of the file says why)",
        calls.len(),
        learned.permitted_already,
        learned.permits.len(),
        learned.left_out.len(),
    );
    if !ok {
        eprintln!("{counted}");
        let found = Found {
            bundle: learned.bundle,
            checked: learned.checked,
        };
        eprint!("{}", found.table());
        return Err(Failure::new(
            "with these policies the bundle has errors elsewhere; nothing was written",
        ));
    }
    eprintln!("{counted}");
    if written {
        eprintln!(
            "wrote {}     read it, then: testudo check     testudo can PRINCIPAL OPERATION",
            path.display()
        );
        eprintln!(
            "a mesh under `testudo up` has it already; when it is right: mode: enforce in testudo.yaml"
        );
    }
    Ok(ExitCode::from(if ok { 0 } else { NO }))
}

#[derive(Deserialize)]
struct Remembered {
    calls: Vec<RememberedCall>,
    #[serde(default)]
    not_kept: u64,
}

#[derive(Deserialize)]
struct RememberedCall {
    #[serde(flatten)]
    key: CallKey,
    #[serde(flatten)]
    call: Call,
}

fn from_control(args: &Args) -> Result<Calls, Failure> {
    let api = Api::new(args.remote.resolve()?)?;
    let mut query = Vec::new();
    if let Some(service) = &args.service {
        query.push(format!("service={}", query_value(service)));
    }
    if let Some(since) = args.since {
        query.push(format!("since={}", since.as_secs()));
    }
    let answer = block_on(api.get(&format!("calls?{}", query.join("&"))))?;
    let remembered: Remembered = serde_json::from_value(answer)
        .or_fail(|| "the control plane's answer is that of another version")?;
    if remembered.not_kept > 0 {
        eprintln!(
            "… {} requests were of calls for which the control plane had no room: they are not in here",
            remembered.not_kept
        );
    }
    let mut calls = Calls::default();
    for RememberedCall { key, call } in remembered.calls {
        calls.merge(key, &call);
    }
    Ok(calls)
}

fn from_files(args: &Args, found: &Found) -> Result<Calls, Failure> {
    let since = args.since.and_then(|since| {
        let since = SignedDuration::try_from(since).ok()?;
        Timestamp::now().checked_sub(since).ok()
    });
    let mut calls = Calls::default();
    let mut unread = 0_u64;
    for path in &args.from {
        let file = File::open(path).or_fail(|| format!("cannot read {}", path.display()))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line);
            if read.or_fail(|| format!("cannot read {}", path.display()))? == 0 {
                break;
            }
            match serde_json::from_slice::<Event>(&line) {
                Ok(event) if since.is_none_or(|since| event.time >= since) => {
                    calls.add(&event, template(found, &event), event.time);
                }
                Ok(_) => {}
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(_) => unread += 1,
            }
        }
    }
    if unread > 0 {
        eprintln!("… lines that are no decisions and were skipped: {unread}");
    }
    Ok(calls)
}

/// The path template of an event's operation.
fn template<'a>(found: &'a Found, event: &Event) -> Option<&'a str> {
    let (service, name) = event.operation.as_deref()?.split_once(':')?;
    let mut operations = found.checked.apis.get(service)?.operations.iter();
    let operation = operations.find(|operation| &*operation.name == name)?;
    Some(&operation.template)
}

/// Never over a file that is there, unless that was asked for; then whole or not at all.
fn write(path: &Path, text: &str, replace: bool) -> Result<(), Failure> {
    let failed = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).or_fail(failed)?;
    }
    if !replace {
        let mut file = File::create_new(path).or_fail(failed)?;
        return file.write_all(text.as_bytes()).or_fail(failed);
    }
    let new = path.with_extension("cedar.new");
    std::fs::write(&new, text).or_fail(failed)?;
    std::fs::rename(&new, path).or_fail(failed)
}

fn data(learned: &Learned, written: bool) -> Value {
    let principal = |principal: &Principal| match principal {
        Principal::Role(name) => json!({"kind": "role", "name": name}),
        Principal::Users => json!({"kind": "user", "name": "*"}),
        Principal::Anonymous => json!({"kind": "anonymous", "name": "anonymous"}),
        Principal::Service(name) => json!({"kind": "service", "name": name}),
    };
    let permits = learned.permits.iter().map(|permit| {
        let evidence = permit.evidence.iter().map(|evidence| {
            json!({
                "operation": evidence.operation,
                "requests": evidence.requests,
                "notes": evidence.notes,
            })
        });
        json!({
            "principal": principal(&permit.principal),
            "service": permit.service,
            "actions": permit.actions,
            "own": permit.own,
            "first": permit.seen.0,
            "last": permit.seen.1,
            "evidence": evidence.collect::<Vec<_>>(),
        })
    });
    let left_out = learned
        .left_out
        .iter()
        .map(|left_out| json!({"what": left_out.what, "why": left_out.why}));
    json!({
        "path": learned.path,
        "written": written,
        "policies": permits.collect::<Vec<_>>(),
        "left_out": left_out.collect::<Vec<_>>(),
        "permitted_already": learned.permitted_already,
        "text": learned.text,
    })
}
