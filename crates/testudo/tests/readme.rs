//! The tour of the README, as it stands there, against a running demo.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `testudo demo`, ended with SIGTERM.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Commands (`$ …`) with the output that is to follow, of every `console` block.
fn steps(readme: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match line.strip_prefix("$ ") {
                Some(command) => steps.push((command.to_string(), String::new())),
                None => {
                    let expected = &mut steps.last_mut().expect("output before a command").1;
                    expected.push_str(line);
                    expected.push('\n');
                }
            },
        }
    }
    steps
}

#[test]
fn the_tour_does_what_the_readme_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let steps = steps(&std::fs::read_to_string(root.join("README.md")).unwrap());
    assert!(steps.len() >= 6, "the README has lost its tour");
    let dir = tempfile::tempdir().unwrap();
    let shop = dir.path().join("shop");
    let log = std::fs::File::create(dir.path().join("demo.log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_testudo"))
        .args(["demo", "--dir", "shop"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut demo = Demo(child);
    let said = || std::fs::read_to_string(dir.path().join("demo.log")).unwrap_or_default();
    let start = Instant::now();
    while !shop.join(".testudo/tokens/mallory.jwt").exists() {
        let ended = demo.0.try_wait().unwrap();
        assert!(
            ended.is_none() && start.elapsed() < Duration::from_secs(60),
            "the demo does not start ({ended:?}):\n{}",
            said()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    // The demo takes another port where 8443 is in use.
    let yaml = std::fs::read_to_string(shop.join("testudo.yaml")).unwrap();
    let listen = yaml
        .lines()
        .find_map(|line| line.trim().strip_prefix("listen: 127.0.0.1:"));
    let port = listen
        .expect("the demo's gateway listens on loopback")
        .trim();
    for (command, expected) in steps {
        let command = command.replace(":8443", &format!(":{port}"));
        let output = Command::new("sh")
            .args(["-c", &command])
            .current_dir(&shop)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            expected,
            "{command}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            said()
        );
    }
}
