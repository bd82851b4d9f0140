//! Catalogues: which resources a device may see, and what a batch changes of that.
//!
//! What a connected node was told is what is visible in the state as it is applied. So nothing is kept per session: the
//! states before and after a batch say what is news. Devices that policies can't tell apart hear the same, which is worked
//! out once for all of them, and only for the resources that the batch is about.

use std::collections::{BTreeSet, HashMap};

use postern_model::{
    DeviceId, ResourceId, Timestamp,
    change::Change,
    record::{Owner, Principal, Resource},
};
use postern_policy::{Facts, allowed, principals, visible};
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
    pub(crate) fn catalogue_of(&self, device: DeviceId, now: Timestamp) -> Vec<CatalogueEntry> {
        let resources = visible(&self.state, device, now).into_iter();
        resources.filter_map(|id| self.state.resources.get(&id)).map(entry).collect()
    }

    /// What changes will be news to connected devices, once they are applied.
    pub(crate) fn catalogue_news(&self, changes: &Changes) -> Vec<News> {
        let views = self.views(changes);
        let after = After { state: &self.state, changes };
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

    fn views(&self, changes: &Changes) -> Views {
        let mut views = Views::new();
        for change in changes.iter() {
            match change {
                Change::PutPolicy(policy) => drop(views.entry(policy.principal).or_default().insert(policy.resource)),
                Change::RemovePolicy(id) => {
                    if let Some(policy) = self.state.policies.get(id) {
                        views.entry(policy.principal).or_default().insert(policy.resource);
                    }
                }
                // Where it is, is not its viewers' to know.
                Change::PutResource(new) if self.state.resources.get(&new.id).map(entry) == Some(entry(new)) => {}
                Change::PutResource(Resource { id, .. }) | Change::RemoveResource(id) => {
                    for (_, principal) in self.state.policy_set().policies_about(*id) {
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
        class.retain(|principal| self.state.policy_set().allows(*principal) || changes.allow(*principal));
        class
    }

    fn compare(&self, after: &After<'_>, views: &Views, before: &[Principal], now: &[Principal]) -> News {
        let viewed = before.iter().chain(now).filter_map(|principal| views.get(principal)).flatten().copied();
        let left = before.iter().filter(|principal| !now.contains(principal));
        let joined = now.iter().filter(|principal| !before.contains(principal));
        let shifted = left.chain(joined).flat_map(|principal| self.state.resources_of(*principal));
        let resources: BTreeSet<_> = viewed.chain(shifted).collect();
        let mut news = News::default();
        for id in resources {
            let old = allowed(&self.state, before, id).ok().map(|(resource, _)| entry(resource));
            match allowed(after, now, id).ok().map(|(resource, _)| entry(resource)) {
                Some(new) if old.as_ref() != Some(&new) => news.put.push(new),
                None if old.is_some() => news.removed.push(id),
                _ => {}
            }
        }
        news
    }
}
