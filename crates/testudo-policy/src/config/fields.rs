//! Reading the values of a mapping that `shape` has checked. What did not pass there reads as left out: its
//! diagnostic is already there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::shape::{self, Object};
use super::values;
use crate::diagnostic::Span;
use crate::yaml::Node;

/// A mapping and the table of its keys.
pub(super) struct Fields<'n> {
    pub(super) node: &'n Node,
    object: &'static Object,
}

impl<'n> Fields<'n> {
    pub(super) fn new(node: &'n Node, object: &'static Object) -> Self {
        Fields { node, object }
    }

    /// The value of a key of the table.
    pub(super) fn get(&self, key: &'static str) -> Option<&'n Node> {
        debug_assert!(
            self.object.keys.iter().any(|spec| spec.name == key),
            "{key} is read but {} does not have it",
            self.object.title
        );
        #[cfg(test)]
        tests::record(self.object.title, key);
        self.node.get(key)
    }

    pub(super) fn text(&self, key: &'static str) -> Option<&'n str> {
        self.get(key)?.as_str()
    }

    pub(super) fn texts(&self, key: &'static str) -> Vec<&'n str> {
        let items = self.get(key).and_then(Node::as_seq).unwrap_or(&[]);
        items.iter().filter_map(Node::as_str).collect()
    }

    /// The strings of a list, each with its place.
    pub(super) fn names(&self, key: &'static str) -> Vec<(Arc<str>, Span)> {
        let items = self.get(key).and_then(Node::as_seq).unwrap_or(&[]);
        items
            .iter()
            .filter_map(|item| Some((Arc::from(item.as_str()?), item.span.clone())))
            .collect()
    }

    pub(super) fn bool(&self, key: &'static str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    pub(super) fn duration(&self, key: &'static str) -> Option<Duration> {
        values::duration(self.text(key)?).ok()
    }

    pub(super) fn address(&self, key: &'static str) -> Option<(SocketAddr, Span)> {
        let node = self.get(key)?;
        Some((shape::address(node)?, node.span.clone()))
    }

    /// The place of a key's value, or of the mapping where it is left out.
    pub(super) fn span(&self, key: &'static str) -> Span {
        self.get(key).unwrap_or(self.node).span.clone()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    thread_local! {
        static ASKED: RefCell<BTreeSet<(&'static str, &'static str)>> =
            const { RefCell::new(BTreeSet::new()) };
    }

    pub(super) fn record(object: &'static str, key: &'static str) {
        ASKED.with(|asked| asked.borrow_mut().insert((object, key)));
    }

    /// What was read on this thread so far: object and key.
    pub(crate) fn asked() -> BTreeSet<(&'static str, &'static str)> {
        ASKED.with(|asked| asked.borrow().clone())
    }
}
