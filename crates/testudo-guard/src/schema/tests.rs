//! Parameters in every style, bodies and responses, by table.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use testudo_model::PolicyRef;

use super::*;

fn source(line: u32) -> PolicyRef {
    PolicyRef {
        file: "apis/orders.yaml".into(),
        line,
    }
}

fn parameter(location: Location, style: Style, explode: bool, schema: &Json) -> Parameter {
    let schema = Arc::new(Schema::compile(schema).unwrap());
    let string = schema.shape.types == TypeSet::STRING;
    let list = schema.shape.types == TypeSet::ARRAY;
    let kind = match schema.shape.types {
        TypeSet::INTEGER => Some(ValueKind::Long),
        TypeSet::NUMBER => Some(ValueKind::Decimal),
        TypeSet::BOOLEAN => Some(ValueKind::Bool),
        _ if string => Some(ValueKind::String),
        _ if list => Some(ValueKind::Strings),
        _ => None,
    };
    Parameter {
        name: "p".into(),
        location,
        required: true,
        style,
        explode,
        allow_empty: false,
        schema,
        kind,
        source: source(7),
    }
}

fn operation(parameters: Vec<Parameter>) -> OperationSchema {
    OperationSchema::new(OperationParts {
        parameters,
        ignored_query: vec!["api_key".into()],
        additional_query: false,
        body: None,
        responses: Responses::default(),
        source: source(3),
    })
}

fn headers(list: &[(&str, &str)]) -> HeaderMap {
    list.iter()
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
        })
        .collect()
}

/// Puts `text` where the parameter is carried. Headers and cookies: one line for each `\n`.
fn head(parameter: Parameter, text: &str) -> (Result<(), Violation>, Values) {
    let mut values = Values::default();
    let location = parameter.location;
    let operation = operation(vec![parameter]);
    let lines: Vec<&str> = text.split('\n').collect();
    let path: [(Arc<str>, &str); 1] = [("p".into(), text)];
    let (path, query, list): (&[_], _, Vec<_>) = match location {
        Location::Path => (&path, None, vec![]),
        Location::Query => (&[], Some(text), vec![]),
        Location::Header => (&[], None, lines.iter().map(|line| ("p", *line)).collect()),
        Location::Cookie => (
            &[],
            None,
            lines.iter().map(|line| ("cookie", *line)).collect(),
        ),
    };
    let result = operation.check_head(path, query, &headers(&list), &mut values);
    (result, values)
}

/// `ok` or the reason and what is wrong, without the parameter's name.
fn outcome(result: &Result<(), Violation>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(violation) => format!(
            "{}: {}",
            violation.reason,
            violation.detail.split(": ").last().unwrap()
        ),
    }
}

