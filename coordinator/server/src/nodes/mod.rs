//! Nodes: QUIC connections, and what each may do on its streams.
//!
//! ```text
//! no certificate      one stream:  Enrol ─► EnrolReply                         `enrolment`
//! device certificate  one stream:  Hello ─► Welcome, then messages both ways   `session`
//!                     many:        AccessRequest ─► AccessReply                `connection`
//! ```

mod connection;
mod enrolment;
mod session;
mod stream;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use postern_model::SecretBytes;
use postern_wire::close;
use quinn::{Endpoint, IdleTimeout, Incoming, TransportConfig, VarInt, crypto::rustls::QuicServerConfig};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    certificates::{DeviceCa, Identity},
    coordinator::Coordinator,
};

/// How long a silent node counts as connected. Nodes send something every 5 seconds.
const IDLE: Duration = Duration::from_secs(15);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams that one node may have open: its session, and access requests.
const STREAMS: u32 = 100;
/// Handshakes under way from addresses that have not yet proven to be theirs; more get a retry token first.
const UNPROVEN_HANDSHAKES: usize = 64;
/// Handshakes under way in all.
const HANDSHAKES: usize = 1024;
/// Connections without a certificate at once: they can only enrol.
const ANONYMOUS: usize = 64;

/// What connections need.
pub(crate) struct Nodes {
    coordinator: Coordinator,
    ca: DeviceCa,
    next_connection: AtomicU64,
    handshakes: Semaphore,
    anonymous: Semaphore,
}

impl Nodes {
    pub(crate) fn new(coordinator: Coordinator, ca: DeviceCa) -> Arc<Self> {
        Arc::new(Self {
            coordinator,
            ca,
            next_connection: AtomicU64::new(1),
            handshakes: Semaphore::new(HANDSHAKES),
            anonymous: Semaphore::new(ANONYMOUS),
        })
    }

    fn number(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// Accepts nodes until told to stop, and then tells those that are there to come back.
    pub(crate) async fn serve(self: Arc<Self>, endpoint: Endpoint, stopping: CancellationToken) {
        loop {
            let incoming = tokio::select! {
                () = stopping.cancelled() => break,
                incoming = endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            self.receive(incoming);
        }
        endpoint.close(close::RETRY.into(), b"stopping");
        endpoint.wait_idle().await;
    }

    fn receive(self: &Arc<Self>, incoming: Incoming) {
        let under_way = HANDSHAKES - self.handshakes.available_permits();
        if under_way >= UNPROVEN_HANDSHAKES && !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let from = incoming.remote_address();
            if let Err(error) = this.handle(incoming, from).await {
                tracing::debug!(%from, error = format!("{error:#}"), "a connection ended");
            }
        });
    }

    async fn handle(self: &Arc<Self>, incoming: Incoming, from: SocketAddr) -> Result<()> {
        let connection = {
            let _permit = self.handshakes.try_acquire().context("too many handshakes")?;
            tokio::time::timeout(HANDSHAKE, incoming).await.context("the handshake took too long")??
        };
        match stream::certificate(&connection) {
            Some(certificate) => self.handle_device(&connection, &certificate).await,
            None => {
                let Ok(_permit) = self.anonymous.try_acquire() else {
                    connection.close(close::RETRY.into(), b"too many enrolments");
                    anyhow::bail!("too many enrolments at once, from {from}");
                };
                self.enrol(&connection).await
            }
        }
    }
}

/// What the key for stateless resets is derived for, so that it is of no use for anything else.
const RESETS: &[u8] = b"postern quic resets v1";

/// The QUIC endpoint for nodes. `secret` has to be the same at each start: by it a coordinator tells the nodes of its earlier
/// life that their connections are gone (stateless resets, RFC 9000 section 10.3), and they need not find out by waiting.
pub(crate) fn bind(listen: SocketAddr, identity: &Identity, ca: &DeviceCa, secret: &SecretBytes) -> Result<Endpoint> {
    let tls = QuicServerConfig::try_from(identity.node_tls(ca.verifier()?)?)?;
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    let socket = crate::listeners::udp(listen)?;
    let runtime = quinn::default_runtime().context("no async runtime")?;
    let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), RESETS);
    let resets = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
    Ok(Endpoint::new(quinn::EndpointConfig::new(Arc::new(resets)), Some(config), socket, runtime)?)
}
