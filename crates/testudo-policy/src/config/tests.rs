use std::collections::BTreeMap;

use super::*;
use crate::config::shape::Need;

fn bundle(files: &[(&str, &str)]) -> Bundle {
    let files: BTreeMap<String, Vec<u8>> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect();
    Bundle::from_files(files).unwrap()
}

fn config(files: &[(&str, &str)]) -> (Option<Config>, Vec<String>) {
    let mut diagnostics = Diagnostics::default();
    let config = read(&bundle(files), &mut diagnostics);
    let found = diagnostics.sorted().into_iter().map(|d| {
        let hint = d.hint.map(|hint| format!(" | {hint}")).unwrap_or_default();
        format!(
            "{}:{}:{} {} {}{hint}",
            d.span.file, d.span.line, d.span.column, d.code, d.message
        )
    });
    (config, found.collect())
}

const FULL: &str = r#"
version: 1
trust_domain: shop.test
include: [teams/*.yaml]
control: {api: "127.0.0.1:7200", mesh: "127.0.0.1:7201", store: embedded, limits_store: null}
identity: {ttl: 12h}
gateway:
  listen: 127.0.0.1:9443
  tls: [{certificate: tls/edge.pem, key: "${env:EDGE_KEY}"}]
  trusted_proxies: [10.0.0.0/8, "::1"]
  routes:
    - host: api.shop.test
      path: /orders/
      service: orders
      strip_prefix: true
      timeout: 5s
      cors:
        {origins: ["https://shop.test"], methods: [GET], headers: [X-A], expose: [X-B], credentials: true, max_age: 10m}
    - {path: /old, redirect: {to: /orders, status: 301}}
    - {path: /older, redirect: /orders}
users:
  jwt:
    shop:
      issuer: https://id.shop.test
      audiences: [shop]
      jwks: keys/jwks.json
      id: /sub
      roles: {claim: /realm_access/roles, map: {grp-7: admin}, allow: [customer, admin]}
      claims: {tenant: /tenant}
  api_keys: keys/api.yaml
  forward: false
services:
  orders:
    mode: report
    until: 2126-12-31
    app: [127.0.0.1:9101]
    run: ./orders --port 9101
    sidecar: {inbound: "127.0.0.1:15006", outbound: "127.0.0.1:15001"}
    roles: [backend]
    labels: {tier: core}
    protocol: http1
    api: {openapi: apis/orders.yaml, requests: report, responses: off, undocumented: allow, max_body: 16KiB}
    user: require
    acts_alone: [billing:charge]
    probes: [/healthz]
    egress: [API.example.com:443]
    timeout: 3s
policies: policies
watch:
  respond: contain
  contain_for: 5m
  max_share: 2.5%
  protect: [billing, "shop:root"]
  notify:
    - {url: "https://hooks.example.com/mesh", secret: "${env:HOOK}"}
    - {url: "${file:/run/secrets/slack}", format: slack}
  detectors:
    new_edge: {learn: 1h}
    rate: {factor: 3, requests: 100, off: true}
    errors: {share: 20%, requests: 5}
    denials: {requests: 40, factor: 3}
    latency: {factor: 4, least: 100ms}
    volume: {bytes: 10MiB, factor: 5}
    enumeration: {objects: 60, factor: 4}
    scan: {paths: 12}
    stuffing: {credentials: 9, addresses: 7}
    token_sharing: {addresses: 5, agents: 6}
    undocumented: {requests: 3}
    dropped_user: {requests: 2}
    probing: {requests: 99}
limits:
  - {name: all, match: {service: orders, operation: createOrder, method: POST, path: /orders/}, per: "claim:tenant", rate: 5/m, burst: 7, scope: fleet}
"#;

fn full() -> Vec<(&'static str, &'static str)> {
    vec![
        ("testudo.yaml", FULL),
        (
            "teams/billing.yaml",
            "services: {billing: {app: ['unix:run/billing.sock']}}\nroutes: [{path: /billing, service: billing}]\nlimits: [{name: b, per: all, rate: 100/s}]\n",
        ),
        (
            "keys/api.yaml",
            "keys:\n  - {id: r1, hash: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff, user: reporting, roles: [admin], expires: 2126-01-01}\n",
        ),
        ("policies/a.cedar", ""),
        ("apis/orders.yaml", ""),
    ]
}

#[test]
fn every_key_is_read_as_written() {
    let (config, found) = config(&full());
    assert_eq!(found, [] as [String; 0]);
    let config = config.unwrap();
    assert_eq!(&*config.trust_domain, "shop.test");
    assert_eq!(config.identity_ttl, Duration::from_hours(12));
    let gateway = config.gateway.as_ref().unwrap();
    assert_eq!(gateway.routes.len(), 4);
    let route = &gateway.routes.first().unwrap().rule;
    assert_eq!((&*route.path, route.source.line), ("/orders", 12));
    assert_eq!(
        &**route.cors.as_ref().unwrap().headers.first().unwrap(),
        "x-a"
    );
    match &gateway.tls {
        GatewayTls::Certificates(list) => {
            let first = list.first().unwrap();
            assert_eq!(
                first.certificate,
                SecretSource::Bundle("tls/edge.pem".to_owned())
            );
            assert_eq!(first.key, SecretSource::Environment("EDGE_KEY".to_owned()));
        }
        other => panic!("{other:?}"),
    }
    let users = config.users.as_ref().unwrap();
    let roles: Vec<_> = users.roles().unwrap().into_iter().collect();
    assert_eq!(roles, [Arc::from("admin"), Arc::from("customer")]);
    let key = users.api_keys.as_ref().unwrap().keys.first().unwrap();
    assert_eq!((key.hash.first(), key.hash.get(1)), (Some(&0), Some(&0x11)));
    let orders = &config.services["orders"];
    assert_eq!(orders.mode, Mode::Report);
    assert_eq!(orders.run.as_ref().unwrap().len(), 3);
    assert_eq!(orders.api.max_body, 16 << 10);
    assert_eq!(&*orders.egress.first().unwrap().0, "api.example.com:443");
    assert_eq!(config.services.len(), 2);
    let limit = &config.limits.first().unwrap().rule;
    assert_eq!(
        limit.matches.operation.as_deref(),
        Some("orders:createOrder")
    );
    assert_eq!(limit.matches.path.as_deref(), Some("/orders"));
    assert_eq!((limit.interval, limit.burst), (Duration::from_secs(12), 7));
    assert_eq!(config.limits.get(1).unwrap().rule.burst, 100);
    every_key_of_watch_is_read_as_written(&config.watch);
}

fn every_key_of_watch_is_read_as_written(watch: &Watch) {
    assert_eq!(watch.respond, Respond::Contain);
    assert_eq!(watch.contain_for, Duration::from_mins(5));
    assert!((watch.max_share - 0.025).abs() < 1e-9);
    assert!(watch.protects("billing") && watch.protects("shop:root"));
    assert!(!watch.protects("orders"));
    let [hook, slack] = watch.notify.as_slice() else {
        panic!("{:?}", watch.notify);
    };
    let written = WebhookUrl::Plain("https://hooks.example.com/mesh".into());
    assert_eq!(hook.url, written);
    assert_eq!(hook.format, WebhookFormat::Generic);
    let environment = SecretSource::Environment("HOOK".to_owned());
    assert_eq!(hook.secret, Some(environment));
    let file = SecretSource::File("/run/secrets/slack".to_owned());
    assert_eq!(slack.url, WebhookUrl::Secret(file));
    assert_eq!((slack.format, &slack.secret), (WebhookFormat::Slack, &None));
    let written: usize = watch.detectors.values().map(|d| d.knobs.len()).sum();
    let known: usize = detectors().map(|(_, knobs)| knobs.len()).sum();
    assert_eq!((watch.detectors.len(), written), (13, known));
    assert!(watch.detectors["rate"].off && !watch.detectors["scan"].off);
    let knob = |detector, knob| watch.detectors[detector].knobs[knob];
    assert_eq!(knob("new_edge", "learn"), 3600.0);
    assert_eq!(knob("errors", "share"), 0.2);
    assert_eq!(knob("latency", "least"), 0.1);
    assert_eq!(knob("volume", "bytes"), 10_485_760.0);
    assert_eq!(knob("enumeration", "objects"), 60.0);
}

/// The tables and the readers cannot drift apart: `shape` refuses keys that no table has, and every key of a
/// table is read by somebody.
#[test]
fn every_key_of_the_tables_is_read() {
    config(&full());
    let asked = fields::tests::asked();
    for object in keys::objects() {
        for key in object.keys {
            let absent = matches!(key.need, Need::Absent(_));
            let root = matches!(key.name, "waf" | "rollout");
            assert!(
                absent || root || asked.contains(&(object.title, key.name)),
                "{} of {} is never read",
                key.name,
                object.title
            );
        }
    }
}

#[test]
fn defaults_are_those_of_the_design() {
    let (config, found) = config(&[(
        "testudo.yaml",
        "version: 1\ntrust_domain: a.test\ngateway: {}\nservices: {a: {}}\n",
    )]);
    assert_eq!(found, [] as [String; 0]);
    let config = config.unwrap();
    assert_eq!(config.control.api.to_string(), "127.0.0.1:7100");
    assert_eq!(config.control.mesh.to_string(), "127.0.0.1:7101");
    let gateway = config.gateway.as_ref().unwrap();
    assert_eq!(gateway.listen.to_string(), "127.0.0.1:8443");
    assert!(matches!(gateway.tls, GatewayTls::Mesh));
    let service = &config.services["a"];
    assert_eq!(service.mode, Mode::Enforce);
    assert_eq!(service.user, UserRule::Authorize);
    assert_eq!(service.api.requests, Strictness::Enforce);
    assert_eq!(service.api.responses, Strictness::Report);
    assert_eq!(service.api.undocumented, Undocumented::Deny);
    assert_eq!(service.api.max_body, 1 << 20);
    assert_eq!(service.timeout, Duration::from_secs(15));
    assert!(config.users.is_none() && config.policies.is_none());
}

#[test]
fn every_mistake_is_named_at_once() {
    let text = "\
version: 2
trust_domain: Shop
gatway: {}
gateway:
  listen: shop.test:80
  tls: nope
  proxy_protocol: true
  routes:
    - {path: orders, service: orders}
    - {service: orders, redirect: /x}
    - {path: /a}
waf: {}
services:
  Orders: {}
  gateway: {mode: reprot, app: 127.0.0.1:1}
  a: {api: {graphql: x.graphql}, timeout: 15, until: 2030-01-01}
  b: {api: {requests: off}, run: 'x \"y', user:}
limits:
  - {name: l, per: usr, rate: 5/y, scope: mesh}
  - {per: all, rate: 5/s}
control: {store: etcd://x, limits_store: redis://x}
";
    let (_, found) = config(&[("testudo.yaml", text)]);
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn users_must_be_told_apart() {
    let text = "\
version: 1
trust_domain: a.test
users:
  jwt:
    key: {issuer: https://a.test, audiences: [], roles: {claim: r}}
    b: {issuer: https://a.test, audiences: [x], jwks: 'http://a.test/keys', roles: {claim: r, map: {x: y}, allow: [z]}}
services:
  a: {app: ['unix:x.sock']}
";
    let (_, found) = config(&[("testudo.yaml", text)]);
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn names_are_unique_over_all_files() {
    let (config, found) = config(&[
        (
            "testudo.yaml",
            "version: 1\ntrust_domain: a.test\ninclude: [t/*.yaml]\nservices: {a: {}}\nlimits: [{name: x, per: all, rate: 1/s}]\n",
        ),
        (
            "t/a.yaml",
            "services:\n  a: {}\nlimits:\n  - {name: x, per: all, rate: 1/s}\nroutes: [{service: a}]\ngateway: {}\n",
        ),
    ]);
    assert!(config.is_some());
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn a_pasted_key_is_not_repeated() {
    let (_, found) = config(&[
        (
            "testudo.yaml",
            "version: 1\ntrust_domain: a.test\nusers: {api_keys: k.yaml}\n",
        ),
        (
            "k.yaml",
            "keys:\n  - {id: a, hash: tk_a_secretsecret, user: u, expires: never}\n",
        ),
    ]);
    insta::assert_snapshot!(found.join("\n"));
    assert!(!found.join("\n").contains("secretsecret"));
}