#[test]
fn lists_and_objects_in_every_style() {
    use Location::{Cookie, Header, Path, Query};
    use Style::{DeepObject, Form, Json as JsonText, Label, Matrix, PipeDelimited, Simple};
    // The list and the object that every line must read: their schemas admit nothing else.
    let list = json!({"type": "array", "items": {"type": "integer"}, "const": [3, 4, 5]});
    let object = json!({
        "type": "object",
        "properties": {"r": {"type": "integer"}, "g": {"type": "boolean"}},
        "const": {"r": 100, "g": true},
        "additionalProperties": false,
    });
    for (location, style, explode, schema, text) in [
        (Path, Simple, false, &list, "3,4,5"),
        (Path, Simple, true, &list, "3,4,5"),
        (Path, Label, false, &list, ".3,4,5"),
        (Path, Label, true, &list, ".3.4.5"),
        (Path, Matrix, false, &list, ";p=3,4,5"),
        (Path, Matrix, true, &list, ";p=3;p=4;p=5"),
        (Query, Form, true, &list, "p=3&p=4&p=5"),
        (Query, Form, false, &list, "p=3,4,5"),
        (Query, Form, false, &list, "p=3%2C4%2c5"),
        (Query, Form, false, &list, "%70=3,4,5&api_key=x&&"),
        (Query, Style::SpaceDelimited, false, &list, "p=3%204+5"),
        (Query, PipeDelimited, false, &list, "p=3|4%7C5"),
        (Query, JsonText, false, &list, "p=%5B3,4,5%5D"),
        (Header, Simple, false, &list, "3, 4,5"),
        (Header, Simple, false, &list, "3,4\n5"),
        (Cookie, Form, false, &list, "a=1; p=3,4,5; b=2"),
        (Path, Simple, false, &object, "r,100,g,true"),
        (Path, Simple, true, &object, "r=100,g=true"),
        (Path, Label, false, &object, ".r,100,g,true"),
        (Path, Label, true, &object, ".r=100.g=true"),
        (Path, Matrix, false, &object, ";p=r,100,g,true"),
        (Path, Matrix, true, &object, ";r=100;g=true"),
        (Query, Form, true, &object, "r=100&g=true"),
        (Query, Form, false, &object, "p=r,100,g,true"),
        (Query, DeepObject, true, &object, "p[r]=100&p%5Bg%5D=true"),
        (Query, JsonText, false, &object, r#"p={"r":100,"g":true}"#),
        (Header, Simple, false, &object, "r,100,g,true"),
        (Header, Simple, true, &object, "r=100, g=true"),
    ] {
        let (result, _) = head(parameter(location, style, explode, schema), text);
        assert_eq!(
            outcome(&result),
            "ok",
            "{location:?} {style:?} {explode} {text}"
        );
    }
}

/// Location, style (`*`: exploded), schema | what is sent | what is said.
const REFUSED: &str = r#"
query form* integer | p=0 | schema.params: below the minimum 1
query form* integer | p=101 | schema.params: above the maximum 100
query form* integer | p=x | schema.params: has another type than declared
query form* integer | p= | schema.params: has another type than declared
query form* integer |  | schema.params: is required and missing
query form* integer | p=1&p=1 | request.malformed: comes more than once
query form* integer | p=1&%70=2 | request.malformed: comes more than once
query form* integer | p=9223372036854775808 | request.malformed: is a number out of range
query form* integer | p=1&q=2 | schema.params: query parameter q is not declared
query form* integer | p=1&P=2 | schema.params: query parameter P is not declared
query form* string | p=%ff | request.malformed: percent-encoding that cannot be decoded to UTF-8
query form* string | p=%4 | request.malformed: percent-encoding that cannot be decoded to UTF-8
query form* string | p=abcd | schema.params: longer than 3 characters
query form* list | p=1&p=2&p=3 | schema.params: more than 2 items
query form* list | p=1&p=x | schema.params: has another type than declared
query form list | p=1&p=2 | request.malformed: comes more than once
query deepObject* object | p[r]=1&p[r]=2 | request.malformed: has r more than once
query deepObject* object | p[x]=1 | schema.params: undeclared field x
query deepObject* object | p[r][s]=1 | schema.params: query parameter p[r][s] is not declared
query json object | p={"r":1,"r":2} | request.malformed: duplicate name at /r
query json object | p={ | schema.params: not JSON (byte 1) at the top
path simple integer | 1%20 | schema.params: has another type than declared
path simple string | a%zz | request.malformed: cannot be decoded
path label integer | 5 | schema.params: is not written in the declared style
path matrix integer | ;q=5 | schema.params: is not written in the declared style
path simple object | r | schema.params: is not written in the declared style
header simple integer | 1\n2 | request.malformed: comes more than once
cookie form* integer | p=1; p=2 | request.malformed: comes more than once
cookie form* integer | p=1\np=2 | request.malformed: comes more than once
cookie form* integer | q=1 | schema.params: is required and missing
"#;

#[test]
fn what_parameters_refuse() {
    for line in REFUSED.trim().lines() {
        let mut columns = line.split(" | ");
        let mut words = columns.next().unwrap().split(' ');
        let text = columns.next().unwrap().replace("\\n", "\n");
        let location = match words.next().unwrap() {
            "path" => Location::Path,
            "query" => Location::Query,
            "header" => Location::Header,
            _ => Location::Cookie,
        };
        let style = words.next().unwrap();
        let explode = style.ends_with('*');
        let style = match style.trim_end_matches('*') {
            "simple" => Style::Simple,
            "label" => Style::Label,
            "matrix" => Style::Matrix,
            "form" => Style::Form,
            "deepObject" => Style::DeepObject,
            _ => Style::Json,
        };
        let schema = match words.next().unwrap() {
            "integer" => json!({"type": "integer", "minimum": 1, "maximum": 100}),
            "string" => json!({"type": "string", "maxLength": 3}),
            "list" => json!({"type": "array", "items": {"type": "integer"}, "maxItems": 2}),
            _ => json!({
                "type": "object",
                "properties": {"r": {"type": "integer"}},
                "additionalProperties": false,
            }),
        };
        let (result, _) = head(parameter(location, style, explode, &schema), &text);
        assert_eq!(outcome(&result), columns.next().unwrap(), "{line}");
        assert!(result.unwrap_err().source.is_some());
    }
}

#[test]
fn values_are_typed_once_and_kept_even_where_a_rule_is_broken() {
    for (schema, text, expected) in [
        (
            json!({"type": "string"}),
            "p=a%2Fb+c",
            Value::String("a/b c".into()),
        ),
        (
            json!({"type": "integer", "maximum": 5}),
            "p=17",
            Value::Long(17),
        ),
        (
            json!({"type": "number"}),
            "p=2.50",
            Value::Decimal("2.5".into()),
        ),
        (json!({"type": "number"}), "p=2.123456", Value::Unreadable),
        (json!({"type": "boolean"}), "p=false", Value::Bool(false)),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            "p=a&p=b",
            Value::Strings(vec!["a".into(), "b".into()]),
        ),
        (json!({"type": "integer"}), "p=x", Value::Unreadable),
        (json!({"type": "boolean"}), "p=1", Value::Unreadable),
        (
            json!({"type": "array", "items": {"type": "integer"}}),
            "p=1&p=x",
            Value::Unreadable,
        ),
        (
            json!({"$ref": "#/$defs/0", "$defs": {"0": {"type": "integer", "maximum": 5}}}),
            "p=6",
            Value::Long(6),
        ),
        (
            json!({"type": "string", "format": "date"}),
            "p=2026-02-30",
            Value::String("2026-02-30".into()),
        ),
    ] {
        let parameter = parameter(Location::Query, Style::Form, true, &schema);
        let (_, values) = head(parameter, text);
        assert_eq!(values.params, [("p".into(), expected)], "{text}");
    }
}

#[test]
fn one_value_or_a_list() {
    let schema = json!({"anyOf": [
        {"type": "string", "enum": ["all"]},
        {"type": "array", "items": {"type": "integer"}},
    ]});
    for (text, expected) in [
        ("p=all", "ok"),
        ("p=1", "ok"),
        ("p=1&p=2", "ok"),
        ("p=1&p=x", "schema.params: has another type than declared"),
    ] {
        let parameter = parameter(Location::Query, Style::Form, true, &schema);
        assert_eq!(outcome(&head(parameter, text).0), expected, "{text}");
    }
}

#[test]
fn exploded_objects_share_the_query() {
    let mut free = parameter(
        Location::Query,
        Style::Form,
        true,
        &json!({"type": "object", "additionalProperties": {"type": "string", "maxLength": 2}}),
    );
    free.required = false;
    let mut page = parameter(
        Location::Query,
        Style::Form,
        true,
        &json!({"type": "integer"}),
    );
    page.name = "page".into();
    let operation = operation(vec![free, page]);
    let check = |query| {
        let mut values = Values::default();
        outcome(&operation.check_head(&[], Some(query), &HeaderMap::new(), &mut values))
    };
    assert_eq!(check("page=1&x=ab"), "ok");
    assert_eq!(
        check("page=1&x=abc"),
        "schema.params: longer than 2 characters at /x"
    );
    assert_eq!(check("page=1"), "ok");
}

/// The checks that need no JSON agree with the general validator.
#[test]
fn scalar_checks_agree_with_the_general_validator() {
    let schemas = [
        json!({"type": "string", "minLength": 2, "maxLength": 4}),
        json!({"type": "string", "pattern": "^[a-z]\\d+$"}),
        json!({"type": "string", "enum": ["a", "b1"]}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "integer", "minimum": -3, "exclusiveMaximum": 17}),
        json!({"type": "integer", "exclusiveMinimum": 0, "maximum": 3}),
        json!({"type": "number", "exclusiveMinimum": 0, "maximum": 2.5}),
        json!({"type": "boolean"}),
    ];
    let values = [
        json!("a"),
        json!("ab"),
        json!("éé"),
        json!("ééééé"),
        json!("abcde"),
        json!("b1"),
        json!("b12"),
        json!("b1\n"),
        json!("b١"),
        json!("00000000-0000-0000-0000-00000000000g"),
        json!("9f1C0a30-0000-4000-8000-00000000000a"),
        json!(0),
        json!(-3),
        json!(-4),
        json!(3),
        json!(16),
        json!(17),
        json!(2.5),
        json!(2.0),
        json!(2.6),
        json!(1e30),
        json!(-1e30),
        json!(true),
        json!(null),
        json!([]),
        json!({}),
    ];
    for schema in schemas {
        let fast = Schema::compile(&schema).unwrap();
        assert!(
            matches!(fast.check, validator::Check::Scalar(_)),
            "{schema}"
        );
        // The same rules, but a keyword that only the general validator knows.
        let mut general = schema.clone();
        general["allOf"] = json!([true]);
        let general = Schema::compile(&general).unwrap();
        assert!(matches!(general.check, validator::Check::General(_)));
        for value in &values {
            assert_eq!(
                fast.is_valid(value),
                general.is_valid(value),
                "{schema} {value}"
            );
        }
    }
}

