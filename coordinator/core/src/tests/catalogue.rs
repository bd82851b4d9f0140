//! The catalogue: a device is told of exactly what it may reach, and of each change as it happens.

use postern_model::{DeviceId, ResourceId};
use postern_wire::CoordinatorMessage;

use super::{
    office::{Office, office, ports, tcp},
    shell::Shell,
};
use crate::{Command, ResourceEdit};

/// What a device was told of its catalogue since the last `forget`: names put, ids removed.
fn deltas(shell: &Shell, device: DeviceId) -> (Vec<String>, Vec<ResourceId>) {
    let mut seen = (Vec::new(), Vec::new());
    for message in shell.told_to(device) {
        if let CoordinatorMessage::Catalogue { put, removed, revision } = message {
            assert_eq!(*revision, shell.core.state().revision);
            seen.0.extend(put.iter().map(|entry| entry.name.to_string()));
            seen.1.extend(removed);
        }
    }
    seen
}

fn names(shell: &Shell, device: DeviceId) -> Vec<&str> {
    let mut names: Vec<_> = shell.nodes[&device].catalogue.values().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_welcome_lists_what_the_device_may_reach_and_no_more() {
    let Office { mut shell, laptop, gateway, .. } = office();
    shell.resource("secret", "hq");
    shell.connect(laptop);
    assert_eq!(names(&shell, laptop), ["wiki"]);
    assert!(names(&shell, gateway).is_empty(), "a gateway sees nothing of what it guards");
}

#[test]
fn a_new_policy_and_its_removal_are_told_at_once() {
    let Office { mut shell, laptop, gateway, .. } = office();
    let db = shell.resource("db", "hq");
    shell.forget();
    let policy = shell.allow("user:alice", "db");
    assert_eq!(deltas(&shell, laptop), (vec!["db".into()], vec![]));
    shell.forget();
    shell.run(&Command::RemovePolicy { id: policy }).unwrap();
    assert_eq!(deltas(&shell, laptop), (vec![], vec![db]));
    assert!(shell.told_to(gateway).is_empty());
}

#[test]
fn a_policy_for_another_is_not_told() {
    let Office { mut shell, laptop, .. } = office();
    shell.user("bob");
    let other = shell.laptop("bob");
    shell.connect(other);
    shell.resource("db", "hq");
    shell.forget();
    shell.allow("user:bob", "db");
    assert_eq!(deltas(&shell, other).0, ["db"]);
    assert!(shell.told_to(laptop).is_empty());
}

#[test]
fn a_policy_for_a_device_is_told_to_it_alone() {
    let Office { mut shell, laptop, gateway, .. } = office();
    let second = shell.laptop("alice");
    shell.connect(second);
    shell.resource("db", "hq");
    shell.forget();
    shell.allow(&format!("device:{second}"), "db");
    assert_eq!(deltas(&shell, second).0, ["db"]);
    assert!(shell.told_to(laptop).is_empty());
    shell.forget();
    shell.allow(&format!("device:{gateway}"), "db");
    assert_eq!(deltas(&shell, gateway).0, ["db"], "a service device can be allowed too");
}

#[test]
fn joining_and_leaving_a_group_is_told() {
    let Office { mut shell, laptop, .. } = office();
    shell.group("eng");
    let db = shell.resource("db", "hq");
    shell.allow("group:eng", "db");
    shell.forget();
    shell.add_member("eng", "alice");
    assert_eq!(deltas(&shell, laptop), (vec!["db".into()], vec![]));
    shell.forget();
    shell.remove_member("eng", "alice");
    assert_eq!(deltas(&shell, laptop), (vec![], vec![db]));
}

#[test]
fn a_policy_for_a_group_is_told_to_its_members() {
    let Office { mut shell, laptop, .. } = office();
    shell.group("eng");
    shell.add_user("bob", &["eng"]);
    let other = shell.laptop("bob");
    shell.connect(other);
    let db = shell.resource("db", "hq");
    shell.forget();
    shell.allow("group:eng", "db");
    assert_eq!(deltas(&shell, other).0, ["db"]);
    assert!(shell.told_to(laptop).is_empty());
    shell.forget();
    shell.remove_group("eng");
    assert_eq!(deltas(&shell, other).1, [db]);
}

#[test]
fn what_is_allowed_twice_goes_with_the_second_policy() {
    let Office { mut shell, laptop, wiki, policy, .. } = office();
    shell.group("eng");
    shell.allow("group:eng", "wiki");
    shell.add_member("eng", "alice");
    shell.forget();
    shell.run(&Command::RemovePolicy { id: policy }).unwrap();
    assert!(shell.told_to(laptop).is_empty(), "nothing changed for the device");
    shell.remove_member("eng", "alice");
    assert_eq!(deltas(&shell, laptop), (vec![], vec![wiki]));
}

#[test]
fn an_edit_is_told_when_the_client_can_see_it() {
    let Office { mut shell, laptop, wiki, .. } = office();
    shell.edit("wiki", ResourceEdit { target: Some("10.0.0.6".parse().unwrap()), ..ResourceEdit::default() });
    assert!(shell.told_to(laptop).is_empty(), "where a resource is, is not the client's to know");
    shell.edit("wiki", ports("80,443"));
    assert_eq!(deltas(&shell, laptop).0, ["wiki"]);
    assert_eq!(shell.nodes[&laptop].catalogue[&wiki].filter, tcp("80,443"));
    shell.forget();
    let aliases = Some(vec!["wiki.example.com".parse().unwrap()]);
    shell.edit("wiki", ResourceEdit { aliases: aliases.clone(), ..ResourceEdit::default() });
    assert_eq!(deltas(&shell, laptop).0, ["wiki"]);
    assert_eq!(Some(shell.nodes[&laptop].catalogue[&wiki].aliases.clone()), aliases);
}

#[test]
fn a_removed_resource_is_gone_from_every_catalogue() {
    let Office { mut shell, laptop, wiki, .. } = office();
    shell.group("eng");
    shell.allow("group:eng", "wiki");
    shell.add_user("bob", &["eng"]);
    let other = shell.laptop("bob");
    shell.connect(other);
    shell.forget();
    shell.remove_resource("wiki");
    for device in [laptop, other] {
        assert_eq!(deltas(&shell, device), (vec![], vec![wiki]));
    }
}

#[test]
fn a_suspended_user_sees_nothing_until_resumed() {
    let Office { mut shell, laptop, wiki, .. } = office();
    shell.suspend("alice");
    assert_eq!(deltas(&shell, laptop), (vec![], vec![wiki]));
    shell.forget();
    shell.run(&Command::ResumeUser { name: "alice".parse().unwrap() }).unwrap();
    assert_eq!(deltas(&shell, laptop), (vec!["wiki".into()], vec![]));
}

#[test]
fn a_catalogue_missed_while_away_is_in_the_next_welcome() {
    let Office { mut shell, laptop, .. } = office();
    shell.disconnect(laptop);
    shell.resource("db", "hq");
    shell.allow("user:alice", "db");
    shell.connect(laptop);
    assert_eq!(names(&shell, laptop), ["db", "wiki"]);
}
