//! Commands against a mesh that runs: the sample shop under `up`, `run` beside `control`, and the demo's account.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use testudo_testkit::free_port;

const BINARY: &str = env!("CARGO_BIN_EXE_testudo");

fn wait_for<T>(what: &str, seconds: u64, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// The sample shop on ports of its own.
fn shop() -> tempfile::TempDir {
    assert!(
        Path::new(BINARY).with_file_name("testudo-shop").is_file(),
        "the sample services are not built: cargo build -p testudo-shop"
    );
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let dir = tempfile::tempdir().unwrap();
    for folder in ["", "apis", "policies", "keys"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        for entry in std::fs::read_dir(from.join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(
                    entry.path(),
                    dir.path().join(folder).join(entry.file_name()),
                )
                .unwrap();
            }
        }
    }
    let yaml = std::fs::read_to_string(dir.path().join("testudo.yaml")).unwrap();
    let control = format!(
        "control: {{api: 127.0.0.1:{}, mesh: 127.0.0.1:{}}}\ngateway:\n",
        free_port(),
        free_port()
    );
    let yaml = yaml
        .replacen("gateway:\n", &control, 1)
        .replace("127.0.0.1:8443", &format!("127.0.0.1:{}", free_port()));
    std::fs::write(dir.path().join("testudo.yaml"), yaml).unwrap();
    dir
}

struct Running {
    dir: tempfile::TempDir,
    child: Child,
}

impl Running {
    fn start(dir: tempfile::TempDir, arguments: &[&str]) -> Running {
        let log = std::fs::File::create(dir.path().join("output.log")).unwrap();
        let child = Command::new(BINARY)
            .args(arguments)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running { dir, child }
    }

