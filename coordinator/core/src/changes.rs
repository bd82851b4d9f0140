//! [`Changes`]: the changes of a batch, found by what they are about; [`After`]: the state as it would be after them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use postern_model::{
    DeviceId, GrantId, GroupId, PolicyId, ResourceId, Scope, UserId,
    change::Change,
    record::{Device, Principal, Resource, User},
};
use postern_policy::{CompiledPolicy, Facts, PolicySet};

use crate::state::{State, look};

/// Changes in their order, with what decisions ask of them indexed: there may be as many as there are grants.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    list: Vec<Change>,
    /// Where in the list the last word about each is.
    devices: HashMap<DeviceId, usize>,
    users: HashMap<UserId, usize>,
    resources: HashMap<ResourceId, usize>,
    /// Whether a user joins (or leaves) a group.
    members: HashMap<UserId, BTreeMap<GroupId, bool>>,
    /// The policies that are put, compiled.
    policies: PolicySet,
    /// Those that are removed, or put in place of others.
    removed_policies: HashSet<PolicyId>,
    ended: HashSet<GrantId>,
}

impl Changes {
    pub(crate) fn push(&mut self, change: Change) {
        let at = self.list.len();
        match &change {
            Change::PutDevice(Device { id, .. }) | Change::RemoveDevice(id) => drop(self.devices.insert(*id, at)),
            Change::PutUser(User { id, .. }) | Change::RemoveUser(id) => drop(self.users.insert(*id, at)),
            Change::PutResource(Resource { id, .. }) | Change::RemoveResource(id) => {
                self.resources.insert(*id, at);
            }
            Change::AddMember(group, user) => drop(self.members.entry(*user).or_default().insert(*group, true)),
            Change::RemoveMember(group, user) => drop(self.members.entry(*user).or_default().insert(*group, false)),
            Change::PutPolicy(policy) => {
                self.removed_policies.insert(policy.id);
                self.policies.insert(Arc::new(CompiledPolicy::new(policy.clone())));
            }
            Change::RemovePolicy(id) => drop(self.removed_policies.insert(*id)),
            Change::EndGrant(id, _) => drop(self.ended.insert(*id)),
            // The rest is not what decisions are made of.
            _ => {}
        }
        self.list.push(change);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.list.iter()
    }

    pub(crate) fn into_list(self) -> Vec<Change> {
        self.list
    }

    pub(crate) fn is_ended(&self, grant: GrantId) -> bool {
        self.ended.contains(&grant)
    }

    /// Whether a policy of this principal is put.
    pub(crate) fn speak_of(&self, principal: Principal) -> bool {
        self.policies.speaks_of(principal)
    }

    /// The policies that are put.
    pub(crate) fn put_policies(&self) -> &PolicySet {
        &self.policies
    }

    fn last<Id: std::hash::Hash + Eq>(&self, index: &HashMap<Id, usize>, id: &Id) -> Option<&Change> {
        index.get(id).map(|at| &self.list[*at])
    }
}

impl From<Vec<Change>> for Changes {
    fn from(list: Vec<Change>) -> Self {
        let mut changes = Self::default();
        list.into_iter().for_each(|change| changes.push(change));
        changes
    }
}

/// The state as it would be after some changes.
pub(crate) struct After<'a> {
    pub(crate) state: &'a State,
    pub(crate) changes: &'a Changes,
}

impl Facts for After<'_> {
    fn device(&self, id: DeviceId) -> Option<&Device> {
        look();
        match self.changes.last(&self.changes.devices, &id) {
            Some(Change::PutDevice(device)) => Some(device),
            Some(_) => None,
            None => self.state.device(id),
        }
    }

    fn user(&self, id: UserId) -> Option<&User> {
        look();
        match self.changes.last(&self.changes.users, &id) {
            Some(Change::PutUser(user)) => Some(user),
            Some(_) => None,
            None => self.state.user(id),
        }
    }

    fn groups_of(&self, user: UserId) -> BTreeSet<GroupId> {
        look();
        let mut groups = Facts::groups_of(self.state, user);
        for (group, is_member) in self.changes.members.get(&user).into_iter().flatten() {
            if *is_member {
                groups.insert(*group);
            } else {
                groups.remove(group);
            }
        }
        groups
    }

    fn resource(&self, id: ResourceId) -> Option<&Resource> {
        look();
        match self.changes.last(&self.changes.resources, &id) {
            Some(Change::PutResource(resource)) => Some(resource),
            Some(_) => None,
            None => self.state.resource(id),
        }
    }

    fn resources_in(&self, scope: &Scope) -> Vec<ResourceId> {
        look();
        let mut resources: BTreeSet<_> = Facts::resources_in(self.state, scope).into_iter().collect();
        resources.extend(self.changes.resources.keys());
        let is_in = |resource: &Resource| match scope {
            Scope::Resource(id) => *id == resource.id,
            Scope::Tag(tag) => resource.tags.contains(tag),
            Scope::Everything => true,
        };
        resources.retain(|id| self.resource(*id).is_some_and(is_in));
        resources.into_iter().collect()
    }

    fn policies(&self, principal: Principal, scope: &Scope, each: &mut dyn FnMut(&Arc<CompiledPolicy>)) {
        look();
        let is_left = |policy: &&Arc<CompiledPolicy>| !self.changes.removed_policies.contains(&policy.policy().id);
        let left = self.state.policy_set().slice(principal, scope).iter().filter(is_left);
        left.chain(self.changes.policies.slice(principal, scope)).for_each(each);
    }

    fn scopes_of(&self, principal: Principal) -> Vec<Scope> {
        look();
        let mut scopes: BTreeSet<_> = self.state.scopes_of(principal).into_iter().collect();
        scopes.extend(self.changes.policies.scopes_of(principal).cloned());
        scopes.into_iter().collect()
    }
}
