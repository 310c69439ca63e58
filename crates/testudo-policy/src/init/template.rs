//! The text of a new bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use testudo_guard::snapshot::AppAddress;

use super::Named;
use super::spec::Specification;
use crate::bundle::ROOT_FILE;
use crate::config::{defaults, values};

/// Ports that the new bundle must not take from the services.
fn free_port(services: &[Named], wanted: u16) -> u16 {
    let control = [defaults::CONTROL_API.port(), defaults::CONTROL_MESH.port()];
    let taken = |port: u16| {
        control.contains(&port)
            || services
                .iter()
                .any(|s| matches!(s.address, AppAddress::Tcp(address) if address.port() == port))
    };
    (wanted..u16::MAX)
        .find(|port| !taken(*port))
        .unwrap_or(wanted)
}

pub(super) fn files(
    services: &[Named],
    specification: Option<&Specification>,
) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    files.insert(
        ROOT_FILE.to_owned(),
        main(services, specification).into_bytes(),
    );
    files.insert(
        "policies/start.cedar".to_owned(),
        policies(services, specification).into_bytes(),
    );
    files
}

fn main(services: &[Named], specification: Option<&Specification>) -> String {
    let mut text = String::new();
    let gateway = free_port(services, defaults::GATEWAY_LISTEN.port());
    text.push_str(
        "# A mesh in report mode: everything is judged and logged, nothing is stopped yet.\n\
         #   testudo check          is this right?\n\
         #   testudo up             run it\n\
         #   testudo observe        what would be stopped, and why\n\
         #   testudo policy learn   policies from the calls that were seen\n\
         # Tighten it from the top: each comment that begins with NEXT is a step.\n\
         version: 1\n",
    );
    text.push_str(
        "trust_domain: mesh.test    # NEXT: a name of yours; it stands in every identity\n\n",
    );
    let _ = writeln!(text, "gateway:\n  listen: 127.0.0.1:{gateway}");
    text.push_str(
        "  # Left out: a certificate from the mesh's own CA. NEXT: one that browsers trust:\n\
         \x20 # tls: [{certificate: tls/edge.pem, key: \"${file:/etc/testudo/edge.key}\"}]\n\
         \x20 routes:\n",
    );
    for (path, name, strip) in routes(services, specification) {
        let strip = if strip { ", strip_prefix: true" } else { "" };
        let _ = writeln!(text, "    - {{path: {path}, service: {name}{strip}}}");
    }
    text.push_str(
        "\n# NEXT: who the users are. Until then only services are told apart, and everybody may call.\n\
         # users:\n\
         #   jwt:\n\
         #     idp:\n\
         #       issuer: https://id.example.com     # keys are found by OIDC discovery\n\
         #       audiences: [my-api]\n\
         #       roles: {claim: roles, allow: [customer, admin]}\n\n\
         services:\n",
    );
    for (index, service) in services.iter().enumerate() {
        let own = specification.filter(|specification| specification.service == index);
        service_block(&mut text, service, own);
    }
    text.push_str(
        "policies: policies\n\n\
         limits:\n\
         \x20 # NEXT: once there are users, count by user, and where it hurts: match: {service: …, operation: …}\n\
         \x20 - name: everybody\n\
         \x20   per: address\n\
         \x20   rate: 100/s\n\
         \x20   burst: 200\n",
    );
    text
}

fn service_block(text: &mut String, service: &Named, specification: Option<&Specification>) {
    let address = match &service.address {
        AppAddress::Tcp(address) => address.to_string(),
        AppAddress::Unix(path) => format!("unix:{}", path.display()),
        AppAddress::Dns(host, port) => format!("dns:{host}:{port}"),
    };
    let _ = writeln!(text, "  {}:", service.name);
    text.push_str(
        "    mode: report    # NEXT: enforce, once policies permit what honest requests do\n",
    );
    let _ = writeln!(text, "    app: [{}]", quoted(&address));
    if !matches!(service.address, AppAddress::Unix(_)) {
        let _ = writeln!(
            text,
            "    # NEXT: others can go around the sidecar; let it listen on unix:run/{}.sock",
            service.name
        );
    }
    match specification {
        Some(specification) => {
            let _ = writeln!(
                text,
                "    api:\n      openapi: {}",
                quoted(&specification.path)
            );
            text.push_str(
                "      responses: report    # NEXT: enforce, so that nothing undeclared leaks\n",
            );
        }
        None => {
            text.push_str(
                "    # NEXT: say what its API is; then requests are checked against it:\n",
            );
            let _ = writeln!(text, "    # api: {{openapi: apis/{}.yaml}}", service.name);
        }
    }
    text.push('\n');
}

/// Path, service, and whether the path is cut off.
fn routes<'a>(
    services: &'a [Named],
    specification: Option<&Specification>,
) -> Vec<(String, &'a str, bool)> {
    if let [only] = services {
        return vec![("/".to_owned(), &only.name, false)];
    }
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut routes = Vec::new();
    for (index, service) in services.iter().enumerate() {
        let own = specification.filter(|s| s.service == index);
        let prefixes = own.map(|s| &s.prefixes).filter(|prefixes| {
            (1..=20).contains(&prefixes.len()) && prefixes.iter().all(|p| values::path(p).is_ok())
        });
        if let Some(prefixes) = prefixes {
            for path in prefixes {
                taken.insert(path.clone());
                routes.push((path.clone(), service.name.as_str(), false));
            }
        }
    }
    for service in services {
        if routes.iter().any(|(_, name, _)| *name == service.name) {
            continue;
        }
        let mut path = format!("/{}", service.name);
        while !taken.insert(path.clone()) {
            path.push_str("-service");
        }
        routes.push((path, &service.name, true));
    }
    routes
}

fn policies(services: &[Named], specification: Option<&Specification>) -> String {
    let described = specification.and_then(|s| services.get(s.service));
    let first = described.or_else(|| services.first());
    let name = first.map_or("orders", |service| service.name.as_str());
    let operation = specification.and_then(|s| s.operations.first());
    let operation = operation.map_or("GET", String::as_str);
    let other = services.iter().find(|s| s.name != name);
    let mut text = String::from(
        "// Cedar, default deny: what no policy permits is denied once a service is in mode enforce.\n\
         // At every hop two questions are asked: may this user, may this caller?\n\
         // Routes answer the second one for the gateway.\n\n\
         // NEXT: once testudo.yaml says who the users are and their requests came by, `testudo policy learn` writes\n\
         // what they did as policies. Or say yourself what they may do:\n",
    );
    let _ = writeln!(
        text,
        "// permit (principal in Role::\"customer\", action in Action::\"{name}:read\", resource);\n\
         // permit (principal in Role::\"admin\", action in Action::\"{name}:*\", resource);\n\
         // permit (principal in Role::\"customer\", action == Action::\"{name}:{operation}\", resource);"
    );
    let caller = other.map_or("another", |other| other.name.as_str());
    let _ = writeln!(
        text,
        "\n// NEXT: which services call each other (`testudo policy learn` finds it; `testudo observe --caller {caller}` shows it):\n\
         // permit (principal == Service::\"{caller}\", action in Action::\"{name}:read\", resource);"
    );
    text
}

/// As YAML reads it back; only what it could misread gets quotes.
fn quoted(text: &str) -> String {
    let plain = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let address = text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || b".:".contains(&b));
    if plain || address {
        text.to_owned()
    } else {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}
