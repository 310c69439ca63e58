//! The base path of operations: the path of the first server (OpenAPI 3, Server Object).
//!
//! A service sees whole paths, so those of the document are prefixed by the path of the first URL of
//! `servers` (of the operation, else of its path, else of the document). Where the service sees others,
//! because something before it cuts the prefix off, `x-testudo-base-path` at the top of the document
//! says so.

use super::files::Place;
use super::reader::BASE_PATH;
use crate::diagnostic::Diagnostics;
use crate::yaml::Node;

/// The prefix, without a trailing slash. `levels`: operation, path, document.
pub(super) fn base_path(levels: [Place<'_>; 3], diagnostics: &mut Diagnostics) -> String {
    let [_, _, root] = levels;
    if let Some(node) = root.node.get(BASE_PATH) {
        let text = node.as_str().unwrap_or_default().trim_end_matches('/');
        let sound = text.is_empty() || (text.starts_with('/') && !text.contains(['{', '?', '#']));
        if node.as_str().is_none() || !sound {
            let message = format!("{BASE_PATH} must be a path such as /v1, or /");
            report_once(node, message, diagnostics);
            return String::new();
        }
        return text.to_owned();
    }
    let server = levels.iter().find_map(|place| {
        let servers = place.node.get("servers")?.as_seq()?;
        servers.first()
    });
    let Some((server, url)) = server.and_then(|server| Some((server, server.get("url")?))) else {
        return String::new();
    };
    let text = with_defaults(url.as_str().unwrap_or_default(), server);
    let path = path_of(&text);
    if path.contains(['{', '}']) {
        let message = format!("{path}: a variable of this server has no default");
        report_once(url, message, diagnostics);
        return String::new();
    }
    path
}

/// Once, although every operation asks.
fn report_once(node: &Node, message: String, diagnostics: &mut Diagnostics) {
    let known = diagnostics
        .list
        .iter()
        .any(|known| known.span == node.span && known.message == message);
    if !known {
        diagnostics.error("openapi.invalid", &node.span, message, None);
    }
}

fn with_defaults(url: &str, server: &Node) -> String {
    let mut text = url.to_owned();
    let variables = server.get("variables").and_then(Node::as_map);
    for (key, variable) in variables.unwrap_or_default() {
        if let Some(default) = variable.get("default") {
            let default = match default.as_str() {
                Some(text) => text.to_owned(),
                // `default: 1` is no string, but meant as one.
                None => default.to_json().to_string(),
            };
            text = text.replace(&format!("{{{}}}", key.name), &default);
        }
    }
    text
}

/// The path of a URL, absolute or relative, without a trailing slash.
fn path_of(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default().trim();
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or(""),
        None => match url.strip_prefix("//") {
            Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or(""),
            None => url.strip_prefix("./").unwrap_or(url),
        },
    };
    let path = path.trim_matches('/');
    if path.is_empty() || path == "." {
        return String::new();
    }
    format!("/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_urls() {
        for (url, path) in [
            ("https://api.shop.test", ""),
            ("https://api.shop.test/", ""),
            ("https://api.shop.test/v1/", "/v1"),
            ("https://api.shop.test/a/b?x=/c", "/a/b"),
            ("//api.shop.test/v2", "/v2"),
            ("/", ""),
            ("/v1", "/v1"),
            ("v1/", "/v1"),
            ("./v1", "/v1"),
            (".", ""),
            ("", ""),
        ] {
            assert_eq!(path_of(url), path, "{url}");
        }
    }
}
