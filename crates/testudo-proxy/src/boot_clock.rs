//! The kernel's clock since boot: the one that `date` cannot set back, and that a restart of this
//! process does not lose. Where there is none (not Linux), the wall clock decides alone.

/// A moment of this machine's present boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootTime {
    /// Names the boot.
    pub(crate) id: String,
    /// Seconds since then.
    pub(crate) seconds: u64,
}

/// Now; `None` where the system does not say.
pub(crate) fn now() -> Option<BootTime> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    Some(BootTime {
        id: id.trim().to_owned(),
        seconds: uptime.split('.').next()?.parse().ok()?,
    })
}

/// A deadline on both clocks: what is left until the earlier one. `None`: it is over. A deadline of
/// another boot says nothing about this one.
pub(crate) fn left(
    until: u64,
    wall: u64,
    deadline: (&str, u64),
    boot: Option<&BootTime>,
) -> Option<u64> {
    let by_wall = until.checked_sub(wall).filter(|left| *left > 0)?;
    let (id, boot_until) = deadline;
    match boot {
        Some(boot) if boot.id == id => {
            let by_boot = boot_until.checked_sub(boot.seconds);
            by_boot
                .filter(|left| *left > 0)
                .map(|left| left.min(by_wall))
        }
        Some(_) | None => Some(by_wall),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_was_set_back_prolongs_nothing() {
        let boot = BootTime {
            id: "b".to_owned(),
            seconds: 500,
        };
        let left = |until, wall, id, boot_until| left(until, wall, (id, boot_until), Some(&boot));
        assert_eq!(left(1_000, 900, "b", 600), Some(100));
        assert_eq!(left(1_000, 100, "b", 600), Some(100), "set back by 800 s");
        assert_eq!(left(1_000, 100, "b", 500), None);
        assert_eq!(left(1_000, 1_000, "b", 600), None);
        assert_eq!(left(1_000, 900, "another boot", 1), Some(100));
        assert_eq!(super::left(1_000, 900, ("b", 1), None), Some(100));
    }
}
