//! Whatever is removed leaves nothing behind that speaks of it.

use postern_model::{
    Scope,
    record::{Principal, World},
};

use super::office::{Office, office_with_grant};
use crate::{Command, Core, TokenOwner, tests::shell::config};

/// Every reference leads somewhere, and the indexes are what a load would make of it.
pub(crate) fn assert_whole(core: &Core) {
    let state = core.state();
    assert_eq!(crate::State::new(state.world()), *state, "the indexes differ from those of a load");
    let World { members, resources, policies, devices, tokens, grants, .. } = state.world();
    let owned = |owner| match owner {
        postern_model::record::Owner::User(user) => state.users.contains_key(&user),
        postern_model::record::Owner::Site(site) => state.sites.contains_key(&site),
    };
    assert!(members.iter().all(|(group, user)| state.groups.contains_key(group) && state.users.contains_key(user)));
    assert!(resources.iter().all(|resource| state.sites.contains_key(&resource.site)));
    assert!(devices.iter().all(|device| owned(device.owner)));
    assert!(tokens.iter().all(|token| owned(token.owner)));
    for policy in &policies {
        if let Scope::Resource(resource) = &policy.scope {
            assert!(state.resources.contains_key(resource), "{policy:?}");
        }
        assert!(
            match policy.principal {
                Principal::User(user) => state.users.contains_key(&user),
                Principal::Group(group) => state.groups.contains_key(&group),
                Principal::Device(device) => state.devices.contains_key(&device),
                Principal::Everyone => true,
            },
            "{policy:?}"
        );
    }
    for grant in &grants {
        assert!(state.devices.contains_key(&grant.device) && state.devices.contains_key(&grant.gateway), "{grant:?}");
        assert!(state.resources.contains_key(&grant.resource), "{grant:?}");
        assert!(state.policies.contains_key(&grant.policy), "{grant:?}");
    }
    assert!(core.waiting.ids().all(|grant| state.grants.contains_key(grant)), "someone waits for a grant that ended");
    core.waiting.assert_whole();
    core.superseded.assert_whole(|grant| state.grants.contains_key(&grant));
    assert!(core.sessions.keys().all(|id| state.devices.get(id).is_some_and(|device| !device.revoked)));
    assert!(core.candidates.keys().all(|id| state.devices.contains_key(id)));
}

/// The office with a group, a policy for each kind of principal, a spare token and a grant in force.
fn crowded() -> Office {
    let mut office = office_with_grant();
    let shell = &mut office.shell;
    shell.group("eng");
    shell.add_member("eng", "alice");
    shell.allow("group:eng", "wiki");
    shell.allow(&format!("device:{}", office.laptop), "wiki");
    shell.token(TokenOwner::User("alice".parse().unwrap()));
    shell.acknowledge(office.gateway);
    office
}

#[test]
fn a_removed_user_takes_devices_tokens_policies_memberships_and_grants_along() {
    let Office { mut shell, laptop, .. } = crowded();
    shell.run(&Command::RemoveUser { name: "alice".parse().unwrap() }).unwrap();
    assert_whole(&shell.core);
    let world = shell.core.state().world();
    assert!(world.users.is_empty() && world.members.is_empty() && world.grants.is_empty());
    assert!(!world.devices.iter().any(|device| device.id == laptop));
    assert_eq!(world.tokens.len(), 1, "the gateway's");
    assert!(world.policies.iter().all(|policy| matches!(policy.principal, Principal::Group(_))));
    shell.user("alice");
    let newcomer = shell.laptop("alice");
    shell.connect(newcomer);
    assert!(shell.nodes[&newcomer].catalogue.is_empty(), "a new user of the same name has nothing of the old one's");
}

#[test]
fn a_removed_group_takes_policies_and_memberships_along() {
    let Office { mut shell, .. } = crowded();
    shell.remove_group("eng");
    assert_whole(&shell.core);
    let world = shell.core.state().world();
    assert!(world.groups.is_empty() && world.members.is_empty());
    assert!(!world.policies.iter().any(|policy| matches!(policy.principal, Principal::Group(_))));
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn a_removed_resource_takes_policies_and_grants_along_and_its_names_are_free() {
    let Office { mut shell, wiki, .. } = crowded();
    let addr = shell.core.state().resources[&wiki].addr;
    shell.remove_resource("wiki");
    assert_whole(&shell.core);
    let world = shell.core.state().world();
    assert!(world.resources.is_empty() && world.policies.is_empty() && world.grants.is_empty());
    let newer = shell.resource("wiki", "hq");
    assert_ne!(shell.core.state().resources[&newer].addr, addr, "an address is never reused");
}

#[test]
fn a_removed_device_takes_policies_and_grants_along() {
    let Office { mut shell, laptop, .. } = crowded();
    shell.run(&Command::RemoveDevice { id: laptop }).unwrap();
    assert_whole(&shell.core);
    let world = shell.core.state().world();
    assert!(world.grants.is_empty());
    assert!(!world.policies.iter().any(|policy| policy.principal == Principal::Device(laptop)));
    assert!(!shell.core.candidates.contains_key(&laptop));
}

#[test]
fn a_removed_gateway_takes_its_grants_along() {
    let Office { mut shell, gateway, .. } = crowded();
    shell.run(&Command::RemoveDevice { id: gateway }).unwrap();
    assert_whole(&shell.core);
    assert!(shell.core.state().grants.is_empty());
}

#[test]
fn a_core_starts_from_what_it_left() {
    let Office { shell, .. } = crowded();
    let again = Core::new(shell.core.state().world(), config());
    assert_eq!(again.state(), shell.core.state());
    assert_whole(&again);
}
