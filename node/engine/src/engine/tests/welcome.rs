//! The snapshot is authoritative; without one nothing passes. The catalogue changes by deltas.

use postern_model::{DenyReason, Filter, Protocol, Revision};
use postern_wire::{CatalogueEntry, CoordinatorMessage, Welcome};

use super::{
    node::Node,
    setting::{
        DB, GATEWAY, LEASE, MAIL, OTHER_GATEWAY, WIKI, candidate, catalogue, client, entry, granted, install, own,
        ranges, resource, resource_addr, secs, welcome,
    },
};
use crate::table::Outbound;

fn outbound(node: &Node, number: u8) -> Outbound<'_> {
    node.table().outbound(resource_addr(number).v4.into(), Protocol::Tcp, 80, node.now)
}

#[test]
fn without_a_welcome_nothing_is_published() {
    let mut node = Node::new();
    node.message(catalogue(&[entry(WIKI)], &[]));
    node.message(CoordinatorMessage::Granted(Box::new(granted(1, WIKI))));
    node.granted(granted(1, WIKI));
    node.install(install(DB, "10.0.0.5"));
    node.engine.handle_applied(crate::Generation(100), &[]);
    node.revoke(1);
    assert!(!node.pass(secs(1000)).iter().any(|(_, line)| line.starts_with("table")));
    node.engine.handle_evicted();
    assert!(!node.events().iter().any(|line| line.starts_with("table")));
}

#[test]
fn without_a_welcome_packets_are_refused() {
    let mut node = Node::new();
    node.miss(WIKI, "one");
    node.want(WIKI);
    assert_eq!(node.events(), ["refuse one: access_denied"]);
}

#[test]
fn a_welcome_publishes_the_catalogue_and_both_kinds_of_grants() {
    let mut node = Node::new();
    let (held, carried) = (vec![granted(1, WIKI)], vec![install(MAIL, "10.0.0.5")]);
    node.welcome(Welcome { granted: held, installed: carried, ..welcome(&[WIKI, DB]) });
    assert_eq!(node.events(), ["table held 1 carried 2"]);
    let table = node.table();
    assert_eq!((table.own, table.ranges), (own(), ranges()));
    assert_eq!(table.catalogue.len(), 4, "two resources, each in both families");
    assert_eq!(table.catalogue[&resource_addr(DB).v6.into()].resource, resource(DB));
    let held = &table.held[&resource_addr(WIKI).v6.into()];
    assert_eq!((held.resource, held.peer, held.expires), (resource(WIKI), GATEWAY, node.now + LEASE));
    let carried = &table.carried[&(client(0).addr.v6.into(), resource_addr(MAIL).v6.into())];
    assert_eq!((carried.client, carried.peer, carried.expires), (client(0).id, client(0).wireguard, node.now + LEASE));
    assert_eq!(node.targets(MAIL), ["10.0.0.5"]);
    assert!(matches!(outbound(&node, WIKI), Outbound::Granted(_)));
    assert_eq!(outbound(&node, DB), Outbound::Ask(resource(DB)));
}

#[test]
fn only_a_client_starts_handshakes() {
    let mut node = Node::holding(&[WIKI]);
    node.install(install(MAIL, "10.0.0.5"));
    node.events();
    let peers = &node.table().peers;
    assert_eq!(peers.len(), 2);
    assert!(peers[&GATEWAY].initiate && !peers[&client(0).wireguard].initiate);
    assert_eq!(peers[&GATEWAY].candidates, [candidate(1).addr]);
}

#[test]
fn devices_that_are_each_others_gateway_are_one_peer() {
    let mut node = Node::new();
    let mut carried = install(MAIL, "10.0.0.5");
    carried.client.wireguard = GATEWAY;
    node.welcome(Welcome { granted: vec![granted(1, WIKI)], installed: vec![carried], ..welcome(&[WIKI]) });
    node.events();
    let peers = &node.table().peers;
    assert_eq!(peers.len(), 1);
    assert!(peers[&GATEWAY].initiate);
    assert_eq!(peers[&GATEWAY].candidates.len(), 2, "it may be reached where either grant says");
}

#[test]
fn what_a_welcome_does_not_list_ends() {
    let mut node = Node::new();
    let (held, carried) = (granted(1, WIKI), install(MAIL, "10.0.0.5"));
    let listed = Welcome { granted: vec![held], installed: vec![carried], ..welcome(&[WIKI, DB]) };
    node.welcome(listed.clone());
    assert_eq!(node.events(), ["table held 1 carried 2"]);
    node.engine.handle_disconnected();
    node.welcome(listed);
    assert_eq!(node.events(), ["table held 1 carried 2"]);
    node.welcome(welcome(&[DB]));
    assert_eq!(node.events(), ["table"]);
    let table = node.table();
    assert!(table.peers.is_empty());
    assert_eq!(table.catalogue.len(), 2);
    assert_eq!(node.engine.whois(client(0).addr.v4.into()), None);
}

