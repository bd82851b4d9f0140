//! Asking for access, and what waits for the answer.

use std::time::Duration;

use postern_model::DenyReason;
use postern_wire::{AccessReply, Welcome};

use super::{
    node::Node,
    setting::{DB, MAIL, WIKI, granted, resource, secs, welcome},
};

#[test]
fn many_packets_make_one_request_and_are_replayed_in_order() {
    let mut node = Node::connected(&[WIKI]);
    for packet in ["one", "two", "three"] {
        node.miss(WIKI, packet);
    }
    node.want(WIKI);
    assert_eq!(node.events(), ["ask 0"]);
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["table held 1", "replay one two three"], "never before the table");
}

#[test]
fn each_resource_has_its_own_request() {
    let mut node = Node::connected(&[WIKI, DB]);
    node.miss(WIKI, "one");
    node.miss(DB, "two");
    node.miss(WIKI, "three");
    assert_eq!(node.events(), ["ask 0", "ask 1"]);
    node.denied(DB, DenyReason::NoPolicy);
    node.granted(granted(1, WIKI));
    let seen = ["denied 1: no_policy", "refuse two: access_denied", "table held 1", "replay one three"];
    assert_eq!(node.events(), seen);
}

#[test]
fn a_packet_that_missed_before_the_grant_came_is_replayed_at_once() {
    let mut node = Node::holding(&[WIKI]);
    node.miss(WIKI, "late");
    assert_eq!(node.events(), ["replay late"]);
}

#[test]
fn a_resource_may_be_asked_for_ahead() {
    let mut node = Node::connected(&[WIKI]);
    node.want(WIKI);
    node.want(WIKI);
    node.want(DB);
    assert_eq!(node.events(), ["ask 0"], "once, and only what is in the catalogue");
    node.granted(granted(1, WIKI));
    node.want(WIKI);
    assert_eq!(node.events(), ["table held 1"], "what is held is not asked for");
}

#[test]
fn a_denial_stands_for_a_second() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    node.miss(WIKI, "two");
    node.denied(WIKI, DenyReason::NoPolicy);
    assert_eq!(node.events(), ["ask 0", "denied 0: no_policy", "refuse one two: access_denied"]);
    node.miss(WIKI, "three");
    assert_eq!(node.events(), ["refuse three: access_denied"]);
    node.idle(secs(1) - Duration::from_millis(1));
    node.want(WIKI);
    node.miss(WIKI, "four");
    assert_eq!(node.events(), ["refuse four: access_denied"]);
    node.idle(Duration::from_millis(1));
    node.miss(WIKI, "five");
    assert_eq!(node.events(), ["ask 0"]);
}

#[test]
fn a_transient_denial_refuses_what_waits_and_does_not_stand() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    node.denied(WIKI, DenyReason::NoGateway);
    node.miss(WIKI, "two");
    assert_eq!(node.events(), ["ask 0", "denied 0: no_gateway", "refuse one: access_denied", "ask 0"]);
}

#[test]
fn without_a_session_packets_wait_for_the_next() {
    let mut node = Node::connected(&[WIKI, DB, MAIL]);
    node.engine.handle_disconnected();
    node.miss(WIKI, "one");
    node.miss(DB, "two");
    node.miss(MAIL, "three");
    node.want(WIKI);
    node.idle(secs(5)); // There is nobody to ask.
    node.welcome(Welcome { granted: vec![granted(2, DB)], ..welcome(&[WIKI, DB]) });
    let mut seen = node.events();
    assert_eq!(seen.remove(0), "table held 2");
    seen.sort();
    assert_eq!(seen, ["ask 0", "refuse three: access_denied", "replay two"]);
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["table held 1 2", "replay one"]);
}

#[test]
fn packets_wait_for_ten_seconds() {
    let mut node = Node::connected(&[WIKI]);
    node.engine.handle_disconnected();
    node.miss(WIKI, "one");
    node.idle(secs(6));
    node.miss(WIKI, "two");
    assert_eq!(node.pass(secs(100)), [(4.0, "refuse one two: pending_timeout".to_owned())]);
    node.welcome(welcome(&[WIKI]));
    assert_eq!(node.events(), ["table"], "what was given up is not asked for");
}

#[test]
fn an_answer_that_comes_after_the_packets_were_given_up_still_counts() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    assert_eq!(node.events(), ["ask 0"]);
    assert_eq!(node.pass(secs(12)), [(10.0, "refuse one: pending_timeout".to_owned())]);
    node.miss(WIKI, "two");
    assert!(node.events().is_empty(), "the first request is still open");
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["table held 1", "replay two"]);
}

