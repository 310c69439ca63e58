//! `testudo init`: a report-mode bundle for services that already run.
//!
//! What is written passes `check`, protects nothing yet, and says in its comments what to tighten next. Nothing that
//! exists is ever overwritten.

mod spec;
mod template;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use testudo_guard::snapshot::AppAddress;
use testudo_model::RESERVED_SERVICES;

use crate::bundle::{Bundle, ROOT_FILE};
use crate::check::{CheckOptions, Checked, check};
use crate::config::values;

/// Why no bundle was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Nothing to protect.
    #[error("name at least one service: NAME=ADDRESS, for example orders=127.0.0.1:9101")]
    NoService,
    /// A name that no service can have.
    #[error("{0}")]
    Name(String),
    /// An address that no application can have.
    #[error("{name}: {problem}")]
    Address {
        /// The service.
        name: String,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The specification names files that are not below its own folder.
    #[error("{0} leads out of the folder of the specification; move it there first")]
    Reference(String),
    /// Something is already there.
    #[error("{} is already there; nothing was written", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The specification has errors: the bundle would not pass `check`.
    #[error("the specification has errors; nothing was written")]
    Specification(Box<Rejected>),
}

/// The bundle that would have been written, and what is wrong with it, for `render`.
pub struct Rejected {
    /// Its files.
    pub bundle: Bundle,
    /// What is wrong.
    pub checked: Checked,
}

impl std::fmt::Debug for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.checked.diagnostics).finish()
    }
}

/// A service to protect: its name and its application's address.
pub(crate) struct Named {
    name: String,
    address: AppAddress,
}

/// Writes a bundle into `dir`. `services`: names and addresses (`9101`, `127.0.0.1:9101`, `unix:PATH`, `HOST:PORT`);
/// `openapi`: the specification of the one whose name it fits, or else of the first. Returns what was written.
///
/// # Errors
/// See [`InitError`]; then nothing was written, or only some of the files where the disk failed.
pub fn write(
    openapi: Option<&Path>,
    services: &[(String, String)],
    dir: &Path,
) -> Result<Vec<PathBuf>, InitError> {
    let files = files(openapi, services, dir)?;
    for path in files.keys() {
        let path = dir.join(path);
        if path.symlink_metadata().is_ok() {
            return Err(InitError::Exists(path));
        }
    }
    files
        .iter()
        .map(|(path, content)| {
            let path = dir.join(path);
            write_new(&path, content).map_err(|source| InitError::Write {
                path: path.clone(),
                source,
            })?;
            Ok(path)
        })
        .collect()
}

/// The files of the bundle, after `check`.
fn files(
    openapi: Option<&Path>,
    services: &[(String, String)],
    dir: &Path,
) -> Result<BTreeMap<String, Vec<u8>>, InitError> {
    let services = named(services)?;
    let specification = match openapi {
        Some(path) => Some(spec::read(path, &services, dir)?),
        None => None,
    };
    let mut files = BTreeMap::new();
    let mut all = BTreeMap::new();
    if let Some(specification) = &specification {
        all.extend(specification.files.clone());
        if specification.copied {
            files.extend(specification.files.clone());
        }
    }
    let own = template::files(&services, specification.as_ref());
    files.extend(own.clone());
    all.extend(own);
    let bundle = Bundle::from_files(all).unwrap_or_default();
    let checked = check(&bundle, &CheckOptions::default());
    if !checked.is_ok() {
        return Err(InitError::Specification(Box::new(Rejected {
            bundle,
            checked,
        })));
    }
    debug_assert!(files.contains_key(ROOT_FILE));
    Ok(files)
}

fn named(services: &[(String, String)]) -> Result<Vec<Named>, InitError> {
    if services.is_empty() {
        return Err(InitError::NoService);
    }
    let mut named: Vec<Named> = Vec::new();
    for (name, address) in services {
        if let Err((message, hint)) = values::service_name(name) {
            let hint = hint.map(|hint| format!(": {hint}")).unwrap_or_default();
            return Err(InitError::Name(format!("{message}{hint}")));
        }
        if RESERVED_SERVICES.contains(&name.as_str()) {
            return Err(InitError::Name(format!(
                "{name} is the name of a part of Testudo"
            )));
        }
        if named.iter().any(|other| other.name == *name) {
            return Err(InitError::Name(format!("{name} is named twice")));
        }
        let address = address_of(address).map_err(|problem| InitError::Address {
            name: name.clone(),
            problem,
        })?;
        if named.iter().any(|other| other.address == address) {
            let problem = "another service has the same address".to_owned();
            return Err(InitError::Address {
                name: name.clone(),
                problem,
            });
        }
        named.push(Named {
            name: name.clone(),
            address,
        });
    }
    Ok(named)
}

/// A port alone is one of this host, a host's name is looked up.
fn address_of(text: &str) -> Result<AppAddress, String> {
    let plain = text
        .strip_prefix("http://")
        .unwrap_or(text)
        .trim_end_matches('/');
    let written = match plain.parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => plain.to_owned(),
    };
    values::app_address(&written)
        .or_else(|_| values::app_address(&format!("dns:{written}")))
        .map_err(|(message, _)| format!("{message}; write PORT, IP:PORT, HOST:PORT or unix:PATH"))
}

/// Creates a file and its folders; fails if it exists.
fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::File::create_new(path)?.write_all(content)
}

#[cfg(test)]
mod tests;