fn media(range: &str, schema: Option<Json>) -> MediaType {
    MediaType {
        range: MediaRange::parse(range).unwrap(),
        schema: schema.map(|schema| Arc::new(Schema::compile(&schema).unwrap())),
        source: source(20),
    }
}

fn with_body() -> OperationSchema {
    let order = json!({
        "type": "object",
        "required": ["sku"],
        "properties": {
            "sku": {"type": "string"},
            "count": {"type": "integer", "minimum": 1},
            "gift": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "id": false,
        },
        "additionalProperties": false,
    });
    let problem = json!({"type": "object", "required": ["title"]});
    OperationSchema::new(OperationParts {
        parameters: vec![],
        ignored_query: vec![],
        additional_query: false,
        body: Some(RequestBody {
            required: true,
            content: vec![
                media("application/json", Some(order.clone())),
                media("application/x-www-form-urlencoded", Some(order.clone())),
                media("multipart/form-data", None),
                media("text/*", Some(json!({"type": "string"}))),
            ],
            fields: vec![
                ("count".into(), ValueKind::Long),
                ("sku".into(), ValueKind::String),
            ],
            source: source(10),
        }),
        responses: Responses {
            list: vec![
                ResponseRule {
                    status: StatusRange::Exact(200),
                    content: vec![media("application/json", Some(order))],
                    source: source(30),
                },
                ResponseRule {
                    status: StatusRange::Class(4),
                    content: vec![media("application/problem+json", Some(problem))],
                    source: source(40),
                },
            ],
        },
        source: source(3),
    })
}

