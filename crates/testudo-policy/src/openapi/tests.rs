//! What documents mean, and what is wrong with them, by example.

use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;
use testudo_guard::schema::{BodyRule, OperationMatch, OperationMatcher, ValueKind, Values};
use testudo_model::Audience;

use super::*;
use crate::api::{FieldModel, Location, ParamModel};
use crate::bundle::BundleFile;
use crate::diagnostic::Severity;

fn bundle(files: &[(&str, &str)]) -> Bundle {
    let mut bundle = Bundle::default();
    for (name, content) in files {
        let file = BundleFile {
            content: content.as_bytes().into(),
            audience: Audience::All,
        };
        bundle.files.insert((*name).to_owned(), file);
    }
    bundle
}

/// The model and the diagnostics as `severity code line:column message`.
fn read_files(files: &[(&str, &str)]) -> (Option<ApiModel>, Vec<String>) {
    let mut diagnostics = Diagnostics::default();
    let (first, _) = files[0];
    let api = read(first, &bundle(files), &"orders".into(), &mut diagnostics);
    let lines = diagnostics.list.iter().map(|known| {
        let severity = match known.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        format!(
            "{severity} {} {}:{} {}",
            known.code, known.span.line, known.span.column, known.message
        )
    });
    (api, lines.collect())
}

fn sound(text: &str) -> ApiModel {
    let (api, diagnostics) = read_files(&[("apis/orders.yaml", text)]);
    assert_eq!(diagnostics, [""; 0]);
    api.unwrap()
}

fn diagnostics(text: &str) -> Vec<String> {
    read_files(&[("apis/orders.yaml", text)]).1
}

/// A document with these paths (indented by two).
fn with_paths(paths: &str) -> String {
    format!("openapi: 3.0.3\npaths:\n{paths}")
}

/// A document whose one operation has this body schema (a flow mapping).
fn with_body(version: &str, schema: &str, rest: &str) -> String {
    format!(
        "openapi: {version}\npaths:\n  /x:\n    post:\n      requestBody:\n        content:\n          \
         application/json:\n            schema: {schema}\n{rest}"
    )
}

/// Whether the first operation admits a JSON body.
fn admits(api: &ApiModel, body: &str) -> Result<(), String> {
    let mut values = Values::default();
    let schema = &api.operations[0].schema;
    schema
        .check_body(BodyRule::Json(0), body.as_bytes(), &mut values)
        .map_err(|violation| violation.detail)
}

const ORDERS: &str = r##"
openapi: 3.0.3
info: {title: Orders, version: "2"}
servers: [{url: "https://api.shop.test/v1"}]
security: [{key: []}]
paths:
  /orders/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: integer, format: int64}}
      - {name: verbose, in: query, schema: {type: string}}
    get:
      operationId: getOrder
      parameters:
        - {name: verbose, in: query, schema: {type: boolean}}
        - {name: tags, in: query, schema: {type: array, items: {type: string}}}
        - {name: X-Tenant, in: header, required: true, schema: {type: string, maxLength: 8}}
        - {name: Authorization, in: header, schema: {type: integer}}
        - {name: session, in: cookie, schema: {type: string}}
      responses:
        "200": {description: "", content: {application/json: {schema: {$ref: "#/components/schemas/Order"}}}}
        4XX: {description: ""}
    post:
      requestBody: {$ref: "#/components/requestBodies/Order"}
      responses: {default: {description: ""}}
  /live:
    get:
      operationId: live
      responses: {101: {description: ""}}
