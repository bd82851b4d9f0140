//! The table that follows from grants, catalogue and names.

use std::{net::IpAddr, sync::Arc};

use postern_model::{Candidate, OverlayAddr, PresharedKey, PublicKey};

use super::{Engine, EngineEvent};
use crate::{CarriedGrant, ForwardingTable, Generation, HeldGrant, Peer, Visible};

impl Engine {
    /// Publishes the next generation.
    pub(super) fn publish(&mut self) {
        let Some(place) = &self.place else { return };
        self.generation = Generation(self.generation.0 + 1);
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
            });
            for pair in both(install.client.addr).into_iter().zip(both(install.resource_addr)) {
                table.carried.insert(pair, Arc::clone(&grant));
            }
            add_peer(&mut table, install.client.wireguard, &install.preshared_key, &install.candidates, false);
        }
        self.events.push_back(EngineEvent::Publish(Arc::new(table)));
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
