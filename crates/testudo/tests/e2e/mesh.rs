//! A real mesh on loopback: `testudo up` of the real binary in a folder of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
pub use testudo_testkit::free_port;

use crate::http::{Response, Target, client_config};

pub const TESTUDO: &str = env!("CARGO_BIN_EXE_testudo");

/// `testudo up`, ended (SIGTERM, then by force) when dropped.
pub struct Mesh {
    pub dir: tempfile::TempDir,
    pub api: SocketAddr,
    pub token: String,
    pub gateway: SocketAddr,
    pub roots_pem: String,
    child: Child,
    /// Ends `child` when this process ends without dropping the mesh: a static is never dropped.
    watchdog: Child,
}

/// Writes a bundle's files into `dir`.
pub fn write_bundle(dir: &Path, files: &[(&str, String)]) {
    for (path, content) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// The `control:` and `gateway.listen` of a test's bundle, on free ports.
pub struct Ports {
    pub api: u16,
    pub mesh: u16,
    pub gateway: u16,
}

impl Ports {
    pub fn free() -> Ports {
        Ports {
            api: free_port(),
            mesh: free_port(),
            gateway: free_port(),
        }
    }

    pub fn control(&self) -> String {
        format!(
            "control: {{api: '127.0.0.1:{}', mesh: '127.0.0.1:{}'}}\n",
            self.api, self.mesh
        )
    }
}

impl Mesh {
    /// Starts the bundle and waits until `proxies` of them are ready.
    pub fn up(ports: &Ports, files: &[(&str, String)], proxies: usize) -> Mesh {
        let dir = tempfile::tempdir().unwrap();
        write_bundle(dir.path(), files);
        Mesh::up_in(dir, ports, proxies)
    }

    pub fn up_in(dir: tempfile::TempDir, ports: &Ports, proxies: usize) -> Mesh {
        let log = std::fs::File::create(dir.path().join("up.log")).unwrap();
        // Without XFSZ a test may make a disk "full" by a limit on file sizes.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$0\" up .", TESTUDO])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let api = SocketAddr::from(([127, 0, 0, 1], ports.api));
        let start = Instant::now();
        let token_file = dir.path().join(".testudo/admin.token");
        let fail = |what: &str| -> ! {
            let log = std::fs::read_to_string(dir.path().join("up.log")).unwrap_or_default();
            panic!("{what}; testudo up said:\n{log}\n{}", logs(dir.path()));
        };
        let token = loop {
            if let Ok(token) = std::fs::read_to_string(&token_file)
                && !token.trim().is_empty()
            {
                break token.trim().to_string();
            }
            if let Some(status) = child.try_wait().unwrap() {
                fail(&format!("testudo up ended with {status}"));
            }
            if start.elapsed() > Duration::from_secs(30) {
                let _ = child.kill();
                fail("no admin.token after 30 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut mesh = Mesh {
            gateway: SocketAddr::from(([127, 0, 0, 1], ports.gateway)),
            api,
            token,
            roots_pem: String::new(),
            watchdog: watchdog(child.id(), dir.path()),
            child,
            dir,
        };
        loop {
            let ready = mesh.try_proxies().map_or(0, |list| {
                list.iter().filter(|proxy| proxy["ready"] == true).count()
            });
            if ready >= proxies {
                break;
            }
            if start.elapsed() > Duration::from_secs(40) || mesh.child.try_wait().unwrap().is_some()
            {
                let log =
                    std::fs::read_to_string(mesh.dir.path().join("up.log")).unwrap_or_default();
                panic!(
                    "{ready} of {proxies} proxies ready; testudo up said:\n{log}\n{}",
                    logs(mesh.dir.path())
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // They know each other's addresses, too.
        wait_for("the proxies to be in sync", || {
            mesh.get("/api/v1/status")["proxies"]["in_sync"].as_u64() >= Some(proxies as u64)
        });
        mesh.roots_pem = mesh.get("/api/v1/trust")["roots_pem"]
            .as_str()
            .unwrap()
            .to_string();
        mesh
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The edge, with TLS, trusting the mesh's CA.
    pub fn edge(&self, server_name: &str) -> Target {
        Target::tls(
            self.gateway,
            client_config(&self.roots_pem, &[b"http/1.1"]),
            server_name,
        )
    }

    /// `GET` of the HTTP API.
    pub fn get(&self, path: &str) -> Value {
        let response = self.api_request("GET", path, None);
        assert_eq!(response.status, 200, "GET {path}: {}", response.text());
        response.json()
    }

    pub fn api_request(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let body = body.map(Value::to_string).unwrap_or_default();
        let authorization = format!("Bearer {}", self.token);
        let mut headers = vec![("authorization", authorization.as_str())];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        Target::plain(self.api).send(
            method,
            &self.api.to_string(),
            path,
            &headers,
            body.as_bytes(),
        )
    }

    fn try_proxies(&self) -> Option<Vec<Value>> {
        let request = format!(
            "GET /api/v1/proxies HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            self.api, self.token
        );
        let response = Target::plain(self.api).raw(request.as_bytes()).ok()?;
        response.json().as_array().cloned()
    }

    /// All proxies by name.
    pub fn proxies(&self) -> BTreeMap<String, Value> {
        let list = self.try_proxies().expect("the API answers");
        list.into_iter()
            .map(|proxy| (proxy["name"].as_str().unwrap().to_string(), proxy))
            .collect()
    }

    /// The proxy of a service (its first workload's).
    pub fn sidecar(&self, service: &str) -> Value {
        let proxies = self.proxies();
        let found = proxies.values().find(|proxy| proxy["service"] == service);
        found
            .cloned()
            .unwrap_or_else(|| panic!("{service} has no proxy: {proxies:?}"))
    }

    /// A newest decision for which `wanted` holds; waits for it.
    pub fn decision(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        wait_for(what, || {
            let list = self.get("/api/v1/decisions?limit=1000");
            found = list
                .as_array()
                .unwrap()
                .iter()
                .rev()
                .find(|event| wanted(event))
                .cloned();
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until every proxy runs `revision`.
    pub fn in_sync(&self, revision: u64) {
        wait_for(&format!("revision {revision} everywhere"), || {
            self.proxies()
                .values()
                .all(|proxy| proxy["revision"] == revision)
        });
    }

    /// Runs the binary in the mesh's folder.
    pub fn testudo(&self, args: &[&str]) -> std::process::Output {
        Command::new(TESTUDO)
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        signal(self.child.id(), "TERM");
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "testudo up does not end"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        if self.child.try_wait().ok().flatten().is_none() {
            signal(self.child.id(), "TERM");
            let start = Instant::now();
            while self.child.try_wait().ok().flatten().is_none()
                && start.elapsed() < Duration::from_secs(15)
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default();
            eprintln!("testudo up said:\n{log}\n{}", logs(self.dir.path()));
        }
    }
}

/// Waits for the end of this process (its end of the pipe closes), then ends `pid` and removes its folder.
fn watchdog(pid: u32, dir: &Path) -> Child {
    let script = "cat >/dev/null; kill -TERM $0; for i in $(seq 100); do kill -0 $0 2>/dev/null || break; sleep 0.1; done; rm -rf \"$1\"";
    Command::new("sh")
        .args(["-c", script, &pid.to_string()])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Sends a signal to one process.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status();
}

/// The ends of all logs under `.testudo`.
fn logs(dir: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![dir.join(".testudo")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(15).collect();
                text.push_str(&format!("--- {}\n", path.display()));
                text.extend(tail.into_iter().rev().map(|line| format!("{line}\n")));
            }
        }
    }
    text
}

/// Waits for a condition, for at most 20 seconds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
