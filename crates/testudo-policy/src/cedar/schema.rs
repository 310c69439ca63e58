//! The Cedar schema, generated from the configuration and the APIs (DESIGN §4), in Cedar's JSON form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use testudo_guard::authz::{ClaimKind, group_of_method};

use super::vocabulary::Vocabulary;
use crate::api::{ApiModel, FieldModel, Location, OperationModel, ParamModel, ValueKind};
use crate::diagnostic::Diagnostics;

/// Names of actions that are groups, or that stand for what the specification does not have.
const RESERVED: [&str; 4] = ["read", "write", "*", "undocumented"];

/// An enumerated type needs a member; nobody is in this one.
const NOBODY: &str = "(nobody)";

/// An operation that is called like a group would be in the group and be it.
pub(super) fn reserved_names(apis: &BTreeMap<Arc<str>, ApiModel>, diagnostics: &mut Diagnostics) {
    for api in apis.values() {
        for operation in &api.operations {
            if RESERVED.contains(&&*operation.name) {
                diagnostics.error(
                    "name.reserved",
                    &operation.span,
                    format!(
                        "{}:{} is the name of a group of operations",
                        api.service, operation.name
                    ),
                    "give the operation another operationId".to_owned(),
                );
            }
        }
    }
}

/// The whole schema.
pub(super) fn generate(vocabulary: &Vocabulary, apis: &BTreeMap<Arc<str>, ApiModel>) -> Json {
    json!({"": {
        "entityTypes": entity_types(vocabulary),
        "actions": actions(apis),
    }})
}

fn entity_types(vocabulary: &Vocabulary) -> Json {
    let claims = vocabulary.claims.iter().map(|(name, kind)| {
        let kind = match kind {
            ClaimKind::String => ValueKind::String,
            ClaimKind::Long => ValueKind::Long,
            ClaimKind::Bool => ValueKind::Bool,
            ClaimKind::Strings => ValueKind::Strings,
        };
        (name, kind, false)
    });
    let labels = vocabulary
        .labels
        .iter()
        .map(|name| (name, ValueKind::String, false));
    let roles = vocabulary.roles.as_ref();
    json!({
        "Role": roles.map_or_else(|| json!({}), enumerated),
        "ServiceRole": enumerated(&vocabulary.service_roles),
        "User": {
            "memberOfTypes": ["Role"],
            "shape": {"type": "Record", "attributes": {
                "id": {"type": "String"},
                "issuer": {"type": "String"},
                "claims": record(claims),
            }},
        },
        "Anonymous": {"enum": ["anonymous"]},
        "Service": {
            "memberOfTypes": ["ServiceRole"],
            "shape": {"type": "Record", "attributes": {
                "name": {"type": "String"},
                "labels": record(labels),
            }},
        },
        "Api": {},
    })
}

fn enumerated(names: &BTreeSet<Arc<str>>) -> Json {
    if names.is_empty() {
        return json!({"enum": [NOBODY]});
    }
    json!({"enum": names.iter().map(|name| &**name).collect::<Vec<_>>()})
}

fn actions(apis: &BTreeMap<Arc<str>, ApiModel>) -> Json {
    let mut actions = Map::new();
    let group = |parents: &[String]| {
        let parents: Vec<Json> = parents.iter().map(|parent| json!({"id": parent})).collect();
        json!({"memberOf": parents})
    };
    actions.insert("*".into(), group(&[]));
    for name in ["read", "write"] {
        actions.insert(name.into(), group(&["*".into()]));
    }
    for api in apis.values() {
        let service = &api.service;
        let all = format!("{service}:*");
        actions.insert(all.clone(), group(&["*".into()]));
        for name in ["read", "write"] {
            actions.insert(
                format!("{service}:{name}"),
                group(&[all.clone(), name.into()]),
            );
        }
        actions.insert(
            format!("{service}:undocumented"),
            json!({"appliesTo": applies_to(context(&[], &[]))}),
        );
        for operation in &api.operations {
            let name = format!("{service}:{}", operation.name);
            if RESERVED.contains(&&*operation.name) {
                continue;
            }
            actions.insert(name, action(service, operation));
        }
    }
    Json::Object(actions)
}

fn action(service: &str, operation: &OperationModel) -> Json {
    let group = format!("{service}:{}", group_of_method(&operation.method));
    json!({
        "memberOf": [{"id": group}],
        "appliesTo": applies_to(context(&operation.params, &operation.body)),
    })
}

fn applies_to(context: Json) -> Json {
    json!({
        "principalTypes": ["User", "Anonymous", "Service"],
        "resourceTypes": ["Api"],
        "context": context,
    })
}

fn context(params: &[ParamModel], body: &[FieldModel]) -> Json {
    let mut attributes = Map::new();
    let mut put = |name: &str, kind: Json| attributes.insert(name.into(), kind);
    let readable = |headers: bool| {
        params
            .iter()
            .filter(move |param| in_headers(param) == headers && is_readable(param, params))
            .filter_map(|param| Some((&param.name, param.kind?, param.required)))
    };
    put("params", record(readable(false)));
    put("headers", record(readable(true)));
    if !body.is_empty() {
        let fields = body
            .iter()
            .map(|field| (&field.name, field.kind, field.required));
        put("body", record(fields));
    }
    put("source_ip", json!({"type": "Extension", "name": "ipaddr"}));
    put("time", json!({"type": "Extension", "name": "datetime"}));
    put("hop", json!({"type": "String"}));
    let entity = |name: &str| json!({"type": "Entity", "name": name, "required": false});
    put("user", entity("User"));
    put("caller", entity("Service"));
    json!({"type": "Record", "attributes": attributes})
}

fn in_headers(param: &ParamModel) -> bool {
    param.location == Location::Header
}

/// Whether policies can read a parameter: it has one type, it is not a cookie, and no other parameter
/// in path or query is called the same.
pub(super) fn is_readable(param: &ParamModel, all: &[ParamModel]) -> bool {
    let same = |other: &&ParamModel| {
        other.name == param.name
            && in_headers(other) == in_headers(param)
            && other.location != Location::Cookie
    };
    param.kind.is_some()
        && param.location != Location::Cookie
        && all.iter().filter(same).count() == 1
}

fn record<'a>(fields: impl Iterator<Item = (&'a Arc<str>, ValueKind, bool)>) -> Json {
    let attributes: Map<String, Json> = fields
        .map(|(name, kind, required)| {
            let mut value = value_type(kind);
            if let Some(object) = value.as_object_mut() {
                object.insert("required".into(), required.into());
            }
            (name.to_string(), value)
        })
        .collect();
    json!({"type": "Record", "attributes": attributes})
}

fn value_type(kind: ValueKind) -> Json {
    match kind {
        ValueKind::String => json!({"type": "String"}),
        ValueKind::Long => json!({"type": "Long"}),
        ValueKind::Decimal => json!({"type": "Extension", "name": "decimal"}),
        ValueKind::Bool => json!({"type": "Boolean"}),
        ValueKind::Strings => json!({"type": "Set", "element": {"type": "String"}}),
    }
}
