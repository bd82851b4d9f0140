//! Who gains and who loses access when one state takes the place of another: computed, not sampled.
//!
//! Only what the changes touch is looked at, resource by resource. Users whom policies can't tell apart are one class, for which
//! the difference is worked out once; users and devices that policies of that resource name are looked at one by one.
//!
//! - `classes`: what the changes touch, and the classes

mod classes;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use classes::{Classes, Named, Principals, Side, Touch, Touched};
use postern_model::{
    DeviceId, GroupName, ResourceId, ResourceName, Timestamp, UserId, UserName,
    change::Change,
    record::{Owner, Principal},
};
use postern_policy::{Access, Facts, Term, difference, terms};

use crate::State;

/// More names than these are counted only.
const MOST_NAMES: usize = 100_000;
/// How many are named then.
const FEW_NAMES: usize = 20;

/// A difference of access, for all who share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Who.
    pub who: Who,
    /// To which resources.
    pub resources: Vec<ResourceName>,
    /// What they gain, and what they lose.
    pub differences: Vec<Difference>,
}

/// One thing that is gained or lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Which way.
    pub direction: Direction,
    /// Which ports, under which condition, and until when.
    pub term: Term,
}

/// Which way access changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// It was not open and will be.
    Gained,
    /// It was denied, though something opened it, and will not be.
    Lifted,
    /// It was open and will not be.
    Lost,
    /// It will be denied, though something opens it.
    Restricted,
}

impl From<postern_policy::Change> for Difference {
    fn from(change: postern_policy::Change) -> Self {
        let (direction, term) = match change {
            postern_policy::Change::Gained(term) => (Direction::Gained, term),
            postern_policy::Change::Lifted(term) => (Direction::Lifted, term),
            postern_policy::Change::Lost(term) => (Direction::Lost, term),
            postern_policy::Change::Restricted(term) => (Direction::Restricted, term),
        };
        Self { direction, term }
    }
}

/// What differs from one access to another.
pub(crate) fn differences(before: &Access, after: &Access) -> Vec<Difference> {
    difference(before, after).into_iter().map(Difference::from).collect()
}

/// Users and devices who share a difference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Who {
    /// The smallest group that all of the users are in (now or then), if there are several.
    pub group: Option<GroupName>,
    /// How many users that group has; without a group, how many there are at all.
    pub of: usize,
    /// How many users share it.
    pub users: usize,
    /// The users, but for very long lists.
    pub names: Vec<UserName>,
    /// Devices of nobody, and such of whose users not all devices share it.
    pub devices: Vec<String>,
}

/// The differences between two states, one of which came of the other by these changes.
pub(super) fn compare(before: &State, after: &State, changes: &[Change], now: Timestamp) -> Vec<Reach> {
    let (before, after) = (Side::new(before), Side::new(after));
    let touched = Touched::by(&before, &after, changes);
    if touched.resources.is_empty() {
        return Vec::new();
    }
    let classes = Classes::new(&before, &after);
    let service = after.state.devices.values().filter(|it| matches!(it.owner, Owner::Site(_)) && !it.revoked);
    let service = service.map(|it| it.id).collect();
    let comparison = Comparison { before, after, now, classes, touched, service };
    let mut rows: BTreeMap<(Vec<Difference>, Group), Vec<ResourceName>> = BTreeMap::new();
    for (resource, touch) in &comparison.touched.resources {
        for (differences, group) in comparison.of_resource(*resource, touch) {
            let name = comparison.sides().find_map(|state| state.resources.get(resource));
            let names = name.map(|resource| resource.name.clone());
            rows.entry((differences, group)).or_default().extend(names);
        }
    }
    let mut left = MOST_NAMES;
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.iter_mut().for_each(|(_, resources)| resources.sort());
    rows.sort_by(|((_, group), resources), ((_, other), others)| (resources, group).cmp(&(others, other)));
    let rows = rows.into_iter().map(|((differences, group), resources)| Reach {
        who: comparison.name(&group, &mut left),
        resources,
        differences,
    });
    rows.collect()
}

