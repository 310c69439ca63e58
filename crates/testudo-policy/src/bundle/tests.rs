use std::fs;

use testudo_model::Audience;

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const ROOT: &str = "\
include: [teams/*.yaml]
gateway:
  tls: [{certificate: tls/edge.pem, key: '${env:EDGE_KEY}'}]
users:
  jwt: {shop: {jwks: keys/jwks.json}, other: {jwks: https://id.test/jwks}}
  api_keys: keys/api.yaml
services:
  orders: {api: {openapi: apis/orders.yaml}}
";

fn shop() -> Vec<(&'static str, &'static str)> {
    vec![
        ("testudo.yaml", ROOT),
        (
            "teams/a.yaml",
            "services: {pay: {api: {openapi: ../apis/pay.yaml}}}",
        ),
        (
            "apis/orders.yaml",
            "a: {$ref: 'common.yaml#/X'}\nb: {\"$ref\": \"#/a\"}\n",
        ),
        (
            "apis/pay.yaml",
            "a: {$ref: common.yaml}\nb: {$ref: 'gone.yaml#/X'}\n",
        ),
        ("apis/common.yaml", "$ref: deep/x.yaml#/Y"),
        ("apis/deep/x.yaml", "Y: {$ref: ../common.yaml}"),
        ("tls/edge.pem", "pem"),
        ("keys/jwks.json", "{}"),
        ("keys/api.yaml", "keys: []"),
        ("policies/mesh.cedar", ""),
        ("policies/orders/own.cedar", ""),
        ("policies/README.md", ""),
        ("tests/first.yaml", ""),
        ("unnamed.txt", "never taken"),
        (".testudo/admin.token", "secret"),
    ]
}

fn check_shop(bundle: &Bundle) {
    let problems: Vec<_> = bundle
        .problems
        .iter()
        .map(|d| (d.code, &*d.span.file))
        .collect();
    assert_eq!(problems, [("feature.absent", "tests/first.yaml")]);
    let audiences: Vec<_> = bundle
        .files
        .iter()
        .map(|(path, file)| (path.as_str(), file.audience.clone()))
        .collect();
    let service = |name: &str| Audience::Service(name.to_owned());
    assert_eq!(
        audiences,
        [
            ("apis/common.yaml", Audience::All),
            ("apis/deep/x.yaml", Audience::All),
            ("apis/orders.yaml", service("orders")),
            ("apis/pay.yaml", service("pay")),
            ("keys/api.yaml", Audience::Gateway),
            ("keys/jwks.json", Audience::Gateway),
            ("policies/mesh.cedar", Audience::All),
            ("policies/orders/own.cedar", service("orders")),
            ("teams/a.yaml", Audience::All),
            ("tests/first.yaml", Audience::Control),
            ("testudo.yaml", Audience::All),
            ("tls/edge.pem", Audience::Gateway),
        ]
    );
}

#[test]
fn only_named_files_are_taken_from_disk_and_from_memory() {
    let dir = folder(&shop());
    check_shop(&load(dir.path()).unwrap());
    let files = shop()
        .into_iter()
        .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
    check_shop(&Bundle::from_files(files.collect()).unwrap());
}

#[test]
fn parts_make_the_same_bundle_and_a_changed_one_is_refused() {
    let dir = folder(&shop());
    let bundle = load(dir.path()).unwrap();
    let parts = bundle.manifest_parts();
    assert_eq!(parts.len(), bundle.files.len());
    let with_content = |change: bool| {
        let bundle = &bundle;
        parts.iter().map(move |part| {
            let mut content = bundle.content(&part.path).unwrap().to_vec();
            if change && part.path == "tls/edge.pem" {
                content = b"pez".to_vec();
            }
            (part, Arc::from(content))
        })
    };
    let back = Bundle::from_parts(with_content(false)).unwrap();
    assert_eq!(back.manifest_parts(), parts);
    assert_eq!(
        Bundle::from_parts(with_content(true)).unwrap_err(),
        PartError::Digest("tls/edge.pem".to_owned())
    );
    let pem = parts
        .iter()
        .find(|part| part.path == "tls/edge.pem")
        .unwrap();
    assert_eq!(
        pem.digest,
        "f0aeace912cf19dc1c6fffd41de6e395daeb5462f1221945706bd0674c3005eb"
    );
}

#[test]
fn parts_stay_inside_of_a_folder() {
    let bundle = load(folder(&shop()).path()).unwrap();
    let part = bundle.manifest_parts().remove(0);
    for path in ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", ""] {
        let part = testudo_model::PartRef {
            path: path.to_owned(),
            ..part.clone()
        };
        let content: Arc<[u8]> = Arc::from(bundle.content("apis/common.yaml").unwrap());
        let result = Bundle::from_parts([(&part, content)]);
        assert_eq!(result.unwrap_err(), PartError::Path(path.to_owned()));
    }
}

#[test]
fn nothing_outside_is_read() {
    let outside = folder(&[("secret.pem", "secret")]);
    let dir = folder(&[(
        "testudo.yaml",
        "gateway:\n  tls:\n    - {certificate: ../x.pem, key: link.pem}\n    - {certificate: /etc/passwd, key: gone.pem}\n",
    )]);
    std::os::unix::fs::symlink(
        outside.path().join("secret.pem"),
        dir.path().join("link.pem"),
    )
    .unwrap();
    let bundle = load(dir.path()).unwrap();
    let found: Vec<_> = bundle
        .problems
        .iter()
        .map(|d| (d.code, d.span.line, d.span.column))
        .collect();
    assert_eq!(
        found,
        [
            ("path.outside", 3, 21),
            ("path.outside", 3, 36),
            ("path.outside", 4, 21),
            ("file.missing", 4, 39),
        ]
    );
    assert_eq!(bundle.files.len(), 1);
}

#[test]
fn pipes_and_large_files_are_refused() {
    let dir = folder(&[(
        "testudo.yaml",
        "users: {api_keys: big.yaml}\npolicies: nowhere\n",
    )]);
    let big = fs::File::create(dir.path().join("big.yaml")).unwrap();
    big.set_len(MAX_FILE_BYTES + 1).unwrap();
    let bundle = load(dir.path()).unwrap();
    let codes: Vec<_> = bundle.problems.iter().map(|d| d.code).collect();
    assert_eq!(codes, ["file.unreadable", "file.missing"]);
}

#[test]
fn a_folder_without_a_bundle_says_so() {
    let dir = folder(&[]);
    let diagnostics = load(dir.path()).unwrap_err();
    assert_eq!(diagnostics.list.first().unwrap().code, "file.missing");
    let diagnostics = load(&dir.path().join("gone")).unwrap_err();
    assert_eq!(diagnostics.list.first().unwrap().code, "file.unreadable");
}

#[test]
fn paths_resolve_inside_or_not_at_all() {
    for (file, path, expected) in [
        ("testudo.yaml", "a/b.yaml", Some("a/b.yaml")),
        ("teams/a.yaml", "../apis/x.yaml", Some("apis/x.yaml")),
        ("teams/a.yaml", "./x//y", Some("teams/x/y")),
        ("teams/a.yaml", "../../x", None),
        ("testudo.yaml", "..", None),
        ("testudo.yaml", "/etc/passwd", None),
        ("testudo.yaml", "a\\b", None),
        ("testudo.yaml", "", None),
    ] {
        assert_eq!(resolve(file, path).as_deref(), expected, "{file} {path}");
    }
}
