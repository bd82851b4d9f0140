//! [`World`]: facts for tests, made by hand or at random.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use postern_model::{
    Condition, DeviceId, Effect, Filter, GroupId, NetworkRanges, PolicyId, Posture, PublicKey, ResourceId, Scope,
    Sha256, SiteId, TagName, Timestamp, TokenId, UserId,
    addr::FIRST_INDEX,
    record::{Device, Owner, Policy, Principal, Resource, User},
};
use proptest::prelude::*;

use super::{
    circumstances::{MINUTE, START, enrolments, postures},
    conditions::trees,
};
use crate::{Circumstances, CompiledPolicy, Facts, PolicySet};

/// At the start, with a posture that counts for a day, from nowhere.
pub(crate) const CALM: Circumstances = Circumstances {
    now: START,
    posture_until: Some(Timestamp::from_unix_millis(START.unix_millis() + 24 * 60 * MINUTE)),
    source: None,
};

#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) users: BTreeMap<UserId, User>,
    pub(crate) members: BTreeSet<(GroupId, UserId)>,
    pub(crate) devices: BTreeMap<DeviceId, Device>,
    pub(crate) resources: BTreeMap<ResourceId, Resource>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) set: PolicySet,
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
    fn resources_in(&self, scope: &Scope) -> Vec<ResourceId> {
        self.resources.values().filter(|resource| is_in(resource, scope)).map(|resource| resource.id).collect()
    }
    fn policies(&self, principal: Principal, scope: &Scope, each: &mut dyn FnMut(&Arc<CompiledPolicy>)) {
        self.set.slice(principal, scope).iter().for_each(each);
    }
    fn scopes_of(&self, principal: Principal) -> Vec<Scope> {
        self.set.scopes_of(principal).cloned().collect()
    }
}

/// Whether a scope takes a resource in.
pub(crate) fn is_in(resource: &Resource, scope: &Scope) -> bool {
    match scope {
        Scope::Resource(id) => *id == resource.id,
        Scope::Tag(tag) => resource.tags.contains(tag),
        Scope::Everything => true,
    }
}

pub(crate) fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

pub(crate) fn group(n: u8) -> GroupId {
    GroupId::from_bytes([n; 16])
}

pub(crate) fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

pub(crate) fn resource(n: u8) -> ResourceId {
    ResourceId::from_bytes([n; 16])
}

pub(crate) fn policy(n: u8) -> PolicyId {
    PolicyId::from_bytes([n; 16])
}

pub(crate) fn tag(n: u8) -> TagName {
    format!("t{n}").parse().unwrap()
}

pub(crate) fn ports(text: &str) -> Filter {
    text.parse().unwrap()
}

pub(crate) fn short(text: &str) -> Condition {
    Condition::Short { text: text.to_owned() }
}

/// Lets user 1 reach resource 1, always.
pub(crate) fn allowing(n: u8) -> Policy {
    Policy {
        id: policy(n),
        effect: Effect::Allow,
        principal: Principal::User(user(1)),
        scope: Scope::Resource(resource(1)),
        ports: None,
        condition: None,
        until: None,
        shadow: false,
        created_at: START,
    }
}

/// The same under a condition.
pub(crate) fn allowing_when(n: u8, text: &str) -> Policy {
    Policy { condition: Some(short(text)), ..allowing(n) }
}

pub(crate) fn denying(n: u8) -> Policy {
    Policy { effect: Effect::Deny, ..allowing(n) }
}

impl World {
    pub(crate) fn add_user(&mut self, n: u8, suspended: bool) {
        let name = format!("u{n}").parse().unwrap();
        self.users.insert(user(n), User { id: user(n), name, suspended, created_at: START });
    }

    pub(crate) fn add_device(&mut self, n: u8, owner: Owner) -> &mut Device {
        let record = Device {
            id: device(n),
            name: format!("d{n}"),
            owner,
            key: Sha256([n; 32]),
            wireguard: PublicKey([n; 32]),
            addr: NetworkRanges::from_random([1; 5]).device(FIRST_INDEX + u32::from(n)).unwrap(),
            revoked: false,
            drained: false,
            posture: Posture::default(),
            enrolled_at: START,
            token: TokenId::from_bytes([n; 16]),
        };
        self.devices.insert(device(n), record);
        self.devices.get_mut(&device(n)).unwrap()
    }

    pub(crate) fn add_resource(&mut self, n: u8, filter: Filter) -> &mut Resource {
        let record = Resource {
            id: resource(n),
            name: format!("r{n}").parse().unwrap(),
            aliases: vec![],
            tags: BTreeSet::new(),
            site: SiteId::from_bytes([1; 16]),
            target: "10.0.0.5".parse().unwrap(),
            filter,
            addr: NetworkRanges::from_random([1; 5]).resource(FIRST_INDEX + u32::from(n)).unwrap(),
            created_at: START,
        };
        self.resources.insert(resource(n), record);
        self.resources.get_mut(&resource(n)).unwrap()
    }

    pub(crate) fn add_policy(&mut self, policy: Policy) {
        self.set.insert(Arc::new(CompiledPolicy::new(policy.clone())));
        self.policies.push(policy);
    }

    pub(crate) fn remove_policy(&mut self, at: usize) {
        let policy = self.policies.remove(at);
        self.set.remove(&policy);
    }

    /// What device 1 says of itself.
    pub(crate) fn posture(&mut self) -> &mut Posture {
        &mut self.devices.get_mut(&device(1)).unwrap().posture
    }

