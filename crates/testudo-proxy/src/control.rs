//! The proxy's link to the control plane (`proto/mesh.proto`): joins, renews, and keeps one stream open
//! through which revisions, addresses, keys and revocations come and acknowledgements, health and
//! events go.
//!
//! Runs on the proxy's control thread, never on a data thread; compilation leaves even that one. What
//! came last is in the state folder, so that a proxy starts and serves while control is away. Nothing
//! here is on a request's way: requests read [`crate::Installed`].

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use testudo_guard::snapshot::Role;
use testudo_identity::{
    EdgeIdentity, Identity, IdentityError, JoinToken, JoinTokenError, MeshTls, ProxyRole,
    TrustBundle,
};
use testudo_model::mesh;
use tokio::sync::{Mutex, Notify, mpsc, watch};

mod channel;
mod containment;
mod finding;
mod install;
mod join;
mod modes;
mod session;
mod store;
mod token_key;
mod uplink;

pub use join::JoinError;
pub use store::StoreError;

use crate::effective;
use crate::error_text as text_of;
use crate::shared::Shared;
pub use install::WhichApp;

use channel::{Backoff, Client};
use install::{Compiler, InstallError};
use session::Session;
use store::{Kept, Record, Store};
use token_key::OwnKeys;
use uplink::{Batches, Windows};

/// How often a gateway looks whether its next token key is due.
const ROTATION_LOOK: Duration = Duration::from_secs(60);

