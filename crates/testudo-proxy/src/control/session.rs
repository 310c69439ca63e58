//! One stream with control: what comes down is applied and acknowledged, health and events go up.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use testudo_guard::authn::{Revocation, RevocationKind, Revocations, TxnKeyEntry, TxnKeys};
use testudo_guard::snapshot::Role;
use testudo_identity::{RevocationList, TrustBundle};
use testudo_model::mesh::{self, from_control, from_proxy};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::finding::Finder;
use super::join::{self, JoinError, certificates};
use super::{Context, Pipes, containment, modes, status_text, text_of};
use crate::addresses::Addresses;
use crate::effective;

/// Messages to control that may wait.
const QUEUE: usize = 64;
/// A stream that takes nothing for so long is given up.
const STUCK: Duration = Duration::from_secs(10);
/// Until the stream must stand.
const OPEN: Duration = Duration::from_secs(10);
/// After a change, until health is told: several changes come together.
const SETTLE: Duration = Duration::from_millis(50);
/// Health is told at least so often.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A control plane that has just started does not know all proxies yet: for so long after a stream
/// began, addresses that it does not name are kept beside those that it does.
const REGATHER: Duration = Duration::from_secs(5);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("control ended the stream")]
    Closed,
    #[error("the stream broke: {0}")]
    Broken(String),
    #[error("control takes nothing any more")]
    Stuck,
}

/// Why a stream did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Connect(#[from] JoinError),
    #[error("control refuses the stream: {0}")]
    Refused(String),
    #[error("control did not answer in time")]
    Timeout,
}

/// An open stream.
pub(super) struct Session {
    up: mpsc::Sender<mesh::FromProxy>,
    down: Streaming<mesh::FromControl>,
    opened: Instant,
    /// Addresses that were in force when the stream began.
    before: Arc<Addresses>,
    /// What control said last, while old addresses are still kept beside it.
    pending: RefCell<Option<mesh::Addresses>>,
    finder: Finder,
    /// The last change of a mode that was told on this stream.
    told: Cell<u64>,
}

impl Session {
    /// Connects with the current identity and says hello.
    pub(super) async fn open(context: &Context, hello: mesh::Hello) -> Result<Self, OpenError> {
        let mut client = join::connect(context, join::control_tls(context)?).await?;
        let (up, outgoing) = mpsc::channel(QUEUE);
        // The queue is new and has room.
        let _ = up.try_send(up_message(from_proxy::Message::Hello(hello)));
        let call = client.sync(ReceiverStream::new(outgoing));
        let down = match tokio::time::timeout(OPEN, call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(OpenError::Refused(status_text(&status))),
            Err(_) => return Err(OpenError::Timeout),
        };
        context.set_client(Some(client));
        let session = Session {
            up,
            down,
            opened: Instant::now(),
            before: context.shared.installed.addresses.load_full(),
            pending: RefCell::new(None),
            finder: Finder::new(context),
            told: Cell::new(0),
        };
        Ok(session)
    }

    /// Announces a gateway's keys; control answers with all keys once everybody has them.
    pub(super) async fn announce_keys(&self, context: &Context) -> Result<(), Ended> {
        for key in context.token_key_announcements() {
            self.send(from_proxy::Message::TokenKey(key)).await?;
        }
        Ok(())
    }

