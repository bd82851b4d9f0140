//! Flows: what was opened by a client, and may therefore be answered.
//!
//! Both tables hold only flows that the table in force allows: whenever a table is taken, or a lease ends, they are swept
//! before the next packet is looked at. So a packet of a known flow needs no other check than that it is one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use postern_model::{Moment, Protocol, PublicKey, ResourceId};
use postern_packet::{Endpoints, Parsed, TcpSegment, Transport};
use rustc_hash::FxHashMap;

use super::{
    activity::{Account, Activity},
    index::{Index, Keyed, Slots},
    tcp::{self, Connection, End},
};
use crate::{CarriedGrant, DropReason, HeldGrant};

/// More flows than this are not followed, on either side.
pub(super) const MAX_FLOWS: usize = 131_072;
/// One client of a gateway can't take more than this, so that it leaves room for others.
pub(super) const MAX_FLOWS_PER_CLIENT: usize = MAX_FLOWS / 4;
/// A UDP flow may be silent for this long (RFC 4787 REQ-5: at least 2 minutes).
pub(super) const UDP_TIMEOUT: Duration = Duration::from_secs(120);
/// An echo may take this long to be answered.
pub(super) const ECHO_TIMEOUT: Duration = Duration::from_secs(30);
/// How many ports are tried for a flow whose own is taken: of those that are free in half of all cases, nearly always one. A client
/// that has nearly all in use is not to make everybody wait.
const PORT_TRIES: u16 = 32;
/// Ports for those (RFC 6335: dynamic ports). They are ports of a client's overlay address, of which only the gateway's
/// translation makes use, so they can't clash with anything else on the machine.
const FIRST_DYNAMIC_PORT: u16 = 49_152;

/// Both ends of a flow, as one side of the translation sees them. An echo's identifier is the client's port; its
/// service port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) protocol: Protocol,
    pub(super) client: IpAddr,
    pub(super) client_port: u16,
    /// The resource's overlay address, or the target.
    pub(super) service: IpAddr,
    pub(super) service_port: u16,
}

impl Tuple {
    /// Of a packet that a client sends; `None` for what can't be part of a flow, or only comes back.
    pub(super) fn from_client(parsed: &Parsed) -> Option<Self> {
        let (protocol, service_port) = match parsed.transport {
            Transport::Tcp => (Protocol::Tcp, parsed.dst_port),
            Transport::Udp => (Protocol::Udp, parsed.dst_port),
            Transport::EchoRequest => (Protocol::IcmpEcho, 0),
            Transport::EchoReply | Transport::IcmpError | Transport::Other(_) => return None,
        };
        Some(Self { protocol, client: parsed.src, client_port: parsed.src_port, service: parsed.dst, service_port })
    }

    /// Of a packet that comes back to a client; `None` for what can't be part of a flow, or is only sent by clients.
    pub(super) fn to_client(parsed: &Parsed) -> Option<Self> {
        let (protocol, service_port) = match parsed.transport {
            Transport::Tcp => (Protocol::Tcp, parsed.src_port),
            Transport::Udp => (Protocol::Udp, parsed.src_port),
            Transport::EchoReply => (Protocol::IcmpEcho, 0),
            Transport::EchoRequest | Transport::IcmpError | Transport::Other(_) => return None,
        };
        Some(Self { protocol, client: parsed.dst, client_port: parsed.dst_port, service: parsed.src, service_port })
    }

    /// The endpoints of a packet from the client.
    pub(super) fn to_service(self) -> Endpoints {
        let dst_port = self.port_of_service();
        Endpoints { src: self.client, dst: self.service, src_port: self.client_port, dst_port }
    }

    /// The endpoints of a packet to the client.
    pub(super) fn to_opener(self) -> Endpoints {
        let src_port = self.port_of_service();
        Endpoints { src: self.service, dst: self.client, src_port, dst_port: self.client_port }
    }

    /// As a packet has it: an echo has its one identifier in both places.
    fn port_of_service(self) -> u16 {
        if self.protocol == Protocol::IcmpEcho { self.client_port } else { self.service_port }
    }
}

/// What is followed of a flow, by its protocol.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    Tcp(Connection),
    Udp,
    Echo,
}

impl State {
    fn new(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Tcp => Some(Self::Tcp(Connection::default())),
            Protocol::Udp => Some(Self::Udp),
            Protocol::IcmpEcho => Some(Self::Echo),
            Protocol::Other(_) => None,
        }
    }

    fn note(&mut self, from: End, segment: Option<&TcpSegment>) {
        if let (Self::Tcp(connection), Some(segment)) = (self, segment) {
            connection.note(from, segment);
        }
    }

    /// Whether both ends know that it is over, or one has reset it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Tcp(connection) if connection.is_over())
    }

    /// Whether both ends have finished, or one has given up.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Tcp(connection) if connection.is_closed())
    }

    fn idle_timeout(&self) -> Duration {
        match self {
            Self::Tcp(connection) => connection.idle_timeout(),
            Self::Udp => UDP_TIMEOUT,
            Self::Echo => ECHO_TIMEOUT,
        }
    }
}

