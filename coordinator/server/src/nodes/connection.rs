//! A node with a device certificate: its streams.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use postern_model::DenyReason;
use postern_wire::{AccessReply, AccessRequest, ExplainRequest, FrameError, Limit, Opening, close};
use quinn::{Connection, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use tokio::task::JoinSet;

use super::{
    Nodes, endpoint,
    enrolment::canonical,
    stream::{self, StreamError},
};
use crate::{
    certificates::DeviceIdentity,
    clock,
    coordinator::{Caller, Stale},
};

/// How long after its handshake a device may be without a session.
const SESSION: Duration = Duration::from_secs(5);

/// One connection of an enrolled device.
pub(super) struct DeviceConnection {
    pub(super) number: u64,
    pub(super) connection: Connection,
    pub(super) identity: DeviceIdentity,
    /// Whether its session has begun; there is one in its life.
    pub(super) has_session: AtomicBool,
    /// From where it was last seen to come.
    pub(super) from: Mutex<IpAddr>,
}

impl DeviceConnection {
    /// Who speaks on it.
    pub(super) fn caller(&self) -> Caller {
        Caller { device: self.identity.device, key: self.identity.key, connection: self.number }
    }

    /// Where it comes from now, if that is another address than before: QUIC lets connections move.
    pub(super) fn has_moved(&self) -> Option<SocketAddr> {
        let now = canonical(self.connection.remote_address());
        let mut from = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::replace(&mut *from, now.ip()) != now.ip()).then_some(now)
    }
}

impl Nodes {
    /// Serves a connection whose certificate our CA has signed.
    pub(super) async fn handle_device(
        self: &Arc<Self>,
        connection: &Connection,
        certificate: &CertificateDer<'_>,
    ) -> Result<()> {
        let identity = match DeviceIdentity::read(certificate, clock::now()) {
            Ok(identity) => identity,
            Err(error) => {
                connection.close(close::UNAUTHORIZED.into(), b"");
                return Err(error);
            }
        };
        let device = identity.device;
        let connection = Arc::new(DeviceConnection {
            number: self.number(),
            connection: connection.clone(),
            identity,
            has_session: AtomicBool::new(false),
            from: Mutex::new(canonical(connection.remote_address()).ip()),
        });
        // Before the record is looked at: whoever is shut out from now on loses this connection too.
        self.coordinator.registry.add(device, connection.number, connection.connection.clone());
        let mut streams = JoinSet::new();
        let served = self.serve_device(&connection, &mut streams).await;
        // None of them may begin a session once this connection is forgotten.
        streams.shutdown().await;
        self.coordinator.disconnect(device, connection.number).await;
        served
    }

    async fn serve_device(
        self: &Arc<Self>,
        device: &Arc<DeviceConnection>,
        streams: &mut JoinSet<Result<()>>,
    ) -> Result<()> {
        // The signature says who it was; only the record says who it is.
        let Caller { device: id, key, .. } = device.caller();
        if !self.coordinator.read(|core| core.authorize_device(id, &key)).await {
            device.connection.close(close::UNAUTHORIZED.into(), b"this device is revoked, removed or unknown");
            bail!("device {id} is revoked, removed or unknown");
        }
        endpoint::allow_streams(&device.connection);
        self.serve_streams(device, streams).await
    }

    async fn serve_streams(
        self: &Arc<Self>,
        device: &Arc<DeviceConnection>,
        streams: &mut JoinSet<Result<()>>,
    ) -> Result<()> {
        let mut deadline = std::pin::pin!(tokio::time::sleep(SESSION));
        let mut is_late = false;
        loop {
            tokio::select! {
                accepted = device.connection.accept_bi() => {
                    let (send, receive) = accepted?;
                    let (this, device) = (Arc::clone(self), Arc::clone(device));
                    streams.spawn(async move { this.serve_stream(device, send, receive).await });
                }
                Some(ended) = streams.join_next() => {
                    if let Err(error) = ended.map_err(anyhow::Error::from).flatten() {
                        device.connection.close(close_code(&error).into(), b"");
                        return Err(error);
                    }
                }
                () = &mut deadline, if !is_late => {
                    is_late = true;
                    if !device.has_session.load(Ordering::Relaxed) {
                        device.connection.close(close::RETRY.into(), b"no session was begun in time");
                        bail!("no session was begun in time");
                    }
                }
            }
        }
    }