    /// Applies what comes and sends what there is, until the stream ends. Can be cancelled and called
    /// again.
    pub(super) async fn drive(&mut self, context: &Context) -> Ended {
        match self.try_drive(context).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_drive(&mut self, context: &Context) -> Result<std::convert::Infallible, Ended> {
        self.announce_keys(context).await?;
        let mut changes = context.shared.installed.changes();
        let mut health_at = Instant::now();
        let mut pipes = context.pipes.lock().await;
        let Pipes {
            acks,
            batches,
            windows,
        } = &mut *pipes;
        let leaving = context.shared.drain.reached(crate::drain::Phase::Leaving);
        let mut leaving = std::pin::pin!(leaving);
        let mut left = false;
        loop {
            let regathered = self.opened + REGATHER;
            tokio::select! {
                message = self.down.message() => match message {
                    Ok(Some(message)) => self.take(context, message).await?,
                    Ok(None) => return Err(Ended::Closed),
                    Err(status) => return Err(Ended::Broken(status_text(&status))),
                },
                Some(ack) = acks.recv() => {
                    self.send(from_proxy::Message::Ack(ack)).await?;
                    health_at = Instant::now();
                }
                _ = changes.changed() => health_at = health_at.min(Instant::now() + SETTLE),
                () = &mut leaving, if !left => {
                    left = true;
                    health_at = Instant::now();
                }
                () = tokio::time::sleep_until(health_at) => {
                    self.send(from_proxy::Message::Health(health(context))).await?;
                    health_at = Instant::now() + HEARTBEAT;
                }
                () = tokio::time::sleep_until(regathered), if self.pending.borrow().is_some() => {
                    if let Some(addresses) = self.pending.take() {
                        install_addresses(context, &addresses, None);
                    }
                }
                () = context.announce.notified() => self.announce_keys(context).await?,
                () = context.modes.changed.notified() => self.tell_modes(context).await?,
                events = batches.next(|| context.shared.events.dropped()) => {
                    self.send(from_proxy::Message::Events(events)).await?;
                }
                part = windows.next(|| context.shared.events.uncounted()) => {
                    self.send(from_proxy::Message::Windows(part)).await?;
                }
            }
        }
    }

    /// Changes that were made on this host while control was away, or a moment ago; again on the next
    /// stream, until control says that it has them.
    async fn tell_modes(&self, context: &Context) -> Result<(), Ended> {
        for change in modes::untold(context, self.told.get()) {
            self.told.set(change.sequence);
            self.send(from_proxy::Message::ModeChanged(change)).await?;
        }
        Ok(())
    }

    async fn send(&self, message: from_proxy::Message) -> Result<(), Ended> {
        let sent = tokio::time::timeout(STUCK, self.up.send(up_message(message))).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Closed),
            Err(_) => Err(Ended::Stuck),
        }
    }

    /// Applies one message. What cannot be used is logged and changes nothing.
    async fn take(&self, context: &Context, message: mesh::FromControl) -> Result<(), Ended> {
        use from_control::Message;
        match message.message {
            // Compiling takes a while and has an acknowledgement of its own; other messages go on.
            Some(Message::Manifest(manifest)) => _ = context.manifests.send(Some(manifest)),
            Some(Message::Addresses(addresses)) => self.take_addresses(context, addresses),
            Some(Message::TokenKeys(keys)) => take_token_keys(context, &keys),
            Some(Message::Revocations(list)) => take_revocations(context, &list),
            Some(Message::Trust(trust)) => take_trust(context, trust),
            Some(Message::Fleet(fleet)) => take_fleet(context, &fleet),
            // Answered when it is found; the stream goes on meanwhile.
            Some(Message::Find(find)) => self.finder.find(context, find, self.up.clone()),
            Some(Message::Containments(set)) => containment::take(context, &set),
            Some(Message::Modes(modes)) => modes::take(context, &modes),
            // A newer control; what it means, this proxy need not know.
            None => {}
        }
        self.send(from_proxy::Message::Seen(mesh::Seen {
            sequence: message.sequence,
        }))
        .await
    }

    fn take_addresses(&self, context: &Context, addresses: mesh::Addresses) {
        if self.opened.elapsed() < REGATHER {
            install_addresses(context, &addresses, Some(&self.before));
            self.pending.replace(Some(addresses));
        } else {
            install_addresses(context, &addresses, None);
        }
    }
}

pub(super) fn up_message(message: from_proxy::Message) -> mesh::FromProxy {
    mesh::FromProxy {
        message: Some(message),
    }
}

fn health(context: &Context) -> mesh::Health {
    let detail = context.shared.not_ready();
    mesh::Health {
        ready: detail.is_none(),
        svid_not_after: context.svid_not_after(),
        detail: detail.unwrap_or_default().to_owned(),
        effective: effective::json(&context.shared).to_string(),
    }
}

