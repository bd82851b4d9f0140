//! The coordinator's state in memory: what the store keeps, by id, with the indexes that decisions need.
//!
//! It moves only by applying [`Change`]s, so that it is always what the store would load.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
};

use postern_model::{
    ApiKeyId, DeviceId, Fqdn, GrantId, GroupId, GroupName, PolicyId, PublicKey, RelayId, ResourceId, ResourceName,
    Revision, Scope, Sha256, SiteId, SiteName, TagName, Timestamp, TokenId, UserId, UserName,
    change::Change,
    grant::Grant,
    record::{
        ApiKeyRecord, Device, Group, Network, Owner, Policy, Principal, Relay, Resource, Site, Token, User, World,
    },
};
use postern_policy::{CompiledPolicy, Facts, PolicySet};

/// The whole durable state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the records are documented in the model")]
pub struct State {
    pub revision: Revision,
    pub network: Network,
    pub users: BTreeMap<UserId, User>,
    pub groups: BTreeMap<GroupId, Group>,
    pub sites: BTreeMap<SiteId, Site>,
    pub resources: BTreeMap<ResourceId, Resource>,
    pub policies: BTreeMap<PolicyId, Policy>,
    pub devices: BTreeMap<DeviceId, Device>,
    pub tokens: BTreeMap<TokenId, Token>,
    pub api_keys: BTreeMap<ApiKeyId, ApiKeyRecord>,
    pub relays: BTreeMap<RelayId, Relay>,
    pub grants: BTreeMap<GrantId, Grant>,
    policy_set: PolicySet,
    user_names: HashMap<UserName, UserId>,
    group_names: HashMap<GroupName, GroupId>,
    site_names: HashMap<SiteName, SiteId>,
    resource_names: HashMap<ResourceName, ResourceId>,
    device_names: HashMap<String, DeviceId>,
    device_keys: HashMap<Sha256, DeviceId>,
    wireguard_keys: HashMap<PublicKey, DeviceId>,
    aliases: HashMap<Fqdn, ResourceId>,
    tagged: Index<TagName, ResourceId>,
    policy_ends: BTreeSet<(Timestamp, PolicyId)>,
    groups_of: Index<UserId, GroupId>,
    members_of: Index<GroupId, UserId>,
    devices_of: Index<Owner, DeviceId>,
    grants_of_device: Index<DeviceId, GrantId>,
    grants_of_resource: Index<ResourceId, GrantId>,
    grants_of_gateway: Index<DeviceId, GrantId>,
    grant_of: HashMap<(DeviceId, ResourceId), GrantId>,
    expiries: BTreeSet<(Timestamp, GrantId)>,
}

impl State {
    /// The state that the store loaded.
    pub fn new(world: World) -> Self {
        let mut state = Self {
            revision: world.revision,
            network: world.network,
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            sites: BTreeMap::new(),
            resources: BTreeMap::new(),
            policies: BTreeMap::new(),
            devices: BTreeMap::new(),
            tokens: BTreeMap::new(),
            api_keys: BTreeMap::new(),
            relays: BTreeMap::new(),
            grants: BTreeMap::new(),
            policy_set: PolicySet::default(),
            user_names: HashMap::new(),
            group_names: HashMap::new(),
            site_names: HashMap::new(),
            resource_names: HashMap::new(),
            device_names: HashMap::new(),
            device_keys: HashMap::new(),
            wireguard_keys: HashMap::new(),
            aliases: HashMap::new(),
            tagged: Index::default(),
            policy_ends: BTreeSet::new(),
            groups_of: Index::default(),
            members_of: Index::default(),
            devices_of: Index::default(),
            grants_of_device: Index::default(),
            grants_of_resource: Index::default(),
            grants_of_gateway: Index::default(),
            grant_of: HashMap::new(),
            expiries: BTreeSet::new(),
        };
        let changes = std::iter::empty()
            .chain(world.users.into_iter().map(Change::PutUser))
            .chain(world.groups.into_iter().map(Change::PutGroup))
            .chain(world.members.into_iter().map(|(group, user)| Change::AddMember(group, user)))
            .chain(world.sites.into_iter().map(Change::PutSite))
            .chain(world.resources.into_iter().map(Change::PutResource))
            .chain(world.policies.into_iter().map(Change::PutPolicy))
            .chain(world.devices.into_iter().map(Change::PutDevice))
            .chain(world.tokens.into_iter().map(Change::PutToken))
            .chain(world.api_keys.into_iter().map(Change::PutApiKey))
            .chain(world.relays.into_iter().map(Change::PutRelay))
            .chain(world.grants.into_iter().map(Change::PutGrant));
        changes.for_each(|change| state.apply(change));
        state
    }

