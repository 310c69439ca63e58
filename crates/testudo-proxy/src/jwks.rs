//! Keeps the key sets of JWT issuers fresh, in the background: on the control thread, never on a data
//! thread. Requests only read what is in [`testudo_guard::Live`].
//!
//! One task for each source (URL or OIDC issuer), so that a slow or broken one never hurts another. The
//! last good set is kept, in memory and on disk, until the source gives a better one. Inline sets are
//! part of the snapshot and no matter of this module.

mod disk;
mod fetch;
mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rand::RngExt as _;
use testudo_guard::Live;
use testudo_guard::authn::{IssuerRule, JwksSource, KeySet, Want};
use testudo_guard::snapshot::Role;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::shared::Shared;
use crate::tasks::Panics;
use fetch::{Fetcher, Location};
use schedule::Timing;

/// Keeps the key sets of the snapshot in force fresh, whatever that is at the time. Never ends by itself.
pub(crate) async fn run(shared: Arc<Shared>) {
    // Sidecars take users from transaction tokens alone.
    if shared.options.role != Role::Gateway {
        return;
    }
    let fetcher = match Fetcher::new(Timing::default()) {
        Ok(fetcher) => fetcher,
        Err(error) => {
            tracing::error!(%error, "key sets cannot be fetched: users of issuers with a URL are refused");
            return;
        }
    };
    let changed = {
        let shared = shared.clone();
        move || shared.installed.changed()
    };
    let mut refresher = Refresher {
        live: shared.installed.live.clone(),
        fetcher,
        timing: Timing::default(),
        folder: shared.options.state_dir.join("jwks"),
        panics: shared.panics.clone(),
        clock: shared.clock.clone(),
        changed: Arc::new(changed),
        tasks: BTreeMap::new(),
    };
    let mut changes = shared.installed.changes();
    loop {
        // No snapshot yet says nothing about which sources will be used.
        if let Some(snapshot) = shared.installed.snapshot.load_full() {
            let rules = snapshot.users.iter().flat_map(|users| users.issuers());
            refresher.reconcile(rules);
        }
        // The sender is in `shared`, so that this cannot fail.
        let _ = changes.changed().await;
    }
}

/// The tasks of all sources, and what they share.
struct Refresher {
    live: Arc<Live>,
    fetcher: Fetcher,
    timing: Timing,
    /// Last good sets.
    folder: PathBuf,
    panics: Panics,
    clock: Clock,
    /// Called when keys changed, so that long-lived connections are judged again.
    changed: Arc<dyn Fn() + Send + Sync>,
    /// By source.
    tasks: BTreeMap<Arc<str>, SourceTask>,
}

struct SourceTask {
    handle: JoinHandle<()>,
}

impl Drop for SourceTask {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Refresher {
    /// Starts tasks for new sources, ends those of sources that no issuer uses any more.
    fn reconcile<'r>(&mut self, rules: impl Iterator<Item = &'r IssuerRule>) {
        let mut wanted: BTreeMap<Arc<str>, (Vec<Arc<str>>, Location)> = BTreeMap::new();
        for rule in rules {
            let (Some(source), Some(location)) = (rule.key_source(), location(rule)) else {
                continue;
            };
            let entry = wanted.entry(source).or_insert((Vec::new(), location));
            entry.0.push(rule.name.clone());
        }
        // A task ends by a panic alone; then it begins anew.
        self.tasks.retain(|_, task| !task.handle.is_finished());
        if self.tasks.keys().eq(wanted.keys()) {
            return;
        }
        let live = &self.live;
        self.tasks.retain(|source, _| {
            let used = wanted.contains_key(source);
            if !used {
                live.keys.rcu(|ring| ring.without(source));
            }
            used
        });
        disk::keep_only(&self.folder, wanted.keys());
        for (source, (names, location)) in wanted {
            if !self.tasks.contains_key(&source) {
                let task = self.start(source.clone(), &names, location);
                self.tasks.insert(source, task);
            }
        }
    }