    /// The policies that speak of this device (which may reach things at all) and this resource, found without any index.
    pub(crate) fn scan(&self, device: &Device, resource: &Resource) -> Vec<&Policy> {
        let owner = match device.owner {
            Owner::User(owner) => Some(owner),
            Owner::Site(_) => None,
        };
        let speaks_of = |principal: Principal| match principal {
            Principal::Device(id) => id == device.id,
            Principal::User(user) => owner == Some(user),
            Principal::Group(group) => owner.is_some_and(|owner| self.members.contains(&(group, owner))),
            Principal::Everyone => true,
        };
        self.policies.iter().filter(|policy| speaks_of(policy.principal) && is_in(resource, &policy.scope)).collect()
    }
}

/// User 1 with device 1, resource 1 that opens tcp/443, no policy.
pub(crate) fn small() -> World {
    let mut world = World::default();
    world.add_user(1, false);
    world.add_device(1, Owner::User(user(1)));
    world.add_resource(1, ports("tcp/443"));
    world
}

/// The same with these policies.
pub(crate) fn small_with(policies: impl IntoIterator<Item = Policy>) -> World {
    let mut world = small();
    policies.into_iter().for_each(|policy| world.add_policy(policy));
    world
}

/// How many users, devices, resources, groups and tags there can be.
pub(crate) const COUNT: u8 = 3;

fn filters() -> impl Strategy<Value = Filter> {
    let texts = ["tcp/443", "tcp/80-90 udp/53", "tcp/any", "tcp/22,5432 icmp", "tcp/80,443 udp/any icmp", "udp/53"];
    prop::sample::select(texts.map(ports).to_vec())
}

fn principals() -> impl Strategy<Value = Principal> {
    prop_oneof![
        2 => (0..COUNT).prop_map(|n| Principal::User(user(n))),
        3 => (0..COUNT).prop_map(|n| Principal::Group(group(n))),
        1 => (0..COUNT).prop_map(|n| Principal::Device(device(n))),
        2 => Just(Principal::Everyone),
    ]
}

fn scopes() -> impl Strategy<Value = Scope> {
    prop_oneof![
        2 => (0..COUNT).prop_map(|n| Scope::Resource(resource(n))),
        2 => (0..COUNT).prop_map(|n| Scope::Tag(tag(n))),
        1 => Just(Scope::Everything),
    ]
}

/// Policies without their number.
pub(crate) fn policies() -> impl Strategy<Value = Policy> {
    let effect = prop_oneof![3 => Just(Effect::Allow), 1 => Just(Effect::Deny)];
    let condition = prop::option::weighted(0.6, trees().prop_map(|tree| short(&tree.to_string())));
    // On the minute, before and after the moments that are asked about.
    let until = prop::option::weighted(0.3, (-600i64..2000).prop_map(|n| START.unix_millis() + n * MINUTE));
    let until = until.prop_map(|until| until.map(Timestamp::from_unix_millis));
    (effect, principals(), scopes(), prop::option::of(filters()), condition, until, prop::bool::weighted(0.15))
        .prop_map(|(effect, principal, scope, ports, condition, until, shadow)| Policy {
            effect,
            principal,
            scope,
            ports,
            condition,
            until,
            shadow,
            ..allowing(0)
        })
}

/// Users, devices, resources and groups, and up to twelve policies that came and of which some went.
pub(crate) fn worlds() -> impl Strategy<Value = World> {
    let flag = || prop::bool::weighted(0.1);
    let count = usize::from(COUNT);
    let users = prop::collection::vec((flag(), flag()), count);
    let devices = prop::collection::vec((0..COUNT + 1, flag(), postures(), enrolments()), count);
    let tags = prop::collection::btree_set((0..COUNT).prop_map(tag), 0..3);
    let resources = prop::collection::vec((flag(), prop::option::weighted(0.9, filters()), tags), count);
    let members = prop::collection::btree_set((0..COUNT, 0..COUNT), 0..7);
    let policies = prop::collection::vec(policies(), 0..12);
    let removed = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (users, devices, resources, members, policies, removed).prop_map(build)
}

type Parts = (
    Vec<(bool, bool)>,
    Vec<(u8, bool, Posture, Timestamp)>,
    Vec<(bool, Option<Filter>, BTreeSet<TagName>)>,
    BTreeSet<(u8, u8)>,
    Vec<Policy>,
    Vec<prop::sample::Index>,
);

fn build((users, devices, resources, members, policies, removed): Parts) -> World {
    let mut world = World::default();
    for (n, (is_missing, suspended)) in (0..).zip(users) {
        if !is_missing {
            world.add_user(n, suspended);
        }
    }
    for (n, (owner, revoked, posture, enrolled_at)) in (0..).zip(devices) {
        let owner = if owner == COUNT { Owner::Site(SiteId::from_bytes([1; 16])) } else { Owner::User(user(owner)) };
        let device = world.add_device(n, owner);
        (device.revoked, device.posture, device.enrolled_at) = (revoked, posture, enrolled_at);
    }
    for (n, (is_missing, filter, tags)) in (0..).zip(resources) {
        if !is_missing {
            world.add_resource(n, filter.unwrap_or_default()).tags = tags;
        }
    }
    world.members.extend(members.into_iter().map(|(n, member)| (group(n), user(member))));
    for (n, it) in (0..).zip(policies) {
        world.add_policy(Policy { id: policy(n), ..it });
    }
    for at in removed {
        if !world.policies.is_empty() {
            world.remove_policy(at.index(world.policies.len()));
        }
    }
    world
}
