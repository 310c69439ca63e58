//! The proxy's folder: made private, `ready.json`, and the secret of the outbound side.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use serde::Serialize;

/// What `ready.json` says: written once everything is bound and the proxy serves, removed when it stops.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Ready {
    /// The gateway's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<String>,
    /// The sidecar's mTLS side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inbound: Option<String>,
    /// The sidecar's side for its application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outbound: Option<String>,
    /// Administration.
    pub(crate) admin: String,
    /// This process.
    pub(crate) pid: u32,
}

/// Makes the folder, for this user alone.
pub(crate) fn prepare(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    remove_ready(dir);
    Ok(())
}

/// Writes a file whole or not at all, readable by this user alone.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let next = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}

/// Says that the proxy serves, and where.
pub(crate) fn write_ready(dir: &Path, ready: &Ready) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(ready).map_err(io::Error::other)?;
    write_private(&dir.join("ready.json"), &json)
}

/// Says that it does not any more. A file that is not there is fine.
pub(crate) fn remove_ready(dir: &Path) {
    let _ = std::fs::remove_file(dir.join("ready.json"));
}

/// The secret that tells the own application from other processes of the host: read, or made (256 bit).
pub(crate) fn outbound_secret(dir: &Path) -> io::Result<Secret> {
    let path = dir.join("outbound.secret");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().len() >= 32 => Ok(Secret(text.trim().to_owned())),
        Ok(_) => make_secret(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_secret(&path),
        Err(error) => Err(error),
    }
}

fn make_secret(path: &Path) -> io::Result<Secret> {
    let mut random = [0_u8; 32];
    rand::rng().fill_bytes(&mut random);
    let text = URL_SAFE_NO_PAD.encode(random);
    write_private(path, text.as_bytes())?;
    Ok(Secret(text))
}

/// A secret; compared in constant time, never printed.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl Secret {
    /// Whether this is it.
    pub(crate) fn matches(&self, candidate: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        self.0.as_bytes().ct_eq(candidate).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        let first = outbound_secret(dir.path()).unwrap();
        let second = outbound_secret(dir.path()).unwrap();
        assert!(first.matches(second.0.as_bytes()));
        assert!(!first.matches(b""));
        assert_eq!(format!("{first:?}"), "Secret(…)");
        let mode = std::fs::metadata(dir.path().join("outbound.secret"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn ready_is_written_whole_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ready = Ready {
            listen: Some("127.0.0.1:1".into()),
            admin: "127.0.0.1:2".into(),
            pid: 3,
            ..Ready::default()
        };
        write_ready(dir.path(), &ready).unwrap();
        let text = std::fs::read_to_string(dir.path().join("ready.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["listen"], "127.0.0.1:1");
        assert!(json.get("inbound").is_none());
        prepare(dir.path()).unwrap();
        assert!(!dir.path().join("ready.json").exists());
    }
}
