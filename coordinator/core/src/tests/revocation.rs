//! Revocation: whatever makes a grant impossible ends it in the same batch, and the gateway is told before the client.

use postern_model::{DenyReason, GrantId};
use postern_wire::{CoordinatorMessage, Eviction};

use super::{
    office::{Office, office_with_grant, ports, tcp},
    shell::{Shell, Told},
};
use crate::{Command, ResourceEdit};

/// The revocations since the last `forget`, in order: to whom, and why.
fn revoked(
    shell: &Shell,
    office: (postern_model::DeviceId, postern_model::DeviceId),
) -> Vec<(&'static str, DenyReason)> {
    let (laptop, gateway) = office;
    let revoked = shell.told.iter().filter_map(|told| match told {
        Told::Message(to, CoordinatorMessage::RevokeGrant { reason, .. }) if *to == laptop => Some(("client", *reason)),
        Told::Message(to, CoordinatorMessage::RevokeGrant { reason, .. }) if *to == gateway => {
            Some(("gateway", *reason))
        }
        _ => None,
    });
    revoked.collect()
}

/// Carries out a command that must end alice's grant, at both ends.
fn ends(command: &Command, why: DenyReason) {
    let Office { mut shell, laptop, gateway, .. } = office_with_grant();
    shell.run(command).unwrap();
    assert!(shell.core.state().grants.is_empty());
    assert_eq!(shell.actions().iter().filter(|action| **action == "grant.end").count(), 1, "{:?}", shell.actions());
    assert_eq!(revoked(&shell, (laptop, gateway)), [("gateway", why), ("client", why)]);
    assert!(shell.nodes[&laptop].held.is_empty());
}

fn named(name: &str) -> postern_model::UserName {
    name.parse().unwrap()
}

#[test]
fn removing_the_policy_ends_the_grant() {
    let Office { mut shell, laptop, gateway, policy, .. } = office_with_grant();
    shell.run(&Command::RemovePolicy { id: policy }).unwrap();
    let why = DenyReason::UnknownResource;
    assert_eq!(revoked(&shell, (laptop, gateway)), [("gateway", why), ("client", why)]);
    assert_eq!(shell.actions(), ["policy.remove", "grant.end"]);
}

#[test]
fn suspending_or_removing_the_user_ends_the_grant() {
    ends(&Command::SuspendUser { name: named("alice") }, DenyReason::UserSuspended);
    ends(&Command::RemoveUser { name: named("alice") }, DenyReason::DeviceRevoked);
}

#[test]
fn removing_the_resource_ends_the_grant() {
    ends(&Command::RemoveResource { name: "wiki".parse().unwrap() }, DenyReason::UnknownResource);
}

#[test]
fn revoking_or_removing_the_device_ends_the_grant_and_the_session() {
    for is_removal in [false, true] {
        let Office { mut shell, laptop, gateway, .. } = office_with_grant();
        let command =
            if is_removal { Command::RemoveDevice { id: laptop } } else { Command::RevokeDevice { id: laptop } };
        shell.run(&command).unwrap();
        assert!(shell.core.state().grants.is_empty());
        let why = DenyReason::DeviceRevoked;
        assert_eq!(revoked(&shell, (laptop, gateway)), [("gateway", why), ("client", why)]);
        assert!(shell.told_to(laptop).contains(&&CoordinatorMessage::Evicted { reason: Eviction::Revoked }));
        assert_eq!(shell.core.presence(laptop), None);
        assert!(shell.core.presence(gateway).is_some());
    }
}

#[test]
fn revoking_or_removing_the_gateway_ends_what_it_carries() {
    for is_removal in [false, true] {
        let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
        let command =
            if is_removal { Command::RemoveDevice { id: gateway } } else { Command::RevokeDevice { id: gateway } };
        shell.run(&command).unwrap();
        let why = DenyReason::NoGateway;
        assert_eq!(revoked(&shell, (laptop, gateway)), [("gateway", why), ("client", why)]);
        assert_eq!(shell.core.presence(gateway), None);
        assert!(shell.nodes[&laptop].catalogue.contains_key(&wiki), "it may still be reached, through another");
        assert_eq!(shell.ask_in_vain(laptop, wiki), DenyReason::NoGateway);
    }
}

/// Alice's grant, allowed through a group.
fn through_group() -> Office {
    let mut office = office_with_grant();
    office.shell.group("eng");
    office.shell.add_member("eng", "alice");
    let policy = office.shell.allow("group:eng", "wiki");
    office.shell.run(&Command::RemovePolicy { id: office.policy }).unwrap();
    office.shell.acknowledge(office.gateway);
    office.shell.forget();
    Office { policy, ..office }
}

fn only_grant(shell: &Shell) -> GrantId {
    let mut grants = shell.core.state().grants.keys();
    let grant = *grants.next().expect("there is a grant");
    assert_eq!(grants.next(), None);
    grant
}