/// A flow of this node's own, as a client.
#[derive(Debug)]
pub(super) struct ClientFlow {
    pub(super) tuple: Tuple,
    pub(super) grant: Arc<HeldGrant>,
    pub(super) state: State,
    seen: Moment,
}

/// A client's flow through this gateway.
#[derive(Debug)]
pub(super) struct GatewayFlow {
    /// As the client sees it: to the resource's overlay address.
    pub(super) inside: Tuple,
    /// As the target sees it.
    pub(super) outside: Tuple,
    /// The client's key; the same in all grants under which the flow goes on.
    pub(super) peer: PublicKey,
    pub(super) grant: Arc<CarriedGrant>,
    pub(super) state: State,
    pub(super) account: Account,
    pub(super) seen: Moment,
}

/// Flows are found by what clients see, and on gateways also by what targets see.
const INSIDE: u8 = 0;
const OUTSIDE: u8 = 1;

impl Keyed<INSIDE> for ClientFlow {
    fn key(&self) -> &Tuple {
        &self.tuple
    }
}

impl Keyed<INSIDE> for GatewayFlow {
    fn key(&self) -> &Tuple {
        &self.inside
    }
}

impl Keyed<OUTSIDE> for GatewayFlow {
    fn key(&self) -> &Tuple {
        &self.outside
    }
}

impl ClientFlow {
    /// A packet of it passed.
    pub(super) fn note(&mut self, from: End, segment: Option<&TcpSegment>, now: Moment) {
        self.state.note(from, segment);
        self.seen = now;
    }
}

impl GatewayFlow {
    /// A packet of it passed.
    pub(super) fn note(&mut self, from: End, segment: Option<&TcpSegment>, now: Moment) {
        self.state.note(from, segment);
        self.seen = now;
    }
}

/// Whether a flow may begin with this packet.
fn may_begin(segment: Option<&TcpSegment>) -> bool {
    segment.is_none_or(tcp::may_begin)
}

/// All flows of this node as a client.
#[derive(Debug)]
pub(super) struct ClientFlows {
    flows: Slots<ClientFlow>,
    index: Index<INSIDE>,
}

impl ClientFlows {
    /// None yet; they are found by a hash with this secret.
    pub(super) fn new(secret: u64) -> Self {
        Self { flows: Slots::default(), index: Index::new(secret) }
    }

    pub(super) fn get_mut(&mut self, tuple: &Tuple) -> Option<&mut ClientFlow> {
        self.flows.get_mut(self.index.find(tuple, &self.flows)?)
    }

    pub(super) fn contains(&self, tuple: &Tuple) -> bool {
        self.index.contains(tuple, &self.flows)
    }

    /// Begins a flow, of which there is none.
    pub(super) fn open(
        &mut self,
        tuple: Tuple,
        grant: &Arc<HeldGrant>,
        segment: Option<&TcpSegment>,
        now: Moment,
    ) -> Result<&mut ClientFlow, DropReason> {
        if !may_begin(segment) {
            return Err(DropReason::NoFlow);
        }
        if self.index.len() >= MAX_FLOWS {
            return Err(DropReason::FlowTableFull);
        }
        let state = State::new(tuple.protocol).ok_or(DropReason::UnsupportedProtocol)?;
        let flow = ClientFlow { tuple, grant: Arc::clone(grant), state, seen: now };
        let slot = self.flows.insert(flow).ok_or(DropReason::FlowTableFull)?;
        self.index.insert(slot, &self.flows);
        self.flows.get_mut(slot).ok_or(DropReason::FlowTableFull)
    }

    /// Drops each flow for which `grant` finds no grant, and gives it to `ended`; the others go on under what it found.
    pub(super) fn sweep(
        &mut self,
        mut grant: impl FnMut(&ClientFlow) -> Option<Arc<HeldGrant>>,
        mut ended: impl FnMut(&ClientFlow),
    ) {
        let keep = |flow: &mut ClientFlow| match grant(flow) {
            Some(grant) => {
                flow.grant = grant;
                true
            }
            None => false,
        };
        let Self { flows, index } = self;
        flows.retain(keep, |slot, flow| {
            index.remove(&flow.tuple, slot);
            ended(&flow);
        });
    }

    /// Forgets flows that have been silent for too long.
    pub(super) fn expire(&mut self, now: Moment) {
        let Self { flows, index } = self;
        let is_alive = |flow: &mut ClientFlow| now.since(flow.seen) < flow.state.idle_timeout();
        flows.retain(is_alive, |slot, flow| index.remove(&flow.tuple, slot));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// The resource of each flow.
    pub(super) fn resources(&self) -> impl Iterator<Item = ResourceId> + '_ {
        self.flows.iter().map(|flow| flow.grant.resource)
    }

    /// The gateway of each flow.
    pub(super) fn peers(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.flows.iter().map(|flow| flow.grant.peer)
    }
}

/// All flows of clients through this gateway, found from either side of the translation.
#[derive(Debug)]
pub(super) struct GatewayFlows {
    flows: Slots<GatewayFlow>,
    inside: Index<INSIDE>,
    outside: Index<OUTSIDE>,
    per_client: FxHashMap<PublicKey, usize>,
}

