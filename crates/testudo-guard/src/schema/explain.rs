//! How much it may cost to say why a value is invalid.
//!
//! Whether a value is valid is decided in linear time. Why it is not is another matter: for `anyOf`
//! and `oneOf` the validator collects the errors of all alternatives, and theirs, each with a copy of
//! the value. In a recursive schema a few hundred nested bytes would take gigabytes, so explanations
//! are worked out only where they stay cheap.

use std::collections::HashMap;

use serde_json::Value as Json;

/// Most errors, counted roughly, that one explanation may collect.
const BUDGET: u64 = 20_000;
/// Schemas nested deeper than this are not looked at.
const MAX_DEPTH: usize = 64;

/// What explaining an invalid value may cost, for one schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Explanation {
    /// There are no alternatives: the first error is found in passing.
    Free,
    /// So many errors for each part of the value.
    Errors(u64),
    /// It grows with the nesting of the value.
    Unbounded,
}

impl Explanation {
    /// Looks at a self-contained schema.
    pub(super) fn of(schema: &Json) -> Explanation {
        let mut walk = Walk {
            root: schema,
            known: HashMap::new(),
            widest: 0,
            recursive: false,
        };
        let levels = walk.levels(schema, 0);
        if walk.widest == 0 {
            Explanation::Free
        } else if walk.recursive {
            Explanation::Unbounded
        } else {
            Explanation::Errors(walk.widest.saturating_pow(levels))
        }
    }

    /// Whether it may be worked out for this value.
    pub(super) fn is_cheap(self, value: &Json) -> bool {
        match self {
            Explanation::Free => true,
            Explanation::Unbounded => false,
            Explanation::Errors(errors) => errors.saturating_mul(size(value)) <= BUDGET,
        }
    }
}

/// Strings, numbers and containers in a value.
fn size(value: &Json) -> u64 {
    let mut count = 0;
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        count += 1;
        match value {
            Json::Array(items) => open.extend(items),
            Json::Object(members) => open.extend(members.values()),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }
    count
}

struct Walk<'a> {
    root: &'a Json,
    /// Levels of definitions; `None` while they are looked at.
    known: HashMap<&'a str, Option<u32>>,
    /// The most alternatives anywhere.
    widest: u64,
    recursive: bool,
}

impl<'a> Walk<'a> {
    /// How deep alternatives are nested.
    fn levels(&mut self, schema: &'a Json, depth: usize) -> u32 {
        if depth > MAX_DEPTH {
            self.recursive = true;
            return 0;
        }
        match schema {
            Json::Object(keywords) => {
                let mut deepest = 0;
                for (name, value) in keywords {
                    let levels = match (name.as_str(), value) {
                        ("anyOf" | "oneOf", Json::Array(parts)) => {
                            self.widest = self.widest.max(parts.len() as u64);
                            1 + self.levels(value, depth + 1)
                        }
                        ("$ref", Json::String(reference)) => self.referent(reference, depth),
                        ("$defs" | "enum" | "const", _) => 0,
                        _ => self.levels(value, depth + 1),
                    };
                    deepest = deepest.max(levels);
                }
                deepest
            }
            Json::Array(items) => {
                let levels = items.iter().map(|item| self.levels(item, depth + 1));
                levels.max().unwrap_or(0)
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
        }
    }

    fn referent(&mut self, reference: &'a str, depth: usize) -> u32 {
        match self.known.get(reference) {
            Some(Some(levels)) => return *levels,
            Some(None) => {
                self.recursive = true;
                return 0;
            }
            None => {}
        }
        self.known.insert(reference, None);
        let target = reference
            .strip_prefix('#')
            .and_then(|pointer| self.root.pointer(pointer));
        let levels = target.map_or(0, |target| self.levels(target, depth + 1));
        self.known.insert(reference, Some(levels));
        levels
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn costs() {
        let two = json!([{"type": "string"}, {"type": "integer"}]);
        for (schema, expected) in [
            (
                json!({"properties": {"a": {"allOf": [{}]}}}),
                Explanation::Free,
            ),
            (json!({"oneOf": two.clone()}), Explanation::Errors(2)),
            (
                json!({"oneOf": [{"properties": {"a": {"anyOf": two.clone()}}}, {}, {}]}),
                Explanation::Errors(9),
            ),
            (
                json!({"$ref": "#/$defs/0", "$defs": {"0": {"properties": {"a": {"$ref": "#/$defs/0"}}}}}),
                Explanation::Free,
            ),
            (
                json!({"$ref": "#/$defs/0", "$defs": {"0": {"items": {"$ref": "#/$defs/0"}, "anyOf": two}}}),
                Explanation::Unbounded,
            ),
        ] {
            assert_eq!(Explanation::of(&schema), expected, "{schema}");
        }
        assert!(Explanation::Errors(100).is_cheap(&json!({"a": [1, 2]})));
        assert!(!Explanation::Errors(10_000).is_cheap(&json!({"a": [1, 2]})));
    }
}
