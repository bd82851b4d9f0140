//! The index against plain Cedar: every policy written out whole, all of them at once, one question for each port.

use std::collections::HashSet;

use cedar_policy::{
    Authorizer, Decision as CedarDecision, Entities, Entity, PolicyId as CedarId, PolicySet as CedarSet,
};
use postern_model::{
    Condition, Decision, DenyReason, DeviceId, Effect, Filter, Protocol, ResourceId, Scope, Timestamp,
    record::{Owner, Policy, Principal},
};
use proptest::prelude::*;

use super::{
    circumstances::circumstances,
    world::{COUNT, World, device, resource, worlds},
};
use crate::{
    Case, Circumstances, Counting,
    asking::{Asking, Type, uid},
    compiled::Compiled,
    condition::{expression, parse},
    decide,
};

/// One of each kind that the filters of [`worlds`] tell apart.
const PROBES: [(Protocol, u16); 8] = [
    (Protocol::Tcp, 22),
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 85),
    (Protocol::Tcp, 443),
    (Protocol::Tcp, 5432),
    (Protocol::Udp, 53),
    (Protocol::Udp, 123),
    (Protocol::IcmpEcho, 0),
];

/// A policy as an expert would write it, with ids for names.
fn written(policy: &Policy) -> String {
    let effect = match policy.effect {
        Effect::Allow => "permit",
        Effect::Deny => "forbid",
    };
    let principal = match policy.principal {
        Principal::User(id) => format!("principal in User::\"{id}\""),
        Principal::Group(id) => format!("principal in Group::\"{id}\""),
        Principal::Device(id) => format!("principal == Device::\"{id}\""),
        Principal::Everyone => "principal".to_owned(),
    };
    let scope = match &policy.scope {
        Scope::Resource(id) => format!("resource == Resource::\"{id}\""),
        Scope::Tag(tag) => format!("resource in Tag::\"{tag}\""),
        Scope::Everything => "resource".to_owned(),
    };
    let when = match &policy.condition {
        None => String::new(),
        Some(Condition::Short { text }) => format!("when {{ {} }}", expression(&parse(text).unwrap())),
        Some(Condition::Cedar { .. }) => panic!("these worlds have none"),
    };
    format!("{effect} ({principal}, action == Action::\"connect\", {scope}) {when};")
}

/// Everything there is, who is in what, and what is in what.
fn entities(world: &World) -> Entities {
    let none = HashSet::new;
    let mut all = Vec::new();
    for group in world.members.iter().map(|(group, _)| group).collect::<HashSet<_>>() {
        all.push(Entity::new_no_attrs(uid(Type::Group, group), none()));
    }
    for user in world.users.keys() {
        let groups = world.members.iter().filter(|(_, member)| member == user);
        all.push(Entity::new_no_attrs(
            uid(Type::User, user),
            groups.map(|(group, _)| uid(Type::Group, group)).collect(),
        ));
    }
    for device in world.devices.values() {
        let parents = match device.owner {
            Owner::User(user) => HashSet::from([uid(Type::User, &user)]),
            Owner::Site(_) => none(),
        };
        all.push(Entity::new_no_attrs(uid(Type::Device, &device.id), parents));
    }
    for resource in world.resources.values() {
        let tags = resource.tags.iter().map(|tag| uid(Type::Tag, tag));
        all.push(Entity::new_no_attrs(uid(Type::Resource, &resource.id), tags.collect()));
    }
    for tag in world.resources.values().flat_map(|resource| &resource.tags).collect::<HashSet<_>>() {
        all.push(Entity::new_no_attrs(uid(Type::Tag, tag), none()));
    }
    Entities::from_entities(all, None).unwrap()
}

