//! Watches a bundle's folder and applies what was saved, once it is quiet (DESIGN §10).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Control, Saved};

/// Files must have been quiet for so long: editors and `git checkout` write in several steps.
const QUIET: Duration = Duration::from_millis(100);

/// A folder that changes without a pause is read at the latest after this.
const AT_LATEST: Duration = Duration::from_secs(2);

/// Without inotify (watch limits, network file systems) the folder is read this often.
const POLL: Duration = Duration::from_secs(1);

/// A change that the store could not take (a full disk) is tried again this often.
const RETRY: Duration = Duration::from_secs(5);

/// Folders that are never part of a bundle.
const IGNORED: [&str; 2] = [".testudo", ".git"];

/// Applies saved files until `stop`.
pub(crate) async fn watch(control: Arc<Control>, dir: PathBuf, stop: CancellationToken) {
    // One waiting signal says all there is to say: something changed.
    let (sender, mut changed) = mpsc::channel(1);
    let watcher = start(&dir, sender);
    if let Err(error) = &watcher {
        tracing::warn!(%error, dir = %dir.display(), "cannot watch the bundle's folder; it is read every second instead");
    }
    let mut again = false;
    loop {
        if watcher.is_ok() {
            tokio::select! {
                signal = changed.recv() => {
                    if signal.is_none() {
                        return;
                    }
                    quiet(&mut changed).await;
                }
                () = tokio::time::sleep(RETRY), if again => {}
                () = stop.cancelled() => return,
            }
        } else {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = stop.cancelled() => return,
            }
        }
        let (control, dir) = (Arc::clone(&control), dir.clone());
        let applied =
            tokio::task::spawn_blocking(move || control.apply_dir(&dir, "files", "saved")).await;
        again = match applied {
            Ok(applied) => applied == Saved::NotStored,
            Err(error) => {
                tracing::error!(%error, "applying the saved files panicked; the last revision goes on");
                false
            }
        };
    }
}

async fn quiet(changed: &mut mpsc::Receiver<()>) {
    let settle =
        async { while let Ok(Some(())) = tokio::time::timeout(QUIET, changed.recv()).await {} };
    let _ = tokio::time::timeout(AT_LATEST, settle).await;
}

fn start(dir: &Path, sender: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let root = dir.to_path_buf();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let relevant = match event {
            Ok(event) => {
                !matches!(event.kind, EventKind::Access(_))
                    && event.paths.iter().any(|path| is_of_bundle(&root, path))
            }
            // An overflow of the kernel's queue may hide a change.
            Err(_) => true,
        };
        if relevant {
            let _ = sender.try_send(());
        }
    })?;
    watcher.watch(dir, RecursiveMode::Recursive)?;
    Ok(watcher)
}

fn is_of_bundle(root: &Path, path: &Path) -> bool {
    let inside = path.strip_prefix(root).unwrap_or(path);
    let first = inside
        .components()
        .next()
        .map(|first| first.as_os_str().to_string_lossy().into_owned());
    first.is_none_or(|first| !IGNORED.contains(&first.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_state_is_not_part_of_a_bundle() {
        let root = Path::new("/srv/shop");
        assert!(is_of_bundle(root, Path::new("/srv/shop/policies/a.cedar")));
        assert!(is_of_bundle(root, Path::new("/srv/shop")));
        assert!(!is_of_bundle(
            root,
            Path::new("/srv/shop/.testudo/control/store.redb")
        ));
        assert!(!is_of_bundle(root, Path::new("/srv/shop/.git/index")));
    }
}
