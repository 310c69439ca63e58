//! Where in a token's claims ids, roles and declared claims stand, and how they become values that
//! policies read. What cannot be read the one way that the bundle says refuses the token: a role or a
//! claim that is quietly dropped could be the one that a `forbid` waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Claim, Rejection};

/// Longest id, role or declared claim, in bytes.
const MAX_ID_BYTES: usize = 256;
const MAX_ROLE_BYTES: usize = 128;
const MAX_ROLES: usize = 64;
const MAX_CLAIM_BYTES: usize = 1024;
const MAX_CLAIM_ITEMS: usize = 64;

/// A JSON Pointer (RFC 6901) or the bare name of a top-level claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Path);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Path {
    Name(String),
    /// With its leading `/`.
    Pointer(Vec<String>),
}

/// Why a claim path cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is neither a claim's name nor a JSON Pointer")]
pub struct ClaimPathError(String);

impl FromStr for ClaimPath {
    type Err = ClaimPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ClaimPathError(text.to_owned());
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(refused());
        }
        let Some(pointer) = text.strip_prefix('/') else {
            return Ok(ClaimPath(Path::Name(text.to_owned())));
        };
        let tokens: Option<Vec<String>> = pointer.split('/').map(unescape).collect();
        tokens
            .map(|tokens| ClaimPath(Path::Pointer(tokens)))
            .ok_or_else(refused)
    }
}

/// RFC 6901 §4: `~1` is `/`, `~0` is `~`, and no other `~` may stand.
fn unescape(token: &str) -> Option<String> {
    let mut out = String::with_capacity(token.len());
    let mut rest = token.chars();
    while let Some(char) = rest.next() {
        match char {
            '~' => out.push(match rest.next()? {
                '0' => '~',
                '1' => '/',
                _ => return None,
            }),
            other => out.push(other),
        }
    }
    Some(out)
}

impl ClaimPath {
    /// What stands there; absent and `null` are the same.
    fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        let value = match &self.0 {
            Path::Name(name) => claims.get(name),
            Path::Pointer(tokens) => {
                let (first, rest) = tokens.split_first()?;
                rest.iter()
                    .try_fold(claims.get(first)?, |value, token| step(value, token))
            }
        };
        value.filter(|value| !value.is_null())
    }

    /// For messages and stamps.
    pub(super) fn text(&self) -> String {
        match &self.0 {
            Path::Name(name) => name.clone(),
            Path::Pointer(tokens) => tokens
                .iter()
                .map(|token| format!("/{}", token.replace('~', "~0").replace('/', "~1")))
                .collect(),
        }
    }
}

fn step<'v>(value: &'v Value, token: &str) -> Option<&'v Value> {
    match value {
        Value::Object(object) => object.get(token),
        Value::Array(list) => {
            let canonical = token == "0" || !token.starts_with(['0', '+']);
            canonical.then(|| list.get(token.parse::<usize>().ok()?))?
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// How an issuer's tokens give roles.
#[derive(Clone, Debug)]
pub struct RoleRule {
    /// A list of strings, or a space-separated string.
    pub claim: ClaimPath,
    /// What the identity provider calls them, to what policies call them; others keep their name.
    pub map: BTreeMap<String, Arc<str>>,
    /// The roles (after `map`) that this issuer may give; `None`: all.
    pub allow: Option<BTreeSet<Arc<str>>>,
}

impl RoleRule {
    /// The token's roles, sorted.
    pub(super) fn read(&self, claims: &Map<String, Value>) -> Result<Arc<[Arc<str>]>, Rejection> {
        let names: Vec<&str> = match self.claim.find(claims) {
            None => Vec::new(),
            Some(Value::String(text)) => text.split(' ').filter(|name| !name.is_empty()).collect(),
            Some(Value::Array(list)) => list
                .iter()
                .map(Value::as_str)
                .collect::<Option<_>>()
                .ok_or(Rejection::invalid("the token's roles are not strings"))?,
            Some(_) => {
                return Err(Rejection::invalid(
                    "the token's roles are neither a list nor a string",
                ));
            }
        };
        let mut roles = BTreeSet::new();
        for name in names {
            let role = match self.map.get(name) {
                Some(mapped) => mapped.clone(),
                None => Arc::from(name),
            };
            if self
                .allow
                .as_ref()
                .is_none_or(|allow| allow.contains(&role))
            {
                roles.insert(role);
            }
        }
        check_roles(&roles)?;
        Ok(roles.into_iter().collect())
    }
}

/// Applications get roles as a comma-separated header; a comma within one would make it two.
fn check_roles(roles: &BTreeSet<Arc<str>>) -> Result<(), Rejection> {
    if roles.len() > MAX_ROLES {
        return Err(Rejection::invalid("the token has more than 64 roles"));
    }
    let readable = |role: &Arc<str>| {
        !role.is_empty()
            && role.len() <= MAX_ROLE_BYTES
            && !role.contains([',', '"'])
            && !role.chars().any(char::is_control)
    };
    if roles.iter().all(readable) {
        Ok(())
    } else {
        Err(Rejection::invalid(
            "a role of the token is too long, or has a comma, a quote or a control character: `map` it",
        ))
    }
}

/// The user's id: a string, or an integer in decimal.
pub(super) fn id(path: &ClaimPath, claims: &Map<String, Value>) -> Result<String, Rejection> {
    let missing = || Rejection::invalid(format!("the token has no {}", path.text()));
    let id = match path.find(claims).ok_or_else(missing)? {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            return Err(missing());
        }
    };
    if !is_readable_id(&id) {
        return Err(Rejection::invalid(
            "the user's id is empty, too long, or has control characters",
        ));
    }
    Ok(id)
}

/// Ids go into headers, logs and terminals.
pub(super) fn is_readable_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID_BYTES && !id.chars().any(char::is_control)
}

