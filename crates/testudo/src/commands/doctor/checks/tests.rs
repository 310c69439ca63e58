use super::*;

fn mesh() -> Mesh {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    Mesh {
        status: json!({"revision": 3, "bundle_error": null, "started": "2026-11-21T11:00:00Z", "decisions": {"dropped": 0},
            "authority": {"root_not_after": "2036-11-21T11:00:00Z", "issuing_not_after": "2027-11-21T11:00:00Z"}}),
        proxies: vec![
            json!({"name": "orders-1", "revision": 3, "ready": true, "admin": "127.0.0.1:1", "outbound": "127.0.0.1:2",
            "svid_not_after": "2026-11-22T11:00:00Z"}),
        ],
        services: vec![json!({"name": "orders", "sidecar": true, "workloads": 1, "ready": 1})],
        identities: vec![json!({"name": "orders-1", "joined": "2026-11-21T11:00:00Z"})],
        modes: vec![],
        containments: vec![],
        now,
    }
}

fn bad(mesh: &Mesh) -> Vec<&'static str> {
    let findings = examine(mesh).into_iter();
    findings
        .filter(|finding| finding.level == Level::Bad)
        .map(|finding| finding.about)
        .collect()
}

#[test]
fn a_healthy_mesh_has_nothing_bad() {
    assert_eq!(bad(&mesh()), Vec::<&str>::new());
}

#[test]
fn each_trouble_is_found() {
    let set = |change: &dyn Fn(&mut Mesh)| {
        let mut mesh = mesh();
        change(&mut mesh);
        bad(&mesh)
    };
    assert_eq!(
        set(&|mesh| mesh.status["revision"] = json!(4)),
        ["revisions"]
    );
    assert_eq!(
        set(&|mesh| mesh.status["bundle_error"] = json!("1 error")),
        ["bundle"]
    );
    assert_eq!(
        set(&|mesh| mesh.proxies[0]["ready"] = json!(false)),
        ["proxies"]
    );
    assert_eq!(
        set(&|mesh| mesh.services[0]["ready"] = json!(0)),
        ["workloads"]
    );
    assert_eq!(
        set(&|mesh| mesh.proxies[0]["app"] = json!("10.0.0.1:80")),
        ["ports"]
    );
    assert_eq!(
        set(&|mesh| mesh.proxies[0]["admin"] = json!("0.0.0.0:1")),
        ["ports"]
    );
    assert_eq!(
        set(&|mesh| mesh.proxies[0]["svid_not_after"] = json!("2026-11-21T12:10:00Z")),
        ["certificates"]
    );
    assert_eq!(
        set(&|mesh| mesh.proxies[0]["svid_not_after"] = json!("2026-11-21T11:59:00Z")),
        ["certificates"]
    );
    assert_eq!(
        set(&|mesh| mesh.status["authority"]["root_not_after"] = json!("2026-11-21T11:59:00Z")),
        ["authority"]
    );
    assert_eq!(
        set(&|mesh| mesh.status["started"] = json!("2026-11-21T12:30:00Z")),
        ["clock"]
    );
}

#[test]
fn open_state_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    open(0o700);
    assert_eq!(examine_state(dir.path())[0].level, Level::Good);
    open(0o750);
    assert_eq!(examine_state(dir.path())[0].level, Level::Bad);
    open(0o700);
    let token = dir.path().join("admin.token");
    std::fs::write(&token, "x").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(examine_state(dir.path())[0].level, Level::Bad);
}

#[test]
fn loosened_modes_and_containments_are_said_with_the_time_left() {
    let said = |mesh: &Mesh| {
        let findings = examine(mesh).into_iter();
        let wanted = findings.filter(|finding| matches!(finding.about, "modes" | "contained"));
        wanted
            .map(|finding| (finding.level, finding.message))
            .collect::<Vec<_>>()
    };
    let mut mesh = mesh();
    let enforces = (Level::Good, "every service enforces its policy".to_owned());
    assert_eq!(said(&mesh), [enforces]);
    mesh.services[0]["mode"] = json!("report");
    mesh.services[0]["configured_mode"] = json!("enforce");
    mesh.services[0]["mode_until"] = json!("2026-11-21T12:29:00Z");
    mesh.modes = vec![
        json!({"service": "payments", "mode": "observe", "proxy": "payments-1",
        "until": "2026-11-21T12:01:00Z", "by": "payments-1: uid 0"}),
    ];
    mesh.containments = vec![
        json!({"id": "ctn-1", "principal": "shop:bob", "service": "orders",
        "operation": "orders:getOrder", "action": "deny", "until": "2026-11-21T12:10:00Z", "reason": "walks"}),
    ];
    let messages: Vec<String> = said(&mesh)
        .into_iter()
        .map(|(level, message)| {
            assert_eq!(level, Level::Warning);
            message
        })
        .collect();
    assert_eq!(
        messages,
        [
            "orders is in mode report for 29 min more, then enforce again: what policy denies passes",
            "payments-1 has payments in mode observe for 60 s more, set on its host (payments-1: uid 0)",
            "shop:bob is contained on orders:getOrder (deny) for 10 min more: walks",
        ]
    );
    // Nothing is set: the bundle itself reports.
    mesh.services[0]["configured_mode"] = json!("report");
    mesh.services[0]["mode_until"] = Value::Null;
    assert_eq!(
        said(&mesh)[0].1,
        "orders is in mode report: what policy denies passes"
    );
    assert_eq!(bad(&mesh), Vec::<&str>::new());
}
