//! Peers behind relays: where they may be met, with which pass, and who of two chooses the path.

use postern_model::{PublicKey, RelayId, Sha256, Timestamp};
use postern_wire::{
    Granted,
    relay::{Pass, RelayedPeer, SignedPass},
};

use super::{
    node::Node,
    setting::{GATEWAY, WIKI, client, granted, install},
};
use crate::{EngineEvent, Peer, RelayPeer};

fn relay(number: u8) -> RelayId {
    RelayId::from_bytes([number; 16])
}

fn pass(peer: PublicKey, until: i64) -> SignedPass {
    let expires = Timestamp::from_unix_millis(until);
    let pass = Pass { key: Sha256([1; 32]), holder: PublicKey([2; 32]), peer, expires };
    SignedPass { pass, signature: [3; 64] }
}

/// A grant through a gateway that waits at this relay.
fn relayed(at: Option<u8>, until: i64) -> Granted {
    let relayed = RelayedPeer { relay: at.map(relay), pass: pass(GATEWAY, until) };
    Granted { relayed: Some(relayed), ..granted(1, WIKI) }
}

/// What is told of relays now, after the table that says the same.
fn told(node: &mut Node) -> Option<Vec<RelayPeer>> {
    let mut told = None;
    while let Some(event) = node.engine.poll_event() {
        match event {
            EngineEvent::Publish(table) => {
                assert!(told.is_none(), "the table comes first");
                node.table = Some(table);
            }
            EngineEvent::RelayPeers(peers) => assert!(told.replace(peers).is_none(), "told once"),
            _ => {}
        }
    }
    let peers = &node.table.as_ref().expect("a table").peers;
    for peer in told.iter().flatten() {
        assert_eq!(peers[&peer.key].relays, peer.relays);
    }
    told
}

fn gateway(until: i64, relays: &[u8]) -> Option<Vec<RelayPeer>> {
    let relays = relays.iter().map(|number| relay(*number)).collect();
    Some(vec![RelayPeer { key: GATEWAY, pass: pass(GATEWAY, until), relays }])
}

#[test]
fn relays_are_told_of_each_peer_with_a_pass_and_only_when_it_is_news() {
    let mut node = Node::connected(&[WIKI]);
    node.want(WIKI);
    node.granted(relayed(Some(1), 5));
    assert_eq!(told(&mut node), gateway(5, &[1]));
    node.engine.set_home_relay(Some(relay(2)));
    assert_eq!(told(&mut node), gateway(5, &[1, 2]), "it may come to this node's relay, too");
    node.engine.set_home_relay(Some(relay(2)));
    assert_eq!(told(&mut node), None);
    node.engine.set_home_relay(Some(relay(1)));
    assert_eq!(told(&mut node), gateway(5, &[1]), "which may be the same");
    node.want(WIKI);
    node.granted(relayed(Some(3), 9));
    assert_eq!(told(&mut node), gateway(9, &[3, 1]), "a renewed grant comes with a new pass");
    node.granted(relayed(Some(3), 9));
    assert_eq!(told(&mut node), None);
    node.revoke(1);
    assert_eq!(told(&mut node), Some(vec![]));
}

#[test]
fn without_a_pass_no_relay_is_asked() {
    let mut node = Node::connected(&[WIKI]);
    node.engine.set_home_relay(Some(relay(2)));
    node.want(WIKI);
    node.granted(granted(1, WIKI));
    assert_eq!(told(&mut node), None);
    assert_eq!(node.table.unwrap().peers[&GATEWAY].relays, []);
}

#[test]
fn a_device_that_is_evicted_has_no_peers_left() {
    let mut node = Node::connected(&[WIKI]);
    node.want(WIKI);
    node.granted(relayed(Some(1), 5));
    assert!(told(&mut node).is_some());
    node.engine.handle_evicted();
    assert_eq!(told(&mut node), Some(vec![]));
}

#[test]
fn of_two_grants_with_one_peer_the_pass_that_is_good_for_longer_counts() {
    let mut node = Node::connected(&[WIKI]);
    for (number, until) in [(1, 5), (2, 9), (3, 7)] {
        let mut install = install(number, "10.0.0.5");
        let key = install.client.wireguard;
        install.relayed = Some(RelayedPeer { relay: Some(relay(number)), pass: pass(key, until) });
        node.install(install);
    }
    let peers = told(&mut node).expect("it is news");
    assert_eq!(
        (peers.len(), peers[0].key, peers[0].pass.pass.expires),
        (1, client(0).wireguard, Timestamp::from_unix_millis(9))
    );
    assert_eq!(peers[0].relays.len(), 3, "it may wait at any of them");
}

/// Invariant: of a pair of nodes exactly one chooses.
#[test]
fn one_of_two_chooses_the_path() {
    let [smaller, greater] = [PublicKey([1; 32]), PublicKey([2; 32])];
    let mut node = Node::connected(&[WIKI]);
    node.want(WIKI);
    node.granted(granted(1, WIKI));
    node.install(install(2, "10.0.0.5"));
    told(&mut node);
    let peers = &node.table.as_ref().unwrap().peers;
    let (gateway, client) = (&peers[&GATEWAY], &peers[&client(0).wireguard]);
    assert!(gateway.chooses(&smaller) && gateway.chooses(&PublicKey([9; 32])), "who holds the grant");
    assert!(!client.chooses(&smaller), "and not who carries it");
    let both = |key| Peer { key, holds: true, carries: true, ..(**gateway).clone() };
    assert!(both(greater).chooses(&smaller) && !both(smaller).chooses(&greater));
}