    async fn serve_stream(
        &self,
        device: Arc<DeviceConnection>,
        mut send: SendStream,
        receive: RecvStream,
    ) -> Result<()> {
        let mut reader = stream::Reader::new(receive, Limit::Node);
        match reader.opening().await {
            Ok(Opening::Hello(hello)) => {
                if device.has_session.swap(true, Ordering::Relaxed) {
                    bail!(StreamError::Frame(FrameError::Malformed("a second hello".into())));
                }
                self.session(&device, hello, reader, send).await
            }
            Ok(Opening::AccessRequest(request)) => {
                if !device.has_session.load(Ordering::Relaxed) {
                    bail!(StreamError::Frame(FrameError::Malformed("an access request ahead of the session".into())));
                }
                self.answer(&device, request, send).await
            }
            Ok(Opening::Explain(request)) => {
                if !device.has_session.load(Ordering::Relaxed) {
                    bail!(StreamError::Frame(FrameError::Malformed("a question ahead of the session".into())));
                }
                self.explain(&device, &request, send).await
            }
            Ok(Opening::Enrol(_)) => bail!(StreamError::Frame(FrameError::Malformed("enrolled already".into()))),
            // A newer node's stream of a kind that we don't know: it sees that the stream is refused, and goes on.
            Err(StreamError::Frame(FrameError::UnknownKind(_))) => {
                let _ = send.reset(close::PROTOCOL.into());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Decides anew what a device holds that comes from elsewhere now.
    pub(super) async fn follow(&self, device: &DeviceConnection) -> Result<()> {
        if let Some(from) = device.has_moved() {
            tracing::info!(device = %device.identity.device, %from, "a node moved");
            self.coordinator.moved(device.identity.device, device.number, from).await?;
        }
        Ok(())
    }

    async fn explain(&self, device: &DeviceConnection, request: &ExplainRequest, mut send: SendStream) -> Result<()> {
        let caller = device.caller();
        if !self.limit(|limits, now| limits.take_explanation(caller.device, now)) {
            let _ = send.reset(close::RETRY.into());
            return Ok(());
        }
        let reply = self.coordinator.explain_to(caller.device, request.resource).await;
        stream::send(&mut send, &reply, Limit::Coordinator).await?;
        let _ = send.finish();
        Ok(())
    }

    async fn answer(&self, device: &DeviceConnection, request: AccessRequest, mut send: SendStream) -> Result<()> {
        self.follow(device).await?;
        let caller = device.caller();
        let reply = if self.limit(|limits, now| limits.take_access(caller.device, now)) {
            tokio::select! {
                reply = self.coordinator.access(caller, request) => reply,
                // Nobody waits for it any more.
                _ = send.stopped() => return Ok(()),
            }
        } else {
            Ok(AccessReply::Denied { reason: DenyReason::TooManyRequests })
        };
        match reply {
            Ok(reply) => {
                stream::send(&mut send, &reply, Limit::Coordinator).await?;
                let _ = send.finish();
                Ok(())
            }
            // The session is told why it ends; here is nothing to say.
            Err(Stale::Superseded) => {
                let _ = send.reset(close::RETRY.into());
                Ok(())
            }
            Err(Stale::ShutOut) => bail!(Stale::ShutOut),
        }
    }
}

fn close_code(error: &anyhow::Error) -> u32 {
    if let Some(Stale::ShutOut) = error.downcast_ref() {
        return close::UNAUTHORIZED;
    }
    match error.downcast_ref() {
        Some(StreamError::Frame(_) | StreamError::Truncated | StreamError::TimedOut) => close::PROTOCOL,
        _ => close::RETRY,
    }
}