components:
  securitySchemes:
    key: {type: apiKey, in: query, name: api_key}
  requestBodies:
    Order:
      required: true
      content:
        application/json: {schema: {$ref: "#/components/schemas/Order"}}
        application/x-www-form-urlencoded: {schema: {$ref: "#/components/schemas/Order"}}
  schemas:
    Order:
      type: object
      required: [id, sku, note]
      properties:
        id: {type: integer, readOnly: true}
        secret: {type: string, writeOnly: true}
        sku: {type: string}
        note: {type: string, nullable: true}
        price: {type: number, minimum: 0, exclusiveMinimum: true}
        gift: {type: boolean}
        tags: {type: array, items: {type: string}}
        customer: {type: object}
        parts: {type: array, items: {$ref: "#/components/schemas/Order"}}
      additionalProperties: false
"##;

fn params(list: &[ParamModel]) -> Vec<String> {
    list.iter()
        .map(|param| {
            let ParamModel {
                name,
                location,
                kind,
                required,
                span,
            } = param;
            let place = format!("{}:{}", span.line, span.column);
            format!("{} {name} {kind:?} {required} {place}", location.as_str())
        })
        .collect()
}

#[test]
fn what_policies_see() {
    let api = sound(ORDERS);
    assert_eq!(api.title, "Orders 2");
    let names: Vec<_> = api
        .operations
        .iter()
        .map(|op| format!("{} {} {} {}", op.name, op.method, op.template, op.websocket))
        .collect();
    assert_eq!(
        names,
        [
            "getOrder GET /v1/orders/{id} false",
            "POST /orders/{id} POST /v1/orders/{id} false",
            "live GET /v1/live true",
        ]
    );
    assert_eq!(
        params(&api.operations[0].params),
        [
            "query verbose Some(Bool) false 14:18",
            "query tags Some(Strings) false 15:18",
            "header x-tenant Some(String) true 16:18",
            "cookie session None false 18:18",
            "path id Some(Long) true 9:16",
        ]
    );
    let fields: Vec<_> = api.operations[1]
        .body
        .iter()
        .map(|field| {
            let FieldModel {
                name,
                kind,
                required,
                span,
            } = field;
            format!("{name} {kind:?} {required} {}", span.line)
        })
        .collect();
    assert_eq!(
        fields,
        [
            "secret String false 44",
            "sku String true 45",
            "note String false 46",
            "price Decimal false 47",
            "gift Bool false 48",
            "tags Strings false 49",
        ]
    );
}

#[test]
fn what_is_enforced_of_parameters() {
    let api = sound(ORDERS);
    let matcher = OperationMatcher::from_templates(
        api.operations
            .iter()
            .map(|op| (op.method.clone(), &*op.template)),
    );
    let check = |path: &str, query: Option<&str>, tenant: Option<&'static str>| {
        let OperationMatch::Found { index, path_params } = matcher.find(&Method::GET, path) else {
            return "no operation".to_owned();
        };
        let mut headers = HeaderMap::new();
        if let Some(tenant) = tenant {
            headers.insert("x-tenant", HeaderValue::from_static(tenant));
        }
        let mut values = Values::default();
        let schema = &api.operations[index].schema;
        match schema.check_head(&path_params, query, &headers, &mut values) {
            Ok(()) => "ok".into(),
            Err(violation) => {
                let source = violation.source.unwrap();
                assert_eq!(source.file, "apis/orders.yaml");
                format!("{} (line {})", violation.detail, source.line)
            }
        }
    };
    for (path, query, tenant, expected) in [
        ("/v1/orders/17", None, Some("a"), "ok"),
        (
            "/v1/orders/17",
            Some("verbose=true&tags=a&tags=b&api_key=k"),
            Some("a"),
            "ok",
        ),
        ("/orders/17", None, Some("a"), "no operation"),
        (
            "/v1/orders/x",
            None,
            Some("a"),
            "path parameter id: has another type than declared (line 9)",
        ),
        (
            "/v1/orders/17",
            None,
            None,
            "header parameter x-tenant: is required and missing (line 16)",
        ),
        (
            "/v1/orders/17",
            Some("verbose=yes"),
            Some("a"),
            "query parameter verbose: type: boolean expected (line 14)",
        ),
        (
            "/v1/orders/17",
            Some("admin=true"),
            Some("a"),
            "query parameter admin is not declared (line 11)",
        ),
    ] {
        assert_eq!(check(path, query, tenant), expected, "{path} {query:?}");
    }
}

