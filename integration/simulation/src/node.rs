//! A node: engine, forwarder, and what its shell remembers.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use postern_engine::{DropReason, Endpoint, Engine, Forwarder, ForwarderSink, ForwardingTable, Generation, Miss};
use postern_model::{GrantId, Moment, ResourceId};

use crate::{
    rogue::Rogue,
    setting::{self, At},
};

/// What the lane is told, in this order.
#[derive(Debug)]
pub(crate) enum LaneCommand {
    Publish(Arc<ForwardingTable>),
    Replay(Vec<Vec<u8>>),
    Refuse(Vec<Vec<u8>>, DropReason),
    Usage,
}

/// What the lane tells.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    Miss(Miss),
    Applied(Generation, Vec<(GrantId, u64)>),
    Usage(Vec<ResourceId>),
}

/// What came out of a forwarder.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pub(crate) datagrams: Vec<(SocketAddr, Vec<u8>)>,
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) misses: Vec<Miss>,
}

impl ForwarderSink for Out {
    fn send_datagram(&mut self, to: Endpoint, datagram: &[u8]) {
        // There are no relays here.
        self.datagrams.extend(to.direct().map(|to| (to, datagram.to_vec())));
    }

    fn send_probe(&mut self, to: Endpoint, datagram: &[u8]) {
        self.send_datagram(to, datagram);
    }

    fn send_packet(&mut self, packet: &[u8]) {
        self.packets.push(packet.to_vec());
    }

    fn miss(&mut self, miss: Miss) {
        self.misses.push(miss);
    }

    fn stun(&mut self, _from: SocketAddr, _datagram: &[u8]) {}
}

/// A node's connection to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// None; an attempt follows, unless the coordinator does not want the node any more.
    Away,
    /// The hello is on its way.
    Opening(u64),
    Open(u64),
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) forwarder: Forwarder,
    /// Where its WireGuard socket is.
    pub(crate) outside: SocketAddr,
    pub(crate) moves: u8,
    pub(crate) session: Session,
    pub(crate) is_evicted: bool,
    /// Nothing comes to it, or from it, until then.
    pub(crate) unplugged_until: Duration,
    /// Access requests without an answer.
    pub(crate) asking: BTreeSet<ResourceId>,
    pub(crate) rogue: Option<Rogue>,
    /// The table that its engine published last.
    pub(crate) table: Option<Arc<ForwardingTable>>,
    boot: Duration,
}

impl Node {
    pub(crate) fn new(at: At, is_rogue: bool) -> Self {
        // Clocks of different machines have nothing in common.
        let boot = Duration::from_secs(1000 * (1 + at as u64));
        Self {
            engine: Engine::new(),
            forwarder: Forwarder::new(setting::private_key(at), Moment::from_boot(boot)),
            outside: setting::outside(at, 0),
            moves: 0,
            session: Session::Away,
            is_evicted: false,
            unplugged_until: Duration::ZERO,
            asking: BTreeSet::new(),
            rogue: is_rogue.then(|| Rogue::new(at)),
            table: None,
            boot,
        }
    }

    /// This time on the node's own clock.
    pub(crate) fn moment(&self, now: Duration) -> Moment {
        Moment::from_boot(self.boot + now)
    }

    /// When a timer of the engine, and of the forwarder, is due.
    pub(crate) fn timers(&self) -> [Option<Duration>; 2] {
        [self.engine.poll_timeout(), self.forwarder.poll_timeout()]
            .map(|due| due.map(|due| due.since_boot().saturating_sub(self.boot)))
    }

    /// The table that the lane gets for one that the engine made.
    pub(crate) fn twisted(&mut self, table: Arc<ForwardingTable>) -> Arc<ForwardingTable> {
        match &mut self.rogue {
            Some(rogue) => rogue.twist(&table),
            None => table,
        }
    }
}
