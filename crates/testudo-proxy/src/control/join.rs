//! Getting identities from control: the first by a join token, then renewed at half life, and a
//! gateway's edge certificate. Keys are made here; only requests leave.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use testudo_guard::snapshot::{EdgeTls, Snapshot};
use testudo_identity::{
    Alpn, EdgeIdentity, Identity, IdentityError, JoinToken, KeyRequest, SpiffeId, TrustBundle,
};
use testudo_model::mesh;
use tonic::Code;

use super::channel::{self, Backoff, Client};
use super::store::{Record, StoreError};
use super::{Context, LinkError, status_text, text_of};

/// Until control must have answered.
const CALL: Duration = Duration::from_secs(10);
/// How often, at most, a failing renewal is tried again.
const RENEWAL_CAP: Duration = Duration::from_secs(60);

/// Why no identity was had.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Control says no; asking again is no use.
    #[error("control refuses: {0}")]
    Refused(String),
    /// Somebody else than the mesh's control answers.
    #[error("whoever answers at {address} is not the control plane of this mesh: {why}")]
    Imposter {
        /// Where.
        address: String,
        /// How that shows.
        why: String,
    },
    /// Control answered something that cannot be.
    #[error("control's answer cannot be used: {0}")]
    Answer(&'static str),
    /// The certificate that came is not to be used.
    #[error("the certificate from control cannot be used")]
    Identity(#[from] IdentityError),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Control cannot be reached now.
    #[error("control at {address} cannot be reached: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
}

impl JoinError {
    /// Whether trying again later can help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, JoinError::Unreachable { .. })
    }
}

/// Turns the join token into an identity, and keeps it.
pub(super) async fn join(context: &Context, token: &JoinToken) -> Result<(), JoinError> {
    // The token works once: it is not spent on an identity that cannot be kept.
    context.store.probe()?;
    let clock = context.mesh.clock();
    let tls = testudo_identity::tls::join_client_config(token, clock)
        .map_err(|_| JoinError::Answer("no TLS configuration"))?;
    let mut client = connect(context, tls).await?;
    let request = KeyRequest::generate()?;
    let call = client.join(mesh::JoinRequest {
        token: token.secret().to_string(),
        csr: request.csr().to_vec(),
        role: context.role.word().to_owned(),
        service: context.role.service().to_owned(),
        proxy: context.shared.options.name.clone().unwrap_or_default(),
    });
    let answer = answered(context, call).await?;
    if answer.manifest_key != token.manifest_key {
        return Err(JoinError::Answer(
            "another key signs its manifests than the token names",
        ));
    }
    let trust = trust_of(context, &answer.roots)?;
    if !trust.contains_sha256(&token.root_sha256) {
        return Err(JoinError::Answer("the token's root is not among its roots"));
    }
    let id = context
        .role
        .spiffe_id(context.mesh.trust_domain())
        .map_err(|_| JoinError::Answer("the role has no identity"))?;
    let proxy = answer.proxy.clone();
    let (identity, trust) = checked(context, request, answer, trust, &id)?;
    keep_identity(context, &identity, &trust)?;
    use_identity(context, identity, trust)?;
    context.manifest_key.set(token.manifest_key);
    context.store.save_record(&Record {
        trust_domain: context.mesh.trust_domain().to_string(),
        proxy: proxy.clone(),
        role: context.role.word().to_owned(),
        service: context.role.service().to_owned(),
        manifest_key: testudo_identity::hex(&token.manifest_key),
        control: context.control.clone(),
    })?;
    context.shared.set_name(&proxy);
    tracing::info!(%id, proxy, "joined the mesh");
    Ok(())
}