#[test]
fn read_only_and_write_only() {
    let mut api = sound(ORDERS);
    let get = api.operations.remove(0);
    assert_eq!(
        admits(&api, r#"{"sku":"a","note":null,"secret":"s"}"#),
        Ok(())
    );
    let read_only = admits(&api, r#"{"sku":"a","note":"","id":7}"#).unwrap_err();
    assert!(read_only.ends_with("at /id"), "{read_only}");
    let nested = admits(
        &api,
        r#"{"sku":"a","note":"","parts":[{"sku":"b","note":"","id":1}]}"#,
    );
    assert!(nested.unwrap_err().ends_with("at /parts/0/id"));
    let zero = admits(&api, r#"{"sku":"a","note":"","price":0}"#);
    assert_eq!(zero.unwrap_err(), "body: not above 0 at /price");

    let json = Some("application/json");
    let respond = |body: &str| {
        let result = get
            .schema
            .check_response(StatusCode::OK, json, Some(body.as_bytes()));
        result.map_err(|violation| violation.detail)
    };
    assert_eq!(respond(r#"{"id":7,"sku":"a","note":null}"#), Ok(()));
    let missing = respond(r#"{"sku":"a","note":null}"#).unwrap_err();
    assert_eq!(missing, "response: required field id is missing");
    let secret = respond(r#"{"id":7,"sku":"a","note":null,"secret":"s"}"#).unwrap_err();
    assert!(secret.ends_with("at /secret"), "{secret}");
}

/// `required` in one part of `allOf`, `readOnly` in another.
#[test]
fn hidden_properties_over_all_of() {
    let api = sound(&with_body(
        "3.0.0",
        "{$ref: '#/components/schemas/New'}",
        "components:\n  schemas:\n    Base:\n      properties: {id: {$ref: '#/components/schemas/Id'}}\n    \
         Id: {type: integer, readOnly: true}\n    New:\n      allOf:\n        \
         - {$ref: '#/components/schemas/Base'}\n        - {required: [id, name]}\n",
    ));
    assert_eq!(admits(&api, r#"{"name":"a"}"#), Ok(()));
    assert!(admits(&api, r#"{"name":"a","id":1}"#).is_err());
    assert!(admits(&api, "{}").is_err());
}

#[test]
fn dialects() {
    for (version, schema, good, bad) in [
        (
            "3.0.3",
            "{type: string, nullable: true, enum: [a]}",
            "null",
            "\"b\"",
        ),
        (
            "3.0.3",
            "{allOf: [{type: string}], nullable: true}",
            "null",
            "1",
        ),
        (
            "3.0.3",
            "{type: integer, maximum: 3, exclusiveMaximum: true}",
            "2",
            "3",
        ),
        (
            "3.0.3",
            "{type: integer, maximum: 3, exclusiveMaximum: false}",
            "3",
            "4",
        ),
        (
            "3.0.3",
            "{type: integer, format: int32}",
            "2147483647",
            "2147483648",
        ),
        ("3.0.3", "{type: string, format: byte}", "\"YQ==\"", "\"Y\""),
        (
            "3.0.3",
            "{type: string, format: date}",
            "\"2026-11-25\"",
            "\"2026-02-30\"",
        ),
        (
            "3.0.3",
            "{type: string, format: made-up, example: 7}",
            "\"x\"",
            "1",
        ),
        ("3.1.0", "{type: [string, 'null']}", "null", "1"),
        ("3.1.0", "{exclusiveMaximum: 3}", "2.5", "3"),
        ("3.1.0", "{const: {a: 1}}", "{\"a\":1}", "{\"a\":2}"),
        (
            "3.1.0",
            "{prefixItems: [{type: string}], items: false}",
            "[\"a\"]",
            "[\"a\",1]",
        ),
        (
            "3.1.0",
            "{type: object, unevaluatedProperties: false, allOf: [{properties: {a: {}}}]}",
            "{\"a\":1}",
            "{\"b\":1}",
        ),
        (
            "3.1.0",
            "{$ref: '#/components/schemas/A', maxLength: 1}",
            "\"a\"",
            "\"ab\"",
        ),
        ("3.1.0", "true", "[]", "{"),
    ] {
        let rest = "components: {schemas: {A: {type: string}}}\n";
        let api = sound(&with_body(version, schema, rest));
        assert_eq!(admits(&api, good), Ok(()), "{schema}");
        assert!(admits(&api, bad).is_err(), "{schema}");
    }
}

#[test]
fn references_to_other_files() {
    let main = "openapi: 3.1.0\npaths:\n  /x:\n    $ref: 'paths/x.yaml#/x'\n";
    let path = "x:\n  post:\n    requestBody: {content: {application/json: {schema: {$ref: '../common.yaml#/Tree'}}}}\n";
    let common = "Tree:\n  type: object\n  properties: {children: {type: array, items: {$ref: '#/Tree'}}}\n  \
                  additionalProperties: false\n";
    let (api, diagnostics) = read_files(&[
        ("apis/a.yaml", main),
        ("apis/paths/x.yaml", path),
        ("apis/common.yaml", common),
    ]);
    assert_eq!(diagnostics, [""; 0]);
    let api = api.unwrap();
    assert_eq!(admits(&api, r#"{"children":[{"children":[]}]}"#), Ok(()));
    let deep = admits(&api, r#"{"children":[{"children":[{"x":1}]}]}"#);
    assert_eq!(
        deep.unwrap_err(),
        "body: undeclared field x at /children/0/children/0"
    );
    assert_eq!(&*api.operations[0].span.file, "apis/paths/x.yaml");
}

/// A chain of references must not need stack for each link.
#[test]
fn long_chains_of_references() {
    let mut rest = String::from("components:\n  schemas:\n");
    for link in 0..3_000 {
        rest.push_str(&format!(
            "    S{link}: {{properties: {{next: {{$ref: '#/components/schemas/S{}'}}}}}}\n",
            link + 1
        ));
    }
    rest.push_str("    S3000: {type: string}\n");
    let api = sound(&with_body(
        "3.1.0",
        "{$ref: '#/components/schemas/S0'}",
        &rest,
    ));
    assert_eq!(admits(&api, r#"{"next":{"next":{}}}"#), Ok(()));
}

#[test]
fn broken_documents() {
    for (text, expected) in [
        (
            "[]",
            "error openapi.invalid 1:1 an OpenAPI document must be a mapping, not a list",
        ),
        (
            "swagger: '2.0'\npaths: {}",
            "error openapi.unsupported 1:10 Swagger 2.0 is not supported",
        ),
        (
            "info: {}",
            "error openapi.unsupported 1:1 this is no OpenAPI document: openapi is missing",
        ),
        (
            "openapi: 3.2.0\npaths: {}",
            "error openapi.unsupported 1:10 OpenAPI 3.2.0 is not supported",
        ),
        (
            "openapi: 3.1.0\ninfo: {}",
            "error openapi.invalid 1:1 the document has no paths",
        ),
        (
            "openapi: 3.1.0\njsonSchemaDialect: https://x.test/y\npaths: {/a: {get: {}}}",
            "error openapi.unsupported 2:20 only JSON Schema 2020-12 is supported",
        ),
        (
            "openapi: 3.1.0\npaths: {}",
            "warning openapi.invalid 2:8 the document has no operations: every request would be refused",
        ),
    ] {
        assert_eq!(diagnostics(text), [expected], "{text}");
    }
}

#[test]
fn broken_paths_and_operations() {
    for (paths, expected) in [
        (
            "  orders: {}",
            "error openapi.invalid 3:3 orders: a path must begin with /",
        ),
        (
            "  /a?x={y}: {}",
            "error openapi.invalid 3:3 /a?x={y}: a path cannot hold a query or a fragment",
        ),
        (
            "  /a/{b}{c}: {}",
            "error openapi.invalid 3:3 /a/{b}{c}: two parameters without anything between them",
        ),
        (
            "  /a: {GET: {}}",
            "error openapi.invalid 3:8 GET is no key of a path",
        ),
        (
            "  /a: {get: 1}",
            "error openapi.invalid 3:13 an operation must be a mapping, not an integer",
        ),
        (
            "  /a/{id}: {get: {}}",
            "error openapi.invalid 3:13 get has no declaration of the path parameter id",
        ),
        (
            "  /a: {get: {parameters: [{name: id, in: path, required: true, schema: {type: string}}]}}",
            "error openapi.invalid 3:34 /a has no {id}",
        ),
        (
            "  /a/{id}: {get: {parameters: [{name: id, in: path, schema: {type: string}}]}}",
            "error openapi.invalid 3:39 the path parameter id must have required: true",
        ),
        (
            "  /a: {get: {operationId: x}, post: {operationId: x}}",
            "error openapi.invalid 3:51 operationId x is taken by line 3",
        ),
        (
            "  /a: {get: {operationId: read}}",
            "error name.reserved 3:27 operationId read is the name of a group of actions",
        ),
        (
            "  /a: {get: {parameters: [{name: x, in: query}]}}",
            "error openapi.invalid 3:34 the parameter x has neither schema nor content",
        ),
        (
            "  /a: {get: {parameters: [{name: x, in: body, schema: {}}]}}",
            "error openapi.invalid 3:41 a parameter cannot be in body",
        ),
        (
            "  /a: {get: {parameters: [{in: query, schema: {}}]}}",
            "error openapi.invalid 3:27 name is missing",
        ),
        (
            "  /a: {get: {parameters: [{name: x, in: query, style: matrix, schema: {}}]}}",
            "error openapi.invalid 3:55 a query parameter has no style matrix",
        ),
        (
            "  /a: {get: {parameters: [{name: x, in: query, schema: {}}, {name: x, in: query, schema: {}}]}}",
            "error openapi.invalid 3:61 the query parameter x is declared twice",
        ),
        (
            "  /a: {get: {parameters: [{name: x, in: query, schema: {type: strin}}]}}",
            "error openapi.invalid 3:63 strin is no type",
        ),
        (
            "  /a: {get: {parameters: [{name: x, in: query, schema: {type: string, pattern: '(?=a)'}}]}}",
            "error openapi.unsupported 3:80 this pattern cannot be used: look-around, back references or invalid syntax",
        ),
    ] {
        assert_eq!(diagnostics(&with_paths(paths)), [expected], "{paths}");
    }
}

#[test]
fn broken_references_and_bodies() {
    for (paths, expected) in [
        (
            "  /a: {get: {parameters: [{$ref: '#/components/x'}]}}",
            "error openapi.invalid 3:34 #/components/x leads to nothing",
        ),
        (
            "  /a: {get: {parameters: [{$ref: 'common.yaml#/x'}]}}",
            "error file.missing 3:34 the bundle has no file apis/common.yaml",
        ),
        (
            "  /a: {get: {parameters: [{$ref: '../../x.yaml'}]}}",
            "error path.outside 3:34 ../../x.yaml leads out of the bundle",
        ),
        (
            "  /a: {get: {parameters: [{$ref: 'https://x.test/y'}]}}",
            "error openapi.unsupported 3:34 https://x.test/y is on another host; nothing is fetched",
        ),
        (
            "  /a: {get: {responses: {2000: {}}}}",
            "error openapi.invalid 3:26 2000 is no status",
        ),
        (
            "  /a: {post: {requestBody: {content: {json: {}}}}}",
            "error openapi.invalid 3:39 json is no media type",
        ),
        (
            "  /a: {post: {requestBody: {}}}",
            "error openapi.invalid 3:28 a request body must have content",
        ),
        (
            "  /a/{x}: {get: {parameters: [&p {name: x, in: path, required: true, schema: {}}]}}\n  \
             /a/{y}: {get: {parameters: [{name: y, in: path, required: true, schema: {}}]}}",
            "error openapi.invalid 4:3 /a/{y} matches the same requests as /a/{x} (line 3)",
        ),
        (
            "  /a/{x}: {get: {parameters: [{name: x, in: path, required: true, schema: {}}, {name: x, in: query, schema: {}}]}}",
            "warning openapi.unsupported 3:87 policies cannot read the query parameter x: the path has a parameter x, too",
        ),
        (
            "  /a: {post: {requestBody: {content: {application/xml: {schema: {type: object}}}}}}",
            "warning openapi.unsupported 3:39 application/xml bodies pass unread within max_body; their schema is not enforced (1 places)",
        ),
    ] {
        assert_eq!(diagnostics(&with_paths(paths)), [expected], "{paths}");
    }
}

#[test]
fn broken_schemas() {
    for (schema, expected) in [
        (
            "1",
            "error openapi.invalid 8:21 a schema must be a mapping, not an integer",
        ),
        (
            "{type: object, properties: {a: {minLength: -1}}}",
            "error openapi.invalid 8:64 invalid schema: below the minimum 0",
        ),
        (
            "{$ref: '#/components/schemas/A'}",
            "error openapi.invalid 11:19 invalid schema: type: array expected",
        ),
        (
            "{$id: https://x.test/y}",
            "error openapi.unsupported 8:22 $id is not supported in schemas",
        ),
        (
            "{type: string, minLenght: 3}",
            "error openapi.invalid 8:36 unknown keyword minLenght",
        ),
        (
            "{type: string, dependencies: {}}",
            "warning openapi.unsupported 8:36 dependencies is no keyword of schemas and is not enforced",
        ),
        (
            "{type: [string, null]}",
            "error openapi.invalid 8:37 null is no type",
        ),
        (
            "{type: string, enum: [1, 2]}",
            "warning openapi.invalid 8:42 no value of this enum has the declared type: nothing can be valid",
        ),
    ] {
        let text = with_body(
            "3.1.0",
            schema,
            "components: {schemas: {A: {\n        type: object,\n        required: a}}}\n",
        );
        assert_eq!(diagnostics(&text), [expected], "{schema}");
    }
}

#[test]
fn base_paths() {
    let template = |head: &str, path: &str| {
        let text = format!("openapi: 3.1.0\n{head}\npaths:\n  /x:\n    {path}\n    get: {{}}\n");
        sound(&text).operations[0].template.to_string()
    };
    assert_eq!(template("", ""), "/x");
    assert_eq!(
        template("servers: [{url: 'http://127.0.0.1:9000'}]", ""),
        "/x"
    );
    assert_eq!(template("servers: [{url: /v1}, {url: /v2}]", ""), "/v1/x");
    assert_eq!(
        template("servers: [{url: /v1}]", "servers: [{url: /v3/}]"),
        "/v3/x"
    );
    assert_eq!(
        template(
            "servers: [{url: 'https://{host}/{base}', variables: {host: {default: a}, base: {default: v4}}}]",
            ""
        ),
        "/v4/x"
    );
    assert_eq!(
        template("servers: [{url: /v1}]\nx-testudo-base-path: /", ""),
        "/x"
    );
    let text = "openapi: 3.1.0\nservers: [{url: '/{base}'}]\npaths: {/x: {get: {}, post: {}}}";
    assert_eq!(
        diagnostics(text),
        ["error openapi.invalid 2:17 /{base}: a variable of this server has no default"]
    );
}

#[test]
fn undeclared_query_parameters_where_they_are_allowed() {
    for (text, allowed) in [
        ("openapi: 3.1.0\npaths: {/x: {get: {}}}", false),
        (
            "openapi: 3.1.0\npaths: {/x: {get: {x-testudo-additional-query: true}}}",
            true,
        ),
        (
            "openapi: 3.1.0\nx-testudo-additional-query: true\npaths: {/x: {get: {}}}",
            true,
        ),
        (
            "openapi: 3.1.0\nx-testudo-additional-query: true\npaths: {/x: {get: {x-testudo-additional-query: false}}}",
            false,
        ),
    ] {
        let api = sound(text);
        let mut values = Values::default();
        let result = api.operations[0].schema.check_head(
            &[],
            Some("utm_source=x"),
            &HeaderMap::new(),
            &mut values,
        );
        assert_eq!(result.is_ok(), allowed, "{text}");
    }
}

#[test]
fn without_an_api() {
    let api = none(&"jobs".into());
    let names: Vec<_> = api.operations.iter().map(|op| &*op.name).collect();
    assert_eq!(names, ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);
    assert!(api.operations.iter().all(|op| *op.template == *ANY_PATH));
}

#[test]
fn kinds_that_policies_read() {
    let text = with_paths(
        "  /a:\n    get:\n      parameters:\n\
         - {name: a, in: query, schema: {type: string, nullable: true}}\n\
         - {name: b, in: query, schema: {anyOf: [{type: string}, {type: integer}]}}\n\
         - {name: c, in: query, schema: {type: object}, style: deepObject}\n\
         - {name: d, in: query, schema: {}}\n\
         - {name: e, in: query, content: {application/json: {schema: {type: integer}}}}\n\
         - {name: f, in: query, schema: {type: array, items: {type: integer}}}\n"
            .replace("- {", "        - {")
            .as_str(),
    );
    let api = sound(&text);
    let kinds: Vec<_> = api.operations[0]
        .params
        .iter()
        .map(|param| param.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            Some(ValueKind::String),
            None,
            None,
            Some(ValueKind::String),
            Some(ValueKind::Long),
            None,
        ]
    );
    assert!(
        api.operations[0]
            .params
            .iter()
            .all(|param| param.location == Location::Query)
    );
}

/// Where a body may come in a type that is not read, policies cannot rely on its fields.
#[test]
fn fields_are_readable_only_if_every_type_is_read() {
    let json = "application/json: {schema: {type: object, properties: {a: {type: string}}}}";
    let fields = |other: &str| {
        let text = format!(
            "openapi: 3.1.0\npaths: {{/x: {{post: {{requestBody: {{content: {{{json}{other}}}}}}}}}}}"
        );
        sound(&text).operations[0].body.len()
    };
    assert_eq!(fields(""), 1);
    assert_eq!(fields(", multipart/form-data: {}"), 0);
    assert_eq!(
        fields(", application/x-www-form-urlencoded: {schema: {properties: {a: {type: integer}}}}"),
        0
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Damaged documents never panic, and what is wrong has a place.
    #[test]
    fn damaged_documents(
        cuts in proptest::collection::vec((0usize..3_000, 0usize..12, "[{}:,'a0# -]{0,3}"), 1..4)
    ) {
        let mut text = ORDERS.to_owned();
        for (at, length, with) in cuts {
            let start = at.min(text.len());
            let end = (start + length).min(text.len());
            if text.is_char_boundary(start) && text.is_char_boundary(end) {
                text.replace_range(start..end, &with);
            }
        }
        let mut diagnostics = Diagnostics::default();
        let files = bundle(&[("a.yaml", &text)]);
        let _ = read("a.yaml", &files, &"orders".into(), &mut diagnostics);
        for known in diagnostics.list {
            prop_assert!(known.span.line > 0 && known.span.column > 0, "{}", known.message);
        }
    }
}
