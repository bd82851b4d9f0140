//! What waits is bounded; what has no room is refused.

use super::{
    node::Node,
    setting::{DB, MAIL, WIKI, granted, resource, secs, welcome},
};
use crate::{DropReason, EngineEvent, Miss};

const PACKETS: usize = 1024;
const BYTES: usize = 4 << 20;
/// As large as a packet can be; 64 of them have no room.
const LARGE: usize = 65_535;

fn large(node: &mut Node, number: u8) {
    node.engine.handle_miss(Miss { resource: resource(number), packet: vec![0; LARGE] }, node.now);
}

/// How many packets were refused for want of room since the last look; nothing else was.
fn refused(node: &mut Node) -> usize {
    let mut count = 0;
    while let Some(event) = node.engine.poll_event() {
        if let EngineEvent::Refuse(packets, reason) = event {
            assert_eq!(reason, DropReason::PendingFull);
            count += packets.len();
        }
    }
    count
}

#[test]
fn a_thousand_packets_wait_for_one_resource() {
    let mut node = Node::connected(&[WIKI, DB]);
    for number in 0..PACKETS {
        node.miss(WIKI, &number.to_string());
    }
    assert_eq!(node.events(), ["ask 0"]);
    node.miss(WIKI, "more");
    node.miss(DB, "other");
    assert_eq!(node.events(), ["refuse more: pending_full", "ask 1"]);
    node.granted(granted(1, WIKI));
    let all: Vec<_> = (0..PACKETS).map(|number| number.to_string()).collect();
    assert_eq!(node.events(), ["table held 1".to_owned(), format!("replay {}", all.join(" "))]);
}

#[test]
fn four_mebibytes_wait_in_all() {
    let mut node = Node::connected(&[WIKI, DB]);
    let fit = BYTES / LARGE;
    for _ in 0..fit / 2 {
        large(&mut node, WIKI);
    }
    for _ in fit / 2..fit {
        large(&mut node, DB);
    }
    assert_eq!(refused(&mut node), 0);
    large(&mut node, WIKI);
    large(&mut node, DB);
    assert_eq!(refused(&mut node), 2);
    node.miss(WIKI, "small");
    assert_eq!(refused(&mut node), 0, "what has room may still come");
}

#[test]
fn room_comes_back_however_the_packets_go() {
    let mut node = Node::connected(&[WIKI, DB, MAIL]);
    for _ in 0..10 {
        for number in [WIKI, DB, MAIL] {
            for _ in 0..BYTES / LARGE / 3 {
                large(&mut node, number);
            }
        }
        assert_eq!(refused(&mut node), 0);
        node.granted(granted(1, WIKI));
        node.revoke(1);
        node.denied(DB, postern_model::DenyReason::NoPolicy);
        while node.engine.poll_event().is_some() {}
        // The third times out, and the denial stands no more.
        let seen = node.pass(secs(11));
        assert!(matches!(&seen[..], [(10.0, line)] if line.ends_with(": pending_timeout")));
        node.unanswered(MAIL);
    }
}

#[test]
fn what_found_no_room_is_not_asked_for_later() {
    let mut node = Node::connected(&[WIKI, DB]);
    for _ in 0..BYTES / LARGE {
        large(&mut node, WIKI);
    }
    large(&mut node, DB);
    assert_eq!(refused(&mut node), 1);
    assert_eq!(node.pass(secs(11)).len(), 1, "what waited is given up");
    node.unanswered(WIKI);
    node.welcome(welcome(&[WIKI, DB]));
    assert_eq!(node.events(), ["table"]);
}