    fn start(&self, source: Arc<str>, names: &[Arc<str>], location: Location) -> SourceTask {
        let issuer = names.join(", ");
        let wake = Arc::new(Notify::new());
        let want = {
            let wake = wake.clone();
            Want::new(move || wake.notify_one())
        };
        let kept = match disk::load(&self.folder, &source) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(%issuer, %error, "the kept key set cannot be used");
                None
            }
        };
        if let Some(kept) = &kept {
            let age = self.clock.now().unix_seconds().saturating_sub(kept.fetched);
            tracing::info!(%issuer, keys = kept.keys.len(), age_s = age, "starting with the kept key set");
        }
        let keys = kept.map(|kept| Arc::new(kept.keys));
        self.live
            .keys
            .rcu(|ring| ring.with(source.clone(), keys.clone(), want.clone()));
        let task = Task {
            source,
            issuer,
            location,
            keys,
            want,
            wake,
            failures: 0,
            live: self.live.clone(),
            fetcher: self.fetcher.clone(),
            timing: self.timing,
            folder: self.folder.clone(),
            clock: self.clock.clone(),
            changed: self.changed.clone(),
        };
        SourceTask {
            handle: self.panics.spawn_named("jwks", task.run()),
        }
    }
}

fn location(rule: &IssuerRule) -> Option<Location> {
    match &rule.jwks {
        JwksSource::Inline(_) => None,
        JwksSource::Url(url) => Some(Location::Url(url.clone())),
        JwksSource::Discovery => Some(Location::Discovery(rule.issuer.clone())),
    }
}

/// One source's task.
struct Task {
    source: Arc<str>,
    /// Short names of the issuers that use it, for log lines.
    issuer: String,
    location: Location,
    /// As in the ring.
    keys: Option<Arc<KeySet>>,
    want: Arc<Want>,
    wake: Arc<Notify>,
    failures: u32,
    live: Arc<Live>,
    fetcher: Fetcher,
    timing: Timing,
    folder: PathBuf,
    clock: Clock,
    changed: Arc<dyn Fn() + Send + Sync>,
}

impl Task {
    async fn run(mut self) {
        loop {
            // What is wished for from here on may not be in the answer to come.
            self.want.take();
            let started = Instant::now();
            let wait = self.refresh().await;
            self.pause(started, wait).await;
        }
    }

    /// Fetches once; says how long what came (or did not) holds.
    async fn refresh(&mut self) -> std::time::Duration {
        let chance = rand::rng().random_range(0.0..1.0);
        match self.fetcher.fetch(&self.location).await {
            Ok(fetched) => {
                if self.failures > 0 {
                    tracing::info!(issuer = %self.issuer, failures = self.failures, "the key set can be fetched again");
                }
                self.failures = 0;
                self.install(fetched.keys, &fetched.json);
                self.timing.fresh(fetched.max_age, chance)
            }
            Err(error) => {
                let wait = self.timing.backoff(self.failures, chance);
                self.failures = self.failures.saturating_add(1);
                let keeping = self.keys.is_some();
                let error = fetch::with_causes(&error);
                tracing::warn!(issuer = %self.issuer, error, keeping, again_in = ?wait, "the key set cannot be fetched");
                wait
            }
        }
    }

    fn install(&mut self, keys: KeySet, json: &[u8]) {
        if self.keys.as_ref().is_some_and(|known| known.is_same(&keys)) {
            return;
        }
        for skipped in keys.skipped() {
            tracing::warn!(issuer = %self.issuer, "the key set has a key that does not count: {skipped}");
        }
        tracing::info!(issuer = %self.issuer, keys = keys.len(), "new key set");
        let keys = Arc::new(keys);
        self.keys = Some(keys.clone());
        self.live
            .keys
            .rcu(|ring| ring.with(self.source.clone(), Some(keys.clone()), self.want.clone()));
        (self.changed)();
        let fetched = self.clock.now().unix_seconds();
        if let Err(error) = disk::save(&self.folder, &self.source, fetched, json) {
            tracing::warn!(issuer = %self.issuer, %error, "the key set cannot be kept on disk");
        }
    }

    /// Waits, but not past the wish for fresh keys; that is granted once in a while only, so that forged
    /// `kid`s cannot make this proxy flood an issuer.
    async fn pause(&self, started: Instant, wait: std::time::Duration) {
        let due = Instant::now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                () = self.wake.notified() => {}
            }
            if self.want.take() {
                let earliest = started + self.timing.between_wants;
                tokio::time::sleep_until(earliest.min(due)).await;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
