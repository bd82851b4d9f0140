//! Connections to a relay on its own: each source has its share of handshakes, and of places for those who have not yet
//! shown a pass.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use postern_relay::{Relay, endpoint};
use postern_wire::close;
use quinn::{Endpoint, Incoming};
use tokio::sync::Semaphore;

use postern_encap::shares::{Prefix, Shares};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that have not shown a pass, handshakes under way among them, from which on addresses are checked first.
const UNPROVEN: usize = 64;
/// Connections that have not shown a pass, in all: some seconds' worth.
pub(crate) const NEWCOMERS: usize = 1024;
/// Of which one source may have so many: an office comes back all at once when the relay does.
pub(crate) const NEWCOMERS_EACH: usize = 256;

/// Lets connections in.
pub(super) struct Accept {
    relay: Relay,
    newcomers: Arc<Semaphore>,
    shares: Arc<Shares>,
}

impl Accept {
    pub(super) fn new(relay: Relay) -> Self {
        let (newcomers, shares) = (Arc::new(Semaphore::new(NEWCOMERS)), Shares::new(NEWCOMERS_EACH));
        Self { relay, newcomers, shares }
    }

    /// Accepts connections until the endpoint is closed.
    pub(super) async fn run(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let under_way = NEWCOMERS - self.newcomers.available_permits();
            if under_way >= UNPROVEN && !incoming.remote_address_validated() {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
                continue;
            }
            let this = Arc::clone(&self);
            tokio::spawn(async move {
                let from = incoming.remote_address();
                if let Err(error) = this.handle(incoming, from).await {
                    tracing::debug!(%from, error = format!("{error:#}"), "a connection ended");
                }
            });
        }
    }

    async fn handle(&self, incoming: Incoming, from: SocketAddr) -> Result<()> {
        let share = self.shares.take(Prefix::of(from.ip())).context("too many new connections from there")?;
        let permit = Arc::clone(&self.newcomers).try_acquire_owned().context("too many new connections")?;
        let connection = tokio::time::timeout(HANDSHAKE, incoming).await.context("the handshake took too long")??;
        let Some(key) = endpoint::client_key(&connection) else {
            connection.close(close::UNAUTHORIZED.into(), b"a certificate is needed");
            anyhow::bail!("no certificate was shown");
        };
        self.relay.handle(connection, key, (share, permit)).await;
        Ok(())
    }
}
