//! Good and bad bundles: each diagnostic with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::bundle::load;
use crate::explain;
use crate::render::{Style, human};

const SPEC: &str = "\
openapi: 3.0.3
info: {title: Orders, version: '1'}
paths:
  /orders:
    get: {operationId: listOrders, responses: {'200': {description: fine}}}
    post: {operationId: createOrder, responses: {'201': {description: made}}}
  /orders/{id}:
    get:
      operationId: getOrder
      parameters: [{name: id, in: path, required: true, schema: {type: string}}]
      responses: {'200': {description: fine}}
";

/// 12 lines; what a test adds begins on line 13.
const BASE: &str = "\
version: 1
trust_domain: shop.test
users:
  jwt:
    shop: {issuer: https://id.shop.test, audiences: [shop], roles: {claim: roles, allow: [customer]}}
services:
  orders:
    app: [unix:run/orders.sock]
    api: {openapi: apis/orders.yaml}
  other:
    app: [unix:run/other.sock]
policies: policies
";

const POLICY: &str =
    "permit (principal in Role::\"customer\", action in Action::\"orders:*\", resource);\n";

fn bundle(files: &[(&str, &str)]) -> Bundle {
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::from([
        ("testudo.yaml".to_owned(), BASE.as_bytes().to_vec()),
        ("apis/orders.yaml".to_owned(), SPEC.as_bytes().to_vec()),
        ("policies/a.cedar".to_owned(), POLICY.as_bytes().to_vec()),
    ]);
    for (path, text) in files {
        all.insert((*path).to_owned(), text.as_bytes().to_vec());
    }
    // Its own specification belongs to the base's service.
    let named = |text: &Vec<u8>| String::from_utf8_lossy(text).contains("apis/");
    if !all.get("testudo.yaml").is_some_and(named) {
        all.remove("apis/orders.yaml");
    }
    Bundle::from_files(all).unwrap()
}

const NOW: CheckOptions = CheckOptions {
    now: Some(1_795_000_000),
};

fn found(bundle: &Bundle) -> Vec<String> {
    let checked = check(bundle, &NOW);
    checked
        .diagnostics
        .iter()
        .map(|d| {
            format!(
                "{} {}:{}:{}",
                d.code, d.span.file, d.span.line, d.span.column
            )
        })
        .collect()
}

fn with(added: &str) -> Vec<String> {
    found(&bundle(&[("testudo.yaml", &format!("{BASE}{added}"))]))
}

#[test]
fn the_base_is_good() {
    assert_eq!(with(""), [] as [String; 0]);
    let checked = check(&bundle(&[]), &NOW);
    assert!(checked.is_ok());
    let counts = checked.counts;
    assert_eq!(
        (counts.services, counts.operations, counts.policies),
        (2, 9, 1)
    );
}

/// Code, what is added to the base, where it is found.
const ADDED: &[(&str, &str, &str)] = &[
    (
        "tls.plain",
        "gateway: {listen: '0.0.0.0:8443', tls: none}\n",
        "testudo.yaml:13:19",
    ),
    (
        "trust.everybody",
        "gateway: {trusted_proxies: ['0.0.0.0/0']}\n",
        "testudo.yaml:13:29",
    ),
    ("yaml.syntax", "limits: [", "testudo.yaml:14:1"),
    ("yaml.duplicate", "version: 1\n", "testudo.yaml:13:1"),
    ("key.unknown", "limts: []\n", "testudo.yaml:13:1"),
    (
        "key.missing",
        "limits:\n  - {per: all, rate: 1/s}\n",
        "testudo.yaml:14:5",
    ),
    ("key.type", "identity: 24h\n", "testudo.yaml:13:11"),
    (
        "value.invalid",
        "identity: {ttl: 24x}\n",
        "testudo.yaml:13:17",
    ),
    (
        "value.invalid",
        "control: {api: '0.0.0.0:7100'}\n",
        "testudo.yaml:13:16",
    ),
    (
        "feature.absent",
        "rollout: {stages: []}\n",
        "testudo.yaml:13:1",
    ),
    (
        "value.invalid",
        "watch: {respond: kill}\n",
        "testudo.yaml:13:18",
    ),
    (
        "value.invalid",
        "watch: {max_share: 200%}\n",
        "testudo.yaml:13:20",
    ),
    (
        "value.invalid",
        "watch: {max_share: '5'}\n",
        "testudo.yaml:13:20",
    ),
    (
        "value.invalid",
        "watch: {contain_for: 1s}\n",
        "testudo.yaml:13:22",
    ),
    (
        "key.unknown",
        "watch: {protects: []}\n",
        "testudo.yaml:13:9",
    ),
    (
        "key.unknown",
        "watch: {detectors: {enumration: {objects: 5}}}\n",
        "testudo.yaml:13:21",
    ),
    (
        "key.unknown",
        "watch: {detectors: {enumeration: {paths: 5}}}\n",
        "testudo.yaml:13:35",
    ),
    (
        "value.invalid",
        "watch: {detectors: {enumeration: {objects: 0}}}\n",
        "testudo.yaml:13:44",
    ),
    (
        "ref.unknown",
        "watch: {respond: contain, protect: [oders]}\n",
        "testudo.yaml:13:37",
    ),
    (
        "ref.unknown",
        "watch: {respond: contain, protect: ['shap:root']}\n",
        "testudo.yaml:13:37",
    ),
    (
        "ref.unknown",
        "watch: {respond: contain, protect: [gateway]}\n",
        "testudo.yaml:13:37",
    ),
    (
        "value.unused",
        "watch: {protect: [orders]}\n",
        "testudo.yaml:13:19",
    ),
    (
        "value.invalid",
        "watch: {notify: [{url: 'http://hooks.example.com/'}]}\n",
        "testudo.yaml:13:24",
    ),
    (
        "value.invalid",
        "watch: {notify: [{url: 'https://a.test/', secret: hunter2hunter2}]}\n",
        "testudo.yaml:13:51",
    ),
    (
        "name.duplicate",
        "watch: {notify: [{url: 'https://a.test/'}, {url: 'https://a.test/'}]}\n",
        "testudo.yaml:13:44",
    ),
    (
        "route.unknown_service",
        "gateway: {routes: [{path: /, service: oders}]}\n",
        "testudo.yaml:13:39",
    ),
    (
        "route.unreachable",
        "gateway:\n  routes:\n    - {path: /orders, service: orders}\n    - {path: /orders/, service: other}\n",
        "testudo.yaml:16:14",
    ),
    (
        "route.unreachable",
        "gateway: {routes: [{path: /shop, service: orders}]}\n",
        "testudo.yaml:13:27",
    ),
    (
        "route.unreachable",
        "gateway: {routes: [{host: other.mesh, service: other}]}\n",
        "testudo.yaml:13:20",
    ),
    (
        "listen.duplicate",
        "gateway: {listen: '0.0.0.0:7101', routes: [{path: /, service: orders}]}\n",
        "testudo.yaml:13:19",
    ),
    (
        "limit.never",
        "limits: [{name: l, match: {service: orders, path: /order}, per: all, rate: 1/s}]\n",
        "testudo.yaml:13:51",
    ),
    (
        "limit.never",
        "limits: [{name: l, match: {service: orders, method: DELETE}, per: all, rate: 1/s}]\n",
        "testudo.yaml:13:53",
    ),
    (
        "ref.unknown",
        "limits: [{name: l, match: {service: orders, operation: createOrdr}, per: all, rate: 1/s}]\n",
        "testudo.yaml:13:56",
    ),
    (
        "ref.unknown",
        "limits: [{name: l, match: {service: oders}, per: all, rate: 1/s}]\n",
        "testudo.yaml:13:37",
    ),
    (
        "ref.unknown",
        "limits: [{name: l, per: 'claim:tenant', rate: 1/s}]\n",
        "testudo.yaml:13:25",
    ),
    (
        "name.duplicate",
        "limits: [{name: l, per: all, rate: 1/s}, {name: l, per: all, rate: 1/s}]\n",
        "testudo.yaml:13:49",
    ),
    (
        "file.missing",
        "include: [gone.yaml]\n",
        "testudo.yaml:13:11",
    ),
    (
        "path.outside",
        "include: [../x.yaml]\n",
        "testudo.yaml:13:11",
    ),
];

#[test]
fn every_mistake_in_what_is_added_is_found_in_its_place() {
    for (code, added, place) in ADDED {
        assert_eq!(with(added), [format!("{code} {place}")], "{added}");
    }
}

/// Code, the services, where it is found.
const SERVICES: &[(&str, &str, &str)] = &[
    (
        "value.unused",
        "  a: {user: require}\n",
        "testudo.yaml:4:13",
    ),
    ("value.invalid", "  a: {run: ./a}\n", "testudo.yaml:4:12"),
    (
        "value.invalid",
        "  a: {run: './a --db ${env:DB}', app: [unix:a.sock]}\n",
        "testudo.yaml:4:12",
    ),
    (
        "value.unused",
        "  a: {}\nlimits: [{name: l, per: user, rate: 1/s}]\n",
        "testudo.yaml:5:25",
    ),
    ("name.reserved", "  control: {}\n", "testudo.yaml:4:3"),
    (
        "app.exposed",
        "  a: {app: ['127.0.0.1:9101']}\n",
        "testudo.yaml:4:13",
    ),
    (
        "app.exposed",
        "  a: {app: ['dns:a.example.com:80']}\n",
        "testudo.yaml:4:13",
    ),
    (
        "sidecar.none",
        "  a: {sidecar: none, app: ['127.0.0.1:1']}\n",
        "testudo.yaml:4:16",
    ),
    (
        "mode.ended",
        "  a: {mode: report, until: 2020-01-01}\n",
        "testudo.yaml:4:28",
    ),
    (
        "value.unused",
        "  a: {api: {responses: off}}\n",
        "testudo.yaml:4:24",
    ),
    (
        "value.invalid",
        "  a: {egress: ['a.mesh:80']}\n",
        "testudo.yaml:4:16",
    ),
    (
        "ref.unknown",
        "  a: {acts_alone: [a:nothing]}\n",
        "testudo.yaml:4:20",
    ),
    (
        "ref.unknown",
        "  a: {acts_alone: [GET]}\n",
        "testudo.yaml:4:20",
    ),
    (
        "ref.unknown",
        "  a: {acts_alone: ['b:GET']}\n",
        "testudo.yaml:4:20",
    ),
    (
        "listen.duplicate",
        "  a: {app: [unix:x.sock]}\n  b: {app: [unix:x.sock]}\n",
        "testudo.yaml:5:13",
    ),
    (
        "listen.duplicate",
        "  a: {sidecar: {inbound: '127.0.0.1:7'}}\n  b: {sidecar: {outbound: '127.0.0.1:7'}}\n",
        "testudo.yaml:5:27",
    ),
    (
        "secret.inline",
        "  a: {run: ./a --db postgres://u:hunter2@db/x, app: [unix:a.sock]}\n",
        "testudo.yaml:4:12",
    ),
    (
        "feature.absent",
        "  a: {api: {graphql: a.graphql}}\n",
        "testudo.yaml:4:13",
    ),
];

#[test]
fn every_mistake_of_services_is_found_in_its_place() {
    for (code, services, place) in SERVICES {
        let text = format!("version: 1\ntrust_domain: a.test\nservices:\n{services}");
        let bundle = bundle(&[("testudo.yaml", &text), ("policies/a.cedar", "")]);
        assert_eq!(found(&bundle), [format!("{code} {place}")], "{services}");
    }
}

type Files = &'static [(&'static str, &'static str)];

/// Code, files beside the base, where it is found.
const FILES: &[(&str, Files, &str)] = &[
    (
        "file.unused",
        &[("apis/old.yaml", "openapi: 3.1.0")],
        "testudo.yaml:1:1",
    ),
    (
        "feature.absent",
        &[("tests/orders.yaml", "- permit: []\n"), ("tests/b.yml", "")],
        "tests/b.yml:1:1",
    ),
    (
        "file.unused",
        &[("policies/b.ceder", "permit (principal, action, resource);")],
        "testudo.yaml:12:11",
    ),
    (
        "secret.inline",
        &[
            (
                "testudo.yaml",
                "version: 1\ntrust_domain: a.test\nusers: {jwt: {a: {issuer: 'https://a', audiences: [a], jwks: k.json}}}\n",
            ),
            (
                "k.json",
                r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", "d": "x"}]}"#,
            ),
            ("policies/a.cedar", ""),
        ],
        "testudo.yaml:3:62",
    ),
    (
        "policy.syntax",
        &[("policies/a.cedar", "permit (principal, action")],
        "policies/a.cedar:1:",
    ),
    (
        "policy.type",
        &[(
            "policies/b.cedar",
            "permit (principal in Role::\"customer\", action == Action::\"orders:getOrder\", resource)\nwhen { context.params.idd == \"x\" };\n",
        )],
        "policies/b.cedar:2:",
    ),
    (
        "role.never",
        &[(
            "policies/b.cedar",
            "permit (principal in Role::\"custmer\", action in Action::\"orders:*\", resource);\n",
        )],
        "policies/b.cedar:1:",
    ),
    (
        "policy.unconstrained",
        &[(
            "policies/b.cedar",
            "permit (principal, action in Action::\"orders:read\", resource);\n",
        )],
        "policies/b.cedar:1:",
    ),
    (
        "openapi.invalid",
        &[("apis/orders.yaml", "openapi: 3.0.3\ninfo: {}\npaths: []\n")],
        "apis/orders.yaml:3:",
    ),
    (
        "app.missing",
        &[
            (
                "testudo.yaml",
                "version: 1\ntrust_domain: a.test\nservices: {a: {}}\ngateway: {routes: [{service: a}]}\n",
            ),
            ("policies/a.cedar", ""),
        ],
        "testudo.yaml:3:12",
    ),
    (
        "probe.open",
        &[
            (
                "testudo.yaml",
                "version: 1\ntrust_domain: a.test\nservices: {orders: {probes: [/orders/17], api: {openapi: apis/orders.yaml}}}\n",
            ),
            ("policies/a.cedar", ""),
        ],
        "testudo.yaml:3:30",
    ),
    (
        "file.unreadable",
        &[
            (
                "testudo.yaml",
                "version: 1\ntrust_domain: a.test\nusers: {jwt: {a: {issuer: 'https://a', audiences: [a], jwks: k.json}}}\n",
            ),
            ("k.json", "{\"keys\": []}"),
            ("policies/a.cedar", ""),
        ],
        "testudo.yaml:3:62",
    ),
    (
        "role.never",
        &[
            (
                "testudo.yaml",
                "version: 1\ntrust_domain: a.test\nusers: {jwt: {a: {issuer: 'https://a', audiences: [a], roles: {claim: r, map: {x: y}, allow: []}}}}\n",
            ),
            ("policies/a.cedar", ""),
        ],
        "testudo.yaml:3:83",
    ),
    (
        "tls.invalid",
        &[
            (
                "testudo.yaml",
                "version: 1\ntrust_domain: a.test\ngateway: {tls: [{certificate: c.pem, key: k.pem}]}\n",
            ),
            ("c.pem", "not PEM"),
            ("k.pem", "not PEM"),
            ("policies/a.cedar", ""),
        ],
        "testudo.yaml:3:31",
    ),
];

#[test]
fn every_mistake_of_files_is_found_in_its_place() {
    for (code, files, place) in FILES {
        let found = found(&bundle(files));
        let expected = format!("{code} {place}");
        assert!(
            found.iter().any(|one| one.starts_with(&expected)),
            "{expected}: {found:?}"
        );
    }
}

/// Every code that can be explained has a bundle here that shows it, or a reason why not.
#[test]
fn every_code_has_a_bundle() {
    let elsewhere = [
        // See `certificates_that_are_not_valid_now`.
        "tls.expired",
        // Tested beside the policies and specifications.
        "policy.never",
        "path.dead_end",
        "openapi.unsupported",
        // Of two revisions: end to end.
        "restart.needed",
    ];
    let mut shown: BTreeSet<&str> = elsewhere.into();
    shown.extend(ADDED.iter().map(|(code, _, _)| *code));
    shown.extend(SERVICES.iter().map(|(code, _, _)| *code));
    shown.extend(FILES.iter().map(|(code, _, _)| *code));
    for code in explain::diagnostic_codes() {
        assert!(shown.contains(code), "no bundle shows {code}");
    }
}

#[test]
fn hints_say_what_to_write() {
    let text = format!(
        "{BASE}gateway: {{routes: [{{path: /, service: oders}}]}}\nlimits:\n  - {{name: l, match: {{service: orders, path: /order}}, per: all, rate: 1/s}}\n"
    );
    let bundle = bundle(&[("testudo.yaml", &text)]);
    let mut checked = check(&bundle, &NOW);
    checked.counts.milliseconds = 7;
    insta::assert_snapshot!(human(checked.report(&bundle), Style::default()), @r"
    ✗ route.unknown_service testudo.yaml:13:39
       13 │ gateway: {routes: [{path: /, service: oders}]}
          │                                       ──┬──
          │                                         ╰ there is no service oders
        fix  did you mean orders?        --fix does it
    ✗ limit.never           testudo.yaml:15:46
       15 │   - {name: l, match: {service: orders, path: /order}, per: all, rate: 1/s}
          │                                              ──┬───
          │                                                ╰ matches 0 of 3 operations
        fix  /orders matches 3: listOrders createOrder getOrder        --fix does it
    2 errors, 0 warnings   2 services  9 operations  1 policy  1 limit  7 ms
    nothing applied, exit 1     more: testudo explain limit.never
    ");
    let fixed = crate::fix::apply(&bundle, &checked.diagnostics);
    let fixed = &fixed["testudo.yaml"];
    assert!(fixed.contains("service: orders}]}") && fixed.contains("path: /orders}"));
}

#[test]
fn the_sample_shop_is_good() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop");
    let bundle = load(&dir).unwrap();
    let checked = check(&bundle, &NOW);
    assert!(
        checked.is_ok(),
        "{}",
        human(checked.report(&bundle), Style::default())
    );
}

#[test]
fn certificates_that_are_not_valid_now() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["edge.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let chain = params.self_signed(&pair).unwrap().pem();
    let bundle = bundle(&[
        (
            "testudo.yaml",
            "version: 1\ntrust_domain: a.test\ngateway: {tls: [{certificate: c.pem, key: k.pem}]}\n",
        ),
        ("c.pem", &chain),
        ("k.pem", &pair.serialize_pem()),
        ("policies/a.cedar", ""),
    ]);
    for (now, expected) in [(1_500_000_000, 1), (1_590_000_000, 0), (1_700_000_000, 1)] {
        let checked = check(&bundle, &CheckOptions { now: Some(now) });
        let codes: Vec<_> = checked.diagnostics.iter().map(|d| d.code).collect();
        assert_eq!(codes, vec!["tls.expired"; expected], "{now}");
    }
}