/// Which probes Cedar lets through, when it is asked about all policies that count and hold the port.
fn allowed_by_cedar(
    world: &World,
    entities: &Entities,
    asking: &Asking<'_>,
    open: &Filter,
    counts: impl Fn(&Policy) -> bool,
) -> Vec<(Protocol, u16)> {
    let compiled: Vec<_> = world.set.iter().collect();
    let atoms = compiled.iter().filter_map(|policy| match policy.condition() {
        Compiled::When(when) => Some(when.atoms.clone()),
        _ => None,
    });
    let request = asking.request(&atoms.flatten().collect::<Vec<_>>()).unwrap();
    let holds = |policy: &&Policy, (protocol, port): (Protocol, u16)| {
        counts(policy) && policy.ports.as_ref().is_none_or(|ports| ports.allows(protocol, port))
    };
    let is_allowed = |probe: &(Protocol, u16)| {
        let mut set = CedarSet::new();
        for policy in world.policies.iter().filter(|policy| holds(policy, *probe)) {
            let id = CedarId::new(policy.id.to_string());
            set.add(cedar_policy::Policy::parse(Some(id), written(policy)).unwrap()).unwrap();
        }
        let response = Authorizer::new().is_authorized(&request, &set, entities);
        assert_eq!(response.diagnostics().errors().count(), 0);
        response.decision() == CedarDecision::Allow
    };
    PROBES.into_iter().filter(|(protocol, port)| open.allows(*protocol, *port)).filter(is_allowed).collect()
}

fn passing(decision: &Decision) -> Vec<(Protocol, u16)> {
    match decision {
        Decision::Allowed { filter, .. } => {
            PROBES.into_iter().filter(|(protocol, port)| filter.allows(*protocol, *port)).collect()
        }
        Decision::Denied { .. } => vec![],
    }
}

/// Why a device may reach nothing whatever policies say, told without the crate's own words for it.
fn is_barred(world: &World, device: DeviceId, resource: ResourceId) -> bool {
    let Some(device) = world.devices.get(&device).filter(|device| !device.revoked) else { return true };
    let has_user = match device.owner {
        Owner::User(user) => world.users.get(&user).is_some_and(|user| !user.suspended),
        Owner::Site(_) => true,
    };
    !has_user || !world.resources.contains_key(&resource)
}

fn check(world: &World, from: DeviceId, to: ResourceId, circumstances: Circumstances) -> Result<(), TestCaseError> {
    let decision = decide(world, from, to, circumstances);
    if is_barred(world, from, to) {
        let is_denied = matches!(decision, Decision::Denied { .. });
        prop_assert!(is_denied);
        return Ok(());
    }
    let case = Case::new(world, from, to).unwrap();
    let (asking, entities) = (case.asking(circumstances), entities(world));
    let open = &world.resources[&to].filter;
    let is_current = |until: Option<Timestamp>| until.is_none_or(|until| circumstances.now < until);
    let in_force = |policy: &Policy| is_current(policy.until) && !policy.shadow;
    let with_shadow = |policy: &Policy| is_current(policy.until);
    prop_assert_eq!(passing(&decision), allowed_by_cedar(world, &entities, &asking, open, in_force));
    let shadowed = case.weigh(circumstances, Counting::WithShadow);
    prop_assert_eq!(passing(&shadowed), allowed_by_cedar(world, &entities, &asking, open, with_shadow));
    // The policy that is named as the one that allows does.
    let spoken: Vec<_> = world.scan(case.device, case.resource).into_iter().filter(|policy| in_force(policy)).collect();
    match decision {
        Decision::Allowed { policy, filter } => {
            let named = spoken.iter().find(|it| it.id == policy && it.effect == Effect::Allow);
            prop_assert!(named.is_some());
            prop_assert!(!filter.is_empty() && filter.minus(open).is_empty());
        }
        Decision::Denied { reason } => {
            let is_spoken_for = spoken.iter().any(|policy| policy.effect == Effect::Allow);
            prop_assert_eq!(reason == DenyReason::NoPolicy, !is_spoken_for);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    /// Invariant: the index decides what plain Cedar over all policies decides.
    #[test]
    fn the_index_decides_as_cedar_does_over_all_policies(world in worlds(), circumstances in circumstances()) {
        prop_assert_eq!(&world.set, &crate::PolicySet::compile(&world.policies));
        for from in (0..=COUNT).map(device) {
            for to in (0..=COUNT).map(resource) {
                check(&world, from, to, circumstances)?;
            }
        }
    }
}
