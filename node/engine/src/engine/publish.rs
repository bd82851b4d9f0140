//! The table that follows from grants, catalogue and names.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use postern_model::{Candidate, OverlayAddr, PresharedKey, PublicKey, RelayId};
use postern_wire::{Granted, InstallGrant, relay::RelayedPeer};

use super::{Engine, EngineEvent, RelayPeer};
use crate::{CarriedGrant, ForwardingTable, Generation, HeldGrant, Peer, Visible};

/// What is to be done, in order.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<Entry>,
    /// Whether a table is among it that is still to be made.
    has_table: bool,
}

#[derive(Debug)]
enum Entry {
    /// The table, to be made when its turn comes, of all that has changed by then.
    Table,
    Event(EngineEvent),
}

impl Events {
    pub(super) fn push_back(&mut self, event: EngineEvent) {
        self.queue.push_back(Entry::Event(event));
    }

    /// Sees to it that a table is among it; whether it was not.
    fn want_table(&mut self) -> bool {
        let is_new = !std::mem::replace(&mut self.has_table, true);
        if is_new {
            self.queue.push_back(Entry::Table);
        }
        is_new
    }
}

impl Engine {
    /// Publishes the next generation. What is published before the shell asks what to do is one and the same, since a
    /// table costs as much as there are grants. It comes where the first change did: later than it was asked for, a table
    /// is only ever newer.
    pub(super) fn publish(&mut self) {
        if self.place.is_some() && self.events.want_table() {
            self.generation = Generation(self.generation.0 + 1);
        }
    }

    pub(super) fn next_event(&mut self) -> Option<EngineEvent> {
        loop {
            match self.events.queue.pop_front()? {
                Entry::Event(event) => return Some(event),
                Entry::Table => {
                    self.events.has_table = false;
                    if let Some(table) = self.table() {
                        if let Some(peers) = self.new_relay_peers(&table) {
                            self.events.queue.push_front(Entry::Event(EngineEvent::RelayPeers(peers)));
                        }
                        return Some(EngineEvent::Publish(table));
                    }
                }
            }
        }
    }

    /// Makes the table that is still to be made now, before what it is made of is gone.
    pub(super) fn settle_table(&mut self) {
        let Some(table) = self.table() else { return };
        let peers = self.new_relay_peers(&table);
        let queue = &mut self.events.queue;
        if let Some(at) = queue.iter().position(|entry| matches!(entry, Entry::Table)) {
            queue[at] = Entry::Event(EngineEvent::Publish(table));
            if let Some(peers) = peers {
                queue.insert(at + 1, Entry::Event(EngineEvent::RelayPeers(peers)));
            }
            self.events.has_table = false;
        }
    }

    /// The peers of a table for which this node has a pass, if they are others than were told last.
    fn new_relay_peers(&mut self, table: &ForwardingTable) -> Option<Vec<RelayPeer>> {
        let held = self.held.values().map(|held| (held.granted.gateway, &held.granted.relayed));
        let carried = self.carried.values().map(|carried| (carried.install.client.wireguard, &carried.install.relayed));
        let mut passes = BTreeMap::new();
        for (key, relayed) in held.chain(carried) {
            let Some(RelayedPeer { pass, .. }) = relayed else { continue };
            let known = passes.entry(key).or_insert(*pass);
            if known.pass.expires < pass.pass.expires {
                *known = *pass;
            }
        }
        let relays = |key: &PublicKey| table.peers.get(key).map(|peer| peer.relays.clone()).unwrap_or_default();
        let peers: Vec<_> =
            passes.into_iter().map(|(key, pass)| RelayPeer { relays: relays(&key), key, pass }).collect();
        if peers == self.relay_peers {
            return None;
        }
        self.relay_peers.clone_from(&peers);
        Some(peers)
    }

