//! Finding an operation, checking its parameters and a small JSON body.
//!
//! `cargo bench -p testudo-guard --bench schema`
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;

use divan::{AllocProfiler, Bencher, black_box};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value as Json, json};
use testudo_guard::schema::{
    BodyRule, Location, MediaRange, MediaType, OperationMatch, OperationMatcher, OperationParts,
    OperationSchema, Parameter, PathParams, RequestBody, Responses, Schema, Style, ValueKind,
    Values,
};
use testudo_model::PolicyRef;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

fn source() -> PolicyRef {
    PolicyRef {
        file: "apis/orders.yaml".into(),
        line: 1,
    }
}

fn parameter(location: Location, name: &str, kind: ValueKind, schema: &Json) -> Parameter {
    Parameter {
        name: name.into(),
        location,
        required: location == Location::Path,
        style: match location {
            Location::Path | Location::Header => Style::Simple,
            Location::Query | Location::Cookie => Style::Form,
        },
        explode: location == Location::Query,
        allow_empty: false,
        schema: Arc::new(Schema::compile(schema).unwrap()),
        kind: Some(kind),
        source: source(),
    }
}

/// `GET /orders/{customerId}/{orderId}?limit=&status=&verbose=` and a body with two fields that policies read.
fn operation() -> OperationSchema {
    let customer = json!({"type": "string", "pattern": "^[a-z][a-z0-9-]{0,31}$"});
    let status = json!({"type": "string", "enum": ["paid", "cancelled", "refunded"]});
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 100});
    let body = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["product", "quantity"],
        "properties": {
            "product": {"type": "integer", "minimum": 1},
            "quantity": {"type": "integer", "minimum": 1, "maximum": 100},
            "note": {"type": "string", "maxLength": 500},
        },
    });
    let tenant = json!({"type": "string", "maxLength": 16});
    OperationSchema::new(OperationParts {
        parameters: vec![
            parameter(Location::Path, "customerId", ValueKind::String, &customer),
            parameter(
                Location::Path,
                "orderId",
                ValueKind::Long,
                &json!({"type": "integer"}),
            ),
            parameter(Location::Query, "limit", ValueKind::Long, &limit),
            parameter(Location::Query, "status", ValueKind::String, &status),
            parameter(
                Location::Query,
                "verbose",
                ValueKind::Bool,
                &json!({"type": "boolean"}),
            ),
            parameter(Location::Header, "x-tenant", ValueKind::String, &tenant),
        ],
        ignored_query: vec![],
        additional_query: false,
        body: Some(RequestBody {
            required: true,
            content: vec![MediaType {
                range: MediaRange::parse("application/json").unwrap(),
                schema: Some(Arc::new(Schema::compile(&body).unwrap())),
                source: source(),
            }],
            fields: vec![
                ("product".into(), ValueKind::Long),
                ("quantity".into(), ValueKind::Long),
                ("note".into(), ValueKind::String),
            ],
            source: source(),
        }),
        responses: Responses::default(),
        source: source(),
    })
}

fn matcher() -> OperationMatcher {
    let templates: Vec<String> = (0..40)
        .flat_map(|service| {
            let base = format!("/service{service}");
            [
                base.clone(),
                format!("{base}/{{id}}"),
                format!("{base}/{{id}}/items/{{item}}"),
            ]
        })
        .chain(["/orders".into(), "/orders/{customerId}/{orderId}".into()])
        .collect();
    OperationMatcher::from_templates(templates.iter().map(|text| (Method::GET, text.as_str())))
}

#[divan::bench]
fn find_one_of_122_operations(bencher: Bencher<'_, '_>) {
    let matcher = matcher();
    bencher.bench_local(|| {
        let found = matcher.find(&Method::GET, black_box("/orders/alice/17"));
        assert!(matches!(found, OperationMatch::Found { .. }));
        found
    });
}

#[divan::bench]
fn head_with_six_parameters(bencher: Bencher<'_, '_>) {
    let operation = operation();
    let mut headers = HeaderMap::new();
    headers.insert("x-tenant", HeaderValue::from_static("acme"));
    let path: PathParams<'_> = [("customerId".into(), "alice"), ("orderId".into(), "17")]
        .into_iter()
        .collect();
    bencher.bench_local(|| {
        let mut values = Values::default();
        let query = Some(black_box("limit=20&status=paid&verbose=true"));
        operation
            .check_head(&path, query, &headers, &mut values)
            .unwrap();
        values
    });
}

#[divan::bench]
fn head_with_percent_encoding(bencher: Bencher<'_, '_>) {
    let operation = operation();
    let headers = HeaderMap::new();
    let path: PathParams<'_> = [("customerId".into(), "alice"), ("orderId".into(), "17")]
        .into_iter()
        .collect();
    bencher.bench_local(|| {
        let mut values = Values::default();
        let query = Some(black_box("limit=%32%30&st%61tus=paid"));
        operation
            .check_head(&path, query, &headers, &mut values)
            .unwrap();
        values
    });
}

#[divan::bench]
fn small_json_body(bencher: Bencher<'_, '_>) {
    let operation = operation();
    let body = br#"{"product": 17, "quantity": 2, "note": "leave it at the door, please"}"#;
    bencher.bench_local(|| {
        let mut values = Values::default();
        operation
            .check_body(BodyRule::Json(0), black_box(body), &mut values)
            .unwrap();
        values
    });
}

#[divan::bench]
fn json_of_64_kib(bencher: Bencher<'_, '_>) {
    let item = json!({"sku": "a-17", "count": 2, "price": 12.5, "tags": ["x", "y"], "ok": true});
    let text = serde_json::to_vec(&vec![item; 950]).unwrap();
    bencher
        .counter(divan::counter::BytesCount::new(text.len()))
        .bench_local(|| testudo_guard::schema::parse_json(black_box(&text)).unwrap());
}
