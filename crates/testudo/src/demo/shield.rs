//! Lifting the shield: every service into mode observe, by an edit of the bundle as a user would make it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::Api;
use crate::failure::{Failure, OrFail as _};

const DEADLINE: Duration = Duration::from_secs(5);

/// The bundle's file, whose services decide or look on. It may be edited meanwhile: it is read anew each time.
pub(crate) struct ShieldFile {
    path: PathBuf,
    down: bool,
}

impl ShieldFile {
    pub(crate) fn new(path: PathBuf) -> ShieldFile {
        ShieldFile { path, down: false }
    }

    /// Turns it around and waits until every proxy has the new revision; whether it is down now.
    pub(crate) async fn toggle(&mut self, api: &Api) -> Result<bool, Failure> {
        let before = revision(api).await?;
        self.turn()?;
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let status = api.get("status").await?;
            let number = |path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or(0);
            if number("/revision") > before
                && number("/proxies/in_sync") == number("/proxies/connected")
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(self.down)
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let path = &self.path;
        let text =
            std::fs::read_to_string(path).or_fail(|| format!("cannot read {}", path.display()))?;
        let text = if self.down {
            raised(&text)
        } else {
            lowered(&text)
        };
        std::fs::write(path, text).or_fail(|| format!("cannot write {}", path.display()))?;
        self.down = !self.down;
        Ok(())
    }
}

impl Drop for ShieldFile {
    /// The shield is never left down.
    fn drop(&mut self) {
        if self.down {
            let _ = self.turn();
        }
    }
}

async fn revision(api: &Api) -> Result<u64, Failure> {
    Ok(api
        .get("status")
        .await?
        .get("revision")
        .and_then(Value::as_u64)
        .unwrap_or(0))
}

/// Every service in mode observe: a line in front of each `app:`.
fn lowered(yaml: &str) -> String {
    let lines = yaml.lines().map(|line| {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start().starts_with("app:") {
            format!("{}mode: observe\n{line}\n", &" ".repeat(indent))
        } else {
            format!("{line}\n")
        }
    });
    lines.collect()
}

/// The reverse.
fn raised(yaml: &str) -> String {
    let lines: Vec<&str> = yaml.lines().collect();
    let added = |number: usize, line: &str| {
        let next = lines.get(number + 1).map_or("", |next| next.trim_start());
        line.trim() == "mode: observe" && next.starts_with("app:")
    };
    let kept = lines
        .iter()
        .enumerate()
        .filter(|(number, line)| !added(*number, line));
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_looks_on() {
        let yaml = include_str!("../../../../examples/shop/testudo.yaml");
        let text = lowered(yaml);
        assert_eq!(text.matches("    mode: observe\n    app: ").count(), 4);
        assert_eq!(raised(&text), yaml);
    }
}
