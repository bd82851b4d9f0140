//! Nodes: QUIC connections, and what each may do on its streams.
//!
//! ```text
//! no certificate      one stream:  Enrol ─► EnrolReply                         `enrolment`
//! device certificate  one stream:  for the relay, by its own protocol          `relay`
//! device certificate  one stream:  Hello ─► Welcome, then messages both ways   `session`
//!                     many:        AccessRequest ─► AccessReply                `connection`
//! ```
//!
//! - `endpoint`: the socket, and what a connection may take of memory
//! - `activity`: what gateways tell of flows, beside the rest of a session; `liveness`: whether a gateway is there
//! - `limits`, `pace`: how often; `registry`: which connections a device has

mod activity;
mod connection;
mod endpoint;
mod enrolment;
mod limits;
mod liveness;
mod pace;
mod registry;
mod relay;
mod session;
mod stream;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
pub(crate) use endpoint::bind;
use limits::Limits;
use liveness::Heard;
use postern_encap::shares::{Prefix, Shares};
use postern_model::Moment;
use postern_relay::{Relay, endpoint::is_for_relay};
use postern_wire::close;
use quinn::{Connection, Endpoint, Incoming};
pub(crate) use registry::{Registry, close_soon};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    certificates::DeviceCa,
    clock,
    coordinator::Coordinator,
    relay::{NEWCOMERS, NEWCOMERS_EACH},
};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way from addresses that have not yet proven to be theirs; more get a retry token first.
const UNPROVEN_HANDSHAKES: usize = 64;
/// Handshakes under way in all.
const HANDSHAKES: usize = 1024;
/// Of which one source may have so many: an office comes back all at once when the coordinator does.
const HANDSHAKES_EACH: usize = 256;
/// Connections without a certificate at once: they can only enrol.
const ANONYMOUS: usize = 256;
/// Of which one source may have so many.
const ANONYMOUS_EACH: usize = 4;

/// What connections need.
pub(crate) struct Nodes {
    coordinator: Coordinator,
    ca: DeviceCa,
    next_connection: AtomicU64,
    limits: Mutex<Limits>,
    heard: Heard,
    handshakes: Semaphore,
    handshake_shares: Arc<Shares>,
    anonymous: Semaphore,
    anonymous_shares: Arc<Shares>,
    quic: quinn::ServerConfig,
    relay: Option<Relay>,
    /// Connections to the relay that have not shown a pass.
    newcomers: Arc<Semaphore>,
    newcomer_shares: Arc<Shares>,
}

impl Nodes {
    pub(crate) fn new(
        coordinator: Coordinator,
        ca: DeviceCa,
        quic: quinn::ServerConfig,
        relay: Option<Relay>,
    ) -> Arc<Self> {
        Arc::new(Self {
            coordinator,
            ca,
            next_connection: AtomicU64::new(1),
            limits: Mutex::default(),
            heard: Heard::default(),
            handshakes: Semaphore::new(HANDSHAKES),
            handshake_shares: Shares::new(HANDSHAKES_EACH),
            anonymous: Semaphore::new(ANONYMOUS),
            anonymous_shares: Shares::new(ANONYMOUS_EACH),
            quic,
            relay,
            newcomers: Arc::new(Semaphore::new(NEWCOMERS)),
            newcomer_shares: Shares::new(NEWCOMERS_EACH),
        })
    }

    fn number(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks the limits, as of now.
    fn limit<R>(&self, ask: impl FnOnce(&mut Limits, Moment) -> R) -> R {
        ask(&mut self.limits.lock().unwrap_or_else(PoisonError::into_inner), clock::moment())
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
        let source = Prefix::of(from.ip());
        let (quic, window) = endpoint::for_one(&self.quic);
        let connection = {
            let _share = self.handshake_shares.take(source).context("too many handshakes from there")?;
            let _permit = self.handshakes.try_acquire().context("too many handshakes")?;
            let handshake = incoming.accept_with(quic)?;
            tokio::time::timeout(HANDSHAKE, handshake).await.context("the handshake took too long")??
        };
        if is_for_relay(&connection) {
            return self.relay(&connection, &window).await;
        }
        let mut served = std::pin::pin!(self.serve_node(&connection, source, from));
        tokio::select! {
            served = &mut served => served,
            Ok(_) = connection.read_datagram() => {
                // They would only fill memory. What the connection has begun still ends in order.
                connection.close(close::PROTOCOL.into(), b"datagrams are for relays");
                served.await
            }
        }
    }

    async fn serve_node(self: &Arc<Self>, connection: &Connection, source: Prefix, from: SocketAddr) -> Result<()> {
        match stream::certificate(connection) {
            Some(certificate) => self.handle_device(connection, &certificate).await,
            None => {
                let (Some(_share), Ok(_permit)) = (self.anonymous_shares.take(source), self.anonymous.try_acquire())
                else {
                    connection.close(close::RETRY.into(), b"too many enrolments at once; try again in a moment");
                    anyhow::bail!("too many enrolments at once, from {from}");
                };
                self.enrol(connection).await
            }
        }
    }
}
