//! The control half: what the coordinator says, what this machine asks for, and the table that follows from both.
//!
//! - `grants`: the coordinator's messages; grants held and carried, leases, acknowledgements
//! - `requests`: access requests, and the packets that wait for them
//! - `targets`: what carried grants' host names resolve to
//! - `publish`: the table
//! - `dns`: answers for the zone

mod dns;
mod grants;
mod publish;
mod requests;
mod targets;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use postern_model::{
    DenyReason, Fqdn, GrantId, Moment, NetworkRanges, OverlayAddr, PublicKey, RelayId, ResourceId, Revision,
};
use postern_wire::{CatalogueEntry, Granted, InstallGrant, NodeMessage, PeerDevice, relay::SignedPass};

use self::{publish::Events, requests::Requests, targets::Targets};
use crate::{DropReason, ForwardingTable, Generation, Nat64};

/// What the shell is to do, in order.
#[derive(Debug)]
pub enum EngineEvent {
    /// Give the forwarder this table, then tell [`Engine::handle_applied`].
    Publish(Arc<ForwardingTable>),
    /// Open an access request with the coordinator, with the DNS name by which the resource was last looked up; answer
    /// with [`Engine::handle_access_reply`].
    RequestAccess(ResourceId, Option<Fqdn>),
    /// Send this in the session; drop it if there is none.
    Send(NodeMessage),
    /// Give the forwarder these packets again (`handle_packet`), after the tables published before.
    Replay(Vec<Vec<u8>>),
    /// Tell the forwarder that these packets are refused (`handle_refused`).
    Refuse(Vec<Vec<u8>>, DropReason),
    /// Resolve a target's name; answer with [`Engine::handle_resolved`].
    Resolve(Fqdn),
    /// Ask the forwarder which resources have open flows; answer with [`Engine::handle_usage`].
    QueryUsage,
    /// From now on these are the peers that relays may be asked to forward to and from, and no others. Said only when it
    /// changes, after the table with the same peers.
    RelayPeers(Vec<RelayPeer>),
    /// An access request was denied or a grant revoked, for logs and `status`.
    Denied(ResourceId, DenyReason),
}

/// A peer that may be reached through relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPeer {
    /// Its key.
    pub key: PublicKey,
    /// This node's pass for it.
    pub pass: SignedPass,
    /// At which relays it may be met, best first: where it waits, and where this node does. The table's peer has the same.
    pub relays: Vec<RelayId>,
}

/// What to do with a DNS query.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The resource.
    pub entry: CatalogueEntry,
    /// How long the lease still runs, if a grant is held.
    pub lease_left: Option<Duration>,
    /// Through which gateway.
    pub gateway: Option<PublicKey>,
}

/// What this node is in the network.
#[derive(Debug, Clone)]
struct Place {
    own: OverlayAddr,
    ranges: NetworkRanges,
    zone: Fqdn,
}

/// A grant that this node holds.
#[derive(Debug)]
struct Held {
    granted: Granted,
    addr: OverlayAddr,
    expires: Moment,
    /// When to see whether it is in use, and is to be asked for again.
    renew_at: Moment,
    /// Whether that moment has come, and nobody has asked since.
    is_due: bool,
}

/// A grant that this node carries.
#[derive(Debug)]
struct Carried {
    install: InstallGrant,
    expires: Moment,
    /// Whether the client may have a session that this node has lost: it carried the grant before this node started.
    is_inherited: bool,
    /// How many acknowledgements the coordinator waits for, which wait for the target's name.
    unacknowledged: u32,
}

/// What is acknowledged of a grant.
#[derive(Debug, Clone, Copy)]
enum Acknowledged {
    Installed(GrantId),
    Revoked(GrantId),
    Settled(Revision),
}

impl Acknowledged {
    fn grant(self) -> Option<GrantId> {
        match self {
            Self::Installed(grant) | Self::Revoked(grant) => Some(grant),
            Self::Settled(_) => None,
        }
    }
}

