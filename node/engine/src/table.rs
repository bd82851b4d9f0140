//! The forwarding table: immutable, numbered, published whole with every change.
//!
//! Revocation is publishing generation g+1 without the grant: every cached flow is stale at its next look.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use postern_model::{
    DeviceId, Filter, Fqdn, GrantId, Moment, NetworkRanges, OverlayAddr, PresharedKey, Protocol, PublicKey, RelayId,
    ResourceId,
};
use rustc_hash::FxHashMap;

use crate::{DropReason, Endpoint};

/// Numbers the tables of one engine, rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

/// Everything a [`crate::Forwarder`] decides by.
#[derive(Debug, Clone)]
pub struct ForwardingTable {
    /// Which one this is.
    pub generation: Generation,
    /// This node's own addresses: the only sources that its client side may send from.
    pub own: OverlayAddr,
    /// Where overlay addresses lie.
    pub ranges: NetworkRanges,
    /// Client side: the catalogue, by overlay address. A permitted packet without a grant is a miss.
    pub catalogue: FxHashMap<IpAddr, Arc<Visible>>,
    /// Client side: grants held, by the resource's overlay address.
    pub held: FxHashMap<IpAddr, Arc<HeldGrant>>,
    /// Gateway side: grants carried, by (client's, resource's) overlay address of the same family.
    pub carried: FxHashMap<(IpAddr, IpAddr), Arc<CarriedGrant>>,
    /// Everyone with whom this node has a grant; nobody else gets a handshake answered.
    pub peers: FxHashMap<PublicKey, Arc<Peer>>,
}

/// A resource of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// Which.
    pub resource: ResourceId,
    /// Its overlay addresses.
    pub addr: OverlayAddr,
    /// What is open; anything else is refused without asking.
    pub filter: Filter,
}

/// A grant on its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldGrant {
    /// Which.
    pub grant: GrantId,
    /// For which resource.
    pub resource: ResourceId,
    /// Its overlay addresses.
    pub addr: OverlayAddr,
    /// The gateway.
    pub peer: PublicKey,
    /// What may pass.
    pub filter: Filter,
    /// When the lease ends; from then on no packet passes, table or no table.
    pub expires: Moment,
}

/// A grant on its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedGrant {
    /// Which.
    pub grant: GrantId,
    /// Whose.
    pub client: DeviceId,
    /// The client's overlay addresses.
    pub client_addr: OverlayAddr,
    /// The client's key: a packet under another key never uses this grant.
    pub peer: PublicKey,
    /// To which resource.
    pub resource: ResourceId,
    /// Its overlay addresses.
    pub resource_addr: OverlayAddr,
    /// Where new flows go, best first; of either family (the packet is translated). Empty: not resolved yet. Under one
    /// grant id they change only because the target's name resolves anew: flows stay where they are then.
    pub targets: Vec<IpAddr>,
    /// What may pass.
    pub filter: Filter,
    /// When the lease ends; from then on no packet passes, table or no table.
    pub expires: Moment,
    /// The DNS name by which the client has asked for the resource, if it did; for records only.
    pub queried: Option<Fqdn>,
}

/// A WireGuard peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its key.
    pub key: PublicKey,
    /// The pair's preshared key.
    pub preshared_key: PresharedKey,
    /// Where it may be reached: initiations go to all until one answers.
    pub candidates: Vec<SocketAddr>,
    /// Relays through which it may be reached, with a pass for it: where it waits, and where this node does.
    pub relays: Vec<RelayId>,
    /// Whether this node holds a grant through it.
    pub holds: bool,
    /// Whether this node carries a grant of it.
    pub carries: bool,
    /// Whether this node starts handshakes: it holds a grant through the peer, or carries one of it from before this node
    /// started, so that the peer may use a session that is lost.
    pub initiate: bool,
}

impl Peer {
    /// Every way to it that is known from the coordinator, the direct ones first.
    pub fn told(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let direct = self.candidates.iter().map(|addr| Endpoint::Direct(*addr));
        direct.chain(self.relays.iter().map(|relay| Endpoint::Relayed { relay: *relay, peer: self.key }))
    }

    /// Whether this node, whose key is `own`, chooses the path: who holds the grant does, and of two that hold one through each
    /// other the one with the smaller key.
    pub fn chooses(&self, own: &PublicKey) -> bool {
        self.holds && (!self.carries || *own < self.key)
    }
}

impl ForwardingTable {
    /// A table that lets nothing through.
    pub fn empty(generation: Generation, own: OverlayAddr, ranges: NetworkRanges) -> Self {
        Self {
            generation,
            own,
            ranges,
            catalogue: FxHashMap::default(),
            held: FxHashMap::default(),
            carried: FxHashMap::default(),
            peers: FxHashMap::default(),
        }
    }
}

/// What the client side makes of a packet to a resource.
#[derive(Debug, PartialEq, Eq)]
pub enum Outbound<'a> {
    /// It may go, under this grant.
    Granted(&'a Arc<HeldGrant>),
    /// It might: ask for a grant for this resource.
    Ask(ResourceId),
    /// It may not.
    Refused(DropReason),
}

impl ForwardingTable {
    /// Client side: may a packet go to this resource's port now?
    pub fn outbound(&self, resource: IpAddr, protocol: Protocol, port: u16, now: Moment) -> Outbound<'_> {
        let Some(visible) = self.catalogue.get(&resource) else {
            return Outbound::Refused(DropReason::UnknownDestination);
        };
        if !visible.filter.allows(protocol, port) {
            return Outbound::Refused(DropReason::PortClosed);
        }
        match self.held.get(&resource).filter(|grant| now < grant.expires) {
            None => Outbound::Ask(visible.resource),
            Some(grant) if grant.filter.allows(protocol, port) => Outbound::Granted(grant),
            Some(_) => Outbound::Refused(DropReason::PortClosed),
        }
    }

    /// Gateway side: may the peer with this key send from `client` to this resource's port now?
    ///
    /// # Errors
    /// With the reason why not. An address that is not the peer's own is [`DropReason::ForeignSource`], when there is a
    /// grant to tell; what else the peer may send from is for the caller to know.
    pub fn inbound(
        &self,
        peer: &PublicKey,
        (client, resource): (IpAddr, IpAddr),
        protocol: Protocol,
        port: u16,
        now: Moment,
    ) -> Result<&Arc<CarriedGrant>, DropReason> {
        let grant = self.carried.get(&(client, resource)).ok_or(DropReason::NoGrant)?;
        if grant.peer != *peer || !grant.client_addr.contains(client) {
            Err(DropReason::ForeignSource)
        } else if now >= grant.expires {
            Err(DropReason::LeaseExpired)
        } else if !grant.filter.allows(protocol, port) {
            Err(DropReason::PortClosed)
        } else {
            Ok(grant)
        }
    }

    /// When the next lease ends that still runs at `now`.
    pub fn next_lease_end(&self, now: Moment) -> Option<Moment> {
        let held = self.held.values().map(|grant| grant.expires);
        let carried = self.carried.values().map(|grant| grant.expires);
        held.chain(carried).filter(|expires| now < *expires).min()
    }

    /// The node's own address of the same family.
    pub fn own_like(&self, addr: IpAddr) -> IpAddr {
        match addr {
            IpAddr::V4(_) => self.own.v4.into(),
            IpAddr::V6(_) => self.own.v6.into(),
        }
    }
}
