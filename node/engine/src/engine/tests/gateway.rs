//! Grants carried: acknowledged once in force, each as often as it was installed.

use postern_model::GrantId;
use postern_wire::{InstallGrant, NodeMessage, Welcome};

use super::{
    node::Node,
    setting::{DB, LEASE, MAIL, WIKI, client, grant, granted, install, ranges, resource_addr, secs, welcome},
};
use crate::{EngineEvent, Generation};

#[test]
fn a_grant_is_acknowledged_once_its_table_is_in_force() {
    let mut node = Node::connected(&[]);
    let before = node.generation();
    node.install(install(MAIL, "10.0.0.5"));
    assert_eq!(node.events(), ["table carried 2"]);
    node.engine.handle_applied(before, &[]);
    assert!(node.events().is_empty(), "another table is in force");
    node.applied();
    assert_eq!(node.events(), ["installed 2"]);
    node.applied();
    assert!(node.events().is_empty(), "once");
}

#[test]
fn a_later_table_acknowledges_the_earlier_ones_in_order() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    assert_eq!(node.events(), ["table carried 2"]);
    node.install(install(WIKI, "10.0.0.6"));
    assert_eq!(node.events(), ["table carried 0 2"]);
    node.revoke(2);
    assert_eq!(node.events(), ["table carried 0"]);
    node.engine.handle_applied(Generation(node.generation().0 - 1), &[]);
    assert_eq!(node.events(), ["installed 2", "installed 0"]);
    node.applied();
    assert_eq!(node.events(), ["revoked 2"]);
}

/// Invariant: what is told at once costs one table, however much it is, and each of it is acknowledged.
#[test]
fn a_thousand_grants_at_once_make_one_table_and_a_thousand_acknowledgements() {
    let mut node = Node::connected(&[]);
    let many = |number: u32| InstallGrant {
        grant: GrantId::from_bytes(u128::from(number).to_be_bytes()),
        resource_addr: ranges().resource(1000 + number).unwrap(),
        ..install(MAIL, "10.0.0.5")
    };
    for number in 0..1000 {
        node.install(many(number));
    }
    let Some(EngineEvent::Publish(table)) = node.engine.poll_event() else { panic!("a table") };
    assert_eq!(table.carried.len(), 2000, "each in both families");
    assert!(node.engine.poll_event().is_none(), "and nothing else");
    node.engine.handle_applied(table.generation, &[]);
    let mut acknowledged = 0..1000;
    while let Some(EngineEvent::Send(message)) = node.engine.poll_event() {
        let grant = many(acknowledged.next().expect("not more than were installed")).grant;
        assert_eq!(message, NodeMessage::GrantInstalled { grant, cut: 0 });
    }
    assert!(acknowledged.is_empty());
}

#[test]
fn a_table_is_of_all_that_was_told_before_it_is_taken() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    node.install(install(MAIL, "10.0.0.5"));
    node.granted(granted(1, WIKI));
    node.revoke(2);
    assert_eq!(node.events(), ["ask 0", "table held 1", "replay one"]);
    node.applied();
    assert_eq!(node.events(), ["installed 2", "revoked 2"]);
}

#[test]
fn the_last_table_of_an_identity_is_published_although_it_is_gone() {
    let mut node = Node::holding(&[WIKI]);
    node.install(install(MAIL, "10.0.0.5"));
    node.engine.handle_evicted();
    assert_eq!(node.events(), ["table"]);
    node.welcome(welcome(&[WIKI]));
    assert_eq!(node.events(), ["table"]);
}

/// Only then may clients have sessions with this gateway that it does not know.
#[test]
fn a_gateway_calls_the_clients_of_grants_from_before_its_start() {
    let calls = |node: &Node| node.table().peers[&client(0).wireguard].initiate;
    let listed = || Welcome { installed: vec![install(MAIL, "10.0.0.5")], ..welcome(&[]) };
    let mut node = Node::new();
    node.welcome(listed());
    node.events();
    assert!(calls(&node));
    node.engine.handle_disconnected();
    node.welcome(listed());
    node.events();
    assert!(!calls(&node), "another session is no other start");
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    node.events();
    assert!(!calls(&node), "the client of a new grant calls itself");
}

#[test]
fn every_install_has_an_acknowledgement_of_its_own() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    node.install(install(MAIL, "10.0.0.5"));
    node.events();
    node.applied();
    assert_eq!(node.events(), ["installed 2", "installed 2"]);
    node.install(install(MAIL, "10.0.0.5"));
    node.events();
    node.applied();
    assert_eq!(node.events(), ["installed 2"]);
}

#[test]
fn a_second_install_renews_the_lease() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    assert_eq!(node.events(), ["table carried 2"]);
    node.idle(secs(400));
    node.install(install(MAIL, "10.0.0.5"));
    assert_eq!(node.events(), ["table carried 2"]);
    assert_eq!(node.engine.carried(), 1);
    assert_eq!(node.pass(LEASE * 2), [(600.0, "table".to_owned())]);
}

