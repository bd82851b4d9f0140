//! Decisions: by example, and against a scan over all policies that knows no index.

use std::collections::{BTreeMap, BTreeSet};

use postern_model::{
    Decision, DenyReason, DeviceId, Filter, GroupId, NetworkRanges, PolicyId, Posture, PublicKey, ResourceId, Sha256,
    SiteId, Timestamp, TokenId, UserId,
    addr::FIRST_INDEX,
    record::{Device, Owner, Policy, Principal, Resource, User},
};
use proptest::prelude::*;

use crate::{Facts, PolicySet, decide, visible};

const NOW: Timestamp = Timestamp::from_unix_millis(0);

#[derive(Debug, Clone, Default)]
struct World {
    users: BTreeMap<UserId, User>,
    members: BTreeSet<(GroupId, UserId)>,
    devices: BTreeMap<DeviceId, Device>,
    resources: BTreeMap<ResourceId, Resource>,
    policies: Vec<Policy>,
    set: PolicySet,
}

impl Facts for World {
    fn device(&self, id: DeviceId) -> Option<&Device> {
        self.devices.get(&id)
    }
    fn user(&self, id: UserId) -> Option<&User> {
        self.users.get(&id)
    }
    fn groups_of(&self, user: UserId) -> BTreeSet<GroupId> {
        self.members.iter().filter(|(_, member)| *member == user).map(|(group, _)| *group).collect()
    }
    fn resource(&self, id: ResourceId) -> Option<&Resource> {
        self.resources.get(&id)
    }
    fn policy(&self, principal: Principal, resource: ResourceId) -> Option<PolicyId> {
        self.set.policy(principal, resource)
    }
    fn resources_of(&self, principal: Principal) -> Vec<ResourceId> {
        self.set.resources_of(principal).map(|(resource, _)| resource).collect()
    }
}

fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