#[test]
fn a_grant_stays_while_another_policy_allows_it() {
    let Office { mut shell, laptop, gateway, policy, .. } = office_with_grant();
    let grant = only_grant(&shell);
    shell.group("eng");
    shell.add_member("eng", "alice");
    let other = shell.allow("group:eng", "wiki");
    shell.forget();
    shell.run(&Command::RemovePolicy { id: policy }).unwrap();
    assert_eq!(only_grant(&shell), grant);
    assert_eq!(shell.core.state().grants[&grant].policy, other);
    assert_eq!(shell.actions(), ["policy.remove", "grant.change"]);
    assert!(shell.told_to(laptop).is_empty() && shell.told_to(gateway).is_empty(), "nothing changed for them");
}

#[test]
fn a_grant_is_always_by_the_policy_that_would_allow_it_now() {
    let Office { mut shell, policy, .. } = through_group();
    let grant = only_grant(&shell);
    assert_eq!(shell.core.state().grants[&grant].policy, policy);
    let more_exact = shell.allow("user:alice", "wiki");
    assert_eq!(shell.core.state().grants[&grant].policy, more_exact);
    shell.run(&Command::RemovePolicy { id: policy }).unwrap();
    assert_eq!(only_grant(&shell), grant);
    shell.run(&Command::RemovePolicy { id: more_exact }).unwrap();
    assert!(shell.core.state().grants.is_empty());
}

#[test]
fn leaving_the_group_or_its_removal_ends_the_grant() {
    for is_removal in [false, true] {
        let Office { mut shell, laptop, gateway, .. } = through_group();
        if is_removal {
            shell.remove_group("eng");
        } else {
            shell.remove_member("eng", "alice");
        }
        let why = DenyReason::UnknownResource;
        assert_eq!(revoked(&shell, (laptop, gateway)), [("gateway", why), ("client", why)]);
        assert!(shell.core.state().grants.is_empty());
    }
}

#[test]
fn another_members_leaving_ends_nothing() {
    let Office { mut shell, .. } = through_group();
    shell.add_user("bob", &["eng"]);
    shell.forget();
    shell.remove_member("eng", "bob");
    only_grant(&shell);
    assert_eq!(shell.actions(), ["group.member.remove"]);
}

#[test]
fn a_resource_that_leads_elsewhere_needs_a_new_grant() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    let old = only_grant(&shell);
    shell.edit("wiki", ResourceEdit { target: Some("10.0.0.6".parse().unwrap()), ..ResourceEdit::default() });
    let why = DenyReason::Replaced;
    assert_eq!(revoked(&shell, (laptop, gateway)), [("gateway", why), ("client", why)]);
    let granted = shell.access(laptop, wiki, gateway);
    assert_ne!(granted.grant, old);
}

#[test]
fn a_changed_filter_goes_to_the_gateway_first_and_then_to_the_client() {
    let Office { mut shell, laptop, gateway, wiki, .. } = office_with_grant();
    let grant = only_grant(&shell);
    let before = shell.core.state().grants[&grant].clone();
    shell.edit("wiki", ports("80"));
    assert_eq!(shell.actions(), ["resource.edit", "grant.change"]);
    let after = shell.core.state().grants[&grant].clone();
    assert_eq!(after, postern_model::grant::Grant { filter: tcp("80"), ..before }, "the lease is not extended");
    let told = shell.told_to(gateway);
    let [CoordinatorMessage::InstallGrant(install)] = told[..] else { panic!("{told:?}") };
    assert_eq!((install.grant, &install.filter), (grant, &tcp("80")));
    assert_eq!(shell.nodes[&laptop].held[&wiki].filter, tcp("443"));
    shell.acknowledge(gateway);
    assert_eq!(shell.nodes[&laptop].held[&wiki].filter, tcp("80"));
}

#[test]
fn a_new_alias_changes_no_grant() {
    let Office { mut shell, gateway, .. } = office_with_grant();
    let aliases = Some(vec!["wiki.example.com".parse().unwrap()]);
    shell.edit("wiki", ResourceEdit { aliases, ..ResourceEdit::default() });
    assert_eq!(shell.actions(), ["resource.edit"]);
    assert!(shell.told_to(gateway).is_empty());
}

#[test]
fn a_revocation_that_is_not_recorded_was_not_told() {
    let Office { mut shell, policy, .. } = office_with_grant();
    let before = shell.core.state().clone();
    shell.disk_is_full = true;
    let command = Command::RemovePolicy { id: policy };
    let actor = postern_model::audit::Actor::AdminSocket;
    let done = shell.try_transact(|core, env| core.propose_command(&actor, &command, env)).unwrap();
    shell.carry_out();
    assert!(done.is_none() && shell.told.is_empty());
    assert_eq!(*shell.core.state(), before);
    shell.disk_is_full = false;
    shell.run(&command).unwrap();
    assert!(shell.core.state().grants.is_empty());
}

#[test]
fn one_users_suspension_leaves_anothers_grant() {
    let Office { mut shell, gateway, wiki, .. } = office_with_grant();
    shell.user("bob");
    shell.allow("user:bob", "wiki");
    let other = shell.laptop("bob");
    shell.connect(other);
    let granted = shell.access(other, wiki, gateway);
    shell.suspend("alice");
    assert_eq!(only_grant(&shell), granted.grant);
}