#[test]
fn content_types_and_codings() {
    let operation = with_body();
    let check = |list: &[(&str, &str)], has_body| match operation
        .check_content_type(&headers(list), has_body)
    {
        Ok(rule) => format!("{rule:?}"),
        Err(violation) => format!("{}: {}", violation.reason, violation.detail),
    };
    for (list, expected) in [
        (&[("content-type", "application/json")][..], "Json(0)"),
        (
            &[("content-type", "Application/JSON; charset=UTF-8")],
            "Json(0)",
        ),
        (
            &[("content-type", "application/x-www-form-urlencoded")],
            "Form(1)",
        ),
        (
            &[("content-type", "multipart/form-data; boundary=x")],
            "Unchecked",
        ),
        (&[("content-type", "text/plain")], "Unchecked"),
        (
            &[("content-type", "application/xml")],
            "schema.content_type: content-type: application/xml is not declared",
        ),
        (
            &[("content-type", "application/vnd.a+json")],
            "schema.content_type: content-type: application/vnd.a+json is not declared",
        ),
        (
            &[("content-type", "application/json; charset=utf-16")],
            "schema.content_type: content-type: only UTF-8 is supported",
        ),
        (&[], "schema.content_type: content-type: missing"),
        (
            &[("content-type", "nonsense")],
            "schema.content_type: content-type: not a media type",
        ),
        (
            &[
                ("content-type", "application/json"),
                ("content-type", "text/plain"),
            ],
            "request.malformed: content-type: comes more than once",
        ),
        (
            &[
                ("content-type", "application/json"),
                ("content-encoding", "gzip"),
            ],
            "schema.content_type: content-encoding: only identity is supported",
        ),
    ] {
        assert_eq!(check(list, true), expected, "{list:?}");
    }
    assert_eq!(check(&[], false), "schema.body: body: required and missing");

    let bodiless = self::operation(vec![]);
    let rule = bodiless
        .check_content_type(&HeaderMap::new(), false)
        .unwrap();
    assert_eq!(rule, BodyRule::Unchecked);
    let announced = headers(&[("content-length", "2")]);
    let violation = bodiless.check_content_type(&announced, true).unwrap_err();
    assert_eq!(violation.detail, "body: the operation takes none");
    let rule = bodiless
        .check_content_type(&HeaderMap::new(), true)
        .unwrap();
    assert_eq!(rule, BodyRule::Empty);
    let mut values = Values::default();
    assert!(bodiless.check_body(rule, b"", &mut values).is_ok());
    assert!(bodiless.check_body(rule, b"x", &mut values).is_err());
}

