//! How the node is reached, told to all whom it concerns: the coordinator, the engine, the lanes, the session's keeper.

use std::{net::SocketAddr, sync::Arc};

use postern_dataplane::{LaneHandle, RelayOut};
use postern_model::{Candidate, Moment, PublicKey, RelayId, candidate::MAX_CANDIDATES};
use postern_wire::{Hello, NodeMessage, RelayEntry, SignedPass};

use super::Node;
use crate::{
    os::{candidates, routes},
    reach::{Lanes, Outlet, ReachEvent},
};

/// What of the machine's network tells one from another: addresses with the WireGuard port, and default routes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Network {
    addresses: Vec<Candidate>,
    defaults: Vec<routes::Route>,
}

/// The lanes, for relays and questions.
pub(super) struct OfNode(pub(super) Arc<LaneHandle>);

impl Lanes for OfNode {
    fn relayed(&self, relay: RelayId, peer: PublicKey, packets: Vec<Vec<u8>>) {
        self.0.relayed(relay, peer, packets);
    }

    fn presence(&self, relay: RelayId, peer: PublicKey, is_there: bool) {
        self.0.relay_presence(relay, peer, is_there);
    }

    fn send(&self, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        self.0.send_datagrams(datagrams);
    }
}

impl RelayOut for Outlet {
    fn send(&self, relay: RelayId, peer: &PublicKey, datagram: &[u8], may_split: bool) -> bool {
        Self::send(self, relay, peer, datagram, may_split)
    }
}

impl Node {
    /// Looks whether the machine's network is another one, and tells if it is.
    pub(super) async fn look_at_network(&mut self) {
        let port = self.hello.borrow().wireguard_port;
        let addresses = match candidates::candidates(port, self.machine.interface()).await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "this machine's addresses can't be listed");
                return;
            }
        };
        let mut defaults = routes::routes().await.unwrap_or_default();
        defaults.retain(routes::Route::is_default);
        let network = Network { addresses, defaults };
        let before = self.network.as_ref();
        if before == Some(&network) {
            return;
        }
        let is_first = before.is_none();
        if let Some(reach) = &self.reach {
            reach.set_host(network.addresses.clone());
        }
        self.network = Some(network);
        self.tell_candidates();
        if !is_first {
            self.tell_network_changed();
        }
    }

    /// The network is another one, or may be.
    pub(super) fn tell_network_changed(&self) {
        tracing::debug!("the network has changed");
        self.lane.network_changed();
        if let Some(keeper) = &self.keeper {
            keeper.handle_network_changed();
        }
        if let Some(reach) = &self.reach {
            reach.handle_network_changed();
        }
    }

    pub(super) fn reach_event(&mut self, event: ReachEvent) {
        match event {
            ReachEvent::Candidates(learned) => {
                self.learned = learned;
                self.tell_candidates();
            }
            ReachEvent::Home(relay) => {
                self.engine.set_home_relay(relay);
                self.hello.send_modify(|hello| hello.relay = relay);
                self.send(NodeMessage::HomeRelay { relay });
            }
            ReachEvent::Nat64(nat64) => self.engine.set_nat64(nat64),
        }
    }

    /// Tells where peers may reach this node, if that has changed.
    fn tell_candidates(&self) {
        let host = self.network.iter().flat_map(|network| &network.addresses);
        let candidates = together(&self.learned, host);
        if candidates != self.hello.borrow().candidates {
            self.hello.send_modify(|hello| hello.candidates.clone_from(&candidates));
            self.send(NodeMessage::Candidates { candidates });
        }
    }

    /// What was said in a hello may have changed since, while there was nobody to tell.
    pub(super) fn tell_reach_anew(&self, told: &Hello) {
        let hello = self.hello.borrow().clone();
        if hello.candidates != told.candidates {
            self.send(NodeMessage::Candidates { candidates: hello.candidates });
        }
        if hello.relay != told.relay {
            self.send(NodeMessage::HomeRelay { relay: hello.relay });
        }
        if let Some(reach) = &self.reach {
            reach.set_connected(true);
        }
    }

    pub(super) fn set_relays(&mut self, relays: &[RelayEntry], own_pass: Option<SignedPass>) {
        if let Some(welcome) = &mut self.welcome {
            welcome.relays = relays.to_vec();
        }
        if let Some(reach) = &self.reach {
            reach.set_relays(relays.to_vec(), own_pass);
        }
    }

    /// A gateway may be called at any time, and a node that holds a grant may have to be found again.
    pub(super) fn tell_whether_warm(&self, now: Moment) {
        let is_gateway = self.welcome.as_ref().is_some_and(|welcome| welcome.site.is_some());
        let holds = self.table.as_ref().is_some_and(|table| table.held.values().any(|held| now < held.expires));
        if let Some(reach) = &self.reach {
            reach.set_warm(is_gateway || holds);
        }
    }
}

/// What is told of a node: what others see of it first, since that is what must not be cut off.
fn together<'a>(learned: &[Candidate], host: impl Iterator<Item = &'a Candidate>) -> Vec<Candidate> {
    let mut candidates = learned.to_vec();
    for candidate in host {
        if !candidates.iter().any(|known| known.addr == candidate.addr) {
            candidates.push(*candidate);
        }
    }
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_model::candidate::CandidateKind;

    #[test]
    fn what_others_see_is_told_however_many_addresses_there_are() {
        let candidate = |last: u8, kind| Candidate { addr: ([203, 0, 113, last], 4000).into(), kind };
        let learned = [candidate(7, CandidateKind::Observed)];
        let host: Vec<_> = (1..40).map(|last| candidate(last, CandidateKind::Host)).collect();
        let told = together(&learned, host.iter());
        assert_eq!((told.len(), told[0]), (MAX_CANDIDATES, learned[0]));
        assert_eq!(told.iter().filter(|told| told.addr == learned[0].addr).count(), 1);
    }
}
