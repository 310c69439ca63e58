//! The command line as people and programs use it: output, exit codes, hints. No mesh runs here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn testudo(arguments: &[&str]) -> Output {
    testudo_in(Path::new("."), arguments)
}

fn testudo_in(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_testudo"))
        .args(arguments)
        .current_dir(dir)
        .env_remove("TESTUDO_API")
        .env_remove("TESTUDO_TOKEN")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop")
}

/// A copy of the sample shop to break.
fn copy_of_shop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["", "apis", "policies", "keys"] {
        std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        for entry in std::fs::read_dir(shop().join(folder)).unwrap() {
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
    dir
}

fn edit(dir: &Path, file: &str, from: &str, to: &str) {
    let path = dir.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn the_sample_shop_is_right() {
    let output = testudo(&["check", shop().to_str().unwrap(), "-o", "json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report, serde_json::json!({"ok": true, "diagnostics": []}));
    assert_eq!(code(&output), 0);
}

#[test]
fn every_error_at_once_with_places_and_fixes() {
    let dir = copy_of_shop();
    edit(
        dir.path(),
        "policies/customers.cedar",
        "context.params.customerId",
        "context.params.customerID",
    );
    edit(
        dir.path(),
        "testudo.yaml",
        "match: {service: orders}",
        "match: {service: order}",
    );
    edit(dir.path(), "testudo.yaml", "trust_domain:", "trust_domian:");
    let output = testudo(&["check", dir.path().to_str().unwrap(), "-o", "json"]);
    assert_eq!(code(&output), 1);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["ok"], false);
    let diagnostics = report["diagnostics"].as_array().unwrap();
    let codes: Vec<&str> = diagnostics
        .iter()
        .map(|diagnostic| diagnostic["code"].as_str().unwrap())
        .collect();
    assert!(codes.contains(&"key.unknown"), "{codes:?}");
    for diagnostic in diagnostics {
        for member in [
            "severity", "code", "message", "file", "line", "column", "hint",
        ] {
            assert!(diagnostic.get(member).is_some(), "{member}");
        }
    }
    let table = testudo(&["check", dir.path().to_str().unwrap()]);
    let text = stdout(&table);
    assert!(
        text.contains("trust_domian") && text.contains("exit 1"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colour without a terminal");
    let sarif: Value = serde_json::from_str(&stdout(&testudo(&[
        "check",
        dir.path().to_str().unwrap(),
        "-o",
        "sarif",
    ])))
    .unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let github = stdout(&testudo(&[
        "check",
        dir.path().to_str().unwrap(),
        "-o",
        "github",
    ]));
    assert!(github.starts_with("::error "), "{github}");
}

#[test]
fn fixes_are_made() {
    let dir = copy_of_shop();
    edit(dir.path(), "testudo.yaml", "trust_domain:", "trust_domian:");
    let output = testudo(&["check", dir.path().to_str().unwrap(), "--fix"]);
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    let text = std::fs::read_to_string(dir.path().join("testudo.yaml")).unwrap();
    assert!(text.contains("trust_domain: shop.test"));
}

#[test]
fn wrong_usage_is_2_and_no_is_1() {
    for (arguments, expected) in [
        (vec!["check", "/nonexistent"], 2),
        (vec!["nonsense"], 2),
        (vec!["proxy"], 2),
        (vec!["proxy", "orders"], 2),
        (vec!["observe", "--reason", "nonsense"], 2),
        (vec!["observe", "--status", "1000"], 2),
        (vec!["demo", "-o", "json"], 2),
        (vec!["run", "orders"], 2),
        (vec!["explain", "nonsense"], 1),
    ] {
        assert_eq!(code(&testudo(&arguments)), expected, "{arguments:?}");
    }
}

#[test]
fn without_a_mesh_commands_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        vec!["proxy", "list"],
        vec!["doctor"],
        vec!["observe"],
        vec!["identity", "show"],
    ] {
        let output = testudo_in(dir.path(), &arguments);
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains("--api URL"), "{}", stderr(&output));
    }
    let token = dir.path().join("token");
    std::fs::write(&token, "x").unwrap();
    let arguments = [
        "proxy",
        "list",
        "--api",
        "127.0.0.1:1",
        "--token-file",
        token.to_str().unwrap(),
    ];
    let output = testudo(&arguments);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("hint: is it running?"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn explanations_and_near_misses() {
    let output = testudo(&["explain", "authz.user"]);
    assert!(stdout(&output).contains("## What to do"));
    let output = testudo(&["explain", "authz.usr"]);
    assert!(
        stderr(&output).contains("did you mean authz.user?"),
        "{}",
        stderr(&output)
    );
    let all: Value = serde_json::from_str(&stdout(&testudo(&["explain", "-o", "json"]))).unwrap();
    let codes: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["code"].as_str().unwrap())
        .collect();
    for reason in testudo_model::Reason::ALL {
        assert!(codes.contains(&reason.code()), "{reason}");
    }
}

#[test]
fn init_writes_a_bundle_that_passes() {
    let dir = tempfile::tempdir().unwrap();
    let openapi = shop().join("apis/orders.yaml");
    let arguments = [
        "init",
        "--openapi",
        openapi.to_str().unwrap(),
        "--dir",
        "new",
        "orders=127.0.0.1:9101",
    ];
    let output = testudo_in(dir.path(), &arguments);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let checked = testudo_in(dir.path(), &["check", "new", "-o", "json"]);
    let report: Value = serde_json::from_str(&stdout(&checked)).unwrap();
    assert_eq!(report["ok"], true, "{report:#}");
    let again = testudo_in(dir.path(), &arguments);
    assert_eq!(code(&again), 1);
    assert!(
        stderr(&again).contains("nothing was written"),
        "{}",
        stderr(&again)
    );
    let nothing = testudo_in(dir.path(), &["init", "orders"]);
    assert_eq!(code(&nothing), 2);
}

#[test]
fn can_says_which_line_decides() {
    let shop = shop();
    let can = |arguments: &[&str]| {
        let mut all = vec!["can"];
        all.extend(arguments);
        all.extend(["--dir", shop.to_str().unwrap(), "-o", "json"]);
        let output = testudo(&all);
        let answer: Value = serde_json::from_str(&stdout(&output)).unwrap_or_default();
        (code(&output), answer)
    };
    let (exit, answer) = can(&[
        "alice",
        "orders:getOrder",
        "role=customer",
        "customerId=alice",
        "orderId=17",
    ]);
    assert_eq!(
        (exit, &answer["permitted"]),
        (0, &Value::Bool(true)),
        "{answer:#}"
    );
    assert_eq!(answer["policy"]["file"], "policies/customers.cedar");
    let (exit, answer) = can(&[
        "bob",
        "orders:getOrder",
        "role=customer",
        "customerId=alice",
        "orderId=17",
    ]);
    assert_eq!(
        (exit, &answer["permitted"]),
        (1, &Value::Bool(false)),
        "{answer:#}"
    );
    assert_eq!(can(&["storefront", "payments:charge"]).0, 1);
    assert_eq!(can(&["alice", "orders:getOrdr"]).0, 2);
}

#[test]
fn the_schema_knows_the_keys() {
    let schema: Value = serde_json::from_str(&stdout(&testudo(&["schema"]))).unwrap();
    for key in [
        "version",
        "trust_domain",
        "gateway",
        "services",
        "limits",
        "policies",
        "users",
    ] {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}

/// A decision as proxies log it, of mode report.
fn decision(user: &str, operation: &str, path: &str) -> String {
    serde_json::json!({
        "time": "2026-11-25T13:00:00Z", "request_id": "r", "trace_id": "t", "proxy": "gateway-1", "hop": "edge",
        "revision": 1, "caller": null, "user": user, "roles": ["customer"], "source_ip": null,
        "service": operation.split(':').next(), "operation": operation, "method": "GET", "host": "h",
        "path": path, "status": 200, "verdict": "permit", "reason": "authz.user", "mode": "report",
        "policy": null, "findings": [], "bytes_in": 0, "bytes_out": 0, "duration_us": 1, "guard_us": 1,
    })
    .to_string()
}

#[test]
fn policies_are_learned_from_decision_logs_and_never_written_over() {
    let dir = copy_of_shop();
    let policies = dir.path().join("policies");
    std::fs::remove_dir_all(&policies).unwrap();
    std::fs::create_dir(&policies).unwrap();
    let mut log = String::new();
    for user in ["alice", "bob"] {
        for _ in 0..3 {
            let path = format!("/orders/{user}/7");
            log.push_str(&decision(&format!("shop:{user}"), "orders:getOrder", &path));
            log.push('\n');
        }
    }
    log.push_str("half a line of a cra");
    std::fs::write(dir.path().join("decisions.jsonl"), log).unwrap();
    let learn = |more: &[&str]| {
        let arguments = ["policy", "learn", "--from", "decisions.jsonl"];
        testudo_in(dir.path(), &[&arguments[..], more].concat())
    };

    let printed = learn(&[]);
    assert_eq!(code(&printed), 0, "{}", stderr(&printed));
    assert!(
        stderr(&printed).contains("no decisions and were skipped: 1"),
        "{}",
        stderr(&printed)
    );
    let text = stdout(&printed);
    assert!(
        text.contains("when { context.params.customerId == principal.id };"),
        "{text}"
    );
    assert!(text.contains("6 requests; shop:alice, shop:bob"), "{text}");
    let nameless = stdout(&learn(&["--no-names"]));
    assert!(nameless.contains("6 requests; 2 users"), "{nameless}");
    assert!(!nameless.contains("alice"), "{nameless}");
    let json: Value = serde_json::from_str(&stdout(&learn(&["-o", "json"]))).unwrap();
    assert_eq!(
        json["policies"][0]["actions"][0], "orders:getOrder",
        "{json}"
    );

    let written = learn(&["--write"]);
    assert_eq!(code(&written), 0, "{}", stderr(&written));
    let file = policies.join("learned.cedar");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    std::fs::write(&file, "// mine\n").unwrap();
    let refused = learn(&["--write"]);
    assert_eq!(code(&refused), 1);
    assert!(
        stderr(&refused).contains("--force replaces it"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "// mine\n");
    assert_eq!(code(&learn(&["--write", "--force"])), 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    // The whole file would be replaced by what is about one service.
    assert_eq!(
        code(&learn(&["--write", "--force", "--service", "orders"])),
        2
    );

    let unknown = learn(&["--anonymous", "orders:getOrdr"]);
    assert_eq!(code(&unknown), 2);
    assert!(
        stderr(&unknown).contains("did you mean orders:getOrder?"),
        "{}",
        stderr(&unknown)
    );
    std::fs::write(dir.path().join("decisions.jsonl"), "").unwrap();
    let nothing = learn(&[]);
    assert_eq!(code(&nothing), 1);
    assert!(
        stderr(&nothing).contains("no calls were seen"),
        "{}",
        stderr(&nothing)
    );
}

#[test]
fn completions_and_manuals_come_from_the_same_definitions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&testudo(&["completions", shell]));
        assert!(script.contains("observe"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = testudo(&["man", "--out", dir.path().to_str().unwrap()]);
    assert_eq!(code(&output), 0);
    assert!(dir.path().join("testudo.1").is_file() && dir.path().join("testudo-up.1").is_file());
    assert!(!dir.path().join("testudo-launch.1").exists());
}

#[test]
fn help_lists_what_there_is() {
    insta::assert_snapshot!(stdout(&testudo(&["--help"])));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_testudo"))
        .args(["explain", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "");
    assert_eq!(code(&output), 0);
}

#[test]
fn a_launched_command_ends_with_its_parent() {
    // The shell is the parent; when it ends, the launched sleep must end too.
    let script = format!(
        "{} launch --parent-pid $$ -- sleep 61 & echo $!; sleep 0.3",
        env!("CARGO_BIN_EXE_testudo")
    );
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let pid: u32 = stdout(&output).trim().parse().unwrap();
    for _ in 0..100 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("it lives on");
}
