//! Targets that are names: resolved ahead of the first packet, and again from time to time.

use postern_wire::Welcome;

use super::{
    node::Node,
    setting::{DB, MAIL, WIKI, install, ranges, secs, welcome},
};

const HOST: &str = "mail.example.com";

/// Carries MAIL, whose target is [`HOST`], not yet resolved.
fn unresolved() -> Node {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, HOST));
    assert_eq!(node.events(), [format!("resolve {HOST}"), "table carried 2".to_owned()]);
    node
}

/// The same with the address 10.0.0.5, acknowledged.
fn resolved() -> Node {
    let mut node = unresolved();
    node.resolved(HOST, &["10.0.0.5"]);
    assert_eq!(node.events(), ["table carried 2"]);
    node.applied();
    assert_eq!(node.events(), ["installed 2"]);
    node
}

#[test]
fn a_grant_is_acknowledged_only_once_its_target_is_resolved() {
    let mut node = unresolved();
    assert!(node.targets(MAIL).is_empty());
    node.applied();
    assert!(node.events().is_empty());
    node.resolved(HOST, &["10.0.0.5", "fd00:10::5"]);
    assert_eq!(node.events(), ["table carried 2"]);
    assert_eq!(node.targets(MAIL), ["10.0.0.5", "fd00:10::5"], "in the resolver's order");
    node.applied();
    assert_eq!(node.events(), ["installed 2"]);
}

#[test]
fn a_target_that_does_not_resolve_keeps_nobody_waiting() {
    let mut node = unresolved();
    node.resolved(HOST, &[]);
    assert_eq!(node.events(), ["table carried 2"]);
    node.applied();
    assert_eq!(node.events(), ["installed 2"]);
    assert!(node.targets(MAIL).is_empty());
    assert_eq!(node.pass(secs(6)), [(5.0, format!("resolve {HOST}"))], "it is tried again soon");
    node.resolved(HOST, &["10.0.0.5"]);
    assert_eq!(node.events(), ["table carried 2"]);
    assert_eq!(node.targets(MAIL), ["10.0.0.5"]);
    node.applied();
    assert!(node.events().is_empty(), "it was acknowledged already");
}

#[test]
fn every_install_before_the_answer_is_acknowledged() {
    let mut node = unresolved();
    node.install(install(MAIL, HOST));
    assert_eq!(node.events(), ["table carried 2"], "one question is enough");
    node.applied();
    assert!(node.events().is_empty());
    node.resolved(HOST, &["10.0.0.5"]);
    node.events();
    node.applied();
    assert_eq!(node.events(), ["installed 2", "installed 2"]);
}

#[test]
fn a_known_name_is_not_asked_for_again() {
    let mut node = resolved();
    node.install(install(WIKI, HOST));
    assert_eq!(node.events(), ["table carried 0 2"]);
    assert_eq!(node.targets(WIKI), ["10.0.0.5"]);
    node.applied();
    assert_eq!(node.events(), ["installed 0"]);
    node.welcome(Welcome { installed: vec![install(MAIL, HOST)], ..welcome(&[]) });
    assert_eq!(node.events(), ["table carried 2"]);
    assert_eq!(node.targets(MAIL), ["10.0.0.5"], "a new session does not forget it");
}

#[test]
fn an_answer_is_good_for_thirty_seconds() {
    let mut node = resolved();
    assert_eq!(node.pass(secs(31)), [(30.0, format!("resolve {HOST}"))]);
    node.resolved(HOST, &["10.0.0.5"]);
    assert!(node.events().is_empty(), "the same answer changes nothing");
    assert_eq!(node.pass(secs(30)), [(30.0, format!("resolve {HOST}"))]);
    node.resolved(HOST, &["10.0.0.6"]);
    assert_eq!(node.events(), ["table carried 2"]);
    assert_eq!(node.targets(MAIL), ["10.0.0.6"]);
}

#[test]
fn a_failed_refresh_keeps_the_last_answer_and_is_tried_again() {
    let mut node = resolved();
    assert_eq!(node.pass(secs(30)), [(30.0, format!("resolve {HOST}"))]);
    node.resolved(HOST, &[]);
    assert!(node.events().is_empty());
    assert_eq!(node.targets(MAIL), ["10.0.0.5"]);
    assert_eq!(node.pass(secs(5)), [(5.0, format!("resolve {HOST}"))]);
}

#[test]
fn a_resolution_that_never_comes_back_is_started_again() {
    let mut node = unresolved();
    assert_eq!(node.pass(secs(60)), [(30.0, format!("resolve {HOST}")), (60.0, format!("resolve {HOST}"))]);
}

#[test]
fn a_name_is_refreshed_only_while_a_grant_needs_it() {
    let mut node = resolved();
    node.revoke(2);
    assert_eq!(node.events(), ["table"]);
    node.idle(secs(1000));
    node.resolved(HOST, &["10.0.0.5"]);
    assert!(node.events().is_empty(), "nor is a late answer of use");
    node.install(install(MAIL, HOST));
    assert_eq!(node.events(), [format!("resolve {HOST}"), "table carried 2".to_owned()]);
}

#[test]
fn a_name_that_leads_into_the_overlay_does_not_resolve() {
    let mut node = unresolved();
    let (resource, device) = (ranges().resource(300).unwrap(), ranges().device(300).unwrap());
    let inside = [resource.v4.to_string(), resource.v6.to_string(), device.v4.to_string(), device.v6.to_string()];
    let mut answer: Vec<_> = inside.iter().map(String::as_str).collect();
    node.resolved(HOST, &answer);
    node.events();
    assert!(node.targets(MAIL).is_empty(), "else one resource's grant would reach another");
    node.applied();
    assert_eq!(node.events(), ["installed 2"]);
    let mapped = format!("::ffff:{}", resource.v4);
    answer.extend(["0.0.0.0", "224.0.0.1", "::", "ff02::1", "127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"]);
    answer.extend([&mapped, "10.0.0.5"]);
    node.resolved(HOST, &answer);
    node.events();
    assert_eq!(node.targets(MAIL), ["10.0.0.5"]);
}

#[test]
fn the_gateway_itself_is_a_target_only_by_address() {
    let mut node = Node::connected(&[]);
    node.install(install(MAIL, "127.0.0.1"));
    node.events();
    assert_eq!(node.targets(MAIL), ["127.0.0.1"]);
}

#[test]
fn a_revoked_grant_is_not_acknowledged_as_installed_later() {
    let mut node = unresolved();
    node.revoke(2);
    node.resolved(HOST, &["10.0.0.5"]);
    node.events();
    node.applied();
    assert_eq!(node.events(), ["revoked 2"]);
}

#[test]
fn an_acknowledgement_that_waits_for_a_name_does_not_outlive_its_session() {
    let mut node = unresolved();
    node.engine.handle_disconnected();
    node.resolved(HOST, &["10.0.0.5"]);
    assert_eq!(node.events(), ["table carried 2"]);
    node.applied();
    assert!(node.events().is_empty());
}

#[test]
fn each_name_has_its_own_answer() {
    let mut node = unresolved();
    node.install(install(DB, "db.example.com"));
    node.events();
    node.resolved("db.example.com", &["10.0.0.7"]);
    node.events();
    node.applied();
    assert_eq!(node.events(), ["installed 1"]);
    assert_eq!((node.targets(DB), node.targets(MAIL)), (vec!["10.0.0.7".to_owned()], vec![]));
}