impl GatewayFlows {
    /// None yet; they are found by a hash with this secret.
    pub(super) fn new(secret: u64) -> Self {
        let (inside, outside) = (Index::new(secret), Index::new(secret));
        Self { flows: Slots::default(), inside, outside, per_client: FxHashMap::default() }
    }

    /// The flow that a client's packet belongs to.
    pub(super) fn by_inside(&mut self, inside: &Tuple) -> Option<&mut GatewayFlow> {
        self.flows.get_mut(self.inside.find(inside, &self.flows)?)
    }

    /// The flow that a target's packet belongs to.
    pub(super) fn by_outside(&mut self, outside: &Tuple) -> Option<&mut GatewayFlow> {
        self.flows.get_mut(self.outside.find(outside, &self.flows)?)
    }

    pub(super) fn contains_inside(&self, inside: &Tuple) -> bool {
        self.inside.contains(inside, &self.flows)
    }

    /// Begins a flow, of which there is none, to the grant's best target.
    pub(super) fn open(
        &mut self,
        inside: Tuple,
        grant: &Arc<CarriedGrant>,
        segment: Option<&TcpSegment>,
        activity: &mut Activity,
        now: Moment,
    ) -> Result<&mut GatewayFlow, DropReason> {
        if !may_begin(segment) {
            return Err(DropReason::NoFlow);
        }
        let target = *grant.targets.first().ok_or(DropReason::TargetUnresolved)?;
        let of_client = self.per_client.get(&grant.peer).copied().unwrap_or(0);
        if self.inside.len() >= MAX_FLOWS || of_client >= MAX_FLOWS_PER_CLIENT {
            return Err(DropReason::FlowTableFull);
        }
        let state = State::new(inside.protocol).ok_or(DropReason::UnsupportedProtocol)?;
        let outside = self.free_outside(&inside, grant, target).ok_or(DropReason::FlowTableFull)?;
        let account = activity.open(&inside, grant, now);
        let (peer, grant) = (grant.peer, Arc::clone(grant));
        let flow = GatewayFlow { inside, outside, peer, grant, state, account, seen: now };
        let slot = self.flows.insert(flow).ok_or(DropReason::FlowTableFull)?;
        self.inside.insert(slot, &self.flows);
        self.outside.insert(slot, &self.flows);
        *self.per_client.entry(peer).or_default() += 1;
        self.flows.get_mut(slot).ok_or(DropReason::FlowTableFull)
    }

    /// How the target is to see the flow: from the client's address of the target's family, and from the client's own
    /// port, unless another flow to the same place has it: of another resource on the same target and port, or of the
    /// client's other family.
    fn free_outside(&self, inside: &Tuple, grant: &CarriedGrant, target: IpAddr) -> Option<Tuple> {
        let client = match target {
            IpAddr::V4(_) => grant.client_addr.v4.into(),
            IpAddr::V6(_) => grant.client_addr.v6.into(),
        };
        let own = Tuple { client, service: target, ..*inside };
        // From anywhere, in steps of any odd length: each flow tries others, and all of them would come up in the end.
        let [a, b, c, d, ..] = self.outside.hash(inside).to_le_bytes();
        let (first, step) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]) | 1);
        let port = |nth: u16| FIRST_DYNAMIC_PORT | first.wrapping_add(step.wrapping_mul(nth));
        let others = (0..PORT_TRIES).map(|nth| Tuple { client_port: port(nth), ..own });
        std::iter::once(own).chain(others).find(|outside| !self.outside.contains(outside, &self.flows))
    }

    /// Drops each flow for which `grant` finds no grant, and gives it to `ended`; the others go on under what it found.
    pub(super) fn sweep(
        &mut self,
        mut grant: impl FnMut(&GatewayFlow) -> Option<Arc<CarriedGrant>>,
        ended: impl FnMut(&GatewayFlow),
    ) {
        let keep = |flow: &mut GatewayFlow| match grant(flow) {
            Some(grant) => {
                flow.grant = grant;
                true
            }
            None => false,
        };
        self.retain(keep, ended);
    }

    /// Forgets flows that have been silent for too long, and gives them to `ended`.
    pub(super) fn expire(&mut self, now: Moment, ended: impl FnMut(&GatewayFlow)) {
        self.retain(|flow| now.since(flow.seen) < flow.state.idle_timeout(), ended);
    }

    fn retain(&mut self, keep: impl FnMut(&mut GatewayFlow) -> bool, mut ended: impl FnMut(&GatewayFlow)) {
        let Self { flows, inside, outside, per_client, .. } = self;
        flows.retain(keep, |slot, flow| {
            inside.remove(&flow.inside, slot);
            outside.remove(&flow.outside, slot);
            if let Some(count) = per_client.get_mut(&flow.peer) {
                *count -= 1;
                if *count == 0 {
                    per_client.remove(&flow.peer);
                }
            }
            ended(&flow);
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inside.len() == 0
    }

    /// The client of each flow.
    pub(super) fn peers(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.flows.iter().map(|flow| flow.peer)
    }
}
