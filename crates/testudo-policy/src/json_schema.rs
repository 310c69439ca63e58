//! The JSON Schema (2020-12) of `testudo.yaml`, from the same table that the reader checks files against.

use serde_json::{Map, Value, json};

use crate::config::defaults;
use crate::config::keys::{INCLUDED, ROOT};
use crate::config::shape::{Kind, Need, Object, Text};

/// What `testudo schema` prints: editors complete and check bundles with it. It also fits included files.
/// Keys whose feature is not there yet are no part of it.
pub fn json_schema() -> Value {
    let mut main = object(&ROOT);
    if let Some(fields) = main.as_object_mut() {
        let rest = std::mem::take(fields);
        fields.insert(
            "$schema".to_owned(),
            "https://json-schema.org/draft/2020-12/schema".into(),
        );
        fields.insert("title".to_owned(), "testudo.yaml".into());
        fields.insert(
            "description".to_owned(),
            "The bundle of a Testudo mesh. Included files: see $defs/included.".into(),
        );
        fields.extend(rest);
        fields.insert("$defs".to_owned(), json!({"included": object(&INCLUDED)}));
    }
    main
}

fn object(object: &Object) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in object.keys {
        match key.need {
            Need::Absent(_) => continue,
            Need::Required => required.push(key.name),
            Need::Optional => {}
        }
        let mut schema = kind(key.kind);
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("description".to_owned(), key.doc.into());
            if let Some(default) = defaults::shown(object.title, key.name) {
                let default = typed(key.kind, &default);
                fields.insert("default".to_owned(), default);
            }
        }
        properties.insert(key.name.to_owned(), schema);
    }
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if let (false, Some(fields)) = (required.is_empty(), schema.as_object_mut()) {
        fields.insert("required".to_owned(), required.into());
    }
    schema
}

/// A default in the sort that its key has.
fn typed(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Bool | Kind::Integer(..) => serde_json::from_str(text).unwrap_or_default(),
        _ => text.into(),
    }
}

fn kind(of: Kind) -> Value {
    match of {
        Kind::Any => json!({}),
        Kind::Null => json!({"type": "null"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Integer(low, high) if low == high => json!({"const": low}),
        Kind::Integer(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
        Kind::Word(words) => json!({"enum": words}),
        Kind::Text(language) => text(language),
        Kind::Object(keys) => object(keys),
        Kind::Map(names, values) => {
            let mut schema = json!({"type": "object", "additionalProperties": kind(*values)});
            if let (false, Some(fields)) = (names.pattern.is_empty(), schema.as_object_mut()) {
                let pattern = json!({"pattern": names.pattern});
                fields.insert("propertyNames".to_owned(), pattern);
            }
            schema
        }
        Kind::List(item) => json!({"type": "array", "items": kind(*item)}),
        Kind::Either(kinds) => {
            let mut all: Vec<Value> = kinds
                .iter()
                .filter(|kind| !matches!(kind, Kind::Later(_)))
                .map(|one| kind(*one))
                .collect();
            match all.len() {
                1 => all.pop().unwrap_or_default(),
                _ => json!({"anyOf": all}),
            }
        }
        Kind::Later(_) => json!(false),
    }
}

fn text(language: &Text) -> Value {
    let mut schema = json!({"type": "string", "minLength": 1});
    if let Some(fields) = schema.as_object_mut() {
        if !language.pattern.is_empty() {
            fields.insert("pattern".to_owned(), language.pattern.into());
        }
        if !language.examples.is_empty() {
            fields.insert("examples".to_owned(), language.examples.into());
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;
    use crate::config::shape;
    use crate::diagnostic::Diagnostics;
    use crate::yaml;

    fn accepted_by_reader(text: &str) -> bool {
        let mut diagnostics = Diagnostics::default();
        let node = yaml::parse("testudo.yaml", text.as_bytes(), &mut diagnostics).unwrap();
        shape::check(&node, Kind::Object(&ROOT), "", &mut diagnostics)
    }

    fn accepted_by_schema(text: &str) -> bool {
        let schema = jsonschema::draft202012::new(&json_schema()).unwrap();
        let node = yaml::parse("t", text.as_bytes(), &mut Diagnostics::default()).unwrap();
        schema.is_valid(&node.to_json())
    }

    #[test]
    fn schema_and_reader_agree() {
        let base = "version: 1\ntrust_domain: a.test\n";
        for (rest, expected) in [
            ("", true),
            (
                "gateway: {tls: none, routes: [{path: /, service: a}]}",
                true,
            ),
            (
                "gateway: {tls: [{certificate: a.pem, key: '${env:K}'}]}",
                true,
            ),
            ("gateway: {tls: nope}", false),
            ("gateway: {routes: {path: /}}", false),
            ("gatway: {}", false),
            ("waf: {}", false),
            (
                "watch: {respond: contain, contain_for: 5m, max_share: 0.5%, protect: ['shop:a'], notify: [{url: '${env:H}', secret: '${env:K}'}], detectors: {scan: {paths: 5, off: true}}}",
                true,
            ),
            ("watch: {respond: maybe}", false),
            (
                "watch: {notify: [{url: 'https://a', secret: plain}]}",
                false,
            ),
            ("watch: {detectors: {scan: {objects: 5}}}", false),
            ("control: {store: embedded, limits_store: null}", true),
            ("control: {store: 'etcd://x'}", false),
            (
                "services: {a: {acts_alone: true, sidecar: none, api: none}}",
                true,
            ),
            (
                "services: {a: {acts_alone: [b:x], sidecar: {inbound: '127.0.0.1:1'}}}",
                true,
            ),
            ("services: {a: {api: {grpc: x}}}", false),
            ("services: {A: {}}", false),
            ("services: {a: {timeout: 15}}", false),
            ("services: {a: {timeout: 15 parsecs}}", false),
            (
                "limits: [{name: x, per: 'header:x-a', rate: 5/m, scope: fleet, burst: 3}]",
                true,
            ),
            (
                "limits: [{name: x, per: all, rate: 5/m, scope: mesh}]",
                false,
            ),
            ("limits: [{name: x, per: all}]", false),
            ("limits: [{name: x, per: all, rate: 5/m, burst: 0}]", false),
            (
                "users: {jwt: {x: {issuer: 'https://a', audiences: [a]}}}",
                true,
            ),
            ("users: {jwt: {x: {issuer: 'https://a'}}}", false),
        ] {
            let text = format!("{base}{rest}\n");
            assert_eq!(accepted_by_reader(&text), expected, "reader: {rest}");
            assert_eq!(accepted_by_schema(&text), expected, "schema: {rest}");
        }
    }

    #[test]
    fn examples_and_patterns_fit_the_checks() {
        for object in keys::objects() {
            for key in object.keys {
                examples(key.kind);
            }
        }
    }

    fn examples(kind: Kind) {
        match kind {
            Kind::Text(text) => {
                let pattern = regex::Regex::new(text.pattern).unwrap();
                for example in text.examples {
                    let reference = shape::is_reference(example);
                    assert!(
                        reference == text.secret && reference || (text.check)(example).is_ok(),
                        "{example}"
                    );
                    assert!(pattern.is_match(example), "{example} {}", text.pattern);
                }
            }
            Kind::List(item) => examples(*item),
            Kind::Map(_, item) => examples(*item),
            Kind::Either(kinds) => kinds.iter().copied().for_each(examples),
            _ => {}
        }
    }

    #[test]
    fn the_whole_schema() {
        insta::assert_json_snapshot!(json_schema());
    }
}