/// The control half of a node. See the crate's documentation.
#[derive(Debug)]
pub struct Engine {
    /// From the last welcome on; without it nothing passes.
    place: Option<Place>,
    connected: bool,
    catalogue: BTreeMap<ResourceId, CatalogueEntry>,
    names: HashMap<Fqdn, ResourceId>,
    /// By which name a resource of the catalogue was last looked up, if by one.
    queried: HashMap<ResourceId, Fqdn>,
    held: BTreeMap<ResourceId, Held>,
    carried: BTreeMap<GrantId, Carried>,
    targets: Targets,
    requests: Requests,
    /// The relay at which this node waits.
    home_relay: Option<RelayId>,
    /// How this network takes IPv4 addresses, if it has only IPv6.
    nat64: Option<Nat64>,
    /// What was said last of the peers that relays may be asked for.
    relay_peers: Vec<RelayPeer>,
    generation: Generation,
    /// What is to be said once a generation is in force.
    acknowledgements: VecDeque<(Generation, Acknowledged)>,
    /// How many flows were cut under grants, to be said with their next acknowledgement.
    cut: HashMap<GrantId, u64>,
    events: Events,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// An engine without a session: nothing passes.
    pub fn new() -> Self {
        Self {
            place: None,
            connected: false,
            catalogue: BTreeMap::new(),
            names: HashMap::new(),
            queried: HashMap::new(),
            held: BTreeMap::new(),
            carried: BTreeMap::new(),
            targets: Targets::default(),
            requests: Requests::default(),
            home_relay: None,
            nat64: None,
            relay_peers: Vec::new(),
            generation: Generation::default(),
            acknowledgements: VecDeque::new(),
            cut: HashMap::new(),
            events: Events::default(),
        }
    }

    /// How the network takes IPv4 addresses from now on, if it is one that has only IPv6: peers may be reached there, too.
    pub fn set_nat64(&mut self, nat64: Option<Nat64>) {
        if std::mem::replace(&mut self.nat64, nat64) != nat64 {
            self.publish();
        }
    }

    /// The relay at which this node waits from now on, if at any: its peers may be met there, too.
    pub fn set_home_relay(&mut self, relay: Option<RelayId>) {
        if std::mem::replace(&mut self.home_relay, relay) != relay {
            self.publish();
        }
    }

    /// Leases, renewals, held packets, names.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.end_leases(now);
        self.renew(now);
        self.time_out_requests(now);
        self.refresh_targets(now);
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let held = self.held.values().map(|held| held.expires.min(held.renew_at));
        let carried = self.carried.values().map(|carried| carried.expires);
        let rest = [self.requests.poll_timeout(), self.targets.poll_timeout()];
        held.chain(carried).chain(rest.into_iter().flatten()).min()
    }

    /// The next thing to do. Whatever happened since the last table makes one table together: tell the engine all that
    /// there is to tell before asking.
    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        self.next_event()
    }

    /// The catalogue with what is held, by name.
    pub fn resources(&self, now: Moment) -> Vec<HeldStatus> {
        let status = |entry: &CatalogueEntry| {
            let held = self.held.get(&entry.id).filter(|held| now < held.expires);
            HeldStatus {
                entry: entry.clone(),
                lease_left: held.map(|held| held.expires.since(now)),
                gateway: held.map(|held| held.granted.gateway),
            }
        };
        let mut resources: Vec<_> = self.catalogue.values().map(status).collect();
        resources.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        resources
    }

    /// Gateway side: who has this overlay address (`whois`), among clients with a grant.
    pub fn whois(&self, addr: IpAddr) -> Option<&PeerDevice> {
        self.carried.values().map(|carried| &carried.install.client).find(|client| client.addr.contains(addr))
    }

    /// How many grants this node carries as a gateway.
    pub fn carried(&self) -> usize {
        self.carried.len()
    }
}
