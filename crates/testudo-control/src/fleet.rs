//! The proxies that are connected now: what each said of itself, what it has acknowledged, and what
//! goes down to it. Knows nothing of TLS or gRPC framing; `grpc` feeds it, `api` reads it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use testudo_model::mesh::{
    Addresses, Containment, Containments, Find, Fleet as FleetMessage, FromControl, Hello,
    ModeOverride, Modes, Revocations, ServiceAddresses, ServiceCount, SignedManifest, TokenKeys,
    Trust, from_control::Message,
};
use tokio::sync::{Notify, mpsc};

/// Messages that may wait for one proxy. One that falls further behind is disconnected: it comes
/// back and gets everything anew.
pub const QUEUE: usize = 64;

/// How long a new token key waits for proxies that do not acknowledge it.
const KEY_WAIT: Duration = Duration::from_secs(2);

/// A connected proxy, as the HTTP API shows it (DESIGN §12).
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct ProxyView {
    /// Its name.
    pub name: String,
    /// `gateway` or `sidecar`.
    pub role: String,
    /// The service of a sidecar.
    pub service: Option<String>,
    /// Where it is reached.
    pub advertise: String,
    /// Where its application reaches it.
    pub outbound: Option<String>,
    /// Its metrics and health.
    pub admin: String,
    /// The revision that it runs; 0 for none.
    pub revision: u64,
    /// Whether it serves.
    pub ready: bool,
    /// RFC 3339; when its SVID ends.
    pub svid_not_after: Option<jiff::Timestamp>,
    /// Hex SHA-256 of the manifest that it runs.
    pub digest: String,
    /// Its application's address.
    pub app: Option<String>,
    /// Version of its binary.
    pub version: String,
    /// Why it did not install the newest revision, or is not ready.
    pub error: Option<String>,
    /// Its effective configuration, as it reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective: Option<serde_json::Value>,
    /// Whether it knows every address that there is.
    #[serde(skip)]
    pub knows_addresses: bool,
}

/// One connected proxy.
struct Connection {
    id: u64,
    sender: mpsc::Sender<FromControl>,
    sequence: u64,
    seen: u64,
    /// The message with the addresses that are in force now.
    addresses: u64,
    hello: Hello,
    ready: bool,
    detail: String,
    ack_error: Option<String>,
    effective: Option<serde_json::Value>,
}

/// What every proxy is to have; the last of each is kept for those that come later.
#[derive(Default)]
struct Desired {
    manifest: Option<SignedManifest>,
    trust: Trust,
    revocations: Revocations,
    token_keys: TokenKeys,
    containments: Vec<Containment>,
    modes: Vec<ModeOverride>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    connections: BTreeMap<String, Connection>,
    desired: Desired,
}

/// The connected proxies.
#[derive(Default)]
pub struct Fleet {
    state: Mutex<State>,
    changed: Notify,
}

/// Names one connection, so that a proxy's old stream cannot end its new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    name: String,
    id: u64,
}

impl Fleet {
    /// A proxy's stream began. It is sent everything that a proxy is to have; a previous stream of
    /// the same name ends.
    pub fn connect(&self, hello: Hello, sender: mpsc::Sender<FromControl>) -> ConnectionId {
        let mut state = self.lock();
        state.next_id += 1;
        let id = ConnectionId {
            name: hello.proxy.clone(),
            id: state.next_id,
        };
        let mut connection = Connection {
            id: id.id,
            sender,
            sequence: 0,
            seen: 0,
            addresses: 0,
            ready: false,
            detail: String::new(),
            ack_error: None,
            effective: None,
            hello,
        };
        let desired = &state.desired;
        connection.send(Message::Trust(desired.trust.clone()));
        connection.send(Message::Revocations(desired.revocations.clone()));
        connection.send(Message::TokenKeys(desired.token_keys.clone()));
        // Both replace what the proxy kept, so the empty ones are sent too.
        connection.send_containments(&desired.containments);
        connection.send(Message::Modes(Modes {
            entries: desired.modes.clone(),
            audited: None,
        }));
        if let Some(manifest) = &desired.manifest {
            connection.send(Message::Manifest(manifest.clone()));
        }
        // A proxy that renewed its SVID comes on a new stream while the old one is still open: to the
        // others it never left.
        connection.ready = state
            .connections
            .get(&id.name)
            .is_some_and(|old| old.ready && old.hello.advertise == connection.hello.advertise);
        state.connections.insert(id.name.clone(), connection);
        state.spread_membership();
        drop(state);
        self.changed.notify_waiters();
        id
    }