/// Puts addresses in force, with those of `beside` that are not named, and keeps them for a restart.
fn install_addresses(context: &Context, addresses: &mesh::Addresses, beside: Option<&Addresses>) {
    let merged = merge(addresses, beside);
    let kept = mesh::Addresses {
        services: merged
            .iter()
            .map(|(service, addresses)| mesh::ServiceAddresses {
                service: service.to_string(),
                addresses: addresses.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    };
    use_addresses(context, &kept);
    context.keep(&kept);
}

fn merge(
    addresses: &mesh::Addresses,
    beside: Option<&Addresses>,
) -> BTreeMap<Arc<str>, BTreeSet<Arc<str>>> {
    let mut merged: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
    for entry in &addresses.services {
        let service = merged.entry(Arc::from(entry.service.as_str())).or_default();
        service.extend(
            entry
                .addresses
                .iter()
                .map(|address| Arc::from(address.as_str())),
        );
    }
    for (service, addresses) in beside.into_iter().flat_map(Addresses::iter) {
        let service = merged.entry(Arc::clone(service)).or_default();
        service.extend(addresses.iter().cloned());
    }
    merged
}

pub(super) fn use_addresses(context: &Context, addresses: &mesh::Addresses) {
    let services = addresses.services.iter().map(|entry| {
        let addresses: Vec<Arc<str>> = entry
            .addresses
            .iter()
            .map(|address| Arc::from(address.as_str()))
            .collect();
        (entry.service.as_str(), addresses)
    });
    let addresses = Addresses::new(services);
    let installed = &context.shared.installed;
    if **installed.addresses.load() != addresses {
        installed.install_addresses(addresses);
    }
}

fn take_token_keys(context: &Context, keys: &mesh::TokenKeys) {
    use_token_keys(context, keys);
    context.keep(keys);
}

pub(super) fn use_token_keys(context: &Context, keys: &mesh::TokenKeys) {
    let entries = keys.keys.iter().map(|key| TxnKeyEntry {
        kid: Arc::from(key.kid.as_str()),
        public_key: key.public_key.clone(),
        gateway: Arc::from(key.gateway.as_str()),
        not_after: key.not_after,
    });
    let (keys, refused) = TxnKeys::new(entries);
    for refused in refused {
        tracing::error!(refused, "a transaction-token key is left out");
    }
    let installed = &context.shared.installed;
    installed.live.txn_keys.store(Arc::new(keys));
    context.choose_signer();
    installed.changed();
}

fn take_revocations(context: &Context, list: &mesh::Revocations) {
    if list.serial < context.revocations.get() {
        tracing::error!(
            serial = list.serial,
            have = context.revocations.get(),
            "an older revocation list is refused: the list only grows"
        );
        return;
    }
    use_revocations(context, list);
    context.keep(list);
}

pub(super) fn use_revocations(context: &Context, list: &mesh::Revocations) {
    context.revocations.set(list.serial);
    let mut entries = Vec::new();
    for entry in &list.entries {
        match entry.kind.parse::<RevocationKind>() {
            Ok(kind) => entries.push(Revocation {
                kind,
                value: Arc::from(entry.value.as_str()),
            }),
            Err(error) => tracing::error!(%error, "a revocation is not understood"),
        }
    }
    let workloads = entries
        .iter()
        .filter(|entry| entry.kind == RevocationKind::Workload)
        .map(|entry| &*entry.value);
    let list = RevocationList::new(list.serial, workloads);
    context.mesh.set_revocations(list);
    let installed = &context.shared.installed;
    installed
        .live
        .revocations
        .store(Arc::new(Revocations::new(entries)));
    context.rotate_token_key();
    installed.changed();
}

fn take_trust(context: &Context, trust: mesh::Trust) {
    let domain = context.mesh.trust_domain().clone();
    let trust = match TrustBundle::new(domain, certificates(trust.roots)) {
        Ok(trust) => trust,
        Err(error) => {
            tracing::error!(%error, "the roots from control cannot be used");
            return;
        }
    };
    let roots = trust.roots().to_vec();
    match join::set_trust_if_new(context, trust) {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!(roots = roots.len(), "the trusted roots changed");
            context.shared.installed.changed();
            if let Err(error) = context.store.save_trust(&roots) {
                tracing::error!(
                    error = text_of(&error),
                    "the roots cannot be kept for a restart"
                );
            }
        }
        Err(error) => tracing::error!(%error, "the roots from control cannot be used"),
    }
}

fn take_fleet(context: &Context, fleet: &mesh::Fleet) {
    use_fleet(context, fleet);
    context.keep(fleet);
}

/// Limits of scope `fleet` count at gateways or at one service's sidecars; this proxy is one of them.
pub(super) fn use_fleet(context: &Context, fleet: &mesh::Fleet) {
    let proxies = match &context.shared.options.role {
        Role::Gateway => fleet.gateways,
        Role::Sidecar(service) => fleet
            .services
            .iter()
            .find(|count| *count.service == **service)
            .map_or(1, |count| count.sidecars),
    };
    context
        .shared
        .installed
        .live
        .limiter
        .set_fleet(proxies.max(1));
}