/// A set of users and devices, as small as it can be said.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Group {
    /// All classes but these,
    all_but: Option<Vec<usize>>,
    /// and these of them,
    classes: Vec<usize>,
    /// but not these users of theirs,
    except: Vec<UserId>,
    /// and these, beside them.
    users: Vec<UserId>,
    devices: Vec<DeviceId>,
}

struct Comparison<'a> {
    before: Side<'a>,
    after: Side<'a>,
    now: Timestamp,
    classes: Classes,
    touched: Touched,
    /// The devices of nobody that are not revoked.
    service: Vec<DeviceId>,
}

/// The differences of one resource, each with who shares it.
struct Rows<'a> {
    comparison: &'a Comparison<'a>,
    resource: ResourceId,
    /// Which row is whose; `None` where nothing differs.
    known: HashMap<(Principals, Principals), Option<usize>>,
    rows: Vec<(Vec<Difference>, Group)>,
}

impl Rows<'_> {
    /// Which row is that of who was and is these principals.
    fn at(&mut self, before: Principals, after: Principals) -> Option<usize> {
        let Self { comparison, resource, known, rows } = self;
        *known.entry((before, after)).or_insert_with_key(|(before, after)| {
            let before = comparison.access(comparison.before.state, before.as_ref(), *resource);
            let after = comparison.access(comparison.after.state, after.as_ref(), *resource);
            let found = differences(&before, &after);
            if found.is_empty() {
                return None;
            }
            let same = rows.iter().position(|(differences, _)| *differences == found);
            Some(same.unwrap_or_else(|| {
                rows.push((found, Group::default()));
                rows.len() - 1
            }))
        })
    }

    fn of(&mut self, before: Principals, after: Principals) -> Option<&mut Group> {
        let at = self.at(before, after)?;
        self.rows.get_mut(at).map(|(_, group)| group)
    }
}

