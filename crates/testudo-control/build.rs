//! Embeds `ui/dist`, the built dashboard, where it is there. Node is not needed to build this crate: without a built
//! dashboard the binary says how to get it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// No larger dashboard than this is one of ours.
const MAX_FILE_BYTES: u64 = 2 * 1024 * 1024;

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let dist = root.join("../../ui/dist");
    // The folder itself is in the repository, so that Cargo has something to watch: a path that is not there would
    // build this crate anew each time.
    if dist.is_dir() {
        println!("cargo:rerun-if-changed={}", dist.display());
    } else {
        println!("cargo:rerun-if-changed=build.rs");
    }
    let mut files = Vec::new();
    if dist.join("index.html").is_file() {
        collect(&dist, &dist, &mut files)?;
    }
    files.sort();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut code = String::from("pub(super) static ASSETS: &[Asset] = &[\n");
    for (name, path) in &files {
        if name.ends_with(".gz") {
            continue;
        }
        let plain = keep(&out, name, path)?;
        let compressed = format!("{name}.gz");
        let gzip = match files.iter().find(|(other, _)| *other == compressed) {
            Some((_, path)) => format!("Some({})", keep(&out, &compressed, path)?),
            None => "None".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            code,
            "    Asset {{ path: {name:?}, plain: {plain}, gzip: {gzip} }},"
        );
    }
    code.push_str("];\n");
    fs::write(out.join("dashboard_assets.rs"), code)
}

/// Copies a file to where this build keeps it, and says how to include it: a dashboard that is built anew meanwhile
/// cannot take the files away from the compiler.
fn keep(out: &Path, name: &str, path: &Path) -> io::Result<String> {
    let target = out.join("dashboard").join(name);
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(path, &target)?;
    Ok(format!("include_bytes!({:?})", target.to_string_lossy()))
}

/// Every regular file below `folder`, as its path in `root` with slashes, and where it is.
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            if entry.metadata()?.len() > MAX_FILE_BYTES {
                let message = format!("{} is too large to be embedded", path.display());
                return Err(io::Error::other(message));
            }
            let relative = path.strip_prefix(root).map_err(io::Error::other)?;
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            files.push((parts.join("/"), path));
        }
    }
    Ok(())
}
