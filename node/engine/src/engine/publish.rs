//! The table that follows from grants, catalogue and names.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use postern_model::{Candidate, OverlayAddr, PresharedKey, PublicKey};

use super::{Engine, EngineEvent};
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
                        return Some(EngineEvent::Publish(table));
                    }
                }
            }
        }
    }

    /// Makes the table that is still to be made now, before what it is made of is gone.
    pub(super) fn settle_table(&mut self) {
        let Some(table) = self.table() else { return };
        if let Some(entry) = self.events.queue.iter_mut().find(|entry| matches!(entry, Entry::Table)) {
            *entry = Entry::Event(EngineEvent::Publish(table));
            self.events.has_table = false;
        }
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
            add_peer(&mut table, held.granted.gateway, &held.granted.preshared_key, &held.granted.candidates, true);
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
            let (key, psk) = (install.client.wireguard, &install.preshared_key);
            add_peer(&mut table, key, psk, &install.candidates, carried.is_inherited);
        }
        Some(Arc::new(table))
    }
}

fn both(addr: OverlayAddr) -> [IpAddr; 2] {
    [addr.v4.into(), addr.v6.into()]
}

/// Two devices may be each other's gateway: one peer, which either may call.
fn add_peer(table: &mut ForwardingTable, key: PublicKey, psk: &PresharedKey, candidates: &[Candidate], initiate: bool) {
    let mut candidates: Vec<_> = candidates.iter().map(|candidate| candidate.addr).collect();
    let mut initiate = initiate;
    if let Some(known) = table.peers.get(&key) {
        initiate |= known.initiate;
        candidates
            .extend(known.candidates.iter().filter(|addr| !candidates.contains(addr)).copied().collect::<Vec<_>>());
    }
    let peer = Peer { key, preshared_key: psk.clone(), candidates, initiate };
    table.peers.insert(key, Arc::new(peer));
}