    /// The state as the store would load it.
    pub fn world(&self) -> World {
        fn all<K, V: Clone>(map: &BTreeMap<K, V>) -> Vec<V> {
            map.values().cloned().collect()
        }
        let members = self.members_of.0.iter().flat_map(|(group, users)| users.iter().map(|user| (*group, *user)));
        World {
            revision: self.revision,
            network: self.network.clone(),
            users: all(&self.users),
            groups: all(&self.groups),
            members: members.collect::<BTreeSet<_>>().into_iter().collect(),
            sites: all(&self.sites),
            resources: all(&self.resources),
            policies: all(&self.policies),
            devices: all(&self.devices),
            tokens: all(&self.tokens),
            api_keys: all(&self.api_keys),
            relays: all(&self.relays),
            grants: all(&self.grants),
        }
    }

    /// Takes one step.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::PutNetwork(network) => self.network = network,
            Change::PutUser(user) => {
                self.user_names.insert(user.name.clone(), user.id);
                self.users.insert(user.id, user);
            }
            Change::RemoveUser(id) => {
                if let Some(user) = self.users.remove(&id) {
                    self.user_names.remove(&user.name);
                }
            }
            Change::PutGroup(group) => {
                self.group_names.insert(group.name.clone(), group.id);
                self.groups.insert(group.id, group);
            }
            Change::RemoveGroup(id) => {
                if let Some(group) = self.groups.remove(&id) {
                    self.group_names.remove(&group.name);
                }
            }
            Change::AddMember(group, user) => {
                self.groups_of.insert(user, group);
                self.members_of.insert(group, user);
            }
            Change::RemoveMember(group, user) => {
                self.groups_of.remove(&user, &group);
                self.members_of.remove(&group, &user);
            }
            Change::PutSite(site) => {
                self.site_names.insert(site.name.clone(), site.id);
                self.sites.insert(site.id, site);
            }
            Change::RemoveSite(id) => {
                if let Some(site) = self.sites.remove(&id) {
                    self.site_names.remove(&site.name);
                }
            }
            Change::PutResource(resource) => {
                self.forget_resource_words(resource.id);
                for tag in &resource.tags {
                    self.tagged.insert(tag.clone(), resource.id);
                }
                self.resource_names.insert(resource.name.clone(), resource.id);
                self.aliases.extend(resource.aliases.iter().map(|alias| (alias.clone(), resource.id)));
                self.resources.insert(resource.id, resource);
            }
            Change::RemoveResource(id) => {
                self.forget_resource_words(id);
                self.resources.remove(&id);
            }
            Change::PutPolicy(policy) => {
                self.forget_policy(policy.id);
                self.policy_set.insert(Arc::new(CompiledPolicy::new(policy.clone())));
                self.policy_ends.extend(policy.until.map(|until| (until, policy.id)));
                self.policies.insert(policy.id, policy);
            }
            Change::RemovePolicy(id) => self.forget_policy(id),
            Change::PutDevice(device) => {
                self.devices_of.insert(device.owner, device.id);
                self.device_names.insert(device.name.clone(), device.id);
                self.device_keys.insert(device.key, device.id);
                self.wireguard_keys.insert(device.wireguard, device.id);
                self.devices.insert(device.id, device);
            }
            Change::RemoveDevice(id) => {
                if let Some(device) = self.devices.remove(&id) {
                    self.devices_of.remove(&device.owner, &id);
                    self.device_names.remove(&device.name);
                    self.device_keys.remove(&device.key);
                    self.wireguard_keys.remove(&device.wireguard);
                }
            }
            Change::PutToken(token) => {
                self.tokens.insert(token.id, token);
            }
            Change::RemoveToken(id) => {
                self.tokens.remove(&id);
            }
            Change::PutApiKey(key) => {
                self.api_keys.insert(key.id, key);
            }
            Change::RemoveApiKey(id) => {
                self.api_keys.remove(&id);
            }
            Change::PutRelay(relay) => {
                self.relays.insert(relay.id, relay);
            }
            Change::RemoveRelay(id) => {
                self.relays.remove(&id);
            }
            Change::PutGrant(grant) => {
                self.forget_grant(grant.id);
                self.grants_of_device.insert(grant.device, grant.id);
                self.grants_of_resource.insert(grant.resource, grant.id);
                self.grants_of_gateway.insert(grant.gateway, grant.id);
                self.grant_of.insert((grant.device, grant.resource), grant.id);
                self.expiries.insert((grant.expires_at, grant.id));
                self.grants.insert(grant.id, grant);
            }
            Change::EndGrant(id, _) => self.forget_grant(id),
        }
    }

    fn forget_resource_words(&mut self, id: ResourceId) {
        if let Some(old) = self.resources.get(&id) {
            self.resource_names.remove(&old.name);
            for alias in &old.aliases {
                self.aliases.remove(alias);
            }
            for tag in &old.tags {
                self.tagged.remove(tag, &id);
            }
        }
    }

    fn forget_policy(&mut self, id: PolicyId) {
        if let Some(policy) = self.policies.remove(&id) {
            self.policy_set.remove(&policy);
            if let Some(until) = policy.until {
                self.policy_ends.remove(&(until, id));
            }
        }
    }

    fn forget_grant(&mut self, id: GrantId) {
        if let Some(grant) = self.grants.remove(&id) {
            self.grants_of_device.remove(&grant.device, &id);
            self.grants_of_resource.remove(&grant.resource, &id);
            self.grants_of_gateway.remove(&grant.gateway, &id);
            if self.grant_of.get(&(grant.device, grant.resource)) == Some(&id) {
                self.grant_of.remove(&(grant.device, grant.resource));
            }
            self.expiries.remove(&(grant.expires_at, id));
        }
    }

    /// A user by name.
    pub fn user_named(&self, name: &UserName) -> Option<&User> {
        self.users.get(self.user_names.get(name)?)
    }

    /// A group by name.
    pub fn group_named(&self, name: &GroupName) -> Option<&Group> {
        self.groups.get(self.group_names.get(name)?)
    }

    /// A site by name.
    pub fn site_named(&self, name: &SiteName) -> Option<&Site> {
        self.sites.get(self.site_names.get(name)?)
    }

    /// A resource by name.
    pub fn resource_named(&self, name: &ResourceName) -> Option<&Resource> {
        self.resources.get(self.resource_names.get(name)?)
    }

    /// A device by name.
    pub fn device_named(&self, name: &str) -> Option<&Device> {
        self.devices.get(self.device_names.get(name)?)
    }

    /// The device with this device key.
    pub fn device_with_key(&self, key: &Sha256) -> Option<&Device> {
        self.devices.get(self.device_keys.get(key)?)
    }

    /// The device with this WireGuard key.
    pub fn device_with_wireguard(&self, key: &PublicKey) -> Option<&Device> {
        self.devices.get(self.wireguard_keys.get(key)?)
    }

    /// The resource with this alias.
    pub fn resource_with_alias(&self, alias: &Fqdn) -> Option<&Resource> {
        self.resources.get(self.aliases.get(alias)?)
    }

    /// A group's members.
    pub fn members_of(&self, group: GroupId) -> impl Iterator<Item = UserId> + '_ {
        self.members_of.get(&group)
    }

    /// Whether a user is in a group.
    pub fn is_member(&self, group: GroupId, user: UserId) -> bool {
        self.members_of.contains(&group, &user)
    }

    /// The devices of a person, or the gateways of a site, revoked ones too.
    pub fn devices_of(&self, owner: Owner) -> impl Iterator<Item = &Device> + '_ {
        self.devices_of.get(&owner).filter_map(|id| self.devices.get(&id))
    }

    /// The grants that a device holds.
    pub fn grants_of_device(&self, device: DeviceId) -> impl Iterator<Item = &Grant> + '_ {
        self.grants_of_device.get(&device).filter_map(|id| self.grants.get(&id))
    }

    /// The grants to a resource.
    pub fn grants_of_resource(&self, resource: ResourceId) -> impl Iterator<Item = &Grant> + '_ {
        self.grants_of_resource.get(&resource).filter_map(|id| self.grants.get(&id))
    }

    /// The grants that a gateway carries.
    pub fn grants_of_gateway(&self, gateway: DeviceId) -> impl Iterator<Item = &Grant> + '_ {
        self.grants_of_gateway.get(&gateway).filter_map(|id| self.grants.get(&id))
    }

    /// How many grants a gateway carries.
    pub fn load_of_gateway(&self, gateway: DeviceId) -> usize {
        self.grants_of_gateway.len(&gateway)
    }

    /// The grant of a device to a resource.
    pub fn grant_of(&self, device: DeviceId, resource: ResourceId) -> Option<&Grant> {
        self.grants.get(self.grant_of.get(&(device, resource))?)
    }

    /// The grants that a policy of this principal and scope can touch.
    pub fn grants_within(&self, principal: Principal, scope: &Scope) -> Vec<GrantId> {
        let of_devices = |devices: &mut dyn Iterator<Item = DeviceId>| -> Vec<GrantId> {
            let grants = devices.flat_map(|device| self.grants_of_device(device));
            grants.filter(|grant| self.is_within(grant.resource, scope)).map(|grant| grant.id).collect()
        };
        match (principal, scope) {
            (Principal::Device(device), _) => of_devices(&mut std::iter::once(device)),
            (Principal::User(user), _) => of_devices(&mut self.devices_of(Owner::User(user)).map(|device| device.id)),
            (Principal::Group(_) | Principal::Everyone, _) => {
                let resources = Facts::resources_in(self, scope);
                let grants = resources.into_iter().flat_map(|resource| self.grants_of_resource(resource));
                grants.filter(|grant| self.is_one_of(grant.device, principal)).map(|grant| grant.id).collect()
            }
        }
    }

    fn is_within(&self, resource: ResourceId, scope: &Scope) -> bool {
        match scope {
            Scope::Resource(id) => *id == resource,
            Scope::Tag(tag) => self.tagged.contains(tag, &resource),
            Scope::Everything => true,
        }
    }

    /// Whether a device is what a policy of this principal speaks of.
    fn is_one_of(&self, device: DeviceId, principal: Principal) -> bool {
        let owner = self.devices.get(&device).map(|device| device.owner);
        match (principal, owner) {
            (Principal::Device(id), _) => id == device,
            (Principal::User(id), Some(Owner::User(user))) => id == user,
            (Principal::Group(id), Some(Owner::User(user))) => self.is_member(id, user),
            (Principal::Everyone, _) => true,
            _ => false,
        }
    }

    /// Policies by their end, the next one first.
    pub fn policy_ends(&self) -> impl Iterator<Item = (Timestamp, &Policy)> + '_ {
        self.policy_ends.iter().filter_map(|(at, id)| Some((*at, self.policies.get(id)?)))
    }

    /// The grants by the end of their lease, the next one first.
    pub fn expiries(&self) -> impl DoubleEndedIterator<Item = (Timestamp, &Grant)> + '_ {
        self.expiries.iter().filter_map(|(at, id)| Some((*at, self.grants.get(id)?)))
    }

    /// The compiled policies.
    pub fn policy_set(&self) -> &PolicySet {
        &self.policy_set
    }

    /// The name of a device's user, if it is a person's.
    pub fn user_of(&self, device: &Device) -> Option<&User> {
        match device.owner {
            Owner::User(user) => self.users.get(&user),
            Owner::Site(_) => None,
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How often facts were looked at in this thread: how much work something is.
    pub(crate) static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts, in tests.
#[inline]
pub(crate) fn look() {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
}

impl Facts for State {
    fn device(&self, id: DeviceId) -> Option<&Device> {
        look();
        self.devices.get(&id)
    }
    fn user(&self, id: UserId) -> Option<&User> {
        look();
        self.users.get(&id)
    }
    fn groups_of(&self, user: UserId) -> BTreeSet<GroupId> {
        look();
        self.groups_of.get(&user).collect()
    }
    fn resource(&self, id: ResourceId) -> Option<&Resource> {
        look();
        self.resources.get(&id)
    }
    fn resources_in(&self, scope: &Scope) -> Vec<ResourceId> {
        look();
        match scope {
            Scope::Resource(id) => self.resources.contains_key(id).then_some(*id).into_iter().collect(),
            Scope::Tag(tag) => self.tagged.get(tag).collect(),
            Scope::Everything => self.resources.keys().copied().collect(),
        }
    }
    fn policies(&self, principal: Principal, scope: &Scope, each: &mut dyn FnMut(&Arc<CompiledPolicy>)) {
        look();
        self.policy_set.slice(principal, scope).iter().for_each(each);
    }
    fn scopes_of(&self, principal: Principal) -> Vec<Scope> {
        look();
        self.policy_set.scopes_of(principal).cloned().collect()
    }
}

/// A multimap without empty sets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Index<K: Eq + Hash, V: Ord>(HashMap<K, BTreeSet<V>>);

impl<K: Eq + Hash, V: Ord> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Ord + Copy> Index<K, V> {
    fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn contains(&self, key: &K, value: &V) -> bool {
        self.0.get(key).is_some_and(|values| values.contains(value))
    }

    fn len(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }

    fn get<'a>(&'a self, key: &K) -> impl Iterator<Item = V> + use<'a, K, V> {
        self.0.get(key).into_iter().flatten().copied()
    }
}
