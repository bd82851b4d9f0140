//! The data half: every packet, decided by the table.
//!
//! ```text
//!           from TUN                                            from the WireGuard socket
//!    to a resource │  │ to a device                                      │
//!        ┌─────────▼─┐│┌────────────┐        ┌───────┐   inner packet ┌──▼────┐
//!        │ client    │└► gateway    ├───────►│ peers │◄───────────────┤ peers │
//!        │  outbound │ │  outbound  │ seal   └───────┘                └──┬────┘
//!        └─────┬─────┘ └────────────┘          to own address │          │ to anything else
//!              └───────────────────────► peers        client inbound   gateway inbound ──► TUN
//! ```
//!
//! - `outbound`, `inbound`: the steps of a packet; `client`, `gateway`: what passes, in each direction
//! - `flows`: what was opened and may be answered, `index`: found by its addresses; `tcp`: what is followed of a connection
//! - `activity`: what is to be told of clients' flows
//! - `peers`: tunnels; `paths`: which way to them; `queue`: what waits for a session; `calls`: who is to be called; `timers`: whose time has come; `path_mtu`: how long a
//!   packet to a peer may be
//! - `sweep`: a new table, or the end of a lease, resets what is no longer allowed
//! - `answer`: refusals, so that nobody waits for a packet that was dropped
//!
//! The flow tables hold only what the table in force allows at this moment: every entry point calls `settle` first. That
//! makes a flow's look-up its whole decision, and revocation as fast as the next packet.

mod activity;
mod answer;
mod calls;
mod client;
mod flows;
mod gateway;
mod inbound;
mod index;
mod outbound;
mod path_mtu;
mod paths;
mod peers;
mod queue;
mod sweep;
mod tcp;
#[cfg(test)]
mod tests;
mod timers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use postern_model::{GrantId, Moment, PublicKey, RelayId, ResourceId, activity::FlowEnd};
use postern_packet::{ParseError, Parsed, parse};
use postern_wireguard::{PrivateKey, TunnelStats};
use rustc_hash::FxHashSet;

use self::{
    activity::Activity,
    answer::{Answers, Refusal},
    flows::{ClientFlows, GatewayFlows},
    peers::Peers,
};
pub use self::{
    activity::{FlowChange, FlowNews},
    inbound::{Accepted, Arrival, Opened},
    outbound::Departure,
};
use crate::{Counters, DropReason, Endpoint, ForwardingTable, Generation};

/// The longest inner packet, unless [`Forwarder::set_mtu`] says otherwise: what fits, sealed, into 1500 bytes of IPv6.
const DEFAULT_MTU: u16 = 1420;
/// How often silent flows are looked for, and who is to be kept awake.
const IDLE_SWEEP: Duration = Duration::from_secs(5);
/// A gateway through which this machine has open flows hears from it at least this often, give or take a sweep: firewalls
/// and address translators forget UDP after as little as 30 seconds, and a server that speaks first after a pause must
/// still get through.
const KEEPALIVE: Duration = Duration::from_secs(20);

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
    fn send_datagram(&mut self, to: Endpoint, datagram: &[u8]);
    /// Send a datagram that nobody may fragment or split, and that is lost if it does not fit: it finds out what does.
    fn send_probe(&mut self, to: Endpoint, datagram: &[u8]);
    /// Write an IP packet to TUN.
    fn send_packet(&mut self, packet: &[u8]);
    /// Hand a packet to the engine.
    fn miss(&mut self, miss: Miss);
    /// A STUN message (RFC 8489) came to the WireGuard socket, from anyone: it is an answer to one of this node's, or nothing.
    fn stun(&mut self, from: SocketAddr, datagram: &[u8]);
}

/// A peer, for `status` and `wg show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its key.
    pub key: PublicKey,
    /// Where what is for it goes.
    pub endpoint: Option<Endpoint>,
    /// Whether this node chooses that, and does not follow.
    pub chooses: bool,
    /// How long there and back takes on that path, where this node chooses and has measured it.
    pub round_trip: Option<Duration>,
    /// All paths that are known; on the node that follows only the one in use.
    pub paths: Vec<PathStatus>,
    /// Handshake and bytes.
    pub stats: TunnelStats,
    /// The longest inner packet that is sent to it, as far as its path is known.
    pub mtu: u16,
    /// Open flows through it.
    pub flows: usize,
    /// How often it is sent something at least, while it is.
    pub persistent_keepalive: Option<Duration>,
}

/// A path to a peer, for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathStatus {
    /// Where it leads.
    pub endpoint: Endpoint,
    /// How long there and back takes; `None` when no probe of it was answered, or none any more.
    pub round_trip: Option<Duration>,
    /// When something authentic came from there last.
    pub heard: Option<Moment>,
    /// From which address the peer saw the last probe of it come, if directly.
    pub observed: Option<SocketAddr>,
}

/// Moves packets between TUN and peers.
pub struct Forwarder {
    table: Option<Arc<ForwardingTable>>,
    peers: Peers,
    client: ClientFlows,
    gateway: GatewayFlows,
    activity: Activity,
    answers: Answers,
    counters: Counters,
    mtu: u16,
    /// When the next lease of the table ends.
    next_lease_end: Option<Moment>,
    next_idle_sweep: Moment,
    /// Holds packets that are made here: resets, errors.
    scratch: Vec<u8>,
}