/// The declared claims that the token has.
pub(super) fn declared(
    declared: &BTreeMap<Arc<str>, ClaimPath>,
    claims: &Map<String, Value>,
) -> Result<BTreeMap<Arc<str>, Claim>, Rejection> {
    let mut values = BTreeMap::new();
    for (name, path) in declared {
        if let Some(value) = path.find(claims) {
            let claim = Claim::from_json(value).ok_or_else(|| {
                Rejection::invalid(format!("policies cannot read the token's claim {name}"))
            })?;
            values.insert(name.clone(), claim);
        }
    }
    Ok(values)
}

impl Claim {
    /// A short string, an integer within i64, a boolean, or a short list of short strings.
    pub(super) fn from_json(value: &Value) -> Option<Claim> {
        let short = |text: &str| text.len() <= MAX_CLAIM_BYTES;
        match value {
            Value::String(text) if short(text) => Some(Claim::String(Arc::from(text.as_str()))),
            Value::Bool(value) => Some(Claim::Bool(*value)),
            Value::Number(number) => number.as_i64().map(Claim::Long),
            Value::Array(list) if list.len() <= MAX_CLAIM_ITEMS => list
                .iter()
                .map(|item| item.as_str().filter(|text| short(text)).map(Arc::from))
                .collect::<Option<Arc<[_]>>>()
                .map(Claim::Strings),
            Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// As it travels in a transaction token.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Claim::String(text) => Value::from(&**text),
            Claim::Long(number) => Value::from(*number),
            Claim::Bool(value) => Value::from(*value),
            Claim::Strings(list) => list.iter().map(|text| Value::from(&**text)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims() -> Map<String, Value> {
        let Value::Object(object) = json!({
            "sub": "alice", "number": 7, "https://shop.test/tenant": "acme", "none": null,
            "realm_access": {"roles": ["grp-7", "customer", "auditor"]},
            "scope": "read  write", "a/b": {"m~n": [10, {"x": "deep"}]},
            "flag": true, "half": 0.5, "big": u64::MAX, "mixed": ["a", 1]
        }) else {
            unreachable!()
        };
        object
    }

    fn path(text: &str) -> ClaimPath {
        text.parse().unwrap()
    }

    #[test]
    fn paths_are_names_or_pointers() {
        let claims = claims();
        let found = |text: &str| path(text).find(&claims).cloned();
        assert_eq!(found("sub"), Some(json!("alice")));
        assert_eq!(found("/sub"), Some(json!("alice")));
        assert_eq!(found("https://shop.test/tenant"), Some(json!("acme")));
        assert_eq!(found("/a~1b/m~0n/1/x"), Some(json!("deep")));
        assert_eq!(found("/realm_access/roles/0"), Some(json!("grp-7")));
        assert_eq!(found("/realm_access/roles/00"), None);
        assert_eq!(found("/realm_access/roles/+0"), None);
        assert_eq!(found("none"), None);
        assert_eq!(found("realm_access/roles"), None, "a name is not a pointer");
        for bad in ["", "/a~2", "/a~", "a\nb"] {
            assert!(ClaimPath::from_str(bad).is_err(), "{bad:?}");
        }
        assert_eq!(path("/a~1b/m~0n").text(), "/a~1b/m~0n");
    }

    #[test]
    fn ids_are_strings_or_integers() {
        let claims = claims();
        let read = |text: &str| id(&path(text), &claims).ok();
        assert_eq!(read("sub").as_deref(), Some("alice"));
        assert_eq!(read("number").as_deref(), Some("7"));
        for bad in ["half", "flag", "none", "absent", "realm_access"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let Value::Object(odd) = json!({"sub": "a\nb", "empty": "", "long": "x".repeat(257)})
        else {
            unreachable!()
        };
        for bad in ["sub", "empty", "long"] {
            assert!(id(&path(bad), &odd).is_err(), "{bad}");
        }
    }

    fn rule(claim: &str, map: &[(&str, &str)], allow: Option<&[&str]>) -> RoleRule {
        RoleRule {
            claim: path(claim),
            map: map
                .iter()
                .map(|(from, to)| ((*from).to_owned(), Arc::from(*to)))
                .collect(),
            allow: allow.map(|allow| allow.iter().map(|role| Arc::from(*role)).collect()),
        }
    }

    fn roles(rule: &RoleRule, claims: &Map<String, Value>) -> Option<Vec<String>> {
        rule.read(claims)
            .ok()
            .map(|roles| roles.iter().map(|role| role.to_string()).collect())
    }

    #[test]
    fn roles_are_mapped_then_filtered() {
        let claims = claims();
        let read = |rule: &RoleRule| roles(rule, &claims);
        let admin = rule(
            "/realm_access/roles",
            &[("grp-7", "admin")],
            Some(&["customer", "admin"]),
        );
        assert_eq!(read(&admin), Some(vec!["admin".into(), "customer".into()]));
        let scope = rule("scope", &[], None);
        assert_eq!(read(&scope), Some(vec!["read".into(), "write".into()]));
        assert_eq!(read(&rule("absent", &[], None)), Some(vec![]));
        for bad in ["mixed", "flag", "realm_access"] {
            assert_eq!(read(&rule(bad, &[], None)), None, "{bad}");
        }
        // An unmapped provider name cannot slip in as a role that only `map` gives.
        let only_mapped = rule(
            "/realm_access/roles",
            &[("grp-7", "admin")],
            Some(&["admin"]),
        );
        assert_eq!(read(&only_mapped), Some(vec!["admin".into()]));
    }

    #[test]
    fn a_role_cannot_become_two() {
        let Value::Object(claims) = json!({"roles": ["CN=x,admin"], "lines": ["a\nb"]}) else {
            unreachable!()
        };
        assert_eq!(roles(&rule("roles", &[], None), &claims), None);
        assert_eq!(roles(&rule("lines", &[], None), &claims), None);
        let mapped = rule("roles", &[("CN=x,admin", "staff")], None);
        assert_eq!(roles(&mapped, &claims), Some(vec!["staff".into()]));
    }

    #[test]
    fn declared_claims_keep_their_type() {
        let claims = claims();
        let read = |name: &str| {
            declared(&BTreeMap::from([(Arc::from("c"), path(name))]), &claims)
                .map(|values| values.get("c").cloned())
                .ok()
        };
        assert_eq!(read("sub"), Some(Some(Claim::String(Arc::from("alice")))));
        assert_eq!(read("number"), Some(Some(Claim::Long(7))));
        assert_eq!(read("flag"), Some(Some(Claim::Bool(true))));
        assert_eq!(read("absent"), Some(None));
        for bad in ["half", "big", "mixed", "realm_access"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        for value in [json!("x"), json!(-3), json!(false), json!(["a", "b"])] {
            assert_eq!(Claim::from_json(&value).unwrap().to_json(), value);
        }
    }
}