impl<'a> Comparison<'a> {
    /// The later one first: what has a name there is called by that.
    fn sides(&self) -> impl Iterator<Item = &'a State> {
        [self.after.state, self.before.state].into_iter()
    }

    /// Who shares which difference.
    fn of_resource(&self, resource: ResourceId, touch: &Touch) -> Vec<(Vec<Difference>, Group)> {
        let named = Named { before: self.before.named(resource), after: self.after.named(resource) };
        let mut rows = Rows { comparison: self, resource, known: HashMap::new(), rows: Vec::new() };
        let each = named.before.iter().chain(&named.after);
        let users: BTreeSet<UserId> = each.clone().filter_map(|it| as_user(*it)).collect();
        let devices: BTreeSet<DeviceId> = each.filter_map(|it| as_device(*it)).collect();
        let apart = self.classes.apart(&named);
        for at in &apart {
            let (class, members) = &self.classes.all[*at];
            if !class.is_touched(touch) {
                continue;
            }
            if let Some(row) = rows.of(named.in_class(class, true), named.in_class(class, false)) {
                let is_named = |user: &&UserId| users.contains(user);
                let except: Vec<_> = members.iter().filter(is_named).copied().collect();
                if except.len() < members.len() {
                    row.classes.push(*at);
                    row.except.extend(except);
                }
            }
        }
        let is_for_everyone = touch.is_whole || touch.principals.contains(&Principal::Everyone);
        if is_for_everyone && let Some(row) = rows.of(named.everyone(true), named.everyone(false)) {
            let is_named = |it: &DeviceId| devices.contains(it);
            row.devices.extend(self.service.iter().filter(|it| !is_named(it)));
            if apart.len() < self.classes.all.len() {
                let is_apart = |user: &UserId| self.classes.of_user.get(user).is_none_or(|at| apart.contains(at));
                row.except.extend(users.iter().filter(|user| !is_apart(user)));
                row.all_but = Some(apart.into_iter().collect());
            }
        }
        for user in users {
            let Some(at) = self.classes.of_user.get(&user) else { continue };
            let (class, _) = &self.classes.all[*at];
            if !class.is_touched(touch) && !touch.principals.contains(&Principal::User(user)) {
                continue;
            }
            if let Some(row) = rows.of(named.of_user(class, user, true), named.of_user(class, user, false)) {
                row.users.push(user);
            }
        }
        for device in devices {
            let of_user = match self.after.state.devices.get(&device).map(|device| device.owner) {
                Some(Owner::User(user)) => self.classes.of_user.get(&user).map(|at| {
                    let (class, _) = &self.classes.all[*at];
                    rows.at(named.of_user(class, user, true), named.of_user(class, user, false))
                }),
                _ => None,
            };
            let found = rows.at(self.of_device(&named, device, true), self.of_device(&named, device, false));
            if let (Some(at), true) = (found, of_user != Some(found)) {
                rows.rows[at].1.devices.push(device);
            }
        }
        let mut rows = rows.rows;
        rows.retain(|(_, group)| *group != Group::default());
        for (_, group) in &mut rows {
            group.except.sort_unstable();
            group.devices.sort_unstable();
        }
        rows
    }

    fn access(&self, state: &State, principals: Option<&Vec<Principal>>, resource: ResourceId) -> Access {
        principals.map(|principals| terms(state, principals, resource, self.now)).unwrap_or_default()
    }

    /// What a device is to the policies that speak of the resource, the most exact first; `None` when it may reach nothing at all.
    fn of_device(&self, named: &Named, device: DeviceId, is_before: bool) -> Principals {
        let state = if is_before { self.before.state } else { self.after.state };
        let record = state.devices.get(&device).filter(|device| !device.revoked)?;
        let mut principals = match record.owner {
            Owner::User(user) => {
                named.of_user(&self.classes.all[*self.classes.of_user.get(&user)?].0, user, is_before)?
            }
            Owner::Site(_) => named.everyone(is_before)?,
        };
        principals.insert(0, Principal::Device(device));
        Some(principals)
    }

    fn name(&self, group: &Group, left: &mut usize) -> Who {
        let except: HashSet<_> = group.except.iter().collect();
        let size = |at: &usize| self.classes.all[*at].1.len();
        // Sorted, since it comes of a set.
        let but = group.all_but.as_ref();
        let others = but
            .into_iter()
            .flat_map(|but| (0..self.classes.all.len()).filter(move |at| but.binary_search(at).is_err()));
        let classes = group.classes.iter().copied().chain(others);
        let members = classes.flat_map(|at| &self.classes.all[at].1).filter(|it| !except.contains(it));
        let rest = but.map_or(0, |but| self.classes.of_user.len() - but.iter().map(size).sum::<usize>());
        let whole = group.classes.iter().map(size).sum::<usize>() + rest;
        let count = whole - group.except.len() + group.users.len();
        let shown = if count > *left { FEW_NAMES } else { count };
        *left -= shown.min(*left);
        let users: Vec<UserId> = members.chain(&group.users).take(shown).copied().collect();
        let (name, of) = if shown == count { self.smallest_group(&users) } else { (None, self.classes.active) };
        let record = |user: &UserId| self.sides().find_map(|state| state.users.get(user));
        let mut names: Vec<_> = users.iter().filter_map(record).map(|user| user.name.clone()).collect();
        names.sort();
        let devices = group.devices.iter().filter_map(|id| self.after.state.devices.get(id)).map(|it| it.name.clone());
        let mut devices: Vec<_> = devices.collect();
        devices.sort();
        Who { group: name, of, users: count, names, devices }
    }

    /// The smallest group with all these users, and how many it has.
    fn smallest_group(&self, users: &[UserId]) -> (Option<GroupName>, usize) {
        let total = self.classes.active;
        let [first, _, ..] = users else { return (None, total) };
        let candidates = self.sides().flat_map(|state| {
            let groups = Facts::groups_of(state, *first)
                .into_iter()
                .filter(|id| users.iter().all(|user| state.is_member(*id, *user)));
            let named =
                groups.filter_map(|id| Some((state.members_of(id).count(), state.groups.get(&id)?.name.clone())));
            named.collect::<Vec<_>>()
        });
        match candidates.min() {
            Some((of, name)) => (Some(name), of),
            None => (None, total),
        }
    }
}

fn as_user(principal: Principal) -> Option<UserId> {
    match principal {
        Principal::User(user) => Some(user),
        _ => None,
    }
}

fn as_device(principal: Principal) -> Option<DeviceId> {
    match principal {
        Principal::Device(device) => Some(device),
        _ => None,
    }
}
