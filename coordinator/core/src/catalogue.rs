//! Catalogues: which resources a device may see, and what a batch changes of that.
//!
//! What a connected node was told is what is visible in the state as it is applied. So nothing is kept per session: the
//! states before and after a batch say what is news. Devices that policies can't tell apart hear the same, which is worked
//! out once for all of them, and only for the resources that the batch is about.

use std::collections::{BTreeSet, HashMap};

use postern_model::{
    DeviceId, ResourceId,
    change::Change,
    record::{Owner, Principal, Resource},
};
use postern_policy::{Facts, principals, resources_of, scopes_of_resource, visible, visible_in};
use postern_wire::{CatalogueEntry, CoordinatorMessage};

use crate::{
    Core,
    changes::{After, Changes},
};

/// What some devices are to be told.
#[derive(Debug, Default)]
pub(crate) struct News {
    devices: Vec<DeviceId>,
    put: Vec<CatalogueEntry>,
    removed: Vec<ResourceId>,
}

/// Of which resources principals may come to see more or less.
type Views = HashMap<Principal, BTreeSet<ResourceId>>;

fn entry(resource: &Resource) -> CatalogueEntry {
    CatalogueEntry {
        id: resource.id,
        name: resource.name.clone(),
        aliases: resource.aliases.clone(),
        addr: resource.addr,
        filter: resource.filter.clone(),
    }
}

impl Core {
    /// The resources that the device may see, as it sees them.
    pub(crate) fn catalogue_of(&self, device: DeviceId) -> Vec<CatalogueEntry> {
        let resources = visible(&self.state, device).into_iter();
        resources.filter_map(|id| self.state.resources.get(&id)).map(entry).collect()
    }

    /// What changes will be news to connected devices, once they are applied.
    pub(crate) fn catalogue_news(&self, changes: &Changes) -> Vec<News> {
        let after = After { state: &self.state, changes };
        let views = self.views(&after);
        let mut news: Vec<News> = Vec::new();
        let mut known: HashMap<[Vec<Principal>; 2], usize> = HashMap::new();
        for device in self.viewers(changes, &views) {
            let class = [self.class(&self.state, changes, device), self.class(&after, changes, device)];
            let at = *known.entry(class).or_insert_with_key(|[before, now]| {
                news.push(self.compare(&after, &views, before, now));
                news.len() - 1
            });
            news[at].devices.push(device);
        }
        news.retain(|news| !news.put.is_empty() || !news.removed.is_empty());
        news
    }

    /// After the changes were applied.
    pub(crate) fn tell_catalogues(&mut self, news: Vec<News>) {
        let revision = self.state.revision;
        for News { devices, put, removed } in news {
            for device in devices {
                let (put, removed) = (put.clone(), removed.clone());
                self.send(device, CoordinatorMessage::Catalogue { revision, put, removed });
            }
        }
    }

    fn views(&self, after: &After<'_>) -> Views {
        let mut views = Views::new();
        for change in after.changes.iter() {
            match change {
                Change::PutPolicy(policy) => {
                    views.entry(policy.principal).or_default().extend(after.resources_in(&policy.scope));
                }
                Change::RemovePolicy(id) => {
                    if let Some(policy) = self.state.policies.get(id) {
                        let resources = Facts::resources_in(&self.state, &policy.scope);
                        views.entry(policy.principal).or_default().extend(resources);
                    }
                }
                Change::PutResource(Resource { id, .. }) | Change::RemoveResource(id) => {
                    let (old, new) = (self.state.resources.get(id), after.resource(*id));
                    let seen = |resource: &Resource| (entry(resource), resource.tags.clone());
                    // Where it is, is not its viewers' to know.
                    if old.map(seen) == new.map(seen) {
                        continue;
                    }
                    let scopes: BTreeSet<_> = old.into_iter().chain(new).flat_map(scopes_of_resource).collect();
                    for (_, principal) in scopes.iter().flat_map(|scope| self.state.policy_set().policies_about(scope))
                    {
                        views.entry(principal).or_default().insert(*id);
                    }
                }
                _ => {}
            }
        }
        views
    }

    /// The connected devices that the changes can concern.
    fn viewers(&self, changes: &Changes, views: &Views) -> BTreeSet<DeviceId> {
        let mut viewers = BTreeSet::new();
        let mut add = |device: DeviceId| {
            if self.sessions.contains_key(&device) {
                viewers.insert(device);
            }
        };
        let of_user = |user| self.state.devices_of(Owner::User(user)).map(|device| device.id);
        for principal in views.keys() {
            match principal {
                Principal::User(user) => of_user(*user).for_each(&mut add),
                Principal::Group(group) => self.state.members_of(*group).flat_map(of_user).for_each(&mut add),
                Principal::Device(device) => add(*device),
                Principal::Everyone => self.sessions.keys().copied().for_each(&mut add),
            }
        }
        for change in changes.iter() {
            match change {
                Change::PutUser(user) => of_user(user.id).for_each(&mut add),
                Change::RemoveUser(user) | Change::AddMember(_, user) | Change::RemoveMember(_, user) => {
                    of_user(*user).for_each(&mut add);
                }
                Change::PutDevice(device) => add(device.id),
                _ => {}
            }
        }
        viewers
    }

    /// What a device is, as far as any policy speaks of it; nothing when it may reach nothing at all.
    fn class(&self, facts: &impl Facts, changes: &Changes, device: DeviceId) -> Vec<Principal> {
        let mut class = principals(facts, device).unwrap_or_default();
        class.retain(|principal| self.state.policy_set().speaks_of(*principal) || changes.speak_of(*principal));
        class
    }

    fn compare(&self, after: &After<'_>, views: &Views, before: &[Principal], now: &[Principal]) -> News {
        let viewed = before.iter().chain(now).filter_map(|principal| views.get(principal)).flatten().copied();
        let left = before.iter().filter(|principal| !now.contains(principal));
        let joined = now.iter().filter(|principal| !before.contains(principal));
        let shifted: Vec<_> = left.chain(joined).copied().collect();
        let shifted = resources_of(&self.state, &shifted);
        let resources: BTreeSet<_> = viewed.chain(shifted).collect();
        let mut news = News::default();
        for id in resources {
            let old = visible_in(&self.state, before, id).ok().map(entry);
            match visible_in(after, now, id).ok().map(entry) {
                Some(new) if old.as_ref() != Some(&new) => news.put.push(new),
                None if old.is_some() => news.removed.push(id),
                _ => {}
            }
        }
        news
    }
}