    fn up() -> Running {
        let mut running = Running::start(shop(), &["up"]);
        wait_for("up is ready", 60, || {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", running.output());
            running.output().contains("\ntry      ").then_some(())
        });
        running
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("output.log")).unwrap_or_default()
    }

    fn testudo(&self, arguments: &[&str]) -> Output {
        testudo_in(self.dir.path(), arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let output = self.testudo(&all);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// A request through the gateway by the curl line that `up` printed, with more arguments.
    fn curl(&self) -> String {
        let output = self.output();
        let line = output
            .lines()
            .find(|line| line.starts_with("try "))
            .unwrap();
        let mut words = line.split_whitespace().skip(2);
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--noproxy",
            "*",
        ])
        .args(&mut words);
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn testudo_in(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .current_dir(dir)
        .env_remove("TESTUDO_API")
        .env_remove("TESTUDO_TOKEN")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_running_mesh_can_be_looked_at() {
    let mesh = Running::up();
    assert_eq!(mesh.curl(), "200");

    let names: Vec<Value> = mesh
        .json(&["proxy", "list"])
        .as_array()
        .unwrap()
        .iter()
        .map(|proxy| proxy["name"].clone())
        .collect();
    assert_eq!(
        names,
        [
            "catalog-1",
            "gateway-1",
            "orders-1",
            "payments-1",
            "storefront-1"
        ]
    );
    let shown = mesh.json(&["proxy", "show", "orders-1"]);
    assert_eq!(
        (&shown["service"], &shown["ready"]),
        (&"orders".into(), &true.into()),
        "{shown:#}"
    );
    assert!(shown["effective"].is_object(), "{shown:#}");
    let missing = mesh.testudo(&["proxy", "show", "orders-2"]);
    assert!(
        text(&missing).contains("did you mean orders-1?"),
        "{}",
        text(&missing)
    );
    assert!(
        mesh.testudo(&["proxy", "diff", "orders-1"])
            .status
            .success()
    );
    assert_eq!(
        mesh.testudo(&["proxy", "diff", "orders-1", "payments-1"])
            .status
            .code(),
        Some(1)
    );

    let doctor = mesh.json(&["doctor"]);
    assert_eq!(doctor["ok"], true, "{doctor:#}");
    let identities = mesh.json(&["identity", "show", "orders"]);
    assert_eq!(
        identities[0]["spiffe_id"],
        "spiffe://shop.test/service/orders"
    );
    let svid = mesh.path(".testudo/proxies/orders-1/svid.pem");
    let verified = mesh.json(&["identity", "verify", svid.to_str().unwrap()]);
    assert_eq!(
        verified["spiffe_id"], "spiffe://shop.test/service/orders",
        "{verified:#}"
    );
    let other = [
        "identity",
        "verify",
        svid.to_str().unwrap(),
        "--id",
        "spiffe://shop.test/service/payments",
    ];
    assert_eq!(mesh.testudo(&other).status.code(), Some(1));

    wait_for("the decision arrives", 10, || {
        let output = mesh.testudo(&[
            "observe",
            "--last",
            "50",
            "--service",
            "storefront",
            "-o",
            "json",
        ]);
        let lines = text(&output);
        let event: Value = serde_json::from_str(lines.lines().next()?).ok()?;
        (event["operation"] == "storefront:home" && event["verdict"] == "permit").then_some(())
    });
    let none = mesh.testudo(&[
        "observe",
        "--last",
        "5",
        "--reason",
        "authz.caller",
        "-o",
        "json",
    ]);
    assert_eq!(text(&none), "");

    let again = mesh.testudo(&["up"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again).contains("runs from") && text(&again).contains("already"),
        "{}",
        text(&again)
    );
}

#[test]
fn a_broken_bundle_is_refused_and_services_come_and_go() {
    let mesh = Running::up();
    let yaml = mesh.path("testudo.yaml");
    let original = std::fs::read_to_string(&yaml).unwrap();
    std::fs::write(&yaml, original.replace("trust_domain:", "trust_domian:")).unwrap();
    wait_for("doctor sees the broken bundle", 10, || {
        (!mesh.testudo(&["doctor"]).status.success()).then_some(())
    });
    assert_eq!(mesh.curl(), "200");
    let applied = mesh.testudo(&["policy", "apply"]);
    assert_eq!(applied.status.code(), Some(1));
    assert!(
        text(&applied).contains("trust_domian"),
        "{}",
        text(&applied)
    );

    let port = free_port();
    let shop = Path::new(BINARY).with_file_name("testudo-shop");
    let extra = format!(
        "  extra:\n    app: [127.0.0.1:{port}]\n    run: {} catalog --listen 127.0.0.1:{port}\n\npolicies: policies",
        shop.display()
    );
    let route = "    - {path: /extra, service: extra, strip_prefix: true}\n    # payments";
    let policy = mesh.path("policies/extra.cedar");
    std::fs::write(
        &policy,
        "permit (principal is Anonymous, action == Action::\"extra:GET\", resource);\n",
    )
    .unwrap();
    let more = original
        .replace("\npolicies: policies", &extra)
        .replace("    # payments", route);
    std::fs::write(&yaml, &more).unwrap();
    wait_for("the new service's sidecar", 20, || {
        let proxies = mesh.json(&["proxy", "list"]);
        let proxy = proxies
            .as_array()?
            .iter()
            .find(|proxy| proxy["name"] == "extra-1")?
            .clone();
        (proxy["ready"] == true).then_some(())
    });
    wait_for("the new service's application", 20, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });

    std::fs::remove_file(&policy).unwrap();
    std::fs::write(&yaml, &original).unwrap();
    wait_for("the service is gone", 30, || {
        std::net::TcpStream::connect(("127.0.0.1", port))
            .is_err()
            .then_some(())
    });
}

#[test]
fn a_port_in_use_is_named() {
    let dir = shop();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = dir.path().join("testudo.yaml");
    let text_before = std::fs::read_to_string(&yaml).unwrap();
    let line = text_before
        .lines()
        .find(|line| line.trim_start().starts_with("listen:"))
        .unwrap();
    let replaced = text_before.replace(line, &format!("  listen: {}", taken.local_addr().unwrap()));
    std::fs::write(&yaml, replaced).unwrap();
    let output = testudo_in(dir.path(), &["up"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output);
    assert!(
        message.contains(&taken.local_addr().unwrap().to_string()),
        "{message}"
    );
    assert!(
        message.contains("hint: another program listens there"),
        "{message}"
    );
}

#[test]
fn a_command_runs_with_its_sidecar_and_its_code_comes_back() {
    let control = Running::start(shop(), &["control", ".", "--state", ".testudo"]);
    wait_for("control is ready", 30, || {
        control
            .path(".testudo/control.json")
            .is_file()
            .then_some(())
    });
    let run = |script: &str| control.testudo(&["run", "orders", "--", "sh", "-c", script]);
    let output = run("echo $HTTP_PROXY; test \"$HTTP_PROXY\" = \"$http_proxy\"; exit 7");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(
        text(&output).starts_with("http://testudo:"),
        "{}",
        text(&output)
    );
    // The sidecar's folder has the SVID now: no second token is needed.
    let output = run("kill -KILL $$");
    assert_eq!(output.status.code(), Some(137), "{}", text(&output));
    let unknown = control.testudo(&["run", "nosuch", "--", "true"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        text(&unknown).contains("there is no service nosuch"),
        "{}",
        text(&unknown)
    );
}

#[test]
fn a_demo_in_a_kept_folder_uses_its_new_keys_and_fails_when_attacks_pass() {
    // With ports of its own: those of a folder that is kept may be taken by the next time.
    let folder = shop();
    let demo = || {
        testudo_in(
            folder.path(),
            &["demo", "--once", "--dir", ".", "-o", "json"],
        )
    };
    let first = demo();
    assert!(first.status.success(), "{}", text(&first));
    // The proxies' state is kept, the issuer's key is new: what they enforced last must not count.
    let yaml = folder.path().join("testudo.yaml");
    let original = std::fs::read_to_string(&yaml).unwrap();
    let app = "    app: [unix:.testudo/run/orders.sock]";
    std::fs::write(
        &yaml,
        original.replace(app, &format!("    mode: report\n{app}")),
    )
    .unwrap();
    let second = demo();
    assert_eq!(second.status.code(), Some(1), "{}", text(&second));
    let account: Value =
        serde_json::from_slice(&second.stdout).unwrap_or_else(|_| panic!("{}", text(&second)));
    assert_eq!(account["ok"], false);
    assert_eq!(account["honest"]["denied"], 0, "{account:#}");
    let attacks = account["attacks"].as_array().unwrap();
    let passed = attacks
        .iter()
        .find(|attack| attack["name"] == "others-order")
        .unwrap();
    assert_eq!(
        (&passed["ok"], &passed["status"]),
        (&false.into(), &200.into()),
        "{passed:#}"
    );
}

#[test]
fn the_demo_accounts_for_every_attack() {
    let begun = Instant::now();
    let output = testudo_in(Path::new("."), &["demo", "--once", "-o", "json"]);
    let took = begun.elapsed();
    let account: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    assert!(output.status.success(), "{account:#}");
    assert!(took < Duration::from_secs(40), "{took:?}");
    assert_eq!(account["ok"], true);
    let attacks = account["attacks"].as_array().unwrap();
    assert!(attacks.len() >= 22, "{}", attacks.len());
    let mut reasons = BTreeSet::new();
    for attack in attacks {
        let bare = attack["bare_status"].as_u64().unwrap();
        assert!((200..300).contains(&bare), "{attack:#}");
        assert_eq!(attack["ok"], true, "{attack:#}");
        assert!(attack["stopped_at"].is_string(), "{attack:#}");
        reasons.extend(attack["reason"].as_str());
    }
    assert!(reasons.len() >= 10, "{reasons:?}");
    let honest = &account["honest"];
    assert!(honest["sent"].as_u64().unwrap() >= 100, "{honest}");
    assert_eq!(honest["sent"], honest["answered"], "{honest}");
    assert!(
        !Path::new(account["bundle"].as_str().unwrap()).exists(),
        "a folder of its own is removed"
    );
}
