//! A node with a device certificate: its streams.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, bail};
use postern_wire::{FrameError, Limit, Opening, close};
use quinn::{Connection, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use tokio::task::JoinSet;

use super::{
    Nodes,
    stream::{self, StreamError},
};
use crate::{certificates::DeviceIdentity, clock};

/// One connection of an enrolled device.
pub(super) struct DeviceConnection {
    pub(super) number: u64,
    pub(super) connection: Connection,
    pub(super) identity: DeviceIdentity,
    /// Whether its session has begun; there is one in its life.
    pub(super) has_session: AtomicBool,
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
        // The signature says who it was; only the record says who it is.
        let (device, key) = (identity.device, identity.key);
        if !self.coordinator.read(|core| core.authorize_device(device, &key)).await {
            connection.close(close::UNAUTHORIZED.into(), b"this device is revoked, removed or unknown");
            bail!("device {device} is revoked, removed or unknown");
        }
        let connection = Arc::new(DeviceConnection {
            number: self.number(),
            connection: connection.clone(),
            identity,
            has_session: AtomicBool::new(false),
        });
        let streams = self.serve_streams(&connection).await;
        self.coordinator.disconnect(device, connection.number).await;
        streams
    }

    async fn serve_streams(self: &Arc<Self>, device: &Arc<DeviceConnection>) -> Result<()> {
        // Dropped with this function, and all that is under way with it.
        let mut streams = JoinSet::new();
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
                let reply = tokio::select! {
                    reply = self.coordinator.access(device.identity.device, request) => reply,
                    // Nobody waits for it any more.
                    _ = send.stopped() => return Ok(()),
                };
                stream::send(&mut send, &reply, Limit::Coordinator).await?;
                let _ = send.finish();
                Ok(())
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
}

fn close_code(error: &anyhow::Error) -> u32 {
    match error.downcast_ref() {
        Some(StreamError::Frame(_) | StreamError::Truncated | StreamError::TimedOut) => close::PROTOCOL,
        _ => close::RETRY,
    }
}
