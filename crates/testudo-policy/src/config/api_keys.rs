//! The API keys' file: `keys: [{id, hash, user, roles, expires}]`. It holds hashes, never keys.

use std::collections::HashMap;
use std::sync::Arc;

use super::fields::Fields;
use super::shape::{self, Kind};
use super::{ApiKey, keys, root, values};
use crate::bundle::Bundle;
use crate::diagnostic::{Diagnostics, Span};
use crate::yaml::{self, Node};

/// The keys of a file. A proxy that does not get the file has none; that a bundle lacks it, `bundle` has reported.
pub(super) fn read(path: &str, bundle: &Bundle, diagnostics: &mut Diagnostics) -> Vec<ApiKey> {
    let Some(content) = bundle.content(path) else {
        return Vec::new();
    };
    let Some(tree) = yaml::parse(path, content, diagnostics) else {
        return Vec::new();
    };
    shape::check(&tree, Kind::Object(&keys::API_KEYS), "", diagnostics);
    let fields = Fields::new(&tree, &keys::API_KEYS);
    let mut found: Vec<ApiKey> = Vec::new();
    let mut ids: HashMap<Arc<str>, Span> = HashMap::new();
    for item in fields.get("keys").and_then(Node::as_seq).unwrap_or(&[]) {
        let Some(key) = entry(item) else {
            continue;
        };
        match ids.get(&key.id) {
            Some(first) => root::twice("key", &key.id, &key.span, first, diagnostics),
            None => {
                ids.insert(key.id.clone(), key.span.clone());
            }
        }
        found.push(key);
    }
    found
}

fn entry(node: &Node) -> Option<ApiKey> {
    let fields = Fields::new(node, &keys::API_KEY);
    let expires = fields.text("expires").map(values::until);
    Some(ApiKey {
        id: Arc::from(fields.text("id")?),
        span: fields.span("id"),
        hash: digest(fields.text("hash")?)?,
        user: Arc::from(fields.text("user")?),
        roles: fields.names("roles"),
        // A date that cannot be read must not become a key that never ends.
        expires: match expires {
            None => None,
            Some(Ok(second)) => Some(second),
            Some(Err(_)) => return None,
        },
    })
}

fn digest(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
