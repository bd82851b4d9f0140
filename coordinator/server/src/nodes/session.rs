//! The session: messages up and down for as long as the node is there.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use anyhow::{Result, bail};
use postern_model::{Candidate, DeviceId, Posture, RelayId};
use postern_wire::{CoordinatorMessage, FrameError, Hello, Limit, NodeMessage, close};
use quinn::{Connection, SendStream};
use tokio::{sync::mpsc, time::Sleep};

use super::{
    Nodes,
    activity::{Tellings, Told},
    connection::DeviceConnection,
    enrolment::canonical,
    stream::{self, StreamError},
};
use crate::{
    certificates::CheckedRequest,
    clock,
    coordinator::Stale,
    outbox::{Outbound, Outgoing},
};

/// How often it is looked whether a node comes from elsewhere; it is at each access request too.
const LOOK: Duration = Duration::from_secs(2);

/// The latest of what came too soon.
struct Late<T> {
    value: T,
    due: Pin<Box<Sleep>>,
}

impl<T> Late<T> {
    fn new(value: T, wait: Duration) -> Self {
        Self { value, due: Box::pin(tokio::time::sleep(wait)) }
    }

    /// What is due, once it is.
    async fn due(late: &mut Option<Self>) -> T {
        match late {
            Some(waiting) => waiting.due.as_mut().await,
            None => std::future::pending().await,
        }
        late.take().expect("it was there").value
    }
}

/// What of a session's messages waits for its turn.
struct Waiting {
    /// Where the node's connection comes from, with its WireGuard port.
    observed: SocketAddr,
    candidates: Option<Late<Vec<Candidate>>>,
    home: Option<Late<Option<RelayId>>>,
    posture: Option<Late<Posture>>,
}

impl Nodes {
    /// Serves a session to its end.
    pub(super) async fn session(
        &self,
        device: &DeviceConnection,
        mut hello: Hello,
        mut reader: stream::Reader,
        send: SendStream,
    ) -> Result<()> {
        let DeviceConnection { number, connection, identity, .. } = device;
        let id = identity.device;
        if !self.limit(|limits, now| limits.take_hello(id, now)) {
            bail!("device {id} begins too many sessions");
        }
        let from = canonical(connection.remote_address());
        let observed = SocketAddr::new(from.ip(), hello.wireguard_port);
        let mut waiting = Waiting { observed, candidates: None, home: None, posture: None };
        while let Err(wait) = self.limit(|limits, now| limits.take_reach(id, observed, &hello.candidates, now)) {
            tokio::time::sleep(wait).await;
        }
        if let Err(wait) = self.limit(|limits, now| limits.take_home(id, hello.relay, now)) {
            waiting.home = Some(Late::new(hello.relay.take(), wait));
        }
        if let Some(recorded) = self.differs(id, &hello.posture).await
            && let Err(wait) = self.limit(|limits, now| limits.take_posture(id, now))
        {
            waiting.posture = Some(Late::new(std::mem::replace(&mut hello.posture, recorded), wait));
        }
        let outbox = self.coordinator.outboxes.open(*number, connection.clone());
        self.coordinator.connect(id, *number, hello, from, identity.renew_in).await?;
        tracing::info!(device = %id, %from, "a node connected");
        let (replies, replied) = mpsc::channel(8);
        let (tellings, told) = Tellings::new();
        let ended = tokio::select! {
            ended = write(send, outbox, replied, connection) => ended,
            ended = self.record(device, told, replies.clone()) => ended,
            ended = self.watch(device, replies.clone()) => ended,
            ended = self.listen(device, &mut reader, replies, tellings, waiting) => ended,
        };
        tracing::info!(device = %id, %from, "a node left");
        ended
    }

    /// Takes messages until the node ends the stream.
    async fn listen(
        &self,
        device: &DeviceConnection,
        reader: &mut stream::Reader,
        replies: mpsc::Sender<CoordinatorMessage>,
        tellings: Tellings,
        mut waiting: Waiting,
    ) -> Result<()> {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = reader.next() => message,
                _ = looks.tick() => {
                    self.follow(device).await?;
                    continue;
                }
                candidates = Late::due(&mut waiting.candidates) => Ok(Some(NodeMessage::Candidates { candidates })),
                relay = Late::due(&mut waiting.home) => Ok(Some(NodeMessage::HomeRelay { relay })),
                posture = Late::due(&mut waiting.posture) => Ok(Some(NodeMessage::Posture { posture })),
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(StreamError::Frame(FrameError::UnknownKind(kind))) => {
                    replies.send(CoordinatorMessage::Unknown { kind }).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match message {
                NodeMessage::RenewCertificate { csr } => {
                    if let Some(renewed) = self.renew(device, &csr).await? {
                        replies.send(renewed).await?;
                        let (id, renewal) = (device.identity.device, NodeMessage::RenewCertificate { csr });
                        self.coordinator.message(id, device.number, renewal).await;
                    }
                }
                NodeMessage::Posture { posture } => self.posture(device, posture, &mut waiting).await?,
                NodeMessage::Candidates { candidates } => self.candidates(device, candidates, &mut waiting).await,
                NodeMessage::HomeRelay { relay } => self.home(device, relay, &mut waiting).await,
                NodeMessage::Activity { spool, entries } => tellings.hand_over(Told { spool, entries })?,
                message => self.coordinator.message(device.identity.device, device.number, message).await,
            }
        }
    }

