//! From two thirds of its lease on, a grant in use is asked for again. That is a new decision, and nothing else extends a
//! lease.

use postern_model::DenyReason;
use postern_wire::CoordinatorMessage;

use super::{
    node::Node,
    setting::{DB, LEASE, WIKI, granted, resource_addr, secs},
};

/// Lets the time pass with WIKI in use, and the coordinator silent; when it was asked.
fn asked_in_vain(node: &mut Node, reply: fn(&mut Node)) -> Vec<f64> {
    let (start, end) = (node.now, node.now + LEASE * 2);
    let mut asked = Vec::new();
    while let Some(due) = node.engine.poll_timeout().filter(|due| *due <= end) {
        for (_, line) in node.pass(due.since(node.now)) {
            if line == "in use?" {
                node.in_use(&[WIKI]);
            }
        }
        while node.events().contains(&"ask 0".to_owned()) {
            asked.push(node.now.since(start).as_secs_f64());
            assert!(asked.len() < 1000, "asked again without a pause: {:?}", &asked[990..]);
            reply(node);
        }
    }
    asked
}

#[test]
fn a_grant_in_use_is_asked_for_at_two_thirds() {
    let mut node = Node::holding(&[WIKI, DB]);
    node.in_use(&[WIKI, DB]);
    assert!(node.events().is_empty(), "not ahead of time");
    assert_eq!(node.pass(secs(400)), [(400.0, "in use?".to_owned())]);
    node.in_use(&[WIKI, DB]);
    assert_eq!(node.events(), ["ask 0"], "once, and only what is held");
    node.in_use(&[WIKI]);
    assert!(node.events().is_empty());
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["table held 1"]);
    assert_eq!(node.table().held[&resource_addr(WIKI).v4.into()].expires, node.now + LEASE);
    assert_eq!(node.pass(secs(400)), [(400.0, "in use?".to_owned())], "and again");
}

#[test]
fn a_grant_out_of_use_is_left_to_end() {
    let mut node = Node::holding(&[WIKI, DB]);
    let mut seen = Vec::new();
    while !node.table().held.is_empty() {
        node.in_use(&[DB]);
        seen.extend(node.pass(secs(10)));
    }
    assert!(seen.iter().all(|(_, line)| line == "in use?" || line == "table"), "{seen:?}");
}

#[test]
fn a_grant_that_comes_into_use_late_is_asked_for_all_the_same() {
    let mut node = Node::holding(&[WIKI]);
    assert_eq!(node.pass(secs(400)), [(400.0, "in use?".to_owned())]);
    node.in_use(&[]);
    let seen = node.pass(secs(150));
    assert!(seen.iter().any(|(_, line)| line == "in use?"), "a connection opened since would end with the lease");
    node.in_use(&[WIKI]);
    assert_eq!(node.events(), ["ask 0"]);
}

#[test]
fn a_renewal_that_can_not_be_asked_is_tried_again_and_extends_nothing() {
    let mut node = Node::holding(&[WIKI]);
    let asked = asked_in_vain(&mut node, |node| node.unanswered(WIKI));
    assert_eq!(asked[..3], [400.0, 450.0, 487.5], "after a quarter of what is left");
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= 1.0), "no more than once a second: {asked:?}");
    assert!(*asked.last().unwrap() > 590.0, "to the end: {asked:?}");
    assert!(asked.iter().all(|at| *at < 600.0));
    assert!(node.table().held.is_empty(), "the lease ended where it was to end");
}

#[test]
fn a_transient_denial_keeps_the_grant_and_is_tried_again() {
    let mut node = Node::holding(&[WIKI]);
    assert_eq!(node.pass(secs(400)), [(400.0, "in use?".to_owned())]);
    node.in_use(&[WIKI]);
    assert_eq!(node.events(), ["ask 0"]);
    node.idle(secs(20));
    node.denied(WIKI, DenyReason::GatewayUnreachable);
    assert_eq!(node.events(), ["denied 0: gateway_unreachable"], "no table without it");
    assert_eq!(node.pass(secs(45)), [(45.0, "in use?".to_owned())], "a quarter of what was left at the answer");
    node.in_use(&[WIKI]);
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["ask 0", "table held 1"]);
    let asked = asked_in_vain(&mut node, |node| node.denied(WIKI, DenyReason::TooManyRequests));
    assert_eq!(asked[..2], [400.0, 450.0]);
    assert!(node.table().held.is_empty());
}

#[test]
fn nobody_is_asked_without_a_session() {
    let mut node = Node::holding(&[WIKI]);
    assert_eq!(node.pass(secs(400)), [(400.0, "in use?".to_owned())]);
    node.engine.handle_disconnected();
    node.in_use(&[WIKI]);
    assert!(node.events().is_empty());
}

#[test]
fn two_grants_are_renewed_each_on_its_time() {
    let mut node = Node::holding(&[WIKI, DB]);
    node.idle(secs(100));
    node.granted(granted(2, DB));
    assert_eq!(node.events(), ["table held 1 2"]);
    assert_eq!(node.pass(secs(300)), [(300.0, "in use?".to_owned())]);
    node.in_use(&[WIKI, DB]);
    assert_eq!(node.events(), ["ask 0"]);
    node.unanswered(WIKI);
    assert_eq!(node.pass(secs(50)), [(50.0, "in use?".to_owned())]);
    node.in_use(&[WIKI, DB]);
    assert_eq!(node.events(), ["ask 0"], "the second is not due");
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["table held 1 2"]);
    assert_eq!(node.pass(secs(50)), [(50.0, "in use?".to_owned())]);
    node.in_use(&[WIKI, DB]);
    assert_eq!(node.events(), ["ask 1"]);
}

/// The session and the answer are different streams: if both tell of a grant, the older one may come last.
#[test]
fn an_answer_that_the_session_may_have_overtaken_is_asked_for_once_more() {
    let mut node = Node::holding(&[WIKI]);
    assert_eq!(node.pass(secs(400)), [(400.0, "in use?".to_owned())]);
    node.in_use(&[WIKI]);
    assert_eq!(node.events(), ["ask 0"]);
    node.message(CoordinatorMessage::Granted(Box::new(granted(0, WIKI))));
    node.granted(granted(0, WIKI));
    assert_eq!(node.events(), ["table held 0", "ask 0"]);
    node.granted(granted(0, WIKI));
    assert_eq!(node.events(), ["table held 0"], "once");
}
