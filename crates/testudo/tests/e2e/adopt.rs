//! `docs/adopt.md`, followed with its own commands: from two services that already run to mode enforce.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::http::Response;
use crate::issuer::{AUDIENCE, ISSUER, Issuer};
use crate::mesh::{Mesh, Ports, TESTUDO, free_port, wait_for, write_bundle};

/// The guide: its commands in order, and the configuration that it has people write.
struct Guide {
    commands: Vec<String>,
    users: String,
}

fn guide() -> Guide {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/adopt.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut guide = Guide {
        commands: Vec::new(),
        users: String::new(),
    };
    let mut block = "";
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(kind) => block = kind,
            None if block == "console" => guide
                .commands
                .push(line.trim_start_matches("$ ").to_owned()),
            None if block == "yaml" => guide.users.push_str(&format!("{line}\n")),
            None => {}
        }
    }
    guide
}

struct Walk {
    mesh: Option<Mesh>,
    dir: PathBuf,
    ports: Ports,
    orders: u16,
    payments: u16,
    issuer: Issuer,
}

impl Walk {
    fn run(&self, command: &str) -> Output {
        let command = command
            .replace(":9101", &format!(":{}", self.orders))
            .replace(":9102", &format!(":{}", self.payments));
        let bin = Path::new(TESTUDO).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-c", &command])
            .current_dir(&self.dir)
            .env("PATH", path)
            .env_remove("TESTUDO_API")
            .env_remove("TESTUDO_TOKEN")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// What the guide has people write by hand: users, how the services are started, and here free ports.
    fn edit(&self, users: &str) {
        let path = self.dir.join("testudo.yaml");
        let yaml = std::fs::read_to_string(&path).unwrap();
        let users = users
            .replace("https://id.example.com", ISSUER)
            .replace("my-api", AUDIENCE);
        let shop = Path::new(TESTUDO).with_file_name("testudo-shop");
        let mut edited = String::new();
        for line in yaml.lines() {
            let started = [("orders", self.orders), ("payments", self.payments)]
                .into_iter()
                .find(|(_, port)| line.contains(&format!("app: [127.0.0.1:{port}]")));
            if line.starts_with("gateway:") {
                edited.push_str(&self.ports.control());
            }
            if line.starts_with("services:") {
                edited.push_str(&users);
            }
            if line.trim().starts_with("listen: ") {
                edited.push_str(&format!("  listen: 127.0.0.1:{}\n", self.ports.gateway));
                continue;
            }
            edited.push_str(&format!("{line}\n"));
            if let Some((name, port)) = started {
                let shop = shop.display();
                edited.push_str(&format!(
                    "    run: {shop} {name} --listen 127.0.0.1:{port}\n"
                ));
            }
            // The comment of init says where this goes.
            if line.contains("# api: {openapi: apis/payments.yaml}") {
                edited.push_str("    api: {openapi: apis/payments.yaml}\n");
            }
        }
        std::fs::write(path, edited).unwrap();
    }

    fn up(&mut self, dir: tempfile::TempDir) {
        let mesh = Mesh::up_in(dir, &self.ports, 3);
        wait_for("the services to have started", || {
            [self.orders, self.payments]
                .iter()
                .all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok())
        });
        self.mesh = Some(mesh);
    }

    fn mesh(&self) -> &Mesh {
        self.mesh.as_ref().unwrap()
    }

