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
