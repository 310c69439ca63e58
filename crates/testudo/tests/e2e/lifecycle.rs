//! Changes and losses under load: reload, lost control plane, killed sidecars, restarts, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::http::{Target, read_response};
use crate::mesh::{Mesh, Ports, free_port, signal, wait_for};
use crate::upstream::{Seen, Upstream, respond};

fn answer(seen: &Seen) -> Option<Vec<u8>> {
    respond(200, &[("content-type", "text/plain")], &seen.path)
}

fn bundle(ports: &Ports, app: &Upstream, extra: &str) -> String {
    format!(
        "version: 1
trust_domain: life.test
{control}gateway:
  listen: 127.0.0.1:{gateway}
  tls: none
  routes:
    - {{path: /, service: items}}
services:
  items:
    app: [127.0.0.1:{app}]
    user: ignore
{extra}",
        control = ports.control(),
        gateway = ports.gateway,
        app = app.address.port(),
    )
}

fn mesh() -> (Mesh, Ports, Upstream) {
    let app = Upstream::start(answer);
    let ports = Ports::free();
    let mesh = Mesh::up(&ports, &[("testudo.yaml", bundle(&ports, &app, ""))], 2);
    (mesh, ports, app)
}

/// Steady requests over a few kept-alive connections; a request that is not answered by 200 counts as failed.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failed: Arc<std::sync::Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(target: &Target) -> Load {
        let load = Load {
            stop: Arc::default(),
            sent: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        let threads = (0..4)
            .map(|number| {
                let target = target.clone();
                let (stop, sent, failed) = (
                    Arc::clone(&load.stop),
                    Arc::clone(&load.sent),
                    Arc::clone(&load.failed),
                );
                std::thread::spawn(move || {
                    let mut stream = None;
                    while !stop.load(Ordering::Relaxed) {
                        // As a well-behaved client: a connection that said `close` is not used again.
                        let mut open = match stream.take() {
                            Some(open) => open,
                            None => match target.connect() {
                                Ok(open) => open,
                                Err(error) => {
                                    failed.lock().unwrap().push(format!("connect: {error}"));
                                    std::thread::sleep(Duration::from_millis(50));
                                    continue;
                                }
                            },
                        };
                        let request =
                            format!("GET /load/{number} HTTP/1.1\r\nhost: life.test\r\n\r\n");
                        let outcome = open
                            .write_all(request.as_bytes())
                            .and_then(|()| open.flush())
                            .and_then(|()| read_response(&mut *open, false));
                        sent.fetch_add(1, Ordering::Relaxed);
                        match outcome {
                            Ok(response) if response.status == 200 => {
                                if response.header("connection") != Some("close") {
                                    stream = Some(open);
                                }
                            }
                            Ok(response) => failed.lock().unwrap().push(format!(
                                "{} {}",
                                response.status,
                                response.text()
                            )),
                            Err(error) => failed.lock().unwrap().push(error.to_string()),
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        Load { threads, ..load }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until the load has gone on for so many more requests.
    fn go_on(&self, requests: u64) {
        let until = self.sent() + requests;
        wait_for("more requests", || self.sent() >= until);
    }

    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failed = self.failed.lock().unwrap().clone();
        (self.sent.load(Ordering::Relaxed), failed)
    }
}

#[test]
fn a_saved_change_reaches_every_proxy_within_a_second_and_fails_no_request() {
    let (mesh, ports, app) = mesh();
    let load = Load::start(&Target::plain(mesh.gateway));
    load.go_on(100);
    let mut slowest = Duration::ZERO;
    for number in 2..8 {
        let extra = format!(
            "limits:\n  - {{name: big, match: {{service: items}}, per: all, rate: {number}00000/s}}\n"
        );
        let saved = Instant::now();
        std::fs::write(mesh.path("testudo.yaml"), bundle(&ports, &app, &extra)).unwrap();
        mesh.in_sync(number);
        slowest = slowest.max(saved.elapsed());
        load.go_on(50);
    }
    let (sent, failed) = load.end();
    assert!(
        failed.is_empty(),
        "{} of {sent} failed: {:?}",
        failed.len(),
        failed.first()
    );
    assert!(
        slowest < Duration::from_secs(1),
        "a change took {slowest:?} to reach every proxy"
    );
}

#[test]
fn a_broken_bundle_changes_nothing() {
    let (mesh, ports, app) = mesh();
    let target = Target::plain(mesh.gateway);
    std::fs::write(mesh.path("testudo.yaml"), "version: 1\ntrust_domain: [\n").unwrap();
    wait_for("the error to be shown", || {
        !mesh.get("/api/v1/status")["bundle_error"].is_null()
    });
    let status = mesh.get("/api/v1/status");
    assert_eq!(status["revision"], 1, "{status}");
    assert_eq!(target.send("GET", "life.test", "/x", &[], b"").status, 200);
    std::fs::write(mesh.path("testudo.yaml"), bundle(&ports, &app, "")).unwrap();
    wait_for("the error to be gone", || {
        mesh.get("/api/v1/status")["bundle_error"].is_null()
    });
}

#[test]
fn a_change_that_a_full_disk_refused_is_applied_once_there_is_space() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let (mesh, ports, app) = mesh();
    let control = Pid::from_raw(i32::try_from(control_pid(&mesh)).unwrap()).unwrap();
    let limit = |current| {
        let limit = Rlimit {
            current,
            maximum: None,
        };
        prlimit(Some(control), Resource::Fsize, limit).unwrap()
    };
    // No byte can be written beyond the first 4 KiB of any file: to control the disk is full.
    limit(Some(4096));
    let extra = "limits:\n  - {name: big, match: {service: items}, per: all, rate: 900000/s}\n";
    std::fs::write(mesh.path("testudo.yaml"), bundle(&ports, &app, extra)).unwrap();
    wait_for("the error to be shown", || {
        !mesh.get("/api/v1/status")["bundle_error"].is_null()
    });
    let status = mesh.get("/api/v1/status");
    assert_eq!(status["revision"], 1, "{status}");
    limit(None);
    // Nobody saves again.
    mesh.in_sync(2);
    wait_for("the error to be gone", || {
        mesh.get("/api/v1/status")["bundle_error"].is_null()
    });
}

#[test]
fn traffic_goes_on_without_control_and_proxies_come_back_to_it() {
    let (mesh, ports, app) = mesh();
    let load = Load::start(&Target::plain(mesh.gateway));
    load.go_on(50);
    let control = control_pid(&mesh);
    signal(control, "KILL");
    load.go_on(200);
    wait_for("control to come back", || {
        control_pid_or_none(&mesh).is_some_and(|pid| pid != control)
    });
    wait_for("the proxies to come back", || {
        answers(&mesh) && mesh.proxies().len() == 2
    });
    // The new control plane's word counts.
    let extra = "limits:\n  - {name: big, match: {service: items}, per: all, rate: 900000/s}\n";
    std::fs::write(mesh.path("testudo.yaml"), bundle(&ports, &app, extra)).unwrap();
    mesh.in_sync(2);
    let (sent, failed) = load.end();
    assert!(
        failed.is_empty(),
        "{} of {sent} failed: {:?}",
        failed.len(),
        failed.first()
    );
}

#[test]
fn a_killed_sidecar_is_back_in_a_second() {
    let (mesh, _ports, _app) = mesh();
    let pid = proxy_pid(&mesh, "items");
    signal(pid, "KILL");
    let killed = Instant::now();
    let target = Target::plain(mesh.gateway);
    wait_for("the sidecar to come back", || {
        target.send("GET", "life.test", "/x", &[], b"").status == 200
            && proxy_pid_or_none(&mesh, "items").is_some_and(|now| now != pid)
    });
    assert!(
        killed.elapsed() < Duration::from_secs(2),
        "{:?}",
        killed.elapsed()
    );
}

#[test]
fn proxies_restart_from_their_last_good_snapshot_while_control_is_away() {
    let (mesh, _ports, _app) = mesh();
    let (sidecar, gateway) = (proxy_pid(&mesh, "items"), proxy_pid(&mesh, ""));
    // A stopped control plane holds its sockets and answers nothing: worse than a dead one.
    let control = control_pid(&mesh);
    signal(control, "STOP");
    signal(sidecar, "KILL");
    signal(gateway, "KILL");
    let target = Target::plain(mesh.gateway);
    wait_for("the mesh to serve again", || {
        target
            .raw(b"GET /x HTTP/1.1\r\nhost: life.test\r\nconnection: close\r\n\r\n")
            .is_ok_and(|response| response.status == 200)
    });
    signal(control, "CONT");
}

#[test]
fn up_ends_in_order_on_sigterm_and_leaves_no_process() {
    let (mut mesh, _ports, _app) = mesh();
    let pids = [
        control_pid(&mesh),
        proxy_pid(&mesh, "items"),
        proxy_pid(&mesh, ""),
    ];
    let status = mesh.terminate();
    assert!(status.success(), "{status}");
    for pid in pids {
        wait_for("every child to end", || !alive(pid));
    }
}

#[test]
fn children_end_when_up_is_killed() {
    let (mesh, _ports, _app) = mesh();
    let pids = [
        control_pid(&mesh),
        proxy_pid(&mesh, "items"),
        proxy_pid(&mesh, ""),
    ];
    signal(mesh.pid(), "KILL");
    for pid in pids {
        wait_for("every child to end", || !alive(pid));
    }
}

#[test]
fn a_gateway_moves_with_the_bundle() {
    let (mesh, mut ports, app) = mesh();
    let at = |port: u16| Target::plain(([127, 0, 0, 1], port).into());
    let old = ports.gateway;
    // Another port, then every address of the same one, which cannot stand beside the first.
    for (address, port) in [("127.0.0.1", free_port()), ("0.0.0.0", 0)] {
        ports.gateway = if port == 0 { ports.gateway } else { port };
        let listen = format!("listen: 127.0.0.1:{}", ports.gateway);
        let yaml = bundle(&ports, &app, "").replace(&listen, &listen.replace("127.0.0.1", address));
        std::fs::write(mesh.path("testudo.yaml"), yaml).unwrap();
        let wanted = format!("{address}:{}", ports.gateway);
        wait_for("the gateway to move", || {
            state_file(&mesh, "ready.json", "gateway")
                .is_some_and(|ready| ready["listen"] == wanted.as_str())
        });
        let response = at(ports.gateway).send("GET", "life.test", "/x", &[], b"");
        assert_eq!(response.status, 200, "{response:?}");
        wait_for("the old address to close", || at(old).connect().is_err());
    }
}

#[test]
fn a_gateway_that_drains_fails_no_request() {
    let app = Upstream::start(|seen| {
        std::thread::sleep(Duration::from_millis(20));
        answer(seen)
    });
    let ports = Ports::free();
    let mesh = Mesh::up(&ports, &[("testudo.yaml", bundle(&ports, &app, ""))], 2);
    let load = Load::start(&Target::plain(mesh.gateway));
    load.go_on(50);
    // The sidecar drains and comes back; calls in flight end, new ones wait or are retried elsewhere.
    signal(proxy_pid(&mesh, ""), "TERM");
    std::thread::sleep(Duration::from_millis(300));
    let (sent, failed) = load.end();
    // Between the end of the drain and the successor's start nobody listens: only that may be seen.
    let broken: Vec<_> = failed
        .iter()
        .filter(|failure| !failure.starts_with("connect: "))
        .collect();
    assert!(
        broken.is_empty(),
        "{} of {sent} failed: {:?}",
        broken.len(),
        broken.first()
    );
}

fn answers(mesh: &Mesh) -> bool {
    let request = format!(
        "GET /healthz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
        mesh.api
    );
    Target::plain(mesh.api)
        .raw(request.as_bytes())
        .is_ok_and(|response| response.status == 200)
}

fn control_pid(mesh: &Mesh) -> u32 {
    control_pid_or_none(mesh).expect("control.json names a process")
}

fn control_pid_or_none(mesh: &Mesh) -> Option<u32> {
    state_file(mesh, "control.json", "")
        .and_then(|ready| u32::try_from(ready["pid"].as_u64()?).ok())
}

/// The process of a service's first proxy, or of the gateway.
fn proxy_pid(mesh: &Mesh, service: &str) -> u32 {
    proxy_pid_or_none(mesh, service).unwrap_or_else(|| panic!("{service} has no ready.json"))
}

/// `None` while it starts.
fn proxy_pid_or_none(mesh: &Mesh, service: &str) -> Option<u32> {
    let name = if service.is_empty() {
        "gateway"
    } else {
        service
    };
    let ready = state_file(mesh, "ready.json", name)?;
    u32::try_from(ready["pid"].as_u64()?).ok()
}

fn state_file(mesh: &Mesh, file: &str, of: &str) -> Option<serde_json::Value> {
    let mut folders = vec![mesh.path(".testudo")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with(file)
                && path
                    .parent()
                    .is_some_and(|parent| parent.to_string_lossy().contains(of))
            {
                return serde_json::from_slice(&std::fs::read(path).ok()?).ok();
            }
        }
    }
    None
}

fn alive(pid: u32) -> bool {
    // A zombie has ended, too.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
