//! The data half: every packet, decided by the table.
#![allow(clippy::todo, unused_variables, dead_code)]

use std::{net::SocketAddr, sync::Arc};

use postern_model::{Moment, PublicKey, ResourceId};
use postern_wireguard::{PrivateKey, TunnelStats};

use crate::{Counters, ForwardingTable, Generation};

/// A permitted packet from TUN for a resource without a grant: ask, hold it, replay it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// Ask for this.
    pub resource: ResourceId,
    /// The packet as read from TUN.
    pub packet: Vec<u8>,
}

/// Where the forwarder's output goes; called while a packet is handled, so that nothing is copied twice.
pub trait ForwarderSink {
    /// Send a datagram.
    fn send_datagram(&mut self, to: SocketAddr, datagram: &[u8]);
    /// Write an IP packet to TUN.
    fn send_packet(&mut self, packet: &[u8]);
    /// Hand a packet to the engine.
    fn miss(&mut self, miss: Miss);
}

/// A peer, for `status` and `wg show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its key.
    pub key: PublicKey,
    /// Where it was last heard from.
    pub endpoint: Option<SocketAddr>,
    /// Handshake and bytes.
    pub stats: TunnelStats,
    /// Open flows through it.
    pub flows: usize,
}

/// Moves packets between TUN and peers.
pub struct Forwarder {}

impl Forwarder {
    /// A forwarder that drops everything until it is given a table.
    pub fn new(private: PrivateKey, now: Moment) -> Self {
        todo!()
    }
    /// Takes a table: adds and drops peers, and resets every flow that it no longer allows (RST to both ends).
    pub fn handle_table(&mut self, table: Arc<ForwardingTable>, sink: &mut impl ForwarderSink, now: Moment) {
        todo!()
    }
    /// The table in force.
    pub fn generation(&self) -> Option<Generation> {
        todo!()
    }
    /// A packet read from TUN, or one replayed after its grant came.
    pub fn handle_packet(&mut self, packet: &mut [u8], sink: &mut impl ForwarderSink, now: Moment) {
        todo!()
    }
    /// Held packets that no grant came for: answered (RST, ICMP) so that the user sees a refusal.
    pub fn handle_refused(
        &mut self,
        packet: &[u8],
        reason: crate::DropReason,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) {
        todo!()
    }
    /// A datagram read from the WireGuard socket.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], sink: &mut impl ForwarderSink, now: Moment) {
        todo!()
    }
    /// Timers: handshakes, keepalives, idle flows, leases that ran out.
    pub fn handle_timeout(&mut self, sink: &mut impl ForwarderSink, now: Moment) {
        todo!()
    }
    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Moment> {
        todo!()
    }
    /// Counts.
    pub fn counters(&self) -> &Counters {
        todo!()
    }
    /// Drops that happened in the shell, such as a full socket.
    pub fn counters_mut(&mut self) -> &mut Counters {
        todo!()
    }
    /// For showing.
    pub fn peers(&self) -> Vec<PeerStatus> {
        todo!()
    }
}