impl Forwarder {
    /// A forwarder that drops everything until it is given a table.
    pub fn new(private: PrivateKey, now: Moment) -> Self {
        let secret = private.hash_seed();
        Self {
            table: None,
            peers: Peers::new(private, now),
            client: ClientFlows::new(secret),
            gateway: GatewayFlows::new(secret),
            activity: Activity::default(),
            answers: Answers::new(now),
            counters: Counters::default(),
            mtu: DEFAULT_MTU,
            next_lease_end: None,
            next_idle_sweep: now,
            scratch: Vec::new(),
        }
    }

    /// The longest inner packet from now on; the TUN device's MTU. To be called before there is a table.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.peers.set_mtu(mtu);
    }

    /// The table in force.
    pub fn generation(&self) -> Option<Generation> {
        self.table.as_ref().map(|table| table.generation)
    }

    /// Counts.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Drops that happened in the shell, such as a full socket.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// The resources with open flows of this machine's own, each once.
    pub fn resources_in_use(&self) -> Vec<ResourceId> {
        let mut resources: Vec<_> = self.client.resources().collect();
        resources.sort_unstable();
        resources.dedup();
        resources
    }

    /// The next thing that happened to a client's flow through this gateway, in order.
    pub fn poll_flow_news(&mut self) -> Option<FlowNews> {
        self.activity.poll()
    }

    /// Whether there is some.
    pub fn has_flow_news(&self) -> bool {
        !self.activity.is_empty()
    }

    /// How much of that was given up so far because it was not taken in time.
    pub fn flow_news_lost(&self) -> u64 {
        self.activity.lost()
    }

    /// How many clients' flows were cut since the last call, by the grant under which they were, in no order. To be asked
    /// after [`handle_table`](Self::handle_table), for [`Engine::handle_applied`](crate::Engine::handle_applied).
    pub fn take_cut(&mut self) -> Vec<(GrantId, u64)> {
        self.activity.take_cut()
    }

    /// The node stops: flows that end from now on because the table says so end for that reason.
    pub fn handle_stopping(&mut self) {
        self.activity.end_of_unallowed = FlowEnd::Stopped;
    }

    /// For showing.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut statuses: Vec<_> = self.peers.statuses().collect();
        statuses.sort_unstable_by_key(|status| status.key);
        for key in self.client.peers().chain(self.gateway.peers()) {
            if let Ok(at) = statuses.binary_search_by_key(&key, |status| status.key) {
                statuses[at].flows += 1;
            }
        }
        statuses
    }

    /// Takes a table: adds and drops peers, and resets every flow that it no longer allows (RST to both ends).
    pub fn handle_table(&mut self, table: Arc<ForwardingTable>, sink: &mut impl ForwarderSink, now: Moment) {
        // Resets go out through the tunnels that the table may take away.
        self.sweep(&table, sink, now);
        self.peers.apply(&table, sink, now);
        self.next_lease_end = table.next_lease_end(now);
        self.table = Some(table);
    }

    /// Held packets that no grant came for: answered (RST, ICMP) so that the user sees a refusal; but those that were not
    /// held, for want of room, are only counted.
    pub fn handle_refused(&mut self, packet: &[u8], reason: DropReason, sink: &mut impl ForwarderSink, now: Moment) {
        if let Some(parsed) = self.parse(packet) {
            // What found no room is no refusal: the sender tries again, and finds room then.
            let refusal =
                if reason == DropReason::PendingFull { Refusal::Silent(reason) } else { Refusal::Answered(reason) };
            self.refuse_to_tun(packet, &parsed, refusal, sink, now);
        }
    }

    /// Timers: handshakes, keepalives, idle flows, leases that ran out.
    pub fn handle_timeout(&mut self, sink: &mut impl ForwarderSink, now: Moment) {
        self.settle(sink, now);
        self.activity.settle(&mut self.gateway, now);
        if self.next_idle_sweep <= now {
            self.client.expire(now);
            self.gateway.expire(now, |flow| {
                self.activity.close(flow, FlowEnd::Idle, now);
            });
            // Without any flow left, a peer's own timer for this comes here before it is followed.
            let in_use: FxHashSet<_> = self.client.peers().collect();
            self.peers.keep_awake(KEEPALIVE, |key| in_use.contains(key));
            self.next_idle_sweep = now + IDLE_SWEEP;
        }
        self.peers.handle_timeout(sink, &mut self.counters, now);
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let idle = !(self.client.is_empty() && self.gateway.is_empty());
        let idle = idle.then_some(self.next_idle_sweep);
        [idle, self.next_lease_end, self.activity.poll_timeout(), self.peers.poll_timeout()].into_iter().flatten().min()
    }

    /// This machine's addresses or routes are others than before: peers are looked for anew, and told where this node is.
    pub fn handle_network_changed(&mut self, sink: &mut impl ForwarderSink, now: Moment) {
        self.settle(sink, now);
        self.peers.handle_network_changed(sink, &mut self.counters, now);
    }

    /// A relay says whether a peer is there, and so whether it forwards anything to and from it. What is said of a peer that the
    /// table does not have is not kept.
    pub fn handle_relay_presence(
        &mut self,
        relay: RelayId,
        peer: &PublicKey,
        is_there: bool,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) {
        self.settle(sink, now);
        self.peers.handle_relay_presence(relay, peer, is_there, sink, now);
    }

    /// Parses, or counts why not.
    fn parse(&mut self, packet: &[u8]) -> Option<Parsed> {
        parse(packet)
            .map_err(|error| {
                self.counters.count(match error {
                    ParseError::Malformed => DropReason::Malformed,
                    ParseError::Fragment => DropReason::Fragment,
                });
            })
            .ok()
    }
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").field("generation", &self.generation()).finish_non_exhaustive()
    }
}
