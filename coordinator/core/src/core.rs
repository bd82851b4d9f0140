//! [`Core`]: the state, and the calls that move it.

use std::{net::SocketAddr, time::Duration};

use postern_model::{
    DeviceId, Posture, PublicKey, SecretBytes, Sha256, Timestamp, TokenId, audit::Actor, change::Batch, record::World,
};
use postern_wire::{AccessRequest, EnrolRefusal, Hello, NodeMessage};

use crate::{Command, Effect, Refusal, Touched};

/// What the core takes from outside for one call: the time, and random bytes for ids.
pub struct Env<'a> {
    /// Now.
    pub now: Timestamp,
    /// Fills the buffer with random bytes.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

/// What an admin may tune.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// How long a grant holds unless renewed. 10 minutes unless told.
    pub lease: Duration,
    /// How long a gateway has to acknowledge a grant. 5 seconds unless told.
    pub ack_timeout: Duration,
    /// How many access requests of one device may wait at once. 64 unless told.
    pub requests_per_device: usize,
    /// From which the pairs' preshared keys are derived; kept in the state directory, never sent.
    pub psk_master: SecretBytes,
}

/// What is to be committed, and what it will have yielded.
#[derive(Debug)]
#[must_use = "commit the batch, then apply the proposal"]
pub struct Proposal<T> {
    /// For the store. May be empty (no changes, no audit): then there is nothing to commit.
    pub batch: Batch,
    /// For the caller, once it is committed.
    pub outcome: T,
}

/// Names one access request that waits for its answer; made by the core, meaningless elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccessTicket(pub u64);

/// What the shell has checked of an enrolment: the request's signature holds for this device key.
#[derive(Debug)]
pub struct EnrolProof {
    /// Which token.
    pub token: TokenId,
    /// SHA-256 of the secret that came with it.
    pub secret_hash: Sha256,
    /// SHA-256 of the device key (SubjectPublicKeyInfo, DER).
    pub device_key: Sha256,
    /// The device's WireGuard key.
    pub wireguard: PublicKey,
    /// What it says of itself.
    pub posture: Posture,
    /// From where it came.
    pub from: SocketAddr,
}

/// An enrolled device, to be given a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its id.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
}

/// The coordinator's brain. See the crate's documentation for the order of calls.
pub struct Core {
    _world: World,
}

#[allow(clippy::todo, unused_variables, missing_docs)]
impl Core {
    /// A core over what the store holds. Every device is away; grants go on.
    pub fn new(world: World, config: CoreConfig) -> Self {
        todo!()
    }

    /// The state as last applied, for listing.
    pub fn world(&self) -> &World {
        todo!()
    }

    /// Whether the device has a session, and since when and from where.
    pub fn presence(&self, device: DeviceId) -> Option<(Timestamp, SocketAddr)> {
        todo!()
    }

    /// An admin's change, with everything that it re-decides (grants that it ends) in the same batch.
    pub fn propose_command(
        &self,
        actor: &Actor,
        command: &Command,
        env: &mut Env<'_>,
    ) -> Result<Proposal<Touched>, Refusal> {
        todo!()
    }

    /// A device that wants to enrol. A refusal is also a proposal: its batch holds only the audit entry.
    pub fn propose_enrolment(
        &self,
        proof: &EnrolProof,
        env: &mut Env<'_>,
    ) -> Proposal<Result<Enrolment, EnrolRefusal>> {
        todo!()
    }

    /// Whether a device with this id and device key may connect now.
    pub fn authorize_device(&self, device: DeviceId, key: &Sha256) -> bool {
        todo!()
    }

    /// A device opened its session: yields `Send(Welcome)`. Supersedes an older session of the same device:
    /// if its `Hello::instance` differs, that one is told `Evicted{Superseded}` and closed.
    /// `renew_certificate_in` goes into the welcome.
    pub fn propose_connect(
        &self,
        device: DeviceId,
        hello: &Hello,
        from: SocketAddr,
        env: &mut Env<'_>,
    ) -> Proposal<()> {
        todo!()
    }
    pub fn handle_connected(
        &mut self,
        device: DeviceId,
        connection: u64,
        hello: &Hello,
        from: SocketAddr,
        renew_certificate_in: Duration,
        now: Timestamp,
    ) {
        todo!()
    }

    /// The connection with this number ended; ignored when a newer one took its place.
    pub fn handle_disconnected(&mut self, device: DeviceId, connection: u64, now: Timestamp) {
        todo!()
    }

    /// A message in the session (not `RenewCertificate`, which the shell answers itself).
    pub fn handle_message(&mut self, device: DeviceId, message: NodeMessage, now: Timestamp) {
        todo!()
    }

    /// A device asks for a resource. The decision is in the batch; after `apply`, the answer comes as
    /// `Effect::Answer` with this ticket, at once when denied, after the gateway's acknowledgement when allowed.
    pub fn propose_access(
        &self,
        device: DeviceId,
        request: &AccessRequest,
        env: &mut Env<'_>,
    ) -> Proposal<AccessTicket> {
        todo!()
    }

    /// Leases that ran out and gateways that did not acknowledge in time.
    pub fn propose_timeout(&self, env: &mut Env<'_>) -> Proposal<()> {
        todo!()
    }
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        todo!()
    }

    /// Takes over what was committed.
    pub fn apply<T>(&mut self, proposal: Proposal<T>, now: Timestamp) -> T {
        todo!()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        todo!()
    }
}
