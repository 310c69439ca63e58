//! Which JSON types a schema admits, so that text can be turned into the right ones.
//!
//! Parameters and forms are text: `17` is an integer or a string, as the schema says. A [`Shape`] is
//! read from the schema once; it never decides validity, that is the schema's own check.

use std::sync::Arc;

use serde_json::Value as Json;

/// A set of JSON types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeSet(u8);

impl TypeSet {
    /// No type: nothing is valid.
    pub const NONE: TypeSet = TypeSet(0);
    /// `null`.
    pub const NULL: TypeSet = TypeSet(1);
    /// `boolean`.
    pub const BOOLEAN: TypeSet = TypeSet(2);
    /// `integer`.
    pub const INTEGER: TypeSet = TypeSet(4);
    /// `number`, which includes integers.
    pub const NUMBER: TypeSet = TypeSet(8 | 4);
    /// `string`.
    pub const STRING: TypeSet = TypeSet(16);
    /// `array`.
    pub const ARRAY: TypeSet = TypeSet(32);
    /// `object`.
    pub const OBJECT: TypeSet = TypeSet(64);
    /// Every type.
    pub const ALL: TypeSet = TypeSet(127);

    /// Whether all of `other` are in it.
    pub const fn has(self, other: TypeSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: TypeSet) -> TypeSet {
        TypeSet(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: TypeSet) -> TypeSet {
        TypeSet(self.0 | other.0)
    }

    /// The same without these.
    #[must_use]
    pub const fn without(self, other: TypeSet) -> TypeSet {
        TypeSet(self.0 & !other.0)
    }

    fn named(name: &str) -> TypeSet {
        match name {
            "null" => TypeSet::NULL,
            "boolean" => TypeSet::BOOLEAN,
            "integer" => TypeSet::INTEGER,
            "number" => TypeSet::NUMBER,
            "string" => TypeSet::STRING,
            "array" => TypeSet::ARRAY,
            "object" => TypeSet::OBJECT,
            _ => TypeSet::NONE,
        }
    }

    fn of(value: &Json) -> TypeSet {
        match value {
            Json::Null => TypeSet::NULL,
            Json::Bool(_) => TypeSet::BOOLEAN,
            Json::Number(number) if number.is_f64() => TypeSet::NUMBER,
            Json::Number(_) => TypeSet::INTEGER,
            Json::String(_) => TypeSet::STRING,
            Json::Array(_) => TypeSet::ARRAY,
            Json::Object(_) => TypeSet::OBJECT,
        }
    }
}

/// The types that a schema admits, of its items and of its properties.
#[derive(Clone, Debug)]
pub struct Shape {
    /// At the top.
    pub types: TypeSet,
    /// Of items of arrays, where declared.
    pub items: Option<Box<Shape>>,
    /// Of declared properties.
    pub properties: Vec<(Arc<str>, Shape)>,
    /// Whether properties beyond the declared ones may be valid.
    pub additional: bool,
}

/// How deep properties and items are looked at: an object of arrays of scalars and one spare.
const MAX_LEVELS: u8 = 4;
/// How many references and alternatives are followed for one shape.
const MAX_STEPS: u32 = 2_000;

impl Shape {
    /// Everything.
    pub fn any() -> Shape {
        Shape {
            types: TypeSet::ALL,
            items: None,
            properties: Vec::new(),
            additional: true,
        }
    }

    /// The shape of a self-contained JSON Schema (2020-12).
    pub fn of(schema: &Json) -> Shape {
        let mut walk = Walk {
            root: schema,
            steps: MAX_STEPS,
        };
        walk.shape(schema, MAX_LEVELS)
    }

    /// The shape of a declared property.
    pub fn property(&self, name: &str) -> Option<&Shape> {
        let found = self.properties.iter().find(|(known, _)| **known == *name);
        found.map(|(_, shape)| shape)
    }
}

struct Walk<'a> {
    root: &'a Json,
    steps: u32,
}

impl<'a> Walk<'a> {
    /// All alternatives that a schema may consist of are looked at together: types are intersected
    /// over `allOf` and united over `anyOf` and `oneOf`; properties and items are collected from all.
    fn shape(&mut self, schema: &'a Json, levels: u8) -> Shape {
        let mut shape = Shape::any();
        self.collect(schema, levels, &mut shape);
        shape
    }

