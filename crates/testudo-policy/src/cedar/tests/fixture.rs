//! A shop of four services, built by hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::Method;
use testudo_guard::schema::OperationSchema;

use crate::api::{ApiModel, FieldModel, Location, OperationModel, ParamModel, ValueKind};
use crate::bundle::Bundle;
use crate::cedar::{Compiled, compile};
use crate::config::{self, Config};
use crate::diagnostic::{Diagnostics, Severity, Span};

pub(super) const CONFIG: &str = "\
version: 1
trust_domain: shop.test
gateway:
  listen: 127.0.0.1:8443
  routes:
    - {path: /, service: storefront}
    - {path: /orders, service: orders}
users:
  jwt:
    shop:
      issuer: https://id.shop.test
      audiences: [shop]
      jwks: keys/jwks.json
      id: sub
      claims: {tenant: /tenant, groups: /groups}
      roles: {claim: roles, allow: [customer, admin]}
services:
  storefront: {app: [127.0.0.1:9100], labels: {tier: edge}}
  orders: {app: [127.0.0.1:9101], roles: [backend]}
  payments: {app: [127.0.0.1:9102], roles: [backend]}
  reports: {app: [127.0.0.1:9103], user: ignore}
policies: policies
";

pub(super) struct Shop {
    pub(super) config: Config,
    pub(super) apis: BTreeMap<Arc<str>, ApiModel>,
    pub(super) bundle: Bundle,
}

impl Shop {
    /// With these policy files.
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        Shop::with_config(CONFIG, files)
    }

    pub(super) fn with_config(config: &str, files: &[(&str, &str)]) -> Self {
        let mut all = BTreeMap::from([
            ("testudo.yaml".to_owned(), config.as_bytes().to_vec()),
            ("keys/jwks.json".to_owned(), b"{\"keys\": []}".to_vec()),
        ]);
        for (path, text) in files {
            all.insert((*path).to_owned(), text.as_bytes().to_vec());
        }
        let bundle = Bundle::from_files(all).unwrap();
        let mut diagnostics = Diagnostics::default();
        let config = config::read(&bundle, &mut diagnostics).unwrap();
        assert!(!diagnostics.has_errors(), "{:?}", diagnostics.list);
        Shop {
            config,
            apis: apis(),
            bundle,
        }
    }

    pub(super) fn check(&self) -> (Compiled, Diagnostics) {
        let mut diagnostics = Diagnostics::default();
        let compiled = compile(
            &self.bundle,
            &self.config,
            &self.apis,
            true,
            &mut diagnostics,
        );
        (compiled, diagnostics)
    }

    pub(super) fn operation(&self, id: &str) -> (&Arc<str>, &OperationModel) {
        let (service, name) = id.split_once(':').unwrap();
        let api = &self.apis[service];
        let operation = api.operations.iter().find(|known| &*known.name == name);
        (&api.service, operation.unwrap())
    }
}

fn apis() -> BTreeMap<Arc<str>, ApiModel> {
    let id = || param("id", Location::Path, Some(ValueKind::String), true);
    let customer = || param("customerId", Location::Path, Some(ValueKind::String), true);
    let total = || field("total", ValueKind::Long, true);
    let note = || field("note", ValueKind::String, false);
    let order = |name, method, template, line| operation(name, method, template, line, "orders");
    let mut list = order(
        "listOrders",
        Method::GET,
        "/customers/{customerId}/orders",
        10,
    );
    list.params = vec![
        customer(),
        param("limit", Location::Query, Some(ValueKind::Long), false),
        param("filter", Location::Query, None, false),
        param("x-shop", Location::Header, Some(ValueKind::String), true),
        param("session", Location::Cookie, Some(ValueKind::String), false),
    ];
    let mut get = order(
        "getOrder",
        Method::GET,
        "/customers/{customerId}/orders/{id}",
        30,
    );
    get.params = vec![customer(), id()];
    let mut create = order("createOrder", Method::POST, "/orders", 50);
    create.body = vec![total(), note()];
    let mut upload = order("uploadReceipt", Method::POST, "/orders/{id}/receipt", 70);
    upload.params = vec![id()];
    upload.streamed = true;
    let payment =
        |name, method, template, line| operation(name, method, template, line, "payments");
    let mut charge = payment("charge", Method::POST, "/charges", 10);
    charge.body = vec![field("amount", ValueKind::Decimal, true)];
    let mut status = payment("getCharge", Method::GET, "/charges/{id}", 30);
    status.params = vec![id()];
    let home = operation("home", Method::GET, "/", 10, "storefront");
    let run = operation("run", Method::POST, "/run", 10, "reports");
    BTreeMap::from(
        [
            ("orders", vec![list, get, create, upload]),
            ("payments", vec![charge, status]),
            ("storefront", vec![home]),
            ("reports", vec![run]),
        ]
        .map(|(service, operations)| {
            let service: Arc<str> = service.into();
            let api = ApiModel {
                service: service.clone(),
                operations,
                title: String::new(),
            };
            (service, api)
        }),
    )
}

fn span(file: &str, line: u32) -> Span {
    Span {
        file: file.into(),
        line,
        column: 1,
        length: 1,
    }
}

fn operation(
    name: &str,
    method: Method,
    template: &str,
    line: u32,
    service: &str,
) -> OperationModel {
    OperationModel {
        name: name.into(),
        method,
        template: template.into(),
        span: span(&format!("apis/{service}.yaml"), line),
        params: Vec::new(),
        body: Vec::new(),
        streamed: false,
        websocket: false,
        schema: OperationSchema::default(),
    }
}

fn param(name: &str, location: Location, kind: Option<ValueKind>, required: bool) -> ParamModel {
    ParamModel {
        name: name.into(),
        location,
        kind,
        required,
        span: span("apis/orders.yaml", 38),
    }
}

fn field(name: &str, kind: ValueKind, required: bool) -> FieldModel {
    FieldModel {
        name: name.into(),
        kind,
        required,
        span: span("apis/orders.yaml", 58),
    }
}

/// Diagnostics as text, with the place underlined.
pub(super) fn render(diagnostics: Diagnostics, bundle: &Bundle) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics.sorted() {
        let sign = match diagnostic.severity {
            Severity::Error => "✗",
            Severity::Warning => "!",
        };
        let span = &diagnostic.span;
        let _ = writeln!(
            text,
            "{sign} {}  {}:{}:{}",
            diagnostic.code, span.file, span.line, span.column
        );
        let file = bundle.text(&span.file).unwrap_or_default();
        let line = file.lines().nth(span.line as usize - 1).unwrap_or("");
        let underline = "^".repeat(span.length as usize);
        let _ = writeln!(text, "    {line}");
        let _ = writeln!(
            text,
            "    {}{underline} {}",
            " ".repeat(span.column as usize - 1),
            diagnostic.message
        );
        if let Some(hint) = &diagnostic.hint {
            let _ = writeln!(text, "  hint: {hint}");
        }
        if let Some(fix) = &diagnostic.fix {
            let _ = writeln!(
                text,
                "  fix: {}:{}+{} -> {}",
                fix.span.line, fix.span.column, fix.span.length, fix.replacement
            );
        }
    }
    text
}