fn group(n: u8) -> GroupId {
    GroupId::from_bytes([n; 16])
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

fn resource(n: u8) -> ResourceId {
    ResourceId::from_bytes([n; 16])
}

fn open() -> Filter {
    Filter { tcp: "443".parse().unwrap(), ..Filter::default() }
}

impl World {
    fn add_user(&mut self, n: u8, suspended: bool) {
        let name = format!("u{n}").parse().unwrap();
        self.users.insert(user(n), User { id: user(n), name, suspended, created_at: NOW });
    }

    fn add_device(&mut self, n: u8, owner: Owner, revoked: bool) {
        let record = Device {
            id: device(n),
            name: format!("d{n}"),
            owner,
            key: Sha256([n; 32]),
            wireguard: PublicKey([n; 32]),
            addr: NetworkRanges::from_random([1; 5]).device(FIRST_INDEX + u32::from(n)).unwrap(),
            revoked,
            posture: Posture::default(),
            enrolled_at: NOW,
            token: TokenId::from_bytes([n; 16]),
        };
        self.devices.insert(device(n), record);
    }

    fn add_resource(&mut self, n: u8, filter: Filter) {
        let record = Resource {
            id: resource(n),
            name: format!("r{n}").parse().unwrap(),
            aliases: vec![],
            site: SiteId::from_bytes([1; 16]),
            target: "10.0.0.5".parse().unwrap(),
            filter,
            addr: NetworkRanges::from_random([1; 5]).resource(FIRST_INDEX + u32::from(n)).unwrap(),
            created_at: NOW,
        };
        self.resources.insert(resource(n), record);
    }

    fn allow(&mut self, n: u8, principal: Principal, to: u8) {
        let policy = Policy { id: PolicyId::from_bytes([n; 16]), principal, resource: resource(to), created_at: NOW };
        self.set.insert(&policy);
        self.policies.push(policy);
    }

    fn remove_policy(&mut self, at: usize) {
        let policy = self.policies.remove(at);
        self.set.remove(&policy);
    }

    /// Who is let in by which policy, by looking at every one of them.
    fn scan(&self, id: DeviceId, to: ResourceId) -> Result<(Filter, BTreeSet<PolicyId>), DenyReason> {
        let Some(record) = self.devices.get(&id).filter(|record| !record.revoked) else {
            return Err(DenyReason::DeviceRevoked);
        };
        let owner = match record.owner {
            Owner::User(owner) => Some(self.users.get(&owner).ok_or(DenyReason::UserRemoved)?),
            Owner::Site(_) => None,
        };
        if owner.is_some_and(|owner| owner.suspended) {
            return Err(DenyReason::UserSuspended);
        }
        let target = self.resources.get(&to).ok_or(DenyReason::UnknownResource)?;
        let speaks_of = |principal: Principal| match principal {
            Principal::Device(device) => device == id,
            Principal::User(user) => owner.is_some_and(|owner| owner.id == user),
            Principal::Group(group) => owner.is_some_and(|owner| self.members.contains(&(group, owner.id))),
        };
        let policies = self.policies.iter().filter(|policy| policy.resource == to && speaks_of(policy.principal));
        let policies: BTreeSet<_> = policies.map(|policy| policy.id).collect();
        if policies.is_empty() {
            return Err(DenyReason::NoPolicy);
        }
        if target.filter.is_empty() { Err(DenyReason::EmptyFilter) } else { Ok((target.filter.clone(), policies)) }
    }
}

/// User 1 with device 1, resource 1, no policy.
fn small() -> World {
    let mut world = World::default();
    world.add_user(1, false);
    world.add_device(1, Owner::User(user(1)), false);
    world.add_resource(1, open());
    world
}

fn denied(world: &World) -> DenyReason {
    match decide(world, device(1), resource(1), NOW) {
        Decision::Denied { reason } => reason,
        Decision::Allowed { policy, .. } => panic!("allowed by {policy}"),
    }
}

fn allowed(world: &World) -> PolicyId {
    match decide(world, device(1), resource(1), NOW) {
        Decision::Allowed { policy, filter } => {
            assert_eq!(filter, world.resources[&resource(1)].filter);
            policy
        }
        Decision::Denied { reason } => panic!("denied: {reason}"),
    }
}

#[test]
fn what_nothing_allows_is_denied() {
    assert_eq!(denied(&small()), DenyReason::NoPolicy);
    let mut world = small();
    world.allow(1, Principal::User(user(2)), 1);
    world.allow(2, Principal::Group(group(1)), 1);
    world.allow(3, Principal::Device(device(2)), 1);
    world.allow(4, Principal::User(user(1)), 2);
    assert_eq!(denied(&world), DenyReason::NoPolicy, "policies for others and for another resource");
}

#[test]
fn the_most_exact_policy_is_the_one_that_counts() {
    let mut world = small();
    world.members.insert((group(1), user(1)));
    world.allow(1, Principal::Group(group(1)), 1);
    assert_eq!(allowed(&world), PolicyId::from_bytes([1; 16]));
    world.allow(2, Principal::User(user(1)), 1);
    assert_eq!(allowed(&world), PolicyId::from_bytes([2; 16]));
    world.allow(3, Principal::Device(device(1)), 1);
    assert_eq!(allowed(&world), PolicyId::from_bytes([3; 16]));
}

#[test]
fn whoever_may_reach_nothing_is_told_why_and_sees_nothing() {
    type Breaking = fn(&mut World);
    let cases: [(Breaking, DenyReason); 5] = [
        (|world| world.users.get_mut(&user(1)).unwrap().suspended = true, DenyReason::UserSuspended),
        (|world| world.users.clear(), DenyReason::UserRemoved),
        (|world| world.devices.get_mut(&device(1)).unwrap().revoked = true, DenyReason::DeviceRevoked),
        (|world| world.devices.clear(), DenyReason::DeviceRevoked),
        (|world| world.resources.get_mut(&resource(1)).unwrap().filter = Filter::default(), DenyReason::EmptyFilter),
    ];
    for (break_it, reason) in cases {
        let mut world = small();
        world.allow(1, Principal::User(user(1)), 1);
        assert_eq!(visible(&world, device(1), NOW), BTreeSet::from([resource(1)]));
        break_it(&mut world);
        assert_eq!(denied(&world), reason);
        assert!(visible(&world, device(1), NOW).is_empty());
    }
}

#[test]
fn a_service_device_is_in_no_group() {
    let mut world = small();
    world.add_device(1, Owner::Site(SiteId::from_bytes([1; 16])), false);
    world.members.insert((group(1), user(1)));
    world.allow(1, Principal::Group(group(1)), 1);
    world.allow(2, Principal::User(user(1)), 1);
    assert_eq!(denied(&world), DenyReason::NoPolicy);
    world.allow(3, Principal::Device(device(1)), 1);
    assert_eq!(allowed(&world), PolicyId::from_bytes([3; 16]));
}

#[test]
fn a_newer_policy_for_the_same_takes_the_place_of_the_older() {
    let policy = |n| Policy {
        id: PolicyId::from_bytes([n; 16]),
        principal: Principal::User(user(1)),
        resource: resource(1),
        created_at: NOW,
    };
    let (older, newer) = (policy(1), policy(2));
    let mut set = PolicySet::compile([&older, &newer]);
    assert_eq!(set, PolicySet::compile([&newer]));
    set.remove(&older);
    assert_eq!(set.policy(older.principal, older.resource), Some(newer.id));
    assert_eq!(set.policies_of(newer.principal), [newer.id]);
    assert_eq!(set.policies_about(newer.resource).collect::<Vec<_>>(), [(newer.id, newer.principal)]);
    set.remove(&newer);
    assert_eq!(set, PolicySet::default(), "nothing is left behind");
}

const COUNT: u8 = 4;

fn worlds() -> impl Strategy<Value = World> {
    let flag = || prop::bool::weighted(0.2);
    let users = prop::collection::vec((flag(), flag()), usize::from(COUNT));
    let devices = prop::collection::vec((0..COUNT + 1, flag()), usize::from(COUNT));
    let resources = prop::collection::vec((flag(), flag()), usize::from(COUNT));
    let members = prop::collection::btree_set((0..COUNT, 0..COUNT), 0..8);
    let policies = prop::collection::vec((0u8..3, 0..COUNT, 0..COUNT), 0..16);
    let removed = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    (users, devices, resources, members, policies, removed).prop_map(build)
}

type Parts = (
    Vec<(bool, bool)>,
    Vec<(u8, bool)>,
    Vec<(bool, bool)>,
    BTreeSet<(u8, u8)>,
    Vec<(u8, u8, u8)>,
    Vec<prop::sample::Index>,
);

fn build((users, devices, resources, members, policies, removed): Parts) -> World {
    let mut world = World::default();
    for (n, (is_missing, suspended)) in (0..).zip(users) {
        if !is_missing {
            world.add_user(n, suspended);
        }
    }
    for (n, (owner, revoked)) in (0..).zip(devices) {
        let owner = if owner == COUNT { Owner::Site(SiteId::from_bytes([1; 16])) } else { Owner::User(user(owner)) };
        world.add_device(n, owner, revoked);
    }
    for (n, (is_missing, is_empty)) in (0..).zip(resources) {
        if !is_missing {
            world.add_resource(n, if is_empty { Filter::default() } else { open() });
        }
    }
    world.members.extend(members.into_iter().map(|(n, member)| (group(n), user(member))));
    let mut seen = BTreeSet::new();
    for (n, (kind, who, to)) in (0..).zip(policies) {
        let principal = match kind {
            0 => Principal::User(user(who)),
            1 => Principal::Group(group(who)),
            _ => Principal::Device(device(who)),
        };
        // One principal has one policy for a resource.
        if seen.insert((kind, who, to)) {
            world.allow(n, principal, to);
        }
    }
    for at in removed {
        if !world.policies.is_empty() {
            world.remove_policy(at.index(world.policies.len()));
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariant: the index decides what a scan over all policies decides, and a catalogue is exactly what is allowed.
    #[test]
    fn the_index_decides_as_a_scan_does(world in worlds()) {
        prop_assert_eq!(&world.set, &PolicySet::compile(&world.policies));
        // One more of each than there are.
        for from in (0..=COUNT).map(device) {
            let mut reachable = BTreeSet::new();
            for to in (0..=COUNT).map(resource) {
                match (decide(&world, from, to, NOW), world.scan(from, to)) {
                    (Decision::Allowed { filter, policy }, Ok((expected, policies))) => {
                        prop_assert_eq!(filter, expected);
                        prop_assert!(policies.contains(&policy));
                        reachable.insert(to);
                    }
                    (Decision::Denied { reason }, Err(expected)) => prop_assert_eq!(reason, expected),
                    (decision, expected) => prop_assert!(false, "{decision:?}, but {expected:?}"),
                }
            }
            prop_assert_eq!(visible(&world, from, NOW), reachable);
        }
    }
}
