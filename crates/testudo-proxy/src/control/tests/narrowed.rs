//! Containments and modes: from control, kept for a restart, and set on the host without control.

use super::*;
use crate::host_mode::{self, Request};

fn containments(until: u64) -> from_control::Message {
    let entry = |id: &str, principal: &str| mesh::Containment {
        id: id.to_owned(),
        kind: "user".to_owned(),
        principal: principal.to_owned(),
        service: "orders".to_owned(),
        operation: "orders:getOrder".to_owned(),
        action: "deny".to_owned(),
        rate: 0.0,
        until,
        reason: "walks order numbers".to_owned(),
    };
    let not_understood = mesh::Containment {
        action: "tarpit".to_owned(),
        ..entry("ctn-3", "shop:eve")
    };
    from_control::Message::Containments(mesh::Containments {
        entries: vec![
            entry("ctn-1", "shop:bob"),
            entry("ctn-2", "anonymous"),
            not_understood,
        ],
    })
}

fn modes(mode: &str, until: u64) -> from_control::Message {
    from_control::Message::Modes(mesh::Modes {
        entries: vec![mesh::ModeOverride {
            service: "orders".to_owned(),
            mode: mode.to_owned(),
            until,
            ..mesh::ModeOverride::default()
        }],
        audited: None,
    })
}

fn contained(shared: &Shared) -> Vec<String> {
    let set = shared.installed.live.containments.load();
    let active = set.active(shared.clock.now());
    active.map(|entry| entry.id.to_string()).collect()
}

fn in_force(shared: &Shared) -> Option<Mode> {
    let modes = shared.installed.live.modes.load();
    modes.of("orders", shared.clock.now())
}

fn report(seconds: u64) -> Request<'static> {
    Request {
        service: "orders",
        set: Some((Mode::Report, Duration::from_secs(seconds))),
        reason: "deploy",
    }
}

#[tokio::test]
async fn what_control_said_last_holds_over_a_restart_without_it() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (shared, running) = start(bench.options_with_token(orders()));
            let mut stream = bench.stream().await;
            let until = shared.clock.wall().unix_seconds() + 3_600;
            stream.apply(containments(until)).await;
            stream.apply(modes("observe", until)).await;
            assert_eq!(contained(&shared), ["ctn-1"]);
            assert_eq!(in_force(&shared), Some(Mode::Observe));
            let shown = crate::effective::json(&shared);
            assert_eq!(shown["containments"][0]["principal"], "shop:bob");
            assert_eq!(shown["modes"][0]["set_by"], "control");
            running.abort();
            drop(stream);
            bench.server.abort();

            let shared = proxy(bench.options(orders()));
            open(&shared).unwrap();
            assert_eq!(contained(&shared), ["ctn-1"]);
            assert_eq!(in_force(&shared), Some(Mode::Observe));
            for file in ["containments.bin", "modes.bin"] {
                assert_eq!(super::mode(&bench.state().join(file)), 0o600);
            }
        })
        .await;
}

#[tokio::test]
async fn a_new_set_replaces_the_old_one_and_ended_ones_do_nothing() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (shared, _running) = start(bench.options_with_token(orders()));
            let mut stream = bench.stream().await;
            let now = shared.clock.wall().unix_seconds();
            stream.apply(containments(now)).await;
            stream.apply(modes("report", now)).await;
            assert!(contained(&shared).is_empty());
            assert_eq!(in_force(&shared), None);
            stream.apply(containments(now + 60)).await;
            stream.apply(modes("report", now + 60)).await;
            assert_eq!(contained(&shared).len(), 1);
            assert_eq!(in_force(&shared), Some(Mode::Report));
            stream.apply(modes("off", now + 60)).await;
            assert_eq!(in_force(&shared), None);
            let none = mesh::Containments::default();
            stream
                .apply(from_control::Message::Containments(none))
                .await;
            assert!(contained(&shared).is_empty());
        })
        .await;
}

#[tokio::test]
async fn a_mode_set_on_the_host_needs_no_control_which_is_told_later() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (_, running) = start(bench.options_with_token(orders()));
            drop(bench.stream().await);
            running.abort();
            bench.server.abort();

            // Control is away.
            let (shared, running) = start(bench.options(orders()));
            let change = host_mode::change(&bench.state(), &report(60)).unwrap();
            let started = Instant::now();
            wait_for("the mode", || in_force(&shared) == Some(Mode::Report)).await;
            assert!(started.elapsed() < Duration::from_secs(1));
            assert_eq!(
                crate::effective::json(&shared)["modes"][0]["set_by"],
                "host"
            );
            running.abort();

            // It is back, and hears of it as soon as it says what it has.
            let (address, _server) = bench.control.serve("127.0.0.1:0").await;
            bench.address = address;
            let (shared, _running) = start(bench.options(orders()));
            assert_eq!(in_force(&shared), Some(Mode::Report), "after a restart too");
            let mut stream = bench.stream().await;
            let audited = |upto| {
                from_control::Message::Modes(mesh::Modes {
                    entries: Vec::new(),
                    audited: Some(upto),
                })
            };
            stream.send(audited(0)).await;
            let told = stream
                .next(|message| match message {
                    from_proxy::Message::ModeChanged(told) => Some(told),
                    _ => None,
                })
                .await;
            assert_eq!(told.sequence, change.sequence);
            assert_eq!(
                (told.service.as_str(), told.mode.as_str()),
                ("orders", "report")
            );
            assert_eq!(told.reason, "deploy");
            stream.apply(audited(change.sequence)).await;

            // Taken back, and told at once.
            let back = Request {
                set: None,
                ..report(0)
            };
            host_mode::change(&bench.state(), &back).unwrap();
            wait_for("the bundle's mode", || in_force(&shared).is_none()).await;
            let told = stream
                .next(|message| match message {
                    from_proxy::Message::ModeChanged(told) => Some(told),
                    _ => None,
                })
                .await;
            assert_eq!((told.mode.as_str(), told.until), ("", 0));
            assert!(told.sequence > change.sequence);
        })
        .await;
}

#[tokio::test]
async fn a_mode_set_on_the_host_ends_and_a_forged_file_counts_for_nothing() {
    LocalSet::new()
        .run_until(async {
            let mut bench = Bench::start().await;
            let (shared, _running) = start(bench.options_with_token(orders()));
            let _stream = bench.stream().await;
            host_mode::change(&bench.state(), &report(3)).unwrap();
            wait_for("the mode", || in_force(&shared) == Some(Mode::Report)).await;
            wait_for("its end", || {
                shared
                    .installed
                    .live
                    .modes
                    .load()
                    .active(shared.clock.now())
                    .count()
                    == 0
            })
            .await;
            wait_for("the list to be empty", || {
                **shared.installed.live.modes.load() == Default::default()
            })
            .await;
            host_mode::change(&bench.state(), &report(60)).unwrap();
            wait_for("the mode", || in_force(&shared) == Some(Mode::Report)).await;
            // A link in place of the file, to one with the same content.
            let file = bench.state().join("mode.json");
            let moved = bench.folder.path().join("moved.json");
            std::fs::rename(&file, &moved).unwrap();
            std::os::unix::fs::symlink(&moved, &file).unwrap();
            wait_for("the bundle's mode", || in_force(&shared).is_none()).await;
        })
        .await;
}