    /// Passes on where the node may be reached, now or when that may be.
    async fn candidates(&self, device: &DeviceConnection, candidates: Vec<Candidate>, waiting: &mut Waiting) {
        let id = device.identity.device;
        match self.limit(|limits, now| limits.take_reach(id, waiting.observed, &candidates, now)) {
            Ok(()) => {
                waiting.candidates = None;
                self.coordinator.message(id, device.number, NodeMessage::Candidates { candidates }).await;
            }
            Err(wait) => waiting.candidates = Some(Late::new(candidates, wait)),
        }
    }

    /// Passes on at which relay the node waits, now or when that may be.
    async fn home(&self, device: &DeviceConnection, relay: Option<RelayId>, waiting: &mut Waiting) {
        let id = device.identity.device;
        waiting.home = None;
        match self.limit(|limits, now| limits.take_home(id, relay, now)) {
            Ok(()) => self.coordinator.message(id, device.number, NodeMessage::HomeRelay { relay }).await,
            Err(wait) => waiting.home = Some(Late::new(relay, wait)),
        }
    }

    /// Records what the node says of itself, now or when that may be.
    async fn posture(&self, device: &DeviceConnection, posture: Posture, waiting: &mut Waiting) -> Result<()> {
        let id = device.identity.device;
        waiting.posture = None;
        // One that had become too old counts again, which may change what was decided.
        if self.differs(id, &posture).await.is_none() && self.coordinator.posture_counts(id).await {
            self.coordinator.posture_again(id, device.number).await;
            return Ok(());
        }
        if let Err(wait) = self.limit(|limits, now| limits.take_posture(id, now)) {
            waiting.posture = Some(Late::new(posture, wait));
            return Ok(());
        }
        match self.coordinator.posture(device.caller(), posture).await? {
            // What a newer connection said counts.
            Ok(()) | Err(Stale::Superseded) => Ok(()),
            Err(stale) => bail!(stale),
        }
    }

    /// What is recorded of a device, if it is something else.
    async fn differs(&self, device: DeviceId, posture: &Posture) -> Option<Posture> {
        let recorded = |core: &postern_core::Core| {
            let recorded = core.state().devices.get(&device)?.posture.clone();
            (recorded != core.recordable(posture)).then_some(recorded)
        };
        self.coordinator.read(recorded).await
    }

    async fn renew(&self, device: &DeviceConnection, csr: &[u8]) -> Result<Option<CoordinatorMessage>> {
        let id = device.identity.device;
        match self.coordinator.check(device.caller()).await {
            Ok(()) => {}
            Err(Stale::Superseded) => return Ok(None),
            Err(stale) => bail!(stale),
        }
        if !self.limit(|limits, now| limits.take_renewal(id, now)) {
            bail!("device {id} renews its certificate too often");
        }
        let malformed = |why: &str| StreamError::Frame(FrameError::Malformed(why.to_owned()));
        let checked = CheckedRequest::parse(csr).map_err(|error| malformed(&error.to_string()))?;
        if !checked.key().ct_eq(&device.identity.key) {
            bail!(malformed("a certificate is renewed for the key that the device enrolled with"));
        }
        let certificate = self.ca.issue(id, &checked, clock::now())?;
        Ok(Some(CoordinatorMessage::Certificate { certificate, renew_in: self.ca.renew_after() }))
    }
}

/// Sends what is decided, and what is answered, until it is over.
async fn write(
    mut send: SendStream,
    mut outbox: Outbound,
    mut replies: mpsc::Receiver<CoordinatorMessage>,
    connection: &Connection,
) -> Result<()> {
    loop {
        let outgoing = tokio::select! {
            biased;
            outgoing = outbox.next() => outgoing,
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
