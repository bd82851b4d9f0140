//! The session: messages up and down for as long as the node is there.

use anyhow::Result;
use postern_model::DeviceId;
use postern_wire::{CoordinatorMessage, FrameError, Hello, Limit, NodeMessage, close};
use quinn::{Connection, SendStream};
use tokio::sync::mpsc;

use super::{
    Nodes,
    connection::DeviceConnection,
    enrolment::canonical,
    stream::{self, StreamError},
};
use crate::{certificates::CheckedRequest, clock, outbox::Outgoing};

impl Nodes {
    /// Serves a session to its end.
    pub(super) async fn session(
        &self,
        device: &DeviceConnection,
        hello: Hello,
        mut reader: stream::Reader,
        send: SendStream,
    ) -> Result<()> {
        let DeviceConnection { number, connection, identity, .. } = device;
        let outbox = self.coordinator.outboxes.open(*number, connection.clone());
        let from = canonical(connection.remote_address());
        self.coordinator.connect(identity.device, *number, hello, from, identity.renew_in).await?;
        tracing::info!(device = %identity.device, %from, "a node connected");
        let (replies, replied) = mpsc::channel(8);
        let ended = tokio::select! {
            ended = write(send, outbox, replied, connection) => ended,
            ended = self.listen(device, &mut reader, replies) => ended,
        };
        tracing::info!(device = %identity.device, %from, "a node left");
        ended
    }

    /// Takes messages until the node ends the stream.
    async fn listen(
        &self,
        device: &DeviceConnection,
        reader: &mut stream::Reader,
        replies: mpsc::Sender<CoordinatorMessage>,
    ) -> Result<()> {
        let id = device.identity.device;
        loop {
            let message = match reader.next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(StreamError::Frame(FrameError::UnknownKind(kind))) => {
                    replies.send(CoordinatorMessage::Unknown { kind }).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match message {
                NodeMessage::RenewCertificate { csr } => replies.send(self.renew(id, device, &csr)?).await?,
                NodeMessage::Posture { posture } => self.coordinator.posture(id, posture).await?,
                message => self.coordinator.message(id, device.number, message).await,
            }
        }
    }

    fn renew(&self, id: DeviceId, device: &DeviceConnection, csr: &[u8]) -> Result<CoordinatorMessage> {
        let malformed = |why: &str| StreamError::Frame(FrameError::Malformed(why.to_owned()));
        let checked = CheckedRequest::parse(csr).map_err(|error| malformed(&error.to_string()))?;
        if !checked.key().ct_eq(&device.identity.key) {
            anyhow::bail!(malformed("a certificate is renewed for the key that the device enrolled with"));
        }
        let certificate = self.ca.issue(id, &checked, clock::now())?;
        Ok(CoordinatorMessage::Certificate { certificate, renew_in: self.ca.renew_after() })
    }
}

/// Sends what is decided, and what is answered, until it is over.
async fn write(
    mut send: SendStream,
    mut outbox: mpsc::Receiver<Outgoing>,
    mut replies: mpsc::Receiver<CoordinatorMessage>,
    connection: &Connection,
) -> Result<()> {
    loop {
        let outgoing = tokio::select! {
            biased;
            outgoing = outbox.recv() => outgoing,
            Some(reply) = replies.recv() => Some(Outgoing::Message(Box::new(reply))),
        };
        match outgoing {
            Some(Outgoing::Message(message)) => stream::send(&mut send, &message, Limit::Coordinator).await?,
            Some(Outgoing::Close(code)) => {
                stream::finish(&mut send).await;
                connection.close(code.into(), b"");
                return Ok(());
            }
            None => {
                connection.close(close::RETRY.into(), b"");
                return Ok(());
            }
        }
    }
}