#[test]
fn what_a_welcome_installs_is_acknowledged_too() {
    let mut node = Node::new();
    node.welcome(Welcome { installed: vec![install(MAIL, "10.0.0.5")], ..welcome(&[]) });
    node.events();
    node.applied();
    assert_eq!(node.events(), ["installed 2"]);
}

#[test]
fn acknowledgements_do_not_outlive_their_session() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    node.install(install(MAIL, "10.0.0.5"));
    node.revoke(0);
    node.events();
    node.engine.handle_disconnected();
    node.applied();
    assert!(node.events().is_empty());
    node.welcome(Welcome { installed: vec![install(MAIL, "10.0.0.5")], ..welcome(&[]) });
    node.events();
    node.applied();
    assert_eq!(node.events(), ["installed 2"], "one for what the new session said");
}

#[test]
fn a_welcome_without_a_disconnect_before_it_starts_anew_as_well() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    node.welcome(Welcome { installed: vec![install(MAIL, "10.0.0.5")], ..welcome(&[]) });
    node.events();
    node.applied();
    assert_eq!(node.events(), ["installed 2"]);
}

#[test]
fn a_revoked_grant_is_acknowledged_once_it_lets_nothing_through() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    node.install(install(WIKI, "10.0.0.6"));
    node.events();
    node.applied();
    node.events();
    node.revoke(2);
    assert_eq!(node.events(), ["table carried 0"]);
    assert!(node.table().peers.contains_key(&client(0).wireguard), "the client has a grant left");
    node.engine.handle_applied(Generation(node.generation().0 - 1), &[]);
    assert!(node.events().is_empty());
    node.applied();
    assert_eq!(node.events(), ["revoked 2"]);
    node.revoke(0);
    node.events();
    assert!(node.table().peers.is_empty());
}

#[test]
fn the_revocation_of_an_unknown_grant_is_acknowledged() {
    let mut node = Node::connected(&[]);
    node.revoke(3);
    assert_eq!(node.events(), ["table"]);
    node.applied();
    assert_eq!(node.events(), ["revoked 3"]);
}

#[test]
fn grants_are_bound_to_their_own_client() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    assert_eq!(node.events(), ["table carried 2"]);
    let mut others = install(WIKI, "10.0.0.6");
    others.client = client(1);
    node.install(others);
    assert_eq!(node.events(), ["table carried 0 2"]);
    let table = node.table();
    let pair = |who, number| (client(who).addr.v4.into(), resource_addr(number).v4.into());
    assert_eq!(table.carried[&pair(1, WIKI)].peer, client(1).wireguard);
    assert!(!table.carried.contains_key(&pair(0, WIKI)) && !table.carried.contains_key(&pair(1, MAIL)));
    assert_eq!(table.peers.len(), 2);
}

#[test]
fn whois_knows_the_clients_with_a_grant() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    for addr in [client(0).addr.v4.into(), client(0).addr.v6.into()] {
        assert_eq!(node.engine.whois(addr), Some(&client(0)));
    }
    assert_eq!(node.engine.whois(client(1).addr.v4.into()), None);
    assert_eq!(node.engine.whois(resource_addr(MAIL).v4.into()), None);
    node.revoke(2);
    assert_eq!(node.engine.whois(client(0).addr.v4.into()), None);
}

#[test]
fn a_node_may_hold_and_carry_at_once() {
    let mut node = Node::holding(&[WIKI]);
    node.install(install(MAIL, "10.0.0.5"));
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["table held 1 carried 2"]);
    node.revoke(1);
    assert_eq!(node.events(), ["denied 0: no_policy", "table carried 2"]);
}

#[test]
fn an_acknowledgement_says_how_many_flows_were_cut() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    node.install(install(DB, "10.0.0.6"));
    node.events();
    node.applied();
    node.events();
    // Narrowed, and then revoked: each says its own.
    node.install(install(MAIL, "10.0.0.5"));
    node.events();
    node.applied_and_cut(&[(MAIL, 3)]);
    assert_eq!(node.events(), ["installed 2 cut 3"]);
    node.revoke(MAIL);
    node.revoke(DB);
    node.events();
    node.applied_and_cut(&[(MAIL, 2)]);
    assert_eq!(node.events(), ["revoked 2 cut 2", "revoked 1"]);
}

#[test]
fn what_was_cut_before_the_acknowledgement_is_due_is_said_with_it_and_else_forgotten() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    node.install(install(DB, "10.0.0.6"));
    node.events();
    node.applied();
    node.events();
    node.revoke(MAIL);
    node.events();
    // An older table is in force, while leases end by themselves.
    node.engine.handle_applied(Generation(node.generation().0 - 1), &[(grant(MAIL), 1), (grant(DB), 4)]);
    assert!(node.events().is_empty());
    node.applied_and_cut(&[(MAIL, 1), (WIKI, 9)]);
    assert_eq!(node.events(), ["revoked 2 cut 2"]);
    node.install(install(WIKI, "10.0.0.7"));
    node.events();
    node.applied();
    assert_eq!(node.events(), ["installed 0"], "nobody waited for what was cut of an earlier one");
}
