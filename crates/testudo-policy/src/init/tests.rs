use super::*;
use crate::bundle::load;
use crate::render::{Style, human};

fn services(named: &[(&str, &str)]) -> Vec<(String, String)> {
    named
        .iter()
        .map(|(name, address)| ((*name).to_owned(), (*address).to_owned()))
        .collect()
}

const SPEC: &str = "\
openapi: 3.0.3
info: {title: The Orders API, version: '1'}
paths:
  /orders:
    get: {operationId: listOrders, responses: {'200': {description: fine}}}
  /orders/{id}:
    get:
      operationId: getOrder
      parameters: [{name: id, in: path, required: true, schema: {$ref: 'common.yaml#/Id'}}]
      responses: {'200': {description: fine}}
  /carts:
    get: {operationId: listCarts, responses: {'200': {description: fine}}}
";

fn spec(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), SPEC).unwrap();
    std::fs::write(dir.path().join("common.yaml"), "Id: {type: string}\n").unwrap();
    dir
}

fn passes_check(dir: &Path) -> Checked {
    let bundle = load(dir).unwrap();
    let checked = check(&bundle, &CheckOptions::default());
    assert!(
        checked.is_ok(),
        "{}",
        human(checked.report(&bundle), Style::default())
    );
    checked
}

#[test]
fn one_service_without_specification() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(None, &services(&[("orders", "9101")]), dir.path()).unwrap();
    assert_eq!(written.len(), 2);
    let checked = passes_check(dir.path());
    let codes: Vec<_> = checked.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["app.exposed"]);
    insta::assert_snapshot!(std::fs::read_to_string(dir.path().join(ROOT_FILE)).unwrap());
}

#[test]
fn a_specification_goes_to_the_service_that_it_fits() {
    let source = spec("openapi.yaml");
    let dir = tempfile::tempdir().unwrap();
    let named = services(&[
        ("web", "localhost:8443"),
        ("orders", "unix:/run/orders.sock"),
        ("carts", "http://db.example.com:80/"),
    ]);
    let target = dir.path().join("new/bundle");
    write(Some(&source.path().join("openapi.yaml")), &named, &target).unwrap();
    let checked = passes_check(&target);
    assert_eq!(checked.apis["orders"].operations.len(), 3);
    assert!(target.join("apis/common.yaml").exists());
    insta::assert_snapshot!(std::fs::read_to_string(target.join(ROOT_FILE)).unwrap());
    insta::assert_snapshot!(std::fs::read_to_string(target.join("policies/start.cedar")).unwrap());
}

#[test]
fn a_specification_inside_of_the_folder_stays_where_it_is() {
    let dir = spec("petstore.yaml");
    let written = write(
        Some(&dir.path().join("petstore.yaml")),
        &services(&[("pets", "127.0.0.1:1")]),
        dir.path(),
    )
    .unwrap();
    assert_eq!(written.len(), 2);
    passes_check(dir.path());
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(ROOT_FILE), "mine").unwrap();
    let error = write(None, &services(&[("a", "1")]), dir.path()).unwrap_err();
    assert!(matches!(error, InitError::Exists(_)));
    assert_eq!(std::fs::read(dir.path().join(ROOT_FILE)).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn bad_arguments_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for named in [
        vec![],
        services(&[("Orders", "1")]),
        services(&[("gateway", "1")]),
        services(&[("a", "1"), ("a", "2")]),
        services(&[("a", "1"), ("b", "1")]),
        services(&[("a", "nowhere")]),
        services(&[("a", "127.0.0.1:99999")]),
    ] {
        let error = write(None, &named, dir.path()).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
    let broken = dir.path().join("broken.yaml");
    std::fs::write(&broken, "openapi: [").unwrap();
    let target = dir.path().join("bundle");
    let error = write(Some(&broken), &services(&[("a", "1")]), &target).unwrap_err();
    assert!(matches!(error, InitError::Specification(_)), "{error:?}");
    assert!(!target.exists());
    let gone = write(
        Some(Path::new("/gone.yaml")),
        &services(&[("a", "1")]),
        &target,
    );
    assert!(matches!(gone, Err(InitError::Read { .. })));
}