/// Why a proxy has no link to a mesh. It does not start without one.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The state folder.
    #[error("the state folder cannot be used")]
    Store(#[from] StoreError),
    /// The stored identity.
    #[error(
        "the stored identity (svid.pem) cannot be used\nhint: join again with a new token (testudo identity issue --join, --join-token-file)"
    )]
    Identity(#[from] IdentityError),
    /// The join token's file.
    #[error("the join token file {path} cannot be read")]
    TokenFile {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The join token.
    #[error("the join token cannot be used")]
    Token(#[from] JoinTokenError),
    /// Never joined, and no token.
    #[error(
        "this proxy has not joined a mesh\nhint: testudo identity issue --join {0} makes a token; start with --join-token-file FILE"
    )]
    NotJoined(String),
    /// Joined, but away for too long.
    #[error(
        "this proxy's SVID ended more than 24 hours ago and cannot be renewed any more\nhint: testudo identity issue --join {0} makes a token; start with --join-token-file FILE"
    )]
    Lapsed(String),
    /// Nothing says where control is.
    #[error("where is the control plane?\nhint: --control HOST:PORT")]
    NoControl,
    /// The state folder or the token is another proxy's.
    #[error("{what} is for {found}, and this is {wanted}")]
    OtherRole {
        /// State folder or token.
        what: &'static str,
        /// For whom.
        found: String,
        /// Who this is.
        wanted: String,
    },
    /// One proxy has one link.
    #[error("the link is open already")]
    Twice,
    /// Joining failed for good.
    #[error("this proxy cannot join the mesh")]
    Join(#[source] JoinError),
    /// It could serve nothing.
    #[error(transparent)]
    WhichApp(#[from] WhichApp),
}

/// What the parts of the link share. Used by one thread only.
struct Context {
    shared: Arc<Shared>,
    store: Store,
    mesh: Arc<MeshTls>,
    role: ProxyRole,
    control: String,
    manifest_key: Cell<[u8; 32]>,
    /// Number of the revocation list in force.
    revocations: Cell<u64>,
    own_keys: RefCell<Option<OwnKeys>>,
    /// Stubs over the present stream's connection.
    client: watch::Sender<Option<Client>>,
    /// Rung when a new stream is wanted: a new identity, new addresses of our own.
    reopen: Notify,
    /// Rung when a new token key is to be announced.
    announce: Notify,
    /// The newest manifest that control sent; older ones that wait are skipped.
    manifests: watch::Sender<Option<mesh::SignedManifest>>,
    acks: mpsc::Sender<mesh::Ack>,
    modes: modes::State,
    /// What goes up a stream; held by the one that is open.
    pipes: Mutex<Pipes>,
}

/// Acknowledgements, events and windows on their way up.
struct Pipes {
    acks: mpsc::Receiver<mesh::Ack>,
    batches: Batches,
    windows: Windows,
}

/// The link, opened but not running.
pub(crate) struct Link {
    context: Context,
    token: Option<JoinToken>,
}

/// Reads the state folder and puts in force what was in force last. Blocks for as long as compiling
/// takes; for the start, before anything listens.
///
/// # Errors
/// Where the proxy has neither an identity nor a token to get one, or either is somebody else's.
pub(crate) fn open(shared: &Arc<Shared>) -> Result<Link, LinkError> {
    let options = &shared.options;
    let store = Store::open(&options.state_dir)?;
    let role = match &options.role {
        Role::Gateway => ProxyRole::Gateway,
        Role::Sidecar(service) => ProxyRole::Sidecar(service.to_string()),
    };
    let (record, token) = match store.record() {
        Ok(record) => {
            let token = read_token(shared, record.is_some())?;
            (record, token)
        }
        Err(error @ StoreError::Damaged(_)) => {
            let Some(token) = read_token(shared, true)? else {
                return Err(error.into());
            };
            tracing::error!(
                error = text_of(&error),
                "what was kept cannot be used: joining anew with the token"
            );
            (None, Some(token))
        }
        Err(error) => return Err(error.into()),
    };
    let (record, token) = choose(&store, &role, record, token)?;
    let domain = match (&record, &token) {
        (Some(record), _) => record.domain(),
        (None, token) => token.as_ref().map(|token| token.trust_domain.clone()),
    };
    let domain = domain.ok_or_else(|| LinkError::NotJoined(options.role_name().to_owned()))?;
    let control = options
        .control
        .clone()
        .or_else(|| record.as_ref().map(|record| record.control.clone()))
        .filter(|control| !control.is_empty())
        .ok_or(LinkError::NoControl)?;
    let mesh = MeshTls::new(domain, Arc::clone(shared.clock.wall()));
    shared.installed.set_mesh(Arc::clone(&mesh));
    let (acks, pending) = mpsc::channel(8);
    let uplink = shared.take_uplink().ok_or(LinkError::Twice)?;
    let context = Context {
        shared: Arc::clone(shared),
        store,
        mesh,
        role,
        control,
        manifest_key: Cell::new([0; 32]),
        revocations: Cell::new(0),
        own_keys: RefCell::new(None),
        client: watch::Sender::new(None),
        reopen: Notify::new(),
        announce: Notify::new(),
        manifests: watch::Sender::new(None),
        acks,
        modes: modes::State::default(),
        pipes: Mutex::new(Pipes {
            acks: pending,
            batches: Batches::new(uplink.events),
            windows: Windows::new(uplink.windows),
        }),
    };
    if let Some(record) = record {
        match context.resume(&record) {
            // There is a way to a new one.
            Err(error @ (LinkError::Identity(_) | LinkError::Store(_))) if token.is_some() => {
                tracing::error!(
                    error = text_of(&error),
                    "what was kept cannot be used: joining anew with the token"
                );
            }
            resumed => resumed?,
        }
    }
    context.prepare_token_key();
    Ok(Link { context, token })
}

/// The token in the file; a proxy that has joined needs none, and its file may be gone.
fn read_token(shared: &Shared, joined: bool) -> Result<Option<JoinToken>, LinkError> {
    let Some(path) = &shared.options.join_token_file else {
        return Ok(None);
    };
    match std::fs::read_to_string(path) {
        Ok(text) => match text.parse() {
            Ok(token) => Ok(Some(token)),
            Err(error) if joined => {
                tracing::warn!(%error, "the join token is not needed any more, and not one");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        },
        Err(_) if joined => Ok(None),
        Err(source) => Err(LinkError::TokenFile {
            path: path.clone(),
            source,
        }),
    }
}

/// The state counts, unless a token for another mesh says that the proxy is to begin anew.
fn choose(
    store: &Store,
    role: &ProxyRole,
    record: Option<Record>,
    token: Option<JoinToken>,
) -> Result<(Option<Record>, Option<JoinToken>), LinkError> {
    let other = |what, found: &ProxyRole| LinkError::OtherRole {
        what,
        found: describe(found),
        wanted: describe(role),
    };
    if let Some(token) = &token
        && token.role != *role
    {
        return Err(other("the join token", &token.role));
    }
    let Some(record) = record else {
        return Ok((None, token));
    };
    let moved = token.as_ref().is_some_and(|token| {
        record.trust_domain != token.trust_domain.as_str()
            || record.manifest_key() != Some(token.manifest_key)
    });
    if moved {
        tracing::warn!(
            "the join token is of another mesh: what was kept of the old one is dropped"
        );
        store.forget_mesh();
        return Ok((None, token));
    }
    match record.role() {
        Some(found) if found != *role => Err(other("the state folder", &found)),
        _ => Ok((Some(record), token)),
    }
}

fn describe(role: &ProxyRole) -> String {
    match role {
        ProxyRole::Gateway => "a gateway".to_owned(),
        ProxyRole::Sidecar(service) => format!("the sidecar of {service}"),
    }
}

impl Link {
    /// Joins where that is needed, then keeps everything fresh for as long as it is polled.
    ///
    /// # Errors
    /// Where joining fails for good.
    pub(crate) async fn run(&self) -> Result<Infallible, LinkError> {
        let context = &self.context;
        self.ensure_identity().await?;
        let gateway = matches!(context.role, ProxyRole::Gateway);
        tokio::select! {
            never = context.keep_streaming() => match never {},
            lapsed = join::keep_renewing(context) => Err(lapsed),
            which = context.keep_installing() => Err(which.into()),
            never = modes::keep_modes(context) => match never {},
            never = join::keep_edge_certificate(context), if gateway => match never {},
            never = context.keep_token_key(), if gateway => match never {},
        }
    }

    /// Uses the token where there is no identity, or none that control would renew.
    async fn ensure_identity(&self) -> Result<(), LinkError> {
        let context = &self.context;
        let now = context.mesh.clock().unix_seconds();
        let grace = testudo_identity::tls::RENEWAL_GRACE.as_secs();
        let renewable = context
            .mesh
            .identity()
            .is_some_and(|identity| now <= identity.not_after().saturating_add(grace));
        let token = match (&self.token, renewable) {
            (_, true) => return Ok(()),
            (Some(token), false) => token,
            (None, false) => {
                let name = context.shared.options.role_name();
                return Err(LinkError::NotJoined(name.to_owned()));
            }
        };
        let mut backoff = Backoff::to(&context.control);
        let mut outage = Outage::default();
        loop {
            match join::join(context, token).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => {
                    outage.warn("cannot join yet", &error);
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                Err(error) => return Err(LinkError::Join(error)),
            }
        }
    }
}

impl Context {
    /// Puts in force what was in force when the proxy stopped.
    fn resume(&self, record: &Record) -> Result<(), LinkError> {
        self.shared.set_name(&record.proxy);
        self.manifest_key
            .set(record.manifest_key().unwrap_or_default());
        if record.control != self.control {
            let record = Record {
                control: self.control.clone(),
                ..record.clone()
            };
            self.store.save_record(&record)?;
        }
        let identity = Identity::load(self.store.folder())?;
        if let (Some(identity), Some(roots)) = (identity, self.store.trust()?) {
            let domain = self.mesh.trust_domain().clone();
            match TrustBundle::new(domain, roots) {
                Ok(trust) => join::use_identity(self, identity, trust)?,
                Err(error) => tracing::error!(%error, "the stored roots cannot be used"),
            }
        }
        if matches!(self.role, ProxyRole::Gateway)
            && let Some(edge) = EdgeIdentity::load(self.store.folder())?
        {
            join::use_edge_certificate(self, &edge)?;
        }
        session::use_addresses(self, &self.kept().unwrap_or_default());
        session::use_token_keys(self, &self.kept().unwrap_or_default());
        session::use_fleet(self, &self.kept().unwrap_or_default());
        modes::look_at_host(self);
        modes::use_modes(self, &self.kept().unwrap_or_default());
        let (revocations, containments) = (self.kept(), self.kept());
        let whole = revocations.is_some() && containments.is_some();
        session::use_revocations(self, &revocations.unwrap_or_default());
        containment::use_containments(self, &containments.unwrap_or_default());
        if !whole {
            // Fails closed: what narrows is not forgotten because a file is damaged. Control sends both before a revision.
            tracing::error!("nothing is served until control has sent what is damaged");
            return Ok(());
        }
        match install::load_last_good(self) {
            Ok(Some(snapshot)) => {
                tracing::info!(revision = snapshot.revision, "last good revision in force");
                self.shared.installed.install_snapshot(snapshot);
            }
            Ok(None) => {}
            Err(InstallError::WhichApp(which)) => return Err(which.into()),
            // Fails closed: not ready until control sends a revision.
            Err(error) => {
                tracing::error!(
                    error = text_of(&error),
                    "the last good revision cannot be used"
                );
            }
        }
        Ok(())
    }

    /// The last message of a kind, the empty one where none was kept; `None`: it is damaged.
    fn kept<M: Kept>(&self) -> Option<M> {
        match self.store.kept() {
            Ok(message) => Some(message.unwrap_or_default()),
            Err(error) => {
                tracing::error!(error = text_of(&error), "control has to send it anew");
                None
            }
        }
    }

    /// One stream after the other. When a new identity or address calls for a new stream, the old one
    /// goes on until the new one stands, so that other proxies never see this one leave.
    async fn keep_streaming(&self) -> Infallible {
        let mut session = self.open_session().await;
        loop {
            let ended = tokio::select! {
                ended = session.drive(self) => Some(ended),
                () = self.reopen_wanted() => None,
            };
            if let Some(ended) = ended {
                tracing::warn!(
                    error = text_of(&ended),
                    "lost control; serving with what is in force"
                );
                self.set_client(None);
                drop(session);
                session = self.open_session().await;
                continue;
            }
            match Session::open(self, self.hello().await).await {
                Ok(next) => session = next,
                Err(error) => {
                    tracing::warn!(error = text_of(&error), "cannot open a new stream yet");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    self.reopen.notify_one();
                }
            }
        }
    }

    async fn open_session(&self) -> Session {
        let mut backoff = Backoff::to(&self.control);
        let mut outage = Outage::default();
        loop {
            match Session::open(self, self.hello().await).await {
                Ok(session) => {
                    tracing::info!(control = self.control, "connected to control");
                    return session;
                }
                Err(error) => outage.warn("no control", &error),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                // A new SVID may be what was missing.
                () = self.reopen.notified() => {}
            }
        }
    }

    /// Wakes when asked to, and when the proxy listens elsewhere than it said: a gateway says hello before it listens.
    async fn reopen_wanted(&self) {
        let told = self.shared.bound();
        let mut changes = self.shared.installed.changes();
        let moved = async {
            while self.shared.bound() == told {
                let _ = tokio::time::timeout(Duration::from_millis(100), changes.changed()).await;
            }
        };
        tokio::select! {
            () = self.reopen.notified() => {}
            () = moved => {}
        }
    }

    /// Installs the newest manifest, one at a time. Ends where the proxy has nothing in force and cannot have it as
    /// it was started; with something in force it goes on with that.
    async fn keep_installing(&self) -> WhichApp {
        let mut manifests = self.manifests.subscribe();
        loop {
            // The sender lives in `self`.
            let _ = manifests.changed().await;
            let Some(manifest) = manifests.borrow_and_update().clone() else {
                continue;
            };
            let outcome = install::install(self, manifest).await;
            if let Err(InstallError::WhichApp(which)) = &outcome.result
                && self.shared.installed.snapshot.load().is_none()
            {
                return which.clone();
            }
            let ack = outcome.into_ack();
            // Full only while no stream takes them; control learns the state from the next hello.
            let _ = self.acks.try_send(ack);
        }
    }

    async fn keep_token_key(&self) -> Infallible {
        loop {
            tokio::time::sleep(ROTATION_LOOK).await;
            self.rotate_token_key();
            self.choose_signer();
        }
    }

    fn prepare_token_key(&self) {
        if !matches!(self.role, ProxyRole::Gateway) {
            return;
        }
        match OwnKeys::load_or_make(&self.store, self.mesh.clock().unix_seconds()) {
            Ok(keys) => _ = self.own_keys.replace(Some(keys)),
            Err(error) => tracing::error!(error = text_of(&error), "no transaction-token key"),
        }
        self.choose_signer();
    }

    fn rotate_token_key(&self) {
        let now = self.mesh.clock().unix_seconds();
        let revocations = self.shared.installed.live.revocations.load();
        let rotated = self
            .own_keys
            .borrow_mut()
            .as_mut()
            .map(|keys| keys.rotate_if_due(now, &revocations));
        match rotated {
            Some(Ok(true)) => {
                self.choose_signer();
                self.announce.notify_one();
            }
            Some(Err(error)) => {
                tracing::error!(error = text_of(&error), "no new transaction-token key");
            }
            Some(Ok(false)) | None => {}
        }
    }

    /// Signs with the newest of our keys that control has published.
    fn choose_signer(&self) {
        let installed = &self.shared.installed;
        let own_keys = self.own_keys.borrow();
        let Some(keys) = own_keys.as_ref() else {
            return;
        };
        let published = installed.live.txn_keys.load();
        let signer = keys.usable(&published, self.mesh.clock().unix_seconds());
        let current = installed.txn_signer.load();
        let same = current.as_ref().map(|signer| signer.kid()) == signer.as_ref().map(|s| s.kid());
        if !same {
            installed.txn_signer.store(signer);
            installed.changed();
        }
    }

    fn token_key_announcements(&self) -> Vec<mesh::TokenKey> {
        let now = self.mesh.clock().unix_seconds();
        let keys = self.own_keys.borrow();
        keys.as_ref()
            .map(|keys| keys.announcements(&self.shared.name(), now))
            .unwrap_or_default()
    }

    /// Keeps control's last word of a kind for a restart.
    fn keep<M: Kept>(&self, message: &M) {
        if let Err(error) = self.store.keep(message) {
            tracing::error!(error = text_of(&error), "cannot be kept for a restart");
        }
    }

    fn set_client(&self, client: Option<Client>) {
        self.client.send_replace(client);
    }

    /// Stubs over the stream's connection; waits until there is one.
    async fn client(&self) -> Client {
        let mut clients = self.client.subscribe();
        loop {
            if let Some(client) = clients.borrow_and_update().clone() {
                return client;
            }
            // The sender lives in `self`.
            let _ = clients.changed().await;
        }
    }

    fn compiler(&self) -> Compiler {
        let options = &self.shared.options;
        Compiler {
            role: options.role.clone(),
            base_dir: options.base_dir.clone().unwrap_or_else(|| ".".into()),
            app_given: options.app.is_some(),
        }
    }

    fn svid_not_after(&self) -> u64 {
        let identity = self.mesh.identity();
        identity.map_or(0, |identity| identity.not_after())
    }

    /// Waits until all listeners are bound.
    async fn bound(&self) {
        let mut changes = self.shared.installed.changes();
        while self.shared.bound().is_none() {
            let _ = tokio::time::timeout(Duration::from_millis(100), changes.changed()).await;
        }
    }

    /// What this proxy says of itself. A sidecar listens before it says anything; a gateway may need a
    /// revision first to know where to listen.
    async fn hello(&self) -> mesh::Hello {
        if matches!(self.role, ProxyRole::Sidecar(_)) {
            self.bound().await;
        }
        let bound = self.shared.bound().unwrap_or_default();
        let bound = crate::shared::Bound::clone(&bound);
        let options = &self.shared.options;
        let snapshot = self.shared.installed.snapshot.load();
        let snapshot = snapshot.as_ref();
        let reached = bound.inbound.or(bound.listen).unwrap_or_default();
        let advertise = match &options.advertise {
            Some(advertise) => advertise.clone(),
            None => self.reachable(reached).await,
        };
        mesh::Hello {
            proxy: self.shared.name().to_string(),
            role: self.role.word().to_owned(),
            service: self.role.service().to_owned(),
            advertise,
            outbound: bound.outbound.unwrap_or_default(),
            admin: bound.admin,
            revision: snapshot.map_or(0, |snapshot| snapshot.revision),
            digest: snapshot.map_or_else(String::new, |snapshot| snapshot.digest.to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            app: options
                .app
                .as_ref()
                .map(effective::app_text)
                .unwrap_or_default(),
            svid_not_after: self.svid_not_after(),
        }
    }

    /// `0.0.0.0:PORT` is no address for others: the one by which control is reached is.
    async fn reachable(&self, bound: String) -> String {
        let unspecified = bound
            .parse::<std::net::SocketAddr>()
            .ok()
            .filter(|address| address.ip().is_unspecified());
        match unspecified {
            None => bound,
            Some(mut address) => match channel::local_address(&self.control).await {
                Some(ip) => {
                    address.set_ip(ip);
                    address.to_string()
                }
                None => bound,
            },
        }
    }
}

/// What control says, or beneath all wrappers how the call failed: an alert of TLS, for example.
fn status_text(status: &tonic::Status) -> String {
    let said = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    let mut deepest = None;
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        deepest = Some(error.to_string());
        source = error.source();
    }
    match deepest {
        Some(cause) if cause != said => format!("{said}: {cause}"),
        _ => said.to_owned(),
    }
}

/// Logs each failure of an outage once, however often it repeats.
#[derive(Default)]
struct Outage {
    logged: Vec<String>,
}

impl Outage {
    /// Beyond so many different failures the first ones may be logged again.
    const REMEMBERED: usize = 8;

    fn warn(&mut self, what: &'static str, error: &dyn std::error::Error) {
        let text = text_of(error);
        if self.logged.contains(&text) {
            return;
        }
        tracing::warn!(error = text, "{what}");
        if self.logged.len() == Self::REMEMBERED {
            self.logged.remove(0);
        }
        self.logged.push(text);
    }
}

#[cfg(test)]
mod tests;
