//! `testudo audit` against a control plane whose log somebody changes behind its back.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::mesh::{Ports, TESTUDO, signal, wait_for, write_bundle};

/// `testudo control` alone, ended with SIGTERM.
struct Control(Child);

impl Control {
    fn start(dir: &Path) -> Control {
        let announced = dir.join("state/control.json");
        let _ = std::fs::remove_file(&announced);
        let log = std::fs::File::create(dir.join("control.log")).unwrap();
        let child = Command::new(TESTUDO)
            .args(["control", "bundle", "--state", "state"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let control = Control(child);
        wait_for("control to be ready", || announced.exists());
        control
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        signal(self.0.id(), "TERM");
        let _ = self.0.wait();
    }
}

fn audit(dir: &Path, ports: &Ports, arguments: &[&str]) -> (Output, String) {
    let api = format!("http://127.0.0.1:{}", ports.api);
    let output = Command::new(TESTUDO)
        .arg("audit")
        .args(arguments)
        .args(["--api", &api, "--token-file", "state/admin.token"])
        .current_dir(dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

#[test]
fn a_changed_audit_log_is_found_and_the_entry_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let yaml = format!(
        "version: 1\ntrust_domain: audit.test\n{}gateway: {{listen: '127.0.0.1:{}', routes: [{{path: /, service: orders}}]}}\nservices:\n  orders: {{app: ['unix:orders.sock']}}\n",
        ports.control(),
        ports.gateway
    );
    write_bundle(dir.path(), &[("bundle/testudo.yaml", yaml)]);
    let control = Control::start(dir.path());
    let revoke = |user: &str| {
        let api = format!("http://127.0.0.1:{}", ports.api);
        let output = Command::new(TESTUDO)
            .args(["identity", "revoke", "user", user, "--reason", "test"])
            .args(["--api", &api, "--token-file", "state/admin.token"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    revoke("shop:mallory");
    revoke("shop:eve");

    let (output, said) = audit(dir.path(), &ports, &["--limit", "5"]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(
        lines[1].starts_with("3 ") && lines[1].contains("shop:eve"),
        "{said}"
    );
    assert!(lines[3].contains("revision.applied"), "{said}");
    let (output, said) = audit(dir.path(), &ports, &["verify"]);
    assert!(
        output.status.success() && said.contains("3 entries, unbroken"),
        "{said}"
    );
    drop(control);

    // Somebody who may write the file covers for mallory.
    let store = dir.path().join("state/store.redb");
    let mut bytes = std::fs::read(&store).unwrap();
    let (from, to) = (b"user shop:mallory test", b"user shop:nobody_ test");
    let places: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|at| bytes[*at..].starts_with(from))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    std::fs::write(&store, bytes).unwrap();
    let _control = Control::start(dir.path());
    let (output, said) = audit(dir.path(), &ports, &["verify"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("✗ entry 2:"), "{said}");
    let (output, said) = audit(dir.path(), &ports, &["verify", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let check: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(check["broken"]["sequence"], 2, "{check}");
}