    fn collect(&mut self, schema: &'a Json, levels: u8, shape: &mut Shape) {
        if self.steps == 0 {
            return;
        }
        self.steps -= 1;
        let Json::Object(keywords) = schema else {
            if *schema == Json::Bool(false) {
                shape.types = TypeSet::NONE;
            }
            return;
        };
        if let Some(types) = keywords.get("type") {
            let named = match types {
                Json::String(name) => TypeSet::named(name),
                Json::Array(names) => names
                    .iter()
                    .filter_map(Json::as_str)
                    .fold(TypeSet::NONE, |set, name| set.or(TypeSet::named(name))),
                _ => TypeSet::ALL,
            };
            shape.types = shape.types.and(named);
        }
        let values = match keywords.get("enum") {
            Some(Json::Array(values)) => Some(values.as_slice()),
            _ => keywords.get("const").map(std::slice::from_ref),
        };
        if let Some(values) = values {
            let types = values
                .iter()
                .fold(TypeSet::NONE, |set, value| set.or(TypeSet::of(value)));
            shape.types = shape.types.and(types);
        }
        if let Some(target) = keywords.get("$ref").and_then(Json::as_str)
            && let Some(target) = self.resolve(target)
        {
            self.collect(target, levels, shape);
        }
        if let Some(Json::Array(parts)) = keywords.get("allOf") {
            for part in parts {
                self.collect(part, levels, shape);
            }
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(Json::Array(parts)) = keywords.get(keyword) {
                self.alternatives(parts, levels, shape);
            }
        }
        if levels > 0 {
            self.children(keywords, levels - 1, shape);
        }
    }

    fn alternatives(&mut self, parts: &'a [Json], levels: u8, shape: &mut Shape) {
        let mut types = TypeSet::NONE;
        for part in parts {
            let mut alternative = Shape::any();
            self.collect(part, levels, &mut alternative);
            types = types.or(alternative.types);
            merge(shape, alternative);
        }
        shape.types = shape.types.and(types);
    }

    fn children(
        &mut self,
        keywords: &'a serde_json::Map<String, Json>,
        levels: u8,
        shape: &mut Shape,
    ) {
        if let Some(items) = keywords.get("items") {
            let items = self.shape(items, levels);
            shape.items = Some(Box::new(items));
        }
        if let Some(Json::Object(properties)) = keywords.get("properties") {
            for (name, schema) in properties {
                let property = self.shape(schema, levels);
                add_property(shape, Arc::from(name.as_str()), property);
            }
        }
        for keyword in ["additionalProperties", "unevaluatedProperties"] {
            if keywords.get(keyword) == Some(&Json::Bool(false)) {
                shape.additional = false;
            }
        }
    }

    /// Local references only: schemas are self-contained.
    fn resolve(&self, reference: &str) -> Option<&'a Json> {
        self.root.pointer(reference.strip_prefix('#')?)
    }
}

fn merge(shape: &mut Shape, other: Shape) {
    for (name, property) in other.properties {
        add_property(shape, name, property);
    }
    if shape.items.is_none() {
        shape.items = other.items;
    }
}

fn add_property(shape: &mut Shape, name: Arc<str>, property: Shape) {
    let known = shape
        .properties
        .iter_mut()
        .find(|(known, _)| *known == name);
    match known {
        Some((_, present)) => present.types = present.types.or(property.types),
        None => shape.properties.push((name, property)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_over_combinators_and_references() {
        let int_or_string = TypeSet::INTEGER.or(TypeSet::STRING);
        for (schema, expected) in [
            (json!({}), TypeSet::ALL),
            (json!(false), TypeSet::NONE),
            (json!({"type": "integer"}), TypeSet::INTEGER),
            (json!({"type": ["integer", "string"]}), int_or_string),
            (json!({"enum": ["a", 1]}), int_or_string),
            (json!({"const": true}), TypeSet::BOOLEAN),
            (
                json!({"$ref": "#/$defs/A", "$defs": {"A": {"type": "string"}}}),
                TypeSet::STRING,
            ),
            (
                json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
                int_or_string,
            ),
            (
                json!({"type": "string", "oneOf": [{"minLength": 1}, {"type": "integer"}]}),
                TypeSet::STRING,
            ),
            (
                json!({"allOf": [{"type": "number"}, {"type": ["integer", "null"]}]}),
                TypeSet::INTEGER,
            ),
            (
                json!({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}),
                TypeSet::ALL,
            ),
        ] {
            assert_eq!(Shape::of(&schema).types, expected, "{schema}");
        }
    }

    #[test]
    fn properties_and_items() {
        let shape = Shape::of(&json!({
            "allOf": [{"properties": {"n": {"type": "integer"}}}],
            "properties": {"tags": {"type": "array", "items": {"type": "boolean"}}},
            "additionalProperties": false,
        }));
        assert_eq!(shape.property("n").unwrap().types, TypeSet::INTEGER);
        let tags = shape.property("tags").unwrap();
        assert_eq!(tags.items.as_ref().unwrap().types, TypeSet::BOOLEAN);
        assert!(!shape.additional);
        assert!(shape.property("x").is_none());
    }
}