/// Renews the SVID whenever it is due, for ever. A renewal that fails is tried again; the old SVID
/// goes on as long as it lasts.
/// Ends where the SVID has ended for so long that control renews it no more: only a new token helps.
pub(super) async fn keep_renewing(context: &Context) -> LinkError {
    let mut backoff = Backoff::up_to(RENEWAL_CAP);
    loop {
        let Some(identity) = context.mesh.identity() else {
            std::future::pending::<()>().await;
            continue;
        };
        sleep_until(context, identity.renew_at(rand::random())).await;
        match renew(context, identity.spiffe_id()).await {
            Ok(()) => {
                backoff.reset();
                context.reopen.notify_one();
            }
            Err(error) => {
                let now = context.mesh.clock().unix_seconds();
                let left = identity.not_after().saturating_sub(now);
                let grace = testudo_identity::tls::RENEWAL_GRACE.as_secs();
                let lapsed = now > identity.not_after().saturating_add(grace);
                // While nobody is there, what needs no SVID goes on.
                if lapsed && is_there(&context.control).await {
                    return LinkError::Lapsed(context.shared.options.role_name().to_owned());
                }
                tracing::warn!(
                    error = text_of(&error),
                    left_seconds = left,
                    "cannot renew the SVID"
                );
                // A short-lived SVID is asked for more often than a long one, one that has ended every few seconds.
                let most = if left == 0 { 5 } else { (left / 10).max(1) };
                let wait = backoff.next_wait().min(Duration::from_secs(most));
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Whether somebody listens where control is.
async fn is_there(control: &str) -> bool {
    let connect = tokio::net::TcpStream::connect(control);
    let connected = tokio::time::timeout(Duration::from_secs(2), connect).await;
    connected.is_ok_and(|connected| connected.is_ok())
}

async fn renew(context: &Context, id: &SpiffeId) -> Result<(), JoinError> {
    // A connection of its own: it also works for an SVID that has just expired.
    let mut client = connect(context, control_tls(context)?).await?;
    let request = KeyRequest::generate()?;
    let call = client.renew(mesh::RenewRequest {
        csr: request.csr().to_vec(),
    });
    let answer = answered(context, call).await?;
    if answer.manifest_key != context.manifest_key.get() {
        return Err(JoinError::Answer(
            "another key signs its manifests than at joining",
        ));
    }
    let trust = trust_of(context, &answer.roots)?;
    let (identity, trust) = checked(context, request, answer, trust, id)?;
    // On disk before in use, so that a restart is not older than now; but a full disk does not keep
    // the proxy from going on.
    if let Err(error) = keep_identity(context, &identity, &trust) {
        tracing::error!(
            error = text_of(&error),
            "the new SVID cannot be kept for a restart"
        );
    }
    use_identity(context, identity, trust)?;
    tracing::info!(%id, "renewed the SVID");
    Ok(())
}

fn checked(
    context: &Context,
    request: KeyRequest,
    answer: mesh::Identity,
    trust: TrustBundle,
    id: &SpiffeId,
) -> Result<(Identity, TrustBundle), JoinError> {
    let now = context.mesh.clock().now();
    let identity = request.accept(certificates(answer.chain), &trust, id, now)?;
    Ok((identity, trust))
}

fn keep_identity(
    context: &Context,
    identity: &Identity,
    trust: &TrustBundle,
) -> Result<(), JoinError> {
    context.store.save_trust(trust.roots())?;
    identity.save(context.store.folder())?;
    Ok(())
}

pub(super) fn use_identity(
    context: &Context,
    identity: Identity,
    trust: TrustBundle,
) -> Result<(), IdentityError> {
    set_trust_if_new(context, trust)?;
    context.mesh.set_identity(identity.shared())?;
    context.shared.installed.changed();
    Ok(())
}

/// Connections are judged again when the roots change, and only then.
pub(super) fn set_trust_if_new(
    context: &Context,
    trust: TrustBundle,
) -> Result<bool, IdentityError> {
    let same = context
        .mesh
        .trust()
        .is_some_and(|old| old.roots() == trust.roots());
    if !same {
        context.mesh.set_trust(trust)?;
    }
    Ok(!same)
}

/// Keeps a gateway's edge certificate, for bundles that name none: asked for when the routes' hosts
/// change and at half life. Never ends.
pub(super) async fn keep_edge_certificate(context: &Context) -> std::convert::Infallible {
    let installed = &context.shared.installed;
    let mut changes = installed.changes();
    let mut had: Option<(BTreeSet<Arc<str>>, Duration)> = None;
    let mut backoff = Backoff::up_to(RENEWAL_CAP);
    loop {
        let wanted = installed.snapshot.load().as_deref().and_then(edge_hosts);
        let due = wanted.as_ref().filter(|wanted| {
            let now = context.mesh.clock().now();
            !matches!(&had, Some((hosts, renew_at)) if hosts == *wanted && now < *renew_at)
        });
        if let Some(hosts) = due {
            match edge_certificate(context).await {
                Ok(renew_at) => {
                    had = Some((hosts.clone(), renew_at));
                    backoff.reset();
                }
                Err(error) => {
                    tracing::warn!(error = text_of(&error), "no edge certificate yet");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
            continue;
        }
        let renew_at = had
            .as_ref()
            .map_or(Duration::MAX, |(_, renew_at)| *renew_at);
        tokio::select! {
            _ = changes.changed() => {}
            () = sleep_until(context, renew_at) => {}
        }
    }
}

/// The routes' hosts, where the edge's certificate comes from the mesh.
fn edge_hosts(snapshot: &Snapshot) -> Option<BTreeSet<Arc<str>>> {
    let edge = snapshot.edge.as_ref()?;
    match edge.tls {
        EdgeTls::Mesh => Some(
            edge.routes
                .routes()
                .iter()
                .filter_map(|route| route.host.clone())
                .collect(),
        ),
        EdgeTls::Certificates(_) | EdgeTls::Plain => None,
    }
}

async fn edge_certificate(context: &Context) -> Result<Duration, JoinError> {
    let mut client = context.client().await;
    let request = KeyRequest::generate()?;
    let call = client.edge_certificate(mesh::RenewRequest {
        csr: request.csr().to_vec(),
    });
    let answer = answered(context, call).await?;
    let edge = request.accept_edge(certificates(answer.chain))?;
    if let Err(error) = edge.save(context.store.folder()) {
        tracing::error!(
            error = text_of(&error),
            "the edge certificate cannot be kept for a restart"
        );
    }
    use_edge_certificate(context, &edge)?;
    Ok(edge.renew_at(rand::random()))
}

pub(super) fn use_edge_certificate(
    context: &Context,
    edge: &EdgeIdentity,
) -> Result<(), IdentityError> {
    let key = edge.certified_key(context.mesh.provider())?;
    let installed = &context.shared.installed;
    installed.edge_key.store(Some(Arc::new(key)));
    installed.changed();
    Ok(())
}

/// TLS to control with our own identity.
pub(super) fn control_tls(context: &Context) -> Result<Arc<rustls::ClientConfig>, JoinError> {
    let control = SpiffeId::control(context.mesh.trust_domain());
    context
        .mesh
        .client_config(&[control], &[Alpn::Http2])
        .map_err(|_| JoinError::Answer("no TLS configuration"))
}

pub(super) async fn connect(
    context: &Context,
    tls: Arc<rustls::ClientConfig>,
) -> Result<Client, JoinError> {
    let address = || context.control.clone();
    channel::connect(&context.control, tls)
        .await
        .map_err(|error| match refused_certificate(&error) {
            Some(why) => JoinError::Imposter {
                address: address(),
                why,
            },
            None => JoinError::Unreachable {
                address: address(),
                why: text_of(&error),
            },
        })
}

/// Why we refused the other end's certificate, if that is what happened.
fn refused_certificate(error: &tonic::transport::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref())
            .and_then(|error| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(why)) = inner {
            return Some(why.to_string());
        }
        source = error.source();
    }
    None
}

async fn answered<T>(
    context: &Context,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, JoinError> {
    let unreachable = |why: String| JoinError::Unreachable {
        address: context.control.clone(),
        why,
    };
    match tokio::time::timeout(CALL, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(match status.code() {
            Code::PermissionDenied
            | Code::InvalidArgument
            | Code::Unauthenticated
            | Code::FailedPrecondition => JoinError::Refused(status.message().to_owned()),
            _ => unreachable(status_text(&status)),
        }),
        Err(_) => Err(unreachable("no answer in time".to_owned())),
    }
}

fn trust_of(context: &Context, roots: &[Vec<u8>]) -> Result<TrustBundle, JoinError> {
    let domain = context.mesh.trust_domain().clone();
    TrustBundle::new(domain, certificates(roots.to_vec()))
        .map_err(|_| JoinError::Answer("its roots are no certificate authorities"))
}

pub(super) fn certificates(ders: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    ders.into_iter().map(CertificateDer::from).collect()
}

/// Until this moment (since the epoch), by the clock by which certificates are judged. Looks again now
/// and then: the clock may jump forward.
async fn sleep_until(context: &Context, moment: Duration) {
    const LOOK: Duration = Duration::from_secs(30);
    loop {
        let left = moment.saturating_sub(context.mesh.clock().now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK)).await;
    }
}
