//! Where a gateway listens: as it was told, or as the bundle says, also when that changes while it runs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::core::Side;
use crate::options::ListenAddress;
use crate::runtime::{Cores, Listening, ProxyError};
use crate::shared::{Bound, Shared};

/// An address that another process holds is tried again this often.
const AGAIN: Duration = Duration::from_secs(5);
/// Until the own listener has let go of a port.
const RELEASE: Duration = Duration::from_millis(20);
/// So often that is waited for.
const RELEASE_TRIES: u32 = 50;

/// The listener at the edge.
pub(crate) struct Edge {
    /// What was asked for; the port may be 0.
    wanted: SocketAddr,
    listening: Listening,
}

/// Binds the edge as soon as it is known where.
pub(crate) async fn bind(shared: &Shared, cores: &Cores) -> Result<Edge, ProxyError> {
    let mut changes = shared.installed.changes();
    loop {
        if let Some(wanted) = shared.options.listen.or_else(|| configured(shared)) {
            let listening = listen(cores, wanted).await?;
            return Ok(Edge { wanted, listening });
        }
        // The sender is in `shared`, so that this cannot fail.
        let _ = changes.changed().await;
    }
}

impl Edge {
    /// The address that it got.
    pub(crate) fn address(&self) -> String {
        self.listening.address.clone()
    }

    /// Moves with the bundle. Open connections stay; the old address closes once the new one is open. Where that
    /// cannot be had, the old one goes on.
    pub(crate) async fn follow(mut self, shared: &Shared, cores: &Cores) -> Infallible {
        if shared.options.listen.is_some() {
            return std::future::pending().await;
        }
        let mut changes = shared.installed.changes();
        loop {
            let _ = tokio::time::timeout(AGAIN, changes.changed()).await;
            let Some(wanted) = configured(shared).filter(|wanted| *wanted != self.wanted) else {
                continue;
            };
            match self.move_to(cores, wanted).await {
                Ok(()) => {
                    let address = self.address();
                    tracing::info!(address, "the gateway listens where the bundle says now");
                    let bound = shared.bound().map(|bound| Bound::clone(&bound));
                    shared.bound.store(Some(Arc::new(Bound {
                        listen: Some(address),
                        ..bound.unwrap_or_default()
                    })));
                    shared.installed.changed();
                }
                Err(error) => tracing::error!(
                    error = crate::error_text(&error),
                    "the gateway cannot listen where the bundle says; it goes on at {}",
                    self.wanted
                ),
            }
        }
    }

    async fn move_to(&mut self, cores: &Cores, wanted: SocketAddr) -> Result<(), ProxyError> {
        let listening = if wanted.port() == self.wanted.port() {
            // Both cannot be open at once where one of them is every address of the host.
            self.listening.end();
            match listen_when_free(cores, wanted).await {
                Ok(listening) => listening,
                Err(error) => {
                    self.listening = listen_when_free(cores, self.wanted).await?;
                    return Err(error);
                }
            }
        } else {
            let listening = listen(cores, wanted).await?;
            self.listening.end();
            listening
        };
        self.wanted = wanted;
        self.listening = listening;
        Ok(())
    }
}

async fn listen_when_free(cores: &Cores, address: SocketAddr) -> Result<Listening, ProxyError> {
    let mut tries = 0;
    loop {
        match listen(cores, address).await {
            Err(_) if tries < RELEASE_TRIES => tries += 1,
            outcome => return outcome,
        }
        tokio::time::sleep(RELEASE).await;
    }
}

async fn listen(cores: &Cores, address: SocketAddr) -> Result<Listening, ProxyError> {
    let address = ListenAddress::Tcp(address);
    cores.listen(Side::Edge, "gateway", &address).await
}

fn configured(shared: &Shared) -> Option<SocketAddr> {
    let snapshot = shared.installed.snapshot.load();
    let edge = snapshot.as_ref()?.edge.as_ref()?;
    Some(edge.listen)
}
