use std::collections::BTreeMap;

use testudo_guard::snapshot::{EdgeTls, UserRule};
use testudo_model::Audience;

use super::*;
use crate::bundle::load;

fn shop() -> Bundle {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop")).unwrap()
}

/// What a proxy of this role gets.
fn parts(bundle: &Bundle, role: &Role) -> Bundle {
    let needed = |audience: &Audience| match (audience, role) {
        (Audience::All, _) | (Audience::Gateway | Audience::Service(_), Role::Gateway) => true,
        (Audience::Service(name), Role::Sidecar(own)) => **name == **own,
        (Audience::Gateway, Role::Sidecar(_)) | (Audience::Control, _) => false,
    };
    let mut bundle = bundle.clone();
    bundle.files.retain(|_, file| needed(&file.audience));
    bundle
}

fn compiled(bundle: &Bundle, role: &Role) -> Result<Snapshot, Diagnostics> {
    compile(&parts(bundle, role), 7, "abc", role, Path::new("/base"))
}

fn small(files: &[(&str, &str)]) -> Bundle {
    let all: BTreeMap<String, Vec<u8>> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect();
    Bundle::from_files(all).unwrap()
}

fn codes(result: Result<Snapshot, Diagnostics>) -> Vec<&'static str> {
    result.err().unwrap().list.iter().map(|d| d.code).collect()
}

#[test]
fn a_gateway_judges_every_routed_service() {
    let snapshot = compiled(&shop(), &Role::Gateway).unwrap();
    assert_eq!((snapshot.revision, &*snapshot.digest), (7, "abc"));
    let edge = snapshot.edge.as_ref().unwrap();
    assert!(matches!(edge.tls, EdgeTls::Mesh));
    assert_eq!(edge.routes.routes().len(), 3);
    let orders = &snapshot.services["orders"];
    assert_eq!(orders.api.kind, ApiKind::OpenApi);
    assert!(!orders.api.operations.is_empty());
    assert!(orders.route.is_some());
    assert_eq!(&*orders.spiffe_id, "spiffe://shop.test/service/orders");
    assert_eq!(orders.limits.len(), 1);
    // Nobody routes to payments: its sidecar alone judges it.
    let payments = &snapshot.services["payments"];
    assert!(payments.route.is_none() && payments.api.operations.is_empty());
    assert_eq!(snapshot.users.as_ref().unwrap().issuers().count(), 1);
}

#[test]
fn a_sidecar_judges_its_own_service_with_the_parts_that_it_gets() {
    for name in ["storefront", "catalog", "orders", "payments"] {
        let role = Role::Sidecar(Arc::from(name));
        let snapshot = compiled(&shop(), &role).unwrap();
        assert!(snapshot.edge.is_none() && snapshot.users.is_some());
        assert_eq!(snapshot.services.len(), 4);
        for service in snapshot.services.values() {
            assert_eq!(
                service.api.operations.is_empty(),
                &*service.name != name,
                "{name}"
            );
            assert_eq!(service.user, UserRule::Authorize);
        }
        let own = snapshot.own_service().unwrap();
        match own.app.first() {
            Some(AppAddress::Unix(path)) => assert!(path.starts_with("/base")),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_wrong_refuses_the_whole_revision() {
    let base = "version: 1\ntrust_domain: a.test\nservices: {a: {api: {openapi: a.yaml}}}\ngateway: {routes: [{service: a}]}\n";
    let own = Role::Sidecar(Arc::from("a"));
    // The own specification is missing, or broken.
    let missing = small(&[("testudo.yaml", base)]);
    assert_eq!(codes(compiled(&missing, &own)), ["file.missing"]);
    let mut proxys = missing.clone();
    proxys.problems.clear();
    assert_eq!(codes(compiled(&proxys, &own)), ["file.missing"]);
    let broken = small(&[("testudo.yaml", base), ("a.yaml", "openapi: [")]);
    assert_eq!(codes(compiled(&broken, &own)), ["yaml.syntax"]);
    // Not a service, no gateway, not a bundle.
    let stranger = Role::Sidecar(Arc::from("b"));
    assert_eq!(codes(compiled(&proxys, &stranger)), ["ref.unknown"]);
    let inner = small(&[("testudo.yaml", "version: 1\ntrust_domain: a.test\n")]);
    assert_eq!(codes(compiled(&inner, &Role::Gateway)), ["key.missing"]);
    assert_eq!(
        codes(compiled(&Bundle::default(), &Role::Gateway)),
        ["file.missing"]
    );
    let wrong = small(&[(
        "testudo.yaml",
        "version: 1\ntrust_domain: a.test\nwaf: {}\ngateway: {}\n",
    )]);
    assert_eq!(codes(compiled(&wrong, &Role::Gateway)), ["feature.absent"]);
}

#[test]
fn sockets_that_no_system_could_open_are_refused() {
    let text = "version: 1\ntrust_domain: a.test\nservices: {a: {app: [unix:run/a.sock]}}\n";
    let bundle = small(&[("testudo.yaml", text)]);
    let own = Role::Sidecar(Arc::from("a"));
    let deep = format!("/{}", "deep/".repeat(20));
    let result = compile(&bundle, 1, "", &own, Path::new(&deep));
    let found = result.err().unwrap().list;
    assert_eq!(found.first().unwrap().code, "value.invalid");
    assert!(compile(&bundle, 1, "", &own, Path::new("/base")).is_ok());
}

#[test]
fn secrets_of_the_host_are_read_where_they_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let text = "version: 1\ntrust_domain: a.test\ngateway: {tls: [{certificate: '${file:edge.pem}', key: '${env:TESTUDO_NO_SUCH_KEY}'}]}\n";
    let bundle = small(&[("testudo.yaml", text)]);
    let result = compile(&bundle, 1, "", &Role::Gateway, dir.path());
    let messages: Vec<String> = result
        .err()
        .unwrap()
        .list
        .iter()
        .map(|d| d.message.clone())
        .collect();
    assert_eq!(messages.len(), 2);
    assert!(
        messages
            .iter()
            .any(|m| m.contains("edge.pem cannot be read"))
    );
    assert!(
        messages
            .iter()
            .any(|m| m.contains("TESTUDO_NO_SUCH_KEY is not set"))
    );
}

#[test]
fn undocumented_operations_exist_only_where_they_may_be_reached() {
    let spec = "openapi: 3.0.3\ninfo: {title: a, version: '1'}\npaths: {/x: {get: {operationId: x, responses: {'200': {description: ok}}}}}\n";
    for (undocumented, expected) in [("deny", false), ("report", true), ("allow", true)] {
        let text = format!(
            "version: 1\ntrust_domain: a.test\nservices: {{a: {{api: {{openapi: a.yaml, undocumented: {undocumented}}}}}}}\n"
        );
        let bundle = small(&[("testudo.yaml", &text), ("a.yaml", spec)]);
        let snapshot = compiled(&bundle, &Role::Sidecar(Arc::from("a"))).unwrap();
        let api = &snapshot.services["a"].api;
        assert_eq!(api.undocumented_operation.is_some(), expected);
        assert_eq!(&*api.operations.first().unwrap().id, "a:x");
    }
}
