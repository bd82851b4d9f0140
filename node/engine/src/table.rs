//! The forwarding table: immutable, numbered, published whole with every change.
//!
//! Revocation is publishing generation g+1 without the grant: every cached flow is stale at its next look.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use postern_model::{
    DeviceId, Filter, GrantId, Moment, NetworkRanges, OverlayAddr, PresharedKey, PublicKey, ResourceId,
};
use rustc_hash::FxHashMap;

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
    /// Where new flows go, best first; of either family (the packet is translated). Empty: not resolved yet.
    pub targets: Vec<IpAddr>,
    /// What may pass.
    pub filter: Filter,
    /// When the lease ends; from then on no packet passes, table or no table.
    pub expires: Moment,
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
    /// Whether this node starts handshakes: it holds a grant through the peer.
    pub initiate: bool,
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
