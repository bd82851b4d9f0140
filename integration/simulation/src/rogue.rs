//! A client that does not keep to anything: its table lets everything out, for ever, from whatever address it likes. What
//! it has once learned of gateways and preshared keys it never forgets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use postern_engine::{ForwardingTable, HeldGrant, Peer, Visible};
use postern_model::{Filter, GrantId, Moment, PortSet, PresharedKey, PublicKey};

use crate::setting::{self, At, RESOURCES};

/// What a rogue client adds to its tables.
#[derive(Debug)]
pub(crate) struct Rogue {
    /// Whose overlay addresses it sends from.
    pub(crate) poses_as: At,
    peers: BTreeMap<PublicKey, Arc<Peer>>,
    /// How many tables it has made.
    twists: usize,
}

impl Rogue {
    pub(crate) fn new(at: At) -> Self {
        Self { poses_as: at, peers: BTreeMap::new(), twists: 0 }
    }

    /// The table that it uses in place of the one that its engine made.
    pub(crate) fn twist(&mut self, table: &ForwardingTable) -> Arc<ForwardingTable> {
        let mut table = table.clone();
        self.twists += 1;
        table.own = setting::device_addr(self.poses_as);
        self.peers.extend(table.peers.iter().map(|(key, peer)| (*key, Arc::clone(peer))));
        for number in 0..RESOURCES.len() {
            // Now one of its gateways, now another.
            let gateways: Vec<_> = setting::gateways_of(number).collect();
            let gateway = gateways[self.twists % gateways.len()];
            let filter = Filter { tcp: PortSet::Any, udp: PortSet::Any, icmp: true };
            let (resource, addr) = (setting::resource_id(number), setting::resource_addr(number));
            let key = setting::private_key(gateway).public();
            let held = Arc::new(HeldGrant {
                grant: GrantId::from_bytes([0xff; 16]),
                resource,
                addr,
                peer: key,
                filter: filter.clone(),
                expires: Moment::default() + Duration::from_secs(1 << 40),
            });
            let visible = Arc::new(Visible { resource, addr, filter });
            for addr in [addr.v4.into(), addr.v6.into()] {
                table.held.insert(addr, Arc::clone(&held));
                table.catalogue.insert(addr, Arc::clone(&visible));
            }
            let known = self.peers.get(&key).cloned();
            let guessed = || {
                let candidates = vec![setting::outside(gateway, 0)];
                let (relays, preshared_key) = (vec![], PresharedKey::new([0; 32]));
                Arc::new(Peer { key, preshared_key, candidates, relays, holds: true, carries: false, initiate: true })
            };
            table.peers.insert(key, known.unwrap_or_else(guessed));
        }
        Arc::new(table)
    }
}
