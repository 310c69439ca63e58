//! Ending when the parent ends: no child of `up`, `run` or `demo` outlives it, not even after SIGKILL.
//!
//! Linux sends the signal when the *thread* that made the child ends, so children are spawned from the
//! main thread, which lives as long as its process.

use rustix::process::{Pid, Signal, getppid};

use crate::failure::{Failure, OrFail as _};

/// What to do when the parent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtParentsEnd {
    /// Drain and stop, as on SIGTERM.
    Stop,
    /// End at once: for programs that may ignore SIGTERM.
    Kill,
}

/// Ties this process to `parent`, across `exec`. Call it first thing.
///
/// # Errors
/// Where the parent is gone already.
pub(crate) fn tie_to(parent: u32, end: AtParentsEnd) -> Result<(), Failure> {
    #[cfg(target_os = "linux")]
    {
        let signal = match end {
            AtParentsEnd::Stop => Signal::TERM,
            AtParentsEnd::Kill => Signal::KILL,
        };
        rustix::process::set_parent_process_death_signal(Some(signal))
            .or_fail(|| "cannot tie this process to its parent")?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (end, Signal::TERM);
    // The parent may have ended before the line above.
    let wanted = i32::try_from(parent).ok().and_then(Pid::from_raw);
    if wanted.is_none() || getppid() != wanted {
        return Err(Failure::new("the process that started this one is gone"));
    }
    Ok(())
}

/// What this process writes from now on is for its user alone.
pub(crate) fn write_privately() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}
