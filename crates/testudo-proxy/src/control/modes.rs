//! Modes that hold for a while: those that control sends, and those set on this host, which work
//! without control and go before. Each ends on the earlier of three clocks: the wall clock, this
//! process's, and the kernel's.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use testudo_guard::Now;
use testudo_guard::modes::{ModeOverride, Modes};
use testudo_model::{Mode, mesh};
use tokio::sync::Notify;

use super::{Context, text_of};
use crate::boot_clock;
use crate::host_mode::{self, HostMode, Stamp};

/// How often the host's own file is looked at: one `stat` each.
const LOOK: Duration = Duration::from_millis(500);

/// What the link knows of modes.
#[derive(Default)]
pub(super) struct State {
    of_control: RefCell<HashMap<Arc<str>, ModeOverride>>,
    /// With the change that set each: a file that is written anew prolongs nothing.
    of_host: RefCell<HashMap<Arc<str>, (u64, ModeOverride)>>,
    stamp: RefCell<Option<Stamp>>,
    /// Up to which of the host's changes control has all, once it has said so.
    audited: Cell<Option<u64>>,
    /// Rung when there may be changes that control lacks.
    pub(super) changed: Notify,
}

pub(super) fn take(context: &Context, modes: &mesh::Modes) {
    if let Some(audited) = modes.audited {
        context.modes.audited.set(Some(audited));
        context.modes.changed.notify_one();
    }
    let kept = with_boot_time(modes, context.shared.clock.now());
    use_modes(context, &kept);
    context.keep(&kept);
}

/// What a restart needs to know: when each ends by the kernel's clock.
fn with_boot_time(modes: &mesh::Modes, now: Now) -> mesh::Modes {
    let boot = boot_clock::now();
    let longest = host_mode::LONGEST.as_secs();
    let entries = modes.entries.iter().map(|entry| {
        let left = entry.until.saturating_sub(now.unix_seconds()).min(longest);
        let (boot_id, boot_until) = boot.clone().map_or_else(Default::default, |boot| {
            (boot.id, boot.seconds.saturating_add(left))
        });
        mesh::ModeOverride {
            boot_id,
            boot_until,
            ..entry.clone()
        }
    });
    mesh::Modes {
        entries: entries.collect(),
        audited: None,
    }
}

/// Puts control's modes in force, as they came or as they were kept.
pub(super) fn use_modes(context: &Context, modes: &mesh::Modes) {
    let now = context.shared.clock.now();
    let boot = boot_clock::now();
    let mut found = HashMap::new();
    let known = context.modes.of_control.take();
    for entry in &modes.entries {
        let Some(mode) = read_mode(&entry.mode) else {
            tracing::error!(mode = entry.mode, "a mode is not understood");
            continue;
        };
        let deadline = (entry.boot_id.as_str(), entry.boot_until);
        let left = boot_clock::left(entry.until, now.unix_seconds(), deadline, boot.as_ref());
        let Some(left) = left else {
            continue;
        };
        // Told again it is the same one, whatever the clock says meanwhile.
        let same = known
            .get(entry.service.as_str())
            .filter(|known| known.mode == mode && known.until == entry.until);
        let entry_now = match same {
            Some(known) => *known,
            None => entry_until(mode, left, false, now),
        };
        found.insert(Arc::from(entry.service.as_str()), entry_now);
    }
    context.modes.of_control.replace(found);
    put_in_force(context, now);
}

fn entry_until(mode: Mode, left: u64, on_host: bool, now: Now) -> ModeOverride {
    let until = now.unix_seconds().saturating_add(left);
    ModeOverride {
        on_host,
        ..ModeOverride::until(mode, until, now)
    }
}

/// The mode of this word.
fn read_mode(word: &str) -> Option<Mode> {
    match word {
        "enforce" => Some(Mode::Enforce),
        "report" => Some(Mode::Report),
        "observe" => Some(Mode::Observe),
        _ => None,
    }
}

/// Looks at the host's own file, and ends what is over.
pub(super) async fn keep_modes(context: &Context) -> Infallible {
    loop {
        look_at_host(context);
        put_in_force(context, context.shared.clock.now());
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads the host's file where it changed. One that cannot be believed counts for nothing: then the
/// bundle's mode holds.
pub(super) fn look_at_host(context: &Context) {
    let folder = context.store.folder();
    let stamp = Stamp::of(folder);
    if context.modes.stamp.borrow().as_ref() == Some(&stamp) {
        return;
    }
    context.modes.stamp.replace(Some(stamp));
    let set = host_mode::read(folder).unwrap_or_else(|error| {
        tracing::error!(
            error = text_of(&error),
            "modes set on this host are not used"
        );
        Default::default()
    });
    let now = context.shared.clock.now();
    let boot = boot_clock::now();
    let known = context.modes.of_host.take();
    let fresh = |entry: &HostMode| {
        let left = entry.left(now.unix_seconds(), boot.as_ref())?;
        Some(entry_until(entry.mode, left, true, now))
    };
    let found = set.into_iter().filter_map(|(service, entry)| {
        let same = known
            .get(&*service)
            .filter(|(sequence, _)| *sequence == entry.sequence);
        let held = match same {
            Some((_, held)) => *held,
            None => fresh(&entry)?,
        };
        Some((Arc::from(service), (entry.sequence, held)))
    });
    context.modes.of_host.replace(found.collect());
    context.modes.changed.notify_one();
}

/// The host's go before control's; what is over goes.
fn put_in_force(context: &Context, now: Now) {
    let mut merged: HashMap<Arc<str>, ModeOverride> = HashMap::new();
    {
        let mut of_control = context.modes.of_control.borrow_mut();
        of_control.retain(|_, entry| entry.holds(now));
        merged.extend(
            of_control
                .iter()
                .map(|(name, entry)| (name.clone(), *entry)),
        );
        let of_host = context.modes.of_host.borrow();
        let held = of_host.iter().filter(|(_, (_, entry))| entry.holds(now));
        merged.extend(held.map(|(name, (_, entry))| (name.clone(), *entry)));
    }
    let installed = &context.shared.installed;
    let modes = Modes::new(merged);
    if **installed.live.modes.load() == modes {
        return;
    }
    for (service, entry) in modes.active(now) {
        tracing::warn!(
            %service,
            mode = ?entry.mode,
            seconds = entry.ends.saturating_sub(now.monotonic).as_secs(),
            on_host = entry.on_host,
            "a mode holds for a while"
        );
    }
    installed.live.modes.store(Arc::new(modes));
    // Streams that were let pass by a looser mode are judged again.
    installed.changed();
}

/// The host's changes after `sent` that control has not; nothing before it says what it has.
pub(super) fn untold(context: &Context, sent: u64) -> Vec<mesh::ModeChanged> {
    let Some(audited) = context.modes.audited.get() else {
        return Vec::new();
    };
    let folder = context.store.folder();
    let changes = host_mode::changes_after(folder, audited.max(sent)).unwrap_or_else(|error| {
        tracing::error!(error = text_of(&error), "changes of modes cannot be told");
        Vec::new()
    });
    let told = changes.into_iter().map(|change| mesh::ModeChanged {
        service: change.service,
        mode: change.mode.map_or("", word).to_owned(),
        until: change.until,
        at: u64::try_from(change.at.as_second()).unwrap_or_default(),
        by: change.by,
        sequence: change.sequence,
        reason: change.reason,
    });
    told.collect()
}

const fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Report => "report",
        Mode::Observe => "observe",
    }
}
