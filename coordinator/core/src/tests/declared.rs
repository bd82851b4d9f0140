//! Declarations over random networks: what is exported is what is there; what a plan says is what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use postern_model::{ResourceId, UserId, record::Principal};
use postern_policy::{Access, principals_of_user, terms};
use proptest::prelude::*;

use super::{
    declarations::declare,
    random::{check, commands, run, start},
    shell::Shell,
};
use crate::{
    Command, Declaration, State,
    declaration::{
        plan::{Difference, Plan},
        reach::differences,
    },
};

/// Someone, by name, and a resource's name.
type Pair = (String, String);

/// By everyone with everything: what one may reach in the states before and after.
fn brute_force(before: &State, after: &State, shell: &Shell) -> BTreeMap<Pair, Vec<Difference>> {
    let mut found = BTreeMap::new();
    let resources: BTreeSet<ResourceId> = before.resources.keys().chain(after.resources.keys()).copied().collect();
    let users: BTreeSet<UserId> = before.users.keys().chain(after.users.keys()).copied().collect();
    for resource in resources {
        let name = [after, before].iter().find_map(|state| state.resources.get(&resource)).unwrap().name.to_string();
        let of_user = |user: UserId| {
            let access = |state: &State| {
                let is_active = state.users.get(&user).is_some_and(|user| !user.suspended);
                let principals = if is_active { principals_of_user(state, user) } else { vec![] };
                access(state, &principals, resource, shell)
            };
            differences(&access(before), &access(after))
        };
        for user in &users {
            let differences = of_user(*user);
            let user = [after, before].iter().find_map(|state| state.users.get(user)).unwrap().name.to_string();
            if !differences.is_empty() {
                found.insert((user, name.clone()), differences);
            }
        }
        for device in after.devices.values().filter(|device| !device.revoked) {
            let access = |state: &State| {
                let principals = postern_policy::principals(state, device.id).unwrap_or_default();
                access(state, &principals, resource, shell)
            };
            let differences = differences(&access(before), &access(after));
            let is_users_own = match device.owner {
                postern_model::record::Owner::User(user) => of_user(user) == differences,
                postern_model::record::Owner::Site(_) => false,
            };
            if !differences.is_empty() && !is_users_own {
                found.insert((format!("device {}", device.name), name.clone()), differences);
            }
        }
    }
    found
}

fn access(state: &State, principals: &[Principal], resource: ResourceId, shell: &Shell) -> Access {
    terms(state, principals, resource, shell.now)
}

/// What the plan says, one by one.
fn told(plan: &Plan) -> BTreeMap<Pair, Vec<Difference>> {
    let mut found = BTreeMap::new();
    for row in &plan.reach {
        assert_eq!(row.who.users, row.who.names.len());
        let users = row.who.names.iter().map(ToString::to_string);
        let devices = row.who.devices.iter().map(|name| format!("device {name}"));
        for who in users.chain(devices) {
            for resource in &row.resources {
                let twice = found.insert((who.clone(), resource.to_string()), row.differences.clone());
                assert!(twice.is_none(), "{who} and {resource} are told twice");
            }
        }
    }
    found
}

/// The network after some commands, each of which may be refused.
fn network(commands: &[Command]) -> Shell {
    let mut shell = start();
    shell.run(&cedar()).unwrap();
    commands.iter().for_each(|command| run(&mut shell, command));
    shell
}

fn cedar() -> Command {
    let source = "@ports(\"tcp/80\") @until(\"2100-01-01\")\npermit (principal in Group::\"g0\", action == Action::\"connect\", resource in Tag::\"t0\")\nwhen { context.posture has firewall && context.posture.firewall } unless { context.time.hour < 8 };\n\nforbid (principal, action, resource == Resource::\"r0\") when { context.time.weekday == 7 };";
    Command::AddCedar { source: source.to_owned() }
}

/// A declaration without some of its sections.
fn cut(mut declaration: Declaration, sections: [bool; 4]) -> Declaration {
    let [groups, sites, resources, policies] = sections;
    declaration.groups = declaration.groups.filter(|_| groups);
    declaration.sites = declaration.sites.filter(|_| sites);
    declaration.resources = declaration.resources.filter(|_| resources);
    declaration.policies = declaration.policies.filter(|_| policies);
    declaration
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariants: export, then plan, is empty; a plan tells exactly the differences between the states before and after, and
    /// the grants that end or narrow; all that must hold of a network holds after a declaration; nodes hear what is theirs.
    #[test]
    fn plans_come_true(
        one in prop::collection::vec(commands(), 0..40),
        other in prop::collection::vec(commands(), 0..40),
        asked in prop::collection::vec((0usize..6, 0usize..3), 0..8),
        sections in any::<[bool; 4]>(),
    ) {
        let mut goal = network(&one);
        let exported = goal.export().unwrap();
        let plan = goal.plan(&exported).unwrap();
        prop_assert!(!plan.has_changes() && plan.reach.is_empty() && plan.cuts.is_empty(), "{:?}", plan);

        let mut shell = network(&other);
        let mentions = "permit (principal, action, resource in Tag::\"t1\") when { principal in Group::\"g1\" || principal in User::\"u1\" };";
        // What a clause speaks of may not be there, and is refused then.
        let _ = shell.run(&Command::AddCedar { source: mentions.to_owned() });
        for (device, resource) in asked {
            let device = shell.core.state().devices.keys().nth(device).copied();
            let resource = shell.core.state().resources.keys().nth(resource).copied();
            let is_connected = |id: &postern_model::DeviceId| {
                shell.nodes.get(id).is_some_and(|node| node.connection.is_some())
            };
            if let (Some(device), Some(resource)) = (device.filter(is_connected), resource) {
                shell.ask(device, resource);
            }
        }
        let declaration = cut(exported.clone(), sections);
        let before = shell.core.state().clone();
        let Ok(plan) = shell.plan(&declaration) else { return Ok(()) };
        shell.run(&declare(&declaration, Some(plan.revision))).unwrap();
        let after = shell.core.state().clone();
        check(&shell);
        prop_assert_eq!(told(&plan), brute_force(&before, &after, &shell));
        let is_less = |id: &postern_model::GrantId| {
            let now = after.grants.get(id).map(|grant| grant.filter.clone()).unwrap_or_default();
            !before.grants[id].filter.minus(&now).is_empty()
        };
        let ended: BTreeSet<_> = before.grants.keys().copied().filter(is_less).collect();
        prop_assert_eq!(plan.cuts.iter().map(|cut| cut.grant).collect::<BTreeSet<_>>(), ended);
        // And then there is nothing left to do.
        let again = shell.plan(&declaration).unwrap();
        prop_assert!(!again.has_changes(), "{:?}", again.steps);
        if sections == [true; 4] {
            let mut reached = shell.export().unwrap();
            prop_assert!(reached.users.is_superset(&exported.users));
            reached.users = exported.users.clone();
            prop_assert_eq!(reached, exported);
        }
    }
}
