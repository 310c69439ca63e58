//! The specification that `init` is given: whose it is, which files belong to it, and its paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{InitError, Named};
use crate::bundle::{reference_files, resolve};
use crate::diagnostic::Diagnostics;
use crate::yaml::{self, Node};

/// A specification, as it will stand in the bundle.
pub(super) struct Specification {
    /// Index of the service that it describes.
    pub(super) service: usize,
    /// Its path in the bundle.
    pub(super) path: String,
    /// It and the files that it refers to, by path in the bundle.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Whether the files are to be written: they are not in the bundle's folder yet.
    pub(super) copied: bool,
    /// First segments of its paths: `/orders`; `/` where a path begins with a parameter.
    pub(super) prefixes: BTreeSet<String>,
    /// operationIds, for examples in comments.
    pub(super) operations: Vec<String>,
}

pub(super) fn read(
    path: &Path,
    services: &[Named],
    dir: &Path,
) -> Result<Specification, InitError> {
    let failed = |source| InitError::Read {
        path: path.to_owned(),
        source,
    };
    let real = std::fs::canonicalize(path).map_err(failed)?;
    let content = std::fs::read(&real).map_err(failed)?;
    let tree = yaml::parse("specification", &content, &mut Diagnostics::default());
    let service = whose(&real, tree.as_ref(), services);
    let file = real
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let file = file.unwrap_or_default();
    let folder = real.parent().unwrap_or(&real);

    // A specification below the bundle's folder stays where it is.
    let inside = std::fs::canonicalize(dir)
        .ok()
        .and_then(|dir| real.strip_prefix(dir).ok().map(Path::to_owned))
        .and_then(|inside| inside.to_str().map(str::to_owned));
    let copied = inside.is_none();
    let target = inside.unwrap_or_else(|| {
        let name = services
            .get(service)
            .map_or("api", |service| service.name.as_str());
        let extension = if file.ends_with(".json") {
            "json"
        } else {
            "yaml"
        };
        format!("apis/{name}.{extension}")
    });
    let mut files = BTreeMap::from([(target.clone(), content)]);
    referenced(folder, &target, &mut files)?;
    Ok(Specification {
        service,
        path: target,
        files,
        copied,
        prefixes: tree.as_ref().map(prefixes).unwrap_or_default(),
        operations: tree.as_ref().map(operations).unwrap_or_default(),
    })
}

/// The service whose name the file or the title has; else the first.
fn whose(path: &Path, tree: Option<&Node>, services: &[Named]) -> usize {
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().to_lowercase());
    let title = tree.and_then(|tree| tree.pointer("/info/title")?.as_str());
    let title = title.unwrap_or_default().to_lowercase();
    let by_file = services
        .iter()
        .position(|s| stem.as_deref() == Some(&s.name));
    let words: Vec<&str> = title
        .split(|c: char| !c.is_alphanumeric() && c != '-')
        .collect();
    let by_title = || {
        services
            .iter()
            .position(|s| words.contains(&s.name.as_str()))
    };
    by_file.or_else(by_title).unwrap_or(0)
}

/// Adds the local files that `$ref`s lead to.
fn referenced(
    folder: &Path,
    root: &str,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), InitError> {
    let base = root.rsplit_once('/').map_or("", |(base, _)| base);
    let mut open = vec![root.to_owned()];
    while let Some(file) = open.pop() {
        let text = files
            .get(&file)
            .map(|content| String::from_utf8_lossy(content).into_owned());
        for (target, _) in reference_files(&file, &text.unwrap_or_default()) {
            let Some(path) = resolve(&file, &target) else {
                return Err(InitError::Reference(target));
            };
            let inside = match base {
                "" => Some(path.as_str()),
                base => path
                    .strip_prefix(base)
                    .and_then(|rest| rest.strip_prefix('/')),
            };
            let Some(inside) = inside else {
                return Err(InitError::Reference(target));
            };
            if files.contains_key(&path) {
                continue;
            }
            // What is missing is `check`'s to report.
            if let Ok(content) = std::fs::read(folder.join(inside)) {
                files.insert(path.clone(), content);
                open.push(path);
            }
        }
    }
    Ok(())
}

fn prefixes(tree: &Node) -> BTreeSet<String> {
    let paths = tree.get("paths").and_then(Node::as_map).unwrap_or(&[]);
    paths
        .iter()
        .map(|(path, _)| {
            let first = path
                .name
                .trim_start_matches('/')
                .split('/')
                .next()
                .unwrap_or_default();
            if first.contains('{') {
                "/".to_owned()
            } else {
                format!("/{first}")
            }
        })
        .collect()
}

fn operations(tree: &Node) -> Vec<String> {
    let paths = tree.get("paths").and_then(Node::as_map).unwrap_or(&[]);
    paths
        .iter()
        .flat_map(|(_, item)| item.as_map().unwrap_or(&[]))
        .filter_map(|(_, operation)| operation.get("operationId")?.as_str())
        .map(str::to_owned)
        .collect()
}