#[test]
fn bodies() {
    let operation = with_body();
    let check = |rule, body: &str| {
        let mut values = Values::default();
        let result = operation.check_body(rule, body.as_bytes(), &mut values);
        (outcome(&result), values.body.unwrap())
    };
    let (json, form) = (BodyRule::Json(0), BodyRule::Form(1));
    for (rule, body, expected) in [
        (json, r#"{"sku":"a","count":2}"#, "ok"),
        (
            json,
            r#"{"sku":"a","count":"2"}"#,
            "schema.body: integer expected at /count",
        ),
        (
            json,
            r#"{"sku":"a","count":0}"#,
            "schema.body: below the minimum 1 at /count",
        ),
        (
            json,
            r#"{"sku":"a","paid":true}"#,
            "schema.body: undeclared field paid",
        ),
        (
            json,
            r#"{"count":1}"#,
            "schema.body: required field sku is missing",
        ),
        (
            json,
            r#"{"sku":"a","id":7}"#,
            "schema.body: may not be sent (readOnly or writeOnly, or the schema is false) at /id",
        ),
        (
            json,
            r#"{"sku":"a","sku":"b"}"#,
            "request.malformed: duplicate name at /sku",
        ),
        (
            json,
            r#"{"sku":"\ud800"}"#,
            "request.malformed: lone surrogate at /sku",
        ),
        (
            json,
            r#"{"sku":"a","count":9223372036854775808}"#,
            "request.malformed: integer outside 64 bits at /count",
        ),
        (
            json,
            r#"{"sku":"a","count":1e30}"#,
            "request.malformed: integer outside 64 bits at /count",
        ),
        (json, "{", "schema.body: not JSON (byte 1) at the top"),
        (json, "[]", "schema.body: object expected"),
        (json, "", "schema.body: required and missing"),
        (form, "sku=a+b&count=3&gift=true&tags=x&tags=y", "ok"),
        (
            form,
            "sku=a&sku=b",
            "request.malformed: duplicate field sku",
        ),
        (
            form,
            "sku=a&paid=true",
            "schema.body: undeclared field paid",
        ),
        (
            form,
            "sku=a&count=x",
            "schema.body: field count has another type than declared",
        ),
        (
            form,
            "sku=%ff",
            "request.malformed: form that cannot be decoded to UTF-8",
        ),
    ] {
        assert_eq!(check(rule, body).0, expected, "{body}");
    }
    let read = [
        ("count".into(), Value::Long(2)),
        ("sku".into(), Value::String("a".into())),
    ];
    assert_eq!(check(json, r#"{"sku":"a","count":2,"gift":true}"#).1, read);
    assert_eq!(check(form, "sku=a&count=2").1, read);
    // Not absent: a forbid that asks for it must notice.
    let (_, mistyped) = check(json, r#"{"sku":"a","count":"2"}"#);
    assert_eq!(mistyped[0], ("count".into(), Value::Unreadable));
    let (_, null) = check(json, r#"{"sku":"a","count":null}"#);
    assert_eq!(null.len(), 1);
}

#[test]
fn references_to_scalars_need_no_json() {
    let schema = Schema::compile(&json!({
        "$ref": "#/$defs/0",
        "$defs": {"0": {"$ref": "#/$defs/1"}, "1": {"type": "string", "maxLength": 2}},
    }));
    let schema = schema.unwrap();
    assert!(matches!(schema.check, validator::Check::Scalar(_)));
    assert!(schema.is_valid(&json!("ab")) && !schema.is_valid(&json!("abc")));
    let circle = json!({"$ref": "#/$defs/0", "$defs": {"0": {"$ref": "#/$defs/0"}}});
    let _ = Schema::compile(&circle);
}

#[test]
fn responses() {
    let operation = with_body();
    let check = |status: u16, content_type, body: &str| {
        let status = StatusCode::from_u16(status).unwrap();
        let body = operation
            .response_needs_body(status, content_type)
            .then_some(body.as_bytes());
        outcome(&operation.check_response(status, content_type, body))
    };
    let json = Some("application/json");
    assert_eq!(check(200, json, r#"{"sku":"a"}"#), "ok");
    assert_eq!(
        check(200, json, r#"{"sku":1}"#),
        "schema.response: string expected at /sku"
    );
    assert_eq!(
        check(200, Some("text/html"), "x"),
        "schema.response: content-type text/html is not declared"
    );
    assert_eq!(
        check(500, json, "{}"),
        "schema.response: status 500 is not declared"
    );
    let problem = Some("application/problem+json");
    assert_eq!(check(404, problem, r#"{"title":"x"}"#), "ok");
    assert_eq!(
        check(422, problem, "{}"),
        "schema.response: required field title is missing"
    );
    assert_eq!(check(200, None, ""), "ok");
}

#[test]
fn wildcards_do_not_let_structured_bodies_pass_unread() {
    let operation = OperationSchema::new(OperationParts {
        parameters: vec![],
        ignored_query: vec![],
        additional_query: false,
        body: Some(RequestBody {
            required: false,
            content: vec![media("*/*", Some(json!({"type": "object"})))],
            fields: vec![],
            source: source(10),
        }),
        responses: Responses::default(),
        source: source(3),
    });
    let check = |value| {
        let list = headers(&[("content-type", value)]);
        operation.check_content_type(&list, true).ok()
    };
    assert_eq!(check("application/json"), Some(BodyRule::Json(0)));
    assert_eq!(check("text/plain"), None);
}

#[test]
fn without_a_specification_everything_passes() {
    let open = OperationSchema::default();
    let mut values = Values::default();
    let list = headers(&[("content-type", "x"), ("content-encoding", "gzip")]);
    assert!(
        open.check_head(&[], Some("a=%zz&a=1"), &list, &mut values)
            .is_ok()
    );
    let rule = open.check_content_type(&list, true).unwrap();
    assert!(!rule.needs_body());
    assert!(open.check_body(rule, b"\xff", &mut values).is_ok());
    assert!(!open.response_needs_body(StatusCode::OK, Some("application/json")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Queries of any text never panic, and a scalar that passes was sent once.
    #[test]
    fn any_query(query in "[p=&%+a0-9\\[\\],;|é ]{0,60}") {
        for (style, schema) in [
            (Style::Form, json!({"type": "integer"})),
            (Style::DeepObject, json!({"type": "object"})),
            (Style::PipeDelimited, json!({"type": "array", "items": {"type": "integer"}})),
        ] {
            let scalar = style == Style::Form;
            let (result, values) = head(parameter(Location::Query, style, true, &schema), &query);
            if scalar && result.is_ok() {
                let decoded: Vec<_> = query.split('&').filter(|pair| pair.starts_with("p=")).collect();
                prop_assert!(decoded.len() <= 1);
                prop_assert_eq!(values.params.len(), 1);
            }
        }
    }
}

/// Explaining an invalid value of a recursive schema with alternatives took 2^depth time and memory.
#[test]
fn nested_alternatives_cost_nothing() {
    let kind = |name: &str| {
        json!({"allOf": [
            {"properties": {"k": {"$ref": "#/$defs/any"}}},
            {"properties": {"t": {"const": name}}, "required": ["t"]},
        ]})
    };
    let schema = Schema::compile(&json!({
        "$ref": "#/$defs/any",
        "$defs": {
            "any": {"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]},
            "a": kind("a"),
            "b": kind("b"),
        },
    }))
    .unwrap();
    let nested = |innermost: &str| {
        let mut text = format!(r#"{{"t":"{innermost}"}}"#);
        for _ in 0..60 {
            text = format!(r#"{{"k":{text},"t":"b"}}"#);
        }
        parse_json(text.as_bytes()).unwrap()
    };
    assert_eq!(schema.check(&nested("a")), Ok(()));
    let broken = schema.check(&nested("c")).unwrap_err();
    assert_eq!(broken.rule, "does not match the schema");
}