#[test]
fn a_grant_outside_the_catalogue_is_not_held() {
    let mut node = Node::new();
    node.welcome(Welcome { granted: vec![granted(1, WIKI), granted(2, DB)], ..welcome(&[DB]) });
    assert_eq!(node.events(), ["table held 2"]);
}

#[test]
fn candidates_are_kept_when_the_coordinator_has_none() {
    let mut node = Node::holding(&[WIKI]);
    let mut unknown = granted(1, WIKI);
    unknown.candidates.clear();
    node.welcome(Welcome { granted: vec![unknown.clone()], ..welcome(&[WIKI]) });
    node.events();
    assert_eq!(node.table().peers[&GATEWAY].candidates, [candidate(1).addr]);
    node.granted(unknown.clone());
    node.events();
    assert_eq!(node.table().peers[&GATEWAY].candidates, [candidate(1).addr], "at a renewal as well");
    unknown.gateway = OTHER_GATEWAY;
    node.granted(unknown);
    node.events();
    assert!(node.table().peers[&OTHER_GATEWAY].candidates.is_empty(), "those of another gateway mean nothing");
}

#[test]
fn newer_candidates_replace_the_old() {
    let mut node = Node::holding(&[WIKI]);
    let mut moved = granted(1, WIKI);
    moved.candidates = vec![candidate(5)];
    node.message(CoordinatorMessage::Granted(Box::new(moved)));
    node.events();
    assert_eq!(node.table().peers[&GATEWAY].candidates, [candidate(5).addr]);
}

#[test]
fn a_removed_entry_takes_its_grant_and_what_waits() {
    let mut node = Node::holding(&[WIKI, DB]);
    node.miss(DB, "one");
    assert_eq!(node.events(), ["ask 1"]);
    node.message(catalogue(&[], &[WIKI, DB]));
    assert_eq!(node.events(), ["refuse one: access_denied", "table"]);
    assert!(node.table().catalogue.is_empty() && node.table().peers.is_empty());
    node.granted(granted(2, DB));
    node.miss(DB, "two");
    assert_eq!(node.events(), ["table", "refuse two: access_denied"], "a late answer brings nothing back");
}

#[test]
fn a_new_entry_may_be_asked_for() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(DB, "one");
    node.message(catalogue(&[entry(DB)], &[]));
    node.miss(DB, "two");
    assert_eq!(node.events(), ["refuse one: access_denied", "table", "ask 1"]);
    assert_eq!(node.table().catalogue.len(), 4);
}

#[test]
fn a_changed_entry_changes_what_is_open() {
    let mut node = Node::holding(&[WIKI]);
    let closed = CatalogueEntry { filter: Filter { icmp: true, ..Filter::default() }, ..entry(WIKI) };
    node.message(catalogue(&[closed], &[]));
    assert_eq!(node.events(), ["table held 1"]);
    assert_eq!(outbound(&node, WIKI), Outbound::Refused(crate::DropReason::PortClosed));
}

/// Invariant: nobody is led to this node with a whole top-level domain.
#[test]
fn aliases_of_a_single_label_are_not_taken() {
    let mut node = Node::connected(&[]);
    let aliases = ["com", "wiki.example.com", "intranet"].map(|alias| alias.parse().unwrap()).to_vec();
    let entry = CatalogueEntry { aliases, ..entry(WIKI) };
    node.message(catalogue(std::slice::from_ref(&entry), &[]));
    let taken = |node: &Node| node.engine.resources(node.now)[0].entry.aliases.clone();
    assert_eq!(taken(&node), ["wiki.example.com".parse().unwrap()]);
    node.welcome(Welcome { catalogue: vec![entry], ..welcome(&[]) });
    assert_eq!(taken(&node), ["wiki.example.com".parse().unwrap()]);
}

#[test]
fn a_removed_resource_may_come_back() {
    let mut node = Node::holding(&[WIKI]);
    node.message(catalogue(&[], &[WIKI]));
    node.message(catalogue(&[entry(WIKI)], &[]));
    assert_eq!(node.events(), ["table"], "and its grant does not");
    node.miss(WIKI, "one");
    node.denied(WIKI, DenyReason::NoPolicy);
    assert_eq!(node.events(), ["ask 0", "denied 0: no_policy", "refuse one: access_denied"]);
}

#[test]
fn a_welcome_is_said_to_be_in_force_once_its_table_is() {
    let mut node = Node::new();
    node.welcome(Welcome { revision: Revision(7), ..welcome(&[WIKI]) });
    assert_eq!(node.events(), ["table"]);
    assert!(node.settled.is_empty(), "what it takes away may still pass");
    node.applied();
    assert!(node.events().is_empty());
    assert_eq!(node.settled, [Revision(7)]);
    // One that is overtaken by the end of its session proves nothing to the next.
    node.welcome(Welcome { revision: Revision(8), ..welcome(&[]) });
    node.engine.handle_disconnected();
    node.welcome(Welcome { revision: Revision(9), ..welcome(&[]) });
    node.events();
    node.applied();
    node.events();
    assert_eq!(node.settled, [Revision(7), Revision(9)]);
}
