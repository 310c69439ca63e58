//! Sidecars that are started alone, beside a mesh that runs: which application is theirs, and who may use them.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::http::Target;
use crate::mesh::{TESTUDO, free_port, wait_for};
use crate::wide::{World, world};

/// A sidecar of `service`, and its state folder.
struct Sidecar {
    child: Child,
    dir: tempfile::TempDir,
    outbound: u16,
}

impl Sidecar {
    fn start(world: &World, service: &str, more: &[&str]) -> Sidecar {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("join.token");
        let issued = world.mesh.testudo(&[
            "identity",
            "issue",
            "--join",
            service,
            "--out",
            token.to_str().unwrap(),
        ]);
        assert!(issued.status.success(), "{issued:?}");
        let control = std::fs::read(world.mesh.path(".testudo/control.json")).unwrap();
        let control: serde_json::Value = serde_json::from_slice(&control).unwrap();
        let outbound = free_port();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(TESTUDO)
            .args([
                "proxy",
                service,
                "--control",
                control["mesh"].as_str().unwrap(),
            ])
            .args(["--inbound", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--outbound", &format!("127.0.0.1:{outbound}")])
            .arg("--join-token-file")
            .arg(&token)
            .arg("--state")
            .arg(dir.path().join("state"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Sidecar {
            child,
            dir,
            outbound,
        }
    }

    fn ready(self) -> Sidecar {
        wait_for("the sidecar to be ready", || {
            self.dir.path().join("state/ready.json").exists()
        });
        self
    }

    /// Its exit code and what it said.
    fn ended(&mut self) -> (Option<i32>, String) {
        wait_for("the sidecar to end", || {
            self.child.try_wait().unwrap().is_some()
        });
        let code = self.child.wait().unwrap().code();
        (
            code,
            std::fs::read_to_string(self.dir.path().join("log")).unwrap(),
        )
    }

    /// The status of a call to `pair` by curl, as this user.
    fn call_as(&self, uid: u32) -> String {
        let output = Command::new("curl")
            .args([
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--noproxy",
                "",
            ])
            .args(["-x", &format!("http://127.0.0.1:{}", self.outbound)])
            .arg("http://pair.mesh/pair")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .uid(uid)
            .current_dir("/")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_application_is_told_by_its_user() {
    let world = world();
    let own = rustix::process::geteuid().as_raw();
    // Only root can be somebody else: without, the application's user is one that nobody is here.
    let (application, other) = (own + 54_321, if own == 0 { 54_322 } else { own });
    let sidecar =
        Sidecar::start(&world, "caller", &["--app-uid", &application.to_string()]).ready();
    if own == 0 {
        assert_eq!(sidecar.call_as(application), "200");
    }
    assert_eq!(sidecar.call_as(other), "403");
    let target = Target::plain(([127, 0, 0, 1], sidecar.outbound).into());
    let own_process = target.send("GET", "pair.mesh", "/pair", &[], b"");
    assert_eq!(
        own_process.verdict(),
        (403, Some("authz.caller".to_string()))
    );

    let mut refused = Sidecar::start(&world, "caller", &["--app-uid", &own.to_string()]);
    let (code, said) = refused.ended();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("--app-uid") && said.contains("hint:"),
        "{said}"
    );
}

#[test]
fn one_of_several_applications_has_to_be_named() {
    let world = world();
    let mut sidecar = Sidecar::start(&world, "pair", &[]);
    let (code, said) = sidecar.ended();
    assert_eq!(code, Some(1), "{said}");
    let bundle = std::fs::read_to_string(world.mesh.path("testudo.yaml")).unwrap();
    let addresses = said
        .split("several applications (")
        .nth(1)
        .unwrap_or_default();
    let addresses: Vec<&str> = addresses.split(')').next().unwrap().split(", ").collect();
    assert_eq!(addresses.len(), 2, "{said}");
    assert!(
        addresses.iter().all(|address| bundle.contains(address)),
        "{said}\n{bundle}"
    );
    assert!(said.contains("--app 127.0.0.1:"), "{said}");
    drop(Sidecar::start(&world, "pair", &["--app", addresses[0]]).ready());
}
