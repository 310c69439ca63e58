//! Which operations a path prefix, a method or a name can mean.

use testudo_guard::schema::ANY_PATH;

use crate::api::OperationModel;

/// Whether a request for the operation can have a path under `prefix` (whole segments).
pub(super) fn under(template: &str, prefix: &str) -> bool {
    if prefix == "/" || template == ANY_PATH {
        return true;
    }
    let mut segments = template.trim_start_matches('/').split('/');
    prefix
        .trim_start_matches('/')
        .split('/')
        .all(|part| segments.next().is_some_and(|segment| fits(segment, part)))
}

/// Whether a plain path can be a request for the operation.
pub(super) fn is(template: &str, path: &str) -> bool {
    let count = |text: &str| text.trim_start_matches('/').split('/').count();
    template != ANY_PATH && count(template) == count(path) && under(template, path)
}

fn fits(segment: &str, part: &str) -> bool {
    match segment.split_once('{') {
        None => segment == part,
        // `{id}`, `{id}.json`, `v{version}`: what is fixed must fit.
        Some((before, rest)) => {
            let after = rest.rsplit_once('}').map_or("", |(_, after)| after);
            part.starts_with(before)
                && part.ends_with(after)
                && part.len() > before.len() + after.len()
        }
    }
}

/// The fixed beginning of a template: `/orders` of `/orders/{id}`.
pub(super) fn fixed(template: &str) -> &str {
    let end = template.find('{').unwrap_or(template.len());
    let fixed = template.get(..end).unwrap_or_default();
    match fixed.rsplit_once('/') {
        Some(("", _)) if end < template.len() => "/",
        Some((folder, _)) if end < template.len() => folder,
        _ => fixed,
    }
}

/// `listOrders createOrder getOrder …`, short enough for a hint.
pub(super) fn listed<'a>(operations: impl IntoIterator<Item = &'a OperationModel>) -> String {
    let mut text = String::new();
    for operation in operations {
        if text.len() + operation.name.len() > 60 {
            text.push_str(" …");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&operation.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_whole_segments() {
        for (template, prefix, expected) in [
            ("/orders", "/orders", true),
            ("/orders/{id}", "/orders", true),
            ("/orders/{id}", "/orders/17", true),
            ("/orders", "/order", false),
            ("/orders", "/orders/17", false),
            ("/{any}", "/whatever", true),
            ("/v{n}/x", "/v1", true),
            ("/v{n}/x", "/w1", false),
            ("*", "/a/b", true),
            ("/a", "/", true),
        ] {
            assert_eq!(under(template, prefix), expected, "{template} {prefix}");
        }
        assert!(is("/orders/{id}", "/orders/17"));
        assert!(!is("/orders/{id}", "/orders"));
        assert_eq!(fixed("/orders/{id}"), "/orders");
        assert_eq!(fixed("/{id}"), "/");
        assert_eq!(fixed("/a/b"), "/a/b");
        assert_eq!(fixed("/a/v{n}"), "/a");
    }
}