    fn send(
        &self,
        user: Option<(&str, &[&str])>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Response {
        let token = user.map(|(user, roles)| format!("Bearer {}", self.issuer.token(user, roles)));
        let mut headers: Vec<(&str, &str)> = Vec::new();
        if let Some(token) = &token {
            headers.push(("authorization", token));
        }
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        let edge = self.mesh().edge("localhost");
        edge.send(method, "localhost", path, &headers, body.as_bytes())
    }

    /// Customers who order and look at their orders; one asks for another's now and then only in their dreams.
    fn honest(&self) -> Vec<Response> {
        let mut answers = Vec::new();
        for (user, order) in [("alice", 17), ("bob", 21)] {
            let customer: Option<(&str, &[&str])> = Some((user, &["customer"]));
            for _ in 0..3 {
                answers.push(self.send(
                    customer,
                    "POST",
                    "/orders",
                    r#"{"product": 1, "quantity": 1}"#,
                ));
                answers.push(self.send(customer, "GET", &format!("/orders/{user}/{order}"), ""));
                answers.push(self.send(customer, "GET", &format!("/orders?customerId={user}"), ""));
            }
        }
        answers
    }

    /// What was observed of calls at `service`, all in all.
    fn seen(&self, service: &str) -> u64 {
        let calls = self.mesh().get("/api/v1/calls");
        let calls = calls["calls"].as_array().unwrap().iter();
        calls
            .filter(|call| call["service"] == service)
            .map(|call| call["permitted"].as_u64().unwrap() + call["reported"].as_u64().unwrap())
            .sum()
    }
}

fn start() -> (tempfile::TempDir, Walk) {
    let dir = tempfile::tempdir().unwrap();
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop/apis");
    let api = |name: &str| std::fs::read_to_string(shop.join(name)).unwrap();
    let issuer = Issuer::new();
    write_bundle(
        dir.path(),
        &[
            ("apis/orders.yaml", api("orders.yaml")),
            ("apis/payments.yaml", api("payments.yaml")),
            ("keys/jwks.json", issuer.jwks()),
        ],
    );
    let walk = Walk {
        mesh: None,
        dir: dir.path().to_owned(),
        ports: Ports::free(),
        orders: free_port(),
        payments: free_port(),
        issuer,
    };
    (dir, walk)
}

#[test]
fn the_guide_leads_from_nothing_to_enforce() {
    assert!(
        Path::new(TESTUDO).with_file_name("testudo-shop").is_file(),
        "the sample services are not built: cargo build -p testudo-shop"
    );
    let guide = guide();
    let (dir, mut walk) = start();
    let mut dir = Some(dir);
    let mut learned = String::new();
    assert!(guide.commands[0].starts_with("testudo init"));
    for command in guide.commands.iter().map(String::as_str) {
        if command == "testudo up" {
            walk.up(dir.take().unwrap());
            traffic(&walk);
            continue;
        }
        let output = walk.run(command);
        let said = String::from_utf8(output.stdout).unwrap();
        match command {
            _ if command.starts_with("testudo init") => walk.edit(&guide.users),
            "testudo policy learn" => {
                // The proxies' own logs say the same, without a control plane.
                let logs = "testudo policy learn --from $(find .testudo -name decisions.jsonl)";
                let of_logs = String::from_utf8(walk.run(logs).stdout).unwrap();
                assert_eq!(policies(&of_logs), policies(&said));
                learned = said;
            }
            "testudo policy learn --write" => {
                let written = std::fs::read_to_string(walk.dir.join("policies/learned.cedar"));
                assert_eq!(written.unwrap(), learned);
                walk.mesh().in_sync(2);
            }
            _ if command.starts_with("testudo can") => {
                assert!(said.contains("policies/learned.cedar"), "{said}")
            }
            _ => {}
        }
        // Traffic goes on with the policies, before they are enforced.
        if command.starts_with("testudo can orders") {
            honest_is_not_reported(&walk);
        }
    }
    assert!(
        learned.contains("customerId was always the user's own id"),
        "{learned}"
    );
    // What the attacker did while nothing was enforced, and made orders do.
    let policies = policies(&learned);
    assert!(
        !policies.contains("efund") && !policies.contains(":write"),
        "{learned}"
    );
    walk.mesh().in_sync(3);
    enforced(&walk);
}

/// A file of policies without its comments.
fn policies(text: &str) -> String {
    text.lines()
        .filter(|line| !line.starts_with("//"))
        .collect()
}

/// Report mode: everything passes, an attack too.
fn traffic(walk: &Walk) {
    for answer in walk.honest() {
        assert!(answer.status < 300, "{answer:?}");
    }
    let anonymous = walk.send(None, "GET", "/orders?customerId=alice", "");
    assert_eq!(anonymous.status, 200, "{anonymous:?}");
    let forged = [("authorization", "Bearer forged")];
    let edge = walk.mesh().edge("localhost");
    edge.send("POST", "localhost", "/orders/alice/17/refund", &forged, b"");
    wait_for("what was sent to be remembered", || {
        walk.seen("orders") >= 36 && walk.seen("payments") >= 6
    });
}

fn honest_is_not_reported(walk: &Walk) {
    let before = jiff::Timestamp::now();
    for answer in walk.honest() {
        assert!(answer.status < 300, "{answer:?}");
    }
    let decisions = || walk.mesh().get("/api/v1/decisions?limit=1000");
    let since = |event: &Value| {
        event["time"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
            >= before
    };
    wait_for("their decisions", || {
        decisions()
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| since(event))
            .count()
            >= 42
    });
    for event in decisions()
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| since(event))
    {
        assert!(event["reason"].is_null(), "{event:#}");
    }
}

fn enforced(walk: &Walk) {
    let coverage = walk.mesh().get("/api/v1/coverage");
    for service in coverage.as_array().unwrap() {
        assert_eq!(service["authz"], "enforce", "{service}");
    }
    for answer in walk.honest() {
        assert!(answer.status < 300, "{answer:?}");
    }
    let customer: Option<(&str, &[&str])> = Some(("alice", &["customer"]));
    // Never seen: a refund, another's order, a visitor without a token, a role that never came.
    let refund = walk.send(customer, "POST", "/orders/alice/17/refund", "");
    assert_eq!(refund.verdict(), (403, Some("authz.user".into())));
    let foreign = walk.send(customer, "GET", "/orders/bob/21", "");
    assert_eq!(foreign.verdict(), (403, Some("authz.user".into())));
    let nobody = walk.send(None, "GET", "/orders?customerId=alice", "");
    assert_eq!(nobody.verdict(), (401, Some("authn.missing".into())));
    let admin = walk.send(Some(("root", &["admin"])), "GET", "/orders/alice/17", "");
    assert_eq!(admin.verdict(), (403, Some("authz.user".into())));
    // And what was denied is listed for whoever learns next, not permitted.
    wait_for("the denial to be remembered", || {
        let calls = walk.mesh().get("/api/v1/calls");
        let calls = calls["calls"].as_array().unwrap();
        calls
            .iter()
            .any(|call| call["operation"] == "orders:refundOrder" && call["denied"] == 1)
    });
    let again = String::from_utf8(walk.run("testudo policy learn").stdout).unwrap();
    assert!(
        again.contains("role customer, orders:refundOrder: denied once (authz.user)"),
        "{again}"
    );
    let policies = policies(&again);
    assert!(!policies.contains("refundOrder"), "{again}");
}
