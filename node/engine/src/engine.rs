//! The control half: grants, leases, held packets, DNS.
#![allow(clippy::todo, unused_variables, dead_code, missing_docs)]

use std::{net::IpAddr, sync::Arc};

use postern_model::{DenyReason, Fqdn, Moment, ResourceId};
use postern_wire::{AccessReply, CatalogueEntry, CoordinatorMessage, NodeMessage, PeerDevice};

use crate::{DropReason, ForwardingTable, Generation, Miss};

/// What the shell is to do.
#[derive(Debug)]
pub enum EngineEvent {
    /// Give the forwarder this table, then tell [`Engine::handle_applied`].
    Publish(Arc<ForwardingTable>),
    /// Open an access request with the coordinator; answer with [`Engine::handle_access_reply`].
    RequestAccess(ResourceId),
    /// Send this in the session; drop it if there is none.
    Send(NodeMessage),
    /// Give the forwarder these packets again (`handle_packet`), after the tables published before.
    Replay(Vec<Vec<u8>>),
    /// Tell the forwarder that these packets are refused (`handle_refused`).
    Refuse(Vec<Vec<u8>>, DropReason),
    /// Resolve a target's name; answer with [`Engine::handle_resolved`].
    Resolve(Fqdn),
    /// An access request was denied or a grant revoked, for logs and `status`.
    Denied(ResourceId, DenyReason),
}

/// What to do with a DNS query.
#[derive(Debug, PartialEq, Eq)]
pub enum DnsVerdict {
    /// Send this answer.
    Answer(Vec<u8>),
    /// Not ours: ask the system's resolver, and give its answer back as it comes.
    Forward,
    /// Not a query; send nothing.
    Drop,
}

/// A line of `postern resources` and `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldStatus {
    pub entry: CatalogueEntry,
    /// How long the lease still runs, if a grant is held.
    pub lease_left: Option<std::time::Duration>,
    pub gateway: Option<postern_model::PublicKey>,
}

/// The control half.
pub struct Engine {}

impl Engine {
    /// An engine without a session: its table lets nothing through.
    pub fn new(now: Moment) -> Self {
        todo!()
    }
    /// A message of the session; `Welcome` is the authoritative snapshot.
    pub fn handle_message(&mut self, message: CoordinatorMessage, now: Moment) {
        todo!()
    }
    /// The session ended; grants go on to the end of their leases, open requests wait for the next session.
    pub fn handle_disconnected(&mut self, now: Moment) {
        todo!()
    }
    /// The identity is gone (evicted, logout, down): drop every grant at once.
    pub fn handle_evicted(&mut self, now: Moment) {
        todo!()
    }
    /// The answer to [`EngineEvent::RequestAccess`]; `None` when the coordinator could not be asked.
    pub fn handle_access_reply(&mut self, resource: ResourceId, reply: Option<AccessReply>, now: Moment) {
        todo!()
    }
    /// From the forwarder.
    pub fn handle_miss(&mut self, miss: Miss, now: Moment) {
        todo!()
    }
    /// The forwarder has this table in force.
    pub fn handle_applied(&mut self, generation: Generation, now: Moment) {
        todo!()
    }
    /// What a target's name resolves to now (none: it does not).
    pub fn handle_resolved(&mut self, host: &Fqdn, addresses: Vec<IpAddr>, now: Moment) {
        todo!()
    }
    /// A DNS query from this machine. A name of a resource raises an access request ahead of the first packet.
    pub fn handle_dns_query(&mut self, query: &[u8], now: Moment) -> DnsVerdict {
        todo!()
    }
    /// Someone wants the resource (ping, `up`): ask for it unless it is held.
    pub fn handle_wanted(&mut self, resource: ResourceId, now: Moment) {
        todo!()
    }
    /// Leases, renewals, held packets, resolution.
    pub fn handle_timeout(&mut self, now: Moment) {
        todo!()
    }
    pub fn poll_timeout(&self) -> Option<Moment> {
        todo!()
    }
    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        todo!()
    }
    /// The catalogue with what is held, by name.
    pub fn resources(&self, now: Moment) -> Vec<HeldStatus> {
        todo!()
    }
    /// Gateway side: who has this overlay address (`whois`), among clients with a grant.
    pub fn whois(&self, addr: IpAddr) -> Option<&PeerDevice> {
        todo!()
    }
    /// Grants carried as a gateway.
    pub fn carried(&self) -> usize {
        todo!()
    }
}