    /// A proxy's stream ended.
    pub fn disconnect(&self, id: &ConnectionId) {
        let mut state = self.lock();
        if state
            .connections
            .get(&id.name)
            .is_some_and(|connection| connection.id == id.id)
        {
            state.connections.remove(&id.name);
            state.spread_membership();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Ends the stream of the proxy with this name (it was revoked).
    pub fn disconnect_name(&self, name: &str) {
        let mut state = self.lock();
        if state.connections.remove(name).is_some() {
            state.spread_membership();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Every proxy gets this revision.
    pub fn publish_manifest(&self, manifest: SignedManifest) {
        let mut state = self.lock();
        state.desired.manifest = Some(manifest.clone());
        state.send_all(&Message::Manifest(manifest));
    }

    /// Every proxy gets these trust anchors (DER).
    pub fn publish_trust(&self, roots: Vec<Vec<u8>>) {
        let mut state = self.lock();
        state.desired.trust = Trust {
            roots: roots.into_iter().collect(),
        };
        let message = Message::Trust(state.desired.trust.clone());
        state.send_all(&message);
    }

    /// Every proxy gets this revocation list.
    pub fn publish_revocations(&self, revocations: Revocations) {
        let mut state = self.lock();
        state.desired.revocations = revocations.clone();
        state.send_all(&Message::Revocations(revocations));
    }

    /// Every proxy gets the containments that concern it.
    pub fn publish_containments(&self, containments: Vec<Containment>) {
        let mut state = self.lock();
        for connection in state.connections.values_mut() {
            connection.send_containments(&containments);
        }
        state.desired.containments = containments;
    }

    /// Every proxy gets the modes that hold for a while.
    pub fn publish_modes(&self, modes: Vec<ModeOverride>) {
        let mut state = self.lock();
        state.desired.modes = modes.clone();
        state.send_all(&Message::Modes(Modes {
            entries: modes,
            audited: None,
        }));
    }

    /// One proxy gets the modes with what is known of its own changes.
    pub fn send_modes(&self, id: &ConnectionId, modes: Modes) {
        self.update(id, |connection| connection.send(Message::Modes(modes)));
    }

    /// Sets the token keys without sending them, at start-up.
    pub fn preset_token_keys(&self, keys: TokenKeys) {
        self.lock().desired.token_keys = keys;
    }

    /// Every proxy but `gateway` gets these keys; once they have acknowledged them (or after two
    /// seconds) `gateway` gets them too, which tells it that it may sign with its own.
    pub async fn publish_token_keys(&self, keys: TokenKeys, gateway: &ConnectionId) {
        let waiting: Vec<(ConnectionId, u64)> = {
            let mut state = self.lock();
            state.desired.token_keys = keys.clone();
            let message = Message::TokenKeys(keys);
            state
                .connections
                .iter_mut()
                .filter(|(name, _)| **name != gateway.name)
                .map(|(name, connection)| {
                    connection.send(message.clone());
                    (
                        ConnectionId {
                            name: name.clone(),
                            id: connection.id,
                        },
                        connection.sequence,
                    )
                })
                .collect()
        };
        let all_seen = async {
            loop {
                let changed = self.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if waiting
                    .iter()
                    .all(|(id, sequence)| self.has_seen(id, *sequence))
                {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(KEY_WAIT, all_seen).await.is_err() {
            tracing::warn!(
                gateway = gateway.name,
                "some proxies did not acknowledge the new token key in time"
            );
        }
        let mut state = self.lock();
        let message = Message::TokenKeys(state.desired.token_keys.clone());
        if let Some(connection) = state.connections.get_mut(&gateway.name) {
            connection.send(message);
        }
    }

    fn has_seen(&self, id: &ConnectionId, sequence: u64) -> bool {
        self.lock()
            .connections
            .get(&id.name)
            .is_none_or(|connection| connection.id != id.id || connection.seen >= sequence)
    }

    /// A proxy applied everything up to this sequence number.
    pub fn seen(&self, id: &ConnectionId, sequence: u64) {
        self.update(id, |connection| {
            connection.seen = connection.seen.max(sequence)
        });
    }

    /// A proxy installed a revision, or says why it did not.
    pub fn acknowledge(
        &self,
        id: &ConnectionId,
        revision: u64,
        digest: String,
        error: Option<String>,
    ) {
        self.update(id, |connection| {
            if error.is_none() {
                connection.hello.revision = revision;
                connection.hello.digest = digest;
            }
            connection.ack_error = error;
        });
    }

    /// A proxy's health changed.
    pub fn health(
        &self,
        id: &ConnectionId,
        ready: bool,
        detail: String,
        svid_not_after: u64,
        effective: Option<serde_json::Value>,
    ) {
        let mut turned = false;
        self.update(id, |connection| {
            turned = connection.ready != ready;
            connection.ready = ready;
            connection.detail = detail;
            connection.hello.svid_not_after = svid_not_after;
            if effective.is_some() {
                connection.effective = effective;
            }
        });
        if turned {
            self.lock().spread_membership();
        }
    }

    fn update(&self, id: &ConnectionId, change: impl FnOnce(&mut Connection)) {
        let mut state = self.lock();
        if let Some(connection) = state.connections.get_mut(&id.name)
            && connection.id == id.id
        {
            change(connection);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// All connected proxies, by name.
    pub fn proxies(&self) -> Vec<ProxyView> {
        self.lock()
            .connections
            .values()
            .map(Connection::view)
            .collect()
    }

    /// How many proxies are connected.
    pub fn size(&self) -> usize {
        self.lock().connections.len()
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.lock().connections.keys().cloned().collect()
    }

    /// Asks every proxy what its ring keeps. Comes back with the names of those that were asked and of
    /// those that have too much waiting already.
    pub fn ask(&self, find: &Find) -> (Vec<String>, Vec<String>) {
        let mut state = self.lock();
        let (mut asked, mut busy) = (Vec::new(), Vec::new());
        for (name, connection) in &mut state.connections {
            // Half of the queue stays free for what a proxy must have.
            if connection.sender.capacity() > connection.sender.max_capacity() / 2 {
                connection.send(Message::Find(find.clone()));
                asked.push(name.clone());
            } else {
                busy.push(name.clone());
            }
        }
        (asked, busy)
    }

    /// Ends every stream, so that proxies see at once that control stops.
    pub fn disconnect_all(&self) {
        self.lock().connections.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn send_all(&mut self, message: &Message) {
        for connection in self.connections.values_mut() {
            connection.send(message.clone());
        }
    }

    /// Addresses and counts go to everyone whenever a proxy comes or goes, becomes ready or drains.
    fn spread_membership(&mut self) {
        let addresses = Message::Addresses(self.addresses());
        let fleet = Message::Fleet(self.counts());
        self.send_all(&addresses);
        self.send_all(&fleet);
    }

    /// Those that serve: one that is starting or draining is sent no traffic.
    fn sidecars(&self) -> BTreeMap<&str, Vec<String>> {
        let mut services: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for connection in self
            .connections
            .values()
            .filter(|connection| connection.ready && connection.hello.role == "sidecar")
        {
            services
                .entry(connection.hello.service.as_str())
                .or_default()
                .push(connection.hello.advertise.clone());
        }
        services
    }

    fn addresses(&self) -> Addresses {
        let services = self
            .sidecars()
            .into_iter()
            .map(|(service, addresses)| ServiceAddresses {
                service: service.into(),
                addresses,
            })
            .collect();
        Addresses { services }
    }

    fn counts(&self) -> FleetMessage {
        let gateways = self
            .connections
            .values()
            .filter(|connection| connection.ready && connection.hello.role == "gateway")
            .count();
        let services = self
            .sidecars()
            .into_iter()
            .map(|(service, addresses)| ServiceCount {
                service: service.into(),
                sidecars: u32::try_from(addresses.len()).unwrap_or(u32::MAX),
            })
            .collect();
        FleetMessage {
            gateways: u32::try_from(gateways).unwrap_or(u32::MAX),
            services,
        }
    }
}

impl Connection {
    /// Queues a message. A full queue closes the stream (the sender is dropped with the connection
    /// when the stream task notices); the proxy reconnects and is sent everything.
    fn send(&mut self, message: Message) {
        self.sequence += 1;
        if matches!(message, Message::Addresses(_)) {
            self.addresses = self.sequence;
        }
        let sent = self.sender.try_send(FromControl {
            sequence: self.sequence,
            message: Some(message),
        });
        if sent.is_err() {
            tracing::warn!(
                proxy = self.hello.proxy,
                "the proxy does not keep up; it has to reconnect"
            );
            let (closed, _) = mpsc::channel(1);
            self.sender = closed;
        }
    }

    /// A gateway sees every request; a sidecar hears of its own service alone, called and calling.
    fn send_containments(&mut self, all: &[Containment]) {
        let own = self.hello.service.as_str();
        let is_gateway = self.hello.role == "gateway";
        let concerns = |entry: &&Containment| {
            is_gateway
                || entry.service == own
                || (entry.kind == "service" && entry.principal == own)
        };
        let entries = all.iter().filter(concerns).cloned().collect();
        self.send(Message::Containments(Containments { entries }));
    }

    fn view(&self) -> ProxyView {
        let hello = &self.hello;
        let error = self
            .ack_error
            .clone()
            .or_else(|| (!self.detail.is_empty()).then(|| self.detail.clone()));
        ProxyView {
            name: hello.proxy.clone(),
            role: hello.role.clone(),
            service: some(&hello.service),
            advertise: hello.advertise.clone(),
            outbound: some(&hello.outbound),
            admin: hello.admin.clone(),
            revision: hello.revision,
            ready: self.ready,
            svid_not_after: i64::try_from(hello.svid_not_after)
                .ok()
                .filter(|seconds| *seconds > 0)
                .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()),
            digest: hello.digest.clone(),
            app: some(&hello.app),
            version: hello.version.clone(),
            error,
            effective: self.effective.clone(),
            knows_addresses: self.seen >= self.addresses,
        }
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str, service: &str) -> Hello {
        Hello {
            proxy: name.into(),
            role: if service.is_empty() {
                "gateway"
            } else {
                "sidecar"
            }
            .into(),
            service: service.into(),
            advertise: format!("{name}:1"),
            ..Hello::default()
        }
    }

    fn drain(receiver: &mut mpsc::Receiver<FromControl>) -> Vec<Message> {
        std::iter::from_fn(|| receiver.try_recv().ok())
            .filter_map(|message| message.message)
            .collect()
    }

    #[test]
    fn a_newcomer_gets_everything_and_the_others_its_address() {
        let fleet = Fleet::default();
        fleet.publish_manifest(SignedManifest::default());
        let (sender, mut first) = mpsc::channel(QUEUE);
        let first_id = fleet.connect(hello("gateway-1", ""), sender);
        let messages = drain(&mut first);
        assert!(
            messages
                .iter()
                .any(|message| matches!(message, Message::Manifest(_)))
        );
        assert!(
            messages
                .iter()
                .any(|message| matches!(message, Message::Trust(_)))
        );

        let (sender, _second) = mpsc::channel(QUEUE);
        let id = fleet.connect(hello("orders-1", "orders"), sender);
        let expected = Addresses {
            services: vec![ServiceAddresses {
                service: "orders".into(),
                addresses: vec!["orders-1:1".into()],
            }],
        };
        let told = Message::Addresses(expected);
        assert!(!drain(&mut first).contains(&told), "it does not serve yet");
        let health = |id: &ConnectionId, ready| fleet.health(id, ready, String::new(), 0, None);
        health(&id, true);
        let knows = |name: &str| {
            let proxies = fleet.proxies();
            let proxy = proxies.iter().find(|proxy| proxy.name == name);
            proxy.is_some_and(|proxy| proxy.knows_addresses)
        };
        assert!(
            !knows("gateway-1"),
            "told, but it did not say that it knows"
        );
        fleet.seen(&first_id, 100);
        assert!(knows("gateway-1"));
        assert!(drain(&mut first).contains(&told));
        health(&id, true);
        assert!(drain(&mut first).is_empty());

        // On a new stream beside the old one it never leaves.
        let (sender, _third) = mpsc::channel(QUEUE);
        let renewed = fleet.connect(hello("orders-1", "orders"), sender);
        assert!(!drain(&mut first).contains(&Message::Addresses(Addresses::default())));
        fleet.disconnect(&id);
        assert!(drain(&mut first).is_empty());

        // Draining, it leaves before it closes.
        health(&renewed, false);
        assert!(drain(&mut first).contains(&Message::Addresses(Addresses::default())));
        health(&renewed, true);
        assert!(drain(&mut first).contains(&told));
        fleet.disconnect(&renewed);
        assert!(drain(&mut first).contains(&Message::Addresses(Addresses::default())));
    }

    #[test]
    fn a_question_never_costs_a_proxy_its_stream() {
        let fleet = Fleet::default();
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        fleet.connect(hello("gateway-1", ""), sender);
        let mut asked = 0;
        for _ in 0..QUEUE {
            asked += fleet.ask(&Find::default()).0.len();
        }
        assert!((1..QUEUE).contains(&asked), "{asked}");
        assert_eq!(fleet.ask(&Find::default()).1, ["gateway-1"]);
        fleet.publish_manifest(SignedManifest::default());
        assert!(matches!(
            drain(&mut receiver).last(),
            Some(Message::Manifest(_))
        ));
    }

    #[test]
    fn an_old_stream_does_not_end_its_successor() {
        let fleet = Fleet::default();
        let (sender, _old) = mpsc::channel(QUEUE);
        let old = fleet.connect(hello("orders-1", "orders"), sender);
        let (sender, _new) = mpsc::channel(QUEUE);
        fleet.connect(hello("orders-1", "orders"), sender);
        fleet.disconnect(&old);
        assert_eq!(fleet.proxies().len(), 1);
    }

    #[test]
    fn a_proxy_that_does_not_keep_up_loses_its_stream() {
        let fleet = Fleet::default();
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        fleet.connect(hello("gateway-1", ""), sender);
        for _ in 0..QUEUE {
            fleet.publish_manifest(SignedManifest::default());
        }
        drain(&mut receiver);
        assert!(matches!(
            receiver.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        ));
    }

    #[tokio::test]
    async fn a_token_key_reaches_its_gateway_after_the_others_acknowledged_it() {
        let fleet = std::sync::Arc::new(Fleet::default());
        let (sender, mut gateway) = mpsc::channel(QUEUE);
        let gateway_id = fleet.connect(hello("gateway-1", ""), sender);
        let (sender, mut sidecar) = mpsc::channel(QUEUE);
        let sidecar_id = fleet.connect(hello("orders-1", "orders"), sender);
        drain(&mut gateway);
        while sidecar.try_recv().is_ok() {}

        let publish = fleet.publish_token_keys(TokenKeys::default(), &gateway_id);
        let mut publish = std::pin::pin!(publish);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(publish.as_mut().poll(&mut context).is_pending());
        let message = sidecar.try_recv().unwrap();
        assert!(matches!(message.message, Some(Message::TokenKeys(_))));
        assert!(drain(&mut gateway).is_empty());

        fleet.seen(&sidecar_id, message.sequence);
        publish.await;
        assert!(matches!(
            drain(&mut gateway).as_slice(),
            [Message::TokenKeys(_)]
        ));
    }
}