    /// The table of this moment, if there can be one.
    fn table(&self) -> Option<Arc<ForwardingTable>> {
        let place = self.place.as_ref()?;
        let mut table = ForwardingTable::empty(self.generation, place.own, place.ranges);
        for entry in self.catalogue.values() {
            let visible = Visible { resource: entry.id, addr: entry.addr, filter: entry.filter.clone() };
            let visible = Arc::new(visible);
            for addr in both(entry.addr) {
                table.catalogue.insert(addr, Arc::clone(&visible));
            }
        }
        for held in self.held.values() {
            let grant = Arc::new(HeldGrant {
                grant: held.granted.grant,
                resource: held.granted.resource,
                addr: held.addr,
                peer: held.granted.gateway,
                filter: held.granted.filter.clone(),
                expires: held.expires,
            });
            for addr in both(held.addr) {
                table.held.insert(addr, Arc::clone(&grant));
            }
            let Granted { gateway, preshared_key, candidates, relayed, .. } = &held.granted;
            let peer = self.peer(*gateway, preshared_key, candidates, relayed.as_ref());
            add_peer(&mut table, Peer { holds: true, initiate: true, ..peer });
        }
        for carried in self.carried.values() {
            let install = &carried.install;
            let grant = Arc::new(CarriedGrant {
                grant: install.grant,
                client: install.client.id,
                client_addr: install.client.addr,
                peer: install.client.wireguard,
                resource: install.resource,
                resource_addr: install.resource_addr,
                targets: self.targets.addresses(&install.target),
                filter: install.filter.clone(),
                expires: carried.expires,
                queried: install.queried.clone(),
            });
            for pair in both(install.client.addr).into_iter().zip(both(install.resource_addr)) {
                table.carried.insert(pair, Arc::clone(&grant));
            }
            let InstallGrant { client, preshared_key, candidates, relayed, .. } = install;
            let peer = self.peer(client.wireguard, preshared_key, candidates, relayed.as_ref());
            add_peer(&mut table, Peer { carries: true, initiate: carried.is_inherited, ..peer });
        }
        Some(Arc::new(table))
    }

    /// The other end of a grant.
    fn peer(
        &self,
        key: PublicKey,
        preshared_key: &PresharedKey,
        candidates: &[Candidate],
        relayed: Option<&RelayedPeer>,
    ) -> Peer {
        let mut relays: Vec<RelayId> = Vec::new();
        if let Some(relayed) = relayed {
            // Without a pass no relay forwards.
            relays.extend(relayed.relay);
            relays.extend(self.home_relay.filter(|home| Some(*home) != relayed.relay));
        }
        let mut candidates: Vec<_> = candidates.iter().map(|candidate| candidate.addr).collect();
        if let Some(nat64) = &self.nat64 {
            // Beside the addresses themselves: a network may have IPv4 of its own and no way out.
            let translated = |addr: &SocketAddr| match addr.ip() {
                IpAddr::V4(ip) => Some(SocketAddr::new(nat64.synthesize(ip).into(), addr.port())),
                IpAddr::V6(_) => None,
            };
            let translated: Vec<_> = candidates.iter().filter_map(translated).collect();
            add_missing(&mut candidates, &translated);
        }
        Peer {
            key,
            preshared_key: preshared_key.clone(),
            candidates,
            relays,
            holds: false,
            carries: false,
            initiate: false,
        }
    }
}

fn both(addr: OverlayAddr) -> [IpAddr; 2] {
    [addr.v4.into(), addr.v6.into()]
}

/// Two devices may be each other's gateway: one peer, which either may call.
fn add_peer(table: &mut ForwardingTable, mut peer: Peer) {
    if let Some(known) = table.peers.get(&peer.key) {
        peer.holds |= known.holds;
        peer.carries |= known.carries;
        peer.initiate |= known.initiate;
        add_missing(&mut peer.candidates, &known.candidates);
        add_missing(&mut peer.relays, &known.relays);
    }
    table.peers.insert(peer.key, Arc::new(peer));
}

fn add_missing<T: Copy + PartialEq>(all: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !all.contains(one) {
            all.push(*one);
        }
    }
}
