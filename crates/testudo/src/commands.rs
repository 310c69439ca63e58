//! One file for each command.

use std::process::ExitCode;

use crate::failure::{Failure, OrFail as _};

pub(crate) mod audit;
pub(crate) mod can;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod control;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod identity;
pub(crate) mod init;
pub(crate) mod launch;
pub(crate) mod man;
pub(crate) mod mode;
pub(crate) mod observe;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod top;
pub(crate) mod up;
pub(crate) mod watch;
pub(crate) mod why;

/// Runs a command that waits for I/O, on this thread (see `lifeline` for why on this one).
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_fail(|| "cannot start the runtime")?;
    runtime.block_on(work)
}

/// 0 for yes, 1 for no.
fn exit_code(yes: bool) -> ExitCode {
    if yes {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(crate::failure::NO)
    }
}
