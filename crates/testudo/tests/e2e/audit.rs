//! `testudo audit` against a control plane whose log somebody changes behind its back.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use redb::ReadableTable as _;

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
        let mut control = Control(child);
        wait_for("control to be ready", || {
            let ended = control.0.try_wait().unwrap();
            let log = || std::fs::read_to_string(dir.join("control.log")).unwrap();
            assert!(ended.is_none(), "control ended: {}", log());
            announced.exists()
        });
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

/// What somebody does who may write the file, and would rather not have revoked mallory.
fn cover_up(store: &Path) {
    let table: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("audit");
    let database = redb::Database::open(store).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(table).unwrap();
        let entry = table.get(2).unwrap().unwrap().value().to_vec();
        let entry = String::from_utf8(entry).unwrap();
        let changed = entry.replace("shop:mallory", "shop:nobody");
        assert_ne!(entry, changed);
        table.insert(2, changed.as_bytes()).unwrap();
    }
    write.commit().unwrap();
}

#[test]
fn a_changed_audit_log_is_found_and_the_entry_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let yaml = format!(
        "version: 1\ntrust_domain: audit.test\n{}gateway: {{listen: '127.0.0.1:{}', routes: [{{path: /, service: orders}}]}}\nusers: {{jwt: {{shop: {{issuer: 'https://id.audit.test', audiences: [a], jwks: jwks.json}}}}}}\nservices:\n  orders: {{app: ['unix:orders.sock']}}\n",
        ports.control(),
        ports.gateway
    );
    let keys = crate::issuer::Issuer::new().jwks();
    let files = [("bundle/testudo.yaml", yaml), ("bundle/jwks.json", keys)];
    write_bundle(dir.path(), &files);
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

    cover_up(&dir.path().join("state/store.redb"));
    let _control = Control::start(dir.path());
    let (output, said) = audit(dir.path(), &ports, &["verify"]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("✗ entry 2:"), "{said}");
    let (output, said) = audit(dir.path(), &ports, &["verify", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let check: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(check["broken"]["sequence"], 2, "{check}");
}
