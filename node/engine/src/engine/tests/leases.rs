//! Grants held: how they change, and every way in which they end.

use std::time::Duration;

use postern_model::{DenyReason, Filter};
use postern_wire::{CoordinatorMessage, Eviction, Welcome};

use super::{
    node::Node,
    setting::{DB, GATEWAY, LEASE, MAIL, WIKI, granted, install, resource_addr, secs, welcome},
};

#[test]
fn a_lease_ends_on_its_moment() {
    let mut node = Node::holding(&[WIKI]);
    let seen = node.pass(LEASE - Duration::from_nanos(1));
    assert!(seen.iter().all(|(_, line)| line == "in use?"), "{seen:?}");
    assert_eq!(node.pass(Duration::from_nanos(1)), [(1e-9, "table".to_owned())]);
    assert!(node.table().held.is_empty() && node.table().peers.is_empty());
    node.miss(WIKI, "one");
    assert_eq!(node.events(), ["ask 0"]);
}

#[test]
fn a_lease_ends_at_its_gateway_too() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "10.0.0.5"));
    assert_eq!(node.events(), ["table carried 2"]);
    assert_eq!(node.pass(LEASE), [(600.0, "table".to_owned())]);
    assert_eq!(node.engine.carried(), 0);
    assert!(node.table().peers.is_empty());
}

#[test]
fn a_packet_at_the_end_of_a_lease_asks_anew() {
    // The forwarder looks at the lease itself, and may be ahead of the engine's timer.
    let mut node = Node::holding(&[WIKI]);
    node.now = node.now + LEASE;
    node.miss(WIKI, "one");
    assert_eq!(node.events(), ["ask 0"]);
    node.granted(granted(2, WIKI));
    assert_eq!(node.events(), ["table held 2", "replay one"]);
}

#[test]
fn without_a_coordinator_grants_live_to_the_end_of_their_lease() {
    let mut node = Node::holding(&[WIKI]);
    node.engine.handle_disconnected();
    assert!(node.events().is_empty());
    node.in_use(&[WIKI]);
    assert_eq!(node.pass(secs(10_000)), [(600.0, "table".to_owned())]);
}

#[test]
fn a_lease_of_any_length_is_counted() {
    let mut node = Node::connected(&[WIKI]);
    for lease in [Duration::MAX, Duration::ZERO, Duration::from_nanos(1)] {
        let mut endless = install(MAIL, "10.0.0.5");
        endless.lease = lease;
        node.welcome(Welcome { installed: vec![endless], ..welcome(&[WIKI]) });
        let mut endless = granted(1, WIKI);
        endless.lease = lease;
        node.granted(endless);
        let lives = lease > secs(10);
        assert_eq!(node.pass(secs(10)).last().unwrap().1, if lives { "table held 1 carried 2" } else { "table" });
        assert_eq!((node.table().held.is_empty(), node.table().carried.is_empty()), (!lives, !lives), "{lease:?}");
    }
}

#[test]
fn a_revoked_grant_is_acknowledged_once_it_lets_nothing_through() {
    let mut node = Node::holding(&[WIKI]);
    node.applied();
    node.revoke(1);
    assert_eq!(node.events(), ["denied 0: no_policy", "table"]);
    node.engine.handle_applied(crate::Generation(node.generation().0 - 1), &[]);
    assert!(node.events().is_empty(), "the old table is still in force");
    node.applied();
    assert_eq!(node.events(), ["revoked 1"]);
    node.applied();
    assert!(node.events().is_empty());
}

#[test]
fn a_revocation_touches_no_other_grant() {
    let mut node = Node::holding(&[WIKI, DB]);
    node.granted(granted(2, DB));
    assert_eq!(node.events(), ["table held 1 2"]);
    node.revoke(1);
    assert_eq!(node.events(), ["denied 0: no_policy", "table held 2"]);
    assert!(node.table().peers.contains_key(&GATEWAY), "the peer has a grant left");
}

#[test]
fn a_grant_that_was_replaced_may_be_revoked() {
    let mut node = Node::holding(&[WIKI]);
    node.granted(granted(2, WIKI));
    node.revoke(1);
    node.applied();
    assert_eq!(node.events(), ["table held 2"], "what is held is another");
    node.applied();
    assert_eq!(node.events(), ["revoked 1"]);
}

#[test]
fn a_changed_grant_takes_effect_at_once() {
    let mut node = Node::holding(&[WIKI]);
    let mut narrower = granted(1, WIKI);
    narrower.filter = Filter { icmp: true, ..Filter::default() };
    node.message(CoordinatorMessage::Granted(Box::new(narrower.clone())));
    assert_eq!(node.events(), ["table held 1"]);
    assert_eq!(node.table().held[&resource_addr(WIKI).v4.into()].filter, narrower.filter);
}

#[test]
fn an_evicted_node_has_nothing() {
    let mut node = Node::holding(&[WIKI, DB]);
    node.install(install(MAIL, "10.0.0.5"));
    node.miss(DB, "one");
    assert_eq!(node.events(), ["table held 1 carried 2", "ask 1"]);
    node.message(CoordinatorMessage::Evicted { reason: Eviction::Revoked });
    assert_eq!(node.events(), ["refuse one: access_denied", "table"]);
    let table = node.table();
    assert!(table.catalogue.is_empty() && table.peers.is_empty());
    assert!(node.engine.resources(node.now).is_empty());
    assert_eq!(node.engine.carried(), 0);
    node.applied();
    assert!(node.events().is_empty(), "nobody waits for an acknowledgement");
}

#[test]
fn nothing_comes_back_after_an_eviction_but_a_welcome() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    node.engine.handle_evicted();
    node.granted(granted(1, WIKI));
    node.want(WIKI);
    node.miss(WIKI, "two");
    assert_eq!(node.events(), ["ask 0", "refuse one: access_denied", "table", "refuse two: access_denied"]);
    node.idle(secs(1000));
    node.welcome(Welcome { granted: vec![granted(2, WIKI)], ..welcome(&[WIKI]) });
    assert_eq!(node.events(), ["table held 2"]);
}

#[test]
fn the_status_says_what_is_held_and_for_how_long() {
    let mut node = Node::holding(&[WIKI, DB]);
    node.idle(secs(100));
    let status = node.engine.resources(node.now);
    let lines: Vec<_> = status.iter().map(|held| (held.entry.name.as_str(), held.lease_left, held.gateway)).collect();
    assert_eq!(lines, [("db", None, None), ("wiki", Some(LEASE - secs(100)), Some(GATEWAY))]);
    let later = node.now + LEASE;
    assert!(node.engine.resources(later).iter().all(|held| held.lease_left.is_none()), "an ended lease is not held");
}

#[test]
fn a_denied_renewal_ends_the_grant() {
    let mut node = Node::holding(&[WIKI]);
    assert_eq!(node.pass(secs(400)), [(400.0, "in use?".to_owned())]);
    node.in_use(&[WIKI]);
    node.denied(WIKI, DenyReason::UserSuspended);
    assert_eq!(node.events(), ["ask 0", "denied 0: user_suspended", "table"]);
    node.miss(WIKI, "one");
    assert_eq!(node.events(), ["refuse one: access_denied"]);
}
