//! Where a running mesh is: its control API and the token, from flags, the environment, or the
//! `.testudo` folder of the bundle that the command is run in. The environment is read here only
//! (by clap's `env` in [`Remote`]).

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::{Failure, OrFail as _};

/// The folder of state, logs and sockets in a bundle.
pub(crate) const STATE_FOLDER: &str = ".testudo";

/// How to reach the control plane.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Control plane")]
pub(crate) struct Remote {
    /// The control plane's HTTP API; left out: that of the mesh whose bundle this folder is in
    #[arg(long, value_name = "URL", env = "TESTUDO_API")]
    api: Option<String>,
    /// A file with the API token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The token itself; for the environment only, where other users do not see it
    #[arg(
        long = "api-token",
        env = "TESTUDO_TOKEN",
        hide = true,
        hide_env_values = true
    )]
    token: Option<String>,
}

/// The API's address and its token.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) api: String,
    pub(crate) token: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Finds the API and the token.
    pub(crate) fn resolve(&self) -> Result<Endpoint, Failure> {
        let state = std::env::current_dir()
            .ok()
            .and_then(|dir| state_dir_above(&dir));
        self.resolve_in(state.as_deref())
    }

    /// Whether somebody said which API is meant.
    pub(crate) fn names_api(&self) -> bool {
        self.api.is_some()
    }

    /// The same, for a given state folder.
    pub(crate) fn resolve_in(&self, state: Option<&Path>) -> Result<Endpoint, Failure> {
        let api = match (&self.api, state) {
            (Some(api), _) => normalize(api)?,
            (None, Some(state)) => format!("http://{}", ControlFile::read(state)?.api),
            (None, None) => {
                return Err(Failure::usage("no mesh is running from this folder or one above it").hint(
                    "run the command in the bundle's folder, or give --api URL and --token-file FILE (TESTUDO_API, TESTUDO_TOKEN)",
                ));
            }
        };
        let token = match (&self.token_file, &self.token, state) {
            (Some(file), _, _) => read_token(file)?,
            (None, Some(token), _) => token.trim().to_owned(),
            (None, None, Some(state)) => read_token(&state.join("admin.token"))?,
            (None, None, None) => {
                return Err(Failure::usage("the API needs a token").hint(
                    "--token-file FILE or TESTUDO_TOKEN; control wrote it to admin.token in its state folder",
                ));
            }
        };
        Ok(Endpoint { api, token })
    }
}

fn normalize(api: &str) -> Result<String, Failure> {
    let with_scheme = if api.contains("://") {
        api.to_owned()
    } else {
        format!("http://{api}")
    };
    if !with_scheme.starts_with("http://") && !with_scheme.starts_with("https://") {
        return Err(Failure::usage(format!("{api} is no URL of an API"))
            .hint("for example http://127.0.0.1:7100"));
    }
    Ok(with_scheme.trim_end_matches('/').to_owned())
}

fn read_token(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .or_fail(|| format!("cannot read the API token in {}", file.display()))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            Failure::new(format!("{} holds no API token", file.display()))
                .hint("control writes it to admin.token in its state folder when it starts"),
        );
    }
    Ok(token.to_owned())
}

/// The nearest `.testudo` with a running or stopped control plane, from `dir` upwards.
pub(crate) fn state_dir_above(dir: &Path) -> Option<PathBuf> {
    dir.ancestors()
        .map(|dir| dir.join(STATE_FOLDER))
        .find(|state| state.join("control.json").is_file())
}

/// The nearest `.testudo`, from `dir` upwards, whether or not a control plane runs or ran there.
pub(crate) fn state_folder_above(dir: &Path) -> Option<PathBuf> {
    dir.ancestors()
        .map(|dir| dir.join(STATE_FOLDER))
        .find(|state| state.is_dir())
}

/// The folder with the state of each proxy that `up` started, from `dir` upwards, whether control is
/// there or not.
pub(crate) fn proxies_above(dir: &Path) -> Option<PathBuf> {
    dir.ancestors()
        .map(|dir| dir.join(STATE_FOLDER).join("proxies"))
        .find(|proxies| proxies.is_dir())
}

/// What control writes once it serves.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ControlFile {
    /// `HOST:PORT` of the HTTP API.
    pub(crate) api: String,
    /// `HOST:PORT` of the mesh gRPC.
    pub(crate) mesh: String,
    /// Its process.
    pub(crate) pid: u32,
}

impl ControlFile {
    pub(crate) fn read(state: &Path) -> Result<ControlFile, Failure> {
        let path = state.join("control.json");
        let text = std::fs::read(&path).or_fail(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).or_fail(|| format!("cannot read {}", path.display()))
    }
}

/// What a proxy writes once it serves.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ReadyFile {
    /// Where a gateway is reached.
    pub(crate) listen: Option<String>,
    /// A sidecar's mTLS side.
    pub(crate) inbound: Option<String>,
    /// A sidecar's side for its application.
    pub(crate) outbound: Option<String>,
    /// Metrics and health.
    pub(crate) admin: String,
    /// Its process.
    pub(crate) pid: u32,
}

impl ReadyFile {
    /// `None`: not ready (yet).
    pub(crate) fn read(state: &Path) -> Option<ReadyFile> {
        let text = std::fs::read(state.join("ready.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_from_folders_below() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join(STATE_FOLDER);
        std::fs::create_dir_all(dir.path().join("apis/deep")).unwrap();
        std::fs::create_dir(&state).unwrap();
        assert_eq!(state_dir_above(&dir.path().join("apis/deep")), None);
        std::fs::write(
            state.join("control.json"),
            r#"{"api": "127.0.0.1:1", "mesh": "127.0.0.1:2", "pid": 3}"#,
        )
        .unwrap();
        std::fs::write(state.join("admin.token"), "secret\n").unwrap();
        let found = state_dir_above(&dir.path().join("apis/deep")).unwrap();
        let endpoint = Remote::default().resolve_in(Some(&found)).unwrap();
        assert_eq!(endpoint.api, "http://127.0.0.1:1");
        assert_eq!(endpoint.token, "secret");
        assert!(!format!("{endpoint:?}").contains("secret"));
    }

    #[test]
    fn addresses_become_urls() {
        assert_eq!(
            normalize("127.0.0.1:7100/").unwrap(),
            "http://127.0.0.1:7100"
        );
        assert!(normalize("ftp://x").is_err());
    }
}