#[test]
fn a_request_that_could_not_be_asked_is_asked_again_while_packets_wait() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    node.unanswered(WIKI);
    assert_eq!(node.events(), ["ask 0"]);
    assert_eq!(node.pass(secs(1)), [(1.0, "ask 0".to_owned())]);
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["table held 1", "replay one"]);
}

#[test]
fn a_request_for_which_nothing_waits_is_not_asked_again() {
    let mut node = Node::connected(&[WIKI]);
    node.want(WIKI);
    node.unanswered(WIKI);
    assert_eq!(node.events(), ["ask 0"]);
    node.idle(secs(100));
}

#[test]
fn a_request_of_the_last_session_is_asked_again_in_the_next() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    node.engine.handle_disconnected();
    node.unanswered(WIKI);
    assert_eq!(node.pass(secs(3)), [(0.0, "ask 0".to_owned())]);
    node.welcome(welcome(&[WIKI]));
    assert_eq!(node.events(), ["table", "ask 0"]);
}

#[test]
fn a_request_of_the_last_session_that_fails_in_the_next_is_asked_again() {
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    node.engine.handle_disconnected();
    node.welcome(welcome(&[WIKI]));
    assert_eq!(node.events(), ["ask 0", "table"]);
    node.unanswered(WIKI);
    assert_eq!(node.events(), ["ask 0"]);
    node.unanswered(WIKI);
    assert_eq!(node.pass(secs(2)), [(1.0, "ask 0".to_owned())]);
}

/// Invariant: what a welcome does not list ends, also when it was granted just before.
#[test]
fn an_answer_of_an_earlier_session_counts_for_nothing() {
    for listed in [vec![], vec![granted(2, WIKI)]] {
        let mut node = Node::connected(&[WIKI, DB]);
        node.miss(WIKI, "one");
        node.want(DB);
        node.engine.handle_disconnected();
        node.welcome(Welcome { granted: listed.clone(), ..welcome(&[WIKI, DB]) });
        node.events();
        node.granted(granted(1, DB));
        node.denied(WIKI, DenyReason::NoPolicy);
        if listed.is_empty() {
            assert_eq!(node.events(), ["ask 0"], "what waits is asked for in this session");
            node.granted(granted(1, WIKI));
            assert_eq!(node.events(), ["table held 1", "replay one"]);
        } else {
            assert!(node.events().is_empty());
        }
        node.want(DB);
        assert_eq!(node.events(), ["ask 1"], "it was not held");
    }
}

#[test]
fn an_answer_for_another_resource_is_none() {
    let mut node = Node::connected(&[WIKI, DB]);
    node.miss(WIKI, "one");
    node.engine.handle_access_reply(resource(WIKI), Some(AccessReply::Granted(granted(1, DB))), node.now);
    assert_eq!(node.events(), ["ask 0"]);
    assert_eq!(node.pass(secs(1)), [(1.0, "ask 0".to_owned())]);
}

#[test]
fn a_grant_revoked_before_its_answer_arrives_is_not_held() {
    // The two travel on streams of their own, so that either may come first.
    let mut node = Node::connected(&[WIKI]);
    node.miss(WIKI, "one");
    node.revoke(1);
    assert_eq!(node.events(), ["ask 0", "table"]);
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["denied 0: no_policy", "refuse one: access_denied"]);
    node.idle(secs(2));
    node.miss(WIKI, "two");
    node.granted(granted(2, WIKI));
    assert_eq!(node.events(), ["ask 0", "table held 2", "replay two"], "the next grant is another");
}

#[test]
fn a_renewal_decided_before_the_revocation_does_not_undo_it() {
    let mut node = Node::holding(&[WIKI]);
    assert_eq!(node.pass(secs(400)), [(400.0, "in use?".to_owned())]);
    node.in_use(&[WIKI]);
    assert_eq!(node.events(), ["ask 0"]);
    node.revoke(1);
    node.granted(granted(1, WIKI));
    assert_eq!(node.events(), ["denied 0: no_policy", "table", "denied 0: no_policy"]);
    assert!(node.table().held.is_empty());
}

#[test]
fn whoever_wants_to_know_now_is_asked_for_though_it_was_denied_a_moment_ago() {
    let mut node = Node::connected(&[WIKI]);
    node.want(WIKI);
    node.denied(WIKI, DenyReason::NoPolicy);
    assert_eq!(node.events(), ["ask 0", "denied 0: no_policy"]);
    node.want(WIKI);
    assert!(node.events().is_empty(), "an app that tries again and again");
    node.engine.handle_demanded(resource(WIKI), node.now);
    assert_eq!(node.events(), ["ask 0"]);
}
